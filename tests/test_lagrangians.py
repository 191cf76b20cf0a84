"""Lagrangians and what goes with them: masses and their solves, constraints, friction, the Legendre transform."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hamflow as hf
from hamflow.energies import (
    ConstantMass,
    Constraint,
    MassMatrix,
    NetworkMass,
    Terms,
    condition_numbers,
    constrained_acceleration,
    solve_mass,
)
from hamflow.systems import ChargedParticle, DoublePendulum, Pendulum, RelativisticParticle

F64 = torch.float64
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, F64])


def states(n: int, dim: int, seed: int = 0, size: float = 0.7) -> tuple[Tensor, Tensor]:
    q, v = size * torch.randn(2, n, dim, generator=torch.Generator().manual_seed(seed), dtype=F64)
    return q, v


def symmetric(eigenvalues: list[float], n: int = 5) -> Tensor:
    """Random matrices with these eigenvalues, (n, d, d)."""
    d = len(eigenvalues)
    turn = torch.linalg.qr(torch.randn(n, d, d, generator=torch.Generator().manual_seed(0), dtype=F64)).Q
    return turn @ torch.diag(torch.tensor(eigenvalues, dtype=F64)) @ turn.mT


# Solves with the mass matrix.


@pytest.mark.parametrize("eigenvalues", [[1.0, 2.0, 30.0], [1.0, -2.0, 30.0], [-1.0, -2.0, -3.0]])
@pytest.mark.parametrize("mixed", [False, True])
def test_solves(eigenvalues: list[float], mixed: bool) -> None:
    mass = symmetric(eigenvalues)
    if mixed:
        mass[0] = symmetric([1.0, 2.0, 3.0])[0]
    true = states(5, 3)[0]
    found = solve_mass(mass, (mass @ true.unsqueeze(-1)).squeeze(-1))
    torch.testing.assert_close(found, true, rtol=1e-12, atol=1e-12)


@DTYPES
def test_a_singular_mass_is_named_with_its_condition(dtype: torch.dtype) -> None:
    mass = symmetric([1.0, 2.0, 3.0]).to(dtype)
    mass[3] = torch.diag(torch.tensor([1.0, 4.0, 0.0], dtype=dtype))
    with pytest.raises(hf.SolveError, match="mass matrix of 1 of 5 states is singular: condition number inf, expected"):
        solve_mass(mass, mass[:, 0])
    mass[3, 2, 2] = -4e-17
    with pytest.raises(hf.SolveError, match=r"condition number 1.0e\+17.*LNN\(regulariser=1e-3\)"):
        solve_mass(mass, mass[:, 0])
    assert condition_numbers(symmetric([2.0, -5.0, 1.0])).tolist() == pytest.approx([5.0] * 5)


@DTYPES
@pytest.mark.parametrize("smallest", [1.0, -0.02, 1e-4, 0.0])
@pytest.mark.parametrize("regulariser", [1e-3, 0.1])
def test_the_regulariser_is_the_documented_one(dtype: torch.dtype, smallest: float, regulariser: float) -> None:
    """Also where it makes no condition number small: squares of M would not do in float32."""
    mass, force = symmetric([3.0, -1.0, smallest]), states(5, 3)[0]
    size, axes = torch.linalg.eigh(mass)
    shift = regulariser**2 * size.square().mean(-1, keepdim=True)
    inverse = size / (size**2 + shift)
    expected = (axes @ (inverse.unsqueeze(-1) * axes.mT) @ force.unsqueeze(-1)).squeeze(-1)
    found = solve_mass(mass.to(dtype), force.to(dtype), regulariser=regulariser)
    assert found.dtype == dtype
    # Where M is singular to rounding its smallest eigenvalue is rounding, divided by the shift.
    bound = (1e-10 if dtype == F64 else 1e-5) / regulariser**2
    assert (found.double() - expected).abs().max() < min(bound, 1e-2 if smallest == 1.0 else math.inf)


def test_no_regulariser_makes_up_a_mass() -> None:
    with pytest.raises(hf.SolveError, match="1 of 2 states is singular"):
        solve_mass(torch.stack((torch.eye(2), torch.zeros(2, 2))), torch.ones(2, 2), regulariser=1e-3)
    with pytest.raises(hf.SolveError, match="mass matrix of 1 of 1 states is singular"):
        solve_mass(torch.diag(torch.tensor([1.0, 0.0])), torch.ones(2), regulariser=1e-9)


@pytest.mark.parametrize("regulariser", [0.0, 1e-3])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_rows_that_are_no_numbers_stay_alone(regulariser: float, sign: float) -> None:
    mass = sign * symmetric([1.0, 2.0, 3.0])
    mass[2, 1, 1] = math.nan
    found = solve_mass(mass, torch.ones(5, 3, dtype=F64), regulariser=regulariser)
    assert found.isnan().all(-1).tolist() == [False, False, True, False, False]
    assert found.isfinite().all(-1).tolist() == [True, True, False, True, True]


@pytest.mark.parametrize("regulariser", [0.0, 0.1])
def test_derivatives_of_solves(regulariser: float) -> None:
    mass, force = symmetric([1.0, -2.0, 3.0], n=2).requires_grad_(), states(2, 3)[0].requires_grad_()

    def solved(m: Tensor, f: Tensor) -> Tensor:
        return solve_mass(0.5 * (m + m.mT), f, regulariser=regulariser)

    assert torch.autograd.gradcheck(solved, (mass, force))


# What the equations of motion are made of.


class Counted(hf.Lagrangian):
    """(2 + cos q) v^2 / 2 - q^2 / 2, its gradients counted."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, q: Tensor, v: Tensor, t: Any = 0.0) -> Tensor:
        return 0.5 * ((2 + q.cos()) * v**2 - q**2).sum(-1)

    def gradient(self, q: Tensor, v: Tensor, t: Any = 0.0) -> tuple[Tensor, Tensor]:
        self.calls += 1
        return super().gradient(q, v, t)


