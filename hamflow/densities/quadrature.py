"""Integrating the momentum out exactly, where it has one or two dimensions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hamflow.densities.peaks import Peaks
from hamflow.errors import InputError, check_positive

_NODES = 6  # Gauss-Legendre nodes a dimension of a cell
_FIRST_CELLS = 8  # cells a dimension at the start
_MAX_CELLS = {1: 1000, 2: 8000}  # for each point
_ROUNDS = 30
_WIDEST = 2.0  # standard deviations of a peak that half a cell may span where it meets the peak
_REACH = 5.0  # standard deviations around a peak where cells are as small as that
_ROWS = 256  # points at a time
_CHUNK = 1 << 16  # evaluations at once

LogJoint = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Quadrature:
    """Log p of shape (n,), NaN where it did not settle, and how much halving the cells last changed it, (n,)."""

    log_prob: Tensor
    error: Tensor


@torch.no_grad()
def integrate_momentum(
    log_joint: LogJoint,
    q: Tensor,
    lower: Tensor,
    upper: Tensor,
    *,
    peaks: Peaks | None = None,
    tolerance: float = 1e-4,
) -> Quadrature:
    r"""The marginal :math:`\log p(q) = \log \int p(q, p)\, \mathrm dp` by adaptive cubature, d = 1 or 2.

    The box is cut into cells with a Gauss-Legendre rule in each. Where halving a cell changes its part of the
    integral, it is halved again, until the sum of all last changes is under the tolerance. No rule sees what falls
    between all of its nodes: cells that meet one of the ``peaks`` are halved until they resolve it, whatever their
    nodes say.

    Args:
        log_joint: (m, d), (m, d) -> (m,).
        q: the points, (n, d).
        lower: the lower corner (d,) of a box that holds the momentum's mass.
        upper: the upper corner, (d,).
        peaks: where the mass may be narrower than an eighth of the box, see :func:`find_peaks`.
        tolerance: the largest sum of last changes, in nats.

    Raises:
        InputError: d is more than 2.

    References:
        Genz and Malik (1980), Journal of Computational and Applied Mathematics 6, 295.

    Example:
        >>> import torch
        >>> from hamflow.densities import integrate_momentum
        >>> box = torch.full((1,), 9.0, dtype=torch.float64)
        >>> found = integrate_momentum(lambda q, p: -((q**2 + p**2) / 2).sum(-1), torch.zeros(1, 1).double(), -box, box)
        >>> round(found.log_prob.exp().item(), 4)  # the root of 2 pi
        2.5066
    """
    d = q.shape[-1]
    if d > 2:
        raise InputError(f"q has {d} columns, expected 1 or 2: quadrature over more momenta is out of reach")
    check_positive("tolerance", tolerance)
    parts = []
    for rows in torch.arange(len(q), device=q.device).split(_ROWS):
        nearby = None if peaks is None else Peaks(peaks.loc[rows], peaks.factor[rows], peaks.log_mass[rows])
        parts.append(_Cells(log_joint, q[rows], lower, upper, nearby).refine(tolerance))
    if not parts:
        return Quadrature(q.new_empty(0), q.new_empty(0))
    log_prob, error = zip(*parts, strict=True)
    return Quadrature(torch.cat(log_prob), torch.cat(error))


class _Cells:
    # The cells of all points in one list. ``row`` says whose a cell is, ``level`` how often the first cell was halved,
    # ``value`` is the log of its part of the integral and ``change`` the log of the last change of that.

    def __init__(self, log_joint: LogJoint, q: Tensor, lower: Tensor, upper: Tensor, peaks: Peaks | None) -> None:
        self.log_joint, self.q, self.peaks = log_joint, q, peaks
        n, d = q.shape
        self.half = (upper - lower) / (2 * _FIRST_CELLS)
        axis = torch.arange(_FIRST_CELLS, dtype=q.dtype, device=q.device) * 2 + 1
        first = lower + self.half * torch.cartesian_prod(*[axis] * d).reshape(-1, d)
        self.row = torch.arange(n, device=q.device).repeat_interleave(len(first))
        self.centre = first.repeat(n, 1)
        self.level = torch.zeros_like(self.row)
        nodes, weights = (torch.as_tensor(a).to(q) for a in np.polynomial.legendre.leggauss(_NODES))
        self.nodes = torch.cartesian_prod(*[nodes] * d).reshape(-1, d)
        self.log_weights = torch.cartesian_prod(*[weights] * d).reshape(len(self.nodes), -1).log().sum(-1)
        corner = torch.tensor([-0.5, 0.5], dtype=q.dtype, device=q.device)
        self.corners = torch.cartesian_prod(*[corner] * d).reshape(-1, d)
        self.value = self._integrate(self.row, self.centre, self.level)
        self.change = self.value.clone()  # nothing is known of it yet

    def refine(self, tolerance: float) -> tuple[Tensor, Tensor]:
        n, d = self.q.shape
        unresolved = self._unresolved(self.row, self.centre, self.level)
        for _ in range(_ROUNDS):
            total, error, count = self._totals()
            share = math.log(tolerance / 2) + total - count.log()
            wanted = unresolved | ((self.change > share[self.row]) & (error > tolerance)[self.row])
            wanted &= (count < _MAX_CELLS[d])[self.row]
            if not wanted.any():
                break
            unresolved = self._halve(wanted, unresolved)
        total, error, _ = self._totals()
        open_cells = torch.zeros(n, dtype=torch.bool, device=self.q.device).index_fill(0, self.row[unresolved], True)
        settled = (error <= tolerance) & ~open_cells
        return torch.where(settled, total, torch.nan), error

    def _halve(self, wanted: Tensor, unresolved: Tensor) -> Tensor:
        # The cells ``wanted`` give way to their halves; returns which of all cells do not resolve a peak.
        row, centre, level = self.row[wanted], self.centre[wanted], self.level[wanted] + 1
        children = len(self.corners)
        centre = (centre.unsqueeze(1) + self._half(level - 1).unsqueeze(1) * self.corners).flatten(0, 1)
        row, level = row.repeat_interleave(children), level.repeat_interleave(children)
        value = self._integrate(row, centre, level)
        together = value.reshape(-1, children).logsumexp(-1)
        low, high = torch.minimum(together, self.value[wanted]), torch.maximum(together, self.value[wanted])
        # log |e^high - e^low|, in equal parts to the halves
        change = high + torch.log1p(-(low - high).exp()) - math.log(children)
        change = torch.where(high == -torch.inf, -torch.inf, change)
        kept = ~wanted
        self.row, self.level = torch.cat((self.row[kept], row)), torch.cat((self.level[kept], level))
        self.centre, self.value = torch.cat((self.centre[kept], centre)), torch.cat((self.value[kept], value))
        self.change = torch.cat((self.change[kept], change.repeat_interleave(children)))
        return torch.cat((unresolved[kept], self._unresolved(row, centre, level)))

    def _totals(self) -> tuple[Tensor, Tensor, Tensor]:
        # Of each point the log integral, the sum of last changes relative to it, and the number of cells.
        top = torch.full_like(self.q[:, 0], -torch.inf).scatter_reduce(0, self.row, self.value, "amax")
        top = top.nan_to_num(neginf=0.0)
        mass = torch.zeros_like(top).index_add(0, self.row, (self.value - top[self.row]).exp())
        moved = torch.zeros_like(top).index_add(0, self.row, (self.change - top[self.row]).exp())
        return mass.log() + top, moved / mass, torch.bincount(self.row, minlength=len(top)).to(top)

    def _half(self, level: Tensor) -> Tensor:
        return self.half * torch.exp2(-level.to(self.half)).unsqueeze(-1)

    def _integrate(self, row: Tensor, centre: Tensor, level: Tensor) -> Tensor:
        parts = []
        size = max(1, _CHUNK // len(self.nodes))
        for r, c, h in zip(row.split(size), centre.split(size), self._half(level).split(size), strict=True):
            p = c.unsqueeze(1) + h.unsqueeze(1) * self.nodes
            values = self.log_joint(self.q[r].unsqueeze(1).expand_as(p).flatten(0, 1), p.flatten(0, 1))
            parts.append(torch.logsumexp(values.reshape(p.shape[:-1]) + self.log_weights, -1) + h.log().sum(-1))
        return torch.cat(parts)

    def _unresolved(self, row: Tensor, centre: Tensor, level: Tensor) -> Tensor:
        # Which cells meet a peak that is narrower than they are, in the coordinates where the peak is a unit ball.
        if self.peaks is None:
            return torch.zeros_like(row, dtype=torch.bool)
        found = []
        size = max(1, _CHUNK // self.peaks.loc.shape[1])
        for r, c, h in zip(row.split(size), centre.split(size), self._half(level).split(size), strict=True):
            factor = self.peaks.factor[r]
            extent = (factor.abs() @ h[:, None, :, None]).squeeze(-1)
            distance = (factor @ (c.unsqueeze(1) - self.peaks.loc[r]).unsqueeze(-1)).squeeze(-1).abs()
            meets = (distance <= extent + _REACH).all(-1) & (self.peaks.log_mass[r] > -torch.inf)
            found.append((meets & (extent.amax(-1) > _WIDEST)).any(-1))
        return torch.cat(found)
