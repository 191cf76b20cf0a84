"""RATTLE: chains against angles, what is conserved, friction, projections, and what is refused."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

import hamflow as hf
from hamflow.energies import ConstantMass
from hamflow.steps import TRIPLE_JUMP4
from hamflow.systems import DoublePendulum, HenonHeiles
from tests.mechanisms import F64, LENGTHS, RULES, WEIGHTS, bent, chain, close, hung, rods, states


def test_a_chain_is_a_double_pendulum(float64: torch.dtype) -> None:
    """In Cartesian coordinates with rods, against the angles, over one second."""
    system = DoublePendulum(WEIGHTS, LENGTHS, gravity=5.0)
    angles, momenta = torch.tensor([[0.5, -0.4], [1.0, 1.2]]), torch.tensor([[0.3, 0.0], [0.0, 0.2]])
    data = system.simulate(initial=(angles, momenta), n_steps=5, dt=0.2)
    q, v = hung(data.q, data.need("v"))
    lagrangian = chain(5.0)
    step = hf.Composition(hf.Rattle(lagrangian, rods()), TRIPLE_JUMP4)
    path = hf.rollout(step, q[:, 0], lagrangian.momentum(q[:, 0], v[:, 0]), n_steps=5, dt=0.2, substeps=8)
    error = (path.movedim(0, 1)[..., :4] - q).abs().max()
    assert error < 1e-4
    rough = hf.rollout(step, q[:, 0], lagrangian.momentum(q[:, 0], v[:, 0]), n_steps=5, dt=0.2, substeps=4)
    assert (rough.movedim(0, 1)[..., :4] - q).abs().max() > 10 * error, "order 4"


@RULES
def test_a_chain_keeps_its_energy(rule: str, float64: torch.dtype) -> None:
    """With the spring, because in gravity alone both rules are one."""
    lagrangian = chain(5.0, 4.0)
    step = hf.Rattle(lagrangian, rods(), rule)
    q, v = hung(torch.tensor([[1.5, -0.5]]), torch.zeros(1, 2))
    path = hf.rollout(step, q, lagrangian.momentum(q, v), n_steps=160, dt=0.03)
    a, p = path.chunk(2, -1)
    energy = lagrangian.energy(a, lagrangian.velocity(a, p))
    off = energy - energy[0]
    assert 1e-4 < off.abs().max() < 0.2
    assert off[80:].abs().max() < 1.5 * off[:80].abs().max(), "bounded"
    assert step.constraint(a).abs().max() < 1e-10
    assert step.constraint.along(a, lagrangian.velocity(a, p)).abs().max() < 1e-10


@RULES
def test_a_chain_without_gravity_keeps_its_angular_momentum(rule: str, float64: torch.dtype) -> None:
    """About the pivot: the rods pull towards it, or along themselves."""
    lagrangian = chain(0.0)
    q, v = hung(torch.tensor([[1.5, -0.5]]), torch.tensor([[1.0, -3.0]]))
    path = hf.rollout(hf.Rattle(lagrangian, rods(), rule), q, lagrangian.momentum(q, v), n_steps=50, dt=0.05)
    x, p = (z.unflatten(-1, (2, 2)) for z in path.chunk(2, -1))
    turn = (x[..., 0] * p[..., 1] - x[..., 1] * p[..., 0]).sum(-1)
    assert (turn - turn[0]).abs().max() < 1e-11 * turn.abs().max() + 1e-12
    assert (x[:, :, 1] - x[0, :, 1]).abs().max() > 1, "it moves"


def test_friction_under_constraints(float64: torch.dtype) -> None:
    """A pendulum in the plane, against its angle: m l^2 a'' = -m g l sin a - c l^2 a'."""
    mass, length, rate = 2.0, 0.7, 0.4
    weight = hf.MechanicalLagrangian(ConstantMass(2, mass), hf.FunctionEnergy(lambda q: 9.81 * mass * q[..., 1]))
    rod, friction = hf.RigidLinks([(-1, 0)], length, points=1, space=2), hf.RayleighFriction(2, rates=rate)
    step = hf.Composition(hf.Rattle(weight, rod, force=friction), TRIPLE_JUMP4)

    def slope(_: float, z: np.ndarray) -> list[float]:
        return [z[1], -9.81 / length * math.sin(z[0]) - rate / mass * z[1]]

    exact = solve_ivp(slope, (0, 1), [2.0, 0.0], "DOP853", rtol=1e-12, atol=1e-12).y[0, -1]
    q = length * torch.tensor([[math.sin(2.0), -math.cos(2.0)]])
    end, p = step.iterate(q, 0 * q, 0.0, 0.025, 40)
    expected = length * torch.tensor([[math.sin(exact), -math.cos(exact)]])
    torch.testing.assert_close(end, expected, rtol=0, atol=2e-4)
    close(step.iterate_inverse(end, p, 0.0, 0.025, 40), (q, 0 * q), 1e-9)


