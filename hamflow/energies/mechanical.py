"""The Lagrangian of mechanics: kinetic minus potential energy."""

from __future__ import annotations

from torch import Tensor

from hamflow.energies.hamiltonian import Energy, Time
from hamflow.energies.inertia import solve_mass
from hamflow.energies.lagrangian import Lagrangian, Terms
from hamflow.energies.masses import MassMatrix
from hamflow.errors import InputError


class MechanicalLagrangian(Lagrangian):
    r"""Kinetic minus potential energy, :math:`L(q, v, t) = \tfrac12 v^\top M(q)\, v - V(q, t)`.

    Args:
        mass: M, a :class:`MassMatrix`.
        potential: V, an :class:`hamflow.Energy` of the position; a sum of a known one and a network, say.

    Raises:
        InputError: an argument is of the wrong kind.

    References:
        Lutter, Ritter and Peters (2019), Deep Lagrangian Networks, arXiv 1907.04490.

    Example:
        >>> import torch, hamflow as hf
        >>> L = hf.MechanicalLagrangian(hf.NetworkMass(2, widths=(16,)), hf.RidgePotential(2, width=16))
        >>> L.acceleration(torch.zeros(5, 2), torch.ones(5, 2)).shape
        torch.Size([5, 2])
    """

    def __init__(self, mass: MassMatrix, potential: Energy) -> None:
        super().__init__()
        if not isinstance(mass, MassMatrix):
            raise InputError(f"mass is a {type(mass).__name__}, expected a MassMatrix such as NetworkMass")
        if not isinstance(potential, Energy):
            raise InputError(f"potential is a {type(potential).__name__}, expected an Energy such as FunctionEnergy")
        self.mass = mass
        self.potential = potential

    def forward(self, q: Tensor, v: Tensor, t: Time = 0.0) -> Tensor:
        """The Lagrangian, q and v of shape (*batch, d) -> (*batch,)."""
        kinetic: Tensor = 0.5 * (self.momentum(q, v, t) * v).sum(-1)
        return kinetic - self.potential(q, t)

    def gradient(self, q: Tensor, v: Tensor, t: Time = 0.0) -> tuple[Tensor, Tensor]:
        """The pair (dL/dq, dL/dv), each (*batch, d)."""
        inertia = self.mass.inertia(q, v)
        return inertia.pull - self.potential.gradient(q, t), inertia.momentum

    def terms(self, q: Tensor, v: Tensor, t: Time = 0.0) -> Terms:
        """What the equations of motion are made of; q and v of shape (*batch, d)."""
        inertia = self.mass.inertia(q, v)
        force = inertia.pull - self.potential.gradient(q, t)
        return Terms(force, inertia.momentum, inertia.mass, inertia.transport)

    def momentum(self, q: Tensor, v: Tensor, t: Time = 0.0) -> Tensor:
        """The canonical momentum M(q) v, (*batch, d)."""
        product: Tensor = (self.mass(q) @ v.unsqueeze(-1)).squeeze(-1)
        return product

    def mass_matrix(self, q: Tensor, v: Tensor, t: Time = 0.0) -> Tensor:
        """M(q), (*batch, d, d)."""
        matrix: Tensor = self.mass(q)
        return matrix

    def velocity(self, q: Tensor, p: Tensor, t: Time = 0.0, *, guess: Tensor | None = None) -> Tensor:
        """The velocity M(q)^-1 p, (*batch, d)."""
        return solve_mass(self.mass(q), p)

    def energy(self, q: Tensor, v: Tensor, t: Time = 0.0) -> Tensor:
        """Kinetic plus potential energy, (*batch,)."""
        kinetic: Tensor = 0.5 * (self.momentum(q, v, t) * v).sum(-1)
        return kinetic + self.potential(q, t)
