"""Integrating the momentum out exactly, where it has one or two dimensions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from hamflow.errors import InputError, check_positive

_SEARCH = (65, 33)  # nodes a dimension of the grids that look for the mass
_NODES, _MAX_NODES = 17, 1025  # nodes a dimension of the first grid that is summed and of the last
_CHUNK = 1 << 16  # evaluations at once
_DEPTH = 30.0  # log units under the peak beyond which the integrand is left out: 1e-13 of it


@dataclass(frozen=True)
class Quadrature:
    """Log p of shape (n,), NaN where it did not settle, and how much halving the grid spacing last changed it, (n,)."""

    log_prob: Tensor
    error: Tensor


@torch.no_grad()
def integrate_momentum(
    log_joint: Callable[[Tensor, Tensor], Tensor],
    q: Tensor,
    lower: Tensor,
    upper: Tensor,
    *,
    tolerance: float = 1e-4,
) -> Quadrature:
    r"""The marginal :math:`\log p(q) = \log \int p(q, p)\, \mathrm dp` by the trapezoidal rule, d = 1 or 2.

    A coarse grid over the box finds where the integrand of each point lives; its box shrinks to that region and the
    spacing is halved until the result moves by less than the tolerance. For smooth integrands that vanish at the edge
    the rule converges faster than any power of the spacing.

    Args:
        log_joint: (m, d), (m, d) -> (m,).
        q: the points, (n, d).
        lower: the lower corner (d,) of a box that holds the momentum's mass.
        upper: the upper corner, (d,).
        tolerance: the largest change at the last halving, in nats.

    Raises:
        InputError: d is more than 2.

    References:
        Trefethen and Weideman (2014), SIAM Review 56, 385.
    """
    d = q.shape[-1]
    if d > 2:
        raise InputError(f"q has {d} columns, expected 1 or 2: quadrature over more momenta is out of reach")
    check_positive("tolerance", tolerance)
    lower, upper = lower.expand_as(q), upper.expand_as(q)
    for n in _SEARCH:
        lower, upper = _shrink(log_joint, q, lower, upper, n)
    n = _NODES
    result = _trapezoid(log_joint, q, lower, upper, n)
    error = torch.full_like(result, torch.inf)
    left = torch.arange(len(q), device=q.device)
    while len(left) and 2 * n - 1 <= _MAX_NODES:
        n = 2 * n - 1
        finer = _trapezoid(log_joint, q[left], lower[left], upper[left], n)
        error[left], result[left] = (finer - result[left]).abs(), finer
        left = left[error[left] > tolerance]
    result[left] = torch.nan
    return Quadrature(result, error)


def _grid(lower: Tensor, upper: Tensor, n: int) -> Tensor:
    # n nodes a dimension between the corners (m, d) of m boxes: (m, n^d, d).
    axis = torch.linspace(0, 1, n, dtype=lower.dtype, device=lower.device)
    unit = torch.cartesian_prod(*[axis] * lower.shape[-1]).reshape(-1, lower.shape[-1])
    return lower.unsqueeze(1) + unit * (upper - lower).unsqueeze(1)


def _evaluate(log_joint: Callable[[Tensor, Tensor], Tensor], q: Tensor, p: Tensor) -> Tensor:
    # (m, d) and (m, n, d) -> (m, n).
    pairs = zip(q.unsqueeze(1).expand_as(p).flatten(0, 1).split(_CHUNK), p.flatten(0, 1).split(_CHUNK), strict=True)
    return torch.cat([log_joint(*pair) for pair in pairs]).reshape(p.shape[:-1])


def _parts(n: int, d: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    # As many points at a time as bound the memory.
    size = max(1, _CHUNK // n**d)
    return zip(*(tensor.split(size) for tensor in tensors), strict=True)


def _shrink(
    log_joint: Callable[[Tensor, Tensor], Tensor], q: Tensor, lower: Tensor, upper: Tensor, n: int
) -> tuple[Tensor, Tensor]:
    corners = []
    for point, low, high in _parts(n, q.shape[-1], q, lower, upper):
        p = _grid(low, high, n)
        values = _evaluate(log_joint, point, p)
        alive = (values > values.max(-1, keepdim=True).values - _DEPTH).unsqueeze(-1)
        margin = 2 * (high - low) / (n - 1)
        corners.append((p.where(alive, torch.inf).amin(1) - margin, p.where(alive, -torch.inf).amax(1) + margin))
    lowest, highest = zip(*corners, strict=True)
    return torch.cat(lowest), torch.cat(highest)


def _trapezoid(
    log_joint: Callable[[Tensor, Tensor], Tensor], q: Tensor, lower: Tensor, upper: Tensor, n: int
) -> Tensor:
    # The integrand vanishes at the edge, so all nodes count alike.
    parts = [
        torch.logsumexp(_evaluate(log_joint, point, _grid(low, high, n)), -1) + ((high - low) / (n - 1)).log().sum(-1)
        for point, low, high in _parts(n, q.shape[-1], q, lower, upper)
    ]
    return torch.cat(parts)
