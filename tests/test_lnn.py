"""Learned Lagrangians: known motions, the residual, noise, friction, constraints, conversions, and what is refused."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor, nn

import hamflow as hf
from hamflow.energies import ConstantMass
from hamflow.models.units import Units
from hamflow.systems import DoublePendulum, HenonHeiles, MassSpring, Pendulum, RelativisticParticle, Trajectories

F64 = torch.float64
NAMED = pytest.mark.parametrize("lagrangian", ["mechanical", "constant_mass", "general"])
SOURCES = pytest.mark.parametrize("learn_from", ["derivatives", "residual", "states"])
SPRING = MassSpring(mass=0.5, stiffness=3.0)  # q'' = -6 q
PENDULUM = Pendulum(mass=0.5, gravity=6.0)  # q'' = -6 sin q
ARM = DoublePendulum((1.0, 1.0), (1.0, 1.0), gravity=5.0)
EXACT = {"derivatives": True, "n_trajectories": 6, "n_steps": 20, "dt": 0.1}


class Known(hf.Lagrangian):
    """(v^2 - k q^2) / 2 with k learned."""

    def __init__(self, k: float = 1.0) -> None:
        super().__init__()
        self.k = nn.Parameter(torch.tensor(k))

    def forward(self, q: Tensor, v: Tensor, t: Any = 0.0) -> Tensor:
        return 0.5 * (v**2 - self.k * q**2).sum(-1)


def fit(data: Any, lagrangian: Any = "mechanical", **settings: Any) -> hf.LNN:
    own = {
        name: settings.pop(name)
        for name in ("friction", "constraint", "rule", "composition", "periodic", "regulariser", "seed", "standardise")
        if name in settings
    }
    dim = (data if isinstance(data, Trajectories) else data[0]).dim
    model = hf.LNN(dim, lagrangian=lagrangian, widths=settings.pop("widths", (16,)), **own)
    return model.fit(data, **{"epochs": 20, "learning_rate": 0.02, "window": 5, "progress": False} | settings)


def only(data: Trajectories, *names: str) -> Trajectories:
    return data.replace(**{name: None for name in data.given if name not in names})


def grid(width: float = 1.0) -> tuple[Tensor, Tensor]:
    axis = torch.linspace(-width, width, 7, dtype=F64)
    q, v = (x.reshape(-1, 1) for x in torch.meshgrid(axis, axis, indexing="ij"))
    return q, v


# What is learned.


@NAMED
@pytest.mark.parametrize(("learn_from", "bound"), [("derivatives", 0.05), ("residual", 0.1), ("states", 0.15)])
def test_the_accelerations_of_a_pendulum(lagrangian: str, learn_from: str, bound: float) -> None:
    """They are up to 6; those of no force at all would be off by 5."""
    data = PENDULUM.simulate(12, 30, dt=0.1, derivatives=True)
    states = learn_from == "states"
    model = fit(data, lagrangian, learn_from=learn_from, polish=15 if states else 100, composition=None)
    q, v = grid()
    assert (model.acceleration(q, v) + 6 * q.sin()).abs().max() < bound
    # Periodic because the trajectories say so.
    assert model.angles == (0,)
    torch.testing.assert_close(model.acceleration(q + 2 * math.pi, v), model.acceleration(q, v), rtol=1e-9, atol=1e-9)
    # The energy is right up to a factor, which the mass matrix tells, and a constant.
    energy = model.energy(q, v) / model.mass_matrix(0 * q[:1])[0, 0, 0]
    true = 0.5 * v[:, 0] ** 2 - 6 * q[:, 0].cos()
    assert ((energy - energy.mean()) - (true - true.mean())).abs().max() < 2 * bound


def test_a_double_pendulum() -> None:
    """Its mass matrix up to one factor, and its motion for as long as the data and as long again."""
    data = ARM.simulate(12, 40, dt=0.05, derivatives=True)
    model = fit(only(data, "q", "v", "v_dot"), widths=(32,), epochs=60, polish=150)
    q = data.q[:, ::10].flatten(0, 1)
    found, c = model.mass_matrix(q).detach(), (q[:, 0] - q[:, 1]).cos()
    true = torch.stack((2 + 0 * c, c, c, 1 + 0 * c), -1).view(-1, 2, 2)
    factor = (found * true).sum() / (true * true).sum()
    assert (found / factor - true).abs().max() < 0.15
    long = ARM.simulate(initial=(data.q[:3, 0], data.need("p")[:3, 0]), n_steps=60, dt=0.05)
    path = model.rollout(long.q[:, 0], long.need("v")[:, 0], n_steps=60, dt=0.05).movedim(0, 1)
    assert (path[..., :2] - long.q).abs().max() < 0.1
    energy = model.energy(*path.chunk(2, -1)).detach() / factor
    assert (energy - energy[:, :1]).abs().max() < 1e-2


@SOURCES
def test_a_lagrangian_of_ones_own_is_learned_in_place(learn_from: str) -> None:
    own = Known()
    model = fit(SPRING.simulate(**EXACT), own, learn_from=learn_from, polish=30)  # type: ignore[arg-type]
    assert model.lagrangian is own
    assert own.k.item() == pytest.approx(6.0, rel=1e-4 if learn_from == "states" else 1e-9)


def test_known_gravity_and_an_unknown_spring() -> None:
    """A ball on a spring: the mass and gravity are known."""
    data = SPRING.simulate(**EXACT)  # type: ignore[arg-type]
    low = data.replace(q=data.q - 9.81 / 6)
    learned = hf.MechanicalLagrangian(ConstantMass(1), hf.RidgePotential(1, width=8))
    both = learned + hf.FunctionLagrangian(lambda q, v: -9.81 * q.sum(-1))
    model = fit(low, both, polish=60)
    q = low.q[:, 5]
    spring = learned.potential.gradient(q).detach()
    assert (spring - 6 * q).abs().max() < 0.05
    assert (model.acceleration(q, 0 * q) + 6 * q + 9.81).abs().max() < 0.05


def test_relativity_is_beyond_canonical_guesses() -> None:
    """The kinetic energy is no quadratic form: only the general network has it."""
    system = RelativisticParticle(mass=1.0, c=1.0, stiffness=1.0)
    data = system.simulate(10, 30, dt=0.1, derivatives=True)
    q, v = data.q[:, ::5].flatten(0, 1), data.need("v")[:, ::5].flatten(0, 1)
    true = data.need("v_dot")[:, ::5].flatten(0, 1)
    errors = [
        float((fit(data, name, polish=80).acceleration(q, v) - true).abs().max()) for name in ("general", "mechanical")
    ]
    assert errors[0] < 0.02 < errors[1]


@NAMED
def test_momenta_are_not_looked_at(lagrangian: str) -> None:
    data = ARM.simulate(**EXACT)  # type: ignore[arg-type]
    wrong = data.replace(p=torch.zeros_like(data.q), p_dot=torch.ones_like(data.q))
    for learn_from in ("derivatives", "residual", "states"):
        runs = [
            fit(x, lagrangian, learn_from=learn_from, epochs=3, composition=None).history.train for x in (data, wrong)
        ]
        assert runs[0] == runs[1]


@NAMED
@SOURCES
def test_units_do_not_matter(lagrangian: str, learn_from: str) -> None:
    data = only(HenonHeiles().simulate(6, 15, dt=0.1, derivatives=True), "q", "v", "v_dot")
    size, time = torch.tensor([1e3, 1e-2], dtype=F64), 20.0
    other = data.replace(
        times=time * data.times, q=size * data.q, v=size / time * data.need("v"),
        v_dot=size / time**2 * data.need("v_dot"),
    )  # fmt: skip
    settings: dict[str, Any] = {"learn_from": learn_from, "epochs": 4, "composition": None, "friction": True}
    runs = [fit(x, lagrangian, **settings).history for x in (data, other)]
    assert runs[1].start == pytest.approx(runs[0].start, rel=1e-6)
    assert runs[1].train == pytest.approx(runs[0].train, rel=1e-5)


# The residual.


def residual(lagrangian: hf.Lagrangian, data: tuple[Tensor, Tensor, Tensor], **settings: Any) -> float:
    q, v, a = data
    units = Units(torch.ones(q.shape[-1], dtype=F64), torch.tensor([1.0, 2.0, 0.5, 3.0], dtype=F64)[: q.shape[-1]])
    model = hf.LNN(q.shape[-1], lagrangian=lagrangian, **settings)
    return float(model.residual(q, v, v, a, 0 * q[:, :1], units).mean())


def test_the_trivial_minimum_of_the_residual_is_none() -> None:
    """A factor of L changes nothing, to any size; and no direction of M can be given up."""
    data = ARM.simulate(4, 10, derivatives=True, noise=0.1)
    rows = tuple(x.flatten(0, 1) for x in (data.q, data.need("v"), data.need("v_dot")))
    true = hf.LegendreLagrangian(ARM)
    losses = [
        residual(hf.FunctionLagrangian(lambda q, v, c=c: c * true(q, v)), rows)
        for c in (1.0, -3.0, 1e-8, 1e8)  # type: ignore[misc, arg-type]
    ]
    assert losses[0] > 1e-3
    assert losses == pytest.approx([losses[0]] * 4, rel=1e-9)

    def well(weights: list[float], share: float) -> hf.Lagrangian:
        m = torch.tensor(weights, dtype=F64)
        return hf.FunctionLagrangian(lambda q, v: 0.5 * (m * v**2).sum(-1) - share * 0.5 * (q**2).sum(-1))

    q, v = torch.randn(2, 50, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    noisy = (q, v, -q + 0.1 * v)
    exact = residual(well([1.0, 1.0], 1.0), noisy)  # type: ignore[arg-type]
    shrunk = [residual(well([1.0, m], 1.0), noisy) for m in (0.3, 0.03, 1e-3)]  # type: ignore[arg-type]
    both = [residual(well([m, m], 1.0), noisy) for m in (0.3, 0.03, 1e-3)]  # type: ignore[arg-type]
    assert exact < shrunk[0] < shrunk[1] < shrunk[2] and exact < both[0] < both[1] < both[2]
    assert residual(well([1.0, 1.0], 0.0), noisy) > 10 * exact  # type: ignore[arg-type]


def test_the_residual_under_a_constraint() -> None:
    """On the tangent space alone: multipliers, and masses that no motion feels, change nothing."""
    rods = hf.RigidLinks([(-1, 0), (0, 1)], [1.0, 0.8], points=2, space=2).double()
    q, v, a = torch.randn(3, 20, 4, generator=torch.Generator().manual_seed(0), dtype=F64)
    free = hf.FunctionLagrangian(lambda x, u: (u**2).sum(-1) + 0.3 * u[..., 0] * u[..., 2] - 5 * x[..., 1])
    sizes = torch.tensor([1.0, 2.0, 0.5, 3.0], dtype=F64)
    found = residual(free, (q, v, a), constraint=rods)
    terms, jacobian = free.terms(q, v), rods.jacobian(q) * sizes
    basis = torch.linalg.svd(jacobian).Vh[:, 2:]  # (n, 2, 4)
    r = sizes * ((terms.mass @ a.unsqueeze(-1)).squeeze(-1) + terms.transport - terms.force)
    inside = basis @ (sizes.unsqueeze(-1) * terms.mass * sizes) @ basis.mT
    each = (basis @ r.unsqueeze(-1)).squeeze(-1).square().sum(-1) / 4 / torch.linalg.det(inside)
    assert found == pytest.approx(float(each.mean()), rel=1e-10)
    heavy = hf.FunctionLagrangian(lambda x, u: free(x, u) + 7 * rods.along(x, u).square().sum(-1))
    turned = v - (torch.linalg.pinv(rods.jacobian(q)) @ rods.along(q, v).unsqueeze(-1)).squeeze(-1)
    right = a - (torch.linalg.pinv(rods.jacobian(q)) @ (rods.along(q, a) + rods.bend(q, turned)).unsqueeze(-1))[..., 0]
    plain = residual(free, (q, turned, right), constraint=rods)
    assert residual(heavy, (q, turned, right), constraint=rods) == pytest.approx(plain, rel=1e-8)
    exact = hf.energies.constrained_acceleration(free.terms(q, turned), rods, q, turned)
    assert residual(free, (q, turned, exact), constraint=rods) < 1e-20 < plain


# Noise, missing velocities, gaps.


@pytest.mark.parametrize("learn_from", ["derivatives", "residual", "states"])
def test_noise_is_seen_through(learn_from: str) -> None:
    data = SPRING.simulate(**EXACT | {"n_trajectories": 12}, noise=0.2)  # type: ignore[arg-type]
    rates = []
    for noise in (None, 0.0):
        own = Known()
        fit(data, own, learn_from=learn_from, noise=noise, polish=30, window=10, composition=None, rule="trapezoidal")
        rates.append(float(own.k.detach()))
    # From states the step of dt = 0.1 shifts the frequency by half a per cent.
    assert rates[0] == pytest.approx(6.0, rel=0.05 if learn_from == "states" else 5e-3)
    assert abs(rates[1] - 6) > 3 * abs(rates[0] - 6), "errors in variables"


def test_velocities_are_inferred() -> None:
    own = Known()
    data = only(SPRING.simulate(10, 20, dt=0.1), "q")
    fit(data, own, polish=30)
    assert own.k.item() == pytest.approx(6.0, rel=1e-3)
    with pytest.raises(hf.InputError, match=r"the trajectories have q, expected v and v_dot: hf\.systems\.estimate"):
        fit(data, own, learn_from="residual")


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_missing_frames_and_a_pause(noise: float) -> None:
    data = MassSpring().simulate(3, 500, dt=0.05, noise=noise)
    keep = torch.cat([torch.arange(*part) for part in ((0, 40), (54, 90), (450, 501))])
    gaps = data.replace(times=data.times[keep], **{name: getattr(data, name)[:, keep] for name in data.given})
    own = Known(0.5)
    fit(gaps, own, rule="trapezoidal", composition=None, window=10, polish=20)
    assert own.k.item() == pytest.approx(1.0, abs=0.02 if noise else 1e-3)


def test_lengths_may_differ() -> None:
    parts = [SPRING.simulate(**EXACT | {"n_steps": n, "seed": n}) for n in (5, 20, 30)]  # type: ignore[arg-type]
    for learn_from in ("derivatives", "residual", "states"):
        own = Known()
        fit(parts, own, learn_from=learn_from, polish=20)
        assert own.k.item() == pytest.approx(6.0, rel=1e-3)


# Friction.


def damped(gamma: float = 0.3) -> Trajectories:
    """A damped pendulum, q'' = -6 sin q - gamma q', by DOP853."""
    times = np.linspace(0, 4, 41)
    paths = []
    for start in ([1.5, 0.0], [-2.0, 1.0], [0.5, -2.0]):

        def slope(_: float, z: Any) -> list[float]:
            return [z[1], -6 * math.sin(z[0]) - gamma * z[1]]

        paths.append(solve_ivp(slope, (0, 4), start, "DOP853", times, rtol=1e-11, atol=1e-11).y.T)
    z = torch.tensor(np.stack(paths))
    acceleration = -6 * z[..., :1].sin() - gamma * z[..., 1:]
    return Trajectories(times=times, q=z[..., :1], v=z[..., 1:], v_dot=acceleration, metadata={"periodic": [0]})


