"""The pendulum of a toolkit for reinforcement learning as published studies film it: its physics, its picture."""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

import hamflow as hf
from hamflow.systems import Trajectories

#: Of Pendulum-v0: a rod of length 1 and mass 1, time in seconds.
GRAVITY, DT = 10.0, 0.05
#: Half the width of what a screen of 1000 x 1000 pixels shows, and the part that is kept: top, bottom, left, right.
SEEN, SCREEN, CROP = 2.2, 1000, (440, 780, 330, 670)
ROD, AXLE, CORNERS = 0.1, 0.05, 30
#: Red less green of the rod, 204 - 76; the background and the axle are grey, so nothing is left of them.
LEVEL = 128
#: Corners of a shape.
Points = list[tuple[float, float]]


def simulate(n: int, n_frames: int, seed: int, angles: tuple[float, float] = (0.0, math.pi / 6)) -> Trajectories:
    """Free swings from an angle off the lowest point within these bounds, either side, and a speed within one.

    The environment's own integrator: first the speed changes, then the angle by the new speed.
    """
    generator = torch.Generator().manual_seed(seed)
    size, side, speed = torch.rand(3, n, 1, generator=generator, dtype=torch.float64)
    angle = (angles[0] + (angles[1] - angles[0]) * size) * torch.where(side < 0.5, -1, 1)
    speed = 2 * speed - 1
    states = []
    for _ in range(n_frames):
        states.append((angle, speed))
        speed = speed - DT * 1.5 * GRAVITY * angle.sin()
        angle = angle + DT * speed
    q, v = (torch.stack(list(x), 1) for x in zip(*states, strict=True))
    return Trajectories(times=DT * torch.arange(n_frames, dtype=torch.float64), q=q, v=v)


def draw(angles: Tensor, size: int = 28) -> Tensor:
    """Pictures of the pendulum at these angles off the lowest point, (n, time) -> (n, time, 1, size, size), uint8."""
    frames = np.stack([_picture(float(angle), size) for angle in angles.flatten()])
    return torch.from_numpy(frames).reshape(*angles.shape, 1, size, size)


def film(n: int, n_frames: int, seed: int, size: int = 28, **start: tuple[float, float]) -> hf.Videos:
    """Swings and their pictures; the time is counted in frames."""
    states = simulate(n, n_frames, seed, **start)
    return hf.Videos(draw(states.q[..., 0], size), DT, states, {"seed": seed})


def _picture(angle: float, size: int) -> np.ndarray:
    # A capsule as the toolkit draws it: a box and two circles, polygons of 30 corners, without smooth edges. Then the
    # published steps: red less green, the part of the screen where the rod swings, a bilinear reduction.
    scale = SCREEN / (2 * SEEN)

    def place(points: Points) -> Points:
        return [(SCREEN / 2 + scale * x - CROP[2], SCREEN / 2 - scale * y - CROP[0]) for x, y in points]

    along, across = (math.sin(angle), -math.cos(angle)), (math.cos(angle), math.sin(angle))
    box = [
        (s * along[0] + t * ROD * across[0], s * along[1] + t * ROD * across[1])
        for s, t in ((0, -1), (0, 1), (1, 1), (1, -1))
    ]
    image = Image.new("L", (CROP[3] - CROP[2], CROP[1] - CROP[0]))
    pen = ImageDraw.Draw(image)
    for shape, level in (
        (box, LEVEL), (_circle((0, 0), ROD), LEVEL), (_circle(along, ROD), LEVEL), (_circle((0, 0), AXLE), 0),
    ):  # fmt: skip
        pen.polygon(place(shape), fill=level)
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


def _circle(centre: tuple[float, float], radius: float) -> Points:
    turns = [2 * math.pi * k / CORNERS for k in range(CORNERS)]
    return [(centre[0] + radius * math.cos(t), centre[1] + radius * math.sin(t)) for t in turns]
