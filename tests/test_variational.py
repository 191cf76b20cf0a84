"""Variational steps and RATTLE: what they must agree with, friction, energies, constraints, and what they refuse."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

import hamflow as hf
from hamflow.energies import ConstantMass, Lagrangian, MassMatrix
from hamflow.steps import TRIPLE_JUMP4, log_det_in_velocities
from hamflow.systems import DoublePendulum, HenonHeiles
from hamflow.testing import check_drift

F64 = torch.float64
RULES = pytest.mark.parametrize("rule", ["midpoint", "trapezoidal"])


class Metric(MassMatrix):
    """A mass matrix of two coordinates that depends on both."""

    def forward(self, q: Tensor) -> Tensor:
        return torch.diag_embed(2 + q.cos()) + 0.3 * torch.ones(2, 2).to(q)


def well(q: Tensor) -> Tensor:
    return (0.25 * q**4 + 0.5 * q**2).sum(-1) + 0.2 * q[..., 0] * q[..., 1]


def bent() -> hf.MechanicalLagrangian:
    return hf.MechanicalLagrangian(Metric(), hf.FunctionEnergy(well))


def learned() -> hf.NetworkLagrangian:
    """A network that has moved away from its start, held together by a spring."""
    torch.manual_seed(3)
    found = hf.NetworkLagrangian(2, (8,)).double()
    with torch.no_grad():
        found.readout += 0.1 * torch.randn(8)
    return found


def heavy() -> hf.MechanicalLagrangian:
    """A mass matrix from a network that has moved away from its start."""
    torch.manual_seed(3)
    mass = hf.NetworkMass(2, (8,)).double()
    with torch.no_grad():
        for parameter in mass.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return hf.MechanicalLagrangian(mass, hf.FunctionEnergy(well))


def states(n: int, dim: int = 2, seed: int = 0, size: float = 0.7) -> tuple[Tensor, Tensor]:
    q, p = size * torch.randn(2, n, dim, generator=torch.Generator().manual_seed(seed), dtype=F64)
    return q, p


def close(found: Any, expected: Any, bound: float) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=bound, atol=bound)


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


# Volume seen in positions and velocities.


@RULES
def test_the_volume_in_velocities(rule: str) -> None:
    lagrangian = bent()
    step = hf.VariationalStep(lagrangian, rule)
    q, v = states(4)

    def seen(z: Tensor) -> Tensor:
        a, b = z.chunk(2, -1)
        a, b = step.iterate(a, lagrangian.momentum(a, b), 0.0, 0.2, 3)
        return torch.cat((a, lagrangian.velocity(a, b)), -1)

    z = torch.cat((q, v), -1)
    exact = torch.stack([torch.linalg.slogdet(torch.autograd.functional.jacobian(seen, row)).logabsdet for row in z])
    found = log_det_in_velocities(lagrangian, (q, v), seen(z).chunk(2, -1), 0.0, 0.6)  # type: ignore[arg-type]
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-11)
    assert exact.abs().max() > 0.1
    assert torch.equal(step.log_det(q, 0.2, 3), torch.zeros(4, dtype=F64))


@pytest.mark.parametrize(
    "wrap", [hf.Composition, lambda step: hf.Damped(step, 0.1), lambda step: hf.Damped(hf.Composition(step), 0.1)]
)
def test_no_wrapper_makes_up_a_volume(wrap: Any) -> None:
    """With a force the change of volume depends on the path, whatever the step is wrapped in."""
    step = wrap(hf.VariationalStep(bent(), force=hf.RayleighFriction(2)))
    flow = hf.PhaseFlow(step)
    z = torch.ones(3, 4)
    assert flow(z).shape == (3, 4)
    for call in (lambda: step.log_det(z[:, :2]), lambda: flow.log_abs_det_jacobian(z, z)):
        with pytest.raises(hf.InputError, match="force is given: the change of volume depends on the path"):
            call()
    assert torch.equal(hf.Composition(hf.VariationalStep(bent())).log_det(z[:, :2]), torch.zeros(3))


@pytest.mark.parametrize("wrap", [lambda step: step, hf.Composition, lambda step: hf.Damped(hf.Composition(step), 0.1)])
def test_no_flow_of_a_step_under_constraints(wrap: Any, float64: torch.dtype) -> None:
    """It maps states onto the constraint: its Jacobian has rank 2 (d - m)."""
    step = wrap(hf.Rattle(chain(1.0), rods()))
    with pytest.raises(hf.InputError, match=r"^step is a \w+( with a Rattle in it)?, which maps no other states"):
        hf.PhaseFlow(step)
    q, v = hung(*states(3))
    p = chain(1.0).momentum(q, v)
    assert step.hamiltonian is not None
    torch.testing.assert_close(step.hamiltonian(q, p), chain(1.0).energy(q, v))


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


# Constraints.

LENGTHS, WEIGHTS = (1.0, 0.8), (0.7, 1.3)


def chain(gravity: float, stiffness: float = 0.0) -> hf.MechanicalLagrangian:
    """Two bodies in the plane, a spring from the second to (1, 1)."""
    mass = ConstantMass(4, torch.tensor(WEIGHTS), structure="bodies", space=2)
    pull = gravity * torch.tensor([0.0, WEIGHTS[0], 0.0, WEIGHTS[1]], dtype=F64)
    held = stiffness * torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=F64)
    potential = hf.FunctionEnergy(lambda q: q @ pull + 0.5 * (q - 1) ** 2 @ held, lambda q: pull + held * (q - 1))
    return hf.MechanicalLagrangian(mass, potential)


def rods() -> hf.RigidLinks:
    return hf.RigidLinks([(-1, 0), (0, 1)], LENGTHS, points=2, space=2)


def hung(angles: Tensor, rates: Tensor) -> tuple[Tensor, Tensor]:
    """Positions and velocities of the points of a chain whose rods make these angles with the vertical."""
    lengths = torch.tensor(LENGTHS, dtype=F64)

    def places(a: Tensor) -> Tensor:
        return (lengths.unsqueeze(-1) * torch.stack((a.sin(), -a.cos()), -1)).cumsum(-2).flatten(-2)

    q, v = torch.func.jvp(places, (angles,), (rates,))
    return q, v


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


# What cannot be done, and what is refused.


def test_constraints_that_say_the_same_twice(float64: torch.dtype) -> None:
    twice = hf.RigidLinks([(-1, 0), (0, -1), (0, 1)], [1.0, 1.0, 0.8], points=2, space=2)
    q, v = hung(*states(3))
    with pytest.raises(hf.SolveError, match="Rattle: the Jacobian of 3 of 3 rows is singular"):
        hf.Rattle(chain(1.0), twice)(q, chain(1.0).momentum(q, v), 0.0, 0.05)


@pytest.mark.parametrize("dt", [5.0])
def test_steps_that_are_too_long(dt: float, float64: torch.dtype) -> None:
    q, v = hung(torch.zeros(1, 2), torch.ones(1, 2))
    step = hf.Rattle(chain(5.0), rods())
    with pytest.raises(hf.SolveError, match=r"Rattle: .* a smaller dt helps where this is a step"):
        step(q, chain(5.0).momentum(q, v), 0.0, dt)
    with pytest.raises(hf.RolloutError, match="the rollout stopped between times 0 and 5"):
        hf.rollout(step, q, chain(5.0).momentum(q, v), n_steps=2, dt=dt)
    cubic = hf.FunctionLagrangian(lambda a, b: (0.5 * b**2 - 1e3 * a.exp()).sum(-1))
    with pytest.raises(hf.SolveError, match="VariationalStep: "):
        hf.VariationalStep(cubic, max_iterations=3)(torch.ones(1, 1), torch.ones(1, 1), 0.0, dt)


def test_a_mass_that_vanishes_is_named() -> None:
    massless = hf.FunctionLagrangian(lambda q, v: (0.5 * v[..., :1] ** 2 - q**2).sum(-1))
    with pytest.raises(hf.SolveError, match="the velocity of a momentum of FunctionLagrangian: the Jacobian of 3 of 3"):
        hf.VariationalStep(massless)(*states(3))


BAD: list[tuple[Any, str]] = [
    (lambda: hf.VariationalStep(HenonHeiles()), "lagrangian is a HenonHeiles, expected a Lagrangian"),  # type: ignore[arg-type]
    (lambda: hf.VariationalStep(bent(), "simpson"), "rule = 'simpson'"),
    (lambda: hf.VariationalStep(bent(), force=0.1), "force is a float, expected a Force"),  # type: ignore[arg-type]
    (lambda: hf.VariationalStep(bent(), tolerance=0.0), "tolerance = 0.0"),
    (lambda: hf.VariationalStep(bent(), max_iterations=0), "max_iterations = 0"),
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