@pytest.mark.parametrize("dim", [1, 4])
def test_no_hessian_and_no_pseudoinverse(dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The momentum's d derivatives in v, all at once, and one along the motion."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("not this one")

    for module, name in (
        (torch.linalg, "pinv"), (torch, "pinverse"), (torch.func, "hessian"), (torch.func, "jacfwd"),
        (torch.func, "jacrev"), (torch.autograd.functional, "hessian"), (torch.autograd.functional, "jacobian"),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, refuse)
    tangents: list[int] = []
    jvp = torch.func.jvp

    def counted(function: Any, primals: Any, directions: Any, **settings: Any) -> Any:
        tangents.append(len(directions))
        return jvp(function, primals, directions, **settings)

    monkeypatch.setattr(torch.func, "jvp", counted)
    lagrangian = Counted()
    q, v = states(7, dim)
    found = lagrangian.acceleration(q, v)
    torch.testing.assert_close(found, (0.5 * q.sin() * v**2 - q) / (2 + q.cos()), rtol=1e-12, atol=1e-12)
    # One for the values, one that is vectorised over d directions, one along (v, 1) in (q, t): whatever d is.
    assert lagrangian.calls == 3 and tangents == [1, 2]


def test_a_whole_batch_in_one_call() -> None:
    lagrangian = Counted()
    q, v = states(24, 2)
    whole = lagrangian.terms(q.view(2, 3, 4, 2), v.view(2, 3, 4, 2))
    assert lagrangian.calls == 3
    for found, row in zip(whole, lagrangian.terms(q, v), strict=True):
        torch.testing.assert_close(found.flatten(0, 2), row, rtol=1e-13, atol=1e-13)


class Driven(hf.Lagrangian):
    """A mass that grows, m(t) v^2 / 2 - k q^2 / 2 + q sin t + a(t) q v: the momentum depends on time."""

    def forward(self, q: Tensor, v: Tensor, t: Any = 0.0) -> Tensor:
        t = torch.as_tensor(t, dtype=q.dtype)
        return (0.5 * (1 + t**2) * v**2 - 1.5 * q**2 + q * t.sin() + t * q * v).sum(-1)


@pytest.mark.parametrize("t", [0.0, 0.7, torch.linspace(0, 1, 5, dtype=F64).unsqueeze(-1)])
def test_a_lagrangian_of_time(t: Any) -> None:
    """d/dt [(1 + t^2) v + t q] = -3 q + sin t + t v."""
    q, v = states(5, 1)
    time = torch.as_tensor(t, dtype=F64)
    terms = Driven().terms(q, v, t)
    torch.testing.assert_close(terms.transport, 2 * time * v + q + time * v)
    expected = (-3 * q + time.sin() + time * v - 2 * time * v - q - time * v) / (1 + time**2)
    torch.testing.assert_close(Driven().acceleration(q, v, t), expected)
    both = Driven() + hf.FunctionLagrangian(lambda a, b: -(a**2).sum(-1))
    torch.testing.assert_close(both.acceleration(q, v, t), expected - 2 * q / (1 + time**2))


def test_time_passes_through_the_legendre_transform() -> None:
    q, v = states(5, 1)
    lagrangian = Driven()
    twice = hf.LegendreLagrangian(hf.LegendreHamiltonian(lagrangian))
    for found, own in zip(twice.terms(q, v, 0.7), lagrangian.terms(q, v, 0.7), strict=True):
        torch.testing.assert_close(found, own, rtol=1e-9, atol=1e-9)


def test_known_gravity_and_a_network() -> None:
    torch.manual_seed(0)
    learned = hf.MechanicalLagrangian(NetworkMass(2, (8,)), hf.RidgePotential(2, width=4)).double()
    gravity = hf.FunctionLagrangian(lambda q, v: -9.81 * q[..., 1])
    q, v = states(6, 2)
    alone, both = learned.terms(q, v), (learned + gravity).terms(q, v)
    pull = torch.tensor([0.0, -9.81], dtype=F64)
    torch.testing.assert_close(both.force, alone.force + pull)
    torch.testing.assert_close((learned + gravity).acceleration(q, v), alone.acceleration(pull.expand_as(q)))
    energy = learned.energy(q, v) + 9.81 * q[..., 1]
    torch.testing.assert_close((learned + gravity).energy(q, v), energy)
    assert len(list((learned + gravity).parameters())) == len(list(learned.parameters()))


def test_a_singular_lagrangian_with_a_regulariser() -> None:
    """Only the first of two coordinates has a mass."""
    half = hf.FunctionLagrangian(lambda q, v: 0.5 * v[..., 0] ** 2 - (q**2).sum(-1))
    q, v = states(3, 2)
    with pytest.raises(hf.SolveError, match="3 of 3 states is singular: condition number inf"):
        half.acceleration(q, v)
    found = half.acceleration(q, v, regulariser=1e-4)
    torch.testing.assert_close(found, torch.stack((-2 * q[:, 0], 0 * q[:, 0]), -1), rtol=1e-7, atol=1e-7)


# Masses.


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"mass": 3.0}, [[3.0, 0, 0, 0], [0, 3.0, 0, 0], [0, 0, 3.0, 0], [0, 0, 0, 3.0]]),
        ({"mass": torch.tensor([1.0, 2, 3, 4])}, [[1.0, 0, 0, 0], [0, 2, 0, 0], [0, 0, 3, 0], [0, 0, 0, 4]]),
        ({"mass": torch.tensor([1.0, 2, 3, 4]), "structure": "full"},
         [[1.0, 0, 0, 0], [0, 2, 0, 0], [0, 0, 3, 0], [0, 0, 0, 4]]),
        ({"mass": torch.tensor([1.0, 2]), "structure": "bodies", "space": 2},
         [[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 2, 0], [0, 0, 0, 2]]),
    ],
)  # fmt: skip
def test_constant_masses(arguments: dict[str, Any], expected: list[list[float]]) -> None:
    mass = ConstantMass(4, **arguments, learn=True).double()
    q, v = states(3, 4)
    torch.testing.assert_close(mass(q), torch.tensor(expected, dtype=F64).expand(3, 4, 4), rtol=1e-6, atol=1e-6)
    for found, own in zip(mass.inertia(q, v), MassMatrix.inertia(mass, q, v), strict=True):
        torch.testing.assert_close(found, own)
    assert all(parameter.requires_grad for parameter in mass.parameters())
    assert not any(parameter.requires_grad for parameter in ConstantMass(4, **arguments).parameters())


