"""What all figures share: axes, colours, and how much of a table is shown."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from numpy.typing import NDArray

from hamflow.errors import check_rows

STYLE = "ticks"
DATA, MODEL = "#3d6f9e", "#d4603b"
MAX_POINTS = 2000


def pick_axes(ax: Axes | None, size: tuple[float, float] = (5.0, 4.2)) -> Axes:
    """The axes given, or those of a new figure."""
    if ax is not None:
        return ax
    with sns.axes_style(STYLE):
        return plt.subplots(figsize=size, layout="constrained")[1]


def to_array(x: Any, name: str, dim: int | None = None) -> NDArray[np.float64]:
    """A finite table as a NumPy array, (n, dim)."""
    rows: NDArray[np.float64] = check_rows(x, name, dim=dim).detach().double().cpu().numpy()
    return rows


def some(rows: NDArray[np.float64], n: int = MAX_POINTS) -> NDArray[np.float64]:
    """At most ``n`` rows, the same every time: more points than that only hide each other."""
    return rows if len(rows) <= n else rows[np.random.default_rng(0).choice(len(rows), n, replace=False)]


def box(rows: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The corners of a box that holds nearly all rows, with a margin."""
    low, high = np.quantile(rows, [0.002, 0.998], axis=0)
    margin = 0.12 * np.maximum(high - low, 1e-12)
    return low - margin, high + margin
