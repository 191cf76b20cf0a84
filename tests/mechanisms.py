"""Lagrangians, chains and states that the tests of variational steps share."""

from typing import Any

import pytest
import torch
from torch import Tensor

import hamflow as hf
from hamflow.energies import ConstantMass, MassMatrix

F64 = torch.float64
RULES = pytest.mark.parametrize("rule", ["midpoint", "trapezoidal"])

#: Of the rods of a chain, and of its bodies.
LENGTHS, WEIGHTS = (1.0, 0.8), (0.7, 1.3)


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
