"""``hamflow plot``: pictures of a fitted model."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from hamflow.cli.dynamics import begin
from hamflow.cli.options import MAX_SEED, Key, Overwrite, Quiet, Run
from hamflow.cli.runs import check_target, read_run
from hamflow.errors import InputError
from hamflow.io import atomic_path, read_table
from hamflow.models import NHF
from hamflow.models.dynamics import Dynamics
from hamflow.systems import Trajectories

_MOST = 6  # coordinates that are drawn below each other


class Picture(StrEnum):
    """What ``hamflow plot`` draws."""

    auto = "auto"
    samples = "samples"
    density = "density"
    trajectories = "trajectories"
    phase = "phase"
    energy = "energy"
    prediction = "prediction"
    history = "history"


_OF = {
    NHF: (Picture.samples, Picture.density, Picture.trajectories, Picture.history),
    Dynamics: (Picture.phase, Picture.energy, Picture.prediction, Picture.history),
}


def plot(
    run: Run,
    out: Annotated[Path, typer.Option(help="The figure to write: PNG, PDF, SVG, ...", show_default=False)],
    data: Annotated[Path | None, typer.Option(help="A table, or trajectories, to draw as well.")] = None,
    key: Key = None,
    kind: Annotated[
        Picture,
        typer.Option(
            help="Of a flow: samples, density, trajectories. Of dynamics: phase (one coordinate), energy (of a "
            "rollout), prediction (beside --data). auto: density for two columns, else samples; prediction with "
            "--data, else phase for one coordinate, else energy."
        ),
    ] = Picture.auto,
    seed: Annotated[int | None, typer.Option(min=0, max=MAX_SEED, help="Of samples of a flow.")] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Draw a fitted model."""
    check_target(out, overwrite)
    # Only this command waits for matplotlib, and needs no display.
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    known = plt.figure().canvas.get_supported_filetypes()
    if out.suffix.lower().removeprefix(".") not in known:
        raise InputError(f"{out} has the suffix {out.suffix!r}, expected one of {', '.join(sorted(known))}")
    model = read_run(run)
    if kind == Picture.auto:
        kind = _usual(model, data)
    of_model = _OF[NHF if isinstance(model, NHF) else Dynamics]
    if kind not in of_model:
        raise InputError(f"--kind {kind} is no picture of the model in {run}, expected one of {', '.join(of_model)}")
    if isinstance(model, NHF):
        table: Any = None
        names: Sequence[str] | None = model.columns
        if data is not None:
            # A model of an array has no names, and takes those of the table.
            table, names = read_table(data, names, key=key)
        figure = _draw_density(kind, model, names, table, seed or 0)
    else:
        for name, value in (("--key", key), ("--seed", seed)):
            if value is not None:
                raise InputError(f"{name} is for pictures of a flow, and {run} holds a model of dynamics: leave it out")
        figure = _draw_dynamics(kind, model, run, data)
    with atomic_path(out) as temporary:
        figure.savefig(temporary, bbox_inches="tight", dpi=150)
    plt.close("all")
    if not quiet:
        print(f"{kind.value} of {run}: {out}")


def _usual(model: NHF | Dynamics, data: Path | None) -> Picture:
    if isinstance(model, NHF):
        return Picture.density if model.dim == 2 else Picture.samples
    if data is not None:
        return Picture.prediction
    return Picture.phase if model.dim == 1 else Picture.energy


def _draw_density(kind: Picture, model: NHF, names: Sequence[str] | None, table: Any, seed: int) -> Any:
    from hamflow import plots

    if kind == Picture.density:
        return plots.plot_density_2d(model, table, columns=names, seed=seed).figure
    if kind == Picture.samples:
        return plots.plot_samples(model, table, columns=names, seed=seed)
    if kind == Picture.history:
        return plots.plot_history(model.history).figure
    return plots.plot_trajectories(model, columns=names, seed=seed).figure


def _draw_dynamics(kind: Picture, model: Dynamics, run: Path, data: Path | None) -> Any:
    import matplotlib.pyplot as plt

    from hamflow import plots

    if kind == Picture.history:
        return plots.plot_history(model.history, quantity="loss", log=True).figure
    if kind == Picture.prediction and data is None:
        raise InputError("--data is missing, expected the trajectories to hold the prediction against")
    path = begin(run, model, data).carried_by(model)
    if kind == Picture.phase:
        return plots.plot_phase_portrait(model, path).figure
    if kind == Picture.energy:
        return plots.plot_energy(path, model).figure
    assert data is not None
    # A prediction counts its angles on.
    measured = Trajectories.load(data).unwrapped()
    predicted = path.replace(times=path.times + measured.own_times()[:, :1])
    shown = min(model.dim, _MOST)
    figure, axes = plt.subplots(
        shown, 1, sharex=True, squeeze=False, figsize=(6.0, 1.2 + 2.2 * shown), layout="constrained"
    )
    for coordinate, ax in enumerate(axes[:, 0]):
        plots.plot_trajectories_against(measured, predicted, coordinate=coordinate, ax=ax)
    return figure
