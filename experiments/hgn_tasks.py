"""Videos of simulated systems in a size for a CPU: 32 x 32 grey pixels, 30 frames to learn from, 150 to judge."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

import hamflow as hf
from hamflow.systems.sampling import apart

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
    colours: tuple[float, ...] = (1.0,)
    #: Whether the law, and what is known of initial states, stay the same when all is turned.
    isotropic: bool = False

    @property
    def look(self) -> dict[str, Any]:
        """How it is drawn: grey, and with the rim of the published pictures, which are blurred twice."""
        return {"channels": 1, "softness": 2.5, "colours": self.colours}


CASES = {
    "mass_spring": Case(hf.systems.MassSpring(mass=0.5, stiffness=2.0), 0.1, 1),
    "pendulum": Case(hf.systems.Pendulum(mass=0.5, gravity=3.0), 0.1, 1, (0,)),
    # Equal colours would show half a turn as no motion at all. The centre rests, so two positions tell all.
    "two_body": Case(hf.systems.TwoBody(), 0.05, 2, colours=(1.0, 0.5), isotropic=True),
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
        return hf.videos.noise_floor(
            hf.videos.scene_of(self.case.system), q, self.case.noise, draws=32, **self.case.look
        )

    @cached_property
    def mean_frame(self) -> float:
        """The squared error of the mean frame."""
        return hf.videos.mean_frame_mse(self.train[:], self.frames[:, :TRAINED])

    @cached_property
    def shaken(self) -> Tensor:
        """The noisy positions that the test videos show, (n, 150, d)."""
        assert self.test.states is not None
        q = self.test.states.q
        return q + self.case.noise * torch.randn(q.shape, generator=apart(self.test.metadata["seed"]), dtype=q.dtype)

    @cached_property
    def quiet(self) -> Tensor:
        """The test videos without noise: the mean over 64 draws of it, as a decoder learns them."""
        assert self.test.states is not None
        return self._mean(self.test.states.q, 64)

    def motions(self, n_frames: int) -> Tensor:
        """True videos without noise: a net over the manifold of all motions.

        Published initial states leave out small swings, which are true motions too: of one position half of the states
        are nearer to rest by a uniform factor.
        """
        count = 50 if self.quick else 6000
        generator = torch.Generator().manual_seed(2 * _TEST)
        q, p = self.case.system.initial_states(count, generator)
        if self.case.dim == 1:
            nearer = torch.rand(len(q), 1, generator=generator, dtype=q.dtype)
            nearer[::2] = 1
            q, p = nearer * q, nearer * p
        return self._mean(self.simulate((q, p), n_frames), 8)

    def simulate(self, initial: tuple[Tensor, Tensor], n_frames: int) -> Tensor:
        """True positions from these states on, (n, time, d)."""
        return self.case.system.simulate(n_steps=n_frames - 1, dt=self.train.dt, initial=initial).q

    def draw(self, q: Tensor) -> Tensor:
        """Pictures of positions, (*batch, d) -> (*batch, 1, 32, 32)."""
        scene = hf.videos.scene_of(self.case.system)
        return hf.videos.render_discs(
            scene.places(q.float()), radius=scene.radius, extent=scene.extent, **self.case.look
        )

    def _mean(self, q: Tensor, draws: int) -> Tensor:
        generator, draws = torch.Generator().manual_seed(0), 1 if self.quick else draws
        total = torch.zeros(())
        for _ in range(draws):
            noise = self.case.noise * torch.randn(q.shape, generator=generator, dtype=q.dtype)
            total = total + self.draw(q + noise) / draws
        return total


def load_task(name: str, seed: int, quick: bool) -> Task:
    """The videos of a case."""
    case = CASES[name]
    train, test = (40, 6) if quick else (5000, 100)
    films = (
        hf.videos.film(case.system, n=n, n_frames=n_frames, noise=case.noise, seed=start, **case.look)
        for n, n_frames, start in ((train, TRAINED, seed), (test, JUDGED, _TEST + seed))
    )
    return Task(case, *films, quick)
