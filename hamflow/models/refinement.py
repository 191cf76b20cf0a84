"""What an encoder says of videos, made better by steps towards the mode of the posterior."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hamflow.errors import InputError, is_number

if TYPE_CHECKING:
    from hamflow.models.generator import VideoGenerator

#: The largest step, of codes whose variance is one.
_RATE = 0.03
#: Pixels at a time, whose gradients have to fit into memory: some hundred times as many numbers.
_PIXELS = 1_600_000


def refined(model: VideoGenerator, frames: Tensor, z: Tensor, steps: int) -> Tensor:
    r"""Codes near those of an encoder that explain frames better, by Adam on

    .. math:: \frac{1}{2 \sigma^2} \sum_t \lVert x_t - g(q_t(z)) \rVert^2 + \frac{1}{2} \lVert z \rVert^2 ,

    which is -log p(x, z) up to a constant: the mode of the posterior, not its mean, and without the spread of r. An
    encoder is one function for all videos, and what it misses of a state grows along a motion. Of every video the best
    code on the way is kept, so the sum is never larger than it was.

    Args:
        model: the network.
        frames: all that are known, (n, time, channel, height, width).
        z: the codes to start from, (n, code).
        steps: how many.

    Returns:
        Codes, (n, code).

    Raises:
        InputError: ``steps`` is no number of steps.

    References:
        Kim et al. (2018), Semi-Amortized Variational Autoencoders, arXiv 1802.02550, who refine mean and spread.
    """
    if not is_number(steps, integer=True) or steps < 0:
        raise InputError(f"refine = {steps!r}, expected a number of steps, 0 or more")
    if not steps:
        return z
    n = max(1, _PIXELS // frames[0].numel())
    found = [_descend(model, x, start, steps) for x, start in zip(frames.split(n), z.split(n), strict=True)]
    return torch.cat(found)


@torch.inference_mode(False)
@torch.enable_grad()
def _descend(model: VideoGenerator, frames: Tensor, z: Tensor, steps: int) -> Tensor:
    # Copies of tensors of inference mode are ordinary ones.
    frames, z = frames.clone(), z.detach().clone()
    best, least = z.clone(), torch.full_like(z[:, 0], math.inf)
    z.requires_grad_()
    optimiser = torch.optim.Adam([z], _RATE)
    for k in range(steps + 1):
        error = (model.pictures(z, frames.shape[1]) - frames).square().sum((1, 2, 3, 4))
        loss = 0.5 * error * (-2 * model.log_scale.detach()).exp() + 0.5 * z.square().sum(1)
        better = loss.detach() < least
        best, least = torch.where(better[:, None], z.detach(), best), torch.where(better, loss.detach(), least)
        if k < steps:
            # To zero, so that the last steps settle.
            optimiser.param_groups[0]["lr"] = 0.5 * _RATE * (1 + math.cos(math.pi * k / steps))
            (z.grad,) = torch.autograd.grad(loss.sum(), z)
            optimiser.step()
    return best
