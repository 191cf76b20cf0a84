"""The command line: ``hamflow fit``, ``sample``, ``score`` and ``plot``.

Every error is one line on stderr: exit code 2 where the user can mend it, 1 where the computation failed.
"""

from __future__ import annotations

import json
import os
import sys
import uuid
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from hamflow.errors import CheckpointError, FitError, InputError, SolveError, check_device, check_training_table
from hamflow.io import atomic_path, check_table_path, read_table, write_table
from hamflow.models import NHF, load

_COLUMNS = "columns.json"
_MAX_SEED = 2**32 - 1
# The ancestor of all of typer's usage errors; which package it comes from depends on the version of typer.
_ClickError: Any = typer.BadParameter.__mro__[2]

app = typer.Typer(
    help="Neural Hamiltonian Flows for tables of numbers: fit, sample, score, plot.",
    add_completion=False,
    pretty_exceptions_enable=False,
)


class Precision(StrEnum):
    """The floating-point numbers to compute with."""

    float32 = "float32"
    float64 = "float64"


class Picture(StrEnum):
    """What ``hamflow plot`` draws."""

    auto = "auto"
    samples = "samples"
    density = "density"
    history = "history"
    trajectories = "trajectories"


Run = Annotated[Path, typer.Argument(help="The folder that `hamflow fit` wrote.", show_default=False)]
Data = Annotated[Path, typer.Argument(help="A table: CSV, NPY, NPZ or Parquet.", show_default=False)]
Key = Annotated[str | None, typer.Option(help="The array of an NPZ file, where it holds several.")]
Seed = Annotated[int, typer.Option(min=0, max=_MAX_SEED, help="The same seed gives the same result.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]


@app.command()
def fit(
    data: Data,
    out: Annotated[Path, typer.Option(help="The folder to write the fitted model to.", show_default=False)],
    columns: Annotated[str | None, typer.Option(help="The columns to use, as in a,b,c; all without.")] = None,
    key: Key = None,
    epochs: Annotated[int, typer.Option(min=1)] = 200,
    batch_size: Annotated[int, typer.Option(min=1)] = 256,
    learning_rate: Annotated[float, typer.Option()] = 2e-3,
    particles: Annotated[int, typer.Option(min=1, help="Particles of the training bound.")] = 8,
    n_steps: Annotated[int, typer.Option(min=1, help="Hamiltonian steps.")] = 8,
    width: Annotated[int, typer.Option(min=1, help="Ridges of each potential.")] = 64,
    validation: Annotated[float, typer.Option(help="The share of rows held out.")] = 0.1,
    patience: Annotated[int, typer.Option(min=1, help="Epochs without gain before stopping.")] = 30,
    seed: Seed = 0,
    dtype: Annotated[Precision, typer.Option()] = Precision.float32,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "cpu",
    checkpoint: Annotated[
        Path | None, typer.Option(help="Keep the state of the training here, and go on from it where it exists.")
    ] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Fit a flow to a table and write it to a folder."""
    _check_run_target(out, overwrite)
    table, names = read_table(data, None if columns is None else [c.strip() for c in columns.split(",")], key=key)
    check_training_table(table, str(data))
    check_device(device)
    for target in (out, *([checkpoint] if checkpoint else [])):
        _check_writable(target)
    model = NHF(table.shape[1], n_steps=n_steps, width=width, particles=particles, seed=seed)
    model.fit(
        table, epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, validation=validation,
        patience=patience, seed=seed, dtype=getattr(torch, dtype.value), device=device, checkpoint=checkpoint,
        progress=not quiet,
    )  # fmt: skip
    write_run(model, names, out)
    if not quiet:
        _report_fit(model, data, table.shape, epochs, out)


@app.command()
def sample(
    run: Run,
    out: Annotated[Path, typer.Option(help="The table to write.", show_default=False)],
    n: Annotated[int, typer.Option("-n", "--n", min=1, help="How many rows.")] = 1000,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Draw new rows from a fitted flow."""
    _check_table_target(out, overwrite)
    model, names = read_run(run)
    write_table(out, model.sample(n, seed=seed).cpu().numpy(), names)
    if not quiet:
        print(f"{n} rows of {len(names)} columns: {out}")


@app.command()
def score(
    run: Run,
    data: Data,
    out: Annotated[Path, typer.Option(help="The table to write: one score a row.", show_default=False)],
    particles: Annotated[int, typer.Option(min=1, help="More particles give a tighter bound.")] = 256,
    seed: Seed = 0,
    key: Key = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Score rows: a lower bound on the log density of each, in nats."""
    _check_table_target(out, overwrite)
    model, names = read_run(run)
    table, _ = read_table(data, names, key=key)
    bound = model.log_prob(table, particles=particles, seed=seed).double().cpu()
    write_table(out, bound.reshape(-1, 1).numpy(), ["log_prob_lower_bound"])
    if not quiet:
        print(f"{len(table)} scores: {out}")
        print(f"mean log p >= {bound.mean():.3f} nats a row (a lower bound in expectation, {particles} particles)")


@app.command()
def plot(
    run: Run,
    out: Annotated[Path, typer.Option(help="The figure to write: PNG, PDF, SVG, ...", show_default=False)],
    data: Annotated[Path | None, typer.Option(help="A table to draw as well.")] = None,
    key: Key = None,
    kind: Annotated[Picture, typer.Option(help="auto: density for two columns, else samples.")] = Picture.auto,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Draw a fitted flow."""
    _check_target(out, overwrite)
    # Only this command waits for matplotlib, and needs no display.
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    known = plt.figure().canvas.get_supported_filetypes()
    if out.suffix.lower().removeprefix(".") not in known:
        raise InputError(f"{out} has the suffix {out.suffix!r}, expected one of {', '.join(sorted(known))}")
    model, names = read_run(run)
    table = None if data is None else read_table(data, names, key=key)[0]
    if kind == Picture.auto:
        kind = Picture.density if model.dim == 2 else Picture.samples
    with atomic_path(out) as temporary:
        _draw(kind, model, names, table, seed).savefig(temporary, bbox_inches="tight", dpi=150)
    plt.close("all")
    if not quiet:
        print(f"{kind.value} of {run}: {out}")


def _draw(kind: Picture, model: NHF, names: list[str], table: Any, seed: int) -> Any:
    from hamflow import plots

    if kind == Picture.density:
        return plots.plot_density_2d(model, table, columns=names, seed=seed).figure
    if kind == Picture.samples:
        return plots.plot_samples(model, table, columns=names, seed=seed)
    if kind == Picture.history:
        return plots.plot_history(model.history).figure
    return plots.plot_trajectories(model, columns=names, seed=seed).figure


def _check_target(path: Path, overwrite: bool) -> None:
    if path.is_dir():
        raise InputError(f"{path} is a folder, expected the name of a file to write")
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists; --overwrite replaces it")


def _check_table_target(path: Path, overwrite: bool) -> None:
    _check_target(path, overwrite)
    check_table_path(path)


def _check_run_target(out: Path, overwrite: bool) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file, expected a folder")
    if out.is_dir() and any(out.iterdir()):
        # Only a run gives way to a run: a folder of something else is a mistake.
        if not (out / _COLUMNS).exists():
            raise InputError(f"{out} is a folder that holds other things, expected a new one or one that fit wrote")
        if not overwrite:
            raise InputError(f"{out} exists; --overwrite replaces it")


def _check_writable(path: Path) -> None:
    # Before the training, whose result would be lost: the nearest folder that exists must take new files.
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise InputError(f"{path} cannot be written: {parent} is not a folder that can be written to")


def write_run(model: NHF, names: list[str], out: Path) -> None:
    """Write the model and its columns; a new folder appears whole, and in an old one the model changes last."""
    target = out if out.exists() else out.with_name(f".{uuid.uuid4().hex[:12]}-{out.name}")
    with atomic_path(target / _COLUMNS) as temporary:
        temporary.write_text(json.dumps({"columns": names}, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    model.save(target)
    if target != out:
        os.replace(target, out)


def read_run(run: Path) -> tuple[NHF, list[str]]:
    """The model in a folder and the names of its columns; x0, x1, ... where it was saved without."""
    if not run.is_dir():
        raise InputError(f"{run} is {'a file' if run.exists() else 'not there'}, expected a folder that fit wrote")
    model = load(run)
    if not isinstance(model, NHF):
        raise InputError(f"{run} holds a model of dynamics, expected a density model")
    path = run / _COLUMNS
    if not path.exists():
        return model, [f"x{i}" for i in range(model.dim)]
    try:
        names = json.loads(path.read_text(encoding="utf-8"))["columns"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged, expected the names of the columns") from error
    if not isinstance(names, list) or len(names) != model.dim or not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"{path} is damaged, expected {model.dim} names of columns")
    return model, names


def _report_fit(model: NHF, data: Path, shape: tuple[int, ...], epochs: int, out: Path) -> None:
    history = model.history
    params = sum(p.numel() for p in model.parameters() if p.requires_grad)
    print(f"{data}: {shape[0]} rows, {shape[1]} columns; {params} parameters; {history.seconds:.0f} s of CPU time")
    for note in history.notes:
        print(f"note: {note}")
    best = min([history.start, *history.validation])
    print(f"kept epoch {history.best_epoch} of {epochs}")
    print(f"validation rows: {-best:.3f} nats a row, a lower bound on log p; they chose the model, so it is optimistic")
    print(f"model: {out}")


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"hamflow {version('hamflow')}")
        except PackageNotFoundError:  # a source tree that was never installed
            print("hamflow 0+unknown")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Neural Hamiltonian Flows for tables of numbers: fit, sample, score, plot."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 2 for an error of the user's, 1 for a failed computation."""
    try:
        code = app(args=None if argv is None else list(argv), prog_name="hamflow", standalone_mode=False)
    except typer.Abort:
        return _fail("interrupted", 130)
    except _ClickError as error:
        return _fail(f"{error.format_message()} (hamflow --help shows what is possible)", 2)
    except (InputError, CheckpointError) as error:
        return _fail(str(error), 2)
    except (FitError, SolveError, MemoryError) as error:
        return _fail(str(error) or "out of memory", 1)
    except OSError as error:
        return _fail(f"{error.filename or 'file'}: {error.strerror or error}", 2)
    return code if isinstance(code, int) else 0


def _fail(message: str, code: int) -> int:
    print(f"hamflow: error: {' '.join(message.split())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
