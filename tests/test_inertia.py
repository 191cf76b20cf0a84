"""Solves with mass matrices, positive or not, singular or not."""

import math

import pytest
import torch
from torch import Tensor

import hamflow as hf
from hamflow.energies import (
    condition_numbers,
    solve_mass,
)
from tests.mechanisms import F64, states

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, F64])


def symmetric(eigenvalues: list[float], n: int = 5) -> Tensor:
    """Random matrices with these eigenvalues, (n, d, d)."""
    d = len(eigenvalues)
    turn = torch.linalg.qr(torch.randn(n, d, d, generator=torch.Generator().manual_seed(0), dtype=F64)).Q
    return turn @ torch.diag(torch.tensor(eigenvalues, dtype=F64)) @ turn.mT


@pytest.mark.parametrize("eigenvalues", [[1.0, 2.0, 30.0], [1.0, -2.0, 30.0], [-1.0, -2.0, -3.0]])
@pytest.mark.parametrize("mixed", [False, True])
def test_solves(eigenvalues: list[float], mixed: bool) -> None:
    mass = symmetric(eigenvalues)
    if mixed:
        mass[0] = symmetric([1.0, 2.0, 3.0])[0]
    true = states(5, 3)[0]
    found = solve_mass(mass, (mass @ true.unsqueeze(-1)).squeeze(-1))
    torch.testing.assert_close(found, true, rtol=1e-12, atol=1e-12)


@DTYPES
def test_a_singular_mass_is_named_with_its_condition(dtype: torch.dtype) -> None:
    mass = symmetric([1.0, 2.0, 3.0]).to(dtype)
    mass[3] = torch.diag(torch.tensor([1.0, 4.0, 0.0], dtype=dtype))
    with pytest.raises(hf.SolveError, match="mass matrix of 1 of 5 states is singular: condition number inf, expected"):
        solve_mass(mass, mass[:, 0])
    mass[3, 2, 2] = -4e-17
    with pytest.raises(hf.SolveError, match=r"condition number 1.0e\+17.*LNN\(regulariser=1e-3\)"):
        solve_mass(mass, mass[:, 0])
    assert condition_numbers(symmetric([2.0, -5.0, 1.0])).tolist() == pytest.approx([5.0] * 5)


@DTYPES
@pytest.mark.parametrize("smallest", [1.0, -0.02, 1e-4, 0.0])
@pytest.mark.parametrize("regulariser", [1e-3, 0.1])
def test_the_regulariser_is_the_documented_one(dtype: torch.dtype, smallest: float, regulariser: float) -> None:
    """Also where it makes no condition number small: squares of M would not do in float32."""
    mass, force = symmetric([3.0, -1.0, smallest]), states(5, 3)[0]
    size, axes = torch.linalg.eigh(mass)
    shift = regulariser**2 * size.square().mean(-1, keepdim=True)
    inverse = size / (size**2 + shift)
    expected = (axes @ (inverse.unsqueeze(-1) * axes.mT) @ force.unsqueeze(-1)).squeeze(-1)
    found = solve_mass(mass.to(dtype), force.to(dtype), regulariser=regulariser)
    assert found.dtype == dtype
    # Where M is singular to rounding its smallest eigenvalue is rounding, divided by the shift.
    bound = (1e-10 if dtype == F64 else 1e-5) / regulariser**2
    assert (found.double() - expected).abs().max() < min(bound, 1e-2 if smallest == 1.0 else math.inf)


def test_no_regulariser_makes_up_a_mass() -> None:
    with pytest.raises(hf.SolveError, match="1 of 2 states is singular"):
        solve_mass(torch.stack((torch.eye(2), torch.zeros(2, 2))), torch.ones(2, 2), regulariser=1e-3)
    with pytest.raises(hf.SolveError, match="mass matrix of 1 of 1 states is singular"):
        solve_mass(torch.diag(torch.tensor([1.0, 0.0])), torch.ones(2), regulariser=1e-9)


@pytest.mark.parametrize("regulariser", [0.0, 1e-3])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_rows_that_are_no_numbers_stay_alone(regulariser: float, sign: float) -> None:
    mass = sign * symmetric([1.0, 2.0, 3.0])
    mass[2, 1, 1] = math.nan
    found = solve_mass(mass, torch.ones(5, 3, dtype=F64), regulariser=regulariser)
    assert found.isnan().all(-1).tolist() == [False, False, True, False, False]
    assert found.isfinite().all(-1).tolist() == [True, True, False, True, True]


@pytest.mark.parametrize("regulariser", [0.0, 0.1])
def test_derivatives_of_solves(regulariser: float) -> None:
    mass, force = symmetric([1.0, -2.0, 3.0], n=2).requires_grad_(), states(2, 3)[0].requires_grad_()

    def solved(m: Tensor, f: Tensor) -> Tensor:
        return solve_mass(0.5 * (m + m.mT), f, regulariser=regulariser)

    assert torch.autograd.gradcheck(solved, (mass, force))