def test_a_full_mass_is_the_product_of_its_factor() -> None:
    mass = ConstantMass(3, structure="full", learn=True).double()
    with torch.no_grad():
        for parameter in mass.parameters():
            parameter += torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    s, lower = mass.log_diagonal, mass.lower.tril(-1)
    factor = torch.diag(s.exp()) @ (torch.eye(3, dtype=F64) + lower)
    torch.testing.assert_close(mass(torch.zeros(3, dtype=F64)), factor @ factor.mT)
    # Two bodies in the plane learn two numbers.
    bodies = ConstantMass(4, structure="bodies", space=2, learn=True)
    assert sum(parameter.numel() for parameter in bodies.parameters()) == 2


def test_a_network_mass_starts_near_its_unit_and_stays_positive() -> None:
    torch.manual_seed(0)
    root = torch.tensor([0.1, 1.0, 30.0])
    mass = NetworkMass(3, (16,), periodic=(1,)).set_units(torch.zeros(3), torch.ones(3), root)
    q = 3 * torch.randn(200, 3)
    scaled = mass(q) / root.unsqueeze(-1) / root
    assert (scaled - torch.eye(3)).abs().max() < 0.5
    with torch.no_grad():
        for parameter in mass.parameters():
            parameter += torch.randn_like(parameter)
    assert torch.linalg.eigvalsh((mass(q) / root.unsqueeze(-1) / root).double()).min() > 0.5e-3
    turned = q + torch.tensor([0.0, 2 * math.pi, 0.0])
    torch.testing.assert_close(mass(turned), mass(q), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_arguments_keep_their_digits(dtype: torch.dtype) -> None:
    """Double precision through single, and both with states of the other."""
    third = torch.tensor([1 / 3], dtype=F64)
    rod = hf.RigidLinks([(-1, 0)], third, points=1, space=1)
    mass, friction = ConstantMass(1, third), hf.RayleighFriction(1, third)
    q, v = torch.full((1,), 1 / 3, dtype=dtype), torch.ones(1, dtype=dtype)
    for exact, found in (
        (0.0, rod(q)), (1.0, rod.along(q, v)), (1.0, rod.pullback(q, v)), (3.0, rod.bend(q, v)),
        (1 / 3, mass(q)), (1 / 3, mass.inertia(q, v).momentum), (-1 / 3, friction(q, v)),
    ):  # fmt: skip
        assert found.dtype == dtype
        assert abs(float(found) - exact) < (1e-15 if dtype == F64 else 1e-6)
    assert rod.double().lengths.item() == 1 / 3
    again = hf.RigidLinks(**rod.arguments()).double()
    again.load_state_dict(rod.state_dict())
    assert again.lengths.item() == 1 / 3
    assert hf.RigidLinks([(-1, 0)], 1.0, points=1, space=1).lengths.dtype == torch.float32


@pytest.mark.parametrize("depth", [1, 3, 4, 8, 16])
def test_networks_start_with_a_positive_mass(depth: int) -> None:
    for seed in range(5):
        torch.manual_seed(seed)
        terms = hf.NetworkLagrangian(2, (64,) * depth).terms(*torch.randn(2, 200, 2))
        assert torch.linalg.eigvalsh(terms.mass).min() > 0.3
        assert terms.force.abs().max() < 1.5


# Friction.


def test_friction_takes_its_power() -> None:
    friction = hf.RayleighFriction(3, rates=torch.tensor([0.5, 1.0, 2.0]), learn=True).double()
    torch.testing.assert_close(friction.matrix(), torch.diag(torch.tensor([0.5, 1.0, 2.0], dtype=F64)))
    with torch.no_grad():
        for parameter in friction.parameters():
            parameter += torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    matrix = friction.matrix()
    assert torch.equal(matrix, matrix.mT) and torch.linalg.eigvalsh(matrix).min() > 0
    assert matrix.tril(-1).abs().max() > 0.1
    q, v = states(6, 3)
    torch.testing.assert_close(friction(q, v), -(matrix @ v.unsqueeze(-1)).squeeze(-1))
    # The power of the force is what the energy loses: dE/dt = v (M a - dL/dq + ...) = v f.
    lagrangian = Counted()
    terms = lagrangian.terms(q, v)
    a = terms.acceleration(friction(q, v))
    rate = torch.func.jvp(lagrangian.energy, (q, v), (v, a))[1]
    torch.testing.assert_close(rate, -torch.einsum("ni,ij,nj->n", v, matrix, v))
    assert not any(p.requires_grad for p in hf.RayleighFriction(2).parameters())


# Constraints.


def links() -> hf.RigidLinks:
    """A chain of two rods from the origin, and one between its points and a third."""
    return hf.RigidLinks([(-1, 0), (0, 1), (2, 0), (1, 2)], [1.0, 0.8, 1.3, 0.5], points=3, space=2).double()


def test_closed_forms_of_links() -> None:
    rods = links()
    lengths = rods.lengths

    def same(q: Tensor) -> Tensor:
        a, b, c = q.unflatten(-1, (3, 2)).unbind(-2)
        ends = torch.stack((a, a - b, c - a, b - c), dim=-2)
        return (ends.square().sum(-1) - lengths**2) / (2 * lengths)

    other = hf.FunctionConstraint(same)
    q, v = states(5, 6)
    multipliers = states(5, 4)[0]
    for found, expected in (
        (rods(q), other(q)),
        (rods.along(q, v), other.along(q, v)),
        (rods.pullback(q, multipliers), other.pullback(q, multipliers)),
        (rods.bend(q, v), other.bend(q, v)),
        (rods.jacobian(q), other.jacobian(q)),
    ):
        torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)
    jacobian = torch.stack([torch.autograd.functional.jacobian(same, x) for x in q])
    torch.testing.assert_close(rods.jacobian(q), jacobian)
    again = hf.RigidLinks(**rods.arguments()).double()
    assert torch.equal(again(q), rods(q)) and again.arguments() == rods.arguments()


