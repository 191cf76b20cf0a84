"""The errors that hamflow raises, and the checks that raise them before any work is lost."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor


class InputError(ValueError):
    """An argument is not what the function can work with; the message names it, what came and what was expected."""


class FitError(RuntimeError):
    """Training cannot go on, for instance because the loss was not finite again and again.

    Attributes:
        history: what happened until then, a :class:`hamflow.History`, or None where training had not begun.
    """

    history: Any = None


class CheckpointError(ValueError):
    """A saved model or a training checkpoint is missing, damaged or of another version."""


class SolveError(RuntimeError):
    """A step did not keep its promise: an implicit one missed its tolerance, or a state left its lattice."""


class RolloutError(RuntimeError):
    """A rollout left the finite numbers.

    Attributes:
        time: the time of the first state that is not finite.
    """

    def __init__(self, message: str, *, time: float) -> None:
        super().__init__(message)
        self.time = time


def is_number(value: Any, *, integer: bool = False) -> bool:
    """Whether a value is a real (or a whole) number, of Python or of NumPy; True and False are not."""
    return isinstance(value, Integral if integer else Real) and not isinstance(value, bool)


def check_positive(name: str, value: Any, *, integer: bool = False) -> None:
    """Raise :class:`InputError` unless ``value`` is a positive (whole) number."""
    if not is_number(value, integer=integer) or not 0 < value < float("inf"):
        raise InputError(f"{name} = {value!r}, expected a positive {'integer' if integer else 'finite number'}")


def check_finite(name: str, value: Any) -> None:
    """Raise :class:`InputError` unless ``value`` is a finite number."""
    if not is_number(value) or not abs(value) < float("inf"):
        raise InputError(f"{name} = {value!r}, expected a finite number")


def check_seed(name: str, value: Any) -> None:
    """Raise :class:`InputError` unless ``value`` is a whole number under 2^32, as NumPy takes them."""
    if not is_number(value, integer=True) or not 0 <= value < 2**32:
        raise InputError(f"{name} = {value!r}, expected a whole number from 0 to 2**32 - 1")


def check_device(device: torch.device | str) -> torch.device:
    """The device, or :class:`InputError` where this machine cannot compute on it."""
    try:
        number = torch.zeros(1, device=device)
        number.item()  # fails where there is a device in name only
        return number.device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        # Some of torch's refusals run to a page.
        reason = str(error).splitlines()[0].split(". ")[0][:200]
        raise InputError(f"device = {str(device)!r}, expected a device of this machine: {reason}") from error


def check_dtype(dtype: torch.dtype | None) -> None:
    """Raise :class:`InputError` unless the dtype is None, float32 or float64."""
    if dtype not in (None, torch.float32, torch.float64):
        raise InputError(f"dtype = {dtype}, expected torch.float32 or torch.float64")


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Raise :class:`InputError` unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise InputError(f"{name} = {value!r}, expected one of {', '.join(map(repr, choices))}")


def column_names(x: Any) -> tuple[str, ...] | None:
    """The names of the columns of a data frame; None for a table without names of their own."""
    names = tuple(getattr(x, "columns", ()))
    return names if names and all(isinstance(name, str) for name in names) else None


def named(columns: Sequence[int], names: Sequence[str] | None) -> str:
    """Columns by their names, or by their numbers where they have none."""
    return ", ".join(str(i) if names is None else repr(names[i]) for i in columns)


def check_rows(x: Any, name: str = "x", *, dim: int | None = None, columns: tuple[str, ...] | None = None) -> Tensor:
    """Return a finite floating table of shape (n, dim) as a tensor, or say what is wrong with it.

    Integers and booleans become float; NumPy arrays, data frames, lists and tensors are taken. A data frame with names
    must have those of ``columns``, where they are given, in the same order; a table without names goes by position.

    Raises:
        InputError: not numeric, not of shape (n, dim), empty, with other names, or with NaN or infinite entries.
    """
    found = column_names(x)
    if columns is not None and found is not None and found != columns:
        raise InputError(f"{name} has the columns {list(found)}, expected {list(columns)}, in this order")
    if not isinstance(x, Tensor):
        if hasattr(x, "toarray"):
            raise InputError(f"{name} is a sparse matrix, expected a dense table of shape (n, dim)")
        try:
            array = np.asarray(x)
        except ValueError as error:
            raise InputError(f"{name} is ragged, expected a table of shape (n, dim): {error}") from error
        if array.dtype == object:
            try:
                array = array.astype(np.float64)
            except (TypeError, ValueError) as error:
                raise InputError(f"{name} holds entries that are not numbers, expected floats: {error}") from error
        if array.dtype.kind not in "fiub":
            raise InputError(f"{name} has dtype {array.dtype}, expected real numbers")
        # A read-only array is copied: a tensor cannot promise not to write to it.
        x = torch.as_tensor(np.require(array, dtype=array.dtype.newbyteorder("="), requirements=["C", "W"]))
    if x.is_complex():
        raise InputError(f"{name} has dtype {x.dtype}, expected real numbers")
    if x.dtype not in (torch.float32, torch.float64):
        x = x.to(torch.get_default_dtype())
    expected = f"(n, {dim})" if dim is not None else "(n, dim)"
    if x.ndim != 2:
        hint = f"; a single column is {name}.reshape(-1, 1)" if x.ndim == 1 else ""
        raise InputError(f"{name} has shape {tuple(x.shape)}, expected {expected}{hint}")
    if dim is not None and x.shape[1] != dim:
        raise InputError(f"{name} has shape {tuple(x.shape)}, expected {expected}")
    if x.shape[0] == 0 or x.shape[1] == 0:
        raise InputError(f"{name} has shape {tuple(x.shape)}, expected at least one row and one column")
    bad = ~torch.isfinite(x)
    if bad.any():
        row, column = bad.nonzero()[0].tolist()
        raise InputError(
            f"{name} has {int(bad.sum())} NaN or infinite entries, the first in row {row}, "
            f"column {named([column], found)}, expected finite numbers"
        )
    return x


def check_training_table(x: Any, name: str = "x", *, dim: int | None = None) -> Tensor:
    """Return a table to fit a density to: as :func:`check_rows`, with more rows than columns and no constant column.

    Raises:
        InputError: as :func:`check_rows`, or too few rows, or a column without spread.
    """
    rows = check_rows(x, name, dim=dim)
    n, d = rows.shape
    if n < 2:
        raise InputError(f"{name} has {n} row, expected at least 2 rows to fit a density")
    if n <= d:
        raise InputError(f"{name} has {n} rows and {d} columns, expected more rows than columns to fit a density")
    span = rows.max(0).values - rows.min(0).values
    # A spread under the resolution of the column's own magnitude is rounding, not information.
    floor = 8 * torch.finfo(rows.dtype).eps * rows.abs().max(0).values
    constant = (span <= floor).nonzero().flatten().tolist()
    if constant:
        raise InputError(
            f"{name} has constant columns, expected every column to vary: {named(constant, column_names(x))}"
        )
    return rows
