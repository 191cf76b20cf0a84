"""What is held against each other on trajectories: Hamiltonian networks, and networks that know no energy."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from hnn_tasks import Task
from peers import count_parameters
from torch import Tensor, nn

import hamflow as hf
from hamflow.models.paths import integrate
from hamflow.systems import Trajectories
from hamflow.training import fit, polish

Path = Callable[[Tensor, Tensor, Tensor], Tensor]
HNN_MODELS = ("hnn", "hnn_states", "hnn_states_separable", "hnn_naive")
BASELINES = ("mlp", "second_order_ode")
MODELS = (*HNN_MODELS, "hnn_published", *BASELINES, "energy_decay")
NOISY = ("mass_spring", "pendulum")
_FINE = 0.02  # the largest step of a rollout


@dataclass(frozen=True)
class Fitted:
    """A fitted contender: rollout(q, p, times) -> (time, n, 2 d), its size, its cost, and the model if it is ours."""

    rollout: Path
    params: int
    seconds: float
    model: hf.HNN | None = None


def applies(model: str, task: str) -> bool:
    """Whether a contender has a row of its own on a task."""
    if model in ("hnn_naive", "hnn_states_separable"):
        return task in NOISY
    return model != "energy_decay" or task == "real_pendulum"


def settings(model: str, task: str) -> dict[str, Any]:
    """Everything that decides how a contender is built and trained on a task."""
    if model in HNN_MODELS:
        return _own(model, task)
    if model == "energy_decay":
        return {}
    # The published protocol: full batches on the oscillators, 10,000 iterations on the bodies.
    bodies = {"two_body": 200, "three_body": 600}
    decay = {"mass_spring": 1e-4, "pendulum": 1e-4, "real_pendulum": 1e-5, "two_body": 0.0, "three_body": 1e-4}[task]
    iterations, batch = (10_000, bodies[task]) if task in bodies else (2000, 100_000)
    chosen = {"iterations": iterations, "batch_size": batch, "learning_rate": 1e-3, "l2": decay, "width": 200}
    return chosen | ({"inferred": True, "polish": _own("hnn", task)["fit"]["polish"]} if model in BASELINES else {})


def _own(name: str, task: str) -> dict[str, Any]:
    from_states = name.startswith("hnn_states")
    model: dict[str, Any] = {"energy": "separable", "widths": [64, 64], "scheme": "yoshida4"}
    training: dict[str, Any] = {"learn_from": "states" if from_states else "derivatives", "epochs": 300, "polish": 300}
    if name == "hnn_naive":
        training |= {"noise": 0.0}
    if task in NOISY and from_states:
        # Few weights and all states, to the end: no share of so few states can tell when to stop.
        model |= {"energy": "mechanical", "widths": [8], "scheme": "leapfrog"}
        if name == "hnn_states_separable":
            model |= {"energy": "separable", "widths": [16, 16]}
        training |= {"window": 44, "epochs": 150, "polish": 600, "validation": None}
    if task == "real_pendulum":
        model |= {"widths": [32, 32], "friction": True, "scheme": "leapfrog"}
        training |= {"polish": 200}
    if task == "real_pendulum" and from_states:
        training |= {"substeps": 2, "window": 20, "noise": 0.02, "epochs": 90, "polish": 100}
    if task == "two_body":
        model |= {"widths": [128, 128]}
        training |= {"epochs": 80, "batch_size": 512, "polish": 0, "learning_rate": 3e-3}
    if task == "three_body":
        model |= {"energy": "pairs", "widths": [64, 64]}
        training |= {"epochs": 100, "batch_size": 512, "polish": 100}
    if task in ("two_body", "three_body") and from_states:
        training |= {"window": 3, "substeps": 2, "epochs": 40}
    return {"model": model, "fit": training}


def train(model: str, name: str, task: Task, seed: int, quick: bool) -> Fitted:
    """Fit a contender on the training data of a task."""
    chosen = settings(model, name)
    torch.manual_seed(seed)
    if model == "energy_decay":
        return _energy_decay(task)
    return (_train_hnn if model in HNN_MODELS else _train_published)(model, chosen, task, seed, quick)


def _energy_decay(task: Task) -> Fitted:
    """No dynamics: each state is the first one shrunk so that its energy decays as that of the training data does."""
    began = time.process_time()
    energy = task.energy(task.train.q[0], task.train.need("p")[0])
    times = task.train.own_times()[0]
    design = torch.stack((torch.ones_like(times), times), -1)
    rate = torch.linalg.lstsq(design, energy.log().unsqueeze(-1)).solution[1, 0]

    def rollout(q: Tensor, p: Tensor, times: Tensor) -> Tensor:
        # A state at rest with that energy, E = 2.4 (1 - cos q).
        wanted = task.energy(q, p) * (rate * times).exp().unsqueeze(-1)
        angle = torch.arccos((1 - wanted / 2.4).clamp(-1, 1))
        return torch.stack((angle, torch.zeros_like(angle)), -1)

    return Fitted(rollout, 2, time.process_time() - began)


def _train_hnn(model: str, chosen: dict[str, Any], task: Task, seed: int, quick: bool) -> Fitted:
    data, build, training = task.train, dict(chosen["model"]), dict(chosen["fit"])
    if training["learn_from"] == "states":
        data = data.replace(p_dot=None, v_dot=None, v=None)
    if build["energy"] == "pairs":
        build["energy"] = pair_energy(data, build["widths"], seed)
    if quick:
        training |= {"epochs": 2, "polish": 0}
    training["window"] = min(training.get("window", 10), data.n_times - 1)
    start = time.process_time()
    fitted = hf.HNN(data.dim, seed=seed, **build).fit(data, seed=seed, progress=False, **training)
    seconds = time.process_time() - start

    # Friction is of second order whatever the scheme.
    scheme = "leapfrog" if build.get("friction") else "yoshida6"

    def rollout(q: Tensor, p: Tensor, times: Tensor) -> Tensor:
        states = [torch.cat((q, p), -1)]
        for gap in times.diff().tolist():
            substeps = max(1, round(gap / _FINE))
            here = states[-1].chunk(2, -1)
            states.append(fitted.rollout(*here, n_steps=1, dt=gap, substeps=substeps, scheme=scheme)[-1])
        return torch.stack(states)

    return Fitted(rollout, count_parameters(fitted), seconds, fitted)


def pair_energy(data: hf.systems.Trajectories, widths: list[int], seed: int) -> hf.SeparableHamiltonian:
    """Bodies in the plane with learned masses and a learned law of the distance, the same for every pair."""
    bodies = data.dim // 2
    torch.manual_seed(seed)
    masses = hf.BodyMasses(bodies, learn=True)
    return hf.SeparableHamiltonian(
        hf.BodyKinetic(bodies, 2, masses=masses), hf.PairPotential(bodies, 2, widths=tuple(widths), masses=masses)
    ).to(data.q.dtype)


class _Field(nn.Module):
    """A vector field trained on derivatives, rows (q, p, dq/dt, dp/dt), with the L2 penalty of the published code."""

    l2 = 0.0

    def loss(self, batch: Tensor) -> Tensor:
        states, slopes = batch.chunk(2, -1)
        penalty = sum((0.5 * self.l2 * (p**2).sum() for p in self.parameters()), batch.new_zeros(()))
        return ((self(states) - slopes) ** 2).mean() + penalty


class _Plain(_Field):
    """A perceptron from the state to its derivative."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.network = _perceptron(2 * dim, width, 2 * dim)

    def forward(self, z: Tensor) -> Tensor:
        slope: Tensor = self.network(z)
        return slope


