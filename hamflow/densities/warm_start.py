"""Choosing a mixture of Student t components by validation, for a flow to start from."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from tqdm.auto import tqdm

from hamflow.densities.mixture import GAUSSIAN, log_student
from hamflow.errors import FitError

#: The numbers of components tried; a search ends when two in a row bring nothing.
CANDIDATES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24)
_DEGREES = (2.5, 4.0, 8.0, 20.0, GAUSSIAN)
_REGULARISATION = (1e-6, 1e-3, 1e-2, 3e-2, 1e-1, 3e-1)
_MAX_ITERATIONS = 100
_LEAST_GAIN = 1e-4  # nats a row, under which a mixture counts as converged
_MAX_ROWS = 10_000  # more rows would not change which mixture is chosen, only the time it takes


@dataclass(frozen=True)
class StartingMixture:
    """A mixture of standardised rows: weights (K,), means (K, d), scales (K, d, d), degrees of freedom.

    Its scores, (m,), are the log densities of all held-out rows by the mixtures that did not see them.
    """

    weights: Tensor
    means: Tensor
    scales: Tensor
    degrees: float
    scores: Tensor


def choose_mixture(
    rows: Tensor,
    folds: Sequence[tuple[Tensor, Tensor]],
    *,
    components: int | None = None,
    max_components: int = CANDIDATES[-1],
    seed: int = 0,
    progress: bool = False,
) -> StartingMixture:
    """The mixture with the best held-out likelihood, over its components, their tails and their regularisation.

    For each number of components the search walks on the grid of degrees of freedom and regularisation from the best
    point so far to a better neighbour, until there is none. What was chosen is then fitted to ``rows``.

    Args:
        rows: standardised rows to fit the chosen mixture to, (n, d).
        folds: pairs of standardised training and held-out rows, (n_f, d) and (m_f, d), that choose: one pair, or the
            folds of a cross-validation.
        components: K, or None to search :data:`CANDIDATES`.
        max_components: the end of that search.
        seed: for the initialisation by k-means.
        progress: whether to show a progress bar.

    Raises:
        FitError: no mixture could be fitted.

    Example:
        >>> import torch
        >>> from hamflow.densities import choose_mixture
        >>> noise = torch.randn(2, 200, 2, generator=torch.Generator().manual_seed(0))
        >>> rows = torch.cat((noise[0] - 4, noise[1] + 4))
        >>> len(choose_mixture(rows, [(rows[::2], rows[1::2])], max_components=3).weights)
        2
    """
    pairs = [(_some(train.double().cpu(), seed), test.double().cpu()) for train, test in folds]
    fewest = min(len(train) for train, _ in pairs)
    best: tuple[int, tuple[int, int], Tensor] | None = None
    point = (len(_DEGREES) - 1, 1)
    without_gain = 0
    with tqdm(desc="start: mixtures", unit="fit", disable=not progress, leave=False) as bar:
        for k in (components,) if components is not None else [k for k in CANDIDATES if k <= max_components]:
            # Fewer than a handful of rows a component cannot support a scale matrix worth trying.
            if k > 1 and fewest < (5 * k if components is None else k):
                break
            starts = [_responsibilities(train, k, seed) for train, _ in pairs]
            gained, tried = False, set()
            waiting = [point]
            while waiting:
                here = waiting.pop(0)
                tried.add(here)
                scores = _scores(pairs, starts, here)
                bar.set_postfix(components=k)
                bar.update()
                if scores is not None and (best is None or scores.mean() > best[2].mean()):
                    best, point, gained = (k, here, scores), here, True
                    waiting = []
                if not waiting and (gained or len(tried) == 1):
                    waiting = [p for p in _neighbours(point) if p not in tried]
            without_gain = 0 if gained else without_gain + 1
            if without_gain == 2:
                break
    found = None if best is None else _refit(_some(rows.double().cpu(), seed), *best, seed)
    if found is None:
        raise FitError(f"no mixture of {components} components could be fitted to {len(rows)} rows")
    return found


def _scores(pairs: Sequence[tuple[Tensor, Tensor]], starts: Sequence[Tensor], point: tuple[int, int]) -> Tensor | None:
    degrees, regularisation = _DEGREES[point[0]], _REGULARISATION[point[1]]
    scores = []
    for (train, test), start in zip(pairs, starts, strict=True):
        found = _expectation_maximisation(train, test, start, degrees, regularisation)
        if found is None:
            return None
        scores.append(found.scores)
    return torch.cat(scores)


def _refit(rows: Tensor, k: int, point: tuple[int, int], scores: Tensor, seed: int) -> StartingMixture | None:
    start = _responsibilities(rows, k, seed)
    # Where a component collapses on these rows, though on no fold, more regularisation keeps it up.
    for regularisation in _REGULARISATION[point[1] :]:
        found = _expectation_maximisation(rows, rows, start, _DEGREES[point[0]], regularisation)
        if found is not None:
            return replace(found, scores=scores)
    return None


def _some(rows: Tensor, seed: int) -> Tensor:
    if len(rows) <= _MAX_ROWS:
        return rows
    return rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:_MAX_ROWS]]


def _neighbours(point: tuple[int, int]) -> Iterator[tuple[int, int]]:
    i, j = point
    for a, b in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)):
        if 0 <= a < len(_DEGREES) and 0 <= b < len(_REGULARISATION):
            yield a, b


def _responsibilities(rows: Tensor, k: int, seed: int) -> Tensor:
    # scikit-learn takes longer to import than all the rest, so only those who fit wait for it.
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        labels = KMeans(k, n_init=1, random_state=seed).fit_predict(rows.numpy())
    return torch.nn.functional.one_hot(torch.as_tensor(labels).long(), k).to(rows)


def _expectation_maximisation(
    rows: Tensor, held_out: Tensor, responsibilities: Tensor, degrees: float, regularisation: float
) -> StartingMixture | None:
    """Maximise the likelihood at fixed degrees of freedom; None where a component collapses.

    References:
        Peel and McLachlan (2000), Robust mixture modelling using the t distribution, Statistics and Computing 10, 339.
    """
    ridge = regularisation * torch.eye(rows.shape[1], dtype=rows.dtype)
    attraction = torch.ones_like(responsibilities)
    likelihood = -math.inf
    for _ in range(_MAX_ITERATIONS):
        mass = responsibilities.sum(0).clamp_min(1e-10)
        pull = responsibilities * attraction
        means = (pull.mT @ rows) / pull.sum(0).clamp_min(1e-10).unsqueeze(-1)
        centred = rows - means.unsqueeze(1)
        scales = (pull.mT.unsqueeze(-1) * centred).mT @ centred / mass[:, None, None] + ridge
        factors, failed = torch.linalg.cholesky_ex(scales)
        if failed.any():
            return None
        weights = mass / mass.sum()
        log_components, squared = _log_components(rows, weights, means, factors, degrees)
        log_density = torch.logsumexp(log_components, dim=1, keepdim=True)
        responsibilities = (log_components - log_density).exp()
        attraction = (degrees + rows.shape[1]) / (degrees + squared)
        if not float(log_density.mean()) - likelihood > _LEAST_GAIN:
            break
        likelihood = float(log_density.mean())
    scores = torch.logsumexp(_log_components(held_out, weights, means, factors, degrees)[0], dim=1)
    return StartingMixture(weights, means, scales, degrees, scores) if torch.isfinite(scores).all() else None


def _log_components(
    rows: Tensor, weights: Tensor, means: Tensor, factors: Tensor, degrees: float
) -> tuple[Tensor, Tensor]:
    # The weighted log density of every component, and the squared distance to its centre, both (n, K).
    whitened = torch.linalg.solve_triangular(factors, (rows - means.unsqueeze(1)).mT, upper=False)
    squared = (whitened**2).sum(1).mT
    log_det = factors.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    nu = torch.tensor(degrees, dtype=rows.dtype)
    return weights.log() - log_det + log_student(squared, nu, rows.shape[1]), squared
