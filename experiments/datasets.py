"""Tables of real measurements, their splits, and the whitening that every contender gets.

- digits: grey levels 0..16 plus uniform noise on [0, 1), divided by 17.
- breast_cancer, wine: as scikit-learn ships them.
- miniboone, uci_wine, parkinsons: files under the folder that the environment variable HAMFLOW_DATA names.
- uci_wine, parkinsons: discrete columns and near copies of other columns have no density, so columns with fewer than 50
  distinct values go, then of every pair that correlates above .98 the later one; duplicate rows go; every column gets
  uniform noise as wide as the median gap between its distinct values, because it was recorded on a grid.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import sklearn.datasets
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf

Array = NDArray[np.float64]

FOLDS = 5
SMALL_ROWS = 2000
VALIDATION_SHARE = 0.15
# Test rows per training row, the same for all tables: one part of FOLDS against the others less their validation rows.
TEST_TO_TRAIN = 1 / ((FOLDS - 1) * (1 - VALIDATION_SHARE))
MIN_DISTINCT = 50
MAX_CORRELATION = 0.98


class MissingDataError(RuntimeError):
    """A table lies outside the packages and its folder is not at hand."""


def _file(relative: str) -> Path:
    root = os.environ.get("HAMFLOW_DATA")
    if not root:
        raise MissingDataError(f"HAMFLOW_DATA is not set, expected the folder that holds {relative}")
    path = Path(root) / relative
    if not path.is_file():
        raise MissingDataError(f"HAMFLOW_DATA is {root!r}, which holds no file {relative}")
    return path


def _digits() -> Array:
    levels = sklearn.datasets.load_digits().data
    return (levels + np.random.default_rng(0).random(levels.shape)) / 17


def _continuous_columns(table: Array) -> Array:
    table = np.unique(table, axis=0)
    table = table[:, [len(np.unique(column)) >= MIN_DISTINCT for column in table.T]]
    correlation = np.abs(np.corrcoef(table.T))
    kept: list[int] = []
    for column in range(table.shape[1]):
        if all(correlation[column, other] <= MAX_CORRELATION for other in kept):
            kept.append(column)
    table = table[:, kept]
    grid = np.array([np.median(np.diff(np.unique(column))) for column in table.T])
    return table + grid * (np.random.default_rng(0).random(table.shape) - 0.5)


def _uci(name: str) -> Array:
    return _continuous_columns(pd.read_csv(_file(f"uci/{name}.csv.gz"), header=None).to_numpy(dtype=np.float64))


_LOADERS: dict[str, Callable[[], Array]] = {
    "digits": _digits,
    "breast_cancer": lambda: sklearn.datasets.load_breast_cancer().data,
    "wine": lambda: sklearn.datasets.load_wine().data,
    "miniboone": lambda: np.load(_file("miniboone/train.npy"), allow_pickle=False).astype(np.float64),
    "uci_wine": lambda: _uci("wine"),
    "parkinsons": lambda: _uci("parkinsons"),
}
TABLES = tuple(_LOADERS)


def load_table(name: str) -> Array:
    """Return the table of that name, shape (n, d); raises MissingDataError when its file is not at hand."""
    return _LOADERS[name]()


def tables_at_hand(names: Iterable[str]) -> Iterator[tuple[str, Array]]:
    """Yield the names and the tables whose files are at hand; those that are left out are named on stderr."""
    for name in names:
        try:
            table = load_table(name)
        except MissingDataError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
        else:
            yield name, table


@dataclass(frozen=True)
class Split:
    """Whitened rows, and log|det L| of z = L^-1 (standardised x): the step back to nats in standardised units."""

    train: Array
    validation: Array
    test: Array
    log_det: float

    @property
    def dim(self) -> int:
        return int(self.train.shape[1])


def is_cross_validated(table: Array) -> bool:
    """Tables under 2,000 rows are judged by 5-fold cross-validation, larger ones by random splits."""
    return len(table) < SMALL_ROWS


def split_rows(table: Array, seed: int) -> tuple[Array, Array, Array]:
    """Cut a table into training, validation and test rows.

    Small tables: the seed is the fold, and seeds from 5 on repeat the cross-validation with another shuffle. Others:
    the seed shuffles and the last fifth is the test set.
    """
    shuffle, fold = (divmod(seed, FOLDS)) if is_cross_validated(table) else (seed, FOLDS - 1)
    parts = np.array_split(np.random.default_rng([2024, shuffle]).permutation(len(table)), FOLDS)
    test = parts[fold]
    rest = np.concatenate(parts[:fold] + parts[fold + 1 :])
    rest = np.random.default_rng([2025, seed]).permutation(rest)
    n_validation = max(2, round(VALIDATION_SHARE * len(rest)))
    return table[rest[n_validation:]], table[rest[:n_validation]], table[test]


def whitened_split(table: Array, seed: int) -> Split:
    """Split a table and whiten all parts by the shrunk covariance (Ledoit and Wolf) of the training rows."""
    parts = split_rows(table, seed)
    mean, scale = parts[0].mean(0), parts[0].std(0)
    # A column that is constant in the training rows carries no scale of its own.
    scale = np.where(scale > 0, scale, 1.0)
    standardised = [(part - mean) / scale for part in parts]
    factor = np.linalg.cholesky(LedoitWolf(assume_centered=True).fit(standardised[0]).covariance_)
    train, validation, test = (np.linalg.solve(factor, part.T).T for part in standardised)
    return Split(train, validation, test, float(np.log(np.diag(factor)).sum()))
