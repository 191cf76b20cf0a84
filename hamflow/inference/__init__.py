"""Inside Pyro: guides, reparameterisation and diagnostics for real posteriors."""

from hamflow.inference.guides import AutoHamiltonianFlow
from hamflow.inference.marginal import PhaseMarginal
from hamflow.inference.phase import PhaseMap

__all__ = ["AutoHamiltonianFlow", "PhaseMap", "PhaseMarginal"]
