"""Densities: a training step, log densities and draws, of the Hamiltonian flow and of those of other libraries."""

from __future__ import annotations

import statistics
from typing import Any

import rivals
import torch
import turns
from torch import Tensor

import hamflow as hf
from hamflow.testing import peak_bytes

BATCH, STEPS, WIDTH = 512, 16, 64
BARS = {
    "train": {"nhf_autograd": 2.0, "zuko_nsf": 1.0},
    "sample": {"nflows_rq_nsf": 20.0, "zuko_nsf": 10.0},
}
#: Milliseconds up to which a job's memory is measured.
LONG = 1000
BATCHES = (32, 128, 512, 2048, 8192)


class AutogradRidge(hf.RidgePotential):
    """Ridges whose force is taken by automatic differentiation, as in most research code."""

    def gradient(self, x: Tensor, t: Any = 0.0) -> Tensor:
        with torch.enable_grad():
            at = x if x.requires_grad else x.detach().requires_grad_()
            return torch.autograd.grad(self(at, t).sum(), at, create_graph=True)[0]

    def slopes(self, times: Any) -> Any:
        return hf.Energy.slopes(self, times)


def build(name: str, dim: int, seed: int) -> Any:
    """A contender by its name, its weights away from where forces are zero."""
    if not name.startswith("nhf"):
        torch.manual_seed(seed)
        return rivals.build(name, dim)
    memory = "constant" if name == "nhf_constant" else "stored"
    model = hf.NHF(
        dim, n_steps=STEPS, width=WIDTH, scheme="leapfrog", base="gaussian", particles=8 if name == "nhf_8" else 1,
        memory=memory, seed=seed,
    )  # fmt: skip
    potential = model.flow.step.hamiltonian.potential
    torch.nn.init.normal_(potential.amplitude, std=0.1)
    if name == "nhf_autograd":
        other = AutogradRidge(dim, WIDTH, layers=potential.layers, spacing=potential.spacing)
        other.load_state_dict(potential.state_dict())
        model.flow.step.hamiltonian.potential = other
    return model


def work(dim: int, seed: int, configuration: dict[str, Any]) -> list[dict[str, Any]]:
    """All contenders of one dimension."""
    names = ["nhf", "nhf_constant", "nhf_8", "nhf_autograd", *rivals.names(dim)]
    if configuration["quick"]:
        names = ["nhf", "nhf_constant", "nhf_autograd", "nflows_realnvp"]
    models = {name: build(name, dim, seed) for name in names}
    x = torch.randn(BATCH, dim, generator=torch.Generator().manual_seed(seed))
    costs = {name: sum(p.numel() for p in model.parameters() if p.requires_grad) for name, model in models.items()}
    found: list[dict[str, Any]] = []
    jobs: dict[str, dict[str, turns.Job]] = {
        "train": {name: _trainer(model, x) for name, model in models.items()},
        # The same flow: its other forms differ in how they train.
        "log_prob": {name: _scorer(model, x) for name, model in models.items() if not name.startswith("nhf_")},
        "sample": {name: _sampler(model) for name, model in models.items() if not name.startswith("nhf_")},
    }
    for what, contenders in jobs.items():
        times = turns.take_turns(contenders, configuration["rounds"], configuration["seconds"])
        found += turns.rows(times, what, "nhf", BARS.get(what, {}) if dim == 16 else {}, costs)
        for name, job in contenders.items():
            # Autoregressive draws of many columns would be watched for minutes.
            if statistics.median(times[name]) > LONG:
                continue
            found.append({"metric": f"{what}_memory_{name}", "value": peak_bytes(job) / 2**20, "unit": "MiB"})
    return found


def batches(seed: int, configuration: dict[str, Any]) -> list[dict[str, Any]]:
    """A training step of 16 dimensions at many sizes of a batch."""
    found: list[dict[str, Any]] = []
    names = ["nhf", "nhf_constant", "nhf_autograd", "zuko_nsf", "nflows_realnvp"]
    models = {name: build(name, 16, seed) for name in (names[:2] if configuration["quick"] else names)}
    for size in (16, 32) if configuration["quick"] else BATCHES:
        x = torch.randn(size, 16, generator=torch.Generator().manual_seed(seed))
        jobs = {name: _trainer(model, x) for name, model in models.items()}
        for name, taken in turns.take_turns(jobs, configuration["rounds"], configuration["seconds"]).items():
            found.append({"metric": f"train_{name}_batch_{size}", "value": statistics.median(taken), "unit": "ms"})
    return found


def _trainer(model: Any, x: Tensor) -> turns.Job:
    optimizer = torch.optim.Adam(model.parameters(), 1e-4)

    def step() -> None:
        optimizer.zero_grad()
        model.loss(x).backward()
        optimizer.step()

    return step


def _scorer(model: Any, x: Tensor) -> turns.Job:
    def score() -> None:
        with torch.no_grad():
            model.log_prob(x)

    return score


def _sampler(model: Any) -> turns.Job:
    return lambda: model.sample(BATCH)
