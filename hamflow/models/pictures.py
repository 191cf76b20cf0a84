"""Networks between pictures and numbers: an encoder of stacked frames and a decoder of single ones."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

#: The side of the smallest map, between convolutions and numbers.
SIDE = 4


class FrameEncoder(nn.Module):
    """Features of frames that are stacked as channels, (batch, time, channel, n, n) -> (batch, outputs).

    Args:
        frames: the largest number of frames that are stacked; where fewer come, the weights of the rest wait, and a
            bias of its own for each number of frames says how many there are.
        channels: 1 for grey, 3 for RGB.
        size: n, a power of two times 4.
        outputs: the number of features, or of channels of a map of 4 x 4.
        width: the channels of the convolutions.
        maps: whether the features are a map, (batch, outputs, 4, 4).
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, frames: int, channels: int, size: int, outputs: int, width: int, *, maps: bool = False) -> None:
        super().__init__()
        self.register_buffer("loc", torch.zeros(channels, size, size))
        self.register_buffer("scale", torch.ones(()))
        self.first = nn.Conv2d(frames * channels, width, 5, stride=2, padding=2, bias=False)
        self.counts = nn.Embedding(frames, width)
        nn.init.zeros_(self.counts.weight)
        layers: list[nn.Module] = [nn.SiLU()]
        for _ in range(halvings(size) - 1):
            layers += [nn.Conv2d(width, width, 3, stride=2, padding=1), nn.SiLU()]
        if maps:
            layers += [nn.Conv2d(width, outputs, 3, padding=1)]
        else:
            layers += [nn.Flatten(), nn.Linear(width * SIDE**2, 4 * width), nn.SiLU(), nn.Linear(4 * width, outputs)]
        self.network = nn.Sequential(*layers)

    def hidden(self, frames: Tensor) -> Tensor:
        """What the last layer sees, (n, time, channel, side, side) -> (n, ...)."""
        seen = ((frames - self.loc) / self.scale).flatten(1, 2)
        first = functional.conv2d(seen, self.first.weight[:, : seen.shape[1]], stride=2, padding=2)
        found: Tensor = self.network[:-1](first + self.counts.weight[frames.shape[1] - 1].reshape(-1, 1, 1))
        return found

    def forward(self, frames: Tensor) -> Tensor:
        """The features."""
        found: Tensor = self.network[-1](self.hidden(frames))
        return found


class FrameDecoder(nn.Module):
    """A picture of positions, (*batch, d) -> (*batch, channel, n, n), values in (0, 1).

    Args:
        inputs: d, or the channels of a map of 4 x 4 where d is 16 times as many.
        channels: 1 for grey, 3 for RGB.
        size: n, a power of two times 4.
        width: of the network.
        maps: whether positions are a map.
    """

    def __init__(self, inputs: int, channels: int, size: int, width: int, *, maps: bool = False) -> None:
        super().__init__()
        self.shape = (channels, size, size)
        self.maps = maps
        if maps:
            layers: list[nn.Module] = [nn.Conv2d(inputs, width, 3, padding=1), nn.SiLU()]
            for _ in range(halvings(size)):
                layers += [nn.Upsample(scale_factor=2), nn.Conv2d(width, width, 3, padding=1), nn.SiLU()]
            layers += [nn.Conv2d(width, channels, 3, padding=1)]
        else:
            layers = [nn.Linear(inputs, 4 * width), nn.SiLU(), nn.Linear(4 * width, 8 * width), nn.SiLU()]
            layers += [nn.Linear(8 * width, math.prod(self.shape))]
        self.network = nn.Sequential(*layers)

    def forward(self, q: Tensor) -> Tensor:
        """The picture."""
        rows = q.reshape(-1, q.shape[-1])
        rows = rows.unflatten(-1, (-1, SIDE, SIDE)) if self.maps else rows
        found: Tensor = torch.sigmoid(self.network(rows))
        return found.reshape(*q.shape[:-1], *self.shape)


def halvings(size: int) -> int:
    """How often a side of so many pixels is halved down to 4."""
    return int(math.log2(size / SIDE))
