"""Tables on disk: CSV, NPY, NPZ and Parquet read with clear errors, everything written atomically."""

from __future__ import annotations

import os
import re
import uuid
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hamflow.errors import InputError

# pandas takes half a second to import, so only those who meet a table wait for it.

_TEXT = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz")
SUFFIXES = (*_TEXT, ".npy", ".npz", ".parquet")
_DELIMITERS = ("\t", ";", "|", ",")


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary path in the same folder, and move what was written there to ``path`` when the block ends well.

    A reader never meets half a file; where the block raises, ``path`` stays as it was and the temporary file goes.
    The suffix is kept, because many writers choose the format by it. Missing folders are made.

    Raises:
        InputError: ``path`` is a folder, or its folder cannot be made.

    Example:
        >>> import tempfile, pathlib
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> with atomic_path(folder / "notes.txt") as temporary:
        ...     _ = temporary.write_text("whole")
        >>> (folder / "notes.txt").read_text(), len(list(folder.iterdir()))
        ('whole', 1)
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder, expected the name of a file to write")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error} ({error.filename})") from error
    temporary = path.with_name(f".{uuid.uuid4().hex[:12]}-{path.name}")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            # Else a crash of the machine could leave the new name with none of its bytes.
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(path: str | Path) -> None:
    """Raise :class:`InputError` unless ``path`` can be written: now, and not after hours of work."""
    parent = next(folder for folder in Path(path).absolute().parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise InputError(f"{path} cannot be written: {parent} is not a folder that can be written to")


def check_table_path(path: str | Path) -> None:
    """Raise :class:`InputError` unless the name of ``path`` ends in a suffix of :func:`write_table`."""
    _suffix(Path(path))


def read_table(
    path: str | Path, columns: Sequence[str] | None = None, *, key: str | None = None, header: bool | None = None
) -> tuple[NDArray[np.float64], list[str]]:
    """Read a table of finite numbers from CSV (also .tsv, .txt, .gz), NPY, NPZ or Parquet.

    A text file has a header where any cell of its first line is not a number, or where it holds the ``columns``; its
    delimiter is found by looking. A file without names gives its columns the names x0, x1, ...

    Args:
        path: the file; its suffix decides how it is read.
        columns: the names of the columns to take, in this order. A file without names takes them as its own names
            where their number fits.
        key: which array of an NPZ file to take, where it holds several.
        header: whether the first line of a text file holds names; None finds out, and asks where it cannot (years).

    Returns:
        The table, (n, dim), float64, and the names of its columns.

    Raises:
        InputError: the file is missing, empty, truncated or of an unknown kind, a column does not exist, holds text or
            is not finite. The message names the file and the column.

    Example:
        >>> import tempfile, pathlib
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "table.csv"
        >>> write_table(path, [[1.0, 2.0], [3.0, 4.0]], ["a", "b"])
        >>> read_table(path, ["b"])
        (array([[2.],
               [4.]]), ['b'])
    """
    path = Path(path)
    suffix = _suffix(path)
    if not path.exists():
        raise InputError(f"{path} does not exist")
    if path.is_dir():
        raise InputError(f"{path} is a folder, expected a file")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty")
    if key is not None and suffix != ".npz":
        raise InputError(f"key = {key!r}, but {path} is no NPZ file and holds one table only")
    try:
        frame, named = _read_frame(path, suffix, key, header, columns)
    except PermissionError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    if frame.shape[0] == 0 or frame.shape[1] == 0:
        raise InputError(
            f"{path} has {frame.shape[0]} rows and {frame.shape[1]} columns, expected at least one of each"
        )
    frame = _pick(frame, path, None if columns is None else list(columns), named)
    return _numbers(frame, path), list(frame.columns)


def write_table(path: str | Path, array: ArrayLike, columns: Sequence[str] | None = None) -> None:
    """Write a table as its suffix says: CSV (also .tsv, .txt, .gz), NPY (names are lost), NPZ or Parquet; atomically.

    Args:
        path: the file.
        array: the table, (n, dim).
        columns: the names of its columns; x0, x1, ... without.

    Raises:
        InputError: the suffix is unknown, the array is no table or the number of names is wrong.

    Example:
        >>> import tempfile, pathlib
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "table.csv"
        >>> write_table(path, [[1.0, 2.0]], ["a", "b"])
        >>> path.read_text().split()
        ['a,b', '1.0,2.0']
    """
    path = Path(path)
    suffix = _suffix(path)
    table = np.asarray(array)
    if table.ndim != 2:
        raise InputError(f"array has shape {table.shape}, expected (n, dim)")
    names = _default_names(table.shape[1]) if columns is None else list(columns)
    if len(names) != table.shape[1]:
        raise InputError(f"columns has {len(names)} names, expected {table.shape[1]}, one a column of the array")
    with atomic_path(path) as temporary:
        if suffix == ".npy":
            np.save(temporary, table, allow_pickle=False)
        elif suffix == ".npz":
            np.savez(temporary, x=table, columns=np.array(names))
        else:
            import pandas as pd

            frame = pd.DataFrame(table, columns=names)
            if suffix == ".parquet":
                frame.to_parquet(temporary, index=False)
            else:
                frame.to_csv(temporary, index=False, sep="," if suffix.startswith(".csv") else "\t")


def _suffix(path: Path) -> str:
    name = path.name.lower()
    found = [suffix for suffix in SUFFIXES if name.endswith(suffix)]
    if not found:
        raise InputError(f"{path} has the suffix {path.suffix!r}, expected one of {', '.join(SUFFIXES)}")
    return max(found, key=len)


def _default_names(n: int) -> list[str]:
    return [f"x{i}" for i in range(n)]


def _read_frame(
    path: Path, suffix: str, key: str | None, header: bool | None, columns: Sequence[str] | None
) -> tuple[Any, bool]:
    """A data frame, and whether its names come from the file."""
    if suffix in _TEXT:
        return _read_text(path, header, columns)
    import pandas as pd

    if suffix == ".parquet":
        import pyarrow

        try:
            frame = pd.read_parquet(path)
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            raise InputError(f"{path} is not a whole Parquet file: {_first_line(error)}") from error
        return frame.rename(columns=str), True
    array, names = _read_numpy(path, key)
    if array.ndim != 2:
        hints = {1: "; a single column has shape (n, 1)", 5: "; videos are what an HGN learns from (--model hgn)"}
        raise InputError(f"{path} holds an array of shape {array.shape}, expected (n, dim){hints.get(array.ndim, '')}")
    if array.dtype.kind not in "fiub":
        raise InputError(f"{path} holds an array of dtype {array.dtype}, expected real numbers")
    if names is not None and len(names) != array.shape[1]:
        raise InputError(f"{path} holds {len(names)} column names, expected {array.shape[1]}")
    return pd.DataFrame(array, columns=names or _default_names(array.shape[1])), names is not None


def _read_numpy(path: Path, key: str | None) -> tuple[NDArray[Any], list[str] | None]:
    try:
        # An object array would have to be unpickled, which can run any code: it is refused.
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return content, None
        with content as archive:
            keys = [name for name in archive.files if name != "columns"]
            if key is None and len(keys) != 1:
                raise InputError(
                    f"{path} holds the arrays {', '.join(keys) or 'none'}, expected one, or its name as key"
                )
            if key is not None and key not in archive.files:
                raise InputError(f"key = {key!r}, but {path} holds only {', '.join(archive.files)}")
            names = [str(name) for name in archive["columns"]] if "columns" in archive.files else None
            return archive[key or keys[0]], names
    except InputError:
        raise
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error, KeyError) as error:
        reason = "arrays of objects are not read" if "allow_pickle" in str(error) else _first_line(error)
        raise InputError(f"{path} is not a whole NumPy file of numbers: {reason}") from error


