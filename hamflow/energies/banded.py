"""Matrices with few diagonals, their ends joined or not, solved in time linear in their size."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hamflow.energies.inertia import DIGITS, refuse_singular
from hamflow.errors import InputError

#: Rows of a block of the elimination; smaller matrices are one block.
_BLOCK = 16

#: What solves with (N, n, sides), and the smallest pivot of each matrix, (N,).
_Elimination = tuple[Callable[[Tensor], Tensor], Tensor]


def solve_banded(bands: Tensor, force: Tensor, *, cyclic: bool = False, regulariser: float = 0.0) -> Tensor:
    r"""The solution a of M a = f for symmetric banded matrices, one a row of the batch, differentiable in both.

    The elimination goes through blocks of 16 rows, with pivots chosen within each, and costs :math:`O(n)`; in cyclic
    matrices the last w unknowns are eliminated after all others, by their Schur complement. For positive definite M
    that is stable. For other M it may lose digits, so the solution is put back into the equations: a row of the batch
    that is not solved to rounding is solved again by dense elimination with pivots from the whole matrix,
    :math:`O(n^3)`. With a ``regulariser`` :math:`\lambda` the solution is that of
    :func:`hamflow.energies.solve_mass`,

    .. math:: \bigl(M^2 + \lambda^2 s^2\bigr)\, a = M f, \qquad s = \lVert M \rVert_F / \sqrt n,

    found as the real part of :math:`(M + i \lambda s)^{-1} f`.

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
        SolveError: a matrix is singular to the precision of its dtype; the error says how many and their condition.

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
    full = both_sides(bands if cyclic else without_ends(bands))
    if not regulariser:
        return banded_solver(full, cyclic=cyclic)(force)
    size = (full.square().sum((-2, -1)) / n).sqrt()
    shift = torch.zeros_like(full).index_fill(-2, torch.tensor([width], device=full.device), 1.0)
    shifted = torch.complex(full, regulariser * size[..., None, None] * shift)
    return banded_solver(shifted, cyclic=cyclic)(force.to(shifted)).real


def banded_solver(bands: Tensor, *, cyclic: bool, what: str = "mass matrix") -> Callable[[Tensor], Tensor]:
    """What solves with banded matrices, symmetric or not, factored once.

    Args:
        bands: row w + k holds the entries (i, i + k), k from -w to w, (*batch, 2 w + 1, n); beyond the end they count
            on from the beginning, and are zero unless ``cyclic``.
        cyclic: whether the last unknowns are neighbours of the first.
        what: what the matrices are, for the error.

    Returns:
        (*batch, n) -> (*batch, n); it raises :class:`SolveError` where a matrix is singular.
    """
    batch, (rows, n) = bands.shape[:-2], bands.shape[-2:]
    flat = bands.reshape(-1, rows, n)
    eliminate, pivots = _border(flat) if cyclic and rows > 1 else _eliminate(flat, torch.arange(n, device=flat.device))
    limit = DIGITS * torch.finfo(bands.dtype).eps
    finite = flat.detach().isfinite().all(-1).all(-1)
    # After a pivot that leaves no digit nothing is a number, or looks like one.
    doubtful = ~(pivots > limit * flat.detach().abs().amax((-2, -1)))

    def solve(force: Tensor) -> Tensor:
        shape = torch.broadcast_shapes(batch, force.shape[:-1])
        if shape != batch:
            return banded_solver(bands.expand(*shape, rows, n), cyclic=cyclic, what=what)(force)
        sides = force.expand(*shape, n).reshape(-1, n)
        found = eliminate(sides.unsqueeze(-1)).squeeze(-1)
        with torch.no_grad():
            off = (multiply(flat, found) - sides).abs().amax(-1)
            size = multiply(flat.abs(), found.abs()).amax(-1) + sides.abs().amax(-1)
            lost = finite & sides.isfinite().all(-1) & (doubtful | ~(off <= limit * size))
        if bool(lost.any()):
            found = found.new_zeros(found.shape)
            pivoted = _dense(flat, lost, cyclic=cyclic, what=what)
            found = found.index_put((lost.nonzero().squeeze(-1),), pivoted(sides[lost]))
            if not bool(lost.all()):
                # Anew, so that no derivative comes by what is not a number.
                others = banded_solver(flat[~lost], cyclic=cyclic, what=what)
                found = found.index_put(((~lost).nonzero().squeeze(-1),), others(sides[~lost]))
        return found.reshape(*shape, n)

    return solve


def banded_jacobian(equations: Callable[[Tensor], Tensor], x: Tensor, *, width: int, cyclic: bool) -> Tensor:
    r"""The Jacobians of equations that couple each unknown to w on each side, as :func:`banded_solver` takes them.

    Rows whose entries do not overlap share a product, so :math:`2 w + 1` vector-Jacobian products do, and up to 2 w
    more at the seam of a ring, however large n is; (*batch, n) -> (*batch, 2 w + 1, n).
    """
    n, count = x.shape[-1], 2 * width + 1
    places = torch.arange(n, device=x.device)
    # What is left of a ring after whole rounds of the colours has one of its own each.
    whole = n - n % count if cyclic else n
    colour = torch.where(places < whole, places % count, count + places - whole)
    pullback = torch.func.vjp(equations, x)[1]
    masks = (colour == torch.arange(int(colour.max()) + 1, device=x.device).unsqueeze(-1)).to(x)
    products = torch.func.vmap(lambda e: pullback(e.expand_as(x))[0], out_dims=-2)(masks)
    columns = places + torch.arange(-width, width + 1, device=x.device).unsqueeze(-1)
    found: Tensor = products[..., colour.expand_as(columns), columns % n]
    return found if cyclic else found * ((columns >= 0) & (columns < n))


