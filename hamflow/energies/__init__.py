"""Energies and Hamiltonians."""

from hamflow.energies.hamiltonian import (
    Energy,
    FunctionEnergy,
    FunctionHamiltonian,
    Hamiltonian,
    SeparableHamiltonian,
    SumEnergy,
)
from hamflow.energies.networks import MLPPotential, RidgePotential
from hamflow.energies.quadratic import QuadraticKinetic
from hamflow.energies.scaled import ScaledEnergy

__all__ = [
    "Energy",
    "FunctionEnergy",
    "FunctionHamiltonian",
    "Hamiltonian",
    "MLPPotential",
    "QuadraticKinetic",
    "RidgePotential",
    "ScaledEnergy",
    "SeparableHamiltonian",
    "SumEnergy",
]
