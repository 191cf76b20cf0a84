"""What a fitted density does: ``hamflow sample``, which a model of videos does too, and ``hamflow score``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hamflow.cli.options import Data, Header, Key, Overwrite, Quiet, Run, Seed
from hamflow.cli.runs import check_target, other_kind, read_density, read_run
from hamflow.cli.videos import SAMPLES, sample_videos
from hamflow.errors import InputError
from hamflow.io import check_table_path, read_table, write_table
from hamflow.models import HGN, NHF

_ROWS = 1000  # that are drawn where nobody says how many


def sample(
    run: Run,
    out: Annotated[
        Path, typer.Option(help="The table to write; of a model of videos HDF5, NPZ or GIF.", show_default=False)
    ],
    n: Annotated[
        int | None,
        typer.Option("-n", "--n", min=1, help="How many.", show_default=f"{_ROWS} rows, or {SAMPLES} videos"),
    ] = None,
    n_frames: Annotated[
        int | None,
        typer.Option(min=2, help="hgn: the frames of a video.", show_default="as many as the encoder reads"),
    ] = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Draw new rows from a fitted flow, or make up videos."""
    check_target(out, overwrite)
    model = read_run(run)
    if isinstance(model, HGN):
        done = sample_videos(model, out, n or SAMPLES, n_frames, seed)
    elif isinstance(model, NHF):
        if n_frames is not None:
            raise InputError(f"--n-frames is for models of videos, and {run} holds a density model: leave it out")
        check_table_path(out)
        write_table(out, model.sample(n or _ROWS, seed=seed).cpu().numpy(), model.columns)
        done = f"{n or _ROWS} rows of {model.dim} columns: {out}"
    else:
        raise other_kind(run, model, "a density model or one of videos")
    if not quiet:
        print(done)


def score(
    run: Run,
    data: Data,
    out: Annotated[Path, typer.Option(help="The table to write: one score a row.", show_default=False)],
    particles: Annotated[int, typer.Option(min=1, help="More particles give a tighter bound.")] = 256,
    seed: Seed = 0,
    key: Key = None,
    header: Header = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Score rows: a lower bound on the log density of each, in nats."""
    check_target(out, overwrite)
    check_table_path(out)
    model = read_density(run)
    table, _ = read_table(data, model.columns, key=key, header=header)
    bound = model.log_prob(table, particles=particles, seed=seed).double().cpu()
    write_table(out, bound.reshape(-1, 1).numpy(), ["log_prob_lower_bound"])
    if not quiet:
        print(f"{len(table)} scores: {out}")
        print(f"mean log p >= {bound.mean():.3f} nats a row (a lower bound in expectation, {particles} particles)")