@pytest.mark.parametrize(("learn_from", "bound"), [("derivatives", 0.01), ("residual", 0.01), ("states", 0.03)])
def test_friction_is_learned(learn_from: str, bound: float) -> None:
    data, polish = damped(), 15 if learn_from == "states" else 100
    model = fit(data, "constant_mass", friction=True, learn_from=learn_from, polish=polish, composition=None)
    rate = model.friction / model.mass_matrix(torch.zeros(1))
    assert float(rate.detach()) == pytest.approx(0.3, rel=bound)
    path = model.rollout(data.q[:, 0], data.need("v")[:, 0], n_steps=40, dt=0.1, substeps=2)
    assert (path[..., :1] - data.q.transpose(0, 1)).abs().max() < 0.05
    energy = model.energy(*path.chunk(2, -1))
    assert bool((energy[-1] < energy[0]).all())


@pytest.mark.parametrize("learn_from", ["derivatives", "residual"])
def test_friction_between_coordinates(learn_from: str, float64: torch.dtype) -> None:
    """C is a matrix: what rubs is the difference of two rates."""
    matrix = torch.tensor([[0.5, -0.4], [-0.4, 0.6]])
    q, v = torch.randn(2, 60, 1, 2, generator=torch.Generator().manual_seed(0))
    data = Trajectories(times=[0.0], q=q, v=v, v_dot=-q - v @ matrix)
    model = fit(data, Known(), friction=True, learn_from=learn_from, polish=60)
    torch.testing.assert_close(model.friction, matrix, rtol=0, atol=1e-4)


