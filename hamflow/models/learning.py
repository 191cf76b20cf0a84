"""How dynamics are learned: which objective, on which rows, from which start."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hamflow.errors import InputError
from hamflow.models.mechanics import set_units
from hamflow.models.objectives import DerivativeObjective, PathObjective, Units, WindowObjective
from hamflow.systems import Trajectories, estimate_derivatives
from hamflow.training import History, fit, polish, split_rows

if TYPE_CHECKING:
    from hamflow.models.hnn import HNN


def learn(
    model: HNN,
    sets: list[Trajectories],
    *,
    learn_from: str,
    noise: float | None,
    window: int,
    substeps: int,
    polishing: int,
    validation: float,
    progress: bool,
    checkpoint: str | Path | None,
    settings: dict[str, Any],
) -> History:
    """Train the model's Hamiltonian; see :meth:`hamflow.HNN.fit`, which has checked the arguments."""
    given = sets[0].given
    if learn_from == "auto":
        learn_from = "derivatives" if {"p", "v", "p_dot"} <= set(given) else "states"
    if learn_from == "derivatives" and not {"v", "p_dot"} <= set(given):
        raise InputError(
            f"learn_from = 'derivatives', but the trajectories have {', '.join(given)}, expected also v and p_dot: "
            "hf.systems.estimate_derivatives makes them, and learn_from = 'states' needs none"
        )
    sigma = float(sets[0].metadata.get("noise", 0.0)) if noise is None else float(noise)
    momenta = "p" in given or "v" in given
    sets = [with_momenta(part) for part in sets]
    known = sets if learn_from == "derivatives" else [estimate_derivatives(part, smooth=sigma > 0) for part in sets]
    rows = torch.cat([_rows(part) for part in known])
    units = _units(model, rows)
    run = {"progress": progress, "checkpoint": checkpoint}
    objective: nn.Module
    if learn_from == "derivatives" and (sigma == 0 or not _one_length(sets)):
        train, held_out = split_rows(rows, validation, settings["seed"])
        return _run(DerivativeObjective(model, units), train, held_out, polishing, run | settings)
    if learn_from == "derivatives":
        data = _joined(sets)
        spread = torch.full((2 * model.dim,), sigma, dtype=rows.dtype, device=rows.device)
        objective = PathObjective(model, data, spread, units, validation)
        indices = torch.arange(data.n, device=rows.device).unsqueeze(-1)
        return _run(objective, indices, indices, polishing, run | settings)
    # From states: first the derivatives of smoothed states, then the step itself.
    start = settings | {"epochs": max(1, settings["epochs"] // 3), "progress": progress}
    train, held_out = split_rows(rows, validation, settings["seed"])
    _run(DerivativeObjective(model, units), train, held_out, 0, start)
    length = min(window, min(part.n_times for part in sets) - 1)
    if length < 1:
        raise InputError("data has a trajectory of a single state, expected at least two")
    cuts = [part.windows(length + 1, stride=length) for part in known]
    measured = [part.windows(length + 1, stride=length) for part in sets]
    begin = torch.cat([part.states[:, 0] for part in cuts])
    windows = _joined([part if momenta else part.replace(p=None) for part in measured])
    spread = rows[:, : 2 * model.dim].std(0).clamp_min(torch.finfo(rows.dtype).tiny)
    certain = sigma == 0 and momenta
    doubt = None if certain else torch.full_like(spread, sigma) if sigma > 0 else 0.01 * spread
    objective = WindowObjective(model, windows, begin, doubt, spread, substeps, validation)
    indices = torch.arange(windows.n, device=rows.device).unsqueeze(-1)
    rest = settings | {"epochs": max(1, settings["epochs"] - start["epochs"])}
    return _run(objective, indices, indices, polishing, run | rest)


def with_momenta(data: Trajectories) -> Trajectories:
    """The trajectories with momenta: velocities stand for those that are missing, measured ones or estimates."""
    if data.p is not None:
        return data
    if data.v is not None:
        # A unit mass; any other only changes the unit of the energy.
        return data.replace(p=data.v, p_dot=data.v_dot)
    velocity = estimate_derivatives(data).need("v")
    return data.replace(p=velocity)


def _rows(data: Trajectories) -> Tensor:
    # (q, p, dq/dt, dp/dt) of every state, (n * time, 4 d).
    return torch.cat((data.states, data.need("v"), data.need("p_dot")), dim=-1).flatten(0, 1)


def _units(model: HNN, rows: Tensor) -> Units:
    q, p, v, force = rows.chunk(4, dim=-1)
    ones = torch.ones_like(q[0])
    if not model.config["standardise"]:
        return Units(ones, ones)
    # About zero, not the mean: a field that is constant in the data still has to be learned in size.
    velocity, size = ((x**2).mean(0).sqrt() for x in (v, force))
    units = Units(torch.where(velocity > 0, velocity, ones), torch.where(size > 0, size, ones))
    if isinstance(model.config["energy"], str):
        set_units(model.hamiltonian, q, p, units.velocity, units.force, model.angles)
    return units


def _one_length(sets: list[Trajectories]) -> bool:
    return len({part.n_times for part in sets}) == 1


def _joined(sets: list[Trajectories]) -> Trajectories:
    if len(sets) == 1:
        return sets[0]
    arrays = {name: torch.cat([part.need(name) for part in sets]) for name in sets[0].given}
    return Trajectories(times=torch.cat([part.own_times() for part in sets]), metadata=sets[0].metadata, **arrays)


def _run(objective: nn.Module, rows: Tensor, held_out: Tensor | None, polishing: int, run: dict[str, Any]) -> History:
    history = fit(objective, rows, validation=held_out, **run)
    if polishing:
        loss = polish(objective, rows, iterations=polishing, seed=run["seed"])
        history.notes.append(f"L-BFGS ended at a training loss of {loss:.6g}")
    return history
