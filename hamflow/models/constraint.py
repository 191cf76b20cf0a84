"""The constraint that a model of d coordinates is given: checked with the model, and held against states."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from hamflow.energies import Constraint, RigidLinks
from hamflow.energies.hamiltonian import Time
from hamflow.errors import InputError, SolveError
from hamflow.rollout import check_dt
from hamflow.steps import Rattle

#: The shares of an initial position, and of a velocity, that are changed onto the constraint without a word.
_MOVED, _LOST = 1e-2, 5e-2


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
