"""The Neural Hamiltonian Flow as a scikit-learn density estimator."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from hamflow.densities import importance_bound
from hamflow.errors import check_choice, check_positive
from hamflow.models.nhf import NHF

_DTYPES = {"float32": torch.float32, "float64": torch.float64}


class HamiltonianDensity(DensityMixin, BaseEstimator):
    r"""Density estimation with :class:`hamflow.NHF` in the manner of ``KernelDensity`` and ``GaussianMixture``.

    It takes its place in a ``Pipeline`` and a ``GridSearchCV``. :meth:`score_samples` is the importance-weighted lower
    bound on the log density,

    .. math:: \log p(x) \ge \mathbb E \log \frac1K \sum_{k=1}^K \frac{p(x, p_k)}{f(p_k \mid x)},

    with noise that comes from the row itself, so that the score of a row does not depend on the rows beside it. It is
    computed in float64 unless ``dtype`` says otherwise.

    Args:
        n_steps: the number of Hamiltonian steps.
        width: the number of ridges of each potential.
        base: ``"mixture"``, or ``"gaussian"``, which leaves everything to the flow.
        components: the components of the base mixture; None chooses by validation.
        max_components: the most components that may be chosen.
        encoder: ``"gaussian"``, or ``"flow"``, a conditional spline flow, slower and closer.
        whiten: ``"auto"``, ``"full"``, ``"diagonal"`` or ``"none"``.
        lift: None, or ``"spline"`` for a hybrid with an ordinary flow.
        particles: K of the training bound.
        sleep: the weight of the sleep phase, in which the encoder learns from the model's own samples.
        score_particles: K of :meth:`score_samples`.
        epochs, batch_size, learning_rate, weight_decay, schedule, validation, patience: see :meth:`hamflow.NHF.fit`.
        random_state: an int, a ``RandomState`` or None; an int makes fitting and scoring repeatable.
        dtype: ``"float64"`` or ``"float32"``.
        device: the torch device to compute on.
        verbose: whether to show a progress bar.

    Attributes:
        model_: the fitted :class:`hamflow.NHF`.
        n_features_in_: the number of columns seen by :meth:`fit`.
        feature_names_in_: their names, where the table had any.

    Example:
        >>> import numpy as np
        >>> from hamflow.interop.sklearn import HamiltonianDensity
        >>> X = np.random.default_rng(0).normal(size=(60, 2))
        >>> density = HamiltonianDensity(n_steps=2, width=4, epochs=2, random_state=0).fit(X)
        >>> density.score_samples(X[:3]).shape, density.sample(5, random_state=0).shape
        ((3,), (5, 2))
    """

    def __init__(
        self,
        *,
        n_steps: int = 8,
        width: int = 64,
        base: str = "mixture",
        components: int | None = None,
        max_components: int = 24,
        encoder: str = "gaussian",
        whiten: str = "auto",
        lift: str | None = None,
        particles: int = 8,
        sleep: float = 0.0,
        score_particles: int = 256,
        epochs: int = 200,
        batch_size: int = 256,
        learning_rate: float = 2e-3,
        weight_decay: float = 0.0,
        schedule: str = "plateau",
        validation: float | None = 0.1,
        patience: int | None = 30,
        random_state: int | np.random.RandomState | None = None,
        dtype: str = "float64",
        device: str = "cpu",
        verbose: bool = False,
    ) -> None:
        self.n_steps = n_steps
        self.width = width
        self.base = base
        self.components = components
        self.max_components = max_components
        self.encoder = encoder
        self.whiten = whiten
        self.lift = lift
        self.particles = particles
        self.sleep = sleep
        self.score_particles = score_particles
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.schedule = schedule
        self.validation = validation
        self.patience = patience
        self.random_state = random_state
        self.dtype = dtype
        self.device = device
        self.verbose = verbose

    def fit(self, X: ArrayLike, y: Any = None) -> Self:
        """Fit the density to the rows of ``X``, (n, dim); ``y`` is ignored.

        Raises:
            ValueError: ``X`` or a parameter is not what fitting needs.
            FitError: the loss is not finite again and again.
        """
        check_choice("dtype", self.dtype, tuple(_DTYPES))
        check_positive("score_particles", self.score_particles, integer=True)
        rows = self._rows(X, reset=True)
        seed = _seed(self.random_state)
        model = NHF(
            rows.shape[1], n_steps=self.n_steps, width=self.width, base=self.base, components=self.components,
            max_components=self.max_components, encoder=self.encoder, whiten=self.whiten, lift=self.lift,
            particles=self.particles, sleep=self.sleep, seed=seed,
        )  # fmt: skip
        self.model_ = model.fit(
            rows, epochs=self.epochs, batch_size=self.batch_size, learning_rate=self.learning_rate,
            weight_decay=self.weight_decay, schedule=self.schedule, validation=self.validation,
            patience=self.patience, seed=seed, dtype=_DTYPES[self.dtype], device=self.device, progress=self.verbose,
        )  # fmt: skip
        # Kept, so that scores repeat also where random_state is None or a generator.
        self._score_seed = seed
        return self

    def score_samples(self, X: ArrayLike) -> NDArray[np.float64]:
        """The lower bound on the log density of each row, in nats, (n, dim) -> (n,)."""
        check_is_fitted(self)
        rows = self._rows(X, reset=False)

        def noise(part: torch.Tensor) -> torch.Tensor:
            return _noise_of_rows(part, self.score_particles, self._score_seed)

        weights = self.model_.log_weights(rows, particles=self.score_particles, noise=noise)
        scores: NDArray[np.float64] = importance_bound(weights).double().cpu().numpy()
        return scores

    def score(self, X: ArrayLike, y: Any = None) -> float:
        """The mean of :meth:`score_samples`, as in ``GaussianMixture`` (``KernelDensity`` sums); ``y`` is ignored."""
        return float(self.score_samples(X).mean())

    def sample(
        self, n_samples: int = 1, random_state: int | np.random.RandomState | None = None
    ) -> NDArray[np.float64]:
        """``n_samples`` exact draws, (n_samples, dim): an array, as ``KernelDensity`` has it."""
        check_is_fitted(self)
        # NumPy's integers pass, as everywhere in scikit-learn.
        n_samples = int(n_samples) if hasattr(n_samples, "__index__") else n_samples
        check_positive("n_samples", n_samples, integer=True)
        drawn: NDArray[np.float64] = self.model_.sample(n_samples, seed=_seed(random_state)).double().cpu().numpy()
        return drawn

    def _rows(self, X: ArrayLike, *, reset: bool) -> torch.Tensor:
        array = validate_data(self, X, dtype=np.float64, reset=reset, ensure_min_samples=2 if reset else 1)
        # A copy: torch warns of arrays that may not be written to (memory maps) and takes none that runs backwards.
        return torch.as_tensor(np.array(array, order="C"))


def _seed(random_state: int | np.random.RandomState | None) -> int:
    return int(check_random_state(random_state).randint(np.iinfo(np.int32).max))


def _noise_of_rows(rows: torch.Tensor, particles: int, seed: int) -> torch.Tensor:
    """Standard normals (particles, n, dim) that each row (n, dim) draws from a seed of its own, made of its bytes."""
    # Noise that rows share would not average out over them, and noise of their places would change with their order.
    numbers = np.ascontiguousarray(rows.detach().cpu().numpy())
    drawn = np.empty((len(rows), particles, rows.shape[1]), dtype=numbers.dtype)
    for row, place in zip(numbers, drawn, strict=True):
        own = int.from_bytes(blake2b(row.tobytes(), digest_size=8, key=seed.to_bytes(8, "little")).digest(), "little")
        np.random.default_rng(own).standard_normal(out=place, dtype=place.dtype)
    return torch.as_tensor(drawn).transpose(0, 1).to(rows)
