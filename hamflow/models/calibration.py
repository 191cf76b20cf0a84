"""A start from data: layers whose outputs vary by one before anything is learned."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from hamflow.models.hgn import HGN


@torch.no_grad()
def calibrate(model: HGN, frames: Tensor) -> None:
    r"""Give the code, the states and the pictures of a fresh model the size that the data ask for.

    Means of :math:`r(z \mid x)` and the states :math:`(q_0, p_0)` get mean zero and variance one over the frames, and
    the decoder starts from the mean frame. With smaller ones a decoder would see no difference between videos, and
    learn the mean frame alone.

    Args:
        model: a fresh model.
        frames: some videos, (n, time, channel, height, width).
    """
    model.encoder.loc.copy_(frames.mean())
    model.encoder.scale.copy_(frames.std())
    seen = frames[:, : model.config["frames"]]
    means, last, picture = (
        cast("nn.Linear", network[-1]) for network in (model.encoder.network, model.transformer, model.decoder.network)
    )
    half = means.weight.shape[0] // 2
    _standardise(means, model.encoder(seen), slice(0, half))
    # Spreads of the code keep their small size.
    z, _ = model.posterior(seen)
    states = torch.cat(model.initial_state(z), -1)
    _standardise(last, states.unflatten(1, (last.weight.shape[0], -1)).squeeze(-1), slice(None))
    level = frames.mean((0, 1)).clamp(0.01, 0.99).logit()
    picture.bias.copy_(level.flatten() if picture.bias.numel() == level.numel() else level.mean((1, 2)))


def _standardise(layer: nn.Linear, outputs: Tensor, rows: slice) -> None:
    # Outputs (n, features, ...) of a linear layer or a convolution: mean zero and variance one of each feature.
    flat = outputs.flatten(2).movedim(1, -1).flatten(0, -2) if outputs.ndim > 2 else outputs
    mean, spread = flat.mean(0)[rows], flat.std(0)[rows].clamp_min(1e-6)
    layer.weight[rows] /= spread.reshape(-1, *[1] * (layer.weight.ndim - 1))
    layer.bias[rows] = (layer.bias[rows] - mean) / spread