# Constraints.


def hung(n: int, steps: int) -> Trajectories:
    """Motions of a pendulum of length 0.7 in the plane: places, not angles."""
    length = 0.7
    data = Pendulum(length=length).simulate(n, steps, dt=0.05, derivatives=True)
    a, w, w_dot = data.q, data.need("v"), data.need("v_dot")
    out, along = (torch.cat(x, -1) for x in ((a.sin(), -a.cos()), (a.cos(), a.sin())))
    return Trajectories(
        times=data.times, q=length * out, v=length * w * along, v_dot=length * (w_dot * along - w**2 * out)
    )


@SOURCES
def test_a_pendulum_in_cartesian_coordinates(learn_from: str, float64: torch.dtype) -> None:
    data = hung(8, 20)
    rod = hf.RigidLinks([(-1, 0)], 0.7, points=1, space=2)
    polish = 10 if learn_from == "states" else 80
    model = fit(
        data,
        "constant_mass",
        constraint=rod,
        learn_from=learn_from,
        polish=polish,
        composition=None,
        rule="trapezoidal",
    )
    q, v = data.q[:, ::4].flatten(0, 1), data.need("v")[:, ::4].flatten(0, 1)
    error = model.acceleration(q, v) - data.need("v_dot")[:, ::4].flatten(0, 1)
    assert error.abs().max() < (0.3 if learn_from == "states" else 0.1), "of up to 30"
    path = model.rollout(data.q[:, 0], data.need("v")[:, 0], n_steps=20, dt=0.05, substeps=2)
    assert (path[..., :2] - data.q.transpose(0, 1)).abs().max() < 0.03
    assert rod(path[..., :2]).abs().max() < 1e-10
    assert rod.along(*path.chunk(2, -1)).abs().max() < 1e-10


