"""hamflow: probabilistic generative modelling on Hamiltonian steps."""

import importlib
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

from hamflow import inference, interop, systems, videos
from hamflow.diagnostics import Trend, angular_momentum, energy_drift, total_momentum
from hamflow.energies import (
    BodyKinetic,
    BodyMasses,
    ConditionedEnergy,
    ConstantMass,
    Constraint,
    Energy,
    FieldLagrangian,
    Force,
    FunctionConstraint,
    FunctionEnergy,
    FunctionHamiltonian,
    FunctionLagrangian,
    Hamiltonian,
    JointHamiltonian,
    Lagrangian,
    LegendreHamiltonian,
    LegendreLagrangian,
    MassMatrix,
    MechanicalLagrangian,
    MLPPotential,
    NetworkLagrangian,
    NetworkMass,
    NewtonPotential,
    PairEnergy,
    PairPotential,
    PeriodicEnergy,
    QuadraticKinetic,
    RayleighFriction,
    RidgePotential,
    RigidLinks,
    ScaledEnergy,
    SeparableHamiltonian,
    SumEnergy,
    SumLagrangian,
)
from hamflow.errors import CheckpointError, FitError, InputError, RolloutError, SolveError
from hamflow.flow import PhaseFlow, hamiltonian
from hamflow.inference import AutoHamiltonianFlow, HamiltonianReparam, ImportanceWeightedELBO
from hamflow.models import HGN, HNN, LNN, NHF, Certificate, PixelHNN, load
from hamflow.rollout import rollout
from hamflow.steps import (
    BLANES_MOAN4,
    LEAPFROG,
    SCHEMES,
    SYMPLECTIC_EULER,
    YOSHIDA4,
    YOSHIDA6,
    Composition,
    Damped,
    Drift,
    GaussLegendre,
    ImplicitMidpoint,
    LatticeSplitting,
    Lift,
    Rattle,
    Scheme,
    Splitting,
    Step,
    VariationalStep,
)
from hamflow.training import History
from hamflow.videos import Videos

try:
    __version__ = version("hamflow")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

__all__ = [
    "BLANES_MOAN4",
    "HGN",
    "HNN",
    "LEAPFROG",
    "LNN",
    "NHF",
    "SCHEMES",
    "SYMPLECTIC_EULER",
    "YOSHIDA4",
    "YOSHIDA6",
    "AutoHamiltonianFlow",
    "BodyKinetic",
    "BodyMasses",
    "Certificate",
    "CheckpointError",
    "Composition",
    "ConditionedEnergy",
    "ConstantMass",
    "Constraint",
    "Damped",
    "Drift",
    "Energy",
    "FieldLagrangian",
    "FitError",
    "Force",
    "FunctionConstraint",
    "FunctionEnergy",
    "FunctionHamiltonian",
    "FunctionLagrangian",
    "GaussLegendre",
    "Hamiltonian",
    "HamiltonianReparam",
    "History",
    "ImplicitMidpoint",
    "ImportanceWeightedELBO",
    "InputError",
    "JointHamiltonian",
    "Lagrangian",
    "LatticeSplitting",
    "LegendreHamiltonian",
    "LegendreLagrangian",
    "Lift",
    "MLPPotential",
    "MassMatrix",
    "MechanicalLagrangian",
    "NetworkLagrangian",
    "NetworkMass",
    "NewtonPotential",
    "PairEnergy",
    "PairPotential",
    "PeriodicEnergy",
    "PhaseFlow",
    "PixelHNN",
    "QuadraticKinetic",
    "Rattle",
    "RayleighFriction",
    "RidgePotential",
    "RigidLinks",
    "RolloutError",
    "ScaledEnergy",
    "Scheme",
    "SeparableHamiltonian",
    "SolveError",
    "Splitting",
    "Step",
    "SumEnergy",
    "SumLagrangian",
    "Trend",
    "VariationalStep",
    "Videos",
    "angular_momentum",
    "energy_drift",
    "hamiltonian",
    "inference",
    "interop",
    "load",
    "plots",
    "rollout",
    "systems",
    "testing",
    "total_momentum",
    "videos",
]


def __getattr__(name: str) -> ModuleType:
    # What needs seaborn or SciPy's integrators is loaded on first use.
    if name not in ("plots", "testing"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(f"{__name__}.{name}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
