"""Figures of fitted models, drawn with seaborn; none shows a window or changes a global style.

Every function draws into the axes it is given, or into a new figure; save that with ``figure.savefig``.
"""

from hamflow.plots.densities import plot_density_2d, plot_samples, plot_trajectories, positions
from hamflow.plots.dynamics import plot_energy, plot_phase_portrait, plot_trajectories_against
from hamflow.plots.history import plot_history
from hamflow.plots.inference import bfmi, plot_calibration, plot_ranks, plot_transitions
from hamflow.plots.videos import plot_frames, write_gif

__all__ = [
    "bfmi",
    "plot_calibration",
    "plot_density_2d",
    "plot_energy",
    "plot_frames",
    "plot_history",
    "plot_phase_portrait",
    "plot_ranks",
    "plot_samples",
    "plot_trajectories",
    "plot_trajectories_against",
    "plot_transitions",
    "positions",
    "write_gif",
]
