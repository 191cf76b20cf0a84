"""What ought to stay constant along a rollout: energy, momentum, angular momentum."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hamflow.errors import InputError, check_positive

#: How many standard errors from zero make a trend significant.
SIGNIFICANT = 3.0


@dataclass(frozen=True)
class Trend:
    """The trend of a quantity that ought to be constant.

    Attributes:
        slope: its change per unit of time, by least squares, the mean over trajectories.
        standard_error: of that mean: over trajectories, or for a single one over ten blocks of time; and of rounding.
        largest: the largest distance from its first value.
    """

    slope: float
    standard_error: float
    largest: float

    @property
    def significant(self) -> bool:
        """Whether the slope is more than three standard errors from zero."""
        return abs(self.slope) > SIGNIFICANT * self.standard_error


def energy_drift(values: Tensor, dt: float) -> Trend:
    r"""The trend of an energy, or of another invariant, along rollouts.

    A symplectic step leaves the energy oscillating around a constant, so the slope of a line through it is zero within
    its error. Oscillations are averaged within a hundred blocks of time first. Rounding walks at random, which has a
    slope of its own: for n values of size E over the time T, :math:`4 \epsilon E \sqrt n / T` of it is counted into the
    standard error.

    Args:
        values: the energy at evenly spaced times, (time, *batch), at least 20 times.
        dt: the time between two values.

    Raises:
        InputError: there are too few values.

    Example:
        >>> import torch, hamflow as hf
        >>> round(hf.energy_drift(1 + 0.01 * torch.arange(100.0), dt=0.5).slope, 6)
        0.02
    """
    n = len(values)
    if n < 20:
        raise InputError(f"values has {n} times, expected at least 20 to see a trend")
    flat = values.detach().double().reshape(n, -1)
    blocks = min(100, n // 2)
    length = n // blocks
    means = flat[: blocks * length].reshape(blocks, length, -1).mean(1)
    time = dt * length * torch.arange(blocks, dtype=means.dtype, device=means.device)
    slopes = _slopes(time, means)
    if flat.shape[1] == 1:
        # One trajectory has no spread: the slopes of its tenths have, and the whole is ten times as long.
        parts = min(10, blocks // 2)
        tenths = [_slopes(a, b) for a, b in zip(time.chunk(parts), means.chunk(parts), strict=True) if len(a) > 1]
        spread = torch.cat(tenths)
        error = float(spread.std()) / len(spread) ** 1.5
    else:
        error = float(slopes.std()) / len(slopes) ** 0.5
    accuracy = torch.finfo(values.dtype).eps if values.is_floating_point() else 0.0
    rounding = 4 * accuracy * float(flat.abs().max()) / (n**0.5 * dt)
    return Trend(float(slopes.mean()), math.hypot(error, rounding), float((flat - flat[:1]).abs().max()))


def _slopes(time: Tensor, values: Tensor) -> Tensor:
    centred = time - time.mean()
    slopes: Tensor = centred @ (values - values.mean(0)) / (centred**2).sum()
    return slopes


def total_momentum(p: Tensor, *, space: int) -> Tensor:
    r"""The total momentum :math:`\sum_i p_i` of bodies, (*batch, bodies * space) -> (*batch, space).

    Args:
        p: momenta, (*batch, bodies * space), body after body.
        space: the number of components a body has.

    Raises:
        InputError: the last dimension is no multiple of ``space``.

    Example:
        >>> import torch, hamflow as hf
        >>> hf.total_momentum(torch.tensor([1.0, 0.0, 2.0, 3.0]), space=2)
        tensor([3., 3.])
    """
    return _bodies("p", p, space).sum(-2)


def angular_momentum(q: Tensor, p: Tensor, *, space: int) -> Tensor:
    r"""The total angular momentum :math:`\sum_i q_i \times p_i` of bodies in two or three dimensions.

    Args:
        q: positions, (*batch, bodies * space), body after body.
        p: momenta, of the same shape.
        space: 2 or 3.

    Returns:
        (*batch,) in the plane, (*batch, 3) in space.

    Raises:
        InputError: the last dimension is no multiple of ``space``, or that is neither 2 nor 3.

    Example:
        >>> import torch, hamflow as hf
        >>> hf.angular_momentum(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0]), space=2)
        tensor(2.)
    """
    if space not in (2, 3):
        raise InputError(f"space = {space!r}, expected 2 or 3")
    a, b = _bodies("q", q, space), _bodies("p", p, space)
    if space == 2:
        return (a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]).sum(-1)
    return torch.linalg.cross(a, b).sum(-2)


def _bodies(name: str, x: Tensor, space: int) -> Tensor:
    check_positive("space", space, integer=True)
    if x.shape[-1] % space:
        raise InputError(f"{name} has shape {tuple(x.shape)}, expected (*batch, bodies * {space})")
    return x.unflatten(-1, (-1, space))
