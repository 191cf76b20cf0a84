"""Steps: invertible maps of phase space, symplectic unless there is friction."""

from hamflow.steps.damped import Damped
from hamflow.steps.drift import Drift
from hamflow.steps.implicit import ImplicitMidpoint
from hamflow.steps.lift import Lift
from hamflow.steps.schemes import BLANES_MOAN4, LEAPFROG, SCHEMES, SYMPLECTIC_EULER, YOSHIDA4, YOSHIDA6, Scheme
from hamflow.steps.splitting import Splitting
from hamflow.steps.step import Step

__all__ = [
    "BLANES_MOAN4",
    "LEAPFROG",
    "SCHEMES",
    "SYMPLECTIC_EULER",
    "YOSHIDA4",
    "YOSHIDA6",
    "Damped",
    "Drift",
    "ImplicitMidpoint",
    "Lift",
    "Scheme",
    "Splitting",
    "Step",
]