def test_a_pendulum_in_cartesian_coordinates(float64: torch.dtype) -> None:
    """m = 2, l = 0.7 under gravity, against the equation of its angle from straight down."""
    length, friction = 0.7, hf.RayleighFriction(2, rates=0.4)
    weight = hf.MechanicalLagrangian(ConstantMass(2, 2.0), hf.FunctionEnergy(lambda q: 2 * 9.81 * q[..., 1]))
    rod = hf.FunctionConstraint(lambda q: (q**2).sum(-1, keepdim=True) - length**2)
    angle, rate = states(8, 1, size=2.0)
    along = torch.cat((angle.cos(), angle.sin()), -1)
    q, v = length * torch.cat((angle.sin(), -angle.cos()), -1), length * rate * along
    # m l^2 a'' = -m g l sin a - l^2 c a'.
    bend = -9.81 / length * angle.sin() - 0.4 / 2 * rate
    expected = length * (bend * along - rate**2 * torch.cat((angle.sin(), -angle.cos()), -1))
    terms = weight.terms(q, v)
    found = constrained_acceleration(terms, rod, q, v, applied=friction(q, v))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    # The condition keeps its value to second order in time.
    torch.testing.assert_close(rod.bend(q, v) + rod.along(q, found), torch.zeros(8, 1, dtype=F64), rtol=0, atol=1e-12)


