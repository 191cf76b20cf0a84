"""Draws for initial states: on the CPU and in float64, so that a seed gives the same ones on every device."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from hamflow.errors import InputError, is_number

Range = tuple[float, float]


def apart(seed: int) -> torch.Generator:
    """A generator whose draws have nothing to do with those of ``torch.Generator().manual_seed(seed)``."""
    (child,) = np.random.SeedSequence(seed).spawn(1)
    return torch.Generator().manual_seed(int(child.generate_state(1, np.uint64)[0]))


def uniform(name: str, limits: Any, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    """Uniform between two limits, of that shape.

    Raises:
        InputError: ``limits`` is not a pair of finite numbers in order.
    """
    if not isinstance(limits, (tuple, list)) or len(limits) != 2 or not all(map(is_number, limits)):
        raise InputError(f"{name} = {limits!r}, expected a pair (low, high)")
    low, high = map(float, limits)
    if not -float("inf") < low <= high < float("inf"):
        raise InputError(f"{name} = {limits!r}, expected finite numbers with low <= high")
    return low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)


def directions(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    """Unit vectors along the last dimension, uniform on the sphere."""
    return torch.nn.functional.normalize(torch.randn(shape, generator=generator, dtype=torch.float64), dim=-1)


def on_shells(n: int, dim: int, radius: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """States (q, p), each (n, dim), on spheres of phase space whose radius is uniform in a range.

    Raises:
        InputError: ``radius`` is not a pair of numbers in order.
    """
    size = uniform("radius", radius, (n, 1), generator)
    q, p = (size * directions((n, 2 * dim), generator)).chunk(2, -1)
    return q, p
