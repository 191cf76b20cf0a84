"""Mass matrices and friction: what they start from, and the dtype that they keep."""

import math
from typing import Any

import pytest
import torch

import hamflow as hf
from hamflow.energies import (
    ConstantMass,
    MassMatrix,
    NetworkMass,
)
from tests.mechanisms import F64, states


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
    lagrangian = hf.FunctionLagrangian(lambda q, v: 0.5 * ((2 + q.cos()) * v**2 - q**2).sum(-1))
    terms = lagrangian.terms(q, v)
    a = terms.acceleration(friction(q, v))
    rate = torch.func.jvp(lagrangian.energy, (q, v), (v, a))[1]
    torch.testing.assert_close(rate, -torch.einsum("ni,ij,nj->n", v, matrix, v))
    assert not any(p.requires_grad for p in hf.RayleighFriction(2).parameters())
