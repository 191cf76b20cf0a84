"""The full-covariance Gaussian mixture whose size and floor are chosen on the validation rows."""

from __future__ import annotations

import time
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

Array = NDArray[np.float64]

SETTINGS: dict[str, Any] = {"components": list(range(1, 11)), "floors": [1e-3, 1e-2, 1e-1, 3e-1], "n_init": 3}


def fit_mixture(train: Array, validation: Array, seed: int) -> tuple[GaussianMixture, float]:
    """Return the mixture of highest validation likelihood over components and reg_covar, and its process seconds."""
    start = time.process_time()
    best: GaussianMixture | None = None
    best_score = -np.inf
    for components in SETTINGS["components"]:
        for floor in SETTINGS["floors"]:
            model = GaussianMixture(components, reg_covar=floor, n_init=SETTINGS["n_init"], random_state=seed)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", ConvergenceWarning)
                    score = model.fit(train).score(validation)
            except ValueError:
                # A component collapsed under this floor; a larger floor or fewer components stand in for it.
                continue
            if score > best_score:
                best, best_score = model, score
    if best is None:
        raise ValueError(f"no Gaussian mixture could be fitted to {len(train)} rows of {train.shape[1]} columns")
    return best, time.process_time() - start


def mixture_parameters(model: GaussianMixture) -> int:
    """Free parameters: weights, means and symmetric covariances."""
    components, dim = model.means_.shape
    return int(components * (1 + dim + dim * (dim + 1) // 2) - 1)
