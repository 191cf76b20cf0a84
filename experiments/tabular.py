"""How every contender is trained on a table: its parameters, its iterations, the rows that its settings may see."""

from __future__ import annotations

from contenders import Schedule
from datasets import SMALL_ROWS

SMALL = Schedule(iterations=2000, batch_size=64, patience=30, decay="plateau")
LARGE = Schedule(iterations=2000, batch_size=256, patience=30, decay="plateau")
QUICK = Schedule(iterations=4, batch_size=64)


def budget_of(dim: int) -> int:
    """How many parameters a contender may have on a table of that many columns."""
    return 30_000 if dim < 20 else 40_000 if dim < 40 else 60_000


def schedule_of(rows: int, quick: bool) -> Schedule:
    """How the contenders are trained on a table of that many rows."""
    if quick:
        return QUICK
    return SMALL if rows < SMALL_ROWS else LARGE
