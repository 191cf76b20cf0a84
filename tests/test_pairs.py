"""Bodies that act in pairs: laws, symmetries, and masses that energies share. The promises are in test_members.py."""

import copy
import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from hamflow.energies import (
    BodyKinetic,
    BodyMasses,
    Energy,
    NewtonPotential,
    PairEnergy,
    PairPotential,
    SeparableHamiltonian,
)
from hamflow.errors import InputError
from hamflow.testing import check_energy
from tests.parts import bodies, body_masses, shaken


class Springs(PairEnergy):
    """A pair law that a user wrote, without its derivative."""

    def profile(self, rho: Tensor) -> Tensor:
        return 0.5 * (rho - 1) ** 2


LAWS: dict[str, Callable[..., PairEnergy]] = {"learned": PairPotential, "newton": NewtonPotential, "springs": Springs}
each_law = pytest.mark.parametrize("law", LAWS.values(), ids=LAWS.keys())


def made(law: Callable[..., PairEnergy], n: int, space: int, masses: float | Tensor = 1.0) -> PairEnergy:
    potential = shaken(law(n, space))
    potential.masses = BodyMasses(n, masses)
    return potential.double()


def test_newton_against_a_double_loop(float64: torch.dtype) -> None:
    gravity, softening = 0.7, 0.2
    masses, places = torch.rand(4) + 0.5, torch.randn(6, 4, 3)
    potential = NewtonPotential(4, 3, gravity=gravity, masses=masses, softening=softening)
    m, x = masses.numpy(), places.numpy()
    energy, gradient = np.zeros(6), np.zeros((6, 4, 3))
    for b in range(6):
        for i in range(4):
            for j in range(4):
                if i != j:
                    rho = np.sqrt(((x[b, i] - x[b, j]) ** 2).sum() + softening**2)
                    energy[b] -= 0.5 * gravity * m[i] * m[j] / rho
                    gradient[b, i] += gravity * m[i] * m[j] * (x[b, i] - x[b, j]) / rho**3
    q = places.flatten(-2)
    np.testing.assert_allclose(potential(q), energy, rtol=1e-13)
    np.testing.assert_allclose(potential.gradient(q).detach(), gradient.reshape(6, 12), rtol=1e-12, atol=1e-13)


@each_law
def test_exchange_of_equal_bodies(law: Callable[..., PairEnergy], float64: torch.dtype) -> None:
    potential = made(law, 4, 2)
    places, order = torch.randn(5, 4, 2), torch.tensor([2, 0, 3, 1])
    q, exchanged = places.flatten(-2), places[:, order].flatten(-2)
    torch.testing.assert_close(potential(exchanged), potential(q), rtol=1e-13, atol=1e-13)
    expected = potential.gradient(q).unflatten(-1, (4, 2))[:, order].flatten(-2)
    torch.testing.assert_close(potential.gradient(exchanged), expected, rtol=1e-12, atol=1e-12)


@each_law
def test_bodies_of_different_mass_are_told_apart(law: Callable[..., PairEnergy], float64: torch.dtype) -> None:
    potential = made(law, 3, 2, torch.tensor([1.0, 2.0, 4.0]))
    places = torch.randn(5, 3, 2)
    assert (potential(places[:, [1, 0, 2]].flatten(-2)) - potential(places.flatten(-2))).abs().min() > 1e-3


@each_law
def test_momentum_angular_momentum_and_rotation(law: Callable[..., PairEnergy], float64: torch.dtype) -> None:
    potential = made(law, 5, 3, torch.tensor([1.0, 2.0, 4.0, 0.1, 3.0]))
    places = torch.randn(7, 5, 3)
    forces = -potential.gradient(places.flatten(-2)).unflatten(-1, (5, 3))
    scale = float(forces.detach().abs().max())
    assert float(forces.detach().sum(-2).abs().max()) <= 1e-12 * scale
    assert float(torch.linalg.cross(places, forces.detach()).sum(-2).abs().max()) <= 1e-12 * scale
    rotation = torch.linalg.qr(torch.randn(3, 3)).Q
    moved = (places @ rotation + torch.randn(3)).flatten(-2)
    torch.testing.assert_close(potential(moved), potential(places.flatten(-2)), rtol=1e-11, atol=1e-11)
    turned = -potential.gradient(moved).unflatten(-1, (5, 3))
    torch.testing.assert_close(turned, forces @ rotation, rtol=1e-10, atol=1e-10 * scale)


def test_a_users_law_is_differentiated() -> None:
    assert check_energy(Springs(4, 2, masses=0.5), 8).gradient <= 1e-12


