"""Derivatives of measured trajectories: by smoothing splines, or by differences."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hamflow.errors import InputError, check_choice
from hamflow.systems.trajectories import Trajectories

_FEWEST = {"spline": 5, "interpolation": 4, "difference": 2, "hermite": 2}
#: Generalised cross-validation alone now and then takes noise for motion; this makes each degree of freedom dearer.
_DEARER = 1.4
#: Above so many states the eigenvectors of the roughness cost more than one banded solve a coordinate.
_LONG = 1000
#: And where gaps in time differ so much, the smoothest eigenvectors are lost in rounding.
_LOST = 1e-12
#: States whose positions and velocities one polynomial goes through.
_NEIGHBOURS = 6
_Array = NDArray[np.float64]
_Pair = tuple[_Array, _Array]


def estimate_derivatives(data: Trajectories, *, method: str = "spline", smooth: bool = False) -> Trajectories:
    r"""Fill in what is missing of :math:`v = \dot q`, :math:`\dot p` and :math:`\dot v` from the states.

    Args:
        data: the trajectories.
        method: ``"spline"``: natural cubic smoothing splines whose smoothness generalised cross-validation chooses,
            for noisy states; without noise ``"interpolation"``, cubic splines of third order, or ``"difference"``,
            differences of second order; or ``"hermite"``, accelerations alone, from polynomials through the positions
            and velocities of up to six states next to each other, of degree eleven. That one is for exact states only,
            as a simulation has them: noise of :math:`\sigma` on q and v becomes one of about
            :math:`20\, \sigma / \Delta t^2` on accelerations, where ``"spline"`` smooths it. All take uneven times.
        smooth: whether q and p (and v, where it was given) are replaced by the splines too; not with ``"hermite"``,
            which smooths nothing.

    Returns:
        The trajectories with v, and :math:`\dot p` where p is there; and :math:`\dot v` where v was given. Smoothed,
        they no longer declare the noise that they had.

    Raises:
        InputError: the method is unknown, or a trajectory is too short for it, or "hermite" finds no velocities or is
            asked to smooth.

    References:
        Woltring (1986), Advances in Engineering Software 8, 104; Kim and Gu (2004), Smoothing spline Gaussian
        regression, Journal of the Royal Statistical Society B 66, 337, for the dearer degrees of freedom.

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
    if method == "hermite" and smooth:
        raise InputError("smooth = True with method = 'hermite', expected False: it takes states to be exact")
    data = data.unwrapped()
    if method == "hermite":
        q, v = data.q, data.need("v")
        return data.replace(v_dot=_hermite(data.own_times(), q, v)) if data.v_dot is None else data
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
    # What smoothing leaves is neither that noise nor independent from state to state.
    left = {key: value for key, value in data.metadata.items() if not (smooth and key in ("noise", "noise_on"))}
    return data.replace(**changes, metadata=left)


def _each(data: Trajectories, states: Tensor, method: str) -> tuple[Tensor, Tensor]:
    times = data.times.detach().double().cpu().numpy()
    values = states.detach().double().cpu().numpy()
    estimate = {
        "spline": _long_spline if data.n_times > _LONG else _spline,
        "interpolation": _interpolation,
        "difference": _difference,
    }[method]
    if times.ndim == 1:
        # One table, (time, n d): all series have the same times.
        found = [estimate(times, values.transpose(1, 0, 2).reshape(data.n_times, -1))]
        pair = [x.reshape(data.n_times, data.n, data.dim).transpose(1, 0, 2) for x in found[0]]
    else:
        found = [estimate(t, x) for t, x in zip(times, values, strict=True)]
        pair = [np.stack(part) for part in zip(*found, strict=True)]
    smoothed, slopes = (torch.as_tensor(np.ascontiguousarray(x)).to(states) for x in pair)
    # What stays where it is has no slope: that of its rounding would be taken for one.
    span, largest = states.amax(1) - states.amin(1), states.abs().amax(1)
    rests = span <= 4 * torch.finfo(states.dtype).eps * largest
    return smoothed, torch.where(rests.unsqueeze(1), 0.0, slopes)


