"""Lagrangians: what the equations of motion are made of, sums, networks at the start, and what is refused."""

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
)
from hamflow.systems import Pendulum
from tests.mechanisms import F64, states


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


EXPANDED = {
    "row": lambda x: x[:1].expand(4, 2),
    "column": lambda x: x[:, :1].expand(4, 2),
    "middle": lambda x: x[:, None].expand(4, 3, 2),
}


@pytest.mark.parametrize("expanded", EXPANDED.values(), ids=EXPANDED.keys())
def test_expanded_states_have_the_accelerations_of_their_copies(expanded: Callable[[Tensor], Tensor]) -> None:
    def energy(x: Tensor) -> Tensor:
        return 0.5 * x[..., 1] ** 2 + x[..., 0].cos() * x[..., 1]

    class Turning(MassMatrix):
        def forward(self, q: Tensor) -> Tensor:
            return torch.diag_embed(2 + q[..., [1]].sin() + torch.zeros_like(q))

    law = hf.FunctionLagrangian(lambda q, v: 0.5 * (v**2).sum(-1) + q[..., 1].cos() - q[..., 0] * v[..., 1])
    energies = hf.FunctionHamiltonian(lambda q, p: 0.5 * (p**2).sum(-1) + q[..., 0] * p[..., 1])
    circle = hf.FunctionConstraint(lambda q: (q[..., 0] ** 2 + q[..., 1] ** 2 - 1).unsqueeze(-1))
    q, v = (expanded(x) for x in states(4, 2))
    for function in (
        law.acceleration, hf.LNN(2, lagrangian=law, constraint=circle).acceleration,
        hf.LegendreLagrangian(energies).acceleration,
        hf.MechanicalLagrangian(Turning(), hf.FunctionEnergy(energy)).acceleration,
    ):  # fmt: skip
        assert torch.equal(function(q, v), function(q.clone(), v.clone()))


def by_module() -> nn.Module:
    class Module(nn.Module):
        def forward(self, q: Tensor, v: Tensor, t: Tensor) -> Tensor:
            return (t.sin() * q).sum(-1)

    return Module()


@pytest.mark.parametrize(
    "function", [lambda q, v, t: (t.sin() * q).sum(-1), lambda q, v, t=0.0: (t.sin() * q).sum(-1), by_module()]
)
@pytest.mark.parametrize("t", [0.7, torch.tensor(0.7, dtype=F64), torch.linspace(0, 1, 5, dtype=F64).unsqueeze(-1)])
def test_a_function_of_time_is_a_known_force(function: Any, t: Any) -> None:
    """v^2 + q sin t: the acceleration is sin(t) / 2."""
    law = hf.FunctionLagrangian(lambda q, v, mass=2.0: 0.5 * mass * (v**2).sum(-1)) + hf.FunctionLagrangian(function)
    q, v = states(5, 2)
    expected = (0.5 * torch.as_tensor(t, dtype=F64).sin()).expand(5, 2)
    torch.testing.assert_close(law.acceleration(q, v, t), expected, rtol=1e-14, atol=0)
    torch.testing.assert_close(hf.LNN(2, lagrangian=law).double().acceleration(q, v, t), expected, rtol=1e-14, atol=0)
    alone = law.acceleration(q[0], v[0], 0.7)
    torch.testing.assert_close(alone, torch.full_like(alone, 0.5 * math.sin(0.7)))


def test_expanded_times() -> None:
    q, v = (x.expand(3, 5, 1) for x in states(5, 1))
    times = torch.linspace(0, 1, 5, dtype=F64).expand(3, -1)[..., None]
    assert torch.equal(Driven().acceleration(q, v, times), Driven().acceleration(q, v, times.clone()))


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


@pytest.mark.parametrize("depth", [1, 3, 4, 8, 16])
def test_networks_start_with_a_positive_mass(depth: int) -> None:
    for seed in range(5):
        torch.manual_seed(seed)
        terms = hf.NetworkLagrangian(2, (64,) * depth).terms(*torch.randn(2, 200, 2))
        assert torch.linalg.eigvalsh(terms.mass).min() > 0.3
        assert terms.force.abs().max() < 1.5


# What is refused.

SPRING = hf.FunctionLagrangian(lambda q, v: (v**2 - q**2).sum(-1))
Q, V = torch.ones(2, 3, 2)


class Tall(hf.Lagrangian):
    def forward(self, q: Tensor, v: Tensor, t: Any = 0.0) -> Tensor:
        return v**2


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "function": (
        lambda: hf.FunctionLagrangian(lambda q, v: v**2)(Q, V),
        r"function returned shape \(3, 2\) for q of shape \(3, 2\), expected \(3,\)",
    ),
    "function_of_time": (
        lambda: hf.FunctionLagrangian(lambda q, v, t: t * q.sum(-1))(Q, V, 1.0),
        r"function, given t of shape \(3, 1\), returned shape \(3, 3\) for q of shape \(3, 2\), expected \(3,\)",
    ),
    "times": (
        lambda: hf.FunctionLagrangian(lambda q, v, t: t[..., 0])(Q, V, torch.ones(3)),
        r"t has shape \(3,\) for states of shape \(3, 2\), expected a number or shape \(3, 1\)",
    ),
    "own": (lambda: Tall().acceleration(Q, V), r"Tall returned shape \(3, 2\) for q of .*, expected \(3,\)"),
    "own_in_sum": (lambda: (SPRING + Tall())(Q, V), r"Tall returned shape \(3, 2\) for q of shape \(3, 2\)"),
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
