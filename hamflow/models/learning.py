"""How dynamics are learned: which objective, on which rows, from which start."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from hamflow.errors import InputError, check_choice, is_number
from hamflow.models.objectives import PAUSE, DerivativeObjective, PathObjective, WindowObjective
from hamflow.models.units import sizes
from hamflow.systems import Trajectories, estimate_derivatives, estimate_noise
from hamflow.training import History, fit, polish, split_rows

#: Where noise is not known a state that was not measured is in doubt by this share of its spread.
_DOUBT = 0.01
#: So many states are looked at before training begins.
_FIRST = 1000

if TYPE_CHECKING:
    from hamflow.models.dynamics import Dynamics


def checked_sets(data: Any, *, dim: int) -> list[Trajectories]:
    """The trajectories as a list.

    Raises:
        InputError: they are not trajectories in d coordinates, or not of one kind.
    """
    sets: list[Any] = list(data) if isinstance(data, (list, tuple)) else [data]
    wrong = [type(part).__name__ for part in sets if not isinstance(part, Trajectories)]
    if wrong or not sets:
        raise InputError(f"data is {wrong[0] if wrong else 'empty'}, expected Trajectories or a list of them")
    if sets[0].q.dtype not in (torch.float32, torch.float64):
        raise InputError(f"data has dtype {sets[0].q.dtype}, expected torch.float32 or torch.float64")
    for part in sets:
        if part.dim != dim:
            raise InputError(f"data has {part.dim} coordinates, expected dim = {dim}")
        for name, one, other in (
            ("arrays", sets[0].given, part.given),
            ("periodic coordinates", sets[0].periodic, part.periodic),
            ("units", sets[0].metadata.get("units", {}), part.metadata.get("units", {})),
        ):
            if one != other:
                raise InputError(f"data has parts with {name} {one} and {other}, expected the same in all")
    return sets


def converted(data: Trajectories, *, device: torch.device, dtype: torch.dtype, clock: bool) -> Trajectories:
    """The trajectories on a device and in a dtype, angles counted on, times in their own dtype.

    They count from 0, or, where an energy may read the ``clock``, stay as they are.
    """
    # Times far from zero, such as Julian days, would lose their gaps in float32.
    times = data.times if clock else data.times - data.times[..., :1]
    return data.unwrapped().replace(times=times).to(device=device, dtype=dtype).replace(times=times.to(device))


class Plan(NamedTuple):
    """What the data allow: derivatives, residual or states; and the noise of each of (q, p), (2 d,), if it is known."""

    source: str
    noise: Tensor
    known: bool


def plan(
    sets: list[Trajectories], *, learn_from: str, noise: float | Sequence[float] | str | None, second: str = "p"
) -> Plan:
    """How these trajectories are learned from, by a model of positions and momenta, or of velocities.

    Raises:
        InputError: they lack what ``learn_from`` asks for, or their noise is not one number.
    """
    source = _source(sets[0].given, learn_from, second)
    if source == "states" and min(part.n_times for part in sets) < 2:
        raise InputError("data has a trajectory of a single state, expected at least two to learn from states")
    return Plan(source, *_noise(sets, noise))


def learn(
    model: Dynamics,
    sets: list[Trajectories],
    *,
    plan: Plan,
    window: int,
    substeps: int,
    polishing: int,
    validation: float | None,
    progress: bool,
    checkpoint: str | Path | None,
    settings: dict[str, Any],
) -> History:
    """Train the model; see :meth:`hamflow.models.dynamics.Dynamics.fit`, which has checked the arguments."""
    first = sets[0].q[0, :1].expand(2, -1)
    model.check_time(first, sets[0].own_times()[0, :1].to(first).expand(2, 1))
    given, sigma = sets[0].given, plan.noise.to(sets[0].q)
    run = {"progress": progress, "checkpoint": checkpoint} | settings
    if plan.source != "states":
        measure = model.residual if plan.source == "residual" else model.misfit
        sets = [with_momenta(part) for part in sets]
        rows = torch.cat([_rows(part) for part in sets])
        units = model.set_units(rows)
        if plan.source == "derivatives":
            _check_solvable(model, rows)
        if not sigma.any():
            train, held_out = split_rows(rows, validation, settings["seed"])
            return _run(DerivativeObjective(model, units, measure), train, held_out, polishing, run)
        unseen = _unseen(sets, validation, settings["seed"])
        objective = PathObjective(model, sets, sigma, units, unseen, measure, velocities="p" not in given)
        return _run_indices(objective, polishing, run)
    exact = plan.known and not bool(sigma.any())
    # Neither the given derivatives nor exact velocities beside noisy momenta: states alone.
    sets = [states_alone(part, exact=exact) for part in sets]
    method = [_method(part, exact=exact) for part in sets]
    smooth = [
        estimate_derivatives(part, method=how, smooth=bool(sigma.any())) for part, how in zip(sets, method, strict=True)
    ]
    rows = torch.cat([_rows(part) for part in smooth])
    units = model.set_units(rows)
    _check_solvable(model, rows)
    # First the derivatives of smoothed states, then the step itself.
    start = run | {"epochs": max(1, settings["epochs"] // 3)}
    if checkpoint is not None:
        start["checkpoint"] = Path(checkpoint).with_name(Path(checkpoint).name + ".start")
    train, held_out = split_rows(rows, validation, settings["seed"])
    begun = _run(DerivativeObjective(model, units, model.misfit), train, held_out, 0, start)
    windows = _windows(
        model, sets, smooth, sigma, momenta="p" in given or "v" in given, window=window, substeps=substeps,
        validation=validation, seed=settings["seed"],
    )  # fmt: skip
    history = _run_indices(windows, polishing, run | {"epochs": max(1, settings["epochs"] - start["epochs"])})
    history.seconds += begun.seconds
    history.notes = [f"start from derivatives: {note}" for note in begun.notes] + history.notes
    return history


def _check_solvable(model: Dynamics, rows: Tensor) -> None:
    # In training a singular mass matrix is a loss that is not finite; at the start the error says which it is.
    with torch.no_grad():
        q, x, _, _ = rows[:_FIRST, :-1].chunk(4, dim=-1)
        model.vector_field(q, x, rows[:_FIRST, -1:])


def _source(given: tuple[str, ...], learn_from: str, second: str) -> str:
    # Velocities stand for missing momenta, and then accelerations for forces.
    enough = {"p", "v", "p_dot"} <= set(given) or ("p" not in given and {"v", "v_dot"} <= set(given))
    if learn_from == "auto":
        return "derivatives" if enough else "states"
    if learn_from != "states" and not enough:
        expected = "v and p_dot" if "p" in given else "v and v_dot" + ", or p, v and p_dot" * (second == "p")
        raise InputError(
            f"learn_from = {learn_from!r}, but the trajectories have {', '.join(given)}, expected {expected}: "
            "hf.systems.estimate_derivatives makes them, and learn_from = 'states' needs none"
        )
    return learn_from


def _noise(sets: list[Trajectories], noise: float | Sequence[float] | str | None) -> tuple[Tensor, bool]:
    """The standard deviation of each of (q, p), (2 d,), and whether it is known; velocities may stand for momenta."""
    q, momenta = sets[0].q, "p" if "p" in sets[0].given else "v"
    if isinstance(noise, str) and noise == "estimate":
        states = [part.n * part.n_times for part in sets]
        found = [estimate_noise(part) for part in sets]
        both = [torch.cat((one["q"], one.get(momenta, torch.zeros_like(one["q"])))) for one in found]
        return sum(n * x**2 for n, x in zip(states, both, strict=True)).div(sum(states)).sqrt(), True  # type: ignore[union-attr]
    if noise is not None:
        given = torch.as_tensor(_numbers(noise, q.shape[-1])).to(q)
        return given if len(given) == 2 * q.shape[-1] else given.repeat_interleave(q.shape[-1]), True
    declared = {_declared_noise(part) for part in sets}
    if len(declared) > 1:
        raise InputError(f"data has parts of different noise, {sorted(declared, key=str)}, expected one: give noise")
    size, where = declared.pop()
    # Of trajectories without momenta the state is (q, v).
    noisy = [where in ("states", "positions"), where == "states" or (where == "velocities" and momenta == "v")]
    return size * torch.tensor(noisy).repeat_interleave(q.shape[-1]).to(q), where != "unknown"


def _numbers(noise: Any, dim: int) -> list[float]:
    numbers = [noise, noise] if is_number(noise) else list(noise) if isinstance(noise, Iterable) else []
    right = all(is_number(x) and 0 <= x < math.inf for x in numbers)
    if isinstance(noise, str) or not right or len(numbers) not in (2, 2 * dim):
        raise InputError(
            f"noise = {noise!r}, expected a finite standard deviation >= 0, two of them (of positions and momenta), "
            f"{2 * dim}, or 'estimate'"
        )
    return [float(x) for x in numbers]


def _declared_noise(data: Trajectories) -> tuple[float, str]:
    if "noise" not in data.metadata:
        return 0.0, "unknown"
    noise = data.metadata["noise"]
    if not is_number(noise) or not 0 <= noise < float("inf"):
        raise InputError(f"metadata['noise'] = {noise!r}, expected a standard deviation, 0 or more: give noise")
    where = data.metadata.get("noise_on", "states")
    check_choice("metadata['noise_on']", where, ("states", "velocities", "positions"))
    return float(noise), where


def with_momenta(data: Trajectories) -> Trajectories:
    """The trajectories, with velocities for momenta where these are missing.

    Raises:
        InputError: there are no velocities either.
    """
    # A unit mass; any other only changes the unit of the energy.
    return data if data.p is not None else data.replace(p=data.need("v"), p_dot=data.v_dot)


def states_alone(data: Trajectories, *, exact: bool) -> Trajectories:
    """The trajectories with q and p alone; velocities stand for missing momenta, estimated ones where need be."""
    if data.p is not None:
        return data.replace(v=None, p_dot=None, v_dot=None)
    if data.v is not None:
        return data.replace(p=data.v, p_dot=None, v_dot=None)
    velocity = estimate_derivatives(data, method=_method(data, exact=exact)).need("v")
    return data.replace(p=velocity)


def _method(data: Trajectories, *, exact: bool) -> str:
    if exact and data.n_times >= 4:
        return "interpolation"
    return "spline" if data.n_times >= 5 else "difference"


def _rows(data: Trajectories) -> Tensor:
    # (q, p, dq/dt, dp/dt, t) of every state, (n * time, 4 d + 1).
    times = data.own_times().to(data.q).unsqueeze(-1)
    return torch.cat((data.states, data.need("v"), data.need("p_dot"), times), dim=-1).flatten(0, 1)


def _unseen(
    sets: list[Trajectories], share: float | None, seed: int, *, given: list[list[int]] | None = None
) -> list[Tensor]:
    # Which states judge instead of training, booleans (n, time), at least one; not those where windows begin that are
    # ``given``. They lie inside the very paths whose beginnings are inferred.
    masks = [torch.zeros(part.n, part.n_times, dtype=torch.bool) for part in sets]
    if share is None:
        return [mask.to(part.q.device) for mask, part in zip(masks, sets, strict=True)]
    flat = torch.cat([mask.flatten() for mask in masks])
    begins = [
        torch.isin(torch.arange(part.n_times), torch.tensor(ks))
        for part, ks in zip(sets, given or [[]] * len(sets), strict=True)
    ]
    allowed = torch.cat([(~begin).repeat(part.n) for part, begin in zip(sets, begins, strict=True)]).nonzero()[:, 0]
    picked, _ = split_rows(allowed, share, seed)
    flat[allowed] = True
    flat[picked] = False
    pieces = flat.split([mask.numel() for mask in masks])
    return [piece.reshape(mask.shape).to(part.q.device) for piece, mask, part in zip(pieces, masks, sets, strict=True)]


def _windows(
    model: Dynamics,
    sets: list[Trajectories],
    smooth: list[Trajectories],
    sigma: Tensor,
    *,
    momenta: bool,
    window: int,
    substeps: int,
    validation: float | None,
    seed: int,
) -> WindowObjective:
    length = min(window, min(part.n_times for part in sets) - 1)
    spread = torch.cat([sizes(x) for x in torch.cat([part.states.flatten(0, 1) for part in smooth]).chunk(2, dim=-1)])
    doubt = None
    if bool(sigma.any()) or not momenta:
        shares = sigma / spread
        if not momenta:
            # Slopes of noisy positions are no better than these.
            share = shares[: model.dim].mean()
            shares = torch.cat((shares[: model.dim], share.expand(model.dim)))
        doubt = torch.where(shares > 0, shares, _DOUBT) * spread
    # Some windows overlap where the length of a trajectory is no multiple of theirs: no state is left out.
    usual = [part.own_times().diff(dim=-1).median(dim=-1).values for part in sets]
    starts = [
        _starts(part.n_times - 1, length, pauses=(part.own_times().diff(dim=-1) > PAUSE * gap.unsqueeze(-1)).any(0))
        for part, gap in zip(sets, usual, strict=True)
    ]
    # A given first state trains. In windows of one step all but the last are first ones: they judge as second ones.
    given = None if doubt is not None else starts if length > 1 else [[0]] * len(sets)
    unseen = _unseen(sets, validation, seed, given=given)
    cuts = [part.between(k, k + length + 1) for part, ks in zip(sets, starts, strict=True) for k in ks]
    begin = torch.cat([part.states[:, k] for part, ks in zip(smooth, starts, strict=True) for k in ks])
    judges = torch.cat([mask[:, k : k + length + 1] for mask, ks in zip(unseen, starts, strict=True) for k in ks])
    windows = _joined([part if momenta else part.replace(p=None) for part in cuts])
    often = torch.cat([gap.repeat(len(ks)) for gap, ks in zip(usual, starts, strict=True)])
    return WindowObjective(model, windows, begin, doubt, spread, substeps, judges, often)


def _starts(steps: int, length: int, *, pauses: Tensor | None = None) -> list[int]:
    pieces = -(-steps // length)
    starts = {round(k * (steps - length) / max(1, pieces - 1)) for k in range(pieces)}
    if pauses is not None:
        # What lies behind a pause begins anew.
        starts |= {min(int(k) + 1, steps - length) for k in pauses.nonzero()[:, 0]}
    return sorted(starts)


def _joined(sets: list[Trajectories]) -> Trajectories:
    arrays = {name: torch.cat([part.need(name) for part in sets]) for name in sets[0].given}
    return Trajectories(times=torch.cat([part.own_times() for part in sets]), metadata=sets[0].metadata, **arrays)


def _run_indices(objective: PathObjective | WindowObjective, polishing: int, run: dict[str, Any]) -> History:
    # The same trajectories or windows train and judge, by different states.
    indices = torch.arange(len(objective.seen), device=objective.seen.device).unsqueeze(-1)
    return _run(objective, indices, indices if bool(objective.unseen.any()) else None, polishing, run)


def _run(objective: nn.Module, rows: Tensor, held_out: Tensor | None, polishing: int, run: dict[str, Any]) -> History:
    history = fit(objective, rows, validation=held_out, **run)
    if polishing:
        started = time.process_time()
        loss = polish(objective, rows, iterations=polishing, validation=held_out, seed=run["seed"])
        history.seconds += time.process_time() - started
        history.notes.append(f"L-BFGS ended at a training loss of {loss:.6g}")
    return history
