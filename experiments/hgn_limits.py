"""What the noise of a film allows: who knows the law, and infers the state from noisy positions by weights."""

from __future__ import annotations

import torch
from hgn_tasks import JUDGED, TRAINED, Task
from torch import Tensor
from torch.distributions import VonMises

from hamflow.training import seeded

#: Motions from the prior, and how many of them are drawn for a video. A law that knows no directions needs fewer: how
#: far each one is turned is drawn exactly.
_MOTIONS, _TURNED, _DRAWN = 100_000, 20_000, 128


def posterior_pictures(task: Task, seen: int, times: slice) -> tuple[Tensor, float]:
    """The mean picture of the test videos given their first so many noisy positions, (n, time, 1, 32, 32).

    True motions from the initial states of the case are weighted by their fit to the noisy positions themselves, which
    pictures show only up to their pixels. The number says how many draws these weights are worth, the median over
    videos.
    """
    count = 500 if task.quick else _TURNED if task.case.isotropic else _MOTIONS
    q, p = task.case.system.initial_states(count, torch.Generator().manual_seed(3000))
    known, shaken = task.simulate((q, p), seen).flatten(1), task.shaken[:, :seen].flatten(1)
    apart = torch.cdist(shaken, known).square() / task.case.noise**2
    if task.case.isotropic:
        overlap = _planar(shaken) @ _planar(known).mH / task.case.noise**2
        kappa = overlap.abs()
        fit = fit_of_turns(apart, overlap)
    else:
        fit = -0.5 * apart
    weights = torch.softmax(fit, 1)
    generator = torch.Generator().manual_seed(0)
    chosen = torch.multinomial(weights, _DRAWN, replacement=True, generator=generator)
    rows, back = chosen.unique(return_inverse=True)
    motions = task.simulate((q[rows], p[rows]), times.stop)[:, times]
    found = []
    for i, row in enumerate(back):
        drawn = motions[row]
        if task.case.isotropic:
            with seeded(i):
                turn = VonMises(overlap[i, chosen[i]].angle(), kappa[i, chosen[i]]).sample()
            drawn = torch.view_as_real(_planar(drawn) * torch.polar(torch.ones_like(turn), turn)[:, None, None])
            drawn = drawn.flatten(-2)
        noise = task.case.noise * torch.randn(drawn.shape, generator=generator, dtype=drawn.dtype)
        found.append(task.draw(drawn + noise).mean(0))
    return torch.stack(found), float((1 / weights.square().sum(1)).median())


def fit_of_turns(apart: Tensor, overlap: Tensor) -> Tensor:
    r"""Log of the mean likelihood over all turns of a motion, from that of the motion as it is.

    :math:`|s - e^{i \phi} k|^2 = |s - k|^2 + 2\, \mathrm{Re} \langle k, s \rangle - 2\, \mathrm{Re}(e^{-i \phi}
    \langle k, s \rangle)`, whose exponential has a Bessel function as its mean.

    Args:
        apart: squared distances over the variance of the noise.
        overlap: the complex products <k, s> over the same.
    """
    return -0.5 * apart - overlap.real + overlap.abs() + torch.special.i0e(overlap.abs()).log()


def predictions(task: Task) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Its answers to the questions that models are asked, and how many draws they rest on."""
    first, rest = slice(0, TRAINED), slice(TRAINED, JUDGED)
    answers, worth = {}, {}
    for name, seen, times in (("again", TRAINED, first), ("inferred", 5, first), ("ahead", TRAINED, rest)):
        answers[name], worth[seen] = posterior_pictures(task, seen, times)
    return answers, {"draws_from_all": worth[TRAINED], "draws_from_five": worth[5]}


def _planar(positions: Tensor) -> Tensor:
    # x + i y, (*batch, 2 n) -> (*batch, n).
    return torch.view_as_complex(positions.unflatten(-1, (-1, 2)).contiguous())
