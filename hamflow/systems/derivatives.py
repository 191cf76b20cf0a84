"""Derivatives of measured trajectories: by smoothing splines, or by differences."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hamflow.errors import InputError, check_choice
from hamflow.systems.trajectories import Trajectories

_FEWEST = {"spline": 5, "difference": 3}
_Pair = tuple[NDArray[np.float64], NDArray[np.float64]]


def estimate_derivatives(data: Trajectories, *, method: str = "spline", smooth: bool = False) -> Trajectories:
    r"""Fill in what is missing of :math:`v = \dot q`, :math:`\dot p` and :math:`\dot v` from the states.

    Args:
        data: the trajectories.
        method: ``"spline"``: cubic smoothing splines whose smoothness generalised cross-validation chooses, for noisy
            states; ``"difference"``: differences of second order, for states without noise. Both take uneven times.
        smooth: whether q and p (and v, where it was given) are replaced by the splines too.

    Returns:
        The trajectories with v, and :math:`\dot p` where p is there; and :math:`\dot v` where v was given.

    Raises:
        InputError: the method is unknown, or a trajectory is too short for it.

    References:
        Woltring (1986), Advances in Engineering Software 8, 104.

    Example:
        >>> import torch, hamflow as hf
        >>> t = torch.linspace(0, 3, 31, dtype=torch.float64)
        >>> data = hf.systems.Trajectories(times=t, q=t.sin().reshape(1, -1, 1))
        >>> hf.systems.estimate_derivatives(data).v[0, 15, 0].sub(t[15].cos()).abs().item() < 1e-3
        True
    """
    check_choice("method", method, tuple(_FEWEST))
    if data.n_times < _FEWEST[method]:
        raise InputError(f"data has {data.n_times} times, expected at least {_FEWEST[method]} for method = {method!r}")
    changes: dict[str, Tensor] = {}
    for name, derivative in (("q", "v"), ("p", "p_dot"), ("v", "v_dot")):
        states = getattr(data, name)
        if states is None:
            continue
        smoothed, slope = _each(data, states, method)
        if getattr(data, derivative) is None:
            changes[derivative] = slope
        if smooth:
            changes[name] = smoothed
    return data.replace(**changes)


def _each(data: Trajectories, states: Tensor, method: str) -> tuple[Tensor, Tensor]:
    # Splines of one trajectory and coordinate at a time: SciPy offers no batch of them.
    times = data.own_times().detach().double().cpu().numpy()
    values = states.detach().double().cpu().numpy()
    smoothed, slopes = np.empty_like(values), np.empty_like(values)
    estimate = _spline if method == "spline" else _difference
    for i in range(data.n):
        for j in range(data.dim):
            smoothed[i, :, j], slopes[i, :, j] = estimate(times[i], values[i, :, j])
    return torch.as_tensor(smoothed).to(states), torch.as_tensor(slopes).to(states)


def _spline(time: NDArray[np.float64], values: NDArray[np.float64]) -> _Pair:
    from scipy.interpolate import make_smoothing_spline

    # In units of the mean gap and the spread: the splines of SciPy lose digits far from these.
    unit, spread = (time[-1] - time[0]) / (len(time) - 1), float(np.std(values)) or 1.0
    x = (time - time[0]) / unit
    spline = make_smoothing_spline(x, (values - values.mean()) / spread)
    return spread * spline(x) + values.mean(), spread / unit * spline.derivative()(x)


def _difference(time: NDArray[np.float64], values: NDArray[np.float64]) -> _Pair:
    return values, np.gradient(values, time, edge_order=2)
