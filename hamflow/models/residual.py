"""The residual of the equations of motion as a loss that no shrunk mass makes small."""

from __future__ import annotations

import torch
from torch import Tensor

from hamflow.energies import solve_mass


def guarded_residual(r: Tensor, mass: Tensor, sizes: Tensor, normal: Tensor | None = None) -> Tensor:
    r"""The squared residual over a lower bound of the squared smallest singular value of the mass matrix,

    .. math:: \frac{1}{2d}\, \lvert D r \rvert^2\, \lVert (D M D)^{-1} \rVert_F^2
              \;\ge\; \frac{1}{2d}\, \lvert D^{-1} M^{-1} r \rvert^2 .

    On the right stands the misfit of the accelerations in their units D, so whatever makes the loss small makes them
    right: L = 0 does not, nor does a direction of M that is given up. A factor of L drops out. In one dimension, or
    where D M D is a multiple of the identity, the two differ by a factor of d at most; in between by the square of its
    condition number. Under constraints everything is taken on their tangent space, where no multiplier pulls.

    Args:
        r: the residual, (*batch, d), [force].
        mass: M, (*batch, d, d).
        sizes: the diagonal of D, the sizes of the accelerations, (d,).
        normal: the Jacobian of fewer than d constraints, (*batch, m, d), or None.

    Returns:
        (*batch,); not finite where M is singular.

    Raises:
        SolveError: the constraints are not independent.
    """
    r, scaled = sizes * r, sizes.unsqueeze(-1) * mass * sizes
    eye = torch.eye(len(sizes)).to(scaled)
    free, along = len(sizes), eye
    if normal is not None:
        normal = normal * sizes
        free -= normal.shape[-2]
        grams = (normal @ normal.mT).unsqueeze(-3).expand(*normal.shape[:-2], len(sizes), -1, -1)
        along = eye - solve_mass(grams, normal.mT, what="matrix G G' of the constraints") @ normal
        r, scaled = (along @ r.unsqueeze(-1)).squeeze(-1), along @ scaled @ along
    # In units of its largest entry, so that squares stay within float32, and with unit masses across the tangent space.
    unit = scaled.detach().abs().amax((-2, -1), keepdim=True)
    inverse, info = torch.linalg.inv_ex(scaled / unit + (eye - along))
    size = (along @ inverse).square().sum((-2, -1)).masked_fill(info != 0, torch.inf)
    return 0.5 / free * (r / unit.squeeze(-1)).square().sum(-1) * size
