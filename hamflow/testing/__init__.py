"""Checks that an energy, a Lagrangian, a step or a flow keeps its promises: for this package's own and for yours.

Each check works on a copy in float64, raises ``AssertionError`` with the figure that was measured and the one that was
expected, and returns what it measured.
"""

from hamflow.testing.constrained import ConstrainedReport, check_constrained_step
from hamflow.testing.energies import EnergyReport, check_energy
from hamflow.testing.flows import FlowReport, check_flow
from hamflow.testing.lagrangians import LagrangianReport, check_lagrangian
from hamflow.testing.memory import peak_bytes
from hamflow.testing.steps import StepReport, check_drift, check_step, measure_order

__all__ = [
    "ConstrainedReport",
    "EnergyReport",
    "FlowReport",
    "LagrangianReport",
    "StepReport",
    "check_constrained_step",
    "check_drift",
    "check_energy",
    "check_flow",
    "check_lagrangian",
    "check_step",
    "measure_order",
    "peak_bytes",
]
