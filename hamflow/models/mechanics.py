"""Energies that a Hamiltonian Neural Network can learn, by name, in the units of the data."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hamflow.energies import (
    Energy,
    Hamiltonian,
    JointHamiltonian,
    MLPPotential,
    PeriodicEnergy,
    QuadraticKinetic,
    ScaledEnergy,
    SeparableHamiltonian,
)
from hamflow.energies.features import AngleFeatures
from hamflow.models.units import sizes

#: separable: T(p) + V(q), a network each. mechanical: a learned mass and a network V(q). joint: one network H(q, p).
ENERGIES = ("separable", "mechanical", "joint")


def named_hamiltonian(kind: str, dim: int, widths: Sequence[int], periodic: Sequence[int]) -> Hamiltonian:
    """The Hamiltonian of that name in d degrees of freedom; ``periodic`` lists the coordinates that are angles."""
    if kind == "joint":
        return JointHamiltonian(ScaledEnergy(potential_network(2 * dim, widths, periodic), 2 * dim))
    potential = ScaledEnergy(potential_network(dim, widths, periodic), dim)
    if kind == "mechanical":
        return SeparableHamiltonian(QuadraticKinetic(dim, structure="full", learn=True), potential)
    return SeparableHamiltonian(ScaledEnergy(potential_network(dim, widths, ()), dim), potential)


def potential_network(dim: int, widths: Sequence[int], periodic: Sequence[int]) -> Energy:
    """A network of d variables; ``periodic`` lists those that are angles."""
    if not periodic:
        return MLPPotential(dim, widths, init="orthogonal")
    size = AngleFeatures(periodic, dim, pairs=True).size
    return PeriodicEnergy(MLPPotential(size, widths, init="orthogonal"), periodic, dim, pairs=True)


@torch.no_grad()
def set_units(
    hamiltonian: Hamiltonian, q: Tensor, p: Tensor, velocity: Tensor, force: Tensor, periodic: Sequence[int]
) -> None:
    """Let the networks of a named Hamiltonian see numbers of order one.

    Args:
        hamiltonian: what :func:`named_hamiltonian` made.
        q: positions, (n, d).
        p: momenta, (n, d).
        velocity: the size of dq/dt, (d,).
        force: the size of dp/dt, (d,).
        periodic: the coordinates that are angles, which are their own unit.
    """
    centre, spread, width = q.mean(0), sizes(q), sizes(p)
    # An energy c E((x - m) / s) has slopes of order c / s: c is chosen so that they are those of the data.
    work, action = (float((a.double() * b.double()).mean()) for a, b in ((spread, force), (width, velocity)))
    angles = list(periodic)
    centre[angles], spread[angles] = 0.0, 1.0
    if isinstance(hamiltonian, SeparableHamiltonian):
        assert isinstance(hamiltonian.potential, ScaledEnergy)
        hamiltonian.potential.set_units(centre, spread, work)
        if isinstance(hamiltonian.kinetic, ScaledEnergy):
            hamiltonian.kinetic.set_units(p.mean(0), width, action)
        else:
            assert isinstance(hamiltonian.kinetic, QuadraticKinetic)
            hamiltonian.kinetic.log_diagonal.copy_(0.5 * (velocity / sizes(p, centred=False)).log())
    else:
        assert isinstance(hamiltonian, JointHamiltonian) and isinstance(hamiltonian.energy, ScaledEnergy)
        both = torch.cat((centre, p.mean(0))), torch.cat((spread, width))
        hamiltonian.energy.set_units(*both, math.sqrt(work * action))