def test_a_pause_under_a_constraint(float64: torch.dtype) -> None:
    data = hung(3, 60)
    keep = torch.cat((torch.arange(20), torch.arange(50, 61)))
    gaps = data.replace(times=data.times[keep], **{name: getattr(data, name)[:, keep] for name in data.given})
    model = fit(
        gaps, "constant_mass", constraint=hf.RigidLinks([(-1, 0)], 0.7, points=1, space=2), learn_from="states",
        epochs=6, composition=None,
    )  # fmt: skip
    assert min(model.history.validation) < model.history.start and not model.history.notes


def test_states_off_the_constraint_are_moved_onto_it(float64: torch.dtype) -> None:
    rod = hf.RigidLinks([(-1, 0)], 0.7, points=1, space=2)
    model = hf.LNN(2, lagrangian="constant_mass", widths=(8,), constraint=rod)
    q, v = torch.tensor([[0.72, 0.01], [0.5, 0.5]]), torch.tensor([[0.3, 1.0], [0.0, 1.0]])
    path = model.rollout(q, v, n_steps=3, dt=0.05)
    assert rod(path[..., :2]).abs().max() < 1e-12 and rod.along(*path.chunk(2, -1)).abs().max() < 1e-12
    assert (path[0, :, :2] - q).abs().max() < 0.05
    with pytest.raises(hf.SolveError, match="Rattle"):
        model.rollout([0.0, 0.0], [1.0, 0.0], n_steps=3, dt=0.05)


