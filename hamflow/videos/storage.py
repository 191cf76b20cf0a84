"""Videos on disk: HDF5, a chunk a video, so that a set larger than memory is written and read piece by piece."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hamflow.errors import InputError
from hamflow.io import atomic_path
from hamflow.systems import Trajectories
from hamflow.systems.trajectories import ARRAYS

SUFFIXES = (".h5", ".hdf5")


class FrameFile:
    """The frames of an HDF5 file, read as they are asked for; each process opens the file for itself.

    Attributes:
        path: the file.
        shape: (n, time, channel, height, width).
        dtype: uint8 or a floating one.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()
        self._open: tuple[int, Any] | None = None
        frames = self._frames()
        self.shape = torch.Size(frames.shape)
        self.dtype: torch.dtype = torch.from_numpy(np.empty(0, frames.dtype)).dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Tensor:
        """Videos by a number, a slice, or numbers in any order."""
        frames = self._frames()
        if isinstance(index, slice | int):
            return torch.from_numpy(np.asarray(frames[index]))
        # As for a tensor: numbers from the end, booleans, and an IndexError for one that there is not.
        numbers = torch.arange(len(self))[torch.as_tensor(index)].numpy()
        # The file gives rows in their own order, each once.
        rows, back = np.unique(numbers, return_inverse=True)
        return torch.from_numpy(frames[rows][back])

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": None}

    def _frames(self) -> Any:
        # A handle must not be shared with a process that was forked off.
        if self._open is None or self._open[0] != os.getpid():
            import h5py

            self._open = os.getpid(), h5py.File(self.path, "r")
        return self._open[1]["frames"]


class JoinedFrames:
    """The frames of several sets one after the other, each read from its own place as it is asked for.

    Attributes:
        shape: (n, time, channel, height, width), n of all together.
        dtype: uint8 or a floating one.
    """

    def __init__(self, parts: Sequence[Tensor | FrameFile]) -> None:
        self.parts = list(parts)
        self.shape = torch.Size((sum(len(part) for part in parts), *parts[0].shape[1:]))
        self.dtype = parts[0].dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Tensor:
        """Videos by a number, a slice, or numbers in any order."""
        numbers = torch.arange(len(self))[index]
        if numbers.ndim == 0:
            return self[numbers.unsqueeze(0)][0]
        found = torch.empty(len(numbers), *self.shape[1:], dtype=self.dtype)
        ends = list(accumulate(len(part) for part in self.parts))
        for part, end in zip(self.parts, ends, strict=True):
            start = end - len(part)
            here = ((numbers >= start) & (numbers < end)).nonzero()[:, 0]
            if len(here):
                rows = numbers[here] - start
                # A file reads a run of rows at once, and single ones slowly.
                run = bool((rows.diff() == 1).all())
                found[here] = part[int(rows[0]) : int(rows[-1]) + 1] if run else part[rows]
        return found


def write_videos(
    path: str | Path,
    parts: Iterable[Tensor],
    shape: tuple[int, ...],
    dtype: torch.dtype,
    dt: float,
    states: Trajectories | None,
    metadata: Mapping[str, Any],
) -> None:
    """Write videos that come in parts (k, *shape), shape (time, channel, height, width); the file appears whole or not.

    Raises:
        InputError: the suffix is none of :data:`SUFFIXES`, or the file cannot be written.
    """
    import h5py

    path = check_suffix(path)
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        kind = torch.empty(0, dtype=dtype).numpy().dtype
        frames = file.create_dataset(
            "frames", (0, *shape), kind, maxshape=(None, *shape), chunks=(1, *shape), compression="gzip", shuffle=True
        )
        for part in parts:
            frames.resize(len(frames) + len(part), axis=0)
            frames[-len(part) :] = part.cpu().numpy()
        for name in ("times", *states.given) if states is not None else ():
            file[f"states/{name}"] = getattr(states, name).cpu().numpy()
        notes = {} if states is None else dict(states.metadata)
        described = {"dt": float(dt), "metadata": dict(metadata), "states": notes}
        file.attrs["videos"] = json.dumps(described, sort_keys=True)


def read_videos(path: str | Path) -> tuple[FrameFile, float, Trajectories | None, dict[str, Any]]:
    """Open what :func:`write_videos` wrote: the frames on disk, the time between them, the states and the metadata.

    Raises:
        InputError: the file is missing, not whole, or holds something else.
    """
    import h5py

    path = check_suffix(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist" if not path.exists() else f"{path} is a folder, expected a file")
    try:
        with h5py.File(path, "r") as file:
            if "videos" not in file.attrs:
                names = ", ".join(file) or "nothing"
                raise InputError(f"{path} holds {names}, expected what Videos(frames, dt).save(path) writes")
            described = json.loads(file.attrs["videos"])
            states = {name: file["states"][name][:] for name in ("times", *ARRAYS) if f"states/{name}" in file}
        frames = FrameFile(path)
    except InputError:
        raise
    except (OSError, KeyError, ValueError) as error:
        raise InputError(f"{path} is not a whole file of videos: {str(error).splitlines()[0]}") from error
    known = Trajectories(metadata=described["states"], **states) if states else None
    return frames, float(described["dt"]), known, described["metadata"]


def check_suffix(path: str | Path) -> Path:
    """The path, or :class:`InputError` where its suffix is none of :data:`SUFFIXES`."""
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path} has the suffix {path.suffix!r}, expected one of {', '.join(SUFFIXES)}")
    return path
