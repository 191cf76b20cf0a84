"""Videos of moving systems: drawn, kept in memory or on disk, and measured."""

from hamflow.videos.film import film
from hamflow.videos.measures import (
    energy_spread,
    mean_frame_mse,
    noise_floor,
    pixel_mse,
    skill,
    symplectic_match,
    valid_prediction_time,
)
from hamflow.videos.motions import nearest_motion
from hamflow.videos.rendering import BACKGROUND, COLOURS, render_discs
from hamflow.videos.scenes import Scene, scene_of
from hamflow.videos.videos import Videos, check_frames

__all__ = [
    "BACKGROUND",
    "COLOURS",
    "Scene",
    "Videos",
    "check_frames",
    "energy_spread",
    "film",
    "mean_frame_mse",
    "nearest_motion",
    "noise_floor",
    "pixel_mse",
    "render_discs",
    "scene_of",
    "skill",
    "symplectic_match",
    "valid_prediction_time",
]
