"""Networks between pictures and numbers: an encoder of stacked frames and a decoder of single ones."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from hamflow.errors import InputError, is_number

#: The side of the smallest map, between convolutions and numbers.
SIDE = 4
#: Pictures of maps that are drawn at once.
_PIECE = 32


def check_shape(size: Any, channels: Any) -> None:
    """Raise :class:`InputError` unless networks draw frames of this size and so many channels."""
    for name, number, known in (("size", size, (8, 16, 32, 64)), ("channels", channels, (1, 3))):
        if not is_number(number, integer=True) or number not in known:
            raise InputError(f"{name} = {number!r}, expected one of {known}")


class FrameEncoder(nn.Module):
    """Features of a sequence of frames, (batch, time, channel, n, n) -> (batch, outputs, ...).

    Where fewer frames come than it can read, the weights of the rest wait, and a bias of its own for each number of
    frames says how many there are.

    Args:
        frames: the largest number of frames.
        channels: 1 for grey, 3 for RGB.
        size: n, a power of two times 4.
        counted: the width of the layer that first sees all frames, where the bias is added.

    Attributes:
        loc: the mean frame, which is taken off.
        scale: of what is left.
        last: the last layer, a linear one or a convolution.
    """

    loc: Tensor
    scale: Tensor
    last: nn.Module

    def __init__(self, frames: int, channels: int, size: int, counted: int) -> None:
        super().__init__()
        self.register_buffer("loc", torch.zeros(channels, size, size))
        self.register_buffer("scale", torch.ones(()))
        self.counts = nn.Embedding(frames, counted)
        nn.init.zeros_(self.counts.weight)

    def hidden(self, frames: Tensor) -> Tensor:
        """What the last layer sees, (n, time, channel, side, side) -> (n, ...)."""
        raise NotImplementedError(f"{type(self).__name__} must implement hidden(frames)")

    def forward(self, frames: Tensor) -> Tensor:
        """The features."""
        found: Tensor = self.last(self.hidden(frames))
        return found


class MapEncoder(FrameEncoder):
    """Maps of 4 x 4 from frames that are stacked as channels, -> (batch, outputs, 4, 4).

    Args:
        frames, channels, size: see :class:`FrameEncoder`.
        outputs: the number of maps.
        width: the channels of the convolutions.
    """

    def __init__(self, frames: int, channels: int, size: int, outputs: int, width: int) -> None:
        super().__init__(frames, channels, size, width)
        self.first = nn.Conv2d(frames * channels, width, 5, stride=2, padding=2, bias=False)
        layers: list[nn.Module] = [nn.SiLU()]
        for _ in range(halvings(size) - 1):
            layers += [nn.Conv2d(width, width, 3, stride=2, padding=1), nn.SiLU()]
        self.network = nn.Sequential(*layers)
        self.last = nn.Conv2d(width, outputs, 3, padding=1)

    def hidden(self, frames: Tensor) -> Tensor:
        seen = ((frames - self.loc) / self.scale).flatten(1, 2)
        first = functional.conv2d(seen, self.first.weight[:, : seen.shape[1]], stride=2, padding=2)
        found: Tensor = self.network(first + self.counts.weight[frames.shape[1] - 1].reshape(-1, 1, 1))
        return found


class VectorEncoder(FrameEncoder):
    """Numbers from frames that are looked at one by one, all by the same weights, then together, -> (batch, outputs).

    Args:
        frames, channels, size: see :class:`FrameEncoder`.
        outputs: the number of numbers.
        width: of the features of a frame; an eighth of that of the layers that see all frames.
    """

    def __init__(self, frames: int, channels: int, size: int, outputs: int, width: int) -> None:
        wide = 8 * width
        super().__init__(frames, channels, size, wide)
        self.look = nn.Sequential(
            nn.Conv2d(channels, width // 4 + 1, 5, stride=4, padding=2), nn.SiLU(), nn.Flatten(),
            nn.Linear((width // 4 + 1) * (size // 4) ** 2, width), nn.SiLU(),
        )  # fmt: skip
        self.together = nn.Linear(frames * width, wide)
        self.network = nn.Sequential(nn.SiLU(), nn.Linear(wide, wide), nn.SiLU())
        self.last = nn.Linear(wide, outputs)

    def hidden(self, frames: Tensor) -> Tensor:
        each = self.look(((frames - self.loc) / self.scale).flatten(0, 1)).unflatten(0, frames.shape[:2]).flatten(1)
        together = functional.linear(each, self.together.weight[:, : each.shape[1]], self.together.bias)
        found: Tensor = self.network(together + self.counts.weight[frames.shape[1] - 1])
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
        if self.maps:
            # Pieces whose maps stay in the cache, laid out as convolutions on a CPU are fastest.
            maps = rows.unflatten(-1, (-1, SIDE, SIDE)).contiguous(memory_format=torch.channels_last)
            found = torch.cat([self.network(piece) for piece in maps.split(_PIECE)])
        else:
            found = self.network(rows)
        return torch.sigmoid(found).reshape(*q.shape[:-1], *self.shape)


def halvings(size: int) -> int:
    """How often a side of so many pixels is halved down to 4."""
    return int(math.log2(size / SIDE))
