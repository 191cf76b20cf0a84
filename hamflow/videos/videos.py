"""Videos: sequences of frames of moving systems, in memory or on disk."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from hamflow.errors import InputError, check_positive
from hamflow.systems import Trajectories
from hamflow.videos.storage import FrameFile, JoinedFrames, read_videos, write_videos

#: Videos that are written at a time.
_AT_A_TIME = 64


@dataclass(frozen=True, eq=False)
class Videos:
    """A set of n videos of equal length and size.

    Args:
        frames: (n, time, channel, height, width), one channel or three, floating with values in [0, 1] or uint8; an
            array, a tensor, a sequence of videos (time, channel, height, width), or the frames of a file on disk. Masks
            may be bool.
        dt: the time between two frames, [time].
        states: the true trajectories that they show, if they are known; they teach nothing, but measure a model.
        metadata: what JSON can hold.

    Raises:
        InputError: frames have the wrong rank, range, dtype, order of channels, different lengths or one time only.

    Example:
        >>> import torch, hamflow as hf
        >>> videos = hf.Videos(torch.rand(8, 5, 1, 16, 16), dt=0.1)
        >>> len(videos), videos.n_frames, videos[torch.tensor([0, 3])].shape
        (8, 5, torch.Size([2, 5, 1, 16, 16]))
    """

    frames: Tensor | FrameFile | JoinedFrames
    dt: float = 1.0
    states: Trajectories | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_positive("dt", self.dt)
        if not isinstance(self.frames, FrameFile | JoinedFrames):
            object.__setattr__(self, "frames", check_frames(self.frames))
        states = self.states
        if states is not None and (states.n, states.n_times) != tuple(self.frames.shape[:2]):
            raise InputError(
                f"states has {states.n} trajectories of {states.n_times} times, expected those of the frames, "
                f"{self.frames.shape[0]} and {self.frames.shape[1]}"
            )
        try:
            json.dumps(dict(self.metadata))
        except (TypeError, ValueError) as error:
            raise InputError(f"metadata holds what JSON cannot: {error}") from error

    def __len__(self) -> int:
        return int(self.frames.shape[0])

    def __getitem__(self, index: Any) -> Tensor:
        """Videos as a tensor with values in [0, 1], (..., time, channel, height, width)."""
        return in_unit_range(self.frames[index])

    def some(self, n: int, *, numbers: int = 50_000_000, seed: int = 0) -> Tensor:
        """At most n videos drawn at random, in their order, and fewer where all have more than so many pixels.

        Example:
            >>> import torch, hamflow as hf
            >>> hf.Videos(torch.rand(8, 5, 1, 16, 16)).some(3).shape
            torch.Size([3, 5, 1, 16, 16])
        """
        check_positive("n", n, integer=True)
        count = min(n, len(self), max(1, numbers // math.prod(self.frames.shape[1:])))
        if count == len(self):
            return self[:]
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        return self[order[:count].sort().values]

    def __repr__(self) -> str:
        where = f", {self.frames.path}" if isinstance(self.frames, FrameFile) else ""
        return f"Videos({tuple(self.frames.shape)}, {self.frames.dtype}, dt={self.dt:g}{where})"

    @property
    def n_frames(self) -> int:
        """The number of frames of a video."""
        return int(self.frames.shape[1])

    @property
    def channels(self) -> int:
        """1 for grey, 3 for RGB."""
        return int(self.frames.shape[2])

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, [pixels]."""
        return int(self.frames.shape[3]), int(self.frames.shape[4])

    def save(self, path: str | Path) -> None:
        """Write to an HDF5 file (.h5), a chunk a video; atomically.

        Raises:
            InputError: the suffix is another, or the file cannot be written.
        """
        parts = (self.frames[i : i + _AT_A_TIME] for i in range(0, len(self), _AT_A_TIME))
        write_videos(path, parts, tuple(self.frames.shape[1:]), self.frames.dtype, self.dt, self.states, self.metadata)

    @classmethod
    def joined(cls, parts: Sequence[Videos]) -> Videos:
        """Several sets as one, each left where it is, on disk or in memory; without states.

        Raises:
            InputError: there is none, or they differ in the number, size, channels or dtype of frames, or in dt.

        Example:
            >>> import torch, hamflow as hf
            >>> parts = [hf.Videos(torch.rand(n, 5, 1, 16, 16), dt=0.1) for n in (8, 3)]
            >>> hf.Videos.joined(parts)[torch.tensor([9, 0])].shape
            torch.Size([2, 5, 1, 16, 16])
        """
        frames = []
        for part in parts:
            for name, one, other in (
                ("frames a video", parts[0].n_frames, part.n_frames),
                ("channels", parts[0].channels, part.channels),
                ("pixels", parts[0].size, part.size),
                ("dtype", parts[0].frames.dtype, part.frames.dtype),
                ("dt", parts[0].dt, part.dt),
            ):
                if one != other and not (name == "dt" and math.isclose(parts[0].dt, part.dt, rel_tol=1e-6)):
                    raise InputError(f"videos has parts that differ in {name}, {one} and {other}, expected one for all")
            frames += part.frames.parts if isinstance(part.frames, JoinedFrames) else [part.frames]
        if not frames:
            raise InputError("videos is empty, expected at least one set")
        return cls(JoinedFrames(frames), parts[0].dt) if len(parts) > 1 else parts[0]

    @classmethod
    def load(cls, path: str | Path, *, in_memory: bool = False) -> Self:
        """Open an HDF5 file of videos; its frames are read as they are asked for, or all at once.

        Raises:
            InputError: the file is missing, not whole or holds something else.

        Example:
            >>> import tempfile, pathlib, torch, hamflow as hf
            >>> path = pathlib.Path(tempfile.mkdtemp()) / "videos.h5"
            >>> hf.Videos(torch.rand(8, 5, 1, 16, 16), dt=0.1).save(path)
            >>> hf.Videos.load(path)[2].shape
            torch.Size([5, 1, 16, 16])
        """
        frames, dt, states, metadata = read_videos(path)
        return cls(frames[:] if in_memory else frames, dt, states, metadata)


