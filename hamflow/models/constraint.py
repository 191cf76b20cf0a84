"""The constraint that a model of d coordinates is given: checked with the model, and held against states."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from hamflow.energies import Constraint, RigidLinks
from hamflow.energies.hamiltonian import Time
from hamflow.errors import InputError, SolveError
from hamflow.models.doubts import noisiest
from hamflow.rollout import check_dt
from hamflow.steps import Rattle
from hamflow.systems import Trajectories

#: The shares of an initial position, and of a velocity, that are changed onto the constraint without a word.
_MOVED, _LOST = 1e-2, 5e-2
#: The shares of the spread of positions and of speeds by which exact data may miss the constraint without a word.
_OFF, _ACROSS = 1e-2, 5e-2
#: So many standard deviations of noise are no sign of anything, and so many states are looked at.
_NOISES, _LOOKED_AT = 4.0, 1000


def checked_constraint(constraint: Any, dim: int) -> Constraint | None:
    """The constraint, from the arguments of its links where a saved model holds these.

    Raises:
        InputError: it is none, is one of other coordinates, or leaves no motion.
    """
    if isinstance(constraint, dict):
        constraint = RigidLinks(**constraint)
    if constraint is None:
        return None
    if not isinstance(constraint, Constraint):
        raise InputError(f"constraint is a {type(constraint).__name__}, expected a Constraint such as RigidLinks")
    for dtype in (torch.float64, torch.float32):
        try:
            with torch.no_grad():
                count = constraint(torch.zeros(dim, dtype=dtype)).shape[-1]
        except RuntimeError:
            # A function of one's own may insist on a dtype, or on a device: that is for the data to meet.
            continue
        if count >= dim:
            raise InputError(
                f"constraint has {count} conditions on {dim} coordinates, expected fewer: nothing is left to move"
            )
        break
    return constraint


@torch.no_grad()
def warn_off(constraint: Constraint, sets: list[Trajectories], noise: Tensor) -> None:
    r"""Warn where data lie off a constraint, or move across it, by more than their noise and a small share.

    The distance of a position is :math:`\sqrt{g^\top (G G^\top)^{-1} g}`, to first order; that part of a velocity is
    normal which obeys :math:`G v = 0` no more, of the size :math:`\sqrt{(G v)^\top (G G^\top)^{-1} G v}`.

    Args:
        constraint: g.
        sets: the trajectories.
        noise: the standard deviation of q and v, (2 d,), as far as it is known.
    """
    q = torch.cat([part.q.flatten(0, 1) for part in sets])
    some = slice(None, None, -(-len(q) // _LOOKED_AT))
    value, jacobian = constraint(q[some]), constraint.jacobian(q[some])
    inner, root_m = jacobian @ jacobian.mT, value.shape[-1] ** 0.5
    sigma = noisiest(sets, "q", noise[: q.shape[-1]].to(q)).square().mean().sqrt()
    spread = (q - q.mean(0)).square().sum(-1).mean().sqrt()
    distance = _normal(inner, value).median()
    if bool(distance > _NOISES * root_m * sigma + _OFF * spread):
        warnings.warn(
            f"data: q lies off the constraint, at a median distance of {float(distance):.3g}, which is "
            f"{100 * float(distance / spread):.3g} % of its spread; look for other lengths or units, or give noise",
            stacklevel=3,
        )
    if sets[0].v is None:
        return
    v = torch.cat([part.need("v").flatten(0, 1) for part in sets])
    speed = v.square().sum(-1).mean().sqrt()
    across = _normal(inner, constraint.along(q[some], v[some])).square().mean().sqrt()
    shaken = noisiest(sets, "v", noise[q.shape[-1] :].to(v)).square().mean().sqrt() + speed * sigma / spread
    if bool(across > _NOISES * root_m * shaken + _ACROSS * speed):
        warnings.warn(
            f"data: v moves across the constraint, {float(across):.3g} along its normals in the RMS, which is "
            f"{100 * float(across / speed):.3g} % of the speed; look for a constraint that does not hold, or for wrong "
            "signs or swapped columns of v",
            stacklevel=3,
        )


def _normal(inner: Tensor, value: Tensor) -> Tensor:
    # sqrt(x' (G G')^-1 x) of each row; no finite length leads away where G has no direction.
    solved = torch.linalg.solve_ex(inner, value.unsqueeze(-1))[0].squeeze(-1)
    return (value * solved).sum(-1).nan_to_num(torch.inf).clamp_min(0).sqrt()


def begin_on(step: Rattle, q: Tensor, v: Tensor, t: Time, dt: float) -> tuple[Tensor, Tensor]:
    """The initial state (q, p) on the constraint that is near to (q, v), each (*batch, d).

    It warns where a position moves by more than 1 % of its size, or a velocity loses more than 5 %.

    Raises:
        InputError: dt is zero or not a number.
        SolveError: no state is near, or the directions of the constraint are dependent at one.
    """
    check_dt(dt)
    try:
        place, momentum = step.project(q, step.lagrangian.momentum(q, v, t), t)
    except SolveError as error:
        with torch.no_grad():
            off = step.constraint(q).abs().amax(-1)
        at, which = _largest(off)
        if not float(off.flatten()[at]) > torch.finfo(off.dtype).eps ** 0.5:
            raise
        raise SolveError(
            f"the initial state{which} is off the constraint, g(q) = {float(off.flatten()[at]):.3g} there, and no way "
            f"onto it was found: {error}"
        ) from error
    with torch.no_grad():
        velocity = step.lagrangian.velocity(place, momentum, t)
        size = q.norm(dim=-1)
        # Speeds that lead nowhere within a step are rounding.
        speed = v.norm(dim=-1) + torch.finfo(q.dtype).eps ** 0.5 * size / abs(dt)
        for name, change, whole, share in (
            ("q", (place - q).norm(dim=-1), size, _MOVED),
            ("v", (velocity - v).norm(dim=-1), speed, _LOST),
        ):
            far = change > share * whole
            if bool(far.any()):
                at, which = _largest(change)
                warnings.warn(
                    f"{int(far.sum())} of {far.numel()} initial {name} are off the constraint and were moved onto it, "
                    f"the farthest by {float(change.flatten()[at]):.3g}{which}",
                    stacklevel=3,
                )
    return place, momentum


def _largest(x: Tensor) -> tuple[int, str]:
    # Where a batch of numbers is largest, flat and in words.
    at = int(x.nan_to_num(torch.inf).argmax())
    index = tuple(int(i) for i in torch.unravel_index(torch.tensor(at), x.shape))
    return at, f" at index {index}" if index else ""
