"""One face for every contender: train it on rows, score rows, draw samples."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import mixture_peer
import nhf_models
import numpy as np
import peers
import torch
from numpy.typing import NDArray
from torch import Tensor

from hamflow.training import History, fit

Array = NDArray[np.float64]
# Rows scored at a time: a Hamiltonian flow carries its particles beside every row.
CHUNK = 500


@dataclass(frozen=True)
class Schedule:
    """How every trained contender is trained; patience counts epochs, None trains to the end."""

    iterations: int
    batch_size: int
    patience: int | None = None
    weight_decay: float = 0.0
    decay: str = "cosine"

    def epochs(self, n_rows: int) -> int:
        """Number of epochs that comes closest to the iterations."""
        return max(1, round(self.iterations / -(-n_rows // self.batch_size)))


class Contender(Protocol):
    """A fitted density model."""

    params: int
    train_seconds: float

    def log_density(self, x: Array) -> Array:
        """Log density of rows of shape (n, d), shape (n,)."""

    def sample(self, n: int, seed: int) -> Array:
        """Draw n rows."""


def configuration(
    name: str, case: str, dim: int, budget: int, schedule: Schedule, learning_rate: float
) -> dict[str, Any]:
    """What decides the figures of a contender, apart from the data."""
    if name == "gmm":
        return dict(mixture_peer.SETTINGS)
    if name == nhf_models.START:
        return {"budget": budget, "settings": nhf_models.settings(name, case, dim, budget)}
    ours = name in nhf_models.NHF_MODELS
    own = nhf_models.settings(name, case, dim, budget) if ours else peers.settings(name, dim)
    return {"budget": budget, "schedule": vars(schedule), "settings": own | {"learning_rate": learning_rate}}


def train(
    name: str,
    case: str,
    budget: int,
    schedule: Schedule,
    learning_rate: float,
    train_rows: Array,
    validation_rows: Array,
    seed: int,
) -> Contender:
    """Fit the contender of that name on the training rows; the validation rows stop or choose it.

    The learning rate is that of the trained contenders; gmm and the start of nhf have none.
    """
    if name == "gmm":
        return _Mixture(train_rows, validation_rows, seed)
    x, validation = _tensor(train_rows), _tensor(validation_rows)
    dim = x.shape[1]
    arguments: dict[str, Any] = {
        "epochs": schedule.epochs(len(x)),
        "batch_size": schedule.batch_size,
        "patience": schedule.patience,
        "weight_decay": schedule.weight_decay,
        "schedule": schedule.decay,
        "learning_rate": learning_rate,
        "seed": seed,
    }
    torch.manual_seed(seed)
    if name in (*nhf_models.NHF_MODELS, nhf_models.START):
        particles = nhf_models.settings(name, case, dim, budget)["evaluation_particles"]
        untrained = partial(nhf_models.start, name, case, dim, budget, x, validation, seed)
        # Timed as a whole: the mixture that the flow starts from is part of its training.
        began = time.process_time()
        if name == nhf_models.START:
            return _Start(untrained(), particles, time.process_time() - began)
        model = nhf_models.build(name, case, dim, budget, seed)
        model.fit(x, validation=validation, progress=False, **arguments)
        return Hamiltonian(model, particles, time.process_time() - began, arguments["epochs"], untrained)
    peer = peers.build_peer(name, dim, budget)
    history = fit(peer, x, validation=validation, progress=False, **arguments)
    return Flow(peer.eval(), history, arguments["epochs"])


def _tensor(x: Array) -> Tensor:
    return torch.as_tensor(x, dtype=torch.float32)


class _Mixture:
    def __init__(self, train_rows: Array, validation_rows: Array, seed: int) -> None:
        self.model, self.train_seconds = mixture_peer.fit_mixture(train_rows, validation_rows, seed)
        self.params = mixture_peer.mixture_parameters(self.model)

    def log_density(self, x: Array) -> Array:
        return np.asarray(self.model.score_samples(x))

    def sample(self, n: int, seed: int) -> Array:
        self.model.random_state = seed
        return np.asarray(self.model.sample(n)[0])


class Flow:
    """A fitted peer; its log density is exact."""

    def __init__(self, model: peers.Peer, history: History, epochs: int) -> None:
        self.model = model
        self.train_seconds = history.seconds
        self.validation_loss = min(history.start, *history.validation)
        self.ended_by_patience = len(history.train) < epochs
        self.params = peers.count_parameters(model)

    @torch.no_grad()
    def log_density(self, x: Array) -> Array:
        return torch.cat([self.model.log_prob(part) for part in _tensor(x).split(CHUNK)]).double().numpy()

    def sample(self, n: int, seed: int) -> Array:
        torch.manual_seed(seed)
        return self.model.sample(n).double().numpy()


class _Start:
    """A Neural Hamiltonian Flow before its training; the flow is the identity, so the bound is tight."""

    def __init__(self, model: Any, particles: int, train_seconds: float) -> None:
        self.model = model
        self.particles = particles
        self.train_seconds = train_seconds
        self.params = nhf_models.start_parameters(model)

    def log_density(self, x: Array) -> Array:
        return _bound(self.model, self.particles, x)

    def sample(self, n: int, seed: int) -> Array:
        return self.model.sample(n, seed=seed).double().numpy()


class Hamiltonian:
    """A fitted Neural Hamiltonian Flow; its log density is the importance-weighted lower bound."""

    def __init__(self, model: Any, particles: int, train_seconds: float, epochs: int, start: Callable[[], Any]) -> None:
        self.model = model
        self.particles = particles
        self.train_seconds = train_seconds
        self.params = peers.count_parameters(model)
        self.validation_loss = min(model.history.start, *model.history.validation)
        self.ended_by_patience = len(model.history.train) < epochs
        self._start = start

    def log_density(self, x: Array) -> Array:
        return _bound(self.model, self.particles, x)

    def training_gain(self, x: Array) -> float:
        """Mean bound on rows x less that of the model before its training; negative where training did harm."""
        return float((self.log_density(x) - _bound(self._start(), self.particles, x)).mean())

    def sample(self, n: int, seed: int) -> Array:
        return self.model.sample(n, seed=seed).double().numpy()


@torch.no_grad()
def _bound(model: Any, particles: int, x: Array) -> Array:
    parts = [model.log_prob(part, particles=particles) for part in _tensor(x).split(CHUNK)]
    return torch.cat(parts).double().numpy()
