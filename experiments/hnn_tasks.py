"""The systems of the published Hamiltonian Neural Network study: their data, and the energies that judge a rollout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import hamflow as hf
from hamflow.systems import Trajectories, estimate_derivatives

Energy = Callable[[Tensor, Tensor], Tensor]
# Draws that no trial of any setting has seen.
FIRST_DRAW = 1000
TASKS = ("mass_spring", "pendulum", "real_pendulum", "two_body", "three_body")


@dataclass(frozen=True)
class Task:
    """Training data with derivatives, and the rollouts that are judged.

    Attributes:
        train: the training trajectories.
        starts: initial states of the test, q and p, (n, d) each.
        times: of the rollouts, (time,), from 0 on.
        energy: the true energy, whose mean squared error is the metric.
        published_energy: what the published code takes for the energy, where that differs.
        measured: what the energy of a rollout is held against, (time, n), or None for its first value.
        truth: the true or measured states along the rollouts, (time, n, 2 d), where they are needed.
        bar: of energy_mse with derivatives, and from states alone.
        published: energy_mse of the published model, by its own metric.
    """

    train: Trajectories
    starts: tuple[Tensor, Tensor]
    times: Tensor
    energy: Energy
    published_energy: Energy | None
    measured: Tensor | None
    truth: Tensor | None
    bar: tuple[float, float]
    published: float | None


def load_task(name: str, seed: int, quick: bool) -> Task:
    """The data and the test of a task; one seed draws all of it anew, but for the measured pendulum."""
    draw = FIRST_DRAW + seed
    return {
        "mass_spring": _mass_spring, "pendulum": _pendulum, "real_pendulum": _real_pendulum,
        "two_body": _two_body, "three_body": _three_body,
    }[name](draw, quick)  # fmt: skip


def _shells(n: int, radius: tuple[float, float], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    # A direction of the square, not of the circle, as in the published code.
    state = 2 * torch.rand(n, 2, generator=generator, dtype=torch.float64) - 1
    size = radius[0] + (radius[1] - radius[0]) * torch.rand(n, 1, generator=generator, dtype=torch.float64)
    state = size * state / state.norm(dim=-1, keepdim=True)
    return state[:, :1], state[:, 1:]


def _oscillator(system: Any, radius: tuple[float, float], points: int, seed: int, quick: bool, **judged: Any) -> Task:
    generator = torch.Generator().manual_seed(seed)
    n = 4 if quick else 25
    train = system.simulate(
        n, points - 1, 3 / (points - 1), initial=_shells(n, radius, generator), noise=0.1, derivatives=True, seed=seed
    )
    starts = _shells(15, radius, generator)
    truth = system.simulate(15, 99, 20 / 99, initial=starts).states.transpose(0, 1)
    return Task(train, starts, torch.linspace(0, 20, 100, dtype=torch.float64), measured=None, truth=truth, **judged)


def _squares(q: Tensor, p: Tensor) -> Tensor:
    return (q**2 + p**2).sum(-1)


def _mass_spring(seed: int, quick: bool) -> Task:
    # H = q^2 + p^2.
    system = hf.systems.MassSpring(mass=0.5, stiffness=2.0)
    judged = {"energy": system, "published_energy": None, "bar": (1.5e-4, 3e-4), "published": 3.84e-4}
    return _oscillator(system, (0.1, 1.0), 30, seed, quick, **judged)


def _pendulum(seed: int, quick: bool) -> Task:
    # H = p^2 + 3 (1 - cos q).
    system = hf.systems.Pendulum(mass=0.5, length=1.0, gravity=6.0)
    judged = {"energy": system, "published_energy": _squares, "bar": (2.5e-4, 5e-4), "published": 2.49e-2}
    return _oscillator(system, (1.3, 2.3), 45, seed, quick, **judged)


def _real_pendulum(seed: int, quick: bool) -> Task:
    data = hf.systems.load_pendulum()
    data = data.replace(p=data.v, v=None, metadata=dict(data.metadata) | {"units": {"time": "s", "q": "rad"}})
    cut = round(0.8 * data.n_times)
    train, test = estimate_derivatives(data.between(0, cut), method="difference"), data.between(cut, None)

    def energy(q: Tensor, p: Tensor) -> Tensor:
        return (2.4 * (1 - q.cos()) + p**2).sum(-1)

    q, p = test.q.transpose(0, 1), test.need("p").transpose(0, 1)
    times = test.own_times()[0] - test.own_times()[0, 0]
    truth = torch.cat((q, p), -1)
    return Task(train, (q[0], p[0]), times, energy, None, energy(q, p), truth, (4.9e-4, 4.9e-4), 1.45e-2)


def _two_body(seed: int, quick: bool) -> Task:
    system = hf.systems.TwoBody()
    generator = torch.Generator().manual_seed(seed)

    def orbits(n: int) -> tuple[Tensor, Tensor]:
        place = 0.5 + torch.rand(n, 2, generator=generator, dtype=torch.float64)
        radius = place.norm(dim=-1, keepdim=True)
        velocity = torch.stack((-place[:, 1], place[:, 0]), -1) / (2 * radius**1.5)
        # Published: each component of each body's circular velocity times 1 + 0.05 z.
        shake = 1 + 0.05 * torch.randn(2, n, 2, generator=generator, dtype=torch.float64)
        return torch.cat((place, -place), -1), torch.cat((velocity * shake[0], -velocity * shake[1]), -1)

    n = 8 if quick else 800
    train = system.simulate(n, 49, 20 / 49, initial=orbits(n), derivatives=True, seed=seed)
    times = torch.linspace(0, 25, 100 if quick else 500, dtype=torch.float64)
    return Task(train, orbits(15), times, system, None, None, None, (1e-5, 2e-5), 3.88e-5)


def _three_body(seed: int, quick: bool) -> Task:
    system = hf.systems.ThreeBody()
    generator = torch.Generator().manual_seed(seed)
    n = 4 if quick else 800
    train = system.simulate(
        n, 19, 5 / 19, initial=system.initial_states(n, generator), derivatives=True, seed=seed, tolerance=1e-9
    )
    times = torch.linspace(0, 3, 60, dtype=torch.float64)
    return Task(train, system.initial_states(15, generator), times, system, None, None, None, (1e-2, 2e-2), 4.19e-2)
