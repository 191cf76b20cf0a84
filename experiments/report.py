"""What an experiment writes: tidy rows that survive an interruption, a table, and one page over all tables."""

from __future__ import annotations

import hashlib
import json
import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hamflow.io import atomic_path

Row = dict[str, Any]
Key = tuple[str, str, int]

HIGHER_IS_BETTER = {
    "p_value",
    "pareto_k_below_0_7",
    "bracket_contains_truth",
    "sets_better_than_realnvp",
    "sets_better_than_realnvp_corrected",
    "sets_level_with_nsf",
    "sets_no_worse_than_gmm",
    "speedup_over_double_backward",
    "better_than_kepler",
    "speedup_over_products",
    "speedup_over_full_hessian",
    "speedup_over_sample_loop",
    "speedup_at_once",
    "times_better_than_mlp",
    "times_better_than_latent_mlp",
    "reconstruction_skill",
    "inference_skill",
    "accepted_samples",
    "elbo_minus_best_stock",
    "times_ess_per_gradient",
    "covered_between",
    "covered_ahead",
    "speedup_train_over_nhf_autograd",
    "speedup_train_over_zuko_nsf",
    "speedup_sample_over_nflows_rq_nsf",
    "speedup_sample_over_zuko_nsf",
    "speedup_sample_over_zuko_cnf",
    "speedup_over_scipy",
    "matmul_share_stored_d256",
}
VERDICTS = ("short", "reached", "stretch reached")


def write_text(path: Path, text: str) -> None:
    """Replace a file in one move, so that a reader or a crash never meets half of it."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def fingerprint(configuration: Row) -> str:
    """Short hash of everything in a configuration that could change a figure."""
    return hashlib.sha256(json.dumps(configuration, sort_keys=True).encode()).hexdigest()[:12]


class ResultStore:
    """The rows of one experiment in metrics.json, one figure a row.

    Rows with a seed come from a run and carry the fingerprint of its configuration as "config". Rows without a seed are
    derived from those and rewritten as a whole.
    """

    def __init__(self, folder: Path, *, quick: bool = False) -> None:
        self.path = folder / "metrics.json"
        self.quick = quick
        self.rows: list[Row] = []
        if self.path.exists():
            try:
                self.rows = json.loads(self.path.read_text(encoding="utf-8"))
            except json.JSONDecodeError as error:
                raise ValueError(f"{self.path} is not valid JSON ({error}); move it away to start afresh") from error
        if any(bool(row.get("quick")) != quick for row in self.rows):
            raise ValueError(f"{self.path} holds {'full' if quick else 'quick'} results; choose another --out")

    def is_finished(self, key: Key, config: str) -> bool:
        """Whether a run of this configuration has ended without failing."""
        rows = [row for row in self.rows if _key(row) == key]
        return bool(rows) and all(row["config"] == config and row["metric"] != "failed" for row in rows)

    def add(self, key: Key, config: str, rows: Iterable[Row]) -> None:
        """Put the rows of one run in the place of any older rows of the same case, model and seed."""
        case, model, seed = key
        head = {"case": case, "model": model, "seed": seed, "config": config, **self._mark()}
        self.rows = [row for row in self.rows if _key(row) != key] + [{**head, **row} for row in rows]
        self._write()

    def drop_stale(self, current: dict[tuple[str, str], Row]) -> None:
        """Forget the runs of a case and model whose configuration is no longer the current one.

        Figures of different configurations in one table would be compared as if they were made alike.
        """
        configs = {key: fingerprint(configuration) for key, configuration in current.items()}
        self.rows = [
            row
            for row in self.rows
            if "seed" not in row or row["config"] == configs.get((row["case"], row["model"]), row["config"])
        ]

    def set_derived(self, rows: Iterable[Row]) -> None:
        """Replace all rows that have no seed."""
        self.rows = [row for row in self.rows if "seed" in row] + [{**row, **self._mark()} for row in rows]
        self._write()

    def values(self, case: str, model: str, metric: str) -> dict[int, float]:
        """Value by seed of one metric."""
        wanted = (case, model, metric)
        found = [row for row in self.rows if "seed" in row and (row["case"], row["model"], row["metric"]) == wanted]
        return {row["seed"]: row["value"] for row in found}

    def _mark(self) -> Row:
        return {"quick": True} if self.quick else {}

    def _write(self) -> None:
        ordered = sorted(self.rows, key=lambda r: (r["case"], r["model"], r.get("seed", math.inf), r["metric"]))
        lines = ",\n".join(json.dumps(row) for row in ordered)
        write_text(self.path, f"[\n{lines}\n]\n")


def _key(row: Row) -> Key | None:
    return (row["case"], row["model"], row["seed"]) if "seed" in row else None


def mean_and_error(values: Iterable[float]) -> tuple[float, float]:
    """Mean, and standard error of the mean (NaN for a single value)."""
    numbers = list(values)
    mean = sum(numbers) / len(numbers)
    if len(numbers) < 2:
        return mean, math.nan
    variance = sum((v - mean) ** 2 for v in numbers) / (len(numbers) - 1)
    return mean, math.sqrt(variance / len(numbers))


@dataclass(frozen=True)
class Figure:
    """One metric of one model on one case, over all seeds.

    The centre is the mean; where the rows ask for it by "summary": "median" it is the median, with its range.
    """

    case: str
    model: str
    metric: str
    mean: float
    error: float
    n: int
    unit: str
    params: float | None
    seconds: float | None
    reference: float | None
    bar: float | None
    stretch: float | None
    given_verdict: str | None
    against: str | None
    extremes: tuple[float, float] | None = None

    @property
    def verdict(self) -> str:
        """Where the centre stands against the bar and the stretch, unless the rows bring a verdict."""
        if self.given_verdict is not None:
            return self.given_verdict
        if self.bar is None:
            return ""
        if not self._meets(self.bar):
            return "short"
        return "stretch reached" if self.stretch is not None and self._meets(self.stretch) else "reached"

    def _meets(self, bar: float) -> bool:
        return self.mean >= bar if self.metric in HIGHER_IS_BETTER else self.mean <= bar

    @property
    def shown(self) -> str:
        """Mean and standard error, or median and range, as text, and whom a difference is to."""
        if self.extremes is not None:
            low, high = self.extremes
            return f"{number(self.mean)} (median; {number(low)} to {number(high)})"
        error = "" if math.isnan(self.error) else f" ± {number(self.error)}"
        return number(self.mean) + error + ("" if self.against is None else f" (to {self.against})")


def summarise(rows: Iterable[Row]) -> list[Figure]:
    """Gather rows over seeds; a row without a seed brings its own standard error."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["case"], row["model"], row["metric"]), []).append(row)
    figures = []
    for (case, model, metric), group in groups.items():
        first, values = group[0], [row["value"] for row in group]
        mean, error = mean_and_error(values)
        extremes = None
        if first.get("summary") == "median":
            mean, error, extremes = statistics.median(values), math.nan, (min(values), max(values))
        figures.append(
            Figure(
                case,
                model,
                metric,
                mean,
                first.get("standard_error", error),
                first.get("n", len(group)),
                first.get("unit", ""),
                _mean_of(group, "params"),
                _mean_of(group, "train_seconds"),
                _mean_of(group, "reference"),
                first.get("bar"),
                first.get("stretch"),
                first.get("verdict"),
                first.get("against"),
                extremes,
            )
        )
    return figures


