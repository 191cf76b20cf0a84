"""The systems on which Lagrangian networks are judged: their data, and the figures that a fitted model gets there."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from report import Row
from torch import Tensor

import hamflow as hf
from hamflow.steps import COMPOSITIONS, Composition
from hamflow.systems import Trajectories

# Draws that no trial of any setting has seen.
FIRST_DRAW = 1000
GRAVITY = 9.81
SOURCE = "Cranmer et al. (2020), arXiv 2003.04630"
#: The relative difference between accelerations by two polynomials up to which the better one is learned from.
TRUSTED = 1e-3
CHAIN_SOURCE = "Finzi, Wang and Wilson (2020), arXiv 2010.13581, constrained Lagrangian"


@dataclass(frozen=True)
class Fitted:
    """A fitted contender.

    Attributes:
        acceleration: (q, v) -> dv/dt, each (n, d).
        rollout: (q, v, times) -> states (time, n, 2 d).
        params: its size.
        seconds: of training.
        model: where it is one of ours.
    """

    acceleration: Callable[[Tensor, Tensor], Tensor]
    rollout: Callable[[Tensor, Tensor, Tensor], Tensor]
    params: int
    seconds: float
    model: hf.LNN | hf.HNN | None = None


@dataclass(frozen=True)
class Task:
    """What is learned from, and what judges it.

    Attributes:
        train: trajectories with q, v and v_dot.
        judge: a fitted contender -> rows, and arrays to draw.
        constraint: what positions satisfy.
        bodies: for Cartesian coordinates the number of bodies, which have a mass each.
        spacing: of a periodic field on a grid.
    """

    train: Trajectories
    judge: Callable[[Fitted], tuple[list[Row], dict[str, Tensor]]]
    constraint: hf.Constraint | None = None
    bodies: int | None = None
    spacing: float | None = None


def _states(q: Tensor, v: Tensor, a: Tensor, periodic: list[int]) -> Trajectories:
    # Single states, each a trajectory of its own.
    arrays = {"q": q.unsqueeze(1), "v": v.unsqueeze(1), "v_dot": a.unsqueeze(1)}
    return Trajectories(times=torch.zeros(1), metadata={"periodic": periodic, "noise": 0.0}, **arrays)


def _uniform(n: int, low: float, high: float, dim: int, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(n, dim, generator=generator, dtype=torch.float64)


def double_pendulum(seed: int, quick: bool) -> Task:
    """Accelerations at random states; 40 motions of 100 s. Masses and lengths 1, gravity 9.8."""
    system = hf.systems.DoublePendulum(gravity=9.8)
    generator = torch.Generator().manual_seed(FIRST_DRAW + seed)

    def draw(n: int) -> tuple[Tensor, Tensor, Tensor]:
        q, v = _uniform(n, 0, 2 * math.pi, 2, generator), _uniform(n, -10, 10, 2, generator)
        return q, v, system.acceleration(q, system.momentum(q, v))

    train = _states(*draw(2000 if quick else 100_000), [0, 1])
    test = draw(10_000)
    n = 2 if quick else 40
    starts = _uniform(n, 0, 2 * math.pi, 2, generator), _uniform(n, 0, 0.1, 2, generator)
    times = torch.linspace(0, 1 if quick else 100, 11 if quick else 201, dtype=torch.float64)

    def energy(states: Tensor) -> Tensor:
        q, v = states.chunk(2, -1)
        return system(q, system.momentum(q, v))

    def judge(fitted: Fitted) -> tuple[list[Row], dict[str, Tensor]]:
        error = (fitted.acceleration(test[0], test[1]) - test[2]).abs().mean()
        path = fitted.rollout(*starts, times)
        # In per cent of the largest potential energy, 29.4.
        change = 100 * (energy(path) - energy(path[:1])).abs() / 29.4
        rows: list[Row] = [
            {"metric": "energy_error_mean_percent", "value": float(change[-1].mean()), "unit": "%"},
            {"metric": "energy_error_median_percent", "value": float(change[-1].quantile(0.5)), "unit": "%"},
            {"metric": "acceleration_l1", "value": float(error), "unit": "rad/s^2"},
        ]
        angle = torch.linspace(-math.pi, math.pi, 101, dtype=torch.float64)
        places = torch.stack((angle, torch.zeros_like(angle)), -1)
        picture = {"times": times, "path": path[:, 0], "energy_error": change, "angle": angle}
        if isinstance(fitted.model, hf.LNN):
            truth, found = system.mass_matrix(places), fitted.model.mass_matrix(places).detach()
            # A Lagrangian is learned up to a factor: the one that brings the traces together.
            picture |= {"mass": found * (truth.mean(0).trace() / found.mean(0).trace()), "true_mass": truth}
        return rows, picture

    return Task(train, judge)


def relativistic(seed: int, quick: bool) -> Task:
    """A particle near the speed of light c = 1, a constant force g = 1: dv/dt = g (1 - v^2)^(5/2) / (1 + 2 v^2)."""
    generator = torch.Generator().manual_seed(FIRST_DRAW + seed)

    def draw(n: int) -> tuple[Tensor, Tensor, Tensor]:
        q, v = _uniform(n, -1, 1, 1, generator), _uniform(n, -0.99, 0.99, 1, generator)
        return q, v, (1 - v**2) ** 2.5 / (1 + 2 * v**2)

    train = _states(*draw(500 if quick else 10_000), [])
    q, v, a = draw(10_000)

    def judge(fitted: Fitted) -> tuple[list[Row], dict[str, Tensor]]:
        error = (fitted.acceleration(q, v) - a).abs()
        weighted = float((v.abs() * error).sum() / v.abs().sum())
        order = v[:, 0].argsort()[::20]
        found = fitted.acceleration(q, v)[order, 0]
        rows: list[Row] = [{"metric": "weighted_l1", "value": weighted, "unit": "1"}]
        return rows, {"v": v[order, 0], "true": a[order, 0], "found": found}

    return Task(train, judge)


def real_double_pendulum(seed: int, quick: bool) -> Task:
    """The experimental double pendulum, with friction: forecasts of one second from measured states."""
    train, test = _measured_arm("identification", quick), _measured_arm("validation", False)
    q, v = test.q[0], test.need("v")[0]
    ahead = 200
    # Away from the ends, where a derivative is known from one side only.
    starts = torch.arange(50, test.n_times - ahead, 400 if quick else 50)
    truth = torch.stack([q[k : k + ahead + 1] for k in starts.tolist()], 1)
    times = test.own_times()[0, : ahead + 1] - test.own_times()[0, 0]

    def judge(fitted: Fitted) -> tuple[list[Row], dict[str, Tensor]]:
        path = fitted.rollout(q[starts], v[starts], times)[..., :2]
        rows: list[Row] = [
            {"metric": "angle_rmse", "value": float((path - truth).square().mean().sqrt()), "unit": "rad"},
            {"metric": "angle_rmse_after_1s", "value": float((path - truth)[-1].square().mean().sqrt()), "unit": "rad"},
        ]
        if isinstance(fitted.model, hf.LNN):
            rows += _lengths(fitted.model, train.q[0])
            # How small the motions are that are forecast, beside those that train.
            swings = ("angle_rms_of_training", train.q[0]), ("angle_rms_of_forecasts", truth)
            rows += [{"metric": key, "value": float(x.square().mean().sqrt()), "unit": "rad"} for key, x in swings]
        error = (path - truth).square().mean((1, 2)).sqrt()
        return rows, {"times": times, "path": path[:, 0], "true_path": truth[:, 0], "error": error}

    return Task(train, judge)


def _measured_arm(segment: str, quick: bool) -> hf.systems.Trajectories:
    """Positions every 5 ms, and smooth velocities and accelerations of these positions.

    The velocities of the file lag a millisecond or more behind its positions, which spoils forecasts from them. A
    spline sees positions on both sides, so also some that come after the start of a forecast.
    """
    data = hf.systems.load_experimental_pendulum(segment=segment, arms=2, every=5).replace(v=None)
    data = data.between(0, 400) if quick else data
    smooth = hf.systems.estimate_derivatives(hf.systems.estimate_derivatives(data, smooth=True), smooth=True)
    # Positions are a thousand times cleaner than velocities in units of their spread, but derivatives roughen both.
    return smooth.replace(q=data.q, metadata=dict(smooth.metadata) | {"noise": 0.0})


def _lengths(model: hf.LNN, q: Tensor) -> list[Row]:
    """The lengths that a mechanical Lagrangian holds, whatever factor it was learned up to.

    Of two arms with the vertical angles q: M = [[a, b c], [b c, d]] with c = cos(q0 - q1), and torques g k sin(q). The
    distance of the joints is g b / (g k1), and a / k0 and d / k1 are lengths of simple pendulums.
    """
    mass = model.mass_matrix(q).detach()
    lagrangian = model.lagrangian
    assert isinstance(lagrangian, hf.MechanicalLagrangian)
    torques, sine, cosine = lagrangian.potential.gradient(q).detach(), q.sin(), (q[:, 0] - q[:, 1]).cos()
    b = (mass[:, 0, 1] * cosine).sum() / (cosine**2).sum()
    k = (torques * sine).sum(0) / (sine**2).sum(0) / GRAVITY
    design = {"reference": 0.1727, "reference_source": "design of arm 1, github.com/dynamicslab/MultiArm-Pendulum"}
    return [
        {"metric": "distance_of_joints", "value": float(b / k[1]), "unit": "m", **design},
        {"metric": "simple_pendulum_length_0", "value": float(mass[:, 0, 0].mean() / k[0]), "unit": "m"},
        {"metric": "mass_ratio", "value": float(mass[:, 0, 0].mean() * mass[:, 1, 1].mean() / b**2), "unit": "1"},
        {"metric": "simple_pendulum_length_1", "value": float(mass[:, 1, 1].mean() / k[1]), "unit": "m"},
    ]


def chain(links: int, seed: int, quick: bool) -> Task:
    """A chain of rods in Cartesian coordinates: from one piece of five steps of each of 800 motions."""
    generator = torch.Generator().manual_seed(FIRST_DRAW + 100 * links + seed)
    masses, lengths = (0.6 + 0.8 * torch.rand(links, generator=generator, dtype=torch.float64) for _ in range(2))
    rods = hf.RigidLinks([(i - 1, i) for i in range(links)], lengths, points=links, space=2).double()
    weight = torch.stack((torch.zeros_like(masses), GRAVITY * masses), -1).flatten()
    truth = hf.MechanicalLagrangian(
        hf.ConstantMass(2 * links, masses, structure="bodies", space=2),
        hf.FunctionEnergy(lambda q: q @ weight, lambda q: weight.expand_as(q)),
    ).double()
    # Of 100 steps these leave relative errors of 5e-9: the more links, the faster they whip.
    step, substeps = Composition(hf.Rattle(truth, rods), COMPOSITIONS["kahan_li6"]), 2 if links < 3 else 4

    def simulate(n: int, steps: int) -> Tensor:
        angle, turn = (torch.randn(n, links, generator=generator, dtype=torch.float64) for _ in range(2))
        along = lengths.unsqueeze(-1) * torch.stack((angle.sin(), -angle.cos()), -1)
        across = (lengths * turn).unsqueeze(-1) * torch.stack((angle.cos(), angle.sin()), -1)
        q, v = along.cumsum(-2).flatten(-2), across.cumsum(-2).flatten(-2)
        with torch.no_grad():
            q, p = hf.rollout(step, q, truth.momentum(q, v), n_steps=steps, dt=0.03, substeps=substeps).chunk(2, -1)
            return torch.cat((q, truth.velocity(q, p)), -1)

    n = 20 if quick else 800
    long = simulate(n, 10 if quick else 100)
    first = torch.randint(0, len(long) - 5, (n,), generator=generator).tolist()
    train = _trusted(torch.stack([long[k : k + 6, i] for i, k in enumerate(first)]))
    test = simulate(5 if quick else 100, 10 if quick else 100)
    times = 0.03 * torch.arange(len(test), dtype=torch.float64)

    def judge(fitted: Fitted) -> tuple[list[Row], dict[str, Tensor]]:
        path = fitted.rollout(*test[0].chunk(2, -1), times)
        apart = (path - test).norm(dim=-1) / (path.norm(dim=-1) + test.norm(dim=-1))
        relative = apart[1:].clamp_min(1e-16).log().mean(0).exp().mean()
        off = rods(path.chunk(2, -1)[0]).abs().max()
        rows: list[Row] = [
            {"metric": "relative_error_geometric_mean", "value": float(relative), "unit": "1"},
            {"metric": "largest_constraint_error", "value": float(off), "unit": "m"},
        ]
        if isinstance(fitted.model, hf.LNN) and links > 1:
            found = fitted.model.mass_matrix(test[0, :1, : 2 * links]).detach()[0].diagonal()[::2]
            error = ((found / found[0]) / (masses / masses[0]) - 1).abs().max()
            rows.append({"metric": "largest_mass_error_percent", "value": float(100 * error), "unit": "%"})
        return rows, {"times": times, "path": path[:, 0], "true_path": test[:, 0], "error": apart.mean(1)}

    return Task(train, judge, rods, links)


def _trusted(states: Tensor) -> Trajectories:
    """The inner four of six states, (n, 6, 2 d), .03 s apart, where polynomials agree on the accelerations.

    Where a rod whips round, a polynomial through all six misses it; one through the inner four would by far more.
    """

    def through(nodes: slice) -> Trajectories:
        q, v = states[:, nodes].chunk(2, -1)
        times = 0.03 * torch.arange(6, dtype=torch.float64)[nodes]
        return hf.systems.estimate_derivatives(Trajectories(times=times, q=q, v=v), method="hermite")

    close, wide = through(slice(1, 5)), through(slice(0, 6)).need("v_dot")[:, 1:5]
    keep = (wide - close.need("v_dot")).norm(dim=-1) < TRUSTED * wide.norm(dim=-1)
    return _states(close.q[keep], close.need("v")[keep], wide[keep], [])


def wave(seed: int, quick: bool) -> Task:
    """The wave equation with c = 1: accelerations of fields on 10 points, motions of longer fields on 100."""
    short, long = hf.systems.WaveEquation(points=10, length=1.0), hf.systems.WaveEquation(points=100, length=10.0)
    generator = torch.Generator().manual_seed(FIRST_DRAW + seed)
    q, p = short.initial_states(50 if quick else 2000, generator, modes=5)
    # To a stencil of ten points the long waves of a hundred are a mean that varies.
    means = torch.randn(2, len(q), 1, generator=generator, dtype=torch.float64)
    q, p = q + 2 * means[0], p + 2 * short.spacing * means[1]
    train = _states(q, short.velocity(q, p), short.acceleration(q, p), [])
    q, p = long.initial_states(2 if quick else 20, generator, modes=10)
    times = torch.linspace(0, 0.2 if quick else 10, 3 if quick else 101, dtype=torch.float64)
    dt = float(times[1])
    truth = long.simulate(len(q), len(times) - 1, dt, initial=(q, p)).states.transpose(0, 1)
    start = truth[0, :, :100], long.velocity(truth[0, :, :100], truth[0, :, 100:])

    def judge(fitted: Fitted) -> tuple[list[Row], dict[str, Tensor]]:
        path = fitted.rollout(*start, times)
        phi, rate = path.chunk(2, -1)
        energy = long(phi, long.momentum(phi, rate))
        change = 100 * (energy / energy[:1] - 1).abs()
        apart = (phi - truth[..., :100]).norm(dim=-1) / truth[..., :100].norm(dim=-1)
        rows: list[Row] = [
            {"metric": "energy_error_mean_percent", "value": float(change[-1].mean()), "unit": "%"},
            {"metric": "energy_error_median_percent", "value": float(change[-1].quantile(0.5)), "unit": "%"},
            {"metric": "relative_error_at_end", "value": float(apart[-1].mean()), "unit": "1"},
        ]
        return rows, {"times": times, "path": path[:, 0], "true_path": truth[:, 0], "energy_error": change}

    return Task(train, judge, spacing=short.spacing)


TASKS: dict[str, Callable[[int, bool], Task]] = {
    "double_pendulum": double_pendulum,
    "relativistic": relativistic,
    "wave": wave,
    "real_double_pendulum": real_double_pendulum,
    **{f"chain_{n}": lambda seed, quick, n=n: chain(n, seed, quick) for n in (1, 2, 3)},  # type: ignore[misc]
}

#: For (case, model, metric): the bar, then what was published, with its source.
BARS: dict[tuple[str, str, str], dict[str, Any]] = {
    ("double_pendulum", "lnn", "energy_error_mean_percent"): {
        "bar": 0.43,
        "reference": 0.43,
        "reference_source": SOURCE,
    },
    ("double_pendulum", "lnn", "energy_error_median_percent"): {"bar": 0.1},
    ("double_pendulum", "lnn", "acceleration_l1"): {"bar": 0.069, "reference": 0.0689, "reference_source": SOURCE},
    ("double_pendulum", "mlp", "energy_error_mean_percent"): {"reference": 8.0, "reference_source": SOURCE},
    ("double_pendulum", "mlp", "acceleration_l1"): {"reference": 0.0739, "reference_source": SOURCE},
    ("relativistic", "lnn", "weighted_l1"): {"bar": 7.9e-4, "reference": 7.9e-4, "reference_source": SOURCE},
    ("relativistic", "hnn", "weighted_l1"): {"reference": 0.41, "reference_source": SOURCE},
    ("relativistic", "hnn_momentum", "weighted_l1"): {"reference": 2.4e-4, "reference_source": SOURCE},
    **{
        (f"chain_{n}", "lnn", "relative_error_geometric_mean"): {
            "bar": bar,
            "reference": published,
            "reference_source": CHAIN_SOURCE,
        }
        for n, bar, published in ((1, 1e-4, 7.4e-5), (2, 2e-4, 1.8e-4), (3, 2e-3, 2.0e-3))
    },
}
