"""hamflow: probabilistic generative modelling on Hamiltonian steps."""

import importlib
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

from hamflow import interop, systems
from hamflow.energies import (
    BodyKinetic,
    BodyMasses,
    Energy,
    FunctionEnergy,
    FunctionHamiltonian,
    Hamiltonian,
    JointHamiltonian,
    MLPPotential,
    NewtonPotential,
    PairEnergy,
    PairPotential,
    PeriodicEnergy,
    QuadraticKinetic,
    RidgePotential,
    SeparableHamiltonian,
    SumEnergy,
)
from hamflow.errors import CheckpointError, FitError, InputError, SolveError
from hamflow.flow import PhaseFlow, hamiltonian
from hamflow.models import NHF, Certificate, load
from hamflow.steps import (
    BLANES_MOAN4,
    LEAPFROG,
    SCHEMES,
    SYMPLECTIC_EULER,
    YOSHIDA4,
    YOSHIDA6,
    Damped,
    Drift,
    ImplicitMidpoint,
    Lift,
    Scheme,
    Splitting,
    Step,
)
from hamflow.training import History

try:
    __version__ = version("hamflow")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

__all__ = [
    "BLANES_MOAN4",
    "LEAPFROG",
    "NHF",
    "SCHEMES",
    "SYMPLECTIC_EULER",
    "YOSHIDA4",
    "YOSHIDA6",
    "BodyKinetic",
    "BodyMasses",
    "Certificate",
    "CheckpointError",
    "Damped",
    "Drift",
    "Energy",
    "FitError",
    "FunctionEnergy",
    "FunctionHamiltonian",
    "Hamiltonian",
    "History",
    "ImplicitMidpoint",
    "InputError",
    "JointHamiltonian",
    "Lift",
    "MLPPotential",
    "NewtonPotential",
    "PairEnergy",
    "PairPotential",
    "PeriodicEnergy",
    "PhaseFlow",
    "QuadraticKinetic",
    "RidgePotential",
    "Scheme",
    "SeparableHamiltonian",
    "SolveError",
    "Splitting",
    "Step",
    "SumEnergy",
    "hamiltonian",
    "interop",
    "load",
    "plots",
    "systems",
    "testing",
]


def __getattr__(name: str) -> ModuleType:
    # What needs seaborn or SciPy's integrators is loaded on first use.
    if name not in ("plots", "testing"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(f"{__name__}.{name}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
