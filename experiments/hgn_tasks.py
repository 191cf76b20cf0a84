"""Videos of simulated systems in a size for a CPU: 32 x 32 grey pixels, 30 frames to learn from, 150 to judge."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

import hamflow as hf

#: Frames of a training video, and of a test video: five times as many.
TRAINED, JUDGED = 30, 150
#: From a start of its own for every seed; training draws with the seed itself.
_TEST = 1000


@dataclass(frozen=True)
class Case:
    """A system with the published parameters, and the published noise of its positions."""

    system: hf.systems.System
    noise: float
    dim: int
    periodic: tuple[int, ...] = ()


CASES = {
    "mass_spring": Case(hf.systems.MassSpring(mass=0.5, stiffness=2.0), 0.1, 1),
    "pendulum": Case(hf.systems.Pendulum(mass=0.5, gravity=3.0), 0.1, 1, (0,)),
    "two_body": Case(hf.systems.TwoBody(), 0.05, 4),
}


@dataclass(frozen=True)
class Task:
    """The videos of a case for a seed, and what their pixels allow."""

    case: Case
    train: hf.Videos
    test: hf.Videos
    quick: bool

    @cached_property
    def frames(self) -> Tensor:
        """The test videos, (n, 150, 1, 32, 32)."""
        return self.test[:]

    @cached_property
    def floor(self) -> float:
        """The squared error of who knows the exact states."""
        assert self.test.states is not None
        q = self.test.states.q[:, :TRAINED:3]
        return hf.videos.noise_floor(hf.videos.scene_of(self.case.system), q, self.case.noise, channels=1, draws=32)

    @cached_property
    def mean_frame(self) -> float:
        """The squared error of the mean frame."""
        return hf.videos.mean_frame_mse(self.train[:], self.frames[:, :TRAINED])

    def motions(self, n_frames: int) -> Tensor:
        """True videos, each the mean over eight draws of the noise: a net over the manifold of all motions."""
        count, start = (50, 1) if self.quick else (3000, 8)
        initial = self.case.system.initial_states(count, torch.Generator().manual_seed(2 * _TEST))
        total = torch.zeros(())
        for draw in range(start):
            total = total + self.film(count, n_frames, draw, initial)[:] / start
        return total

    def film(self, n: int, n_frames: int, seed: int, initial: tuple[Tensor, Tensor] | None = None) -> hf.Videos:
        """Videos of the case."""
        return _film(self.case, n, n_frames, seed, initial)


def load_task(name: str, seed: int, quick: bool) -> Task:
    """The videos of a case."""
    case = CASES[name]
    train, test = (40, 6) if quick else (2000, 100)
    return Task(case, _film(case, train, TRAINED, seed), _film(case, test, JUDGED, _TEST + seed), quick)


def _film(case: Case, n: int, n_frames: int, seed: int, initial: tuple[Tensor, Tensor] | None = None) -> hf.Videos:
    return hf.videos.film(case.system, n=n, n_frames=n_frames, noise=case.noise, seed=seed, initial=initial)
