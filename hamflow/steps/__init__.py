"""Steps: invertible maps of phase space, symplectic unless there is friction."""

from hamflow.steps.composition import (
    COMPOSITIONS,
    KAHAN_LI6,
    KAHAN_LI8,
    TRIPLE_JUMP4,
    TRIPLE_JUMP6,
    Composition,
    Fractions,
)
from hamflow.steps.damped import Damped
from hamflow.steps.drift import Drift
from hamflow.steps.gauss import GaussLegendre
from hamflow.steps.implicit import ImplicitMidpoint
from hamflow.steps.lattice import LatticeSplitting
from hamflow.steps.lift import Lift
from hamflow.steps.rattle import Rattle
from hamflow.steps.schemes import BLANES_MOAN4, LEAPFROG, SCHEMES, SYMPLECTIC_EULER, YOSHIDA4, YOSHIDA6, Scheme
from hamflow.steps.splitting import Splitting
from hamflow.steps.step import Step
from hamflow.steps.variational import RULES, VariationalStep, log_det_in_velocities

__all__ = [
    "BLANES_MOAN4",
    "COMPOSITIONS",
    "KAHAN_LI6",
    "KAHAN_LI8",
    "LEAPFROG",
    "RULES",
    "SCHEMES",
    "SYMPLECTIC_EULER",
    "TRIPLE_JUMP4",
    "TRIPLE_JUMP6",
    "YOSHIDA4",
    "YOSHIDA6",
    "Composition",
    "Damped",
    "Drift",
    "Fractions",
    "GaussLegendre",
    "ImplicitMidpoint",
    "LatticeSplitting",
    "Lift",
    "Rattle",
    "Scheme",
    "Splitting",
    "Step",
    "VariationalStep",
    "log_det_in_velocities",
]
