"""Figures of motions and of the energies behind them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import seaborn as sns
import torch
from matplotlib.axes import Axes
from numpy.typing import NDArray
from torch import Tensor

from hamflow.energies import Hamiltonian
from hamflow.errors import InputError, check_positive
from hamflow.models.dynamics import Dynamics
from hamflow.models.learning import with_momenta
from hamflow.plots.canvas import DATA, MODEL, box, pick_axes
from hamflow.systems import Trajectories

#: An energy: a fitted model, or the Hamiltonian of a known system.
Energetic = Dynamics | Hamiltonian
Curve = tuple[Any, Any]


@torch.no_grad()
def plot_phase_portrait(
    model: Energetic,
    trajectories: Trajectories | None = None,
    *,
    limits: tuple[tuple[float, float], tuple[float, float]] | None = None,
    grid: int = 100,
    levels: int = 14,
    n: int = 50,
    ax: Axes | None = None,
) -> Axes:
    r"""The level sets of the energy of one coordinate in the plane of q and p, and trajectories on top.

    Without friction a motion follows a level set.

    Args:
        model: a fitted model with dim = 1, or the Hamiltonian of a known system.
        trajectories: motions to draw, which also set the frame; where momenta are missing velocities stand for them.
        limits: the frame ((q, q), (p, p)) in place of that of the trajectories.
        grid: points a side.
        levels: the number of level sets.
        n: at most so many trajectories are drawn.
        ax: where to draw; a new figure without.

    Returns:
        The axes.

    Raises:
        InputError: there are more coordinates than one, or neither trajectories nor limits.

    Example:
        >>> import hamflow as hf
        >>> from hamflow.plots import plot_phase_portrait
        >>> pendulum = hf.systems.Pendulum()
        >>> len(plot_phase_portrait(pendulum, pendulum.simulate(n_trajectories=4, n_steps=20)).lines)
        4
    """
    check_positive("grid", grid, integer=True)
    check_positive("levels", levels, integer=True)
    check_positive("n", n, integer=True)
    dim = getattr(model, "dim", 1 if trajectories is None else trajectories.dim)
    if dim != 1 or (trajectories is not None and trajectories.dim != 1):
        found = dim if dim != 1 or trajectories is None else trajectories.dim
        raise InputError(f"a phase portrait of {found} coordinates, expected 1; plot_energy draws any number")
    if limits is None and trajectories is None:
        raise InputError("trajectories and limits are both missing, expected one of them for the frame")
    paths = None if trajectories is None else _states(model, trajectories)
    if limits is None:
        assert paths is not None
        low, high = box(_numpy(paths.states).reshape(-1, 2))
    else:
        low, high = np.array(limits, dtype=np.float64).T
    first, second = (np.linspace(a, b, grid) for a, b in zip(low, high, strict=True))
    q, p = (torch.as_tensor(x.reshape(-1, 1)) for x in np.meshgrid(first, second))
    ax = pick_axes(ax)
    values = _numpy(_energy(model, q, p)).reshape(grid, grid)
    ax.contour(first, second, values, levels=levels, cmap="mako", linewidths=0.8, alpha=0.7)
    if paths is not None:
        for i in range(min(n, paths.n)):
            ax.plot(_numpy(paths.q[i, :, 0]), _numpy(paths.need("p")[i, :, 0]), color=MODEL, linewidth=0.9, alpha=0.8)
    momentum = _second(model)
    if trajectories is not None and trajectories.p is None:
        momentum = "v"
    ax.set(xlabel=_label(trajectories, "q"), ylabel=_label(trajectories, momentum))
    ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    sns.despine(ax=ax)
    return ax


def plot_energy(
    paths: Trajectories | Curve | Mapping[str, Trajectories | Curve],
    model: Energetic | None = None,
    *,
    unit: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    r"""How far the energy moves from its first value, :math:`H(t) - H(0)`, against time.

    Args:
        paths: trajectories, whose energy ``model`` tells; or times (time,) and energies (time, *batch), as
            :func:`hamflow.rollout` orders them; or several of these by name.
        model: a fitted model, or the Hamiltonian of a known system.
        unit: of the energy.
        ax: where to draw; a new figure without.

    Returns:
        The axes.

    Raises:
        InputError: trajectories come without ``model``, or the numbers of times and energies differ.

    Example:
        >>> import hamflow as hf
        >>> from hamflow.plots import plot_energy
        >>> pendulum = hf.systems.Pendulum()
        >>> plot_energy(pendulum.simulate(n_trajectories=4, n_steps=20), pendulum).get_xlabel()
        'time [s]'
    """
    named = paths if isinstance(paths, Mapping) else {"": paths}
    if not named:
        raise InputError("paths is empty, expected trajectories or times and energies")
    curves = {name: _curves(path, model) for name, path in named.items()}
    palette = [DATA, MODEL, *sns.color_palette("deep", max(0, len(curves) - 2))]
    ax = pick_axes(ax, (6.0, 3.4))
    for (name, (times, energies)), colour in zip(curves.items(), palette, strict=False):
        change = energies - energies[:1]
        lines = ax.plot(times, change, color=colour, linewidth=0.8, alpha=0.8)
        lines[0].set_label(name or "_")
    first = next((path for path in named.values() if isinstance(path, Trajectories)), None)
    ax.axhline(0.0, color="black", linewidth=0.8, linestyle=":")
    ax.set(xlabel=_label(first, "time"), ylabel=r"$H(t) - H(0)$" + (f" [{unit}]" if unit else ""))
    if any(named):
        # Above the axes: the curves may fill them from edge to edge.
        ax.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(curves))
    sns.despine(ax=ax)
    return ax


def plot_trajectories_against(
    measured: Trajectories, predicted: Trajectories, *, coordinate: int = 0, n: int = 3, ax: Axes | None = None
) -> Axes:
    """A coordinate of measured motions (dots) and of predicted ones (lines) against time.

    Args:
        measured: the motions to hold predictions against.
        predicted: as many motions; their times may be others.
        coordinate: which coordinate to draw.
        n: at most so many motions are drawn.
        ax: where to draw; a new figure without.

    Returns:
        The axes.

    Raises:
        InputError: the two do not hold the same motions, or have no such coordinate.

    Example:
        >>> import hamflow as hf
        >>> from hamflow.plots import plot_trajectories_against
        >>> data = hf.systems.Pendulum().simulate(n_trajectories=2, noise=0.1)
        >>> len(plot_trajectories_against(data, hf.systems.estimate_derivatives(data, smooth=True)).lines)
        4
    """
    check_positive("n", n, integer=True)
    if (measured.n, measured.dim) != (predicted.n, predicted.dim):
        raise InputError(
            f"measured has {measured.n} motions of {measured.dim} coordinates and predicted {predicted.n} of "
            f"{predicted.dim}, expected the same"
        )
    if coordinate not in range(measured.dim):
        raise InputError(f"coordinate = {coordinate!r}, expected a number from 0 to {measured.dim - 1}")
    ax = pick_axes(ax, (6.0, 3.4))
    for i in range(min(n, measured.n)):
        for data, name, style, colour in ((measured, "measured", ".", DATA), (predicted, "predicted", "-", MODEL)):
            times, q = _numpy(data.own_times()[i]), _numpy(data.q[i, :, coordinate])
            ax.plot(times, q, style, color=colour, markersize=3.0, linewidth=1.0, label=name if i == 0 else "_")
    quantity = "q" if measured.dim == 1 else f"q{coordinate}"
    ax.set(xlabel=_label(measured, "time"), ylabel=_label(measured, "q", quantity))
    ax.legend(frameon=False)
    sns.despine(ax=ax)
    return ax


def _curves(path: Trajectories | Curve, model: Energetic | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Times (time,) or (time, n), and energies (time, n)."""
    if isinstance(path, Trajectories):
        if model is None:
            raise InputError("model is missing, expected one that tells the energy of the trajectories")
        states = _states(model, path)
        with torch.no_grad():
            values = _energy(model, states.q, states.need("p"))
        return _numpy(path.own_times()).T, _numpy(values).T
    times, energies = (_numpy(x) for x in path)
    if times.ndim != 1 or len(energies) != len(times):
        raise InputError(
            f"times have shape {times.shape} and energies {energies.shape}, expected (time,) and (time, *batch)"
        )
    return times, energies.reshape(len(times), -1)


def _second(model: Energetic) -> str:
    return model.second if isinstance(model, Dynamics) else "p"


def _states(model: Energetic, path: Trajectories) -> Trajectories:
    # With the velocity in the place of the momentum where the model takes velocities, or nothing else is there.
    return with_momenta(path.replace(p=None, p_dot=None) if _second(model) == "v" else path)


def _energy(model: Energetic, q: Tensor, p: Tensor) -> Tensor:
    if isinstance(model, Dynamics):
        return model.energy(q, p)
    like = next(model.parameters(), q)
    value: Tensor = model(q.to(like), p.to(like))
    return value


def _numpy(x: Any) -> NDArray[np.float64]:
    return np.asarray(x.detach().double().cpu() if isinstance(x, Tensor) else x, dtype=np.float64)


def _label(data: Trajectories | None, what: str, name: str | None = None) -> str:
    unit = None if data is None else data.metadata.get("units", {}).get(what)
    return f"{name or what} [{unit}]" if unit and unit != "1" else name or what
