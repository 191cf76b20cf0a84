"""The constraint that a model of d coordinates is given: checked when the model is made."""

from __future__ import annotations

from typing import Any

import torch

from hamflow.energies import Constraint, RigidLinks
from hamflow.errors import InputError


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
