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
_MAX_CELLS = {1: 1000, 2: 16000}  # for each point
_MAX_LEVEL = 20  # how often a first cell may be halved
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
    # ``place`` where it stands among all cells of its level, ``value`` is the log of its part of the integral and
    # ``change`` the log of the last change of that.

    def __init__(self, log_joint: LogJoint, q: Tensor, lower: Tensor, upper: Tensor, peaks: Peaks | None) -> None:
        self.log_joint, self.q, self.peaks = log_joint, q, peaks
        n, d = q.shape
        self.lower, self.size = lower, (upper - lower) / _FIRST_CELLS
        axis = torch.arange(_FIRST_CELLS, device=q.device)
        first = torch.cartesian_prod(*[axis] * d).reshape(-1, d)
        self.row = torch.arange(n, device=q.device).repeat_interleave(len(first))
        self.place = first.repeat(n, 1)
        self.level = torch.zeros_like(self.row)
        nodes, weights = (torch.as_tensor(a).to(q) for a in np.polynomial.legendre.leggauss(_NODES))
        self.nodes = torch.cartesian_prod(*[nodes] * d).reshape(-1, d)
        self.log_weights = torch.cartesian_prod(*[weights] * d).reshape(len(self.nodes), -1).log().sum(-1)
        self.corners = torch.cartesian_prod(*[torch.arange(2, device=q.device)] * d).reshape(-1, d)
        self.value = self._integrate(self.row, self.place, self.level)
        self.change = self.value.clone()  # nothing is known of it yet

    def refine(self, tolerance: float) -> tuple[Tensor, Tensor]:
        n, d = self.q.shape
        coarse = self._coarse(self.row, self.place, self.level)
        while True:
            total, error, count = self._totals()
            share = math.log(tolerance / 2) + total - count.log()
            unresolved = coarse | self._beside_finer(share)
            wanted = unresolved | ((self.change > share[self.row]) & (error > tolerance)[self.row])
            wanted &= (count < _MAX_CELLS[d])[self.row] & (self.level < _MAX_LEVEL)
            if not wanted.any():
                break
            coarse = self._halve(wanted, coarse)
        open_cells = torch.zeros(n, dtype=torch.bool, device=self.q.device).index_fill(0, self.row[unresolved], True)
        settled = (error <= tolerance) & ~open_cells
        return torch.where(settled, total, torch.nan), error

    def _halve(self, wanted: Tensor, coarse: Tensor) -> Tensor:
        # The cells ``wanted`` give way to their halves; returns which of all cells are too coarse for a peak.
        children = len(self.corners)
        place = (2 * self.place[wanted].unsqueeze(1) + self.corners).flatten(0, 1)
        row, level = (x[wanted].repeat_interleave(children) for x in (self.row, self.level + 1))
        value = self._integrate(row, place, level)
        together = value.reshape(-1, children).logsumexp(-1)
        low, high = torch.minimum(together, self.value[wanted]), torch.maximum(together, self.value[wanted])
        # log |e^high - e^low|, in equal parts to the halves
        change = high + torch.log1p(-(low - high).exp()) - math.log(children)
        change = torch.where(high == -torch.inf, -torch.inf, change)
        kept = ~wanted
        self.row, self.level = torch.cat((self.row[kept], row)), torch.cat((self.level[kept], level))
        self.place, self.value = torch.cat((self.place[kept], place)), torch.cat((self.value[kept], value))
        self.change = torch.cat((self.change[kept], change.repeat_interleave(children)))
        return torch.cat((coarse[kept], self._coarse(row, place, level)))

    def _beside_finer(self, share: Tensor) -> Tensor:
        # Which cells lie beside a cell with mass in it that is a quarter of their size or less: a ridge that was found
        # on one side of their common face goes on to the other, where a larger cell may not see it.
        found = torch.zeros_like(self.row, dtype=torch.bool)
        matters = self.value > share[self.row]
        for level in range(int(self.level.max()) - 1):
            fine, here = matters & (self.level >= level + 2), self.level == level
            if not (fine.any() and here.any()):
                continue
            moves = torch.eye(self.place.shape[1], dtype=torch.long, device=self.row.device)
            beside = self.place[fine].unsqueeze(1) + torch.cat((moves, -moves))
            beside = beside >> (self.level[fine] - level)[:, None, None]
            found[here] = torch.isin(
                self._key(self.row[here], self.place[here]), self._key(self.row[fine].unsqueeze(1), beside).unique()
            )
        return found

    @staticmethod
    def _key(row: Tensor, place: Tensor) -> Tensor:
        # One number for a place of a given level; one to the left of the box is nobody's.
        key = row
        for axis in range(place.shape[-1]):
            key = (key << (_MAX_LEVEL + 5)) + place[..., axis] + 1
        return key

    def _totals(self) -> tuple[Tensor, Tensor, Tensor]:
        # Of each point the log integral, the sum of last changes relative to it, and the number of cells.
        top = torch.full_like(self.q[:, 0], -torch.inf).scatter_reduce(0, self.row, self.value, "amax")
        top = top.nan_to_num(neginf=0.0)
        mass = torch.zeros_like(top).index_add(0, self.row, (self.value - top[self.row]).exp())
        moved = torch.zeros_like(top).index_add(0, self.row, (self.change - top[self.row]).exp())
        return mass.log() + top, moved / mass, torch.bincount(self.row, minlength=len(top)).to(top)

    def _boxes(self, place: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        # The centre and half the size of cells.
        half = self.size * torch.exp2(-1.0 - level.to(self.size)).unsqueeze(-1)
        return self.lower + half * (2 * place + 1), half

    def _integrate(self, row: Tensor, place: Tensor, level: Tensor) -> Tensor:
        parts = []
        size = max(1, _CHUNK // len(self.nodes))
        for r, c, h in zip(*(x.split(size) for x in (row, *self._boxes(place, level))), strict=True):
            p = c.unsqueeze(1) + h.unsqueeze(1) * self.nodes
            values = self.log_joint(self.q[r].unsqueeze(1).expand_as(p).flatten(0, 1), p.flatten(0, 1))
            parts.append(torch.logsumexp(values.reshape(p.shape[:-1]) + self.log_weights, -1) + h.log().sum(-1))
        return torch.cat(parts)

    def _coarse(self, row: Tensor, place: Tensor, level: Tensor) -> Tensor:
        # Which cells meet a peak that is narrower than they are, in the coordinates where the peak is a unit ball.
        if self.peaks is None:
            return torch.zeros_like(row, dtype=torch.bool)
        found = []
        size = max(1, _CHUNK // self.peaks.loc.shape[1])
        for r, c, h in zip(*(x.split(size) for x in (row, *self._boxes(place, level))), strict=True):
            factor = self.peaks.factor[r]
            extent = (factor.abs() @ h[:, None, :, None]).squeeze(-1)
            distance = (factor @ (c.unsqueeze(1) - self.peaks.loc[r]).unsqueeze(-1)).squeeze(-1).abs()
            meets = (distance <= extent + _REACH).all(-1) & (self.peaks.log_mass[r] > -torch.inf)
            found.append((meets & (extent.amax(-1) > _WIDEST)).any(-1))
        return torch.cat(found)
