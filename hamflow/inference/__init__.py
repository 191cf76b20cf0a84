"""Inside Pyro: guides, Markov chains in their coordinates, bounds, diagnostics, and steps inside a model."""

from hamflow.inference.bounds import ImportanceWeightedELBO
from hamflow.inference.calibration import Calibration, simulation_based_calibration
from hamflow.inference.convert import to_arviz
from hamflow.inference.diagnostics import Diagnosis, diagnose, log_weights
from hamflow.inference.guides import AutoHamiltonianFlow
from hamflow.inference.marginal import PhaseMarginal
from hamflow.inference.observed import ObservedRows
from hamflow.inference.phase import PhaseMap
from hamflow.inference.physics import observe_path
from hamflow.inference.recorded import RecordedNUTS, sample_stats
from hamflow.inference.reparam import HamiltonianReparam

__all__ = [
    "AutoHamiltonianFlow",
    "Calibration",
    "Diagnosis",
    "HamiltonianReparam",
    "ImportanceWeightedELBO",
    "ObservedRows",
    "PhaseMap",
    "PhaseMarginal",
    "RecordedNUTS",
    "diagnose",
    "log_weights",
    "observe_path",
    "sample_stats",
    "simulation_based_calibration",
    "to_arviz",
]
