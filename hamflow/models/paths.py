"""Paths through noisy states: the integrals of their derivatives, cut where these would lead astray."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hamflow.models.units import sizes
from hamflow.systems import Trajectories

_Array = NDArray[np.float64]
#: States that a search for a cut looks ahead at first.
_AHEAD = 64


@dataclass(frozen=True)
class Paths:
    r"""Pieces of trajectories, each known up to where it begins, :math:`z(t) = a + \sigma \xi + \text{path}(t)`.

    Of different lengths, padded with zeros. A component without noise is measured: its a and :math:`\sigma` are zero.

    Attributes:
        times: (n, time, 1).
        begin: a, the mean distance of the states that train from the path, (n, 1, 2 d).
        noise: :math:`\sigma`, root T times the doubt about a, (n, 1, 2 d).
        path: (n, time, 2 d).
        lever: what a momentum at the beginning adds to the position where it is the velocity, (n, time, d).
        slopes: dq/dt and dp/dt, (n, time, 2 d).
        seen: which states train, 0 or 1, (n, time).
        unseen: which judge.
    """

    times: Tensor
    begin: Tensor
    noise: Tensor
    path: Tensor
    lever: Tensor
    slopes: Tensor
    seen: Tensor
    unseen: Tensor


def paths(sets: list[Trajectories], noise: Tensor, unseen: list[Tensor], *, velocities: bool) -> Paths:
    r"""The paths of trajectories with p, v and p_dot, and noise of each of (q, p), (2 d,).

    The integral by cubic splines is off by about its distance E from that by quintic ones. A path that is off teaches
    an error of first order, and noise one of second order, besides its share of :math:`1/\sqrt N` for N states; so
    a path ends before

    .. math:: \max E - \min E > \sigma \max(\sigma / s, 1 / \sqrt N),

    s the spread of the states: at missing frames, and between any two states where they are sampled too rarely.

    Args:
        sets: the trajectories; their lengths may differ.
        noise: the standard deviations.
        unseen: for each set, which states judge instead of training, booleans (n, time).
        velocities: whether p is v: then it is as noisy, and the path of p is the slope of q.
    """
    like = sets[0].q
    sigma = noise.detach().double().cpu()
    both = torch.cat([part.states.flatten(0, 1) for part in sets])
    share = (sigma / sizes(both.double()).cpu()).clamp_min(len(both) ** -0.5)
    limit = torch.where(sigma > 0, sigma * share, torch.inf).numpy()
    pieces: list[list[Tensor]] = []
    for part, mask in zip(sets, unseen, strict=True):
        times, path, error = _integrals(part, sigma, velocities)
        arrays = (times.unsqueeze(-1), path, *(x.detach().double().cpu() for x in (part.states, _slopes(part), mask)))
        for i in range(part.n):
            for a, b in _pieces(times[i].numpy(), error[i].numpy(), limit, velocities):
                pieces.append([x[i, a:b] for x in arrays])
    t, path, states, slopes, hidden = (
        nn.utils.rnn.pad_sequence(list(x), batch_first=True) for x in zip(*pieces, strict=True)
    )
    there = nn.utils.rnn.pad_sequence([torch.ones(len(x[0])) for x in pieces], batch_first=True).double()
    seen = there - hidden
    begin, path, size, lever = _begin(t, path, states, sigma, seen, there, velocities)
    found = (t, begin, size, path, lever, slopes, seen, hidden)
    return Paths(*(x.to(like) for x in found))


def _begin(
    t: Tensor, path: Tensor, states: Tensor, sigma: Tensor, seen: Tensor, there: Tensor, velocities: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    # Least squares of the states that train; a piece without one has to take what it has.
    weights = torch.where(seen.any(1, keepdim=True), seen, there).unsqueeze(-1)
    count = weights.sum(1, keepdim=True)

    def mean(x: Tensor) -> Tensor:
        return (weights * x).sum(1, keepdim=True) / count

    size = sigma.expand(len(t), 1, -1).clone()
    lever = torch.zeros_like(states[..., : len(sigma) // 2])
    begin = mean(states - path)
    if velocities:
        (q, p), (sigma_q, sigma_p), (path_q, path_p) = states.chunk(2, -1), sigma.chunk(2), path.chunk(2, -1)
        # q = a_q + a_p (t - mean t) + path: positions tell a_p too, and where they are exact they alone.
        arm = (t - mean(t)) * there.unsqueeze(-1)
        ratio = torch.where(sigma_p > 0, sigma_q / sigma_p, 0.0) ** 2
        tells = mean(arm**2) + ratio
        alone = mean(p - path_p)
        rate = torch.where(tells > 0, (mean(arm * (q - path_q)) + ratio * alone) / tells, alone)
        doubt = torch.where(tells > 0, sigma_q / tells.sqrt(), sigma_p)
        lever = torch.where(sigma_p > 0, arm, 0.0)
        path = torch.cat((path_q + lever * rate, path_p), -1)
        begin = torch.cat((begin[..., : q.shape[-1]], rate), -1)
        size[..., q.shape[-1] :] = torch.where(sigma_p > 0, doubt, 0.0)
        lever = torch.where(sigma_q > 0, lever, 0.0)
    # What has no noise is what was measured.
    path = torch.where(sigma > 0, path, states) * there.unsqueeze(-1)
    return torch.where(sigma > 0, begin, 0.0), path, size, lever


def _slopes(part: Trajectories) -> Tensor:
    return torch.cat((part.need("v"), part.need("p_dot")), dim=-1)


def _integrals(part: Trajectories, sigma: Tensor, velocities: bool) -> tuple[Tensor, Tensor, Tensor]:
    # Times (n, time); the integral of the slopes of (q, p) from the first time on; and how far it is off, (n, time, m).
    times, slopes = (x.detach().double().cpu() for x in (part.own_times(), _slopes(part)))
    v, force = slopes.chunk(2, -1)
    p, off_p = integrate(times, force)
    if velocities:
        # Noise on v is noise on this slope. Without its constant, which belongs to where p begins.
        v = torch.where(sigma[part.dim :] > 0, p, v)
    q, off_q = integrate(times, v)
    if velocities:
        off_q = off_q + torch.where(sigma[part.dim :] > 0, integrate(times, off_p)[0], 0.0)
    return times, torch.cat((q, p), -1), torch.cat((off_q, off_p), -1)


def integrate(times: Tensor, slopes: Tensor) -> tuple[Tensor, Tensor]:
    """The integral of slopes (n, time, m) over times (n, time) from the first on, and about how far it is off."""
    from scipy.interpolate import CubicSpline, make_interp_spline

    if times.shape[1] == 1:
        return torch.zeros_like(slopes), torch.zeros_like(slopes)
    # Splines of a higher order see what those of third order miss; of few states the next lower one has to do.
    degree = 5 if times.shape[1] > 5 else 1
    found, other = [], []
    for t, x in zip(times.numpy(), slopes.numpy(), strict=True):
        found.append(CubicSpline(t, x).antiderivative()(t))
        path = make_interp_spline(t, x, k=degree).antiderivative()(t)
        other.append(path - path[0])
    path = torch.as_tensor(np.stack(found))
    return path, torch.as_tensor(np.stack(other)) - path


def _pieces(times: _Array, error: _Array, limit: _Array, velocities: bool) -> list[tuple[int, int]]:
    # From where to where each path may go.
    first, pieces = 0, []
    while first < len(times):
        ahead = _AHEAD
        while True:
            last = min(first + ahead, len(times))
            off = error[first:last] - error[first]
            if velocities:
                # An error of p at the beginning is one of its constant.
                half = len(limit) // 2
                off[:, :half] -= (times[first:last, None] - times[first]) * error[first, half:]
            width = np.maximum.accumulate(off) - np.minimum.accumulate(off)
            stop = np.flatnonzero((~(width <= limit)).any(1))
            if len(stop) or last == len(times):
                break
            ahead *= 4
        end = first + max(1, int(stop[0])) if len(stop) else last
        pieces.append((first, end))
        first = end
    return pieces