# What the learned Lagrangian tells.


@NAMED
def test_momenta_velocities_energies(lagrangian: str) -> None:
    model = hf.LNN(2, lagrangian=lagrangian, widths=(8,), seed=1).double()
    q, v = torch.randn(2, 3, 5, 2, dtype=F64)
    p = model.momentum(q, v)
    torch.testing.assert_close(model.velocity(q, p), v, rtol=1e-10, atol=1e-10)
    value = model.lagrangian(q, v)
    torch.testing.assert_close(model.energy(q, v), (p * v).sum(-1) - value)
    (slope,) = torch.autograd.grad(model.lagrangian(q, v.requires_grad_()).sum(), v)
    torch.testing.assert_close(p, slope)
    assert model.mass_matrix(q).shape == model.mass_matrix(q, v).shape == (3, 5, 2, 2)
    assert torch.equal(model.mass_matrix(q), model.mass_matrix(q, 0 * v))
    assert model.acceleration([0.1, 0.2], [0, 1]).shape == (2,)
    assert torch.equal(model.friction, torch.zeros(2, 2))


@NAMED
def test_there_and_back(lagrangian: str) -> None:
    """The Hamiltonian model of it, whose momenta are another thing, and the Lagrangian model of that."""
    data = ARM.simulate(**EXACT)  # type: ignore[arg-type]
    model = fit(data, lagrangian, epochs=5, composition=None)
    q, v = data.q[:, 0], data.need("v")[:, 0]
    hnn = model.to_hnn()
    assert isinstance(hnn, hf.HNN) and hnn.history == model.history and hnn.angles == model.angles and not hnn.training
    path = model.rollout(q, v, n_steps=20, dt=0.05)
    other = hnn.rollout(q, model.momentum(q, v), n_steps=20, dt=0.05)
    a, p = other.chunk(2, -1)
    assert (path[..., :2] - a).abs().max() < 1e-8
    assert (path[..., 2:] - model.velocity(a, p)).abs().max() < 1e-8
    torch.testing.assert_close(hnn.energy(a, p), model.energy(*path.chunk(2, -1)), rtol=1e-9, atol=1e-9)
    back = hf.LNN.from_hnn(hnn, composition=None)
    assert (back.rollout(q, v, n_steps=20, dt=0.05) - path).abs().max() < 1e-8
    torch.testing.assert_close(back.acceleration(q, v), model.acceleration(q, v), rtol=1e-8, atol=1e-8)


