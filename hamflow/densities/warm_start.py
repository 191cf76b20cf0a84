"""Choosing a mixture of Student t components by validation, for a flow to start from."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

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
    """A mixture of standardised rows: weights (K,), means (K, d), scales (K, d, d), degrees of freedom, scores (m,)."""

    weights: Tensor
    means: Tensor
    scales: Tensor
    degrees: float
    scores: Tensor


def choose_mixture(
    rows: Tensor,
    held_out: Tensor,
    *,
    components: int | None = None,
    max_components: int = CANDIDATES[-1],
    seed: int = 0,
) -> StartingMixture:
    """The mixture with the best held-out likelihood, over its components, their tails and their regularisation.

    For each number of components the search walks on the grid of degrees of freedom and regularisation from the best
    point so far to a better neighbour, until there is none.

    Args:
        rows: standardised training rows, (n, d).
        held_out: standardised validation rows, (m, d).
        components: K, or None to search :data:`CANDIDATES`.
        max_components: the end of that search.
        seed: for the initialisation by k-means.

    Raises:
        FitError: no mixture could be fitted.
    """
    train, test = _some(rows.double().cpu(), seed), held_out.double().cpu()
    best: StartingMixture | None = None
    point = (len(_DEGREES) - 1, 1)
    without_gain = 0
    for k in (components,) if components is not None else [k for k in CANDIDATES if k <= max_components]:
        # Fewer than a handful of rows a component cannot support a scale matrix worth trying.
        if k > 1 and len(train) < (5 * k if components is None else k):
            break
        start = _responsibilities(train, k, seed)
        gained, tried = False, set()
        waiting = [point]
        while waiting:
            here = waiting.pop(0)
            tried.add(here)
            found = _expectation_maximisation(train, test, start, _DEGREES[here[0]], _REGULARISATION[here[1]])
            if found is not None and (best is None or found.scores.mean() > best.scores.mean()):
                best, point, gained = found, here, True
                waiting = []
            if not waiting and (gained or len(tried) == 1):
                waiting = [p for p in _neighbours(point) if p not in tried]
        without_gain = 0 if gained else without_gain + 1
        if without_gain == 2:
            break
    if best is None:
        raise FitError(f"no mixture of {components} components could be fitted to {len(train)} rows")
    return best


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
