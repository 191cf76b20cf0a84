"""The sizes of what is in the data: units for networks and for misfits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hamflow.errors import InputError

#: Friction at the start, in units of the data's own rate.
FRICTION = 0.1


@dataclass(frozen=True)
class Units:
    """Sizes of the derivatives, in which misfits are measured: of dq/dt and of dp/dt or dv/dt, each (d,)."""

    velocity: Tensor
    force: Tensor


def sizes(x: Tensor, *, centred: bool = True) -> Tensor:
    """The root mean square of each column of (n, d), about its mean or about zero; (d,), all positive.

    A column that does not move has the size of the others, so that the unit of the data never matters.
    """
    # Squares of numbers in SI units leave float32.
    wide = x.detach().cpu().double()
    size = (wide - wide.mean(0) if centred else wide).square().mean(0).sqrt()
    moving = size > 4 * torch.finfo(x.dtype).eps * wide.abs().amax(0)
    return torch.where(moving, size, size[moving].mean() if moving.any() else 1.0).to(x)


def check_one_a_row(name: str, value: Tensor, q: Tensor, t: Tensor) -> None:
    """Raise :class:`InputError` unless a function of states and times gave one number a row.

    Sums hide a time that broadcasts against the wrong dimension: one number a row, or nothing is learned right.
    """
    if value.shape != q.shape[:-1]:
        raise InputError(
            f"{name} returned shape {tuple(value.shape)} for q and p of shape {tuple(q.shape)} and times of shape "
            f"{tuple(t.shape)}, expected {tuple(q.shape[:-1])}: a time broadcasts against (*batch, d)"
        )
