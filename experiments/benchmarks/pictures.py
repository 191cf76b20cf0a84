"""The cost of a training step against depth, batch and dimension."""

from __future__ import annotations

import re
import statistics
from pathlib import Path
from typing import Any

from report import ResultStore


def draw(store: ResultStore, folder: Path) -> None:
    """Write depth_nhf.png, depth_rollout.png, batch.png and dimension.png, of what has been measured."""
    import matplotlib

    matplotlib.use("Agg")
    import pandas as pd
    import seaborn as sns
    from matplotlib import pyplot as plt

    def panel(axes: Any, points: list[tuple[float, str, float]], x: str, y: str) -> None:
        frame = pd.DataFrame(points, columns=[x, "contender", y])
        sns.lineplot(frame, x=x, y=y, hue="contender", style="contender", markers=True, dashes=False, ax=axes)
        axes.set(xscale="log", yscale="log")
        axes.legend(fontsize="small")

    for case in ("depth_nhf", "depth_rollout"):
        memory, time = (
            _points(store, case, rf"{what}_(?P<name>constant|stored)_(?P<x>\d+)") for what in ("memory", "time")
        )
        if memory and time:
            figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
            panel(left, memory, "steps", "peak memory [MiB]")
            panel(right, time, "steps", "time of a gradient [ms]")
            figure.suptitle("d = 16, batch 512: the memory of gradients")
            figure.savefig(folder / f"{case}.png", dpi=90)
            plt.close(figure)
    sizes = _points(store, "batches", r"train_(?P<name>\w+)_batch_(?P<x>\d+)")
    if sizes:
        figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
        panel(axes, sizes, "rows of a batch", "time of a training step [ms]")
        axes.set_title("d = 16")
        figure.savefig(folder / "batch.png", dpi=90)
        plt.close(figure)
    figure, panels = plt.subplots(1, 3, figsize=(14, 4.2), layout="constrained")
    for axes, what in zip(panels, ("train", "log_prob", "sample"), strict=True):
        points = [
            (float(case.removeprefix("density_d")), name, value)
            for case in sorted({row["case"] for row in store.rows if row["case"].startswith("density_d")})
            for _, name, value in _points(store, case, rf"{what}_(?P<name>(?!memory)\w+)(?P<x>)")
        ]
        if points:
            panel(axes, points, "d", f"{what}, batch of 512 [ms]")
    figure.savefig(folder / "dimension.png", dpi=90)
    plt.close(figure)


def _points(store: ResultStore, case: str, pattern: str) -> list[tuple[float, str, float]]:
    # (x, contender, the mean over seeds) of the metrics whose whole name is the pattern.
    found: dict[tuple[float, str], list[float]] = {}
    for row in store.rows:
        match = re.fullmatch(pattern, row["metric"])
        if row["case"] == case and match and "seed" in row:
            found.setdefault((float(match["x"] or 0), match["name"]), []).append(row["value"])
    return [(x, name, statistics.mean(values)) for (x, name), values in sorted(found.items())]
