"""Two moons given their data: densities of parameters learned from simulations alone, one for all data."""

from __future__ import annotations

import bz2
import io
import math
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import peers
import torch
from report import Row
from torch import Tensor, nn

import hamflow as hf
from hamflow.densities import ContextNetwork, MixtureNetwork
from hamflow.errors import InputError
from hamflow.training import fit

CASE = "two_moons"
MODELS = ("nhf", "zuko_nsf", "mixture_network")
SETTINGS: dict[str, Any] = {
    "simulations": 10_000, "epochs": 200, "batch_size": 256, "learning_rate": 2e-3, "patience": 30, "draws": 10_000,
}  # fmt: skip


def simulate(theta: Tensor, generator: torch.Generator) -> Tensor:
    """Data of parameters in the square, (n, 2) -> (n, 2): a crescent at a place that two parameters share."""
    n = len(theta)
    angle = math.pi * (torch.rand(n, generator=generator) - 0.5)
    radius = 0.1 + 0.01 * torch.randn(n, generator=generator)
    crescent = torch.stack((radius * angle.cos() + 0.25, radius * angle.sin()), -1)
    return crescent + torch.stack((-(theta[:, 0] + theta[:, 1]).abs(), theta[:, 1] - theta[:, 0]), -1) / 2**0.5


def pairs(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Parameters of a uniform prior and their data, (n, 2) each."""
    generator = torch.Generator().manual_seed(seed)
    theta = 2 * torch.rand(n, 2, generator=generator) - 1
    return theta, simulate(theta, generator)


def observation() -> tuple[Tensor, Tensor]:
    """What was observed, (2,), and the reference draws of its posterior, (10000, 2)."""
    folder = os.environ.get("HAMFLOW_DATA")
    if not folder:
        raise InputError("HAMFLOW_DATA is not set, expected the folder that holds sbibm/")
    place = Path(folder) / "sbibm" / CASE / "num_observation_1"
    if not place.is_dir():
        raise InputError(f"{place} is missing, expected a task of sbibm")
    draws = io.StringIO(bz2.decompress((place / "reference_posterior_samples.csv.bz2").read_bytes()).decode())
    tables = [np.loadtxt(file, delimiter=",", skiprows=1) for file in (place / "observation.csv", draws)]
    return torch.tensor(tables[0]).float(), torch.tensor(tables[1]).float()


class Told(nn.Module):
    """A conditional density of another kind behind the face that the training loop knows: loss(batch)."""

    def __init__(self, features: nn.Module, law: Any) -> None:
        super().__init__()
        self.features, self.law = features, law

    def given(self, context: Tensor) -> Any:
        """The density of parameters given data."""
        return self.law(self.features(context))

    def loss(self, batch: Tensor) -> Tensor:
        """Minus the mean log density of rows (n, 4), data on the right."""
        return -self.given(batch[:, 2:]).log_prob(batch[:, :2]).mean()


class _Positions(nn.Module):
    # The base of NHF alone: its momentum is independent of all, and is put to zero and taken out again.
    def __init__(self, features: int, components: int) -> None:
        super().__init__()
        self.mixture = MixtureNetwork(2, features, components)
        with torch.no_grad():
            self.mixture.head.weight.normal_(0, 0.1)
            self.mixture.head.bias.normal_(0, 0.5)

    def forward(self, features: Tensor) -> _PositionsGiven:
        return _PositionsGiven(self.mixture.condition(features))


class _PositionsGiven:
    def __init__(self, law: Any) -> None:
        self.law = law

    def log_prob(self, q: Tensor) -> Tensor:
        found: Tensor = self.law.log_prob(torch.cat((q, torch.zeros_like(q)), -1)) + math.log(2 * math.pi)
        return found

    def sample(self, shape: tuple[int, ...]) -> Tensor:
        drawn: Tensor = self.law.sample(shape)[..., :2]
        return drawn


def build_peer(name: str, budget: int) -> Told:
    """The peer whose width brings its number of parameters closest to the budget."""

    def make(width: int) -> Told:
        if name == "mixture_network":
            return Told(ContextNetwork(2, 16, width=width), _Positions(16, 24))
        checks = torch.distributions.Distribution._validate_args
        import zuko

        torch.distributions.Distribution.set_default_validate_args(checks)
        return Told(nn.Identity(), zuko.flows.NSF(2, 2, transforms=5, bins=8, hidden_features=(width, width)))

    widths = range(4, 257, 4)
    return min((make(width) for width in widths), key=lambda peer: abs(peers.count_parameters(peer) - budget))


def c2st(one: Tensor, other: Tensor) -> float:
    """The accuracy of a classifier that tells two sets of draws apart: .5 where it cannot.

    Lueckmann et al. (2021), arXiv 2101.04653: a perceptron of two layers of 10 d units, five folds, columns
    standardised by the first set.
    """
    from sklearn.model_selection import KFold, cross_val_score
    from sklearn.neural_network import MLPClassifier

    scaled = [((x - one.mean(0)) / one.std(0)).numpy() for x in (one, other)]
    labels = np.repeat([0, 1], [len(x) for x in scaled])
    width = 10 * one.shape[1]
    classifier = MLPClassifier((width, width), max_iter=1000, random_state=1)
    folds = KFold(5, shuffle=True, random_state=1)
    return float(cross_val_score(classifier, np.concatenate(scaled), labels, cv=folds).mean())


def work(model: str, seed: int, chosen: dict[str, Any], *, quick: bool) -> list[Row]:
    """Learn from simulations, then compare draws given the observation with the reference."""
    if quick:
        chosen = chosen | {"simulations": 300, "epochs": 2, "draws": 200}
    theta, x = pairs(chosen["simulations"], seed)
    fresh = pairs(2000, seed + 1000)
    seen, reference = observation()
    training = {name: chosen[name] for name in ("epochs", "batch_size", "learning_rate", "patience")}
    training |= {"schedule": "plateau", "seed": seed, "progress": False}
    start = time.process_time()
    if model == "nhf":
        ours = hf.NHF(2, 2, seed=seed)
        ours.fit(theta, x, **training)
        seconds = time.process_time() - start
        nll = -float(ours.log_prob(*fresh).mean())
        draws = ours.sample(chosen["draws"], seen, seed=seed)
        params = peers.count_parameters(ours)
    else:
        torch.manual_seed(seed)
        # Of NHF with as many components as it may choose.
        peer = build_peer(model, peers.count_parameters(hf.NHF(2, 2, components=24)))
        # Both sides standardised, as NHF does for itself.
        loc, scale = x.mean(0), x.std(0)
        centre, width = theta.mean(0), theta.std(0)
        start = time.process_time()
        fit(peer, torch.cat(((theta - centre) / width, (x - loc) / scale), 1), **training)
        seconds = time.process_time() - start
        params = peers.count_parameters(peer)
        with torch.no_grad():
            law = peer.given((fresh[1] - loc) / scale)
            nll = -float(law.log_prob((fresh[0] - centre) / width).mean() - width.log().sum())
            torch.manual_seed(seed)
            draws = centre + width * peer.given((seen - loc) / scale).sample((chosen["draws"],))
    cost = {"params": params, "train_seconds": round(seconds, 1)}
    found = {"c2st": c2st(reference[: len(draws)], draws), "nll": nll}
    bars = {"c2st": 0.6} if model == "nhf" else {}
    return [
        {"metric": metric, "value": value, "unit": "nats" if metric == "nll" else "1", **cost}
        | ({"bar": bars[metric]} if metric in bars else {})
        for metric, value in found.items()
    ]
