"""Figures of fitted densities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from torch import Tensor

from hamflow.errors import InputError, check_positive
from hamflow.models.nhf import NHF
from hamflow.plots.canvas import DATA, MODEL, STYLE, box, pick_axes, some, to_array


def _names(columns: Sequence[str] | None, dim: int) -> list[str]:
    names = [f"x{i}" for i in range(dim)] if columns is None else [str(name) for name in columns]
    if len(names) != dim:
        raise InputError(f"columns has {len(names)} names, expected {dim}")
    return names


def plot_density_2d(
    model: NHF,
    x: Any = None,
    *,
    columns: Sequence[str] | None = None,
    grid: int = 100,
    particles: int = 64,
    seed: int = 0,
    ax: Axes | None = None,
) -> Axes:
    r"""The density of a two-dimensional model on a grid, :math:`e^{L_K(x)}`, and data points on top.

    The mean importance weight is an unbiased estimate of the density: the picture is right on average, and noisier with
    fewer particles.

    Args:
        model: a fitted model with dim = 2.
        x: rows to draw, (n, 2), which also set the frame; without, the model's own samples set it.
        columns: the names of the two axes; by default those that the model was fitted with.
        grid: points a side.
        particles: particles of the bound.
        seed: for the bound and the samples.
        ax: where to draw; a new figure without.

    Returns:
        The axes.

    Raises:
        InputError: the model is not two-dimensional, or ``x`` is no table with two columns.

    Example:
        >>> import torch, hamflow as hf
        >>> from hamflow.plots import plot_density_2d
        >>> model = hf.NHF(dim=2, n_steps=2, width=4).fit(torch.randn(50, 2), epochs=1, progress=False)
        >>> plot_density_2d(model, grid=10, particles=2).get_xlabel()
        'x0'
    """
    if model.dim != 2:
        raise InputError(f"model has dim = {model.dim}, expected 2; plot_samples draws any number of columns")
    check_positive("grid", grid, integer=True)
    names = _names(columns or model.columns, 2)
    rows = None if x is None else to_array(x, "x", 2)
    low, high = box(to_array(model.sample(2000, seed=seed), "samples") if rows is None else rows)
    first, second = (np.linspace(a, b, grid) for a, b in zip(low, high, strict=True))
    points = np.stack(np.meshgrid(first, second), -1).reshape(-1, 2)
    log_density = to_array(model.log_prob(points, particles=particles, seed=seed).reshape(-1, 1), "log_prob")
    ax = pick_axes(ax)
    ax.pcolormesh(first, second, np.exp(log_density).reshape(grid, grid), cmap="mako", shading="gouraud")
    if rows is not None:
        shown = some(rows)
        ax.scatter(shown[:, 0], shown[:, 1], s=4, color="white", alpha=0.35, linewidth=0)
    ax.set(xlabel=names[0], ylabel=names[1], xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    return ax


def plot_samples(
    model: NHF | Tensor | NDArray[Any],
    x: Any = None,
    *,
    columns: Sequence[str] | None = None,
    n: int = 1000,
    max_columns: int = 6,
    seed: int = 0,
) -> Figure:
    """A corner plot of samples, over data where there is some: every column, and every pair of columns.

    Args:
        model: a fitted model, or samples, (n, dim).
        x: rows to compare with, (m, dim).
        columns: the names of the columns.
        n: samples to draw from a model.
        max_columns: the first so many columns are drawn.
        seed: for the samples.

    Returns:
        A figure of its own; seaborn needs the whole of it.

    Raises:
        InputError: the tables do not fit together.

    Example:
        >>> import torch
        >>> from hamflow.plots import plot_samples
        >>> figure = plot_samples(torch.randn(50, 2), torch.randn(40, 2), columns=["a", "b"])
        >>> sorted({ax.get_xlabel() for ax in figure.axes} - {""})
        ['a', 'b']
    """
    check_positive("max_columns", max_columns, integer=True)
    drawn = to_array(model.sample(n, seed=seed) if isinstance(model, NHF) else model, "samples")
    names = _names(columns, drawn.shape[1])
    tables = {"model": drawn} if x is None else {"data": to_array(x, "x", drawn.shape[1]), "model": drawn}
    parts = [pd.DataFrame(some(rows), columns=names).assign(source=label) for label, rows in tables.items()]
    # Shuffled, so that neither cloud lies on top of the other.
    frame = pd.concat(parts).sample(frac=1, random_state=0, ignore_index=True)
    shown = names[:max_columns]
    palette = {"data": DATA, "model": MODEL}
    with sns.axes_style(STYLE):
        grid = sns.PairGrid(
            frame, vars=shown, hue="source", hue_order=list(tables), palette=palette, corner=True, diag_sharey=False,
            height=max(1.3, min(2.6, 9.0 / len(shown))),
        )  # fmt: skip
        grid.map_diag(sns.histplot, element="step", stat="density", common_norm=False, alpha=0.3, bins=30)
        grid.map_lower(sns.scatterplot, s=6, alpha=0.4, linewidth=0)
    figure: Figure = grid.figure
    figure.legend(
        handles=[Patch(color=palette[label], label=label) for label in tables], loc="upper right", frameon=False,
        title=None if len(shown) == len(names) else f"the first {len(shown)} of {len(names)} columns",
    )  # fmt: skip
    low, high = box(tables["data"] if x is not None else drawn)
    _frame_corner(figure, names, shown, low, high)
    return figure


def _frame_corner(
    figure: Figure, names: list[str], shown: list[str], low: NDArray[np.float64], high: NDArray[np.float64]
) -> None:
    """Cut every panel to where nearly all rows lie, so that one outlier does not squeeze the picture."""
    limits = {name: (low[i], high[i]) for i, name in enumerate(names)}
    for ax in figure.axes:
        position = ax.get_subplotspec()
        if position is not None:
            ax.set_xlim(*limits[shown[position.colspan.start]])
            if position.rowspan.start != position.colspan.start:
                ax.set_ylim(*limits[shown[position.rowspan.start]])


@torch.no_grad()
def positions(model: NHF, n: int, *, seed: int = 0) -> Tensor:
    """The positions of ``n`` base samples after every step of the flow, in data coordinates: (n_steps + 1, n, dim).

    Example:
        >>> import hamflow as hf
        >>> positions(hf.NHF(2, n_steps=3, width=4), 5).shape
        torch.Size([4, 5, 2])
    """
    check_positive("n", n, integer=True)
    if model.features is not None:
        raise InputError("model is a conditional density, expected one without a context")
    flow, device = model.flow, model.whitening.loc.device
    start = model.base.sample(n, torch.Generator(device).manual_seed(seed))
    path = [start[:, : model.dim]]
    q, p = model.drift(start).chunk(2, dim=-1)
    for k in range(flow.n_steps):
        q, p = flow.step(q, p, k * flow.dt, flow.dt)
        path.append(q)
    z = torch.stack(path)
    return model.whitening(z if model.lifting is None else model.lifting.map(z))


def plot_trajectories(
    model: NHF,
    *,
    n: int = 200,
    pair: tuple[int, int] = (0, 1),
    columns: Sequence[str] | None = None,
    seed: int = 0,
    ax: Axes | None = None,
) -> Axes:
    """The ways of samples through the flow, from the base density (blue) to the data (orange).

    With one column the position is drawn over the steps; with more, two columns against each other.

    Args:
        model: a fitted model.
        n: how many samples.
        pair: the two columns to draw.
        columns: the names of all columns.
        seed: for the samples.
        ax: where to draw; a new figure without.

    Returns:
        The axes.

    Raises:
        InputError: ``pair`` names columns that are not there.

    Example:
        >>> import hamflow as hf
        >>> from hamflow.plots import plot_trajectories
        >>> len(plot_trajectories(hf.NHF(2, n_steps=3, width=4), n=7).lines)
        7
    """
    if model.dim > 1 and (len(pair) != 2 or not all(0 <= i < model.dim for i in pair)):
        raise InputError(f"pair = {pair!r}, expected two column numbers from 0 to {model.dim - 1}")
    names = _names(columns or model.columns, model.dim)
    path = positions(model, n, seed=seed).double().cpu().numpy()
    if model.dim == 1:
        x, y = np.broadcast_to(np.arange(len(path))[:, None], path.shape[:2]), path[..., 0]
        labels = ("step", names[0])
    else:
        x, y = path[..., pair[0]], path[..., pair[1]]
        labels = (names[pair[0]], names[pair[1]])
    ax = pick_axes(ax)
    ax.plot(x, y, color=DATA, linewidth=0.4, alpha=0.5)
    ax.scatter(x[0], y[0], s=6, color=DATA, linewidth=0, zorder=3, label="base")
    ax.scatter(x[-1], y[-1], s=6, color=MODEL, linewidth=0, zorder=3, label="after the last step")
    ax.set(xlabel=labels[0], ylabel=labels[1])
    ax.legend(frameon=False)
    sns.despine(ax=ax)
    return ax
