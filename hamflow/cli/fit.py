"""``hamflow fit``: a density of a table, or the energy behind trajectories or videos."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from hamflow.cli.beginnings import Beginnings
from hamflow.cli.dynamics import friction_of
from hamflow.cli.options import Header, Key, Overwrite, Precision, Quiet, Seed
from hamflow.cli.runs import check_places, check_run_target, report, write_run
from hamflow.cli.videos import fit_videos
from hamflow.errors import InputError, check_training_table
from hamflow.io import read_table
from hamflow.models import HGN, HNN, LNN, NHF
from hamflow.models.hgn import HAMILTONIANS
from hamflow.models.lagrangians import LAGRANGIANS
from hamflow.models.learning import checked_sets
from hamflow.models.mechanics import ENERGIES
from hamflow.steps import COMPOSITIONS, SCHEMES
from hamflow.systems import Trajectories
from hamflow.training import fit as train


class Model(StrEnum):
    """What ``hamflow fit`` fits."""

    nhf = "nhf"
    hnn = "hnn"
    lnn = "lnn"
    hgn = "hgn"


def _signature(model: type[NHF] | type[HNN] | type[LNN] | type[HGN]) -> dict[str, Any]:
    # What a model passes on as it is has the default of the training.
    of = (train, model.__init__, model.fit)
    return {name: parameter.default for x in of for name, parameter in inspect.signature(x).parameters.items()}


_DEFAULTS = {"nhf": _signature(NHF), "hnn": _signature(HNN), "lnn": _signature(LNN), "hgn": _signature(HGN)}


def _option(name: str, help: str | None = None, *, of: Sequence[str] = tuple(_DEFAULTS), **limits: Any) -> Any:
    # An option that is left out is not passed on, so that each model's own default holds; here it is only shown.
    models: dict[str, list[str]] = {}
    for model in of:
        models.setdefault(_shown(_DEFAULTS[model][name]), []).append(model)
    several = [f"{', '.join(names)}: {value}" for value, names in models.items()]
    return typer.Option(help=help, show_default="; ".join(several) if several[1:] else next(iter(models)), **limits)


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else "none" if value is None else str(value)


def fit(
    data: Annotated[
        list[Path],
        typer.Argument(
            help="A table (CSV, NPY, NPZ, Parquet); for hnn and lnn trajectories (NPZ, HDF5, CSV), in several files "
            "where their lengths differ; for hgn videos (HDF5, read piece by piece; NPZ, NPY) of one length.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="The folder to write the fitted model to.", show_default=False)],
    model: Annotated[
        Model,
        typer.Option(
            help="nhf: the density of a table. hnn: the energy behind trajectories, from positions and momenta. lnn: "
            "the Lagrangian, from positions and velocities. hgn: the energy behind videos."
        ),
    ] = Model.nhf,
    columns: Annotated[str | None, typer.Option(help="nhf: the columns to use, as in a,b,c; all without.")] = None,
    key: Key = None,
    header: Header = None,
    particles: Annotated[
        int | None, _option("particles", of=["nhf"], help="nhf: particles of the training bound.", min=1)
    ] = None,
    n_steps: Annotated[int | None, _option("n_steps", of=["nhf"], help="nhf: Hamiltonian steps.", min=1)] = None,
    width: Annotated[
        int | None,
        _option("width", of=["nhf", "hgn"], help="nhf: ridges of each potential. hgn: of encoder and decoder.", min=1),
    ] = None,
    energy: Annotated[str | None, _option("energy", of=["hnn"], help=f"hnn: {', '.join(ENERGIES)}.")] = None,
    lagrangian: Annotated[str | None, _option("lagrangian", of=["lnn"], help=f"lnn: {', '.join(LAGRANGIANS)}.")] = None,
    widths: Annotated[
        str | None,
        _option("widths", of=["hnn", "hgn"], help="hnn, lnn, hgn: the hidden widths of the networks, as in 64,64."),
    ] = None,
    periodic: Annotated[
        str | None,
        typer.Option(
            help="hnn, lnn: the coordinates that are angles, as in 0,1, or none. Without, what the files say. hgn: the"
            " abstract positions that are angles."
        ),
    ] = None,
    learn_from: Annotated[
        str | None,
        _option("learn_from", of=["hnn"], help="hnn, lnn: derivatives, states or auto; lnn: residual too."),
    ] = None,
    noise: Annotated[
        str | None,
        typer.Option(
            help="hnn, lnn: a standard deviation, as in 0.1; of positions and momenta, as in 0.1,0.02; or estimate. "
            "Without, what the file says."
        ),
    ] = None,
    window: Annotated[
        int | None, _option("window", of=["hnn"], help="hnn, lnn: steps in a window of states.", min=1)
    ] = None,
    substeps: Annotated[
        int | None,
        _option("substeps", of=["hnn", "hgn"], help="hnn, lnn, hgn: steps between two states or frames.", min=1),
    ] = None,
    polish: Annotated[
        int | None, _option("polish", of=["hnn"], help="hnn, lnn: iterations of L-BFGS at the end.", min=0)
    ] = None,
    regulariser: Annotated[
        float | None, _option("regulariser", of=["lnn"], help="lnn: the share of kinetic energy that is added.")
    ] = None,
    composition: Annotated[
        str | None, _option("composition", of=["lnn"], help=f"lnn: {', '.join(COMPOSITIONS)} or none.")
    ] = None,
    friction: Annotated[bool, typer.Option("--friction", help="hnn, lnn: learn a friction too.")] = False,
    scheme: Annotated[str | None, _option("scheme", of=["hnn", "hgn"], help=f"hnn, hgn: {', '.join(SCHEMES)}.")] = None,
    dim: Annotated[
        int | None, _option("dim", of=["hgn"], help="hgn: abstract positions, or maps of them.", min=1)
    ] = None,
    code: Annotated[
        int | None, typer.Option(help="hgn: entries of the code, or maps.", show_default="twice --dim", min=1)
    ] = None,
    hamiltonian: Annotated[
        str | None, _option("hamiltonian", of=["hgn"], help=f"hgn: {', '.join(HAMILTONIANS)}.")
    ] = None,
    maps: Annotated[
        bool, typer.Option("--maps", help="hgn: positions are maps, and all networks convolutional.")
    ] = False,
    frames: Annotated[
        int | None,
        typer.Option(
            help="hgn: the most frames that the encoder reads.",
            show_default=f"those of a video, at most {_DEFAULTS['hgn']['frames']}",
            min=2,
        ),
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(
            help="hgn: the fewest frames from which it learns to infer.", show_default="as many as it reads", min=1
        ),
    ] = None,
    frames_per_step: Annotated[
        int | None, typer.Option(help="hgn: frames that are drawn in a step.", show_default="all", min=1)
    ] = None,
    growth: Annotated[
        float | None,
        _option("growth", of=["hgn"], help="hgn: the share of the training in which videos grow to their length."),
    ] = None,
    objective: Annotated[str | None, _option("objective", of=["hgn"], help="hgn: elbo or geco.")] = None,
    beta: Annotated[float | None, _option("beta", of=["hgn"], help="hgn: the weight of the divergence.")] = None,
    tolerance: Annotated[
        float | None, _option("tolerance", of=["hgn"], help="hgn: of geco, a share of the variance of the videos.")
    ] = None,
    dt: Annotated[
        float | None,
        typer.Option(help="hgn: the time between two frames, of arrays that do not tell it.", show_default="1"),
    ] = None,
    epochs: Annotated[int | None, _option("epochs", min=1)] = None,
    batch_size: Annotated[int | None, _option("batch_size", min=1)] = None,
    learning_rate: Annotated[float | None, _option("learning_rate")] = None,
    validation: Annotated[float | None, _option("validation", "The share held out; 0 for none.")] = None,
    patience: Annotated[int | None, _option("patience", "Epochs without gain before stopping.", min=1)] = None,
    seed: Seed = 0,
    dtype: Annotated[
        Precision | None, typer.Option(help="By default float32; for hnn and lnn that of the trajectories.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "cpu",
    checkpoint: Annotated[
        Path | None, typer.Option(help="Keep the state of the training here, and go on from it where it exists.")
    ] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Fit a flow to a table, or the energy or Lagrangian behind trajectories or videos; write it to a folder."""
    hidden = None if widths is None else _whole_numbers("widths", widths)
    angles = None if periodic is None else _whole_numbers("periodic", periodic)
    dynamics = {
        "widths": hidden, "periodic": angles, "learn_from": learn_from, "window": window, "substeps": substeps,
        "noise": noise and _noise(noise), "friction": friction or None, "polish": polish,
    }  # fmt: skip
    own: dict[Model, dict[str, Any]] = {
        Model.nhf: {
            "columns": columns, "key": key, "header": header,
            "particles": particles, "n_steps": n_steps, "width": width,
        },
        Model.hnn: {"energy": energy, "scheme": scheme} | dynamics,
        Model.lnn: {"lagrangian": lagrangian, "regulariser": regulariser, "composition": composition} | dynamics,
        Model.hgn: {
            "key": key, "widths": hidden, "width": width, "scheme": scheme, "substeps": substeps, "dim": dim,
            "code": code, "hamiltonian": hamiltonian, "maps": maps or None, "frames": frames, "context": context,
            "periodic": angles, "frames_per_step": frames_per_step, "growth": growth, "objective": objective,
            "beta": beta, "tolerance": tolerance, "dt": dt,
        },
    }  # fmt: skip
    for other in Model:
        foreign = [name for name in _given(own[other]) if name not in own[model]]
        if foreign:
            name = f"--{foreign[0].replace('_', '-')}"
            raise InputError(f"{name} belongs to --model {other}, and the model is {model}: leave one of them out")
    training = _given({
        "epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate, "validation": validation,
        "patience": patience, "seed": seed, "dtype": dtype and getattr(torch, dtype.value), "device": device,
        "checkpoint": checkpoint, "progress": not quiet,
    })  # fmt: skip
    if training.get("validation") == 0:
        training["validation"] = None
    check_run_target(out, overwrite)
    if model == Model.nhf:
        if len(data) > 1:
            raise InputError(f"{len(data)} files were given, expected one table: the other models take several")
        _fit_density(data[0], out, _given(own[model]), training)
    elif model == Model.hgn:
        fit_videos(data, out, _given(own[model]), training)
    else:
        _fit_dynamics(HNN if model == Model.hnn else LNN, data, out, _given(own[model]), training)