def _read_text(path: Path, header: bool | None, columns: Sequence[str] | None) -> tuple[Any, bool]:
    import pandas as pd

    try:
        lines, sample = _first_lines(path)
        if not lines:
            raise InputError(f"{path} is empty")
        # A title of several words over one column is no reason to cut at blanks: the row below decides.
        blanks = r"\s+" if len(lines[-1].split()) > 1 else ","
        delimiter = next((mark for mark in _DELIMITERS if mark in lines[0]), blanks)
        # 1,5;2,5: the numbers of half the world.
        decimal = "," if delimiter in "\t;" and re.search(r"\d,\d", sample) and "." not in sample else "."
        cut = re.compile(delimiter if delimiter == r"\s+" else re.escape(delimiter))
        rows = [[cell.strip(" \"'") for cell in cut.split(line)] for line in lines]
        named = header
        if named is None:
            named = any(not _is_number(cell, decimal) for cell in rows[0]) or set(columns or ["?"]) <= set(rows[0])
        if header is None and not named and _may_be_names(rows, decimal):
            raise InputError(
                f"{path}: its first line ({', '.join(rows[0][:4])}, ...) may be names or numbers, expected header to "
                "be True or False (--header, --no-header)"
            )
        with warnings.catch_warnings():
            # pandas would only warn when it cuts cells off long rows.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(
                path, sep=delimiter, decimal=decimal, header=0 if named else None, index_col=False,
                skipinitialspace=True, encoding="utf-8-sig", low_memory=False,
            )  # fmt: skip
    except (pd.errors.ParserError, pd.errors.ParserWarning, pd.errors.EmptyDataError) as error:
        raise InputError(f"{path} is not a table with as many cells in every row: {_first_line(error)}") from error
    except (UnicodeDecodeError, EOFError, OSError, ValueError, zlib.error) as error:
        if isinstance(error, (InputError, PermissionError)):
            raise
        raise InputError(f"{path} is not a whole text file: {_first_line(error)}") from error
    if not named:
        frame.columns = pd.Index(_default_names(frame.shape[1]))
    return frame.rename(columns=str), named


