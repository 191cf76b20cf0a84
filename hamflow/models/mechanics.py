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

#: separable: T(p) + V(q), a network each. mechanical: a learned mass and a network V(q). joint: one network H(q, p).
ENERGIES = ("separable", "mechanical", "joint")


def named_hamiltonian(kind: str, dim: int, widths: Sequence[int], periodic: Sequence[int]) -> Hamiltonian:
    """The Hamiltonian of that name in d degrees of freedom; ``periodic`` lists the coordinates that are angles."""
    if kind == "joint":
        return JointHamiltonian(ScaledEnergy(_network(2 * dim, widths, periodic), 2 * dim))
    potential = ScaledEnergy(_network(dim, widths, periodic), dim)
    if kind == "mechanical":
        return SeparableHamiltonian(QuadraticKinetic(dim, structure="full", learn=True), potential)
    return SeparableHamiltonian(ScaledEnergy(_network(dim, widths, ()), dim), potential)


def _network(dim: int, widths: Sequence[int], periodic: Sequence[int]) -> Energy:
    if not periodic:
        return MLPPotential(dim, widths, init="orthogonal")
    return PeriodicEnergy(MLPPotential(dim + len(periodic), widths, init="orthogonal"), periodic, dim)


@torch.no_grad()
def set_units(
    hamiltonian: Hamiltonian, q: Tensor, p: Tensor, velocity: Tensor, force: Tensor, periodic: Sequence[int]
) -> None:
    """Let the networks of a named Hamiltonian see numbers of order one.

    Args:
        hamiltonian: what :func:`named_hamiltonian` made.
        q: positions, (n, d).
        p: momenta, (n, d).
        velocity: the spread of dq/dt, (d,).
        force: the spread of dp/dt, (d,).
        periodic: the coordinates that are angles, which are their own unit.
    """
    centre, spread = q.mean(0), _spread(q)
    angles = list(periodic)
    centre[angles], spread[angles] = 0.0, 1.0
    # An energy c E((x - m) / s) has slopes of order c / s: c is chosen so that they are those of the data.
    work, action = float((_spread(q) * force).mean()), float((_spread(p) * velocity).mean())
    if isinstance(hamiltonian, SeparableHamiltonian):
        assert isinstance(hamiltonian.potential, ScaledEnergy)
        hamiltonian.potential.set_units(centre, spread, work)
        if isinstance(hamiltonian.kinetic, ScaledEnergy):
            hamiltonian.kinetic.set_units(p.mean(0), _spread(p), action)
        else:
            assert isinstance(hamiltonian.kinetic, QuadraticKinetic)
            hamiltonian.kinetic.log_diagonal.copy_(0.5 * (velocity / _spread(p)).log())
    else:
        assert isinstance(hamiltonian, JointHamiltonian) and isinstance(hamiltonian.energy, ScaledEnergy)
        both = torch.cat((centre, p.mean(0))), torch.cat((spread, _spread(p)))
        hamiltonian.energy.set_units(*both, math.sqrt(work * action))


def _spread(x: Tensor) -> Tensor:
    # A coordinate that never moves keeps its own unit.
    spread = x.std(0)
    return torch.where(spread > 0, spread, torch.ones_like(spread))
