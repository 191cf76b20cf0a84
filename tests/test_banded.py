"""Banded matrices: their solves, their products, and Jacobians that have few diagonals."""

import pytest
import torch
from torch import Tensor

import hamflow as hf
from hamflow.energies import solve_banded, solve_mass
from hamflow.energies.banded import banded_jacobian, banded_solver, both_sides, dense_matrix, multiply

each_end = pytest.mark.parametrize("cyclic", [False, True], ids=["open", "cyclic"])


def matrices(width: int, n: int, *, cyclic: bool, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random positive definite matrices as bands, and right-hand sides: diagonally dominant by little."""
    generator = torch.Generator().manual_seed(seed)
    bands = torch.randn(3, 2, width + 1, n, generator=generator, dtype=torch.float64)
    others = dense_matrix(bands * (torch.arange(width + 1) > 0).unsqueeze(-1), cyclic=cyclic).abs().sum(-1)
    bands[..., 0, :] = others + 0.1 * bands[..., 0, :].abs()
    return bands, torch.randn(3, 2, n, generator=generator, dtype=torch.float64)


@each_end
@pytest.mark.parametrize("width", [0, 1, 2, 3])
@pytest.mark.parametrize("extra", [1, 2, 40])
def test_banded_solve_is_the_dense_one(width: int, extra: int, cyclic: bool) -> None:
    bands, force = matrices(width, 2 * width + extra, cyclic=cyclic)
    matrix = dense_matrix(bands, cyclic=cyclic)
    assert torch.linalg.eigvalsh(matrix).min() > 0
    torch.testing.assert_close(
        solve_banded(bands, force, cyclic=cyclic), torch.linalg.solve(matrix, force), rtol=1e-12, atol=1e-12
    )
    # Not positive and regularised.
    bands[..., 0, ::2] *= -1
    matrix = dense_matrix(bands, cyclic=cyclic)
    found = solve_banded(bands, force, cyclic=cyclic, regulariser=0.1)
    torch.testing.assert_close(found, solve_mass(matrix, force, regulariser=0.1), rtol=1e-11, atol=1e-11)


@each_end
@pytest.mark.parametrize("regulariser", [0.0, 0.2])
def test_banded_solve_is_differentiable_twice(regulariser: float, cyclic: bool) -> None:
    bands, force = (x[0].requires_grad_() for x in matrices(2, 6, cyclic=cyclic))

    def solve(a: Tensor, b: Tensor) -> Tensor:
        return solve_banded(a, b, cyclic=cyclic, regulariser=regulariser)

    assert torch.autograd.gradcheck(solve, (bands, force))
    assert torch.autograd.gradgradcheck(solve, (bands[:1, :, :], force[:1]))


def test_entries_beyond_the_end_are_not_looked_at() -> None:
    bands, force = matrices(2, 7, cyclic=False)
    spoilt = bands.clone()
    spoilt[..., 1, -1:] = spoilt[..., 2, -2:] = 1e6
    for regulariser in (0.0, 0.1):
        one, other = (solve_banded(x, force, regulariser=regulariser) for x in (bands, spoilt))
        torch.testing.assert_close(one, other, rtol=1e-14, atol=0)


@each_end
def test_singular_matrices_are_refused(cyclic: bool) -> None:
    bands, force = matrices(2, 8, cyclic=cyclic)
    # The unit matrix, but for rows 3 and 4 that are alike.
    bands[0, 1] = torch.tensor([[1.0], [0.0], [0.0]])
    bands[0, 1, 1, 3] = 1.0
    with pytest.raises(hf.SolveError, match=r"mass matrix of 1 of 6 states is singular: condition .*regulariser"):
        solve_banded(bands, force, cyclic=cyclic)
    assert solve_banded(bands, force, cyclic=cyclic, regulariser=1e-3).isfinite().all()
    bands[0, 1] = torch.nan
    found = solve_banded(bands, force, cyclic=cyclic)
    assert found[0, 1].isnan().all() and found[1:].isfinite().all() and found[0, 0].isfinite().all()


@each_end
def test_single_precision_stays_single(cyclic: bool) -> None:
    bands, force = matrices(2, 8, cyclic=cyclic)
    for regulariser in (0.0, 0.1):
        found = solve_banded(bands.float(), force.float(), cyclic=cyclic, regulariser=regulariser)
        assert found.dtype == torch.float32
        exact = solve_banded(bands, force, cyclic=cyclic, regulariser=regulariser)
        torch.testing.assert_close(found.double(), exact, rtol=1e-3, atol=1e-4)


def written_out(bands: Tensor, *, cyclic: bool) -> Tensor:
    """The matrices whose entry (i, i + k) is the one in row w + k, by a loop."""
    width, n = bands.shape[-2] // 2, bands.shape[-1]
    matrix = bands.new_zeros(*bands.shape[:-2], n, n)
    for i in range(n):
        for k in range(-width, width + 1):
            if cyclic or 0 <= i + k < n:
                matrix[..., i, (i + k) % n] = bands[..., width + k, i]
    return matrix


@each_end
@pytest.mark.parametrize("n", [5, 16, 33, 100])
def test_matrices_that_are_not_symmetric(n: int, cyclic: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    bands = torch.randn(4, 5, n, generator=generator, dtype=torch.float64)
    bands[:, 2] += 5.0
    bands = bands if cyclic else bands * inside(n)
    matrix, force = written_out(bands, cyclic=cyclic), torch.randn(4, n, generator=generator, dtype=torch.float64)
    found = banded_solver(bands, cyclic=cyclic)(force)
    torch.testing.assert_close(found, torch.linalg.solve(matrix, force), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(multiply(bands, found), force, rtol=1e-12, atol=1e-12)


def inside(n: int) -> Tensor:
    """Which entries of five bands lie in a matrix whose ends are not joined."""
    places = torch.arange(n) + torch.arange(-2, 3).unsqueeze(-1)
    return (places >= 0) & (places < n)


@each_end
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [8, 48])
def test_small_pivots_cost_no_digit(n: int, dtype: torch.dtype, cyclic: bool) -> None:
    """Well conditioned and not positive: a first entry near zero, and pairs that blocks may cut."""
    bands = torch.zeros(2, 2, n, dtype=torch.float64)
    bands[:, 1] = 1.0
    bands[:, 0] = 0.3 * torch.arange(n).cos() + 2.5
    bands[0, 0, 0] = 1e-13 if dtype == torch.float64 else 1e-5
    bands[1, 0] = 1e-10
    bands[1, 1, 1::2] = 0.01
    matrix = dense_matrix(bands, cyclic=cyclic)
    true = torch.randn(2, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.linalg.cond(matrix).max() < 300
    force = (matrix.to(dtype) @ true.to(dtype).unsqueeze(-1)).squeeze(-1)
    found = solve_banded(bands.to(dtype), force, cyclic=cyclic)
    eps = torch.finfo(dtype).eps
    assert (found - true.to(dtype)).abs().max() < 300 * 30 * eps


@each_end
def test_what_blocks_lose_the_whole_matrix_finds(cyclic: bool) -> None:
    """A block of 16 rows that is singular by itself; its derivatives too."""
    n = 48
    bands = torch.zeros(3, 2, n, dtype=torch.float64)
    bands[:, 0], bands[:, 1] = 3.0, 1.0
    # The block of the first rows: zero but for its coupling to the next.
    bands[1, 0, 15], bands[1, 1, 14] = 0.0, 1e-14
    force = torch.randn(3, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrix = dense_matrix(bands, cyclic=cyclic)
    assert torch.linalg.cond(matrix).max() < 20
    bands.requires_grad_()
    found = solve_banded(bands, force, cyclic=cyclic)
    torch.testing.assert_close(found, torch.linalg.solve(matrix, force), rtol=1e-12, atol=1e-12)
    (slope,) = torch.autograd.grad(found.square().sum(), bands)
    dense = dense_matrix(bands, cyclic=cyclic)
    (expected,) = torch.autograd.grad(torch.linalg.solve(dense, force).square().sum(), bands)
    torch.testing.assert_close(slope, expected, rtol=1e-9, atol=1e-9)


@each_end
@pytest.mark.parametrize("n", [5, 6, 9, 10, 11, 14, 23])
def test_jacobians_by_colours(n: int, cyclic: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(5, n, generator=generator, dtype=torch.float64) * (1 if cyclic else inside(n))
    calls = []

    def equations(x: Tensor) -> Tensor:
        calls.append(x)
        return x.cos() * multiply(weights, x.sin())

    x = torch.randn(3, n, generator=generator, dtype=torch.float64)
    expected = torch.stack([torch.autograd.functional.jacobian(equations, row) for row in x])
    calls.clear()
    bands = banded_jacobian(equations, x, width=2, cyclic=cyclic)
    torch.testing.assert_close(written_out(bands, cyclic=cyclic), expected, rtol=1e-13, atol=1e-13)
    assert len(calls) == 1


def test_what_has_no_neighbours_is_divided() -> None:
    bands = torch.tensor([[2.0, 4.0, -8.0]])
    assert both_sides(bands).shape == (1, 3)
    for cyclic in (False, True):
        assert solve_banded(bands, torch.ones(3), cyclic=cyclic).tolist() == [0.5, 0.25, -0.125]


REFUSALS = {
    "shapes": (lambda: solve_banded(torch.ones(3, 5), torch.ones(4)), r"bands has shape \(3, 5\) and force \(4,\)"),
    "columns": (
        lambda: solve_banded(torch.ones(3, 4), torch.ones(4), cyclic=True),
        "bands has 4 columns, expected at least 5 where cyclic",
    ),
}


@pytest.mark.parametrize(("call", "message"), REFUSALS.values(), ids=REFUSALS.keys())
def test_bad_arguments_are_named(call: object, message: str) -> None:
    with pytest.raises(hf.InputError, match=message):
        call()  # type: ignore[operator]
