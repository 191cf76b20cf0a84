"""Energies and Hamiltonians."""

from hamflow.energies.bodies import BodyKinetic, BodyMasses
from hamflow.energies.hamiltonian import (
    Energy,
    FunctionEnergy,
    FunctionHamiltonian,
    Hamiltonian,
    SeparableHamiltonian,
    SumEnergy,
)
from hamflow.energies.joint import JointHamiltonian
from hamflow.energies.networks import MLPPotential, RidgePotential
from hamflow.energies.pairs import NewtonPotential, PairEnergy, PairPotential
from hamflow.energies.periodic import PeriodicEnergy
from hamflow.energies.quadratic import QuadraticKinetic

__all__ = [
    "BodyKinetic",
    "BodyMasses",
    "Energy",
    "FunctionEnergy",
    "FunctionHamiltonian",
    "Hamiltonian",
    "JointHamiltonian",
    "MLPPotential",
    "NewtonPotential",
    "PairEnergy",
    "PairPotential",
    "PeriodicEnergy",
    "QuadraticKinetic",
    "RidgePotential",
    "SeparableHamiltonian",
    "SumEnergy",
]
