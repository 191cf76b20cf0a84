"""The rows of a table: which train, which judge, and how a checkpoint knows them again."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from hamflow.errors import InputError, is_number


def split_rows(x: Tensor, validation: float | Tensor | None, seed: int) -> tuple[Tensor, Tensor | None]:
    """The training and validation rows: a random share of at least one row, the given rows, or none.

    Raises:
        InputError: there are no rows; the share is outside (0, 1) or leaves none to train on; the given rows differ.

    Example:
        >>> import torch
        >>> from hamflow.training import split_rows
        >>> [len(rows) for rows in split_rows(torch.zeros(10, 2), 0.2, seed=0)]
        [8, 2]
    """
    if len(x) == 0:
        raise InputError(f"x has shape {tuple(x.shape)}, expected at least one row")
    if isinstance(validation, Tensor) and (validation.shape[1:] != x.shape[1:] or len(validation) == 0):
        raise InputError(f"validation has shape {tuple(validation.shape)}, expected rows like x, {tuple(x.shape)}")
    if validation is None or isinstance(validation, Tensor):
        return x, validation
    if not is_number(validation) or not 0 < validation < 1:
        raise InputError(f"validation = {validation!r}, expected a share between 0 and 1, rows, or None")
    n_held_out = max(1, round(validation * len(x)))
    if n_held_out >= len(x):
        raise InputError(
            f"validation = {validation} of {len(x)} rows leaves none to train on; validation = None holds none out"
        )
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed)).to(x.device)
    return x[order[n_held_out:]], x[order[:n_held_out]]


def fingerprint(rows: Tensor) -> str:
    """The shape and the SHA-256 of a tensor, by which a checkpoint knows its data."""
    return f"{tuple(rows.shape)} {hashlib.sha256(rows.detach().cpu().contiguous().numpy().tobytes()).hexdigest()}"
