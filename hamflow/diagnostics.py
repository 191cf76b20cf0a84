"""What ought to stay constant along a rollout: energy, momentum, angular momentum."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hamflow.errors import InputError, check_positive

#: How many standard errors from zero make a trend significant.
SIGNIFICANT = 3.0


#: How many periods of its oscillation an energy must go through before a slope says anything.
PERIODS = 4


@dataclass(frozen=True)
class Trend:
    """The trend of a quantity that ought to be constant.

    Attributes:
        slope: its change per unit of time, by least squares, the mean over trajectories.
        standard_error: of that mean: what an oscillation, noise and rounding feign; NaN where that cannot be told.
        largest: the largest distance from its first value.
    """

    slope: float
    standard_error: float
    largest: float

    @property
    def conclusive(self) -> bool:
        """Whether there are enough periods to tell a trend from a piece of an oscillation."""
        return not math.isnan(self.standard_error)

    @property
    def significant(self) -> bool:
        """Whether the slope is more than three standard errors from zero; never where that cannot be told."""
        return abs(self.slope) > SIGNIFICANT * self.standard_error


def energy_drift(values: Tensor, dt: float) -> Trend:
    r"""The trend of an energy, or of another invariant, along rollouts.

    A symplectic step leaves the energy oscillating around a constant, and a piece of an oscillation has a slope of its
    own, alike in all trajectories where they swing in phase. So the error comes from the mean over trajectories, and
    from time. With a monotone course taken off, which is what a drift is, the rest :math:`r` of an oscillation of size
    A and period P sums up to no more than :math:`S_k = \Delta t \sum_{j \le k} r_j \sim A P`, and that of noise walks
    at random. By partial summation S bounds the slope that either of them feigns over the time T,

    .. math:: \sigma = \frac{6}{T^2} \Bigl(1 + \frac{10}{n}\Bigr) \bigl(\max S - \min S\bigr),

    whose factor makes three :math:`\sigma` the 0.3 % of white noise. Rounding walks too: for n values of size E another
    :math:`4 \epsilon E / (\sqrt n\, \Delta t)` is counted in. Where the energy goes through fewer than four periods a
    drift cannot be told from a slow swing, and the error is NaN.

    Args:
        values: the energy at evenly spaced times, (time, *batch), at least 20 times.
        dt: the time between two values, positive; those of a rollout backwards begin at its end, ``values.flip(0)``.

    Raises:
        InputError: there are too few values, or some that are not finite.

    References:
        Shao (2010), A self-normalized approach to confidence interval construction in time series, Journal of the
        Royal Statistical Society B 72, 343, for an error from partial sums.

    Example:
        >>> import torch, hamflow as hf
        >>> round(hf.energy_drift(1 + 0.01 * torch.arange(100.0), dt=0.5).slope, 6)
        0.02
    """
    values = torch.as_tensor(values)
    n = len(values)
    if n < 20:
        raise InputError(f"values has {n} times, expected at least 20 to see a trend")
    if not bool(values.isfinite().all()):
        raise InputError(f"values has {int((~values.isfinite()).sum())} entries that are not finite, expected none")
    check_positive("dt", dt)
    flat = values.detach().double().reshape(n, -1)
    mean, largest = flat.mean(1), float((flat - flat[:1]).abs().max())
    slope = float(_slopes(mean)) / dt
    accuracy = torch.finfo(values.dtype if values.is_floating_point() else torch.float64).eps * float(flat.abs().max())
    rounding = 4 * accuracy / (n**0.5 * dt)
    if float(_straightened(mean).std()) <= 4 * accuracy:
        return Trend(slope, rounding, largest)
    if _periods(flat) < PERIODS:
        return Trend(slope, math.nan, largest)
    feigned = (1 + 10 / n) * _walk(mean, rising=slope > 0) * 6 / (n**2 * dt)
    return Trend(slope, math.hypot(feigned, rounding), largest)


def _slopes(values: Tensor) -> Tensor:
    # Per index, along the first dimension.
    index = torch.arange(len(values), dtype=values.dtype, device=values.device)
    centred = index - index.mean()
    slopes: Tensor = centred @ (values - values.mean(0)) / (centred**2).sum()
    return slopes


def _straightened(values: Tensor) -> Tensor:
    index = torch.arange(len(values), dtype=values.dtype, device=values.device)
    return values - values.mean(0) - (index - index.mean()).reshape(-1, *[1] * (values.ndim - 1)) * _slopes(values)


def _walk(mean: Tensor, *, rising: bool) -> float:
    # How far the partial sums go of what is left beside the nearest monotone course.
    from scipy.optimize import isotonic_regression

    course = isotonic_regression(mean.cpu().numpy(), increasing=rising).x
    sums = (mean.cpu() - torch.from_numpy(course.copy())).cumsum(0)
    return max(0.0, float(sums.max())) - min(0.0, float(sums.min()))


def _periods(values: Tensor) -> float:
    # Of (time, trajectories), the median: two turns of the rate of change make a period, small wiggles aside. The rate
    # swings about its own course also where friction lets an energy only fall.
    rates = _straightened(values.diff(dim=0)).T
    row, time = (rates.abs() > 0.3 * rates.std(1, keepdim=True)).nonzero(as_tuple=True)
    signs = rates[row, time].sign()
    turns = (signs[1:] != signs[:-1]) & (row[1:] == row[:-1])
    return float(torch.bincount(row[1:][turns], minlength=len(rates)).double().median()) / 2


def total_momentum(p: Tensor, *, space: int) -> Tensor:
    r"""The total momentum :math:`\sum_i p_i` of bodies, (*batch, bodies * space) -> (*batch, space).

    Args:
        p: momenta, (*batch, bodies * space), body after body.
        space: the number of components a body has.

    Raises:
        InputError: the last dimension is no multiple of ``space``.

    Example:
        >>> import torch, hamflow as hf
        >>> hf.total_momentum(torch.tensor([1.0, 0.0, 2.0, 3.0]), space=2)
        tensor([3., 3.])
    """
    return _bodies("p", p, space).sum(-2)


def angular_momentum(q: Tensor, p: Tensor, *, space: int) -> Tensor:
    r"""The total angular momentum :math:`\sum_i q_i \times p_i` of bodies in two or three dimensions.

    Args:
        q: positions, (*batch, bodies * space), body after body.
        p: momenta, of the same shape.
        space: 2 or 3.

    Returns:
        (*batch,) in the plane, (*batch, 3) in space.

    Raises:
        InputError: the last dimension is no multiple of ``space``, or that is neither 2 nor 3.

    Example:
        >>> import torch, hamflow as hf
        >>> hf.angular_momentum(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0]), space=2)
        tensor(2.)
    """
    if space not in (2, 3):
        raise InputError(f"space = {space!r}, expected 2 or 3")
    a, b = _bodies("q", q, space), _bodies("p", p, space)
    if space == 2:
        return (a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]).sum(-1)
    return torch.linalg.cross(a, b).sum(-2)


def _bodies(name: str, x: Tensor, space: int) -> Tensor:
    check_positive("space", space, integer=True)
    if x.shape[-1] % space:
        raise InputError(f"{name} has shape {tuple(x.shape)}, expected (*batch, bodies * {space})")
    return x.unflatten(-1, (-1, space))
