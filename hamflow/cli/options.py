"""What several verbs take, with one wording."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from hamflow.steps import SCHEMES

MAX_SEED = 2**32 - 1


class Precision(StrEnum):
    """The floating-point numbers to compute with."""

    float32 = "float32"
    float64 = "float64"


Run = Annotated[Path, typer.Argument(help="The folder that `hamflow fit` wrote.", show_default=False)]
Data = Annotated[Path, typer.Argument(help="A table: CSV, NPY, NPZ or Parquet.", show_default=False)]
Key = Annotated[str | None, typer.Option(help="The array of an NPZ file, where it holds several.")]
Header = Annotated[
    bool | None,
    typer.Option("--header/--no-header", help="Whether a text file begins with names; found out without."),
]
Setting = Annotated[
    list[str] | None, typer.Option("--set", help="A parameter of the system: mass=2, masses=1,2; again for more.")
]
Seen = Annotated[
    int | None,
    typer.Option(min=2, help="Show the model only the first so many frames.", show_default="all of them"),
]
Seed = Annotated[int, typer.Option(min=0, max=MAX_SEED, help="The same seed gives the same result.")]
Scheme = Annotated[
    str | None,
    typer.Option(help=f"The splitting scheme, for separable energies: {', '.join(SCHEMES)}.", show_default=False),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but warnings and errors.")]
