"""Reproducible blocks of random code that leave the caller's random state alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from hamflow.errors import check_seed


@contextmanager
def seeded(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Run a block from ``seed`` on the CPU and ``device``, then put both random states back.

    ``torch.manual_seed`` would reseed every accelerator of the machine, also those whose state nobody put aside.
    """
    device = torch.device(device)
    cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if cuda else []):
        torch.default_generator.manual_seed(seed)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def random_generator(seed: int | None, device: torch.device | str = "cpu") -> torch.Generator | None:
    """A generator on ``device`` from ``seed``; None, the device's own state, for None.

    Raises:
        InputError: the seed is not a whole number from 0 to 2^32 - 1.
    """
    if seed is None:
        return None
    check_seed("seed", seed)
    return torch.Generator(device=device).manual_seed(int(seed))
