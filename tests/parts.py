"""What the members of tests/members.py are built of: energies, systems and transforms made anew by each call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from nflows.nn.nets import ResidualNet
from nflows.transforms import PiecewiseRationalQuadraticCouplingTransform
from torch import Tensor, nn

from hamflow.energies import (
    BodyKinetic,
    BodyMasses,
    ConstantMass,
    FieldLagrangian,
    FunctionEnergy,
    LegendreLagrangian,
    MassMatrix,
    MechanicalLagrangian,
    MLPPotential,
    NetworkLagrangian,
    NewtonPotential,
    PeriodicEnergy,
    QuadraticKinetic,
    RidgePotential,
    SeparableHamiltonian,
)
from hamflow.flow import layered_hamiltonian
from hamflow.standardize import Whitening
from hamflow.steps import (
    YOSHIDA4,
    GaussLegendre,
    Splitting,
    Step,
)
from hamflow.systems import (
    DoublePendulum,
    System,
)

Module = TypeVar("Module", bound=nn.Module)


def shaken(module: Module, scale: float = 0.3) -> Module:
    """The module with noise on its parameters: fresh potentials are zero and fresh masses one, which hides mistakes."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return module


MASS = torch.tensor([0.5, 2.0])


def pendulums() -> SeparableHamiltonian:
    """Two pendulums of masses 0.5 and 2: each potential is one ridge, -3 cos q = 3 sin(q - pi/2)."""
    potential = RidgePotential(2, width=2, activation="sine")
    with torch.no_grad():
        potential.weight.copy_(torch.eye(2).unsqueeze(0))
        potential.bias.fill_(-torch.pi / 2)
        potential.amplitude.fill_(3.0)
    return SeparableHamiltonian(QuadraticKinetic(2, mass=MASS), potential)


def double_well(q: Tensor) -> Tensor:
    return ((q**2 - 1) ** 2).sum(-1) / 4 + q[..., 0] * q[..., 1] / 2


def learned(structure: str = "diagonal") -> SeparableHamiltonian:
    return shaken(
        SeparableHamiltonian(QuadraticKinetic(2, structure=structure, learn=True), MLPPotential(2, widths=(8, 8)))
    )


def angles(dim: int, periodic: tuple[int, ...]) -> PeriodicEnergy:
    return PeriodicEnergy(shaken(MLPPotential(dim + len(periodic), widths=(8, 6))), periodic, dim)


def body_masses() -> BodyMasses:
    return BodyMasses(3, torch.tensor([0.5, 1.0, 2.0]), learn=True)


def bodies() -> SeparableHamiltonian:
    """Three bodies in the plane; kinetic and potential energy share the learned masses."""
    masses = body_masses()
    return SeparableHamiltonian(BodyKinetic(3, 2, masses=masses), NewtonPotential(3, 2, masses=masses, softening=1.0))


def geodesic(q: Tensor, p: Tensor) -> Tensor:
    """A particle whose mass depends on its place: not separable."""
    return (p**2 / (2 + q.cos()) + 0.5 * q**2).sum(-1)


class Coupled(nn.Module):
    """A learned Hamiltonian that is not separable."""

    def __init__(self) -> None:
        super().__init__()
        self.energy = RidgePotential(4, width=8)

    def forward(self, q: Tensor, p: Tensor) -> Tensor:
        return self.energy(torch.cat((q, p), -1)) + 0.5 * (p**2).sum(-1)


class Bowl(nn.Module):
    """A potential that a user wrote, with a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.stiffness = nn.Parameter(torch.tensor([1.0, 3.0]))

    def forward(self, q: Tensor) -> Tensor:
        return (self.stiffness * (1 + q**2).sqrt()).sum(-1)


def layered() -> SeparableHamiltonian:
    return shaken(layered_hamiltonian(2, n_steps=8, width=8, dt=0.25))


def nflows_spline(dim: int = 2, context: int | None = None) -> PiecewiseRationalQuadraticCouplingTransform:
    torch.manual_seed(3)
    return PiecewiseRationalQuadraticCouplingTransform(
        torch.tensor([(-1.0) ** k for k in range(dim)]),
        lambda n_in, n_out: shaken(ResidualNet(n_in, n_out, 8, context_features=context, num_blocks=1), 0.1),
        num_bins=4,
        tails="linear",
        tail_bound=3.0,
    )


def whitening() -> Whitening:
    rows = torch.randn(50, 3, generator=torch.Generator().manual_seed(5))
    return Whitening(3).estimate(rows @ torch.tensor([[1.0, 2.0, 0.0], [0.0, 5.0, 1.0], [0.0, 0.0, 0.1]]), "full")


def pyro_coupling(kind: Callable[[int], nn.Module]) -> nn.Module:
    torch.manual_seed(4)
    return kind(2)


def suited(system: System) -> Step:
    """A step whose order can be measured, explicit where the system allows it."""
    return Splitting(system, YOSHIDA4) if isinstance(system, SeparableHamiltonian) else GaussLegendre(system, 2)


def units(module: Any) -> Any:
    """A network of three coordinates, the second an angle, in units that are not one."""
    sizes = torch.tensor([2.0, 1.0, 3.0]), torch.tensor([0.5, 2.0, 1.0])
    more = (0.7,) if isinstance(module, NetworkLagrangian) else ()
    return shaken(module, 0.1).set_units(torch.tensor([1.0, 0.0, 0.5]), *sizes, *more)


class Metric(MassMatrix):
    """A mass matrix that a user wrote, without closed forms."""

    def forward(self, q: Tensor) -> Tensor:
        return torch.diag_embed(2 + q.cos()) + 0.3 * torch.ones(q.shape[-1], q.shape[-1]).to(q)


def slow_arm() -> LegendreLagrangian:
    return LegendreLagrangian(DoublePendulum((2.0, 1.0), (2.0, 1.0), gravity=1.0))


def chain(mass: MassMatrix | None = None) -> MechanicalLagrangian:
    """Two bodies in the plane under gravity, to be hung on rods."""
    weights = torch.tensor([0.7, 1.3])
    mass = mass or ConstantMass(4, weights, structure="bodies", space=2, learn=True)
    return MechanicalLagrangian(mass, FunctionEnergy(lambda q: 3 * (q[..., 1::2] @ weights.to(q))))


def field(lagrangian: FieldLagrangian) -> FieldLagrangian:
    """A field in units that are not one, with masses between neighbours and slopes that the velocity carries."""
    sizes = torch.tensor([2.0, 1.0, 1.0]), torch.tensor([0.5, 2.0, 2.0])
    shaken(lagrangian, 0.1).density.set_units(torch.tensor([0.3, 0.0, 0.0]), *sizes, 0.7)
    return lagrangian
