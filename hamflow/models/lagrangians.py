"""Lagrangians that a Lagrangian Neural Network can learn, by name, in the units of the data."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hamflow.energies import (
    ConstantMass,
    Lagrangian,
    MechanicalLagrangian,
    NetworkLagrangian,
    NetworkMass,
    ScaledEnergy,
    Terms,
)
from hamflow.energies.hamiltonian import Time
from hamflow.models.mechanics import potential_network
from hamflow.models.units import sizes

#: mechanical: v' M(q) v / 2 - V(q), a network each. constant_mass: the same with one learned M. general: one network.
LAGRANGIANS = ("mechanical", "constant_mass", "general")


def named_lagrangian(kind: str, dim: int, widths: Sequence[int], periodic: Sequence[int]) -> Lagrangian:
    """The Lagrangian of that name in d coordinates; ``periodic`` lists those that are angles."""
    if kind == "general":
        return NetworkLagrangian(dim, widths, periodic=periodic)
    mass = (
        ConstantMass(dim, structure="full", learn=True)
        if kind == "constant_mass"
        else NetworkMass(dim, widths, periodic=periodic)
    )
    return MechanicalLagrangian(mass, ScaledEnergy(potential_network(dim, widths, periodic), dim))


@torch.no_grad()
def set_lagrangian_units(
    lagrangian: Lagrangian, q: Tensor, velocity: Tensor, acceleration: Tensor, periodic: Sequence[int]
) -> None:
    """Let the networks of a named Lagrangian see numbers of order one; its own unit is free and becomes that of v^2.

    Args:
        lagrangian: what :func:`named_lagrangian` made.
        q: positions, (n, d).
        velocity: the size of the velocities, (d,).
        acceleration: the size of the accelerations, (d,).
        periodic: the coordinates that are angles, which are their own unit.
    """
    centre, spread = q.mean(0), sizes(q)
    angles = list(periodic)
    centre[angles], spread[angles] = 0.0, 1.0
    if isinstance(lagrangian, NetworkLagrangian):
        lagrangian.set_units(centre, spread, velocity, velocity.square().mean())
        return
    assert isinstance(lagrangian, MechanicalLagrangian) and isinstance(lagrangian.potential, ScaledEnergy)
    # Coordinates of different units carry equal kinetic energies: the mass of each is one over its v^2.
    root = velocity.square().mean().sqrt() / velocity
    work = float((spread.double() * root.double().square() * acceleration.double()).mean())
    lagrangian.potential.set_units(centre, spread, work)
    if isinstance(lagrangian.mass, NetworkMass):
        lagrangian.mass.set_units(centre, spread, root)
    else:
        assert isinstance(lagrangian.mass, ConstantMass)
        lagrangian.mass.log_diagonal.copy_(root.log())


class AddedMass(Lagrangian):
    r"""The kinetic energy :math:`\tfrac12 \sum_i m_i v_i^2` that a regulariser adds to a Lagrangian.

    As a part of the law, and not of a solve, it is the same in accelerations, momenta, energies and steps.

    Args:
        mass: m, (d,).
    """

    mass: Tensor

    def __init__(self, mass: Tensor) -> None:
        super().__init__()
        self.register_buffer("mass", mass)

    def forward(self, q: Tensor, v: Tensor, t: Time = 0.0) -> Tensor:
        """The Lagrangian, q and v of shape (*batch, d) -> (*batch,)."""
        value: Tensor = 0.5 * (self.mass * v**2).sum(-1)
        return value

    def gradient(self, q: Tensor, v: Tensor, t: Time = 0.0) -> tuple[Tensor, Tensor]:
        """The pair (dL/dq, dL/dv), each (*batch, d)."""
        return torch.zeros_like(q), self.mass * v

    def terms(self, q: Tensor, v: Tensor, t: Time = 0.0) -> Terms:
        """What the equations of motion are made of; q and v of shape (*batch, d)."""
        still = torch.zeros_like(q)
        return Terms(still, self.mass * v, torch.diag(self.mass).expand(*v.shape, v.shape[-1]), still)
