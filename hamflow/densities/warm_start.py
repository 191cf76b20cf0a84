"""Choosing a Gaussian mixture by validation, for a flow to start from."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture as ScikitMixture
from torch import Tensor

_REGULARISATION = (1e-6, 1e-3, 1e-2, 3e-2, 1e-1, 3e-1)
#: The numbers of components tried; a search ends when two in a row bring nothing.
CANDIDATES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32)


@dataclass(frozen=True)
class StartingMixture:
    """A mixture fitted to standardised rows: weights (K,), means (K, d), precisions (K, d, d), validation scores (n,)."""

    weights: np.ndarray
    means: np.ndarray
    precisions: np.ndarray
    scores: np.ndarray


def choose_mixture(
    rows: Tensor,
    held_out: Tensor,
    *,
    components: int | None = None,
    candidates: Sequence[int] = CANDIDATES,
    seed: int = 0,
) -> StartingMixture:
    """The full-covariance mixture with the best held-out likelihood, over its components and its regularisation.

    Args:
        rows: standardised training rows, (n, d).
        held_out: standardised validation rows, (m, d).
        components: K, or None to search ``candidates``.
        candidates: the numbers of components to try, ascending.
        seed: for the initialisation by k-means.
    """
    train, test = rows.double().cpu().numpy(), held_out.double().cpu().numpy()
    best: ScikitMixture | None = None
    best_score, without_gain = -np.inf, 0
    for k in (components,) if components is not None else candidates:
        # Fewer than a handful of rows a component cannot support a covariance worth trying.
        if components is None and k > 1 and len(train) < 5 * k:
            break
        gained = False
        for regularisation in _REGULARISATION:
            model = ScikitMixture(k, reg_covar=regularisation, random_state=seed, max_iter=200)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                try:
                    model.fit(train)
                except ValueError:  # a component collapsed on few rows: more regularisation is tried next
                    continue
            score = float(model.score(test))
            if score > best_score:
                best, best_score, gained = model, score, True
        without_gain = 0 if gained else without_gain + 1
        if without_gain == 2:
            break
    if best is None:
        raise ValueError(f"no mixture of {components} components could be fitted to {len(train)} rows")
    return StartingMixture(best.weights_, best.means_, best.precisions_, best.score_samples(test))
