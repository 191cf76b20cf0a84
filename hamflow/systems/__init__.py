"""Physical systems: ground truth to simulate, and trajectories, simulated or measured, to learn from."""

from hamflow.systems.derivatives import estimate_derivatives
from hamflow.systems.trajectories import Trajectories

__all__ = ["Trajectories", "estimate_derivatives"]
