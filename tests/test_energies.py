"""Energies: what they compute, the layers, and what they refuse. The shared promises are in test_members.py."""

import pytest
import torch

from hamflow.energies import (
    Energy,
    FunctionEnergy,
    FunctionHamiltonian,
    Hamiltonian,
    MLPPotential,
    QuadraticKinetic,
    RidgePotential,
    SeparableHamiltonian,
    SumEnergy,
)
from hamflow.errors import InputError
from hamflow.testing import check_energy
from tests.members import shaken


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


@pytest.mark.parametrize(
    ("make", "message"),
    [
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
