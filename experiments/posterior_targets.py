"""Posteriors with reference draws or known moments, written as Pyro models."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from hamflow.errors import InputError

Draws = dict[str, Tensor]


@dataclass(frozen=True)
class Target:
    """A model, what of its draws is compared, and the means and standard deviations that these should have."""

    model: Callable[[], None]
    quantities: Callable[[Draws], Draws]
    mean: Draws
    sd: Draws
    plates: int


def load_target(case: str) -> Target:
    """The target of a case, its data read in place."""
    if case == "funnel":
        return Target(funnel, lambda draws: {"v": draws["v"]}, {"v": torch.zeros(())}, {"v": torch.tensor(3.0)}, 1)
    name, reference, model, quantities = POSTERIORDB[case]
    data = _read(f"data-{name}.json.zip")
    mean, sd = _moments(_read(f"draws-{reference}.json.zip"))
    return Target(partial(model, data), quantities, mean, sd, 1)


def funnel() -> None:
    """Neal's funnel of nine plus one dimensions."""
    v = pyro.sample("v", dist.Normal(0.0, 3.0))
    with pyro.plate("nine", 9):
        pyro.sample("x", dist.Normal(0.0, (v / 2).exp()))


def eight_schools(data: dict[str, Any]) -> None:
    """Effects as multiples of their spread."""
    mean, spread = pyro.sample("mu", dist.Normal(0.0, 5.0)), pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("schools", 8):
        unit = pyro.sample("unit", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(mean + spread * unit, torch.tensor(data["sigma"]).float()), obs=_floats(data["y"]))


def eight_schools_centered(data: dict[str, Any]) -> None:
    """Effects themselves: where their spread is small they are close together."""
    mean, spread = pyro.sample("mu", dist.Normal(0.0, 5.0)), pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("schools", 8):
        effect = pyro.sample("theta", dist.Normal(mean, spread))
        pyro.sample("y", dist.Normal(effect, _floats(data["sigma"])), obs=_floats(data["y"]))


def kidscore_momiq(data: dict[str, Any]) -> None:
    """A regression on one variable with flat priors of its coefficients."""
    beta = pyro.sample("beta", _flat(dist.Normal(torch.zeros(2), 1.0).to_event(1)))
    sigma = pyro.sample("sigma", dist.HalfCauchy(2.5))
    predicted = beta[..., 0] + beta[..., 1] * _floats(data["mom_iq"])
    with pyro.plate("rows", data["N"]):
        pyro.sample("y", dist.Normal(predicted, sigma), obs=_floats(data["kid_score"]))


def ar5(data: dict[str, Any]) -> None:
    """An autoregression of five lags."""
    lags, y = data["K"], _floats(data["y"])
    alpha = pyro.sample("alpha", dist.Normal(0.0, 10.0))
    beta = pyro.sample("beta", dist.Normal(torch.zeros(lags), 10.0).to_event(1))
    sigma = pyro.sample("sigma", dist.HalfCauchy(2.5))
    past = y.unfold(0, lags, 1)[:-1].flip(1)
    with pyro.plate("times", len(past)):
        pyro.sample("y", dist.Normal(alpha + (beta @ past.mT).reshape(*alpha.shape[:-1], -1), sigma), obs=y[lags:])


def garch11(data: dict[str, Any]) -> None:
    """A variance that remembers the last square and the last variance; flat priors where it is stationary."""
    y = _floats(data["y"])
    mu = pyro.sample("mu", _flat(dist.Normal(0.0, 1.0)))
    alpha0 = pyro.sample("alpha0", _flat(dist.HalfNormal(1.0)))
    alpha1 = pyro.sample("alpha1", dist.Uniform(0.0, 1.0))
    share = pyro.sample("share", dist.Uniform(0.0, 1.0))
    # beta1 is flat between 0 and 1 - alpha1, and this the Jacobian of its share of that.
    pyro.factor("jacobian", torch.log1p(-alpha1))
    beta1 = share * (1 - alpha1)
    # The recursion v_t = alpha0 + alpha1 (y_{t-1} - mu)^2 + beta1 v_{t-1}, all at once by the powers of beta1.
    steps = torch.arange(len(y) - 1)
    lag = steps[:, None] - steps
    powers = torch.where(lag >= 0, beta1[..., None, None].log() * lag, -torch.inf).exp()
    driven = alpha0[..., None] + alpha1[..., None] * (y[:-1] - mu[..., None]) ** 2
    first = beta1[..., None] ** (steps + 1) * data["sigma1"] ** 2
    later = (powers @ driven[..., None]).squeeze(-1) + first
    variance = torch.cat((torch.full_like(later[..., :1], data["sigma1"] ** 2), later), -1)
    pyro.sample("y", dist.Normal(mu[..., None], variance.sqrt()).to_event(1), obs=y)


def _flat(law: dist.TorchDistribution) -> dist.TorchDistribution:
    # A flat prior of the same support, from which guides can draw a place to start.
    return law.mask(False)


def _schools(draws: Draws) -> Draws:
    mean, spread = (draws[name].reshape(-1) for name in ("mu", "tau"))
    effects = draws["theta"] if "theta" in draws else mean[:, None] + spread[:, None] * draws["unit"].reshape(-1, 8)
    return {"mu": mean, "tau": spread, "theta": effects.reshape(-1, 8)}


def _named(*names: str) -> Callable[[Draws], Draws]:
    return lambda draws: {name: draws[name].reshape(len(draws[name]), -1).squeeze(-1) for name in names}


def _garch(draws: Draws) -> Draws:
    found = _named("mu", "alpha0", "alpha1", "share")(draws)
    return {**found, "beta1": found.pop("share") * (1 - found["alpha1"])}


POSTERIORDB: dict[str, tuple[str, str, Callable[[dict[str, Any]], None], Callable[[Draws], Draws]]] = {
    "eight_schools": ("eight_schools", "eight_schools-eight_schools_noncentered", eight_schools, _schools),
    "eight_schools_centered": (
        "eight_schools", "eight_schools-eight_schools_noncentered", eight_schools_centered, _schools,
    ),
    "kidscore_momiq": ("kidiq", "kidiq-kidscore_momiq", kidscore_momiq, _named("beta", "sigma")),
    "arK": ("arK", "arK-arK", ar5, _named("alpha", "beta", "sigma")),
    "garch11": ("garch", "garch-garch11", garch11, _garch),
}  # fmt: skip
CASES = (*POSTERIORDB, "funnel")


def _read(name: str) -> Any:
    folder = os.environ.get("HAMFLOW_DATA")
    if not folder:
        raise InputError("HAMFLOW_DATA is not set, expected the folder that holds posteriordb/")
    path = Path(folder) / "posteriordb" / name
    if not path.is_file():
        raise InputError(f"{path} is missing, expected a file of posteriordb")
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read(archive.namelist()[0]))


def _moments(chains: list[dict[str, list[float]]]) -> tuple[Draws, Draws]:
    # theta[1], theta[2], ... become one vector.
    draws = {name: torch.tensor([chain[name] for chain in chains]).flatten() for name in chains[0]}
    names = list(dict.fromkeys(name.partition("[")[0] for name in draws))
    tables = {name: [draws[full] for full in draws if full.partition("[")[0] == name] for name in names}
    joined = {name: torch.stack(columns, -1) if len(columns) > 1 else columns[0] for name, columns in tables.items()}
    return {name: x.mean(0) for name, x in joined.items()}, {name: x.std(0) for name, x in joined.items()}


def _floats(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.get_default_dtype())
