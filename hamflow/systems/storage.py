"""Trajectories on disk: NPZ, HDF5 and CSV."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hamflow.errors import InputError
from hamflow.io import atomic_path, read_table

SUFFIXES = (".npz", ".h5", ".hdf5", ".csv")
_NAMES = ("times", "q", "p", "v", "p_dot", "v_dot")
Arrays = dict[str, NDArray[Any]]


def write_trajectories(path: str | Path, arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, Any]) -> None:
    """Write arrays, times of shape (time,) or (n, time) and the others (n, time, d), and their metadata.

    A CSV file has a line a state: trajectory, time, q0, q1, ..., p0, ...; its first line holds the metadata behind a #.

    Raises:
        InputError: the suffix is unknown or the file cannot be written.
    """
    path = Path(path)
    suffix = check_suffix(path)
    notes = json.dumps(dict(metadata), sort_keys=True)
    with atomic_path(path) as temporary:
        if suffix == ".npz":
            np.savez_compressed(temporary, metadata=np.array(notes), **dict(arrays))  # type: ignore[arg-type]
        elif suffix == ".csv":
            _write_csv(temporary, arrays, notes)
        else:
            import h5py

            with h5py.File(temporary, "w") as file:
                for name, array in arrays.items():
                    file.create_dataset(name, data=array, compression="gzip", shuffle=True)
                file.attrs["metadata"] = notes


def read_trajectories(path: str | Path) -> tuple[Arrays, dict[str, Any]]:
    """Read the arrays and the metadata of a file of trajectories.

    Raises:
        InputError: the file is missing, not whole, does not hold times and q, or holds what has another name.
    """
    path = Path(path)
    suffix = check_suffix(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist" if not path.exists() else f"{path} is a folder, expected a file")
    read = {".npz": _read_npz, ".csv": _read_csv}.get(suffix, _read_hdf5)
    arrays, notes = read(path)
    if missing := [name for name in ("times", "q") if name not in arrays]:
        raise InputError(f"{path} holds {', '.join(arrays) or 'no arrays'}, expected also {' and '.join(missing)}")
    for name, array in arrays.items():
        if array.dtype.kind not in "fiu":
            raise InputError(f"{path}: {name} has dtype {array.dtype}, expected real numbers")
    try:
        metadata = json.loads(notes)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: the metadata is not JSON ({error})") from error
    if not isinstance(metadata, dict):
        raise InputError(f"{path}: the metadata is a {type(metadata).__name__}, expected a mapping")
    return arrays, metadata


def check_suffix(path: Path) -> str:
    """The suffix of a file of trajectories, or :class:`InputError` where it is none of :data:`SUFFIXES`."""
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path} has the suffix {path.suffix!r}, expected one of {', '.join(SUFFIXES)}")
    return path.suffix.lower()


def _check_names(path: Path, what: str, found: Sequence[str], known: Sequence[str]) -> None:
    # A name that is spelt in another way would be dropped without a word.
    if unknown := [name for name in found if name not in known]:
        numbered = "trajectory, time, q0, q1, ..., p0, v0, p_dot0, v_dot0, ..."
        expected = numbered if what == "columns" else f"{', '.join(_NAMES)}, metadata"
        raise InputError(f"{path} has {what} called {', '.join(unknown)}, expected some of {expected}")


def _read_npz(path: Path) -> tuple[Arrays, str]:
    import zipfile
    import zlib

    try:
        # An object array would have to be unpickled, which can run any code: it is refused.
        with np.load(path, allow_pickle=False) as archive:
            _check_names(path, "arrays", archive.files, (*_NAMES, "metadata"))
            arrays = {name: archive[name] for name in _NAMES if name in archive.files}
            return arrays, str(archive["metadata"]) if "metadata" in archive.files else "{}"
    except InputError:
        raise
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error, KeyError) as error:
        raise InputError(f"{path} is not a whole NPZ file of numbers: {str(error).splitlines()[0]}") from error


def _read_hdf5(path: Path) -> tuple[Arrays, str]:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            _check_names(path, "arrays", list(file), _NAMES)
            arrays = {name: np.asarray(file[name]) for name in _NAMES if name in file}
            for place in (file, *(file[name] for name in arrays)):
                # Only those that would change what is learned: other programs write attributes of their own.
                if found := {"units", "periodic", "noise", "noise_on"} & set(place.attrs):
                    raise InputError(
                        f"{path}: {place.name} has an attribute {min(found)!r}, expected it in the JSON of the file's "
                        "attribute 'metadata'"
                    )
            return arrays, str(file.attrs.get("metadata", "{}"))
    except InputError:
        raise
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is not a whole HDF5 file: {str(error).splitlines()[0]}") from error


def _write_csv(path: Path, arrays: Mapping[str, NDArray[Any]], notes: str) -> None:
    n, n_times, dim = arrays["q"].shape
    columns = {"trajectory": np.repeat(np.arange(n), n_times)}
    columns["time"] = np.broadcast_to(arrays["times"], (n, n_times)).reshape(-1)
    for name in _NAMES[1:]:
        if name in arrays:
            columns |= {f"{name}{i}": arrays[name][..., i].reshape(-1) for i in range(dim)}
    import pandas as pd

    with open(path, "w", encoding="utf-8", newline="") as file:
        file.write(f"# {notes}\n")
        pd.DataFrame(columns).to_csv(file, index=False)


def _read_csv(path: Path) -> tuple[Arrays, str]:
    notes = "{}"
    with open(path, encoding="utf-8", errors="replace") as file:
        first = file.readline()
    if first.startswith("#"):
        notes = first[1:].strip()
    table, names = _table(path, commented=first.startswith("#"))
    column = dict(zip(names, table.T, strict=True))
    if "time" not in column:
        raise InputError(
            f"{path} has the columns {', '.join(names)}, expected time, q0, q1, ..., and trajectory, p0, v0, ... as "
            "far as they are known"
        )
    dims = {name: sum(f"{name}{i}" in column for i in range(len(names))) for name in _NAMES[1:]}
    for name, dim in dims.items():
        if skipped := [f"{name}{i}" for i in range(dim) if f"{name}{i}" not in column]:
            raise InputError(f"{path} has {dim} columns {name}0, {name}1, ..., but {', '.join(skipped)} is missing")
    expected = ("trajectory", "time", *(f"{name}{i}" for name, dim in dims.items() for i in range(dim)))
    _check_names(path, "columns", names, expected)
    which = column.get("trajectory", np.zeros(len(table)))
    labels, counts = np.unique(which, return_counts=True)
    if len(set(counts.tolist())) > 1:
        raise InputError(
            f"{path} has trajectories of {counts.min()} to {counts.max()} states, expected the same number in each: "
            "write them to files of their own, and fit to all of these at once"
        )
    order = np.argsort(which, kind="stable")
    shape = len(labels), int(counts[0])
    arrays: Arrays = {}
    for name, dim in dims.items():
        if dim:
            arrays[name] = np.stack([column[f"{name}{i}"] for i in range(dim)], -1)[order].reshape(*shape, dim)
    times = column["time"][order].reshape(shape)
    return {"times": times[0] if (times == times[0]).all() else times, **arrays}, notes


def _table(path: Path, *, commented: bool) -> tuple[NDArray[np.float64], list[str]]:
    if not commented:
        return read_table(path)
    import pandas as pd

    try:
        frame = pd.read_csv(path, skiprows=1)
        return frame.to_numpy(dtype=np.float64), [str(name) for name in frame.columns]
    except (ValueError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise InputError(f"{path} is not a whole table of numbers: {str(error).splitlines()[0]}") from error
