"""Energies: what they compute, the layers, and what they refuse. The shared promises are in test_members.py."""

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from hamflow.energies import (
    Energy,
    FunctionEnergy,
    FunctionHamiltonian,
    Hamiltonian,
    JointHamiltonian,
    MLPPotential,
    PeriodicEnergy,
    QuadraticKinetic,
    RidgePotential,
    SeparableHamiltonian,
    SumEnergy,
)
from hamflow.energies.features import AngleFeatures
from hamflow.energies.slope import Slope
from hamflow.errors import InputError
from hamflow.testing import check_energy
from tests.parts import shaken


def test_kinetic_energy_is_the_quadratic_form_of_the_inverse_mass(float64: torch.dtype) -> None:
    kinetic = shaken(QuadraticKinetic(3, mass=2.0, structure="full", learn=True))
    p = torch.randn(5, 3)
    inverse = torch.linalg.inv(kinetic.mass())
    torch.testing.assert_close(kinetic(p), 0.5 * torch.einsum("bi,ij,bj->b", p, inverse, p))
    torch.testing.assert_close(kinetic.gradient(p), p @ inverse)


@pytest.mark.parametrize("structure", ["diagonal", "full"])
def test_initial_mass(structure: str) -> None:
    mass = torch.tensor([0.5, 4.0])
    kinetic = QuadraticKinetic(2, mass=mass, structure=structure)
    torch.testing.assert_close(kinetic.mass(), mass.diag())
    assert not any(parameter.requires_grad for parameter in kinetic.parameters())


def test_mass_stays_positive_definite_while_it_is_learned() -> None:
    kinetic = shaken(QuadraticKinetic(4, structure="full", learn=True), scale=3.0)
    assert torch.linalg.eigvalsh(kinetic.mass().double()).min() > 0


def test_fresh_ridge_potential_exerts_no_force() -> None:
    assert not RidgePotential(2, width=16).gradient(torch.randn(5, 2)).any()


def test_log_cosh_does_not_overflow() -> None:
    potential = shaken(RidgePotential(1, width=4))
    assert torch.isfinite(potential(torch.tensor([[1e30], [-1e30]]))).all()


def test_sum_adds_values_and_gradients() -> None:
    one, two = shaken(RidgePotential(2, width=4)), FunctionEnergy(lambda q: (q**4).sum(-1))
    both = one + two
    q = torch.randn(5, 2)
    assert isinstance(both, SumEnergy)
    torch.testing.assert_close(both(q), one(q) + two(q))
    torch.testing.assert_close(both.gradient(q), one.gradient(q) + 4 * q**3)
    assert len(list(both.parameters())) == 3


@pytest.mark.parametrize("make", [RidgePotential, MLPPotential, QuadraticKinetic], ids=lambda make: make.__name__)
def test_each_layer_has_its_own_parameters(make: type[Energy]) -> None:
    energy = shaken(make(2, layers=3, spacing=0.25))
    x = torch.randn(4, 2)
    values = [energy(x, t) for t in (0.0, 0.25, 0.5)]
    assert not torch.equal(values[0], values[1])
    assert not torch.equal(values[1], values[2])
    assert torch.equal(energy(x, 0.25 + 1e-9), values[1]), "rounding in t must not move to another layer"
    torch.testing.assert_close(energy(x, 0.36), values[1])
    for t in (-0.25, 0.75):
        with pytest.raises(InputError, match=r"t = .* falls in layer .*3 layers of spacing 0\.25"):
            energy(x, t)


def test_one_layer_acts_at_all_times() -> None:
    energy = shaken(RidgePotential(2, width=4))
    x = torch.randn(4, 2)
    assert torch.equal(energy(x, 0.0), energy(x, 1e6))


def test_frozen_energy_leaks_no_graph() -> None:
    for energy in (RidgePotential(2, width=4), MLPPotential(2), FunctionEnergy(lambda q: q.sum(-1) ** 2)):
        assert not energy.requires_grad_(False).gradient(torch.randn(3, 2)).requires_grad


