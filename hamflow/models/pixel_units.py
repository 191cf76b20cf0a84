"""The size of latent states: what the data ask for at the start, one at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from hamflow.energies import Hamiltonian, QuadraticKinetic, SeparableHamiltonian

if TYPE_CHECKING:
    from hamflow.models.pixel_hnn import PixelHNN

#: Numbers that are looked at, and frames of each video at least.
_NUMBERS, _FEWEST = 20_000_000, 4
#: The least curvature of an energy at the start, [1 / frame^2].
_FLATTEST = 1e-4


@torch.no_grad()
def start(model: PixelHNN, frames: Tensor) -> None:
    r"""Give the states and the energy of a fresh model the size that the data ask for.

    Networks see frames less their mean, in units of its spread. Positions get the mean zero and the variance one. A
    momentum is the change of a position by the next frame: it gets the size of that. A named Hamiltonian starts near
    :math:`H = \tfrac12 \sum_i (p_i^2 + b_i q_i^2)`, where b makes positions curve as they do in the videos.

    Args:
        model: a fresh model.
        frames: some videos, (n, time, channel, height, width).
    """
    frames = _some(frames)
    model.loc.copy_(frames.mean((0, 1)))
    model.scale.copy_((frames - model.loc).std().clamp_min(1e-6))
    z = model.states(frames)
    q, p = z.chunk(2, -1)
    size = q.flatten(0, 1).std(0).clamp_min(1e-6)
    change = (q[:, 1:] - q[:, :-1]) / size
    wanted = torch.cat((torch.ones_like(size), change.square().mean((0, 1)).sqrt()))
    layer = cast("nn.Linear", model.encoder[-1])
    factor = wanted / torch.cat((size, p.flatten(0, 1).std(0).clamp_min(1e-6)))
    layer.weight *= factor[:, None]
    layer.bias.copy_(factor * (layer.bias - z.mean((0, 1))))
    if isinstance(model.config["hamiltonian"], str) and change.shape[1] > 1:
        bent = (change[:, 1:] - change[:, :-1]) * (q[:, 1:-1] - q.mean((0, 1))) / size
        _set_curvatures(model.hamiltonian, -bent.mean((0, 1)).clamp_max(-_FLATTEST))


@torch.no_grad()
def finish(model: PixelHNN, frames: Tensor) -> None:
    """Bring positions to variance one; what a model says of pictures stays as it is.

    Args:
        model: a model that was fitted.
        frames: some videos, (n, time, channel, height, width).
    """
    q, _ = model.states(_some(frames)).chunk(2, -1)
    model.rescale(float(q.flatten(0, 1).var(0).mean().sqrt()))


def _some(frames: Tensor) -> Tensor:
    n, times = frames.shape[:2]
    return frames[:, : max(_FEWEST, min(times, _NUMBERS // (n * frames[0, 0].numel())))]


def _set_curvatures(hamiltonian: Hamiltonian, curvature: Tensor) -> None:
    kinetic = torch.ones_like(curvature)
    separable = isinstance(hamiltonian, SeparableHamiltonian)
    wanted = (kinetic, curvature) if separable else (torch.cat((curvature, kinetic)),)
    parts = [part for part in hamiltonian.modules() if isinstance(part, QuadraticKinetic)]
    for part, inverse_mass in zip(parts, wanted, strict=True):
        part.log_diagonal.copy_(0.5 * inverse_mass.log())
