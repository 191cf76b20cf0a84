"""The figure of a training."""

from __future__ import annotations

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes

from hamflow.errors import InputError
from hamflow.plots.canvas import DATA, MODEL, pick_axes
from hamflow.training import History


def plot_history(
    history: History, *, quantity: str = "loss in nats a row", log: bool = False, ax: Axes | None = None
) -> Axes:
    """The training and validation loss by epoch, and the epoch whose weights were kept.

    Args:
        history: what ``fit`` recorded; a model carries it as ``model.history``.
        quantity: what the losses are; those of dynamics are mean squares.
        log: whether to draw on a logarithmic scale, for positive losses that fall by orders of magnitude.
        ax: where to draw; a new figure without.

    Returns:
        The axes.

    Raises:
        InputError: the history has no epoch.

    Example:
        >>> from hamflow.plots import plot_history
        >>> from hamflow.training import History
        >>> plot_history(History(train=[3.0, 2.0], validation=[3.5, 2.5], best_epoch=2)).get_ylabel()
        'loss in nats a row'
    """
    if history is None or not history.train:
        raise InputError("history has no epoch, expected that of a fitted model")
    ax = pick_axes(ax)
    curves: dict[str, tuple[int, list[float], str]] = {"training": (1, history.train, DATA)}
    if history.validation:
        # Epoch 0 is the model before training, where it is known.
        known = bool(np.isfinite(history.start))
        values = [history.start, *history.validation] if known else history.validation
        curves["validation"] = (0 if known else 1, values, MODEL)
    for label, (start, values, colour) in curves.items():
        ax.plot(range(start, start + len(values)), values, color=colour, label=label, marker="" if values[1:] else "o")
    ax.axvline(history.best_epoch, color="black", linewidth=0.8, linestyle=":", label="kept")
    # The first epochs may be far above the rest, and the rest is what one wants to see.
    every = np.concatenate([values for _, values, _ in curves.values()])
    low, high = np.min(every), np.quantile(every, 0.97)
    if log:
        ax.set_yscale("log")
    elif high > low:
        ax.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    ax.set(xlabel="epoch", ylabel=quantity)
    ax.legend(frameon=False)
    sns.despine(ax=ax)
    return ax
