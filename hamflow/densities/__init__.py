"""Base densities, encoders and bounds."""

from hamflow.densities.bounds import effective_sample_size, importance_bound, pareto_k, reparameterised_loss
from hamflow.densities.conditional import ContextNetwork, MixtureNetwork
from hamflow.densities.encoders import FlowEncoder, GaussianEncoder, draw_noise
from hamflow.densities.mixture import PhaseMixture
from hamflow.densities.peaks import Peaks, find_peaks
from hamflow.densities.quadrature import Quadrature, integrate_momentum
from hamflow.densities.warm_start import StartingMixture, choose_mixture

__all__ = [
    "ContextNetwork",
    "FlowEncoder",
    "GaussianEncoder",
    "MixtureNetwork",
    "Peaks",
    "PhaseMixture",
    "Quadrature",
    "StartingMixture",
    "choose_mixture",
    "draw_noise",
    "effective_sample_size",
    "find_peaks",
    "importance_bound",
    "integrate_momentum",
    "pareto_k",
    "reparameterised_loss",
]
