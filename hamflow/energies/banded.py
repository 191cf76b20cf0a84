"""Symmetric matrices with few diagonals, their ends joined or not, solved in time linear in their size."""

from __future__ import annotations

import torch
from torch import Tensor

from hamflow.energies.inertia import DIGITS
from hamflow.errors import InputError, SolveError


def solve_banded(bands: Tensor, force: Tensor, *, cyclic: bool = False, regulariser: float = 0.0) -> Tensor:
    r"""The solution a of M a = f for symmetric banded matrices, one a row of the batch, differentiable in both.

    The elimination :math:`M = L D L^\top` goes from the first row to the last without pivoting, which is stable for
    positive definite M and costs :math:`O(n w^2)`. In cyclic matrices the last w unknowns are eliminated after all
    others, by the w x w Schur complement, which is positive wherever M is. Where M is not positive, digits are lost as
    a pivot gets small beside the entries of M, and with the last digit the solve refuses. With a ``regulariser``
    :math:`\lambda` the solution is that of :func:`hamflow.energies.solve_mass`,

    .. math:: \bigl(M^2 + \lambda^2 s^2\bigr)\, a = M f, \qquad s = \lVert M \rVert_F / \sqrt n,

    found as the real part of :math:`(M + i \lambda s)^{-1} f`, in which no pivot is smaller than :math:`\lambda s`.

    Args:
        bands: row k holds the entries k beside the diagonal, :math:`M_{i, i+k}`, (*batch, w + 1, n); what lies beyond
            the end is counted on from the beginning where ``cyclic``, and not looked at elsewhere.
        force: f, (*batch, n).
        cyclic: whether the last unknowns are neighbours of the first.
        regulariser: :math:`\lambda`, 0 for none.

    Returns:
        (*batch, n); NaN in the rows where the matrix itself holds NaN.

    Raises:
        InputError: the shapes do not fit, or a cyclic matrix has fewer than 2 w + 1 rows.
        SolveError: a pivot vanishes to the precision of the dtype; the error says of how many matrices.

    Example:
        >>> import torch
        >>> from hamflow.energies import solve_banded
        >>> bands = torch.tensor([[2.0, 2.0, 2.0], [-1.0, -1.0, 0.0]])
        >>> solve_banded(bands, torch.tensor([1.0, 0.0, 1.0]))
        tensor([1.0000, 1.0000, 1.0000])
    """
    if bands.ndim < 2 or force.ndim == 0 or bands.shape[-1] != force.shape[-1]:
        raise InputError(
            f"bands has shape {tuple(bands.shape)} and force {tuple(force.shape)}, "
            "expected (*batch, w + 1, n) and (*batch, n)"
        )
    width, n = bands.shape[-2] - 1, bands.shape[-1]
    if cyclic and n < 2 * width + 1:
        raise InputError(f"bands has {n} columns, expected at least {2 * width + 1} where cyclic")
    if regulariser:
        bands, force = _shifted(bands if cyclic else without_ends(bands), force, regulariser)
    # entries[k][i] and sides[i], each the batch in one piece of memory.
    entries = [list(band.unbind(0)) for band in bands.movedim((-2, -1), (0, 1)).contiguous().unbind(0)]
    sides = list(force.movedim(-1, 0).contiguous().unbind(0))
    pivots: list[Tensor] = []
    solution = torch.stack(
        _solve_cyclic(entries, sides, pivots) if cyclic and width else _eliminate(entries, sides, pivots), dim=-1
    )
    _check_pivots(torch.stack(pivots, -1).detach(), bands.detach())
    return solution.real if regulariser else solution


def dense_matrix(bands: Tensor, *, cyclic: bool = False) -> Tensor:
    """The symmetric matrix of these bands, (*batch, w + 1, n) -> (*batch, n, n)."""
    diagonal, *beside = (bands if cyclic else without_ends(bands)).unbind(-2)
    upper = [torch.diag_embed(band).roll(k, -1) for k, band in enumerate(beside, start=1)]
    return sum((half + half.mT for half in upper), torch.diag_embed(diagonal))


