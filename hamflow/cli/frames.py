"""Files of videos: what the suffix says, read and written."""

from __future__ import annotations

import itertools
import math
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hamflow.errors import InputError, check_positive
from hamflow.io import atomic_path
from hamflow.videos import Videos, check_frames
from hamflow.videos.storage import SUFFIXES, write_videos

READABLE = (*SUFFIXES, ".npz", ".npy")
WRITABLE = (*SUFFIXES, ".npz", ".gif")
#: So many videos play beside each other in a GIF, where nobody says how many.
BESIDE = 8


def check_writable_as_videos(path: Path) -> None:
    """Raise :class:`InputError` unless the suffix is one of :data:`WRITABLE`."""
    _suffix(path, WRITABLE)


def is_gif(path: Path) -> bool:
    """Whether the file is for the eye."""
    return path.suffix.lower() == ".gif"


def read_frames(path: Path, *, dt: float | None = None, key: str | None = None) -> tuple[Videos, bool]:
    """The videos in a file, those of HDF5 left on disk; and whether the file says the time between their frames.

    Args:
        path: HDF5 as :class:`Videos` writes it; an NPZ with ``frames`` and ``dt``, or with one array; or an NPY.
        dt: the time between two frames, of files that do not tell it.
        key: the array of an NPZ that holds several.

    Raises:
        InputError: the file is missing, not whole, holds no videos, or tells a time although ``dt`` is given.
    """
    suffix = _suffix(path, READABLE)
    if key is not None and suffix != ".npz":
        raise InputError(f"--key = {key!r}, but {path} is no NPZ file and holds one array only")
    if dt is not None:
        check_positive("--dt", dt)
    if suffix in SUFFIXES:
        found, told = Videos.load(path), True
    else:
        array, time = _read_arrays(path, key)
        told = time is not None
        if time is not None:
            check_positive(f"{path}: dt", time)
        found = Videos(check_frames(array, str(path)), time or dt or 1.0)
    if told and dt is not None and not math.isclose(found.dt, dt, rel_tol=1e-6):
        raise InputError(f"--dt = {dt:g}, but {path} says that its frames are {found.dt:g} apart: leave --dt out")
    return found, told


def write_frames(path: Path, parts: Iterable[Tensor], dt: float, metadata: Mapping[str, Any]) -> None:
    """Write videos that come in parts (k, time, channel, height, width); only HDF5 takes them piece by piece."""
    suffix = _suffix(path, WRITABLE)
    if suffix in SUFFIXES:
        rest = iter(parts)
        first = next(rest)
        write_videos(path, itertools.chain([first], rest), tuple(first.shape[1:]), first.dtype, dt, None, metadata)
        return
    frames = torch.cat(list(parts)).cpu()
    if suffix == ".gif":
        # Only a GIF waits for matplotlib.
        from hamflow.plots import write_gif

        write_gif(path, frames)
        return
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, frames=frames.numpy(), dt=np.array(float(dt)))


def _suffix(path: Path, known: tuple[str, ...]) -> str:
    if path.suffix.lower() not in known:
        raise InputError(f"{path} has the suffix {path.suffix!r}, expected one of {', '.join(known)}")
    return path.suffix.lower()


def _read_arrays(path: Path, key: str | None) -> tuple[NDArray[Any], float | None]:
    if not path.is_file():
        raise InputError(f"{path} does not exist" if not path.exists() else f"{path} is a folder, expected a file")
    try:
        # An object array would have to be unpickled, which can run any code: it is refused.
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return _native(content), None
        with content as archive:
            names = [name for name in archive.files if name != "dt"]
            usual = "frames" if "frames" in names else names[0] if len(names) == 1 else None
            name = usual if key is None else key
            if name not in names:
                wanted = "expected one, or --key" if key is None else f"expected one of them as --key, not {key!r}"
                raise InputError(f"{path} holds the arrays {', '.join(names) or 'none'}, {wanted}")
            return _native(archive[name]), float(archive["dt"]) if "dt" in archive.files else None
    except InputError:
        raise
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error, KeyError, TypeError) as error:
        reason = "arrays of objects are not read" if "allow_pickle" in str(error) else str(error).splitlines()[0]
        raise InputError(f"{path} is not a whole NumPy file of numbers: {reason}") from error


def _native(array: NDArray[Any]) -> NDArray[Any]:
    # A file may come from a machine with bytes in the other order, which a tensor cannot have.
    return array.astype(array.dtype.newbyteorder("="), copy=False)
