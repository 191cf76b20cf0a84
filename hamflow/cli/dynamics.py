"""Motions: ``hamflow simulate`` makes those of a known system, ``hamflow rollout`` those of a learned energy."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import typer

from hamflow.cli.beginnings import Beginnings
from hamflow.cli.options import Overwrite, Quiet, Run, Scheme, Seed, Setting
from hamflow.cli.runs import check_target, read_beginnings, read_dynamics
from hamflow.diagnostics import PERIODS, energy_drift
from hamflow.errors import InputError, check_choice
from hamflow.models import HNN, LNN
from hamflow.models.dynamics import Dynamics
from hamflow.systems import SYSTEMS, System, Trajectories
from hamflow.systems.storage import check_suffix

_FEWEST = 20  # times that show a trend
_CHUNK = 100_000  # states whose energies are computed at once


def simulate(
    system: Annotated[str, typer.Argument(help=f"One of {', '.join(SYSTEMS)}.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The trajectories to write: NPZ, HDF5 or CSV.", show_default=False)],
    trajectories: Annotated[int, typer.Option(min=1, help="How many, from random initial states.")] = 25,
    steps: Annotated[int, typer.Option(min=1, help="Steps of each: one state more.")] = 100,
    dt: Annotated[float, typer.Option(help="The time between two states.")] = 0.1,
    noise: Annotated[float, typer.Option(help="The standard deviation of the noise.")] = 0.0,
    noise_on: Annotated[str, typer.Option(help="states or velocities.")] = "states",
    derivatives: Annotated[bool, typer.Option("--derivatives", help="Write exact derivatives too.")] = False,
    set_: Setting = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Simulate a physical system and write its trajectories."""
    check_target(out, overwrite)
    check_suffix(out)
    check_choice("system", system, tuple(SYSTEMS))
    data = system_of(system, set_ or []).simulate(
        trajectories, steps, dt, noise=noise, noise_on=noise_on, derivatives=derivatives, seed=seed,
        progress=not quiet and sys.stderr.isatty(),
    )  # fmt: skip
    data.save(out)
    if not quiet:
        print(_summary(data, out))


def rollout(
    run: Run,
    out: Annotated[Path, typer.Option(help="The trajectories to write: NPZ, HDF5 or CSV.", show_default=False)],
    initial: Annotated[
        Path | None,
        typer.Option(help="Trajectories whose first states to begin from; without, those the model was fitted to."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="How many; without, as many as the trajectories had.", show_default=False)
    ] = None,
    dt: Annotated[
        float | None, typer.Option(help="The time between two states; without, theirs.", show_default=False)
    ] = None,
    scheme: Scheme = None,
    substeps: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Steps of the integrator between two states; without, as many as in the fit.",
            show_default=False,
        ),
    ] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Carry states forward by a learned energy, and say whether that energy drifts."""
    check_target(out, overwrite)
    check_suffix(out)
    model = read_dynamics(run)
    path = begin(run, model, initial).carried_by(
        model, n_steps=steps, dt=dt, scheme=scheme, substeps=substeps, progress=not quiet and sys.stderr.isatty()
    )
    path.save(out)
    if not quiet:
        print(_summary(path, out))
        print(_drift(model, path))


def begin(run: Path, model: Dynamics, initial: Path | None) -> Beginnings:
    """The initial states in a file, or else those that the run remembers."""
    known = read_beginnings(run, model)
    if initial is None:
        if known is None:
            raise InputError(f"--initial is missing: {run} holds no initial states, as where Python saved it")
        return known
    data = Trajectories.load(initial)
    if data.dim != model.dim:
        raise InputError(f"{initial} has {data.dim} coordinates, expected {model.dim} as the model in {run}")
    found = Beginnings.of(data, model.second)
    if known is not None:
        found.check_like(known, str(initial))
    return found


def system_of(name: str, assignments: list[str]) -> System:
    """The system of that name, its parameters as in ``mass=2``."""
    kind: Callable[..., System] = SYSTEMS[name]
    numbers = ("float", "int", "Sequence[float]")
    known = [
        key for key, parameter in inspect.signature(kind).parameters.items()
        if str(parameter.annotation).startswith(numbers)
    ]  # fmt: skip
    parameters = {}
    for text in assignments:
        key, equals, value = (part.strip() for part in text.partition("="))
        if not equals or key not in known:
            raise InputError(f"--set {text!r}, expected NAME=VALUE with a parameter of {name}: {', '.join(known)}")
        try:
            parameters[key] = tuple(map(_number, value.split(","))) if "," in value else _number(value)
        except ValueError as error:
            raise InputError(f"--set {text!r}, expected a number, or numbers as in 1,2") from error
    return kind(**parameters)


def _number(text: str) -> float:
    try:
        return int(text)
    except ValueError:
        return float(text)


def _summary(data: Trajectories, out: Path) -> str:
    unit = _unit(data)
    count = f"{data.n} trajector{'y' if data.n == 1 else 'ies'}"
    return f"{data.metadata['system']}: {count} of {data.n_times} states, {data.metadata['dt']:g}{unit} apart: {out}"


def _unit(data: Trajectories) -> str:
    unit = data.metadata.get("units", {}).get("time", "1")
    return "" if unit == "1" else f" {unit}"


def friction_of(model: Dynamics) -> str:
    """The learned friction, in words."""
    if isinstance(model, HNN):
        return f"{model.friction.item():.4g} per unit of time"
    assert isinstance(model, LNN)
    rows = ("[" + ", ".join(f"{x:.4g}" for x in row) + "]" for row in model.friction.tolist())
    return f"C = [{', '.join(rows)}] in units of the learned mass per unit of time"


@torch.no_grad()
def _drift(model: Dynamics, path: Trajectories) -> str:
    states = zip(path.q.flatten(0, 1).split(_CHUNK), path.need(model.second).flatten(0, 1).split(_CHUNK), strict=True)
    energies = torch.cat([model.energy(q, p) for q, p in states]).reshape(path.n, path.n_times).T
    largest = float((energies - energies[0]).abs().max())
    if model.config["friction"]:
        return f"energy: it changes by up to {largest:.3g}; friction takes it, {friction_of(model)}"
    if path.n_times < _FEWEST:
        return f"energy: it changes by up to {largest:.3g}; a trend needs {_FEWEST} states or more"
    trend = energy_drift(energies, path.metadata["dt"])
    if not trend.conclusive:
        few = f"fewer than {PERIODS} periods, give more --steps"
        return f"energy: it changes by up to {largest:.3g}; whether it drifts cannot be told from {few}"
    verdict = "a drift" if trend.significant else "no drift"
    slope = f"{trend.slope:.1e} +- {trend.standard_error:.1e} per{_unit(path) or ' unit of time'}"
    return f"energy: {verdict}, slope {slope}; it changes by up to {largest:.3g}"
