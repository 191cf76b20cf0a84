"""Solving with mass matrices, positive or not, and saying so where one is singular."""

from __future__ import annotations

import torch
from torch import Tensor

from hamflow.errors import SolveError

#: Times the resolution of the dtype: a reciprocal condition number below it leaves no digit of the solution.
DIGITS = 16


def solve_mass(mass: Tensor, force: Tensor, *, regulariser: float = 0.0) -> Tensor:
    r"""The solution a of M a = f for symmetric matrices, one a row of the batch.

    Positive definite matrices are solved by Cholesky factors, and if one is not, all by pivoted elimination. With a
    ``regulariser`` :math:`\lambda` the solution is that of

    .. math:: \bigl(M^2 + \lambda^2 s^2\bigr)\, a = M f, \qquad s = \lVert M \rVert_F / \sqrt d,

    which replaces every inverse eigenvalue 1 / m by :math:`m / (m^2 + \lambda^2 s^2)`: where M is singular the
    acceleration stays finite, and elsewhere it is off by the share :math:`\lambda^2 s^2 / m^2`.

    Args:
        mass: M, (*batch, d, d).
        force: f, (*batch, d).
        regulariser: :math:`\lambda`, 0 for none.

    Returns:
        (*batch, d); NaN in the rows where the matrix itself holds NaN.

    Raises:
        SolveError: a matrix is singular to the precision of its dtype; the error says how many and their condition.

    Example:
        >>> import torch
        >>> from hamflow.energies.inertia import solve_mass
        >>> solve_mass(torch.diag(torch.tensor([2.0, -4.0])), torch.tensor([2.0, 2.0]))
        tensor([ 1.0000, -0.5000])
    """
    if regulariser:
        size = mass.square().mean((-2, -1), keepdim=True) * mass.shape[-1]
        unit = torch.eye(mass.shape[-1]).to(mass)
        force = (mass @ force.unsqueeze(-1)).squeeze(-1)
        mass = mass @ mass.mT + regulariser**2 * size * unit
    factor, info = torch.linalg.cholesky_ex(mass)
    if not bool(info.any()):
        # The diagonal of the factor bounds the condition number from below, at no cost.
        diagonal = factor.detach().diagonal(dim1=-2, dim2=-1)
        narrow = (diagonal.amin(-1) / diagonal.amax(-1)).square() if diagonal.numel() else diagonal.new_ones(1)
        if not bool((narrow < DIGITS * torch.finfo(mass.dtype).eps).any()):
            return torch.cholesky_solve(force.unsqueeze(-1), factor).squeeze(-1)
    _check_condition(mass.detach())
    solution: Tensor = torch.linalg.solve_ex(mass, force.unsqueeze(-1)).result.squeeze(-1)
    return solution


def condition_numbers(mass: Tensor) -> Tensor:
    """The condition numbers of symmetric matrices, (*batch, d, d) -> (*batch,); infinite where one is singular."""
    sizes = torch.linalg.eigvalsh(mass).abs()
    return sizes.amax(-1) / sizes.amin(-1)


def _check_condition(mass: Tensor) -> None:
    finite = mass.isfinite().all(-1).all(-1)
    found = condition_numbers(mass[finite])
    bad = ~(found < 1 / (DIGITS * torch.finfo(mass.dtype).eps))
    if bool(bad.any()):
        raise SolveError(
            f"the mass matrix of {int(bad.sum())} of {finite.numel()} states is singular: condition number "
            f"{float(found[bad].max()):.1e}, expected less than {1 / (DIGITS * torch.finfo(mass.dtype).eps):.0e}; "
            "a regulariser, as in LNN(regulariser=1e-3), keeps accelerations finite"
        )
