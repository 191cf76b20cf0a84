"""What dynamics are trained on: derivatives at states, derivatives along paths, and states alone through the step."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from hamflow.errors import SolveError
from hamflow.models.paths import paths
from hamflow.models.units import Units
from hamflow.systems import Trajectories
from hamflow.training import fingerprint

if TYPE_CHECKING:
    from hamflow.models.dynamics import Dynamics

#: The relative error of a learned derivative that the inference of noisy states reckons with.
_MODEL_ERROR = 0.05
#: A gap in time of more than so many usual ones takes more steps than these, but for rounding.
_LONG, _FUZZ = 1.5, 1e-4
#: And one of more than so many is no missing frame, but a pause.
PAUSE = 20


#: (q, x, dq, dx, t, units) -> a number a row: the squared misfit of a model's equations of motion.
Misfit = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Units], Tensor]


class DerivativeObjective(nn.Module):
    r"""The mean squared misfit of the vector field, rows (q, p, dq/dt, dp/dt, t) side by side,

    (n, 4 d + 1),

    .. math:: \tfrac{1}{2d} \bigl( |\dot q - \partial_p H|^2 / s_v^2
              + |\dot p + \partial_q H + \gamma p|^2 / s_f^2 \bigr).
    """

    def __init__(self, model: Dynamics, units: Units, misfit: Misfit) -> None:
        super().__init__()
        self.model, self.units, self.misfit = model, units, misfit
        self.config = model.config | {"misfit": misfit.__name__}

    def loss(self, batch: Tensor) -> Tensor:
        """The mean over rows (n, 4 d + 1)."""
        q, p, v, force = batch[..., :-1].chunk(4, dim=-1)
        return self.misfit(q, p, v, force, batch[..., -1:], self.units).mean()


class PathObjective(nn.Module):
    r"""Exact derivatives at noisy states: the path is known up to where it begins, and that is inferred,

    .. math:: z_i(t) = a_i + \int_0^t \dot z_i, \qquad a_i \sim \mathcal N(\bar a_i, \sigma^2 / T_i).

    Derivatives at noisy states blur what they teach (errors in variables). The integral of the derivatives, by a cubic
    spline, has no such noise; its T distances from the measured states say where it begins, within
    :math:`\sigma / \sqrt T`, and the fit of the vector field settles the rest. What was measured without noise stands
    as it is, and where the integral is off, over missing frames, another path begins: see :func:`paths`.

    Args:
        model: the model.
        sets: trajectories with p, v and p_dot; their lengths may differ.
        noise: the standard deviation of each of (q, p), (2 d,).
        units: of the derivatives.
        unseen: for each set, which states judge instead of training, booleans (n, time).
        misfit: of the model, such as ``model.misfit``.
        velocities: whether v stands for p; its noise is then one of dq/dt too, and the inferred p takes its place.
    """

    no_weight_decay = True

    def __init__(
        self,
        model: Dynamics,
        sets: list[Trajectories],
        noise: Tensor,
        units: Units,
        unseen: list[Tensor],
        misfit: Misfit,
        *,
        velocities: bool = False,
    ) -> None:
        super().__init__()
        self.model, self.units, self.misfit, self.velocities = model, units, misfit, velocities
        self.known = paths(sets, noise, unseen, velocities=velocities)
        self.seen, self.unseen = self.known.seen, self.known.unseen
        # In units of the noise, so that one learning rate fits all.
        self.shift = nn.Parameter(torch.zeros_like(self.known.begin))
        known = (self.known.begin + self.known.path, self.known.slopes, self.known.times, self.unseen.unsqueeze(-1))
        self.config = model.config | {"misfit": misfit.__name__, "data": fingerprint(torch.cat(known, dim=-1))}

    def loss(self, batch: Tensor) -> Tensor:
        """The mean over paths, given by their indices (n, 1)."""
        i = batch[:, 0]
        q, p = self.states(i).chunk(2, dim=-1)
        v, force = self.known.slopes[i].chunk(2, dim=-1)
        each = self.misfit(q, p, p if self.velocities else v, force, self.known.times[i], self.units)
        if not self.training and bool(self.unseen.any()):
            return (each * self.unseen[i]).sum() / self.unseen[i].sum().clamp_min(1)
        weights = self.seen[i]
        times = weights.sum(1)
        prior = (times * (self.shift[i] ** 2).mean((1, 2))).sum() / times.sum().clamp_min(1)
        return (each * weights).sum() / weights.sum().clamp_min(1) + _MODEL_ERROR**2 * prior

    def states(self, i: Tensor) -> Tensor:
        """The inferred states of the paths ``i``, (len(i), time, 2 d); shorter ones are padded."""
        moved = self.known.noise[i] * self.shift[i]
        states = self.known.begin[i] + moved + self.known.path[i]
        if not self.velocities:
            return states
        q, p = states.chunk(2, dim=-1)
        return torch.cat((q + self.known.lever[i] * moved.chunk(2, dim=-1)[1], p), dim=-1)


class WindowObjective(nn.Module):
    r"""States alone: the step carries each window from its first state, and every later state counts,

    .. math:: \tfrac1L \sum_{k} \bigl|(\Phi_{t_k}(z_0) - z_k) / \sigma\bigr|^2 / (2 d).

    With noise the first state of each window is inferred with the energy (multiple shooting); without, it is the
    measured one. What was not measured (momenta, where only positions are known) does not count.

    Args:
        model: the model.
        windows: trajectories of one length.
        start: what is known of their first states, (n, 2 d).
        noise: the doubt about each of (q, p) there, (2 d,); None where the first states are exact.
        spread: the unit of (q, p) without noise, (2 d,).
        substeps: steps between two states.
        unseen: which states judge instead of training, booleans (n, time).
        usual: the usual time between two states, (n,); a gap of more than 1.5 of these takes more steps, and behind
            one of more than 20 a window says nothing.
    """

    no_weight_decay = True

    def __init__(
        self,
        model: Dynamics,
        windows: Trajectories,
        start: Tensor,
        noise: Tensor | None,
        spread: Tensor,
        substeps: int,
        unseen: Tensor,
        usual: Tensor,
    ) -> None:
        super().__init__()
        self.model, self.substeps = model, substeps
        q = windows.q
        p = torch.zeros_like(q) if windows.p is None else windows.p
        self.observed = torch.cat((q, p), dim=-1)
        self.scale = spread if noise is None else noise
        self.start = start
        self.shift = None if noise is None else nn.Parameter(torch.zeros_like(start))
        times = windows.own_times()
        self.gaps, self.even = times.diff(dim=-1).to(q), even_gap(times)
        self.times = times.to(q).unsqueeze(-1)
        long = self.gaps / usual.to(q).unsqueeze(-1)
        # One step across missing frames would be as much longer than the others, with another modified energy.
        self.steps = (long * substeps / _LONG - _FUZZ).ceil().long().clamp_min(substeps)
        pause = long > PAUSE
        self.gaps, self.steps = self.gaps.masked_fill(pause, 0.0), self.steps.masked_fill(pause, substeps)
        self.counts = [column.unique().tolist() for column in self.steps.unbind(1)]
        reached = nn.functional.pad((~pause).cumprod(1), (1, 0), value=1).to(q).unsqueeze(-1)
        counts = torch.cat((torch.ones_like(q), torch.full_like(q, float(windows.p is not None))), dim=-1)
        self.seen, self.unseen = (counts * reached * mask.to(q).unsqueeze(-1) for mask in (~unseen, unseen))
        if noise is None:
            # The first state is given, so it says nothing.
            self.seen[:, 0] = self.unseen[:, 0] = 0.0
        data = torch.cat((self.observed, self.times, self.unseen), dim=-1)
        self.config = model.config | {
            "data": fingerprint(data), "doubt": fingerprint(self.scale), "substeps": substeps
        }  # fmt: skip

    def loss(self, batch: Tensor) -> Tensor:
        """The mean over windows, given by their indices (n, 1)."""
        i = batch[:, 0]
        weights = self.seen[i] if self.training or not bool(self.unseen.any()) else self.unseen[i]
        try:
            predicted = self.roll(i)
        except SolveError:
            # As a step that leaves the finite numbers: the loop goes back to better weights.
            return torch.stack([parameter.sum() for parameter in self.parameters()]).sum() * torch.nan
        return (((predicted - self.observed[i]) / self.scale) ** 2 * weights).sum() / weights.sum().clamp_min(1)

    def roll(self, i: Tensor) -> Tensor:
        """The states of the windows ``i`` as the model carries them, (len(i), time, 2 d)."""
        z = self.start[i] if self.shift is None else self.start[i] + self.scale * self.shift[i]
        q, x = z.chunk(2, dim=-1)
        times = self.times[i]
        q, p = self.model.canonical(q, x, times[:, 0])
        states = [(q, p)]
        for k in range(self.gaps.shape[1]):
            states.append(self._carry(*states[-1], i, k))
        q, p = (torch.stack(parts, dim=1) for parts in zip(*states, strict=True))
        return self.model.measured(q, p, times)

    def _carry(self, q: Tensor, p: Tensor, i: Tensor, k: int) -> tuple[Tensor, Tensor]:
        # Across the gap k; rows that take the same number of steps go together.
        iterate, gaps, times = self.model.step.iterate, self.gaps[i, k].unsqueeze(-1), self.times[i, k]
        if len(self.counts[k]) == 1:
            n = self.counts[k][0]
            return iterate(q, p, times, (gaps if self.even is None else self.even) / n, n)
        ends = q, p
        for n in self.counts[k]:
            rows = (self.steps[i, k] == n).nonzero()[:, 0]
            if len(rows):
                some = iterate(q[rows], p[rows], times[rows], gaps[rows] / n, n)
                ends = ends[0].index_copy(0, rows, some[0]), ends[1].index_copy(0, rows, some[1])
        return ends


def even_gap(times: Tensor) -> float | None:
    """The one gap of times (n, time), or None where the gaps differ by more than rounding."""
    gaps = times.diff(dim=-1)
    mean = float(gaps.mean())
    rounding = 4 * torch.finfo(times.dtype).eps * float(times.abs().max())
    return mean if float((gaps - mean).abs().max()) < 1e-5 * mean + rounding else None