def test_project(float64: torch.dtype) -> None:
    lagrangian = hf.MechanicalLagrangian(ConstantMass(4, torch.tensor([0.7, 0.7, 1.3, 1.3])), hf.FunctionEnergy(well2))
    step = hf.Rattle(lagrangian, rods())
    q, v = hung(*states(5))
    on = q, lagrangian.momentum(q, v)
    close(step.project(*on), on, 1e-14)
    shaken = q + 0.05 * states(5, 4, seed=1)[0], on[1] + 0.05 * states(5, 4, seed=1)[1]
    a, p = step.project(*shaken)
    assert step.constraint(a).abs().max() < 1e-12
    assert step.constraint.along(a, lagrangian.velocity(a, p)).abs().max() < 1e-12
    assert (a - q).abs().max() < 0.3
    # The momentum moves along G at the new position only.
    normal = step.constraint.jacobian(a)
    rest = p - shaken[1]
    along = torch.linalg.lstsq(normal.mT, rest.unsqueeze(-1)).solution
    assert (normal.mT @ along - rest.unsqueeze(-1)).abs().max() < 1e-13


def well2(q: Tensor) -> Tensor:
    return 0.5 * (q**2).sum(-1)


@RULES
@pytest.mark.parametrize("dt", [0.0, torch.tensor([[0.0], [0.05], [-0.05]], dtype=F64)])
def test_a_step_of_no_length_is_the_identity(rule: str, dt: Any, float64: torch.dtype) -> None:
    """As behind a pause in the data."""
    lagrangian = chain(5.0)
    step = hf.Rattle(lagrangian, rods(), rule)
    q, v = hung(*states(3))
    p = lagrangian.momentum(q, v)
    found = step(q, p, 0.0, dt)
    for i in range(3):
        close([x[i] for x in found], step(q[i], p[i], 0.0, float(dt if isinstance(dt, float) else dt[i])), 1e-13)
    close([x[0] for x in found], (q[0], p[0]), 1e-13)


def test_constraints_that_say_the_same_twice(float64: torch.dtype) -> None:
    twice = hf.RigidLinks([(-1, 0), (0, -1), (0, 1)], [1.0, 1.0, 0.8], points=2, space=2)
    q, v = hung(*states(3))
    with pytest.raises(hf.SolveError, match="Rattle: the Jacobian is singular in 3 of 3 rows"):
        hf.Rattle(chain(1.0), twice)(q, chain(1.0).momentum(q, v), 0.0, 0.05)


@pytest.mark.parametrize("dt", [5.0])
def test_steps_that_are_too_long(dt: float, float64: torch.dtype) -> None:
    q, v = hung(torch.zeros(1, 2), torch.ones(1, 2))
    step = hf.Rattle(chain(5.0), rods())
    with pytest.raises(hf.SolveError, match=r"Rattle: .* a smaller dt helps where this is a step"):
        step(q, chain(5.0).momentum(q, v), 0.0, dt)
    with pytest.raises(hf.RolloutError, match="the rollout stopped between times 0 and 5"):
        hf.rollout(step, q, chain(5.0).momentum(q, v), n_steps=2, dt=dt)


BAD: list[tuple[Any, str]] = [
    (lambda: hf.Rattle(bent(), bent()), "constraint is a MechanicalLagrangian, expected a Constraint"),  # type: ignore[arg-type]
    (lambda: hf.Rattle(HenonHeiles(), rods()), "lagrangian is a HenonHeiles"),  # type: ignore[arg-type]
    (lambda: hf.Rattle(bent(), rods(), "euler"), "rule = 'euler'"),
    (lambda: hf.Rattle(bent(), rods(), force=bent()), "force is a MechanicalLagrangian"),  # type: ignore[arg-type]
    (lambda: hf.Rattle(bent(), rods(), tolerance=-1.0), "tolerance = -1.0"),
]


@pytest.mark.parametrize(("make", "message"), BAD)
def test_bad_input_is_named(make: Any, message: str) -> None:
    with pytest.raises(hf.InputError, match=message):
        make()
