"""About what the noise of a film allows: who knows the law, and infers the state from noisy positions by weights."""

from __future__ import annotations

import torch
from hgn_tasks import JUDGED, TRAINED, Task
from torch import Tensor

#: Motions from the prior, and how many of them are drawn for a video.
_MOTIONS, _DRAWN = 20_000, 128


def posterior_pictures(task: Task, seen: int, times: slice) -> Tensor:
    """The mean picture of the test videos given their first so many noisy positions, (n, time, 1, 32, 32).

    True motions from the initial states of the case, weighted by their fit to the noisy positions themselves, which
    pictures show only up to their pixels.
    """
    count = 500 if task.quick else _MOTIONS
    initial = task.case.system.initial_states(count, torch.Generator().manual_seed(3000))
    # As many frames as the videos that are judged have, whatever is asked for: the simulation is the cheap part.
    motions = task.simulate(initial, JUDGED)
    known, shaken = motions[:, :seen].flatten(1), task.shaken[:, :seen].flatten(1)
    weights = torch.softmax(-0.5 * torch.cdist(shaken, known).square() / task.case.noise**2, 1)
    generator = torch.Generator().manual_seed(0)
    found = []
    for row in weights:
        drawn = motions[torch.multinomial(row, _DRAWN, replacement=True, generator=generator), times]
        noise = task.case.noise * torch.randn(drawn.shape, generator=generator, dtype=drawn.dtype)
        found.append(task.draw(drawn + noise).mean(0))
    return torch.stack(found)


def predictions(task: Task) -> dict[str, Tensor]:
    """Its answers to the questions that models are asked."""
    first, rest = slice(0, TRAINED), slice(TRAINED, JUDGED)
    return {
        "again": posterior_pictures(task, TRAINED, first),
        "inferred": posterior_pictures(task, 5, first),
        "ahead": posterior_pictures(task, TRAINED, rest),
    }
