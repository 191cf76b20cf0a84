"""Paired comparisons of two contenders on shared splits: how sure is it that one of them is better?"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import report
from scipy import stats

# Two-sided level of better and worse, one-sided level of no worse.
LEVEL = 0.05


@dataclass(frozen=True)
class Paired:
    """Mean difference, its plain standard error, its two-sided 95 % interval and its one-sided 95 % upper end.

    A contender may be worse by the margin and still counts as no worse.
    """

    mean: float
    error: float
    n: int
    low: float
    high: float
    upper: float
    margin: float

    @property
    def two_errors(self) -> str:
        """The plain rule: better or worse by more than two standard errors, else unclear."""
        return "better" if self.mean < -2 * self.error else "worse" if self.mean > 2 * self.error else "unclear"

    @property
    def no_worse(self) -> bool:
        """Whether the difference is below the margin with one-sided confidence."""
        return self.upper < self.margin

    @property
    def verdict(self) -> str:
        """Better or worse by the interval; else no worse within the margin, or undecided."""
        if self.high < 0:
            return "better"
        if self.low > 0:
            return "worse"
        return "no worse" if self.no_worse else "undecided"


def compare(differences: Iterable[float], test_to_train: float, margin: float) -> Paired:
    r"""Student t intervals of the mean of n differences from splits whose training sets overlap.

    Their variance is taken as :math:`(1/n + n_{test} / n_{train})\, S^2`. With test_to_train = 0, for data drawn anew
    for every run, this is the ordinary t test.

    Source: Nadeau and Bengio (2003), Inference for the Generalization Error, Machine Learning 52, 239.
    """
    values = list(differences)
    n = len(values)
    if n < 2:
        raise ValueError(f"{n} differences, expected at least 2")
    mean, error = report.mean_and_error(values)
    corrected = error * math.sqrt(1 + n * test_to_train)
    both, one = (float(stats.t.ppf(1 - level, n - 1)) * corrected for level in (LEVEL / 2, LEVEL))
    return Paired(mean, error, n, mean - both, mean + both, mean + one, margin)


def pair(
    store: report.ResultStore, case: str, model: str, other: str, test_to_train: float, margin: float
) -> Paired | None:
    """The nll of a model less that of another over the seeds that both have; None with fewer than two of them."""
    own, theirs = store.values(case, model, "nll"), store.values(case, other, "nll")
    shared = sorted(own.keys() & theirs.keys())
    if len(shared) < 2:
        return None
    return compare([own[seed] - theirs[seed] for seed in shared], test_to_train, margin)


def difference_row(case: str, model: str, other: str, found: Paired) -> report.Row:
    """The row of one comparison; its verdict holds the t interval and what two plain standard errors would say."""
    verdict = f"{found.verdict} [{found.low:.2f}, {found.high:.2f}]; 2 SE: {found.two_errors}"
    row = {"case": case, "model": model, "metric": f"nll_minus_{other}", "value": found.mean, "unit": "nats"}
    return row | {"standard_error": found.error, "n": found.n, "verdict": verdict}
