"""Energies, Hamiltonians and Lagrangians, and what goes with them: masses, forces, constraints."""

from hamflow.energies.banded import solve_banded
from hamflow.energies.bodies import BodyKinetic, BodyMasses
from hamflow.energies.conditional import ConditionedEnergy, beside
from hamflow.energies.constraints import Constraint, FunctionConstraint, RigidLinks, constrained_acceleration
from hamflow.energies.field import FieldLagrangian
from hamflow.energies.forces import Force, RayleighFriction
from hamflow.energies.hamiltonian import (
    Energy,
    FunctionEnergy,
    FunctionHamiltonian,
    Hamiltonian,
    SeparableHamiltonian,
    SumEnergy,
)
from hamflow.energies.inertia import condition_numbers, solve_mass
from hamflow.energies.joint import JointHamiltonian
from hamflow.energies.lagrangian import FunctionLagrangian, Lagrangian, SumLagrangian, Terms
from hamflow.energies.legendre import LegendreHamiltonian, LegendreLagrangian
from hamflow.energies.masses import ConstantMass, Inertia, MassMatrix, NetworkMass
from hamflow.energies.mechanical import MechanicalLagrangian
from hamflow.energies.network_lagrangian import NetworkLagrangian
from hamflow.energies.networks import MLPPotential, RidgePotential
from hamflow.energies.pairs import NewtonPotential, PairEnergy, PairPotential
from hamflow.energies.periodic import PeriodicEnergy
from hamflow.energies.quadratic import QuadraticKinetic
from hamflow.energies.scaled import ScaledEnergy
from hamflow.energies.slope import Slope

__all__ = [
    "BodyKinetic",
    "BodyMasses",
    "ConditionedEnergy",
    "ConstantMass",
    "Constraint",
    "Energy",
    "FieldLagrangian",
    "Force",
    "FunctionConstraint",
    "FunctionEnergy",
    "FunctionHamiltonian",
    "FunctionLagrangian",
    "Hamiltonian",
    "Inertia",
    "JointHamiltonian",
    "Lagrangian",
    "LegendreHamiltonian",
    "LegendreLagrangian",
    "MLPPotential",
    "MassMatrix",
    "MechanicalLagrangian",
    "NetworkLagrangian",
    "NetworkMass",
    "NewtonPotential",
    "PairEnergy",
    "PairPotential",
    "PeriodicEnergy",
    "QuadraticKinetic",
    "RayleighFriction",
    "RidgePotential",
    "RigidLinks",
    "ScaledEnergy",
    "SeparableHamiltonian",
    "Slope",
    "SumEnergy",
    "SumLagrangian",
    "Terms",
    "beside",
    "condition_numbers",
    "constrained_acceleration",
    "solve_banded",
    "solve_mass",
]