def _spline(time: _Array, values: _Array) -> _Pair:
    r"""Natural smoothing splines g of all columns of (time, m), by the eigenvectors of their roughness g' K g.

    In these g = c / (1 + lambda d), and the score of every lambda and column is one product of matrices.
    """
    from scipy.interpolate import CubicSpline

    unit = (time[-1] - time[0]) / (len(time) - 1)
    x = (time - time[0]) / unit
    d, vectors = np.linalg.eigh(_roughness(x))
    if d[2] < _LOST * d[-1]:
        return _long_spline(time, values)
    # Straight lines have no roughness.
    d[:2] = 0.0
    middle = values.mean(0)
    c = vectors.T @ (values - middle)
    smoothness = np.logspace(np.log10(1e-3 / d[-1]), np.log10(1e3 / d[2]), 200)
    rest = smoothness[:, None] * d / (1 + smoothness[:, None] * d)
    free = len(x) - _DEARER * (1 - rest).sum(1)
    smoothness, rest, free = smoothness[free > 0], rest[free > 0], free[free > 0]
    best = smoothness[(rest**2 @ c**2 / free[:, None] ** 2).argmin(0)]
    smoothed = vectors @ (c / (1 + np.outer(d, best))) + middle
    return smoothed, CubicSpline(x, smoothed, bc_type="natural")(x, 1) / unit


def _roughness(x: _Array) -> _Array:
    # K with g' K g the integral of the squared second derivative of the natural spline through (x, g).
    gaps, n = np.diff(x), len(x)
    inner = np.arange(n - 2)
    second = np.zeros((n, n - 2))
    second[inner, inner], second[inner + 2, inner] = 1 / gaps[:-1], 1 / gaps[1:]
    second[inner + 1, inner] = -1 / gaps[:-1] - 1 / gaps[1:]
    between = np.diag(gaps[1:-1] / 6, 1)
    gram = np.diag((gaps[:-1] + gaps[1:]) / 3) + between + between.T
    roughness: _Array = second @ np.linalg.solve(gram, second.T)
    return (roughness + roughness.T) / 2


def _long_spline(time: _Array, values: _Array) -> _Pair:
    from scipy.interpolate import make_smoothing_spline

    # In units of the mean gap and the spread: the splines of SciPy lose digits far from these.
    unit, x = (time[-1] - time[0]) / (len(time) - 1), (time - time[0]) * (len(time) - 1) / (time[-1] - time[0])
    middle, spread = values.mean(0), values.std(0)
    spread[spread == 0] = 1.0
    splines = [make_smoothing_spline(x, column) for column in ((values - middle) / spread).T]
    smoothed, slopes = (np.stack([spline(x, order) for spline in splines], -1) for order in (0, 1))
    return spread * smoothed + middle, spread / unit * slopes


def _interpolation(time: _Array, values: _Array) -> _Pair:
    from scipy.interpolate import CubicSpline

    return values, CubicSpline(time - time[0], values)(time - time[0], 1)


def _difference(time: _Array, values: _Array) -> _Pair:
    # From the first value on: far from zero the weights of uneven times do not cancel.
    return values, np.gradient(values - values[:1], time, axis=0, edge_order=2 if len(time) > 2 else 1)


def _hermite(times: Tensor, q: Tensor, v: Tensor) -> Tensor:
    # For each state the polynomial through q and v of the states around it; its second derivative there.
    count = q.shape[1]
    near = min(_NEIGHBOURS, count)
    first = (torch.arange(count, device=q.device) - near // 2).clamp(0, count - near)
    index = first.unsqueeze(-1) + torch.arange(near, device=q.device)
    clock, q64, v64 = times.double(), q.double(), v.double()
    gaps = clock[:, index] - clock.unsqueeze(-1)
    # In units of their span, and from the state on: powers stay of order one, and rounding of large positions out.
    unit = gaps.abs().amax(-1, keepdim=True)
    powers = torch.arange(2 * near, device=q.device, dtype=torch.float64)
    at = gaps.unsqueeze(-1) / unit.unsqueeze(-1)
    values = at**powers
    slopes = powers * at ** (powers - 1).clamp_min(0)
    sides = torch.cat((q64[:, index] - q64.unsqueeze(2), unit.unsqueeze(-1) * v64[:, index]), dim=2)
    found = torch.linalg.solve(torch.cat((values, slopes), dim=2), sides)[:, :, 2]
    return (2 * found / unit**2).to(q)