def _noise(text: str) -> Any:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        return text
    return numbers[0] if len(numbers) == 1 else numbers


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _fit_density(data: Path, out: Path, own: dict[str, Any], training: dict[str, Any]) -> None:
    columns = own.pop("columns", None)
    reading = {name: own.pop(name) for name in ("key", "header") if name in own}
    table, names = read_table(data, None if columns is None else [c.strip() for c in columns.split(",")], **reading)
    import pandas as pd

    frame = pd.DataFrame(table, columns=names)
    check_training_table(frame, str(data))
    check_places(out, training)
    model = NHF(len(names), seed=training["seed"], **own).fit(frame, **training)
    write_run(model, out)
    if training["progress"]:
        report(model, f"{data}: {table.shape[0]} rows, {table.shape[1]} columns")
        best = -min([model.history.start, *model.history.validation])
        print(
            f"validation rows: {best:.3f} nats a row, a lower bound on log p; they chose the model, so it is optimistic"
        )
        print(f"model: {out}")


def _fit_dynamics(
    kind: type[HNN] | type[LNN], data: list[Path], out: Path, own: dict[str, Any], training: dict[str, Any]
) -> None:
    sets = [Trajectories.load(file) for file in data]
    checked_sets(sets, dim=sets[0].dim)
    check_places(out, training)
    learning = {name: own.pop(name) for name in ("learn_from", "noise", "window", "substeps", "polish") if name in own}
    if own.get("composition") == "none":
        own["composition"] = None
    model = kind(sets[0].dim, seed=training["seed"], **own)
    if model.config["periodic"] is not None:
        angles = {"periodic": model.config["periodic"]}
        sets = [part.replace(metadata=dict(part.metadata) | angles) for part in sets]
    # Before the training: nothing that the files lack may throw its result away.
    beginnings = Beginnings.joined([Beginnings.of(part, model.second, learning.get("noise")) for part in sets])
    model.fit(sets, **learning, **training)
    write_run(model, out, beginnings)
    if training["progress"]:
        lengths = sorted({part.n_times for part in sets})
        states = f"{lengths[0]} to {lengths[-1]}" if len(lengths) > 1 else lengths[0]
        given = ", ".join(sets[0].given)
        what = f"{sum(part.n for part in sets)} trajectories of {states} states with {given}"
        report(model, f"{', '.join(map(str, data))}: {what}")
        if model.config["friction"]:
            print(f"friction: {friction_of(model)}")
        print(f"model: {out}")


def _whole_numbers(name: str, text: str) -> tuple[int, ...]:
    if name == "periodic" and text == "none":
        return ()
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(
            f"--{name} = {text!r}, expected whole numbers as in {'64,64' if name == 'widths' else '0,1'}"
        ) from error