def test_a_fitted_hamiltonian_has_velocities() -> None:
    data = PENDULUM.simulate(**EXACT)  # type: ignore[arg-type]
    hnn = hf.HNN(1, energy="mechanical", widths=(8,)).fit(data, epochs=10, progress=False)
    model = hf.LNN.from_hnn(hnn, composition="kahan_li6")
    assert model.angles == (0,) and model.history == hnn.history
    q, p = data.q[:, 0], data.need("p")[:, 0]
    v = hnn.vector_field(q, p)[0].detach()
    path = model.rollout(q, v, n_steps=20, dt=0.1, substeps=4)
    other = hnn.rollout(q, p, n_steps=20, dt=0.1, scheme="yoshida6", substeps=40)
    assert (path[..., :1] - other[..., :1]).abs().max() < 1e-8
    torch.testing.assert_close(model.energy(q, v), hnn.energy(q, p), rtol=1e-9, atol=1e-9)
    assert {id(x) for x in model.parameters()} == {id(x) for x in hnn.parameters()}


def test_friction_does_not_convert() -> None:
    with pytest.raises(hf.InputError, match="model has friction, expected one without"):
        hf.LNN.from_hnn(hf.HNN(1, friction=True))
    with pytest.raises(hf.InputError, match="model is a LNN, expected an HNN"):
        hf.LNN.from_hnn(hf.LNN(1))  # type: ignore[arg-type]
    rod = hf.RigidLinks([(-1, 0)], 1.0, points=1, space=2)
    for model in (hf.LNN(2, friction=True), hf.LNN(2, constraint=rod)):
        with pytest.raises(hf.InputError, match="the model has friction or a constraint"):
            model.to_hnn()


# Dtypes, seeds, saving.


@NAMED
@SOURCES
def test_float32_in_si_units(lagrangian: str, learn_from: str) -> None:
    data = only(SPRING.simulate(**EXACT), "q", "v", "v_dot")  # type: ignore[arg-type]
    sizes = {"q": 1e11, "v": 1e4, "v_dot": 1e-3}
    large = data.replace(times=1e7 * data.times, **{name: sizes[name] * getattr(data, name) for name in data.given})
    model = fit(large.to(torch.float32), lagrangian, learn_from=learn_from, epochs=5, composition=None)
    assert min(model.history.validation) < model.history.start and math.isfinite(model.history.start)
    assert not model.history.notes


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_dtype_follows_the_data(dtype: torch.dtype) -> None:
    model = fit(damped().to(dtype), friction=True, epochs=2)
    assert {x.dtype for x in model.parameters()} == {dtype}
    for found in (model.energy([0.1], [0.2]), model.rollout([0.1], [0.2], n_steps=2, dt=0.1), model.friction):
        assert found.dtype == dtype
    assert next(fit(damped(), dtype=torch.float32, epochs=1).parameters()).dtype == torch.float32


@SOURCES
def test_seeds(learn_from: str) -> None:
    data = SPRING.simulate(**EXACT, noise=0.1)  # type: ignore[arg-type]

    def weights(model: hf.LNN) -> Tensor:
        return torch.cat([x.detach().flatten() for x in model.parameters()])

    settings: dict[str, Any] = {"learn_from": learn_from, "epochs": 2, "composition": None}
    model = fit(data, **settings)
    first = weights(model)
    torch.rand(3)
    again = model.fit(data, learn_from=learn_from, epochs=2, learning_rate=0.02, window=5, progress=False)
    assert torch.equal(first, weights(again)), "a refit starts afresh"
    assert torch.equal(first, weights(fit(data, **settings)))
    assert not torch.equal(first, weights(fit(data, seed=1, **settings)))


@NAMED
@pytest.mark.parametrize("constrained", [False, True])
def test_saved_and_loaded_bit_for_bit(lagrangian: str, constrained: bool, tmp_path: Path) -> None:
    rod = hf.RigidLinks([(-1, 0)], 0.7, points=1, space=2) if constrained else None
    model = fit(hung(3, 10), lagrangian, friction=not constrained, constraint=rod, regulariser=1e-3, epochs=2)
    model.save(tmp_path / "model")
    twin = hf.load(tmp_path / "model")
    assert isinstance(twin, hf.LNN) and not twin.training and twin.history == model.history
    mine, other = model.state_dict(), twin.state_dict()
    assert mine.keys() == other.keys() and all(torch.equal(mine[name], other[name]) for name in mine)
    q, v = hung(2, 3).q[:, 0], hung(2, 3).need("v")[:, 0]
    assert torch.equal(model.rollout(q, v, n_steps=3, dt=0.05), twin.rollout(q, v, n_steps=3, dt=0.05))
    assert torch.equal(model.friction, twin.friction)
    assert {k: x for k, x in twin.config.items() if k != "constraint"} == {
        k: x for k, x in model.config.items() if k != "constraint"
    }
    if constrained:
        assert isinstance(twin.constraint, hf.RigidLinks) and twin.constraint.arguments() == rod.arguments()  # type: ignore[union-attr]
        twin.save(tmp_path / "again")
        assert (tmp_path / "again" / "model.json").read_text() == (tmp_path / "model" / "model.json").read_text()


