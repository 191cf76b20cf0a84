"""A step refined until it can stand for the exact motion."""

from __future__ import annotations

import torch
from torch import Tensor
from tqdm import tqdm

from hamflow.errors import SolveError
from hamflow.steps.step import Step

#: Substeps of one interval at which refining is given up.
_MOST = 1024
#: Two refinements that agree to this, and no better with twice as many substeps, are as good as rounding lets them be.
_ROUNDING = 1e-6


def integrate(
    step: Step, q: Tensor, p: Tensor, *, dt: float, n_steps: int, tolerance: float, progress: bool = False
) -> tuple[Tensor, Tensor]:
    """The states at 0, dt, ..., n_steps dt, each interval cut into as many substeps as its accuracy asks for.

    In every interval the substeps are doubled, for those trajectories that need it, until two successive refinements
    agree to ``tolerance`` times the largest position (and momentum) that the trajectory has had.

    Args:
        step: the step.
        q: initial positions (n, d).
        p: initial momenta (n, d).
        dt: the interval.
        n_steps: the number of intervals.
        tolerance: how closely two refinements have to agree.
        progress: whether to show a bar.

    Returns:
        q and p, each (n, n_steps + 1, d).

    Raises:
        SolveError: a trajectory does not settle; the message names it, and the time.
    """
    states = [torch.stack((q, p))]
    scale = states[0].abs().amax(-1, keepdim=True)
    for k in tqdm(range(n_steps), desc="simulate", disable=not progress):
        state = _advance(step, states[-1], scale, k * dt, dt, tolerance)
        scale = torch.maximum(scale, state.abs().amax(-1, keepdim=True))
        states.append(state)
    positions, momenta = torch.stack(states, dim=2)
    return positions, momenta


def _advance(step: Step, start: Tensor, scale: Tensor, t: float, dt: float, tolerance: float) -> Tensor:
    end = torch.full_like(start, float("nan"))
    rows = torch.arange(start.shape[1], device=start.device)
    coarse = _attempt(step, start, t, dt, 1)
    before = torch.full_like(start[0, :, 0], float("inf"))
    substeps = 1
    while substeps < _MOST:
        substeps *= 2
        fine = _attempt(step, start[:, rows], t, dt, substeps)
        size = torch.maximum(scale[:, rows], fine.abs().amax(-1, keepdim=True))
        # 0 / 0 at an equilibrium in the origin is agreement.
        gap = ((fine - coarse).abs() / size.clamp_min(torch.finfo(size.dtype).tiny)).amax((0, 2))
        settled = gap <= tolerance
        end[:, rows[settled]] = fine[:, settled]
        open_ = ~settled
        if not bool(open_.any()):
            return end
        rows, coarse, gap, before = rows[open_], fine[:, open_], gap[open_], before[open_]
        if bool(((gap < _ROUNDING) & (gap > before / 2)).all()):
            break
        before = gap
    worst = int(before.nan_to_num(float("inf")).argmax())
    raise SolveError(
        f"trajectory {int(rows[worst])} between times {t:g} and {t + dt:g}: {substeps // 2} and {substeps} substeps "
        f"differ by {float(gap[worst]):.1e} of its size, expected at most tolerance = {tolerance:g}; a smaller dt or a "
        "larger tolerance helps, or states farther from a collision"
    )


def _attempt(step: Step, start: Tensor, t: float, dt: float, substeps: int) -> Tensor:
    try:
        return torch.stack(step.iterate(start[0], start[1], t, dt / substeps, substeps))
    except SolveError:
        # An implicit step was too long to be solved. Halving the batch finds the rows to blame; the others are done.
        half = start.shape[1] // 2
        if half == 0:
            return torch.full_like(start, float("nan"))
        parts = (start[:, :half], start[:, half:])
        return torch.cat([_attempt(step, part, t, dt, substeps) for part in parts], dim=1)
