"""Physical systems: ground truth to simulate, and trajectories, simulated or measured, to learn from."""

from hamflow.systems.bodies import NBody, ThreeBody, TwoBody
from hamflow.systems.charged_particle import ChargedParticle, RelativisticParticle
from hamflow.systems.derivatives import estimate_derivatives
from hamflow.systems.double_pendulum import DoublePendulum
from hamflow.systems.measured import load_double_pendulum, load_experimental_pendulum, load_pendulum, load_spring
from hamflow.systems.noise import estimate_noise
from hamflow.systems.oscillators import HenonHeiles, MassSpring, Pendulum
from hamflow.systems.solar_system import load_solar_system
from hamflow.systems.system import System
from hamflow.systems.trajectories import Trajectories
from hamflow.systems.wave import WaveEquation

#: Every system that ships, by name.
SYSTEMS = {
    system.name: system
    for system in (
        MassSpring,
        Pendulum,
        DoublePendulum,
        HenonHeiles,
        TwoBody,
        ThreeBody,
        NBody,
        ChargedParticle,
        RelativisticParticle,
        WaveEquation,
    )
}

__all__ = [
    "SYSTEMS",
    "ChargedParticle",
    "DoublePendulum",
    "HenonHeiles",
    "MassSpring",
    "NBody",
    "Pendulum",
    "RelativisticParticle",
    "System",
    "ThreeBody",
    "Trajectories",
    "TwoBody",
    "WaveEquation",
    "estimate_derivatives",
    "estimate_noise",
    "load_double_pendulum",
    "load_experimental_pendulum",
    "load_pendulum",
    "load_solar_system",
    "load_spring",
]
