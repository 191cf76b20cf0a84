"""A start from data: an autoencoder of pictures that begins at what is linear in its own random features."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from hamflow.energies import Hamiltonian, QuadraticKinetic, SeparableHamiltonian

if TYPE_CHECKING:
    from hamflow.models.pixel_hnn import PixelHNN

#: Ridge of the regressions, of the mean variance of a feature.
_RIDGE = 1e-3
#: Numbers that are looked at, and frames of each video at least.
_NUMBERS, _FEWEST = 20_000_000, 3
#: The least curvature of an energy at the start, [1 / frame^2].
_FLATTEST = 1e-4


@torch.no_grad()
def start(model: PixelHNN, frames: Tensor) -> None:
    r"""Set the last layers of fresh networks by linear regression, their hidden layers kept as they were drawn.

    Positions become the principal components of the encoder's features, with variance one; momenta the regression of
    the change of a position; pictures the regression on the decoder's features; and a named Hamiltonian gets the
    curvatures of :math:`H = \tfrac12 \sum_i (a_i p_i^2 + b_i q_i^2)` that explain the changes of states best.

    Args:
        model: a fresh model.
        frames: some videos, (n, time, channel, height, width).
    """
    n, times = frames.shape[:2]
    frames = frames[:, : max(_FEWEST, min(times, _NUMBERS // (n * frames[0, 0].numel())))]
    model.loc.copy_(frames.mean((0, 1)))
    model.scale.copy_((frames - model.loc).std())
    d = model.config["dim"]
    hidden, last = model.encoder[:-1], cast("nn.Linear", model.encoder[-1])
    features = hidden(model.pairs(frames)).double()
    flat = features.flatten(0, -2)
    directions = torch.linalg.eigh(torch.cov(flat.T)).eigenvectors[:, -d:].flip(-1)
    directions = directions / (flat @ directions).std(0)
    q = (features - flat.mean(0)) @ directions
    _set(last, flat.mean(0), directions, torch.zeros(d), slice(0, d))
    change = (q[:, 1:] - q[:, :-1]).flatten(0, 1)
    _set(last, *_regression(features[:, :-1].flatten(0, 1), change), slice(d, None))

    z = model.states(frames)
    first = cast("nn.Linear", model.decoder[0])
    # The decoder sees all coordinates at the same size.
    first.weight /= z.flatten(0, 1).std(0)
    drawn = model.decoder[:-1](z).flatten(0, 1).double()
    pictures = model.pairs(frames).flatten(0, 1).double()
    _set(cast("nn.Linear", model.decoder[-1]), *_regression(drawn, pictures), slice(None))
    if isinstance(model.config["hamiltonian"], str):
        _set_curvatures(model.hamiltonian, z.double())


def _set_curvatures(hamiltonian: Hamiltonian, z: Tensor) -> None:
    # States (n, time, 2 d).
    change, middle = (x.flatten(0, 1) for x in (z[:, 1:] - z[:, :-1], (z[:, 1:] + z[:, :-1]) / 2))
    (dq, dp), (q, p) = change.chunk(2, -1), middle.chunk(2, -1)
    kinetic, potential = (dq * p).mean(0) / (p**2).mean(0), -(dp * q).mean(0) / (q**2).mean(0)
    both = [kinetic, potential] if isinstance(hamiltonian, SeparableHamiltonian) else [torch.cat((potential, kinetic))]
    parts = [part for part in hamiltonian.modules() if isinstance(part, QuadraticKinetic)]
    for part, curvature in zip(parts, both, strict=True):
        part.log_diagonal.copy_(0.5 * curvature.clamp_min(_FLATTEST).log())


def _regression(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The centre of x, the weights and the constant of the ridge regression of y on x."""
    centre = x.mean(0)
    x = x - centre
    gram = x.T @ x
    gram.diagonal().add_(_RIDGE * gram.diagonal().mean())
    return centre, torch.linalg.solve(gram, x.T @ (y - y.mean(0))), y.mean(0)


def _set(layer: nn.Linear, centre: Tensor, weight: Tensor, constant: Tensor, rows: slice) -> None:
    layer.weight[rows] = weight.T.to(layer.weight)
    layer.bias[rows] = (constant.to(centre) - centre @ weight).to(layer.bias)