def test_learned_law_can_be_gravity(float64: torch.dtype) -> None:
    """A few hundred steps of LBFGS on forces between two bodies teach 1/r to all pairs of three."""
    potential = PairPotential(2, 2, widths=(16,))
    distances = torch.linspace(0.4, 4, 60).unsqueeze(-1)
    q = torch.cat((distances, torch.zeros(60, 3)), -1)
    expected = NewtonPotential(2, 2).gradient(q)
    optimiser = torch.optim.LBFGS(potential.parameters(), max_iter=400, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = (potential.gradient(q) - expected).square().mean()
        value.backward()
        return value

    optimiser.step(loss)
    three = PairPotential(3, 2, widths=(16,))
    three.network.load_state_dict(potential.network.state_dict())
    triangle = torch.tensor([[0.0, 0.0, 1.0, 0.0, 0.3, 1.5]])
    torch.testing.assert_close(three.gradient(triangle), NewtonPotential(3, 2).gradient(triangle), rtol=0.01, atol=0.01)


def test_bodies_that_meet_exert_finite_forces() -> None:
    for potential in (shaken(PairPotential(2, 2)), NewtonPotential(2, 2, softening=0.1)):
        q = torch.ones(1, 4, requires_grad=True)
        gradient = potential.gradient(q)
        gradient.square().sum().backward()
        assert gradient.isfinite().all()
        assert q.grad is not None
        assert q.grad.isfinite().all()


def test_kinetic_energy_of_bodies(float64: torch.dtype) -> None:
    kinetic = BodyKinetic(2, 3, masses=torch.tensor([2.0, 5.0]))
    p = torch.randn(4, 6)
    expected = (p[:, :3] ** 2).sum(-1) / 4 + (p[:, 3:] ** 2).sum(-1) / 10
    torch.testing.assert_close(kinetic(p), expected)
    torch.testing.assert_close(kinetic.gradient(p) @ kinetic.mass(), p)


def shares_masses(hamiltonian: SeparableHamiltonian) -> bool:
    kinetic, potential = hamiltonian.kinetic, hamiltonian.potential
    return kinetic.masses.log_masses is potential.masses.log_masses  # type: ignore[union-attr]


def test_shared_masses_stay_shared() -> None:
    hamiltonian = bodies()
    twin = copy.deepcopy(hamiltonian)
    assert shares_masses(hamiltonian) and shares_masses(twin)
    assert twin.kinetic.masses.log_masses is not hamiltonian.kinetic.masses.log_masses  # type: ignore[union-attr]
    with torch.no_grad():
        hamiltonian.kinetic.masses.log_masses.add_(1.0)  # type: ignore[union-attr,operator]
    file = io.BytesIO()
    torch.save(hamiltonian.state_dict(), file)
    file.seek(0)
    twin.load_state_dict(torch.load(file, weights_only=True))
    assert shares_masses(twin)
    q, p = torch.randn(3, 6), torch.randn(3, 6)
    torch.testing.assert_close(twin.gradient(q, p), hamiltonian.gradient(q, p))


def test_shared_masses_are_trained_by_both_energies() -> None:
    q, p = torch.randn(3, 6), torch.randn(3, 6)
    hamiltonian = bodies()
    (parameter,) = hamiltonian.parameters()
    both, *parts = (
        torch.autograd.grad(value.sum(), parameter)[0]
        for value in (hamiltonian(q, p), hamiltonian.kinetic(p), hamiltonian.potential(q))
    )
    torch.testing.assert_close(both, parts[0] + parts[1])
    assert all(part.abs().min() > 0 for part in parts)


def test_masses_of_a_number_are_fixed() -> None:
    energies: list[Energy] = [NewtonPotential(3, 2, masses=2.0), BodyKinetic(3, 2, masses=2.0)]
    assert not any(parameter.requires_grad for energy in energies for parameter in energy.parameters())
    torch.testing.assert_close(BodyMasses(3, 2.0)(), torch.full((3,), 2.0))


REFUSALS = {
    "one_body": (lambda: NewtonPotential(1, 2), "bodies = 1, expected at least 2"),
    "space": (lambda: NewtonPotential(2, 0), "space = 0"),
    "gravity": (lambda: NewtonPotential(2, 2, gravity=-1.0), "gravity = -1.0"),
    "softening": (lambda: NewtonPotential(2, 2, softening=-0.1), "softening = -0.1, expected a number from 0 on"),
    "scale": (lambda: PairPotential(2, 2, scale=0.0), "scale = 0.0"),
    "mass_sign": (lambda: BodyMasses(2, -1.0), "masses = -1.0, expected a positive"),
    "mass_shape": (lambda: BodyKinetic(2, 2, masses=torch.ones(3)), r"shape \(2,\)"),
    "mass_bodies": (lambda: NewtonPotential(2, 2, masses=body_masses()), "masses are of 3 bodies, expected 2"),
    "positions": (
        lambda: NewtonPotential(3, 2)(torch.ones(5, 4)),
        r"x has shape \(5, 4\), expected \(\*batch, 6\): 3 bodies of 2 coordinates",
    ),
}


@pytest.mark.parametrize(("call", "message"), REFUSALS.values(), ids=REFUSALS.keys())
def test_bad_arguments_are_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


def test_abstract_pair_energy_says_what_is_missing() -> None:
    with pytest.raises(NotImplementedError, match="PairEnergy must implement profile"):
        PairEnergy(2, 1)(torch.ones(2))
