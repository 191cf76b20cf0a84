"""``hamflow plot``: pictures of a fitted model."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from hamflow.cli.dynamics import begin
from hamflow.cli.options import MAX_SEED, Key, Overwrite, Quiet, Run, Seen
from hamflow.cli.runs import check_target, read_run
from hamflow.cli.videos import check_seen, read_films
from hamflow.errors import InputError
from hamflow.io import atomic_path, read_table
from hamflow.models import HGN, NHF
from hamflow.models.dynamics import Dynamics
from hamflow.systems import Trajectories

_MOST = 6  # coordinates that are drawn below each other
_COLUMNS = 16  # frames beside each other
_SAMPLES = 4  # videos that are made up


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
    HGN: (Picture.samples, Picture.prediction, Picture.history),
}


def plot(
    run: Run,
    out: Annotated[Path, typer.Option(help="The figure to write: PNG, PDF, SVG, ...", show_default=False)],
    data: Annotated[Path | None, typer.Option(help="A table, trajectories or videos to draw as well.")] = None,
    key: Key = None,
    kind: Annotated[
        Picture,
        typer.Option(
            help="Of a flow: samples, density, trajectories. Of dynamics: phase (one coordinate), energy (of a "
            "rollout), prediction (beside --data). Of videos: samples, prediction (truth, reconstruction, forecast, of "
            "the first in --data). Of all: history. auto: density for two columns, else samples; prediction with "
            "--data, else phase for one coordinate, else energy."
        ),
    ] = Picture.auto,
    seed: Annotated[int | None, typer.Option(min=0, max=MAX_SEED, help="Of samples.")] = None,
    seen: Seen = None,
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
    of_model = next(pictures for kinds, pictures in _OF.items() if isinstance(model, kinds))
    if kind not in of_model:
        raise InputError(f"--kind {kind} is no picture of the model in {run}, expected one of {', '.join(of_model)}")
    _check_options(model, run, {"--key": key, "--seed": seed, "--seen": seen})
    if isinstance(model, NHF):
        table: Any = None
        names: Sequence[str] | None = model.columns
        if data is not None:
            # A model of an array has no names, and takes those of the table.
            table, names = read_table(data, names, key=key)
        figure = _draw_density(kind, model, names, table, seed or 0)
    elif isinstance(model, HGN):
        figure = _draw_videos(kind, model, run, data, key, seen, seed or 0)
    else:
        figure = _draw_dynamics(kind, model, run, data)
    with atomic_path(out) as temporary:
        figure.savefig(temporary, bbox_inches="tight", dpi=150)
    plt.close("all")
    if not quiet:
        print(f"{kind.value} of {run}: {out}")


def _usual(model: NHF | Dynamics | HGN, data: Path | None) -> Picture:
    if isinstance(model, NHF):
        return Picture.density if model.dim == 2 else Picture.samples
    if data is not None:
        return Picture.prediction
    if isinstance(model, HGN):
        return Picture.samples
    return Picture.phase if model.dim == 1 else Picture.energy


def _check_options(model: NHF | Dynamics | HGN, run: Path, options: dict[str, Any]) -> None:
    """Raise :class:`InputError` where an option was given that says nothing to the model."""
    if isinstance(model, Dynamics):
        wrong, what = ["--key", "--seed", "--seen"], "pictures of a flow or of videos, and {} holds a model of dynamics"
    else:
        wrong, what = ["--seen"] * isinstance(model, NHF), "pictures of videos, and {} holds a density model"
    for name in wrong:
        if options[name] is not None:
            raise InputError(f"{name} is for {what.format(run)}: leave it out")


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


def _draw_videos(
    kind: Picture, model: HGN, run: Path, data: Path | None, key: str | None, seen: int | None, seed: int
) -> Any:
    from hamflow import plots

    if kind == Picture.history:
        return plots.plot_history(model.history, quantity="loss a pixel").figure
    if kind == Picture.samples:
        videos = model.sample(_SAMPLES, model.config["frames"], seed=seed)
        strips = {f"sample {k + 1}": video for k, video in enumerate(videos)}
        return plots.plot_frames(strips, every=-(-videos.shape[1] // _COLUMNS))
    if data is None:
        raise InputError("--data is missing, expected the videos to hold the prediction against")
    films = read_films(data, model, run, key)
    known = min(model.config["frames"], films.n_frames) if seen is None else check_seen(seen, films, data)
    # Where nothing of the video is left to forecast, as far again as was seen.
    length = films.n_frames - known if films.n_frames - known > 1 else known
    truth = films[:1]
    strips = {
        "truth": truth[0],
        "reconstruction": model.reconstruct(truth[:, :known])[0],
        "forecast": model.forecast(truth[:, :known], length)[0],
        "made up": model.sample(1, known + length, seed=seed)[0],
    }
    return plots.plot_frames(strips, every=-(-(known + length) // _COLUMNS), start={"forecast": known})
