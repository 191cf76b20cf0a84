"""Whether velocities survive the way through their momenta, which is all that a step knows."""

from __future__ import annotations

import torch
from torch import Tensor

from hamflow.energies import Lagrangian
from hamflow.energies.hamiltonian import Time
from hamflow.errors import SolveError

#: A velocity that comes back from its momentum changed by more than this share is another one.
_SAME = 1e-2


@torch.no_grad()
def check_momenta(lagrangian: Lagrangian, q: Tensor, v: Tensor, t: Time = 0.0) -> None:
    """Raise :class:`SolveError` where the momentum of a state is taken for that of another velocity.

    Several velocities have one momentum where the mass matrix is not definite on the way from one to another.

    Args:
        lagrangian: L.
        q: positions, (*batch, d).
        v: velocities, (*batch, d).
        t: the time.
    """
    back = lagrangian.velocity(q, lagrangian.momentum(q, v, t), t)
    other = (back - v).abs().amax(-1) > _SAME * v.abs().amax(-1)
    if bool(other.any()):
        at = tuple(other.nonzero()[0].tolist())
        raise SolveError(
            f"the momenta of {int(other.sum())} of {other.numel()} initial states are those of other velocities, the "
            f"first at index {at}: {v[at].tolist()} comes back as {back[at].tolist()}; expected a mass matrix that is "
            "definite at all velocities between them"
        )
