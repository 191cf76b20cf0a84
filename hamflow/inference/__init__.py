"""Inside Pyro: guides, reparameterisation and diagnostics for real posteriors."""

from hamflow.inference.bounds import ImportanceWeightedELBO
from hamflow.inference.guides import AutoHamiltonianFlow
from hamflow.inference.marginal import PhaseMarginal
from hamflow.inference.phase import PhaseMap
from hamflow.inference.reparam import HamiltonianReparam

__all__ = [
    "AutoHamiltonianFlow",
    "HamiltonianReparam",
    "ImportanceWeightedELBO",
    "PhaseMap",
    "PhaseMarginal",
]