def test_what_is_ones_own_is_not_saved(tmp_path: Path) -> None:
    circle = hf.FunctionConstraint(lambda q: (q**2).sum(-1, keepdim=True) - 1)
    for model, message in (
        (hf.LNN(1, lagrangian=Known()), "lagrangian is one of your own"),
        (hf.LNN(2, constraint=circle), "constraint is one of your own, expected RigidLinks"),
    ):
        with pytest.raises(hf.InputError, match=message):
            model.save(tmp_path / "model")
        assert not (tmp_path / "model").exists()


# Rollouts.


def test_rollouts() -> None:
    model = fit(PENDULUM.simulate(**EXACT), epochs=3)  # type: ignore[arg-type]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    q, v = torch.randn(2, 200, 1, generator=torch.Generator().manual_seed(0))
    path = model.rollout(q, v, n_steps=10, dt=0.1)
    assert path.shape == (11, 200, 2) and not path.requires_grad
    torch.testing.assert_close(path[0], torch.cat((q, v), -1).double(), rtol=1e-12, atol=1e-12)
    back = model.rollout(*path[-1].chunk(2, -1), n_steps=10, dt=-0.1)
    assert (back[-1] - path[0]).abs().max() < 1e-10
    fine = model.rollout(q[:5], v[:5], n_steps=10, dt=0.1, substeps=4)
    assert 1e-9 < (fine - path[:, :5]).abs().max() < 0.05
    assert model.rollout([0.3], [0.1], n_steps=3, dt=0.1).shape == (4, 2)
    assert model.rollout(np.zeros((2, 3, 1)), np.ones((2, 3, 1)), n_steps=3, dt=0.1).shape == (4, 2, 3, 2)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.integrator == "triple_jump4 of midpoint" and hf.LNN(1, composition=None).integrator == "midpoint"


def test_a_rollout_that_ends_says_when() -> None:
    explosive = hf.FunctionLagrangian(lambda q, v: 0.5 * (v**2).sum(-1) + (q**4).sum(-1))
    model = hf.LNN(1, lagrangian=explosive)
    with pytest.raises(hf.RolloutError, match=r"the rollout stopped between times .* VariationalStep: ") as error:
        model.rollout(torch.ones(2, 1, dtype=F64), torch.zeros(2, 1, dtype=F64), n_steps=100, dt=0.1)
    assert 0.1 < error.value.time < 5


# What is refused, and what cannot be done.


@pytest.mark.parametrize("learn_from", ["derivatives", "states"])
def test_a_singular_mass_is_reported(learn_from: str) -> None:
    """With its condition number, and the regulariser that lets it be."""

    class Half(Known):
        def forward(self, q: Tensor, v: Tensor, t: Any = 0.0) -> Tensor:
            return super().forward(q, v, t) - 0.5 * v[..., 1] ** 2

    data = HenonHeiles().simulate(3, 10, dt=0.1, derivatives=True)
    with pytest.raises(hf.SolveError, match=r"singular: condition number inf.*LNN\(regulariser=1e-3\)"):
        fit(data, Half(), learn_from=learn_from)
    for dtype in (torch.float32, F64):
        model = fit(data.to(dtype), Half(), learn_from="derivatives", regulariser=1e-3, epochs=3)
        assert min(model.history.validation) <= model.history.start
        assert model.acceleration(data.q[0], data.need("v")[0]).isfinite().all()


