"""The contenders for videos: a learned energy, and two plain networks in its place."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from hgn_tasks import Case
from torch import Tensor, nn

import hamflow as hf
from hamflow.training import seeded

MODELS = ("hgn", "hgn_few_frames", "latent_mlp", "latent_ode", "true_law")
#: Of 5000 videos: 4 to 12 minutes of one core.
EPOCHS = {"mass_spring": 40, "pendulum": 76, "two_body": 48}


def settings(model: str, case: str) -> dict[str, Any]:
    """Everything that decides how a contender is built, trained and asked in a case."""
    if model == "true_law":
        return {}
    training = {
        "epochs": EPOCHS[case], "batch_size": 32, "learning_rate": 5e-4, "growth": 0.8,
        "frames_per_step": 5 if model == "hgn_few_frames" else 10,
    }  # fmt: skip
    return {"widths": [64, 64], "fit": training, "refine": 40, "draws": 32}


def build(model: str, case: Case, chosen: dict[str, Any], seed: int) -> hf.HGN:
    """A contender before training."""
    common: dict[str, Any] = {"periodic": case.periodic, "context": 5, "seed": seed}
    if model.startswith("hgn"):
        return hf.HGN(dim=case.dim, hamiltonian="mechanical", widths=chosen["widths"], **common)
    if model == "latent_mlp":
        return LatentMLP(chosen["widths"], dim=case.dim, **common)
    return LatentODE(chosen["widths"], dim=2 * case.dim, **common)


class FieldModel(hf.HGN):
    """An HGN whose state changes by a plain network, a :class:`Field`, in place of an energy."""

    #: Whether p is a state of its own, which the field moves as it does q.
    with_momenta: bool

    def __init__(self, field: list[int], **settings: Any) -> None:
        self.widths = field
        super().__init__(**settings)

    def assemble(self, rate: float = 1.0) -> None:
        super().assemble(rate)
        with seeded(self.config["seed"]):
            self.field = Field(self.features, self.dim, self.dim if self.with_momenta else 0, self.widths, rate)
        del self.hamiltonian, self.step


class LatentMLP(FieldModel):
    r"""A plain latent network, :math:`z_{t+1} = z_t + \Delta t f(z_t)`; f starts near the oscillators of the energy."""

    with_momenta = True

    def path(self, q: Tensor, p: Tensor, n_steps: int, dt: float) -> Tensor:
        states = [torch.cat((q, p), -1)]
        for _ in range(n_steps):
            states.append(states[-1] + dt * self.field(states[-1]))
        return torch.stack(states)


class LatentODE(FieldModel):
    r"""A latent neural ODE, :math:`\dot z = f(z)`: all of the state is drawn, and nothing in it is a momentum.

    References:
        Chen et al. (2018), Neural Ordinary Differential Equations, arXiv 1806.07366.
    """

    with_momenta = False

    def split(self, found: Tensor) -> tuple[Tensor, Tensor]:
        q, p = super().split(found)
        # Nothing draws it or moves it.
        return q, torch.zeros_like(p)

    def path(self, q: Tensor, p: Tensor, n_steps: int, dt: float) -> Tensor:
        from torchdiffeq import odeint

        if n_steps == 0:
            return torch.cat((q, p), -1).unsqueeze(0)
        times = dt * torch.arange(n_steps + 1, dtype=q.dtype, device=q.device)
        path: Tensor = odeint(lambda t, z: self.field(z), q, times, method="rk4")
        return torch.cat((path, p.expand_as(path)), -1)


class Field(nn.Module):
    """A perceptron for the change of a state, angles by cosine and sine; in units of a rate, as energies are."""

    rate: Tensor

    def __init__(self, features: Any, positions: int, momenta: int, widths: list[int], rate: float) -> None:
        super().__init__()
        self.features, self.positions, self.momenta = features, positions, momenta
        self.register_buffer("rate", torch.tensor(rate))
        self.angles = list(features.periodic)
        layers: list[nn.Module] = []
        for before, after in pairwise([features.size + momenta, *widths, positions + momenta]):
            layers += [nn.Linear(before, after), nn.Tanh()]
        self.network = nn.Sequential(*layers[:-1])

    def forward(self, z: Tensor) -> Tensor:
        q, p = z.split((self.positions, self.momenta), -1)
        found: Tensor = self.network(torch.cat((self.features(q), p), -1))
        if not self.momenta:
            return self.rate * found
        back = -q.index_fill(-1, torch.tensor(self.angles, dtype=torch.long), 0.0) if self.angles else -q
        return self.rate * (found + torch.cat((p, back), -1))
