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
    RayleighFriction,
    ScaledEnergy,
    Terms,
)
from hamflow.energies.hamiltonian import Time
from hamflow.models.mechanics import potential_network
from hamflow.models.units import FRICTION, Units, sizes

#: mechanical: v' M(q) v / 2 - V(q), a network each. constant_mass: the same with one learned M. general: one network.
LAGRANGIANS = ("mechanical", "constant_mass", "general")
#: Friction begins as if each coordinate had at least this share of the mass that equal kinetic energies would give it.
_LEAST = 1e-2


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


@torch.no_grad()
def set_masses(
    lagrangian: Lagrangian,
    added: AddedMass | None,
    share: float,
    friction: RayleighFriction | None,
    q: Tensor,
    v: Tensor,
    units: Units,
) -> None:
    """Set what a regulariser adds, and where friction begins, by the masses of a Lagrangian at the start.

    Args:
        lagrangian: what is learned.
        added: the regulariser's part, if there is one.
        share: its size, relative to the masses of equal kinetic energies.
        friction: the learned friction, if there is one.
        q: positions, (n, d).
        v: velocities, (n, d).
        units: the sizes of velocities and accelerations.
    """
    mass = lagrangian.mass_matrix(q, v).diagonal(dim1=-2, dim2=-1).mean(0)
    # The masses that coordinates would have if their kinetic energies were equal.
    equal = (mass * units.velocity**2).mean() / units.velocity**2
    if added is not None:
        added.mass.copy_(share * equal)
    if friction is not None:
        rate = (units.force / units.velocity).mean()
        # From nothing friction could not grow: its logarithm is learned.
        least = (_LEAST * equal.abs()).clamp_min(torch.finfo(equal.dtype).tiny)
        friction.log_diagonal.copy_(0.5 * (FRICTION * rate * mass.abs().maximum(least)).log())