def test_gradient_is_differentiable_in_the_parameters_of_a_users_function() -> None:
    weight = torch.nn.Linear(2, 1)
    energy = FunctionEnergy(lambda q: weight(q).tanh().squeeze(-1))
    energy.gradient(torch.randn(3, 2)).sum().backward()
    assert weight.weight.grad is not None
    assert weight.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("init", ["scaled", "orthogonal"])
def test_parameter_gradient_of_a_loss_is_that_of_double_backward(init: str, float64: torch.dtype) -> None:
    hamiltonian = JointHamiltonian(MLPPotential(4, widths=(20, 30, 20), init=init))
    q, p, q_dot, p_dot = torch.randn(4, 50, 2)

    def flow_loss(dq: torch.Tensor, dp: torch.Tensor) -> torch.Tensor:
        return ((dp - q_dot) ** 2 + (dq + p_dot) ** 2).sum(-1).mean()

    leaves = (q.clone().requires_grad_(), p.clone().requires_grad_())
    twice = torch.autograd.grad(hamiltonian(*leaves).sum(), leaves, create_graph=True)
    closed = hamiltonian.gradient(q, p)
    torch.testing.assert_close(closed, twice, rtol=1e-12, atol=1e-12)
    parameters = list(hamiltonian.parameters())
    expected = torch.autograd.grad(flow_loss(*twice), parameters)
    found = torch.autograd.grad(flow_loss(*closed), parameters)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_orthogonal_start() -> None:
    energy = MLPPotential(2, widths=(20, 20), init="orthogonal", layers=2)
    for k in range(2):
        torch.testing.assert_close(energy.weights[0][k].T @ energy.weights[0][k], torch.eye(2))
        torch.testing.assert_close(energy.weights[1][k] @ energy.weights[1][k].T, torch.eye(20))
        torch.testing.assert_close(energy.readout[k].norm(), torch.tensor(1.0))
        assert 0 < float(energy.biases[1][k].detach().abs().max()) <= 20**-0.5


def test_joint_hamiltonian_is_its_energy(float64: torch.dtype) -> None:
    energy = FunctionEnergy(lambda x: x[..., 0] ** 2 * x[..., 2] + x[..., 1] * x[..., 3] ** 3)
    q, p = torch.tensor([[2.0, 3.0]]), torch.tensor([[5.0, 7.0]])
    joint = JointHamiltonian(energy)
    assert joint(q, p).item() == 4 * 5 + 3 * 343
    dq, dp = joint.gradient(q, p)
    torch.testing.assert_close((dq, dp), (torch.tensor([[20.0, 343.0]]), torch.tensor([[4.0, 441.0]])))


