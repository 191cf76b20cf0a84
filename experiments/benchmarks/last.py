"""How figures compare with those that were committed last."""

from __future__ import annotations

import json
import statistics
import subprocess
from pathlib import Path

from report import Row

#: Ratios and memory hold from run to run; times alone depend on what else the machine does.
_UNITS = ("times", "MiB")
_TENTH = 1.1


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
    """One line a ratio or memory that both have in one configuration: what it is, what it was, and the quotient.

    Speedups, and times of one form over another, are better higher, all else is better lower; what is worse by a tenth
    is said to be.
    """
    new, old = _means(now), _means(before)
    lines = []
    for case, metric, config in sorted(key for key in new.keys() & old.keys() if old[key]):
        one, other = new[case, metric, config], old[case, metric, config]
        worse = other / one if "speedup" in metric or "_over_" in metric else one / other
        note = "  worse" if worse > _TENTH else ""
        lines.append(f"{case:16} {metric:52} {one:10.3g} was {other:10.3g}  x {one / other:.3f}{note}")
    return lines


def _means(rows: list[Row]) -> dict[tuple[str, str, str], float]:
    found: dict[tuple[str, str, str], list[float]] = {}
    for row in rows:
        if row["unit"] in _UNITS and "seed" in row and not row["metric"].endswith("quartile"):
            found.setdefault((row["case"], row["metric"], row["config"]), []).append(row["value"])
    return {key: statistics.mean(values) for key, values in found.items()}
