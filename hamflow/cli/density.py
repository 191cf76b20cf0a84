"""What a fitted density does: ``hamflow sample`` and ``hamflow score``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hamflow.cli.options import Data, Header, Key, Overwrite, Quiet, Run, Seed
from hamflow.cli.runs import check_target, read_density
from hamflow.io import check_table_path, read_table, write_table


def sample(
    run: Run,
    out: Annotated[Path, typer.Option(help="The table to write.", show_default=False)],
    n: Annotated[int, typer.Option("-n", "--n", min=1, help="How many rows.")] = 1000,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Draw new rows from a fitted flow."""
    check_target(out, overwrite)
    check_table_path(out)
    model = read_density(run)
    write_table(out, model.sample(n, seed=seed).cpu().numpy(), model.columns)
    if not quiet:
        print(f"{n} rows of {model.dim} columns: {out}")


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