@pytest.mark.parametrize("turns", [(1, 0, 0), (0, 0, -3), (2, 0, 5)])
def test_angles_have_period_two_pi(turns: tuple[int, ...], float64: torch.dtype) -> None:
    energy = shaken(PeriodicEnergy(MLPPotential(5, widths=(16, 16)), periodic=(2, 0), dim=3))
    x = torch.randn(20, 3)
    turned = x + 2 * torch.pi * torch.tensor(turns)
    torch.testing.assert_close(energy(turned), energy(x), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(energy.gradient(turned), energy.gradient(x), rtol=1e-13, atol=1e-13)
    assert (energy(x + torch.tensor([0.0, 2 * torch.pi, 0.0])) - energy(x)).abs().min() > 1e-3


def test_angles_come_before_the_rest(float64: torch.dtype) -> None:
    seen = FunctionEnergy(lambda f: f @ torch.tensor([1.0, 10.0, 100.0, 1000.0, 1e4]))
    x = torch.tensor([0.1, 0.2, 0.3])
    expected = x[0].cos() + 10 * x[2].cos() + 100 * x[0].sin() + 1000 * x[2].sin() + 1e4 * x[1]
    torch.testing.assert_close(PeriodicEnergy(seen, (0, 2), 3)(x), expected)


def test_pairs_of_angles(float64: torch.dtype) -> None:
    features = AngleFeatures((0, 2), 3, pairs=True)
    x, direction = torch.randn(2, 5, 3)
    a, b, c = x.T
    turns = torch.stack((a, c, c - a, c + a), -1)
    torch.testing.assert_close(features(x), torch.cat((turns.cos(), turns.sin(), b.unsqueeze(-1)), -1))
    slopes = torch.randn(5, features.size)
    by_x, along = torch.func.vjp(features, x)[1](slopes)[0], torch.func.jvp(features, (x,), (direction,))[1]
    torch.testing.assert_close(features.pullback(features(x), slopes), by_x)
    torch.testing.assert_close(features.tangent(features(x), direction), along)


def test_pendulum_as_a_joint_hamiltonian_of_an_angle(float64: torch.dtype) -> None:
    inner = FunctionEnergy(lambda f: 3 * (1 - f[..., 0]) + f[..., 2] ** 2)
    joint = JointHamiltonian(PeriodicEnergy(inner, periodic=(0,), dim=2))
    q, p = torch.randn(9, 1), torch.randn(9, 1)
    torch.testing.assert_close(joint.gradient(q, p), (3 * q.sin(), 2 * p))
    torch.testing.assert_close(joint(q + 2 * torch.pi, p), joint(q, p))


REFUSALS = {
    "mass_sign": (lambda: QuadraticKinetic(2, mass=-1.0), "mass = -1.0, expected a positive"),
    "mass_nan": (lambda: QuadraticKinetic(2, mass=float("nan")), "mass = nan"),
    "mass_shape": (lambda: QuadraticKinetic(2, mass=torch.ones(3)), r"shape \(2,\)"),
    "structure": (lambda: QuadraticKinetic(2, structure="block"), "structure = 'block', expected one of 'diagonal'"),
    "dim": (lambda: RidgePotential(0), "dim = 0, expected a positive integer"),
    "dim_float": (lambda: MLPPotential(2.0), "dim = 2.0, expected a positive integer"),  # type: ignore[arg-type]
    "width": (lambda: RidgePotential(2, width=-3), "width = -3"),
    "widths": (lambda: MLPPotential(2, widths=()), "widths is empty"),
    "activation": (lambda: RidgePotential(2, activation="relu"), "activation = 'relu'"),
    "layers": (lambda: RidgePotential(2, layers=0), "layers = 0"),
    "spacing": (lambda: RidgePotential(2, spacing=0.0), "spacing = 0.0"),
    "sum": (lambda: SumEnergy(), "terms is empty"),
    "kinetic": (lambda: SeparableHamiltonian(lambda p: p, RidgePotential(2)), "kinetic is a function"),  # type: ignore[arg-type]
    "value": (lambda: FunctionEnergy(lambda q: q)(torch.ones(5, 2)), r"shape \(5, 2\).*expected \(5,\)"),
    "init": (lambda: MLPPotential(2, init="zero"), "init = 'zero', expected one of 'scaled'"),
    "joint": (lambda: JointHamiltonian(torch.nn.Linear(2, 1)), "energy is a Linear, expected an Energy"),  # type: ignore[arg-type]
    "joint_shapes": (
        lambda: JointHamiltonian(MLPPotential(3))(torch.ones(5, 2), torch.ones(5, 1)),
        r"p has shape \(5, 1\), expected that of q, \(5, 2\)",
    ),
    "periodic": (lambda: PeriodicEnergy(lambda q: q, (0,), 1), "energy is a function"),  # type: ignore[arg-type]
    "periodic_range": (lambda: PeriodicEnergy(MLPPotential(3), (2,), 2), r"periodic = \(2,\), .*from 0 to 1"),
    "periodic_twice": (lambda: PeriodicEnergy(MLPPotential(4), (0, 0), 2), r"periodic = \(0, 0\), expected different"),
    "periodic_none": (lambda: PeriodicEnergy(MLPPotential(2), (), 2), r"periodic = \(\), expected different"),
    "periodic_dim": (
        lambda: PeriodicEnergy(MLPPotential(3), (0,), 2)(torch.ones(5, 3)),
        r"x has shape \(5, 3\), expected \(\*batch, 2\)",
    ),
    "hamiltonian": (
        lambda: FunctionHamiltonian(lambda q, p: q * p)(torch.ones(5, 2), torch.ones(5, 2)),
        r"shape \(5, 2\).*expected \(5,\)",
    ),
}


@pytest.mark.parametrize(("call", "message"), REFUSALS.values(), ids=REFUSALS.keys())
def test_bad_arguments_are_named(call: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()  # type: ignore[operator]


def test_abstract_energies_say_what_is_missing() -> None:
    with pytest.raises(NotImplementedError, match="Energy must implement forward"):
        Energy()(torch.ones(2))
    with pytest.raises(NotImplementedError, match="Hamiltonian must implement forward"):
        Hamiltonian()(torch.ones(2), torch.ones(2))


class WrongGradient(RidgePotential):
    def gradient(self, x: torch.Tensor, t: float = 0.0) -> torch.Tensor:
        return 1.001 * super().gradient(x, t)


class DetachedGradient(RidgePotential):
    def gradient(self, x: torch.Tensor, t: float = 0.0) -> torch.Tensor:
        return super().gradient(x, t).detach()


class WrongPullback(RidgePotential):
    def slopes(self, times: Sequence[Any]) -> list[Slope]:
        return [
            slope._replace(pullback=lambda x, u, kept, *tensors: (2 * u, *tensors)) for slope in super().slopes(times)
        ]


class OtherSlopes(RidgePotential):
    def slopes(self, times: Sequence[Any]) -> list[Slope]:
        return [slope._replace(value=lambda x, *tensors: (x,)) for slope in super().slopes(times)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (WrongPullback, "the pullback of a slope against automatic differentiation"),
        (OtherSlopes, "slopes against the gradient"),
        (WrongGradient, r"gradient against automatic differentiation: \S+, expected <= 1.00e-12"),
        (DetachedGradient, "the result carries no derivative"),
    ],
)
def test_check_energy_finds_a_wrong_gradient(make: type[RidgePotential], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_energy(shaken(make(2, width=4)), 2)


def test_check_energy_finds_mixed_rows() -> None:
    with pytest.raises(AssertionError, match=r"one row|vmap"):
        check_energy(FunctionEnergy(lambda q: (q - q.mean()).square().sum(-1)), 2)


def test_check_energy_finds_overflow() -> None:
    with pytest.raises(AssertionError, match="not finite at points of size 100"):
        check_energy(FunctionEnergy(lambda q: q.cosh().log().sum(-1)), 2)


@pytest.mark.parametrize("activation", ["log_cosh", "softplus"])
@pytest.mark.parametrize("how", ["autocast", "bfloat16"])
def test_small_forces_survive_low_precision(activation: str, how: str) -> None:
    torch.manual_seed(0)
    potential = shaken(RidgePotential(3, width=16, activation=activation))
    with torch.no_grad():
        potential.bias.zero_()
    x, u = 0.01 * torch.randn(50, 3), torch.randn(50, 3)
    if activation == "softplus":
        x = 100 * x  # whose force does not vanish anywhere
    if how == "bfloat16":
        # Both of the numbers that are left.
        potential, x = potential.bfloat16(), x.bfloat16()
        exact = copy.deepcopy(potential).double()
    else:
        exact = copy.deepcopy(potential).double()
    found = []
    for energy, at in ((potential, x), (exact, x.double())):
        at = at.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast" and energy is potential):
            force = energy.gradient(at)
        force.backward(u.to(force.dtype))
        assert at.grad is not None and energy.weight.grad is not None
        found.append((force.double(), at.grad.double(), energy.weight.grad.double()))
    for ours, theirs in zip(*found, strict=True):
        assert float((ours - theirs).norm() / theirs.norm()) < 0.05


@pytest.mark.parametrize("make", [lambda: RidgePotential(3, 8), lambda: MLPPotential(3)], ids=["ridge", "mlp"])
def test_batches_of_more_dimensions_copy_nothing(make: Any) -> None:
    waiting, names = [shaken(make()).gradient(torch.randn(2, 5, 3, requires_grad=True)).grad_fn], set()
    while waiting:
        if (node := waiting.pop()) is not None:
            names.add(node.name())
            waiting += [following for following, _ in node.next_functions]
    # What is computed in place of a view.
    assert "CopySlices" not in names and any("Sigmoid" in name for name in names)