def _first_lines(path: Path, size: int = 65536) -> tuple[list[str], str]:
    """The first two lines that are not blank, and the text up to ``size`` characters."""
    import gzip

    opener = gzip.open if path.suffix.lower() == ".gz" else open
    with opener(path, "rt", encoding="utf-8-sig") as file:
        sample = file.read(size)
    if "\0" in sample:
        raise ValueError("it holds NUL bytes")
    return [line.strip("\r\n ") for line in sample.splitlines() if line.strip()][:2], sample


def _may_be_names(rows: list[list[str]], decimal: str) -> bool:
    # Years, strikes, tenors: different whole numbers above numbers that are not whole.
    first, below = rows[0], rows[-1]
    whole = all(cell.isdigit() for cell in first) and 1 < len(first) == len(set(first))
    return whole and any(decimal in cell for cell in below)


def _is_number(cell: str, decimal: str) -> bool:
    """Whether a cell may stand in a row of numbers; a missing one may."""
    cell = cell.strip().strip("\"'").replace(decimal, ".")
    try:
        float(cell or "nan")
    except ValueError:
        return False
    return True


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _pick(frame: Any, path: Path, columns: list[str] | None, named: bool) -> Any:
    if columns is None:
        nameless = [i for i, name in enumerate(frame.columns) if str(name).startswith("Unnamed: ")]
        if named and nameless:
            raise InputError(
                f"{path}: column {nameless[0]} has no name (an index, perhaps); expected a name, or columns to choose"
            )
        return frame
    if not columns:
        raise InputError("columns is empty, expected the names of columns")
    missing = [name for name in columns if name not in frame.columns]
    if missing and not named and len(columns) == frame.shape[1]:
        return frame.set_axis(columns, axis=1)
    if missing:
        raise InputError(f"{path} has no column {missing[0]!r}, expected one of {', '.join(frame.columns)}")
    return frame[columns]


def _numbers(frame: Any, path: Path) -> NDArray[np.float64]:
    import pandas as pd

    for name in frame.columns:
        column = frame[name]
        if isinstance(column, pd.DataFrame):
            raise InputError(f"{path} has several columns named {name!r}, expected different names")
        if not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_complex_dtype(column):
            wrong = column[pd.to_numeric(column.astype("string"), errors="coerce").isna() & column.notna()]
            example = f"{wrong.iloc[0]!r} in row {frame.index.get_loc(wrong.index[0])}" if len(wrong) else column.dtype
            raise InputError(f"{path}: column {name!r} holds text or dates ({example}), expected numbers")
        bad = ~np.isfinite(column.to_numpy(dtype=np.float64, na_value=np.nan))
        if bad.any():
            raise InputError(
                f"{path}: column {name!r} has {int(bad.sum())} missing or infinite entries, the first in row "
                f"{int(bad.argmax())}, expected finite numbers"
            )
    # A copy of our own: pandas hands out arrays that must not be written to.
    return np.array(frame.to_numpy(dtype=np.float64, na_value=np.nan), order="C")