class _SecondOrder(_Field):
    """dq/dt = p / m with learned m, and a perceptron for the force alone."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.log_rate = nn.Parameter(torch.zeros(dim))
        self.network = _perceptron(2 * dim, width, dim)

    def forward(self, z: Tensor) -> Tensor:
        p = z.chunk(2, -1)[1]
        return torch.cat((self.log_rate.exp() * p, self.network(z)), -1)


class _Hamiltonian(_Field):
    """The published network: one perceptron H(q, p)."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.hamiltonian = hf.JointHamiltonian(hf.MLPPotential(2 * dim, (width, width), init="orthogonal"))

    def forward(self, z: Tensor) -> Tensor:
        dq, dp = self.hamiltonian.gradient(*z.chunk(2, -1))
        return torch.cat((dp, -dq), -1)


def _perceptron(d_in: int, width: int, d_out: int) -> nn.Sequential:
    layers = [nn.Linear(d_in, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, d_out)]
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.orthogonal_(layer.weight)
    return nn.Sequential(*layers)


def seen_states(data: Trajectories, inferred: bool) -> Tensor:
    """States to train on, (n, time, 2 d): as measured, or the integrals of their derivatives nearest to those."""
    states = data.states
    if not inferred or not data.metadata.get("noise"):
        return states
    slopes = torch.cat((data.need("v"), data.need("p_dot")), -1)
    path, _ = integrate(data.own_times(), slopes)
    return path + (states - path).mean(1, keepdim=True)


def _train_published(model: str, chosen: dict[str, Any], task: Task, seed: int, quick: bool) -> Fitted:
    from torchdiffeq import odeint

    data, inferred = task.train, chosen.get("inferred", False)
    states = seen_states(data, inferred)
    rows = torch.cat((states, data.need("v"), data.need("p_dot")), -1).flatten(0, 1)
    build = {"hnn_published": _Hamiltonian, "mlp": _Plain, "second_order_ode": _SecondOrder}[model]
    field = build(data.dim, chosen["width"])
    field.l2 = chosen["l2"]
    # As published in single precision; what is held against our own has theirs.
    rows, field = (rows, field.double()) if inferred else (rows.float(), field)
    iterations = 2 if quick else chosen["iterations"]
    epochs = max(1, round(iterations / -(-len(rows) // chosen["batch_size"])))
    history = fit(
        field, rows, epochs=epochs, validation=None, schedule="constant", seed=seed, progress=False, clip=1e3,
        batch_size=chosen["batch_size"], learning_rate=chosen["learning_rate"],
    )  # fmt: skip
    started = time.process_time()
    if chosen.get("polish") and not quick:
        polish(field, rows, iterations=chosen["polish"], seed=seed)
    seconds = history.seconds + time.process_time() - started
    field.double()

    @torch.no_grad()
    def rollout(q: Tensor, p: Tensor, times: Tensor) -> Tensor:
        start = torch.cat((q, p), -1)
        path: Tensor = odeint(lambda t, z: field(z), start, times, method="dopri5", rtol=1e-8, atol=1e-10)
        return path

    return Fitted(rollout, count_parameters(field), seconds)
