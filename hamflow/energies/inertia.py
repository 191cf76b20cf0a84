"""Solving with mass matrices, positive or not, and saying so where one is singular."""

from __future__ import annotations

import torch
from torch import Tensor

from hamflow.errors import SolveError

#: Times the resolution of the dtype: a reciprocal condition number below it leaves no digit of the solution.
DIGITS = 16


def solve_mass(mass: Tensor, force: Tensor, *, regulariser: float = 0.0, what: str = "mass matrix") -> Tensor:
    r"""The solution a of M a = f for symmetric matrices, one a row of the batch.

    Positive definite matrices are solved by Cholesky factors, and if one is not, all by pivoted elimination. With a
    ``regulariser`` :math:`\lambda` the solution is that of

    .. math:: \bigl(M^2 + \lambda^2 s^2\bigr)\, a = M f, \qquad s = \lVert M \rVert_F / \sqrt d,

    which replaces every inverse eigenvalue 1 / m by :math:`m / (m^2 + \lambda^2 s^2)`: where M is singular the
    acceleration stays finite, and elsewhere it is off by the share :math:`\lambda^2 s^2 / m^2`.

    Where Cholesky factors are found only their diagonal is looked at, which bounds the condition number from below:
    what is refused is singular, but what is not may have lost most of its digits; :func:`condition_numbers` tells.

    Args:
        mass: M, (*batch, d, d).
        force: f, (*batch, d).
        regulariser: :math:`\lambda`, 0 for none.
        what: what the matrices are, for the error.

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
        return _regularised(mass, force, regulariser, what)
    if torch.compiler.is_compiling():
        # No error can depend on numbers there, nor the choice of a method.
        traced: Tensor = torch.linalg.solve_ex(mass, force.unsqueeze(-1)).result.squeeze(-1)
        return traced
    factor, info = torch.linalg.cholesky_ex(mass)
    if not bool(info.any()):
        # The diagonal of the factor bounds the condition number from below, at no cost. Only from below: what is found
        # here to be singular is, and one that passes may still have lost its digits.
        diagonal = factor.detach().diagonal(dim1=-2, dim2=-1)
        narrow = (diagonal.amin(-1) / diagonal.amax(-1)).square() if diagonal.numel() else diagonal.new_ones(1)
        if not bool((narrow < DIGITS * torch.finfo(mass.dtype).eps).any()):
            return torch.cholesky_solve(force.unsqueeze(-1), factor).squeeze(-1)
    _check_condition(mass.detach(), what)
    solution: Tensor = torch.linalg.solve_ex(mass, force.unsqueeze(-1)).result.squeeze(-1)
    return solution


def _regularised(mass: Tensor, force: Tensor, regulariser: float, what: str) -> Tensor:
    # The real part of 1 / (m + i s) is m / (m^2 + s^2); squares of M would cost half of the digits.
    d = mass.shape[-1]
    shift = regulariser * (mass.square().mean((-2, -1), keepdim=True) * d).sqrt()
    looked_at = not torch.compiler.is_compiling()
    if looked_at and (d**0.5 / regulariser > _limit(mass.dtype) or not bool((shift != 0).all())):
        _check_condition(mass.detach(), what, shift.detach()[..., 0])
    shifted = torch.complex(mass, shift * torch.eye(d).to(mass))
    solution: Tensor = torch.linalg.solve_ex(
        shifted, torch.complex(force, torch.zeros_like(force)).unsqueeze(-1)
    ).result
    return solution.squeeze(-1).real


def condition_numbers(mass: Tensor) -> Tensor:
    """The condition numbers of symmetric matrices, (*batch, d, d) -> (*batch,); infinite where one is singular.

    Example:
        >>> import torch
        >>> from hamflow.energies import condition_numbers
        >>> condition_numbers(torch.diag(torch.tensor([2.0, -8.0])))
        tensor(4.)
    """
    sizes = torch.linalg.eigvalsh(mass).abs()
    return sizes.amax(-1) / sizes.amin(-1)


def _limit(dtype: torch.dtype) -> float:
    return 1 / (DIGITS * torch.finfo(dtype).eps)


def _check_condition(mass: Tensor, what: str, shift: Tensor | None = None) -> None:
    finite = mass.isfinite().all(-1).all(-1)
    sizes = torch.linalg.eigvalsh(mass[finite]).abs()
    if shift is not None:
        sizes = torch.hypot(sizes, shift[finite])
    refuse_singular(sizes.amax(-1) / sizes.amin(-1), finite.numel(), mass.dtype, what, advise=shift is None)


def refuse_singular(conditions: Tensor, count: int, dtype: torch.dtype, what: str, *, advise: bool = True) -> None:
    """Raise :class:`SolveError` where condition numbers leave no digit of a solution.

    Args:
        conditions: those of the matrices that were looked at.
        count: the number of all matrices.
        dtype: in which they are solved with.
        what: what they are, for the error.
        advise: whether a regulariser helps.
    """
    limit = _limit(dtype)
    bad = ~(conditions < limit)
    if bool(bad.any()):
        advice = "; a regulariser, as in LNN(regulariser=1e-3), keeps accelerations finite"
        raise SolveError(
            f"the {what} of {int(bad.sum())} of {count} states is singular: condition number "
            f"{float(conditions[bad].max()):.1e}, expected less than {limit:.0e}"
            + (advice if advise and what == "mass matrix" else "")
        )
