"""Draws from the posterior of a code given frames: not one motion that explains them, but all that do."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hamflow.models.refinement import refined

if TYPE_CHECKING:
    from hamflow.models.generator import VideoGenerator

#: Codes from the prior, of which the first draws are chosen, and how many of them are drawn at once.
_POOL, _AT_ONCE = 4096, 128
#: Moves after every step of the ladder, and at its end.
_MOVES, _LAST = 3, 6
#: Draws that a step of the ladder has to be worth, of all.
_WORTH = 0.5
#: Videos by which noise is measured, and steps by which their codes are refined.
_MEASURED, _STEPS = 64, 40
#: The squared error of a motion that has left the finite numbers.
_LOST = 1e30
#: By how much of its spread a position moves for the direction in which pictures change.
_MOVE = 1e-2


@torch.no_grad()
def noise_along(model: VideoGenerator, frames: Tensor, z: Tensor, generator: torch.Generator) -> Tensor:
    r"""The variance of frames about a model's pictures in the directions in which states move pictures,

    .. math:: s^2 = \sum_t \langle u_t, x_t - g(q_t) \rangle^2 \Big/ \sum_t \lVert u_t \rVert^2 , \qquad
              u_t = \frac{\partial g}{\partial q}(q_t)\, \delta_t , \qquad \delta_t \sim N(0, I) .

    Where the noise of pixels is independent this is the variance of a pixel. Where things shake, all pixels of a frame
    err together, and a frame says hundreds of times less about the state than as many independent pixels would.

    Args:
        model: the networks.
        frames: (n, time, channel, height, width).
        z: their codes, (n, code).
        generator: of the directions.

    Returns:
        A number, as a tensor.
    """
    q = model.path(*model.initial_state(z), frames.shape[1] - 1, model.dt)[..., : model.dim]
    way = torch.randn(q.shape, generator=generator, dtype=q.dtype, device=q.device)
    step = _MOVE * q.flatten(0, 1).std(0).clamp_min(1e-6) * way
    u = (model.decode(q + step) - model.decode(q - step)).flatten(2)
    residual = (frames.movedim(0, 1) - model.decode(q)).flatten(2)
    return (u * residual).sum(-1).square().sum() / u.square().sum().clamp_min(torch.finfo(u.dtype).tiny)


def measured_noise(model: VideoGenerator, frames: Tensor) -> Tensor:
    """The same of some frames that the model was fitted to, with codes refined."""
    frames = frames[:_MEASURED]
    z = refined(model, frames, model.posterior(frames)[0].detach(), _STEPS)
    return noise_along(model, frames, z, torch.Generator(frames.device).manual_seed(0))


@torch.no_grad()
def drawn(model: VideoGenerator, frames: Tensor, n: int, generator: torch.Generator | None) -> Tensor:
    r"""Draws of codes from

    .. math:: \pi(z) \propto N(z; 0, I)\, \exp\Bigl(-\frac{1}{2 s^2} \sum_t \lVert x_t - g(q_t(z)) \rVert^2\Bigr)

    with the noise s of :func:`noise_along`, by a sequential sampler: many codes of the prior are weighed, and a ladder
    of powers of the likelihood leads from those that they can tell apart to all of it. After each rung codes are drawn
    by weight and moved by Metropolis steps of the covariance that they have. Every video has a ladder of its own.

    Args:
        model: the networks; codes are vectors of few entries.
        frames: all that are known, (videos, time, channel, height, width).
        n: draws of each video.
        generator: of all random numbers.

    Returns:
        Codes, (n, videos, code).

    References:
        Del Moral, Doucet and Jasra (2006), Sequential Monte Carlo samplers, arXiv cond-mat/0212648.
    """
    # Who trains the model otherwise has the noise of pixels alone.
    scale = 0.5 / torch.where(model.shake > 0, model.shake, (2 * model.log_scale).exp())
    times, seen = frames.shape[1], frames.flatten(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=seen.dtype, device=seen.device)

    pool = normal(_POOL, model.code)
    far = torch.cat([torch.cdist(model.pictures(z, times).flatten(1), seen).square() for z in pool.split(_AT_ONCE)])
    fit = -scale * torch.nan_to_num(far, nan=_LOST, posinf=_LOST)
    power = _next(fit, torch.zeros(len(frames)).to(fit), min(n, _POOL // 4) / _POOL)
    chosen = _by_weight(power * fit, n, generator)
    z, fit = pool[chosen], fit.gather(0, chosen)
    while True:
        whole = bool((power == 1).all())
        for _ in range(_LAST if whole else _MOVES):
            root = _root(z)
            other = z + 2.38 / math.sqrt(model.code) * (root @ normal(*z.shape).unsqueeze(-1)).squeeze(-1)
            found = -scale * _errors(model, other, frames)
            gain = power * (found - fit) + 0.5 * (z.square() - other.square()).sum(-1)
            taken = torch.rand(gain.shape, generator=generator, dtype=gain.dtype, device=gain.device).log() < gain
            z, fit = torch.where(taken.unsqueeze(-1), other, z), torch.where(taken, found, fit)
        if whole:
            return z
        after = _next(fit, power, _WORTH)
        chosen = _by_weight((after - power) * fit, n, generator)
        z = z.gather(0, chosen.unsqueeze(-1).expand_as(z))
        fit, power = fit.gather(0, chosen), after


def _errors(model: VideoGenerator, z: Tensor, frames: Tensor) -> Tensor:
    # Summed squares, codes (n, videos, code) -> (n, videos), a few at a time.
    at_once = max(1, _AT_ONCE // frames.shape[0])
    parts = []
    for part in z.split(at_once):
        pictures = model.pictures(part.flatten(0, 1), frames.shape[1]).unflatten(0, part.shape[:2])
        parts.append((pictures - frames).flatten(2).square().sum(-1))
    return torch.cat(parts)


def _next(fit: Tensor, power: Tensor, worth: float) -> Tensor:
    """The next power of each video, by bisection: 1, or where weights are worth that share of the draws; (videos,)."""
    low, high = power, torch.ones_like(power)
    for _ in range(40):
        middle = 0.5 * (low + high)
        enough = _worth((middle - power) * fit) >= worth
        low, high = torch.where(enough, middle, low), torch.where(enough, high, middle)
    return torch.where(_worth((1 - power) * fit) >= worth, torch.ones_like(low), low)


def _worth(log_weight: Tensor) -> Tensor:
    # The effective share of draws (n, videos) -> (videos,).
    weight = torch.softmax(log_weight, 0)
    return 1 / (len(weight) * weight.square().sum(0))


def _by_weight(log_weight: Tensor, n: int, generator: torch.Generator | None) -> Tensor:
    # (many, videos) -> rows (n, videos).
    weight = torch.softmax(log_weight, 0).mT
    return torch.multinomial(weight, n, replacement=True, generator=generator).mT


def _root(z: Tensor) -> Tensor:
    # Of the covariance of the draws of each video, (n, videos, code) -> (videos, code, code).
    centred = (z - z.mean(0)).movedim(0, 1)
    covariance = centred.mT @ centred / len(z)
    floor = 1e-6 + 1e-3 * covariance.diagonal(dim1=-2, dim2=-1).mean(-1)
    return torch.linalg.cholesky(covariance + floor[:, None, None] * torch.eye(z.shape[-1]).to(z))
