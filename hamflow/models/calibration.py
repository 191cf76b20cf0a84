"""From data: a start, components of blurred pictures as positions, and in the end codes as the prior has them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from hamflow.errors import RolloutError
from hamflow.models.pictures import FrameEncoder
from hamflow.videos import Videos

if TYPE_CHECKING:
    from hamflow.models.generator import VideoGenerator

#: Above such a share of the error of the mean frame little was learned.
_UNLEARNED = 0.5
#: Of the least squares, relative to the variance of a feature.
_RIDGE = 1e-1


def usual_rate(videos: Videos) -> float:
    """One turn a video, [1 / time]: near oscillators of this rate the dynamics starts."""
    return 2 * math.pi / (videos.n_frames * videos.dt)


@torch.no_grad()
def calibrate(model: VideoGenerator, frames: Tensor, rate: float) -> None:
    r"""Let a fresh model start from what linear algebra says of the data.

    Positions start as principal components of blurred pictures, momenta as their changes from frame to frame, and the
    decoder as the pictures of those positions: the last layers of encoder, transformer and decoder solve least squares,
    on random features as the other layers make them. From a random start a decoder sees no order in the positions, and
    learns the mean frame alone. Where positions are maps only sizes are set: codes and states of mean zero and variance
    one, and pictures about the mean frame.

    Args:
        model: a fresh model.
        frames: some videos, (n, time, channel, height, width).
        rate: that of the oscillators :math:`\dot q = \omega p` near which the dynamics starts, [1 / time].
    """
    for encoder in _encoders(model):
        encoder.loc.copy_(frames.mean((0, 1)))
        encoder.scale.copy_((frames - frames.mean((0, 1))).std())
    seen = frames[:, : model.config["frames"]]
    first, last, picture = (
        cast("nn.Linear", layer) for layer in (model.encoder.last, model.transformer[-1], model.decoder.network[-1])
    )
    level = frames.mean((0, 1)).clamp(0.01, 0.99).logit()
    picture.bias.copy_(level.flatten() if picture.bias.numel() == level.numel() else level.mean((1, 2)))
    if model.config["maps"]:
        # Spreads of the code keep their small size.
        _standardise(first, model.encoder(seen), slice(0, first.weight.shape[0] // 2))
        _standardise(last, model.transformer(model.rows(model.moments(model.encoder, seen)[0])), slice(None))
        return
    drawn, q, p = _components(model, frames, rate * model.dt)
    codes = _filled(torch.cat((drawn[:, 0], p), 1), model.code)
    _solve(first, model.encoder.hidden(seen), codes)
    z = model.moments(model.encoder, seen)[0]
    _solve(last, model.transformer[:-1](z), torch.cat((drawn[:, 0], p), 1))
    some = slice(None, None, max(1, frames.shape[1] // 8))
    shown = frames[:, some].flatten(0, 1).flatten(1).clamp(0.01, 0.99).logit()
    _solve(picture, model.decoder.network[:-1](model.features(q[:, some].flatten(0, 1))), shown)


@torch.no_grad()
def whiten(model: VideoGenerator, frames: Tensor) -> None:
    r"""Let the codes of data have mean zero and unit covariance, as the prior has them.

    The first layer of the transformer undoes what the last of the encoder does, so states stay as they are. Training
    leaves this freedom to chance: against all pixels of a video the prior weighs little. The spread of a code keeps the
    diagonal of its covariance in the new coordinates. Codes that are maps are scaled only, all places of a map alike.

    Args:
        model: a trained model.
        frames: some videos, (n, time, channel, height, width).
    """
    mean, scale = model.moments(model.encoder, frames[:, : int(model.most)])
    first = cast("nn.Linear | nn.Conv2d", model.transformer[0])
    lasts = [cast("nn.Linear | nn.Conv2d", encoder.last) for encoder in _encoders(model)]
    codes = lasts[0].weight.shape[0] // 2
    if model.config["maps"]:
        size = (mean**2 + scale**2).unflatten(1, (codes, -1)).mean((0, 2)).sqrt()
        for last in lasts:
            assert last.bias is not None
            last.weight[:codes] /= size.reshape(-1, 1, 1, 1)
            last.bias[:codes] /= size
            last.bias[codes:] -= size.log()
        first.weight *= size.reshape(1, -1, 1, 1)
        return
    assert first.bias is not None
    centre, spread = mean.mean(0), (scale**2).mean(0)
    # Triangular, so that the first code keeps its meaning; in double precision, and with a floor for codes that nearly
    # depend on each other.
    apart = (mean - centre).double()
    covariance = apart.mT @ apart / len(mean) + spread.double().diag()
    covariance += 1e-9 * covariance.diagonal().mean() * torch.eye(codes).to(covariance)
    root = torch.linalg.cholesky(covariance)
    inverse = torch.linalg.solve_triangular(root, torch.eye(codes).to(root), upper=False).to(mean)
    root = root.to(mean)
    for last in lasts:
        assert last.bias is not None
        last.weight[:codes] = inverse @ last.weight[:codes]
        last.bias[:codes] = inverse @ (last.bias[:codes] - centre)
        # Spreads differ from video to video by what the encoder says; by this factor for all of them.
        last.bias[codes:] += 0.5 * ((inverse**2 @ spread) / spread).log()
    first.bias += first.weight @ centre
    first.weight.copy_(first.weight @ root)


@torch.no_grad()
def unlearned(model: VideoGenerator, frames: Tensor) -> list[str]:
    """A note where a fitted model reconstructs videos little better than their mean frame does.

    Args:
        model: a trained model.
        frames: some videos that did not teach it, where there are, (n, time, channel, height, width).
    """
    mean = model.moments(model.encoder, frames[:, : int(model.most)])[0]
    try:
        error = (model.pictures(mean, frames.shape[1]) - frames).square().mean()
    except RolloutError as lost:
        return [f"how much was learned is not known: {lost}"]
    share = float(error / (frames - frames.mean((0, 1))).square().mean())
    if share < _UNLEARNED:
        return []
    return [
        f"videos are reconstructed with {share:.2g} of the squared error of their mean frame: little of the motion was "
        "learned; more epochs or videos, periodic for angles, or another dim may help"
    ]


def _encoders(model: VideoGenerator) -> list[FrameEncoder]:
    return [model.encoder] if model.few is None else [model.encoder, model.few]


def _components(model: VideoGenerator, frames: Tensor, turn: float) -> tuple[Tensor, Tensor, Tensor]:
    # What is drawn of the positions, of variance one, and the positions, (n, time, .) each; the first momenta (n, d).
    size = model.features.size
    flat = _from_afar(frames).flatten(2)
    centred = (flat - flat.mean((0, 1))).flatten(0, 1)
    _, _, directions = torch.svd_lowrank(centred, q=min(size + 6, *centred.shape), niter=4)
    scores = centred @ directions[:, :size]
    scores = _filled(scores / scores.std(0).clamp_min(1e-6), size).unflatten(0, frames.shape[:2])
    q = model.features.inverse(scores)
    # Over two frames where there are, since every frame has noise of its own.
    ahead = min(2, frames.shape[1] - 1)
    change = q[:, ahead] - q[:, 0]
    for i in model.config["periodic"]:
        change[:, i] = torch.remainder(change[:, i] + torch.pi, 2 * torch.pi) - torch.pi
    return scores, q, change / (ahead * turn)


def _from_afar(frames: Tensor) -> Tensor:
    # Blurred by a quarter of a side. Sharp pictures are a curved, often a folded function of where things are: half a
    # turn of two bodies changes them little. Of blurred ones moments are left, linear in the places first of all.
    places = torch.arange(frames.shape[-1], dtype=frames.dtype, device=frames.device)
    blur = (-8 * ((places - places.unsqueeze(1)) / len(places)) ** 2).exp()
    return blur @ frames @ blur


def _filled(x: Tensor, size: int) -> Tensor:
    return torch.cat((x[:, :size], x.new_zeros(len(x), max(0, size - x.shape[1]))), 1)


def _solve(layer: nn.Linear, hidden: Tensor, targets: Tensor) -> None:
    # The first rows of a linear layer, by ridge regression.
    mean, centre = hidden.mean(0), targets.mean(0)
    h, y = (hidden - mean).double(), (targets - centre).double()
    square = h.mT @ h
    # Of one video alone nothing differs.
    ridge = _RIDGE * square.diagonal().mean().clamp_min(1e-6) * torch.eye(len(square), dtype=h.dtype, device=h.device)
    weight = torch.linalg.solve(square + ridge, h.mT @ y).mT.to(layer.weight)
    layer.weight[: len(weight)] = weight
    layer.bias[: len(weight)] = centre - weight @ mean


def _standardise(layer: nn.Linear, outputs: Tensor, rows: slice) -> None:
    # Outputs (n, features, ...) of a linear layer or a convolution: mean zero and variance one of each feature.
    flat = outputs.flatten(2).movedim(1, -1).flatten(0, -2) if outputs.ndim > 2 else outputs
    mean, spread = flat.mean(0)[rows], flat.std(0)[rows].clamp_min(1e-6)
    layer.weight[rows] /= spread.reshape(-1, *[1] * (layer.weight.ndim - 1))
    layer.bias[rows] = (layer.bias[rows] - mean) / spread