def _mean_of(rows: list[Row], name: str) -> float | None:
    numbers = [row[name] for row in rows if row.get(name) is not None]
    return sum(numbers) / len(numbers) if numbers else None


def number(value: float | None, digits: int = 3) -> str:
    """A figure of a table."""
    if value is None:
        return ""
    if 0 < abs(value) < 1e-3:
        return f"{value:.2e}"
    return f"{value:.{digits + (0 < abs(value) < 0.1)}f}"


def _whole(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def markdown(header: list[str], lines: list[list[str]]) -> str:
    """A table in Markdown."""
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def write_table(store: ResultStore, title: str, notes: str, cases: Iterable[str]) -> None:
    """Write table.md: for every case its figures, contenders side by side, then what was derived from them."""
    figures = summarise(store.rows)
    parts = [f"# {title}\n", notes.strip() + "\n"]
    header = ["model", "metric", "mean ± standard error", "runs", "params", "CPU s", "reference", "bar", "verdict"]
    for case in [*cases, "all"]:
        chosen = [figure for figure in figures if figure.case == case]
        if not chosen:
            continue
        chosen.sort(key=lambda f: (f.metric != "nll", f.metric, f.mean))
        parts.append(f"## {case}\n")
        lines = []
        for f in chosen:
            bar = number(f.bar) + ("" if f.stretch is None else f" (stretch {number(f.stretch)})")
            cells = [f.model, f.metric, f.shown, str(f.n), _whole(f.params), number(f.seconds, 1)]
            lines.append([*cells, number(f.reference), bar, f.verdict])
        parts.append(markdown(header, lines))
    write_text(store.path.parent / "table.md", "\n".join(parts))
