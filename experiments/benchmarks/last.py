"""How figures compare with those that were committed last."""

from __future__ import annotations

import json
import statistics
import subprocess
from pathlib import Path

from report import Row

#: Ratios and memory hold from run to run; times alone depend on what else the machine does.
_UNITS = ("times", "MiB")


def committed(path: Path) -> list[Row]:
    """The rows of a metrics.json as the last commit of its repository has them; none where there is no such thing."""
    try:
        shown = subprocess.run(
            ["git", "show", f"HEAD:./{path.name}"], cwd=path.parent, capture_output=True, check=True, timeout=60
        )
        return list(json.loads(shown.stdout))
    except (OSError, subprocess.SubprocessError, ValueError):
        return []


def compare(now: list[Row], before: list[Row]) -> list[str]:
    """One line a ratio or memory that both have: what it is, what it was, and the quotient, the mean over seeds."""
    new, old = _means(now), _means(before)
    return [
        f"{case:16} {metric:52} {new[case, metric]:10.3g} was {old[case, metric]:10.3g}  x {quotient:.3f}"
        for case, metric in sorted(new.keys() & old.keys())
        if old[case, metric] and (quotient := new[case, metric] / old[case, metric])
    ]


def _means(rows: list[Row]) -> dict[tuple[str, str], float]:
    found: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        if row["unit"] in _UNITS and "seed" in row and not row["metric"].endswith("quartile"):
            found.setdefault((row["case"], row["metric"]), []).append(row["value"])
    return {key: statistics.mean(values) for key, values in found.items()}
