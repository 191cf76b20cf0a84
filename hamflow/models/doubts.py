"""What makes trajectories doubtful before anything is learned from them: said once, as a warning."""

from __future__ import annotations

import math
import warnings

from torch import Tensor

from hamflow.systems import Trajectories

#: A step is a turn too far where it misses a whole one by less than this share of it, and steps usually are shorter.
_NEAR = 0.1


def warn_of_doubts(sets: list[Trajectories], second: str) -> None:
    """Warn of velocities that stand for momenta, and of angles that nobody named.

    Args:
        sets: what will be learned from.
        second: what a model takes beside positions, ``"p"`` or ``"v"``.
    """
    if second == "p" and sets[0].p is None and sets[0].dim > 1:
        warnings.warn(
            "data has no momenta: velocities stand for them, which is right where all masses are equal; where they are "
            "not, give p, or learn with hamflow.LNN, which takes velocities",
            stacklevel=3,
        )
    for coordinate in range(sets[0].dim):
        if coordinate not in sets[0].periodic and any(_turns(part, coordinate) for part in sets):
            warnings.warn(
                f"data: coordinate {coordinate} jumps by 2 pi between states; where it is an angle name it, "
                f"metadata={{'periodic': [{coordinate}]}}",
                stacklevel=3,
            )


def _turns(data: Trajectories, coordinate: int) -> bool:
    steps: Tensor = data.q[..., coordinate].double().diff(dim=1)
    if data.v is not None:
        v = data.v[..., coordinate].double()
        steps = steps - (v[:, 1:] + v[:, :-1]) / 2 * data.own_times().double().diff(dim=1)
    far = steps.abs() / (2 * math.pi)
    jumps = (far - 1).abs() < _NEAR
    # Of a coordinate in other units a step near to 6.28 is one among others.
    return bool(jumps.any()) and bool((far[~jumps] < _NEAR).all())
