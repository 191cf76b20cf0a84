"""What makes trajectories doubtful before anything is learned from them: said once, as a warning."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

from hamflow.systems import Trajectories
from hamflow.systems.noise import noise_of

#: A step is a turn too far where it misses a whole one by less than this share of it, and steps usually are shorter.
_NEAR = 0.1
#: Slopes of steps against what derivatives foretell: those of right data are near one, sampled coarsely a bit above.
_LEAST, _MOST = 0.5, 2.0
#: So many standard errors make a slope sure, and from so few steps none is.
_SURE, _FEW = 4.0, 8
#: Derivatives that are noise to this share contradict nothing; those of states too far apart seem all noise.
_ALL_NOISE = 0.5
#: Steps longer than so many usual ones are pauses, in which motions change their minds.
_PAUSE = 3.0
#: Steps that are no longer than this many roundings of where they lead say nothing.
_ROUNDINGS = 100
#: Of so many coordinates are the slopes told.
_TOLD = 5


def warn_of_doubts(sets: list[Trajectories], second: str, noise: Tensor) -> None:
    """Warn of velocities that stand for momenta or contradict positions, of angles nobody named, and of what rests.

    Args:
        sets: what will be learned from.
        second: what a model takes beside positions, ``"p"`` or ``"v"``.
        noise: the standard deviation of q and of what stands for momenta, (2 d,), as far as it is known.
    """
    if second == "p" and sets[0].p is None and sets[0].dim > 1:
        warnings.warn(
            "data has no momenta: velocities stand for them, which is right where all masses are equal; where they are "
            "not, give p, or learn with hamflow.LNN, which takes velocities",
            stacklevel=3,
        )
    turning = [
        coordinate
        for coordinate in range(sets[0].dim)
        if coordinate not in sets[0].periodic and any(_turns(part, coordinate) for part in sets)
    ]
    for coordinate in turning:
        warnings.warn(
            f"data: coordinate {coordinate} jumps by 2 pi between states; where it is an angle name it, "
            f"metadata={{'periodic': [{coordinate}]}}",
            stacklevel=3,
        )
    resting = _resting(sets)
    if resting:
        which = f"coordinate {resting[0]} does" if len(resting) == 1 else f"coordinates {resting} do"
        warnings.warn(f"data: {which} not move: nothing can be learned about what happens along it", stacklevel=3)
    for name, slope in (("q", "v"), ("v", "v_dot") if sets[0].p is None else ("p", "p_dot")):
        if not {name, slope} <= set(sets[0].given):
            continue
        known = noise[sets[0].dim :] if slope == "v" and sets[0].p is None else torch.zeros(sets[0].dim)
        found = contradictions(sets, name, slope, known)
        found = {i: value for i, value in found.items() if name != "q" or i not in turning}
        if found:
            told = [f"coordinate {i} (slope {value:.3g})" for i, value in list(found.items())[:_TOLD]]
            more = f" and {len(found) - _TOLD} more" if len(found) > _TOLD else ""
            warnings.warn(
                f"data: {slope} contradicts {name} in {', '.join(told)}{more}: the slope of the steps of {name} "
                f"against ({slope}[k] + {slope}[k + 1]) / 2 * dt, expected near 1; look for a wrong sign, a wrong "
                f"unit of {slope} or of time, swapped columns, or states too far apart in time",
                stacklevel=3,
            )


def warn_of_unused(given: tuple[str, ...]) -> None:
    """Warn of derivatives that are left out, because what they would go with is not there."""
    for name, partners in (("p_dot", ("p", "v")), ("v_dot", ("v",) if "p" not in given else ("v", "p_dot"))):
        missing = [partner for partner in partners if partner not in given]
        if name in given and missing:
            warnings.warn(
                f"data has {name} but no {' and no '.join(missing)}: {name} is not used, and the states alone are "
                "learned from; hf.systems.estimate_derivatives fills in v, and learn_from = 'states' says that states "
                "alone are meant",
                stacklevel=3,
            )


def contradictions(sets: list[Trajectories], name: str, slope: str, noise: Tensor) -> dict[int, float]:
    r"""The coordinates whose steps surely are not those that their derivatives foretell, and the slopes between them,

    .. math:: b = \frac{\sum_k h_k (x_{k+1} - x_k)}{\sum_k h_k^2}, \qquad
              h_k = \tfrac12 (\dot x_k + \dot x_{k+1})\, \Delta t_k .

    A slope is wrong where it is below a half or above two by more than four standard errors, these the larger the
    more a few steps weigh. Noise on the derivatives, known or seen, makes slopes smaller, for which the half allows;
    derivatives that are mostly noise, or seem so because states are far apart in time, contradict nothing. Steps of
    angles are taken the near way round, where less than a quarter of a turn is foretold; those over a pause are left
    out.

    Args:
        sets: the trajectories.
        name: the array x.
        slope: the array of its derivatives.
        noise: the standard deviation of these, (d,), as far as it is known.
    """
    sets = [part for part in sets if part.n_times > 1]
    if not sets:
        return {}
    steps, foretold, gaps, largest, usual = [], [], [], [], []
    for part in sets:
        x, slopes, gap = part.need(name), part.need(slope).double(), part.own_times().double().diff(dim=-1)
        steps.append(x.double().diff(dim=1).flatten(0, 1))
        foretold.append(((slopes[:, 1:] + slopes[:, :-1]) / 2 * gap.unsqueeze(-1)).flatten(0, 1))
        gaps.append(gap.flatten())
        usual.append((gap <= _PAUSE * gap.median(dim=-1, keepdim=True).values).flatten())
        largest.append(x.double().abs().amax((0, 1)))
    s, h = torch.cat(steps), torch.cat(foretold)
    used = torch.cat(usual).unsqueeze(-1).repeat(1, h.shape[-1])
    astray = torch.ones_like(used[0])
    for i in sets[0].periodic if name == "q" else ():
        near = used[:, i] & (h[:, i].abs() < math.pi / 2)
        if int(near.sum()) >= max(_FEW, int(used[:, i].sum()) / 4):
            used[:, i] = near
            s[:, i] = torch.remainder(s[:, i] + math.pi, 2 * math.pi) - math.pi
        else:
            # Angles within one turn that go round fast: what is foretold is right up to whole turns.
            astray[i] = (s[:, i] - h[:, i])[used[:, i]].cos().mean() < math.cos(math.pi / 3)
    s, h = torch.where(used, s, 0.0), torch.where(used, h, 0.0)
    square = h.square().sum(0)
    b = (h * s).sum(0) / square
    # Residuals without the step itself, so that one long step is not sure of itself.
    rest = (s - b * h) / (1 - h.square() / square)
    sure = _SURE * (h * rest).square().sum(0).sqrt() / square
    low, high = b + sure < _LEAST, b - sure > _MOST
    if not bool((low | high).any()):
        return {}
    gap = torch.where(used, torch.cat(gaps).unsqueeze(-1), 0.0)
    shaken = noisiest(sets, slope, noise.to(h)).square() * gap.square().sum(0) / 2 / square
    wrong = (shaken < _ALL_NOISE) & ((b + sure < _LEAST * (1 - shaken)) | high)
    rounding = _ROUNDINGS * torch.finfo(sets[0].q.dtype).eps * torch.stack(largest).amax(0)
    counts = used.sum(0)
    moving = torch.maximum(square, s.square().sum(0)) > counts * rounding.square()
    found = (wrong & astray & moving & (counts >= _FEW)).nonzero().flatten().tolist()
    return {i: float(b[i]) for i in found}


def noisiest(sets: list[Trajectories], name: str, known: Tensor) -> Tensor:
    """The noise of an array as it is known or seen, whichever is more, (d,)."""
    seen = [noise_of(part.own_times(), part.need(name).double()) for part in sets if part.n_times > 2]
    return torch.stack([known, *seen]).amax(0)


def _resting(sets: list[Trajectories]) -> list[int]:
    # Which coordinates are at one place in all states, with no velocity.
    q = torch.cat([part.q.flatten(0, 1) for part in sets])
    still = q.amax(0) - q.amin(0) <= 4 * torch.finfo(q.dtype).eps * q.abs().amax(0)
    if sets[0].v is not None:
        still &= ~torch.cat([part.need("v").flatten(0, 1) for part in sets]).any(0)
    return still.nonzero().flatten().tolist()


def _turns(data: Trajectories, coordinate: int) -> bool:
    steps: Tensor = data.q[..., coordinate].double().diff(dim=1)
    if data.v is not None:
        v = data.v[..., coordinate].double()
        steps = steps - (v[:, 1:] + v[:, :-1]) / 2 * data.own_times().double().diff(dim=1)
    far = steps.abs() / (2 * math.pi)
    jumps = (far - 1).abs() < _NEAR
    # Of a coordinate in other units a step near to 6.28 is one among others.
    return bool(jumps.any()) and bool((far[~jumps] < _NEAR).all())