def multiply(bands: Tensor, x: Tensor) -> Tensor:
    """The products with banded matrices, (*batch, 2 w + 1, n) and (*batch, n) -> (*batch, n)."""
    width = bands.shape[-2] // 2
    return sum((bands[..., width + k, :] * x.roll(-k, -1) for k in range(-width, width + 1)), torch.zeros_like(x))


def both_sides(bands: Tensor) -> Tensor:
    """The bands on both sides of the diagonal of symmetric matrices, (*batch, w + 1, n) -> (*batch, 2 w + 1, n)."""
    below = [bands[..., k, :].roll(k, -1) for k in range(bands.shape[-2] - 1, 0, -1)]
    return torch.cat((torch.stack(below, dim=-2), bands), dim=-2) if below else bands


def dense_matrix(bands: Tensor, *, cyclic: bool = False) -> Tensor:
    """The symmetric matrix of these bands, (*batch, w + 1, n) -> (*batch, n, n)."""
    return _written_out(both_sides(bands if cyclic else without_ends(bands)), cyclic=cyclic)


def without_ends(bands: Tensor) -> Tensor:
    """The bands with zeros in place of what lies beyond the end."""
    rows, columns = (torch.arange(n, device=bands.device) for n in bands.shape[-2:])
    return bands * (rows.unsqueeze(-1) + columns < bands.shape[-1])


def _written_out(bands: Tensor, *, cyclic: bool) -> Tensor:
    every = torch.arange(bands.shape[-1], device=bands.device)
    return _entries(bands, every, every, cyclic=cyclic)


def _entries(bands: Tensor, rows: Tensor, columns: Tensor, *, cyclic: bool = False) -> Tensor:
    # The dense part of these rows and columns, (*batch, rows, columns).
    count, n = bands.shape[-2:]
    beside = columns - rows.unsqueeze(-1)
    if cyclic:
        beside = (beside + n // 2) % n - n // 2
    index = beside + count // 2
    inside = (index >= 0) & (index < count)
    return bands[..., index.clamp(0, count - 1), rows.unsqueeze(-1)] * inside


def _eliminate(bands: Tensor, places: Tensor) -> _Elimination:
    # Solves with the part of the matrices on these neighbouring places, ends not joined: block by block, where only the
    # w places next to a block are coupled to it.
    width = bands.shape[-2] // 2
    size = max(_BLOCK, 2 * width)
    blocks = places.tensor_split(max(1, len(places) // size))
    factors: list[tuple[Tensor, Tensor]] = []
    above: list[Tensor] = []
    below: list[Tensor] = []
    for i, block in enumerate(blocks):
        matrix = _entries(bands, block, block)
        if i:
            before, near = blocks[i - 1][-width:], block[:width]
            below.append(_entries(bands, near, before))
            change = below[-1] @ above[-1][:, -width:]
            rest = len(block) - width
            matrix = matrix - torch.nn.functional.pad(change, (0, rest, 0, rest))
        factor, pivots, _ = torch.linalg.lu_factor_ex(matrix)
        factors.append((factor, pivots))
        if i + 1 < len(blocks):
            beyond = _entries(bands, block, blocks[i + 1][:width])
            above.append(torch.linalg.lu_solve(factor, pivots, beyond))

    def solve(sides: Tensor) -> Tensor:
        parts = list(sides.split([len(block) for block in blocks], dim=-2))
        for i, factor in enumerate(factors):
            if i and width:
                change = below[i - 1] @ parts[i - 1][:, -width:]
                parts[i] = parts[i] - torch.nn.functional.pad(change, (0, 0, 0, len(blocks[i]) - width))
            parts[i] = torch.linalg.lu_solve(*factor, parts[i])
        for i in range(len(parts) - 2, -1, -1):
            parts[i] = parts[i] - above[i] @ parts[i + 1][:, :width]
        return torch.cat(parts, dim=-2)

    return solve, torch.stack([_smallest(factor) for factor, _ in factors]).amin(0)


def _border(bands: Tensor) -> _Elimination:
    # [[A, B], [C, D]] with the last w unknowns in D: A has ends that are not joined.
    width, n = bands.shape[-2] // 2, bands.shape[-1]
    every = torch.arange(n, device=bands.device)
    inner, last = every[:-width], every[-width:]
    right, left = _entries(bands, inner, last, cyclic=True), _entries(bands, last, inner, cyclic=True)
    eliminate, smallest = _eliminate(bands, inner)
    moved = eliminate(right)
    factor, pivots, _ = torch.linalg.lu_factor_ex(_entries(bands, last, last, cyclic=True) - left @ moved)

    def solve(sides: Tensor) -> Tensor:
        known = eliminate(sides[:, :-width])
        ends = torch.linalg.lu_solve(factor, pivots, sides[:, -width:] - left @ known)
        return torch.cat((known - moved @ ends, ends), dim=-2)

    return solve, torch.minimum(smallest, _smallest(factor))


def _smallest(factor: Tensor) -> Tensor:
    # The smallest pivot of each matrix, (N, d, d) -> (N,).
    return factor.detach().diagonal(dim1=-2, dim2=-1).abs().amin(-1)


def _dense(bands: Tensor, chosen: Tensor, *, cyclic: bool, what: str) -> Callable[[Tensor], Tensor]:
    matrix = _written_out(bands[chosen], cyclic=cyclic)
    sizes = torch.linalg.svdvals(matrix.detach())
    refuse_singular(sizes.amax(-1) / sizes.amin(-1), len(bands), matrix.dtype, what)
    return lambda sides: torch.linalg.solve(matrix, sides.unsqueeze(-1)).squeeze(-1)
