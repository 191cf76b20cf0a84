"""Integrating the momentum out exactly, where it has one or two dimensions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hamflow.errors import InputError, check_positive

_NODES, _MAX_NODES = 65, 1025  # nodes a dimension of the first grid and of the last
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

    A coarse grid over the box finds where the integrand lives; the box shrinks to that region and the spacing is halved
    until the result moves by less than the tolerance. For smooth integrands that vanish at the edge the rule converges
    faster than any power of the spacing.

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
    values, errors = [], []
    for point in q:
        value, error = _integrate_one(log_joint, point, lower, upper, tolerance)
        values.append(value)
        errors.append(error)
    return Quadrature(torch.stack(values), torch.stack(errors))


def _integrate_one(
    log_joint: Callable[[Tensor, Tensor], Tensor],
    point: Tensor,
    lower: Tensor,
    upper: Tensor,
    tolerance: float,
) -> tuple[Tensor, Tensor]:
    def grid(n: int) -> tuple[Tensor, Tensor, Tensor]:
        axes = [torch.linspace(0, 1, n, dtype=point.dtype, device=point.device) * (b - a) + a
                for a, b in zip(lower, upper, strict=True)]  # fmt: skip
        p = torch.cartesian_prod(*axes).reshape(-1, len(point))
        log_cell = ((upper - lower) / (n - 1)).log().sum()
        values = torch.cat([log_joint(point.expand_as(part), part) for part in p.split(1 << 16)])
        return p, values, torch.logsumexp(values, 0) + log_cell

    for _ in range(2):
        p, values, _ = grid(_NODES)
        alive = p[values > values.max() - _DEPTH]
        margin = 2 * (upper - lower) / (_NODES - 1)
        lower, upper = alive.min(0).values - margin, alive.max(0).values + margin
    result, n = grid(_NODES)[2], _NODES
    while True:
        n = 2 * n - 1
        finer = grid(n)[2]
        error = (finer - result).abs()
        if error <= tolerance:
            return finer, error
        if 2 * n - 1 > _MAX_NODES:
            return finer * torch.nan, error
        result = finer
