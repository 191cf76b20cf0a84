"""Variational steps: what they must agree with, friction, energies, derivatives, and what they refuse."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

import hamflow as hf
from hamflow.energies import ConstantMass, Lagrangian
from hamflow.steps import TRIPLE_JUMP4
from hamflow.systems import HenonHeiles
from hamflow.testing import check_drift
from tests.mechanisms import F64, RULES, bent, close, heavy, learned, states, well

# What they must agree with.


@pytest.mark.parametrize("lagrangian", [bent(), learned()], ids=["mechanical", "network"])
@pytest.mark.parametrize("dt", [0.1, -0.1])
def test_the_midpoint_rule_is_implicit_midpoint_of_the_legendre_transform(lagrangian: Lagrangian, dt: float) -> None:
    q, p = states(5)
    step = hf.VariationalStep(lagrangian)
    other = hf.ImplicitMidpoint(hf.LegendreHamiltonian(lagrangian))
    close(step(q, p, 0.0, dt), other(q, p, 0.0, dt), 1e-12)


@pytest.mark.parametrize("dt", [0.1, torch.tensor([[0.1], [0.02], [-0.1], [0.0], [0.3]], dtype=F64)])
def test_the_trapezoidal_rule_of_a_constant_mass_is_leapfrog(dt: Any, float64: torch.dtype) -> None:
    mass = torch.tensor([0.5, 3.0])
    q, p = states(5)
    step = hf.VariationalStep(hf.MechanicalLagrangian(ConstantMass(2, mass), hf.FunctionEnergy(well)), "trapezoidal")
    leapfrog = hf.Splitting(hf.SeparableHamiltonian(hf.QuadraticKinetic(2, mass=mass), hf.FunctionEnergy(well)))
    close(step(q, p, 0.0, dt), leapfrog(q, p, 0.0, dt), 1e-12)


@RULES
def test_momenta_beyond_m_c(rule: str) -> None:
    particle = hf.FunctionLagrangian(lambda q, v: -(1 - v**2).sqrt().sum(-1) - 0.5 * (q**2).sum(-1))
    q, p = torch.tensor([[0.0], [1.0]], dtype=F64), torch.tensor([[5.0], [-3.0]], dtype=F64)
    step = hf.Composition(hf.VariationalStep(particle, rule), TRIPLE_JUMP4)
    path = hf.rollout(step, q, p, n_steps=20, dt=0.1)
    energy = (1 + path[..., 1] ** 2).sqrt() + 0.5 * path[..., 0] ** 2
    assert (energy - energy[0]).abs().max() < 1e-3


class Driven(Lagrangian):
    """v^2 / 2 - k q^2 / 2 + q sin 2t."""

    def forward(self, q: Tensor, v: Tensor, t: Any = 0.0) -> Tensor:
        t = torch.as_tensor(t, dtype=q.dtype)
        return (0.5 * v**2 - 1.5 * q**2 + q * (2 * t).sin()).sum(-1)


@RULES
def test_a_driven_oscillator_at_its_time(rule: str) -> None:
    """q'' = -3 q + sin 2t from q = 0, v = -2 has the motion -sin 2t."""
    q, v = torch.zeros(1, 1, dtype=F64), torch.full((1, 1), -2.0, dtype=F64)
    step = hf.Composition(hf.VariationalStep(Driven(), rule), TRIPLE_JUMP4)
    path = hf.rollout(step, q, v, n_steps=20, dt=0.05)
    times = 0.05 * torch.arange(21, dtype=F64)
    assert (path[:, 0, 0] + (2 * times).sin()).abs().max() < 1e-5
    back = step.iterate_inverse(path[-1, :, :1], path[-1, :, 1:], 0.0, 0.05, 20)
    close(back, (q, v), 1e-12)


# Friction.


def damped(lagrangian: Lagrangian, force: hf.RayleighFriction, q: Tensor, v: Tensor, duration: float) -> Tensor:
    """The state (q, v) of one motion at its end, by DOP853."""

    def slope(_: float, z: np.ndarray) -> np.ndarray:
        a, b = torch.as_tensor(z).chunk(2)
        return torch.cat((b, lagrangian.acceleration(a, b, applied=force(a, b)))).detach().numpy()

    begin = torch.cat((q, v)).numpy()
    return torch.as_tensor(solve_ivp(slope, (0, duration), begin, "DOP853", rtol=1e-12, atol=1e-12).y[:, -1])


@RULES
def test_friction_keeps_the_order_and_the_inverse(rule: str, float64: torch.dtype) -> None:
    lagrangian, friction = bent(), hf.RayleighFriction(2, rates=torch.tensor([0.4, 0.9]), learn=True)
    with torch.no_grad():
        friction.lower.fill_(0.5)
    step = hf.VariationalStep(lagrangian, rule, force=friction)
    q, v = states(1, seed=2)
    p = lagrangian.momentum(q, v)
    exact = damped(lagrangian, friction, q[0], v[0], 1.0)
    counts, errors = np.array([10, 16, 24]), []
    for n in counts:
        with torch.no_grad():
            a, b = step.iterate(q, p, 0.0, 1 / int(n), int(n))
            errors.append(float((torch.cat((a, lagrangian.velocity(a, b)), -1)[0] - exact).norm()))
    assert errors[0] < 0.02
    assert -np.polyfit(np.log(counts), np.log(errors), 1)[0] == pytest.approx(2, abs=0.2)
    with torch.no_grad():
        end = step.iterate(q, p, 0.0, 0.05, 20)
        close(step.iterate_inverse(*end, 0.0, 0.05, 20), (q, p), 1e-11)
        assert lagrangian.energy(end[0], lagrangian.velocity(*end)) < 0.7 * lagrangian.energy(q, v)
    with pytest.raises(hf.InputError, match="force is given: the change of volume depends on the path"):
        step.log_det(q)
    a, b = step(q, p)
    slopes = torch.autograd.grad((a.sum() + b.sum()), list(friction.parameters()))
    assert all(bool((slope != 0).any()) for slope in slopes)


# Energies.


@pytest.mark.parametrize(
    ("step", "dt"),
    [
        (hf.VariationalStep(heavy(), "trapezoidal"), 0.2),
        (hf.VariationalStep(learned() + hf.FunctionLagrangian(lambda q, v: -well(q))), 0.2),
    ],
    ids=["mechanical", "network"],
)
def test_energies_do_not_drift(step: hf.VariationalStep, dt: float) -> None:
    q, p = states(2, seed=1, size=1.0)
    trend = check_drift(step, q, p, dt=dt, n_steps=200)
    assert 1e-5 < trend.largest < 0.1


def test_first_and_second_derivatives() -> None:
    step = hf.VariationalStep(bent())
    q, p = (x.requires_grad_() for x in states(2))

    def once(a: Tensor, b: Tensor) -> Tensor:
        return torch.cat(step(a, b, 0.0, 0.2), -1)

    assert torch.autograd.gradcheck(once, (q, p))
    assert torch.autograd.gradgradcheck(once, (q[:1], p[:1]))


# What cannot be done, and what is refused.


def test_steps_that_are_too_long(float64: torch.dtype) -> None:
    cubic = hf.FunctionLagrangian(lambda a, b: (0.5 * b**2 - 1e3 * a.exp()).sum(-1))
    with pytest.raises(hf.SolveError, match="VariationalStep: "):
        hf.VariationalStep(cubic, max_iterations=3)(torch.ones(1, 1), torch.ones(1, 1), 0.0, 5.0)


def test_a_mass_that_vanishes_is_named() -> None:
    massless = hf.FunctionLagrangian(lambda q, v: (0.5 * v[..., :1] ** 2 - q**2).sum(-1))
    with pytest.raises(
        hf.SolveError, match="the velocity of a momentum of FunctionLagrangian: the Jacobian is singular in 3 of 3 rows"
    ):
        hf.VariationalStep(massless)(*states(3))


BAD: list[tuple[Any, str]] = [
    (lambda: hf.VariationalStep(HenonHeiles()), "lagrangian is a HenonHeiles, expected a Lagrangian"),  # type: ignore[arg-type]
    (lambda: hf.VariationalStep(bent(), "simpson"), "rule = 'simpson'"),
    (lambda: hf.VariationalStep(bent(), force=0.1), "force is a float, expected a Force"),  # type: ignore[arg-type]
    (lambda: hf.VariationalStep(bent(), tolerance=0.0), "tolerance = 0.0"),
    (lambda: hf.VariationalStep(bent(), max_iterations=0), "max_iterations = 0"),
]


@pytest.mark.parametrize(("make", "message"), BAD)
def test_bad_input_is_named(make: Any, message: str) -> None:
    with pytest.raises(hf.InputError, match=message):
        make()
