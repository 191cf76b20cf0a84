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
)
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
