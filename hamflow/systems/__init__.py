"""Physical systems: ground truth to simulate, and trajectories, simulated or measured, to learn from."""

from hamflow.systems.measured import (
    load_double_pendulum,
    load_experimental_pendulum,
    load_pendulum,
    load_spring,
)
from hamflow.systems.solar_system import load_solar_system
from hamflow.systems.trajectories import Trajectories

__all__ = [
    "Trajectories",
    "load_double_pendulum",
    "load_experimental_pendulum",
    "load_pendulum",
    "load_solar_system",
    "load_spring",
]
