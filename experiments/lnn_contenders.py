"""What is held against each other on positions and velocities: Lagrangian networks, and models that know less."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from lnn_tasks import Fitted, Task
from peers import count_parameters
from torch import Tensor, nn

import hamflow as hf
from hamflow.energies.features import AngleFeatures
from hamflow.training import fit, polish, split_rows

MODELS = ("lnn", "lnn_general", "lnn_uniform", "mlp", "hnn", "hnn_momentum")
CHAINS = ("chain_1", "chain_2", "chain_3")


def applies(model: str, case: str) -> bool:
    """Whether a contender has a row of its own in a case."""
    if model == "hnn_momentum":
        return case == "relativistic"
    if model == "lnn_general":
        return case == "double_pendulum"
    if model == "lnn_uniform":
        return case in CHAINS
    # An energy of ten points of a field is none of a hundred.
    return model != "hnn" or case != "wave"


def settings(model: str, case: str) -> dict[str, Any]:
    """Everything that decides how a contender is built and trained in a case."""
    training: dict[str, Any] = {"epochs": 150, "batch_size": 512, "learning_rate": 5e-3, "polish": 0}
    build: dict[str, Any] = {"widths": [64, 64]}
    if case == "double_pendulum":
        # Equal parameters: a network of both arguments is as large as two of one.
        build = {"widths": [64, 64] if model == "lnn" else [92, 92], "dtype": "float32"}
        training |= {"epochs": 100}
    if case == "relativistic":
        build = {"widths": [32, 32], "dtype": "float64"}
        training |= {"epochs": 600, "polish": 4000}
    if case == "real_double_pendulum":
        build = {"widths": [32, 32] if model == "lnn" else [46, 46], "dtype": "float64"}
        training |= {"epochs": 200, "polish": 100}
    if case in CHAINS:
        build = {"widths": [64, 64], "dtype": "float64"}
        build |= {"ridges": 8} if model == "lnn" else {"ridges": 0} if model == "lnn_uniform" else {}
        training |= {"epochs": 100, "polish": 1500}
    if case == "wave":
        build = {"widths": [32, 32], "dtype": "float64"}
        training |= {"epochs": 60, "polish": 100}
    if model in ("lnn", "lnn_uniform"):
        names = {"double_pendulum": "mechanical", "real_double_pendulum": "mechanical", "relativistic": "general"}
        build |= {
            "lagrangian": names.get(case, "bodies" if case in CHAINS else "field"),
            "friction": case == "real_double_pendulum",
        }
    elif model == "lnn_general":
        build |= {"lagrangian": "general", "friction": False}
    return {"model": build, "fit": training}


def train(model: str, case: str, task: Task, seed: int, quick: bool) -> Fitted:
    """Fit a contender on the training data of a case."""
    chosen = settings(model, case)
    build, training = chosen["model"], dict(chosen["fit"])
    if quick:
        training |= {"epochs": 2, "polish": 0}
    dtype = getattr(torch, build["dtype"])
    torch.manual_seed(seed)
    if model.startswith("lnn"):
        return _train_lnn(case, build, training, dtype, task, seed)
    if model.startswith("hnn"):
        return _train_hnn(build, training, dtype, task, seed, momentum=model == "hnn_momentum")
    return _train_mlp(build, training, dtype, task, seed)


class BodyPotentials(hf.Energy):
    r"""Potentials of single bodies in the plane, :math:`V(q) = \sum_i (w_i \cdot x_i + V_i(x_i))`.

    A uniform field, which a network would not carry on beyond its data, and a network each; without ``ridges`` the
    field alone.
    """

    def __init__(self, bodies: int, ridges: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2 * bodies))
        self.bodies = nn.ModuleList(hf.RidgePotential(2, ridges) for _ in range(bodies if ridges else 0))

    def forward(self, x: Tensor, t: Any = 0.0) -> Tensor:
        return torch.stack([x @ self.weight, *(part(y) for part, y in self._each(x))]).sum(0)

    def gradient(self, x: Tensor, t: Any = 0.0) -> Tensor:
        slopes = [part.gradient(y) for part, y in self._each(x)]
        return self.weight + torch.cat(slopes, -1) if slopes else self.weight.expand_as(x)

    def _each(self, x: Tensor) -> list[tuple[Any, Tensor]]:
        return list(zip(self.bodies, x.unflatten(-1, (-1, 2)).unbind(-2), strict=False))


def _train_lnn(
    case: str, build: dict[str, Any], training: dict[str, Any], dtype: torch.dtype, task: Task, seed: int
) -> Fitted:
    lagrangian: Any = build["lagrangian"]
    if lagrangian == "bodies":
        # The mass of each body is learned, and its potential.
        assert task.bodies is not None
        mass = hf.ConstantMass(2 * task.bodies, structure="bodies", space=2, learn=True)
        lagrangian = hf.MechanicalLagrangian(mass, BodyPotentials(task.bodies, build["ridges"])).to(dtype)
    elif lagrangian == "field":
        assert task.spacing is not None
        lagrangian = hf.FieldLagrangian(task.spacing, local=True, widths=build["widths"]).to(dtype)
        lagrangian.set_units(task.train.q.flatten(0, 1), task.train.need("v").flatten(0, 1))
    chain, data = case in CHAINS, task.train
    # Arms and chains whip: of a true law these steps change the energy by 1e-5 of itself, or states by 1e-5, at most.
    longest = {"double_pendulum": 0.0125}.get(case, 0.01 if chain else 0.05)
    composition = "triple_jump4" if longest < 0.05 else "kahan_li6"
    model = hf.LNN(
        data.dim, lagrangian=lagrangian, widths=build["widths"], friction=build["friction"], constraint=task.constraint,
        rule="trapezoidal" if chain else "midpoint", composition=composition, seed=seed,
    )  # fmt: skip
    start = time.process_time()
    model.fit(data, learn_from="derivatives", dtype=dtype, seed=seed, progress=False, **training)
    seconds = time.process_time() - start
    model.double()

    def rollout(q: Tensor, v: Tensor, times: Tensor) -> Tensor:
        dt = float(times[1] - times[0])
        # A field may be carried on more points than it was learned on.
        carrier = model if q.shape[-1] == model.dim else hf.LNN(q.shape[-1], lagrangian=model.lagrangian)
        return carrier.rollout(q, v, n_steps=len(times) - 1, dt=dt, substeps=max(1, round(dt / longest)))

    def acceleration(q: Tensor, v: Tensor) -> Tensor:
        return model.acceleration(q, v).detach()

    return Fitted(acceleration, rollout, count_parameters(model), seconds, model)


class _Acceleration(nn.Module):
    """A perceptron from position and velocity to the acceleration, angles by cosine and sine."""

    def __init__(self, periodic: Sequence[int], q: Tensor, v: Tensor, a: Tensor, widths: list[int]) -> None:
        super().__init__()
        self.features = AngleFeatures(periodic, q.shape[-1], pairs=True)
        self.sizes = (q.shape[-1], v.shape[-1], a.shape[-1])
        sizes = [self.features.size + v.shape[-1], *widths, a.shape[-1]]
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), nn.Tanh()]
        self.network = nn.Sequential(*layers[:-1])
        self.register_buffer("speed", v.square().mean(0).sqrt())
        self.register_buffer("size", a.square().mean(0).sqrt())

    def forward(self, q: Tensor, v: Tensor) -> Tensor:
        found: Tensor = self.size * self.network(torch.cat((self.features(q), v / self.speed), -1))
        return found

    def loss(self, batch: Tensor) -> Tensor:
        q, v, a = batch.split(self.sizes, -1)
        return (((self(q, v) - a) / self.size) ** 2).mean()


def _train_mlp(build: dict[str, Any], training: dict[str, Any], dtype: torch.dtype, task: Task, seed: int) -> Fitted:
    data = task.train
    local = _stencils if task.spacing is not None else _as_it_is
    q, v = (local(x.flatten(0, 1)) for x in (data.q, data.need("v")))
    a = data.need("v_dot").flatten(0, 1)
    q, v, a = (x.flatten(0, 1) for x in (q, v, a.unsqueeze(-1))) if task.spacing is not None else (q, v, a)
    field = _Acceleration(data.periodic, q, v, a, build["widths"]).to(dtype)
    # As many rows held out, and for as much, as the Lagrangian networks do.
    rows, held_out = split_rows(torch.cat((q, v, a), -1).to(dtype), 0.1, seed)
    start = time.process_time()
    run = {name: training[name] for name in ("epochs", "batch_size", "learning_rate")}
    fit(field, rows, validation=held_out, seed=seed, progress=False, **run)
    if training["polish"]:
        polish(field, rows, iterations=training["polish"], validation=held_out, seed=seed)
    seconds = time.process_time() - start
    field.double()

    @torch.no_grad()
    def acceleration(q: Tensor, v: Tensor) -> Tensor:
        found: Tensor = field(local(q), local(v))
        return found if task.spacing is None else found.squeeze(-1)

    return Fitted(acceleration, _integrated(acceleration), count_parameters(field), seconds)


def _as_it_is(x: Tensor) -> Tensor:
    return x


def _stencils(x: Tensor) -> Tensor:
    # Each point of a periodic field with its two neighbours, (*batch, points, 3).
    return torch.stack((x.roll(1, -1), x, x.roll(-1, -1)), -1)


def _train_hnn(
    build: dict[str, Any], training: dict[str, Any], dtype: torch.dtype, task: Task, seed: int, *, momentum: bool
) -> Fitted:
    data = task.train
    v, a = data.need("v"), data.need("v_dot")
    if momentum:
        # That of L = (1 - v^2)^(-1/2) - 1 + q: p = v / (1 - v^2)^(3/2), whose rate is the force, 1.
        data = data.replace(p=v * (1 - v**2) ** -1.5, p_dot=torch.ones_like(v), v_dot=None)
    else:
        data = data.replace(p=v, p_dot=a, v_dot=None)
    model = hf.HNN(data.dim, energy="joint", widths=build["widths"], seed=seed)
    start = time.process_time()
    model.fit(data, learn_from="derivatives", dtype=dtype, seed=seed, progress=False, **training)
    seconds = time.process_time() - start
    model.double()

    def acceleration(q: Tensor, v: Tensor) -> Tensor:
        if not momentum:
            return model.vector_field(q, v)[1].detach()
        p = v * (1 - v**2) ** -1.5
        force = model.vector_field(q, p)
        return torch.func.jvp(lambda x, y: model.vector_field(x, y)[0], (q, p), force)[1].detach()

    @torch.no_grad()
    def rollout(q: Tensor, v: Tensor, times: Tensor) -> Tensor:
        return _odeint(lambda z: torch.cat(model.vector_field(*z.chunk(2, -1)), -1), torch.cat((q, v), -1), times)

    return Fitted(acceleration, rollout, count_parameters(model), seconds, model)


def _integrated(acceleration: Any) -> Any:
    def rollout(q: Tensor, v: Tensor, times: Tensor) -> Tensor:
        def slope(z: Tensor) -> Tensor:
            a, b = z.chunk(2, -1)
            return torch.cat((b, acceleration(a, b)), -1)

        return _odeint(slope, torch.cat((q, v), -1), times)

    return rollout


def _odeint(slope: Any, start: Tensor, times: Tensor) -> Tensor:
    from torchdiffeq import odeint

    path: Tensor = odeint(lambda t, z: slope(z), start, times, method="dopri5", rtol=1e-8, atol=1e-10)
    return path