MODELS: list[tuple[dict[str, Any], str]] = [
    ({"dim": 0}, "dim = 0"),
    ({"lagrangian": "joint"}, "lagrangian = 'joint', expected one of 'mechanical', 'constant_mass', 'general'"),
    ({"lagrangian": PENDULUM}, "lagrangian is a Pendulum, expected a Lagrangian or one of"),
    ({"widths": (0,)}, "widths = 0"),
    ({"widths": ()}, "widths is empty"),
    ({"periodic": (1,)}, r"periodic = \(1,\), expected indices of the 1 coordinates"),
    ({"periodic": (0, 0)}, "expected different indices"),
    ({"constraint": 3}, "constraint is a int, expected a Constraint such as RigidLinks"),
    ({"rule": "euler"}, "rule = 'euler', expected one of 'midpoint', 'trapezoidal'"),
    ({"composition": "yoshida4"}, "composition = 'yoshida4', expected one of 'triple_jump4'"),
    ({"regulariser": -1e-3}, "regulariser = -0.001, expected a number from 0 to 1"),
    ({"regulariser": "small"}, "regulariser = 'small'"),
    ({"seed": -1}, "seed = -1"),
]


@pytest.mark.parametrize(("settings", "message"), MODELS)
def test_bad_models_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(hf.InputError, match=message):
        hf.LNN(**{"dim": 1} | settings)


def tiny(**changes: Any) -> Trajectories:
    return SPRING.simulate(2, 6, dt=0.1, derivatives=True).replace(**changes)


FITS: dict[str, tuple[Callable[[], Any], dict[str, Any], str]] = {
    "nothing": (lambda: None, {}, "data is NoneType, expected Trajectories or a list of them"),
    "dim": (lambda: HenonHeiles().simulate(2, 6), {}, "data has 2 coordinates, expected dim = 1"),
    "learn_from": (tiny, {"learn_from": "momenta"}, "learn_from = 'momenta', expected one of 'auto', 'derivatives'"),
    "momenta": (
        lambda: only(tiny(), "q", "p", "p_dot"), {"learn_from": "derivatives"},
        "the trajectories have q, expected v and v_dot: hf.systems.estimate_derivatives",
    ),
    "window": (tiny, {"window": 0}, "window = 0"),
    "substeps": (tiny, {"substeps": 0}, "substeps = 0"),
    "noise": (tiny, {"noise": -1}, "noise = -1"),
    "validation": (tiny, {"validation": 1.0}, "validation = 1.0"),
    "polish": (tiny, {"polish": -1}, "polish = -1"),
    "epochs": (tiny, {"epochs": 0}, "epochs = 0"),
    "dtype": (tiny, {"dtype": torch.float16}, "dtype = torch.float16"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "settings", "message"), FITS.values(), ids=FITS.keys())
def test_bad_data_are_named(make: Any, settings: dict[str, Any], message: str) -> None:
    model = hf.LNN(1, widths=(4,))
    lagrangian = model.lagrangian
    with pytest.raises(hf.InputError, match=message):
        model.fit(make(), **{"epochs": 1, "progress": False} | settings)
    assert model.lagrangian is lagrangian, "a refused fit costs what was learned"


def test_one_number_a_row() -> None:
    wrong = hf.FunctionLagrangian(lambda q, v: (v**2 - q**2).sum())
    with pytest.raises(hf.InputError, match=r"function returned shape \(\)"):
        fit(tiny(), wrong)

    class Timed(Known):
        def forward(self, q: Tensor, v: Tensor, t: Any = 0.0) -> Tensor:
            return super().forward(q, v) + (torch.as_tensor(t) * q).sum(-1) * torch.as_tensor(t).mean(-1, keepdim=True)

    with pytest.raises(hf.InputError, match=r"lagrangian returned shape \(2, 2\) for q"):
        fit(tiny(), Timed())


def test_bad_states_are_named() -> None:
    model = hf.LNN(2, widths=(4,))
    for q, v, settings, message in [
        ([0.0], [0.0], {}, r"q has shape \(1,\) and v \(1,\), expected \(\*batch, 2\) for both"),
        (torch.zeros(3, 2), torch.zeros(2, 2), {}, r"q has shape \(3, 2\) and v \(2, 2\)"),
        ([0.0, 0.0], [0.0, 0.0], {"dt": 0.0}, "dt = 0.0"),
        ([0.0, 0.0], [0.0, 0.0], {"n_steps": 0}, "n_steps = 0"),
        ([0.0, 0.0], [0.0, 0.0], {"substeps": 0}, "substeps = 0"),
    ]:
        with pytest.raises(hf.InputError, match=message):
            model.rollout(q, v, **{"n_steps": 2, "dt": 0.1} | settings)  # type: ignore[arg-type]
    for method in (model.energy, model.acceleration, model.momentum, model.velocity):
        with pytest.raises(hf.InputError, match=r"q has shape \(3,\)"):
            method(torch.zeros(3), torch.zeros(3))
    with pytest.raises(hf.InputError, match=r"q has shape \(3,\)"):
        model.mass_matrix(torch.zeros(3))
