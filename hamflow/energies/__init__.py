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

__all__ = [
    "Energy",
    "FunctionEnergy",
    "FunctionHamiltonian",
    "Hamiltonian",
    "MLPPotential",
    "QuadraticKinetic",
    "RidgePotential",
    "SeparableHamiltonian",
    "SumEnergy",
]