def without_ends(bands: Tensor) -> Tensor:
    """The bands with zeros in place of what lies beyond the end."""
    rows, columns = (torch.arange(n, device=bands.device) for n in bands.shape[-2:])
    return bands * (rows.unsqueeze(-1) + columns < bands.shape[-1])


def _shifted(bands: Tensor, force: Tensor, regulariser: float) -> tuple[Tensor, Tensor]:
    squares = bands.square().sum(-1)
    size = ((squares[..., 0] + 2 * squares[..., 1:].sum(-1)) / bands.shape[-1]).sqrt()
    diagonal = torch.complex(bands[..., :1, :], (regulariser * size)[..., None, None].expand_as(bands[..., :1, :]))
    return torch.cat((diagonal, bands[..., 1:, :].to(diagonal)), dim=-2), force.to(diagonal)


def _eliminate(entries: list[list[Tensor]], sides: list[Tensor], pivots: list[Tensor]) -> list[Tensor]:
    # Rows i of M (*batch), and sides (*columns, *batch); appends the pivots.
    width, n = len(entries) - 1, len(sides)
    upper: list[list[Tensor]] = []
    lower: list[list[Tensor]] = []
    sides = list(sides)
    for i in range(n):
        row = [band[i] for band in entries]
        for j in range(1, min(width, i) + 1):
            factor = lower[i - j][j]
            for k in range(width - j + 1):
                row[k] = torch.addcmul(row[k], factor, upper[i - j][j + k], value=-1)
            sides[i] = sides[i] - factor * sides[i - j]
        upper.append(row)
        lower.append([entry / row[0] for entry in row])
        pivots.append(row[0])
    for i in range(n - 1, -1, -1):
        sides[i] = sides[i] / upper[i][0]
        for k in range(1, min(width, n - 1 - i) + 1):
            sides[i] = sides[i] - lower[i][k] * sides[i + k]
    return sides


def _solve_cyclic(entries: list[list[Tensor]], sides: list[Tensor], pivots: list[Tensor]) -> list[Tensor]:
    # M = [[A, B], [B', C]] with the last w unknowns in C: A is banded, and B is empty but near its first and last rows.
    width = len(entries) - 1
    m = len(sides) - width
    zero = torch.zeros_like(entries[0][0])
    border = [[zero] * width for _ in range(m)]
    corner = [[zero] * width for _ in range(width)]
    for k in range(1, width + 1):
        for j in range(width):
            if m + j - k < m:
                border[m + j - k][j] = entries[k][m + j - k]
            if j + k >= width:
                border[j + k - width][j] = entries[k][m + j]
    for k in range(width):
        for j in range(width - k):
            corner[k][j] = entries[k][m + j]
    columns = [torch.stack(torch.broadcast_tensors(sides[i], *border[i])) for i in range(m)]
    inner = _eliminate([band[:m] for band in entries], columns, pivots)
    touched = sorted({*range(width), *range(m - width, m)})
    ends = list(sides[m:])
    for i in touched:
        for j in range(width):
            ends[j] = ends[j] - border[i][j] * inner[i][0]
            for k in range(width - j):
                corner[k][j] = corner[k][j] - border[i][j] * inner[i][1 + j + k]
    last = _eliminate(corner, ends, pivots)
    known = torch.stack(last)
    return [x[0] - (x[1:] * known).sum(0) for x in inner] + last


def _check_pivots(pivots: Tensor, bands: Tensor) -> None:
    # What comes after a pivot of zero is no number; nor is the size of a matrix that held none before.
    pivots = torch.where(pivots.isnan(), torch.inf, pivots.abs())
    smallest = pivots.amin(-1) / bands.abs().amax((-2, -1)).clamp(min=torch.finfo(bands.dtype).tiny)
    limit = DIGITS * torch.finfo(bands.dtype).eps
    bad = smallest < limit
    if bool(bad.any()):
        raise SolveError(
            f"the banded mass matrix of {int(bad.sum())} of {bad.numel()} states is singular, or it is not positive: a "
            f"pivot is {float(smallest[bad].min()):.1e} of its largest entry, expected more than {limit:.0e}; a "
            "regulariser, as in LNN(regulariser=1e-3), keeps accelerations finite"
        )