def in_unit_range(frames: Tensor) -> Tensor:
    """Frames with values in [0, 1], floating ones as they are."""
    return frames if frames.is_floating_point() else frames.to(torch.float32) / 255


def check_frames(frames: Any, name: str = "frames") -> Tensor:
    """Frames as a tensor (n, time, channel, height, width), floating in [0, 1] or uint8, as which masks come too.

    Raises:
        InputError: as for :class:`Videos`.

    Example:
        >>> import numpy as np, hamflow as hf
        >>> hf.videos.check_frames(np.zeros((2, 3, 1, 4, 4), np.uint8)).dtype
        torch.uint8
    """
    if isinstance(frames, Sequence) and not isinstance(frames, str | bytes):
        shapes = [tuple(np.shape(video)) for video in frames]
        if len(set(shapes)) > 1:
            other = next(shape for shape in shapes if shape != shapes[0])
            raise InputError(f"{name} holds videos of the shapes {shapes[0]} and {other}, expected one for all")
    try:
        if isinstance(frames, Sequence) and not isinstance(frames, str | bytes):
            found = torch.stack([_tensor(video) for video in frames]) if frames else torch.empty(0)
        else:
            found = _tensor(frames)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} is a {type(frames).__name__}, expected an array of frames") from error
    if found.ndim != 5 or found.shape[2] not in (1, 3):
        expected = "expected (n, time, channel, height, width) with 1 or 3 channels"
        raise InputError(f"{name} has shape {tuple(found.shape)}, {expected}{_hint(found.shape)}")
    if found.numel() == 0:
        raise InputError(f"{name} has shape {tuple(found.shape)}, expected at least one video and one pixel")
    if found.shape[1] < 2:
        raise InputError(f"{name} has one frame a video, expected two or more: one frame does not show a motion")
    if found.dtype == torch.bool:
        return 255 * found.to(torch.uint8)
    if found.dtype == torch.uint8:
        if int(found.max()) == 1:
            raise InputError(f"{name} has the levels 0 and 1 of 255, which is all but black; masks are given as bool")
        return found
    if not found.is_floating_point():
        raise InputError(f"{name} has dtype {found.dtype}, expected floating numbers in [0, 1], uint8 or bool")
    low, high = (float(x) for x in found.aminmax())
    if low != low:
        raise InputError(f"{name} holds NaN, expected numbers in [0, 1]")
    if not (low >= 0 and high <= 1):
        hint = "; frames in [0, 255] are divided by 255, or given as uint8" if 1 < high <= 255 and low >= 0 else ""
        raise InputError(f"{name} has values from {low:g} to {high:g}, expected [0, 1]{hint}")
    return found


def _tensor(frames: Any) -> Tensor:
    # A tensor runs through its numbers forwards only, and files know no bfloat16.
    found = torch.as_tensor(np.ascontiguousarray(frames) if isinstance(frames, np.ndarray) else frames).detach()
    return found.float() if found.dtype == torch.bfloat16 else found


def _hint(shape: tuple[int, ...]) -> str:
    if len(shape) == 3:
        return "; one grey video (time, height, width) is frames[None, :, None]"
    if len(shape) == 4 and shape[3] in (1, 3):
        return "; one video with the channels last is frames[None].permute(0, 1, 4, 2, 3)"
    if len(shape) == 4:
        grey = "grey videos without a channel are frames[:, :, None]"
        return "; one video is frames[None]" if shape[1] in (1, 3) else f"; {grey}, one video is frames[None]"
    if len(shape) == 5 and shape[4] in (1, 3):
        return ": the channels are last here, permute(0, 1, 4, 2, 3) brings them third"
    if len(shape) == 5 and shape[1] in (1, 3):
        return ": the channels are before the times here, permute(0, 2, 1, 3, 4) brings them third"
    return ""