def test_constraints_that_are_not_independent() -> None:
    q, v = torch.tensor([[0.6, 0.8]], dtype=F64), torch.tensor([[-0.8, 0.6]], dtype=F64)
    terms = hf.FunctionLagrangian(lambda a, b: 0.5 * (b**2).sum(-1)).terms(q, v)
    twice = hf.RigidLinks([(-1, 0), (0, -1)], 1.0, points=1, space=2)
    with pytest.raises(hf.SolveError, match="of the constraints of 1 of 1 states is singular: condition number"):
        constrained_acceleration(terms, twice, q, v)
    singular = Terms(terms.force, terms.momentum, torch.diag(torch.tensor([1.0, 0.0], dtype=F64))[None], v)
    once = hf.RigidLinks([(-1, 0)], 1.0, points=1, space=2)
    with pytest.raises(hf.SolveError, match="the mass matrix of 2 of 2 states is singular"):
        constrained_acceleration(singular, once, q, v)
    assert constrained_acceleration(singular, once, q, v, regulariser=1e-3).isfinite().all()


# The Legendre transform.

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


# What is refused.

SPRING = hf.FunctionLagrangian(lambda q, v: (v**2 - q**2).sum(-1))
Q, V = torch.ones(2, 3, 2)

BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "function": (
        lambda: hf.FunctionLagrangian(lambda q, v: v**2)(Q, V),
        r"function returned shape \(3, 2\) for q of shape \(3, 2\), expected \(3,\)",
    ),
    "sum_nothing": (lambda: hf.SumLagrangian(), "terms is empty"),
    "sum_energy": (lambda: SPRING + nn.Linear(1, 1), "terms is Linear, expected one Lagrangian or more"),  # type: ignore[operator]
    "mass": (lambda: hf.MechanicalLagrangian(torch.eye(2), hf.RidgePotential(2)), "mass is a Tensor, expected a Mass"),  # type: ignore[arg-type]
    "potential": (lambda: hf.MechanicalLagrangian(ConstantMass(2), SPRING), "potential is a FunctionLagrangian"),  # type: ignore[arg-type]
    "legendre": (lambda: hf.LegendreHamiltonian(Pendulum()), "lagrangian is a Pendulum"),  # type: ignore[arg-type]
    "legendre_back": (lambda: hf.LegendreLagrangian(SPRING), "hamiltonian is a FunctionLagrangian"),  # type: ignore[arg-type]
    "dim": (lambda: ConstantMass(0), "dim = 0"),
    "negative_mass": (lambda: ConstantMass(2, -1.0), "mass = -1.0, expected a positive number"),
    "masses": (lambda: ConstantMass(2, torch.ones(3)), r"expected a positive number or .* of shape \(2,\)"),
    "structure": (lambda: ConstantMass(2, structure="round"), "structure = 'round'"),
    "space": (lambda: ConstantMass(3, structure="bodies", space=2), "space = 2 for dim = 3"),
    "space_alone": (lambda: ConstantMass(4, space=2), "space = 2 for dim = 4 and structure = 'diagonal'"),
    "epsilon": (lambda: NetworkMass(2, epsilon=0.0), "epsilon = 0.0"),
    "mass_widths": (lambda: NetworkMass(2, ()), "widths is empty"),
    "mass_angles": (lambda: NetworkMass(2, periodic=(2,)), r"periodic = \(2,\), expected different indices"),
    "network_widths": (lambda: hf.NetworkLagrangian(2, (8, 0)), "widths = 0"),
    "network_angles": (lambda: hf.NetworkLagrangian(2, periodic=(0, 0)), r"periodic = \(0, 0\)"),
    "network_shape": (lambda: hf.NetworkLagrangian(2, (8,), periodic=(0,))(*torch.ones(2, 3)), r"q has shape \(3,\)"),
    "network_speeds": (lambda: hf.NetworkLagrangian(2, (8,)).terms(Q, V[..., :1]), r"v has shape \(3, 1\), expected"),
    "mass_shape": (lambda: NetworkMass(2, (8,))(Q[..., :1]), r"q has shape \(3, 1\), expected \(\*batch, 2\)"),
    "friction_dim": (lambda: hf.RayleighFriction(0), "dim = 0"),
    "friction": (lambda: hf.RayleighFriction(2, rates=0.0), "rates = 0.0, expected a positive number"),
    "frictions": (lambda: hf.RayleighFriction(2, rates=torch.ones(3)), r"tensor of shape \(2,\)"),
    "friction_inf": (lambda: hf.RayleighFriction(1, rates=math.inf), "rates = inf"),
    "constraint": (
        lambda: hf.FunctionConstraint(lambda q: q.sum(-1))(Q),
        r"function returned shape \(3,\) .* one dimension of conditions",
    ),
    "links": (lambda: hf.RigidLinks([], 1.0, points=1, space=2), r"links = \[\], expected pairs"),
    "link_beyond": (lambda: hf.RigidLinks([(0, 1)], 1.0, points=1, space=2), "different points from -1 to 0"),
    "link_itself": (lambda: hf.RigidLinks([(0, 0)], 1.0, points=1, space=2), "expected pairs of different points"),
    "link_of_three": (lambda: hf.RigidLinks([(0, 1, 2)], 1.0, points=3, space=2), "expected pairs"),  # type: ignore[list-item]
    "length": (lambda: hf.RigidLinks([(-1, 0)], 0.0, points=1, space=2), "lengths = 0.0, expected a positive number"),
    "lengths": (lambda: hf.RigidLinks([(-1, 0)], [1.0, 2.0], points=1, space=2), "or 1 of them"),
    "points": (lambda: hf.RigidLinks([(-1, 0)], 1.0, points=0, space=2), "points = 0"),
    "links_space": (lambda: hf.RigidLinks([(-1, 0)], 1.0, points=1, space=0), "space = 0"),
    "links_shape": (lambda: links()(torch.ones(4)), r"q has shape \(4,\), expected \(\*batch, 6\)"),
}  # fmt: skip


@pytest.mark.parametrize(("call", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_named(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(hf.InputError, match=message):
        call()


@pytest.mark.parametrize("make", [hf.Lagrangian, MassMatrix, Constraint, hf.energies.Force])
def test_a_base_says_what_is_missing(make: Any) -> None:
    arguments = (Q,) if make in (MassMatrix, Constraint) else (Q, V)
    with pytest.raises(NotImplementedError, match=f"{make.__name__} must implement forward"):
        make()(*arguments)
