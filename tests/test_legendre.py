"""The Legendre transform: round trips, time, and what has no velocity."""

from typing import Any

import pytest
import torch
from torch import Tensor

import hamflow as hf
from hamflow.systems import ChargedParticle, DoublePendulum, Pendulum, RelativisticParticle
from tests.mechanisms import F64, states


class Driven(hf.Lagrangian):
    """A mass that grows, m(t) v^2 / 2 - k q^2 / 2 + q sin t + a(t) q v: the momentum depends on time."""

    def forward(self, q: Tensor, v: Tensor, t: Any = 0.0) -> Tensor:
        t = torch.as_tensor(t, dtype=q.dtype)
        return (0.5 * (1 + t**2) * v**2 - 1.5 * q**2 + q * t.sin() + t * q * v).sum(-1)


def test_time_passes_through_the_legendre_transform() -> None:
    q, v = states(5, 1)
    lagrangian = Driven()
    twice = hf.LegendreLagrangian(hf.LegendreHamiltonian(lagrangian))
    for found, own in zip(twice.terms(q, v, 0.7), lagrangian.terms(q, v, 0.7), strict=True):
        torch.testing.assert_close(found, own, rtol=1e-9, atol=1e-9)


SYSTEMS = {
    "double_pendulum": (DoublePendulum((2.0, 1.0), (1.5, 0.5), gravity=3.0), 2, 1.0),
    "charged": (ChargedParticle(mass=2.0, charge=-1.5), 2, 1.0),
    "relativistic": (RelativisticParticle(mass=0.5, c=2.0, space=2), 2, 0.5),
    "pendulum": (Pendulum(mass=0.5, length=1.5), 1, 1.0),
}


@pytest.mark.parametrize(("system", "dim", "size"), SYSTEMS.values(), ids=SYSTEMS.keys())
def test_round_trips_of_systems(system: hf.Hamiltonian, dim: int, size: float) -> None:
    lagrangian = hf.LegendreLagrangian(system)
    back = hf.LegendreHamiltonian(lagrangian)
    q, p = states(20, dim, size=size)
    dq, dp = system.gradient(q, p)
    torch.testing.assert_close(lagrangian.momentum(q, dp), p, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(lagrangian.energy(q, dp), system(q, p), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(back(q, p), system(q, p), rtol=1e-11, atol=1e-11)
    for found, own in zip(back.gradient(q, p), (dq, dp), strict=True):
        torch.testing.assert_close(found, own, rtol=1e-11, atol=1e-11)
    # Accelerations are the change of dH/dp along the motion.
    along = torch.func.jvp(lambda a, b: system.gradient(a, b)[1], (q, p), (dp, -dq))[1]
    torch.testing.assert_close(lagrangian.acceleration(q, dp), along, rtol=1e-10, atol=1e-10)


def test_the_mass_matrix_of_a_double_pendulum() -> None:
    (m1, m2), (l1, l2) = (2.0, 1.0), (1.5, 0.5)
    q, v = states(6, 2)
    c = m2 * l1 * l2 * (q[:, 0] - q[:, 1]).cos()
    known = torch.stack((torch.full_like(c, (m1 + m2) * l1**2), c, c, torch.full_like(c, m2 * l2**2)), -1)
    found = hf.LegendreLagrangian(DoublePendulum((m1, m2), (l1, l2))).mass_matrix(q, v)
    torch.testing.assert_close(found.flatten(-2), known, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("momentum", [0.1, 2.0, 40.0])
def test_velocities_do_not_pass_that_of_light(momentum: float) -> None:
    """A Newton step from rest would, at momenta beyond m c."""
    lagrangian = hf.FunctionLagrangian(lambda q, v: -(1 - v**2).sqrt().sum(-1))
    p = torch.tensor([[momentum], [-momentum], [0.0]], dtype=F64)
    found = lagrangian.velocity(torch.zeros_like(p), p)
    torch.testing.assert_close(found, p / (1 + p**2).sqrt(), rtol=1e-11, atol=1e-11)


def test_a_momentum_of_no_velocity_is_named() -> None:
    bounded = hf.FunctionLagrangian(lambda q, v: v.cosh().log().sum(-1))  # |p| < 1
    with pytest.raises(hf.SolveError, match="the velocity of a momentum of FunctionLagrangian"):
        bounded.velocity(torch.zeros(1, dtype=F64), torch.full((1,), 2.0, dtype=F64))
    with pytest.raises(hf.SolveError, match="the momentum of a velocity"):
        hf.LegendreLagrangian(RelativisticParticle()).momentum(*torch.full((2, 1), 2.0, dtype=F64))


def test_one_state_in_float32_stays_there() -> None:
    arm = hf.LegendreLagrangian(DoublePendulum())
    q, v = torch.zeros(2), torch.ones(2)
    assert {part.dtype for part in arm.terms(q, v)} == {torch.float32}
    assert arm.acceleration(q, v).dtype == torch.float32
