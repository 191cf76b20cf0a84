"""Roots of small systems of equations, row by row: how everything implicit here is solved and differentiated."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from hamflow.errors import SolveError

#: How often a root may be differentiated; each time costs one evaluation of the equations with a graph.
DERIVATIVES = 2
#: A Newton step that leaves more than this share of the one before asks for a new Jacobian.
_SLOW = 0.1
#: How often a Newton step is halved where it leaves the domain of the equations.
_HALVINGS = 20
#: So many of the rows to blame are named.
_NAMED = 5


class Root(NamedTuple):
    """The solution, (*batch, n), and the largest relative step that its last Newton iteration still took."""

    value: Tensor
    residual: float


def root(
    equations: Callable[[Tensor], Tensor],
    guess: Tensor,
    *,
    what: str,
    tolerance: float | None = None,
    max_iterations: int = 50,
    linearise: Callable[[Tensor], Callable[[Tensor], Tensor]] | None = None,
) -> Root:
    r"""Solve F(x) = 0 by Newton's method, (*batch, n) unknowns and as many equations; rows do not interact.

    The Jacobian is kept from iteration to iteration until these settle slowly. The solve leaves no graph; from the
    solution, which is a constant, each of two steps :math:`x \leftarrow x - J^{-1} F(x)` with that one Jacobian then
    makes one more order of derivatives right, by all that F depends on.

    Args:
        equations: F.
        guess: where to begin.
        what: whose equations they are, for the error.
        tolerance: the largest relative Newton step at the end; by default 1e-13 in float64 and 1e-5 in float32.
        max_iterations: the number of iterations allowed.
        linearise: gives at x what solves with the Jacobian there, where that is cheaper than its dense inverse.

    Raises:
        SolveError: the iteration does not settle, leaves the finite numbers, or meets a singular Jacobian.

    Example:
        >>> import torch
        >>> from hamflow.roots import root
        >>> two = torch.tensor([[2.0]], dtype=torch.float64, requires_grad=True)
        >>> x = root(lambda y: y**2 - two, torch.ones(1, 1).double(), what="square root").value
        >>> x.sum().backward()
        >>> x.item(), two.grad.item()
        (1.4142135623730..., 0.3535533905932...)
    """
    if linearise is None:
        linearise = lambda x: partial(_apply, _inverse_jacobian(equations, x, what))  # noqa: E731
    differentiable = torch.is_grad_enabled()
    with torch.no_grad():
        x, residual = _solve(equations, guess.detach(), what, tolerance, max_iterations, linearise)
        solve = linearise(x) if differentiable else None
    if solve is not None:
        for _ in range(DERIVATIVES):
            x = x - solve(equations(x))
    return Root(x, residual)


def blamed(residuals: Tensor, tolerance: float) -> str:
    """Which rows (*batch,) did not settle, in words; where some are not finite, these."""
    bad = ~residuals.isfinite()
    return named_rows(bad if bool(bad.any()) else ~(residuals <= tolerance))


def named_rows(bad: Tensor) -> str:
    """How many rows (*batch,) these are, and the indices of the first of them."""
    places = [str(tuple(place)) for place in bad.nonzero().tolist()]
    more = ", ..." if len(places) > _NAMED else ""
    return f"{len(places)} of {bad.numel()} rows" + (f", at {', '.join(places[:_NAMED])}{more}" if bad.ndim else "")


def _solve(
    equations: Callable[[Tensor], Tensor],
    x: Tensor,
    what: str,
    tolerance: float | None,
    max_iterations: int,
    linearise: Callable[[Tensor], Callable[[Tensor], Tensor]],
) -> tuple[Tensor, float]:
    tolerance = tolerance or (1e-13 if x.dtype == torch.float64 else 1e-5)
    before, residual, each = 1.0, 0.0, x.new_zeros(x.shape[:-1])
    solve, step = None, torch.zeros_like(x)
    for _ in range(max_iterations):
        defect = equations(x)
        for _ in range(_HALVINGS):
            out = ~defect.isfinite().all(-1, keepdim=True) & (step != 0).any(-1, keepdim=True)
            if not bool(out.any()):
                break
            # Velocities beyond that of light, say: half the way there.
            step = torch.where(out, 0.5 * step, step)
            x, solve = torch.where(out, x + step, x), None
            defect = equations(x)
        if solve is None:
            solve = linearise(x)
        step = solve(defect)
        if x.numel():
            each = (step.abs() / (1 + x.abs().amax(-1, keepdim=True))).amax(-1)
            residual = float(each.max())
        # Once the tolerance is met, going on until the steps stop shrinking brings them down to rounding.
        if residual == 0 or (before <= tolerance and residual >= _SLOW * before):
            return x, residual
        if not residual < float("inf"):
            break
        x = x - step
        if residual > max(_SLOW * before, tolerance):
            solve = None
        before = residual
    if residual <= tolerance:
        return x, residual
    raise SolveError(
        f"{what}: a Newton step of relative size {residual:.2e} after at most {max_iterations} iterations, expected "
        f"<= {tolerance:.0e}: {blamed(each, tolerance)}; a smaller dt helps where this is a step"
    )


def _inverse_jacobian(equations: Callable[[Tensor], Tensor], x: Tensor, what: str) -> Tensor:
    # Rows do not interact, so one product with the whole batch gives a row of every Jacobian.
    pullback = torch.func.vjp(equations, x)[1]
    units = torch.eye(x.shape[-1]).to(x)
    matrix = torch.func.vmap(lambda e: pullback(e.expand_as(x))[0], out_dims=-2)(units)
    inverse, info = torch.linalg.inv_ex(matrix)
    if bool(info.any()):
        raise SolveError(f"{what}: the Jacobian is singular in {named_rows(info != 0)}")
    return inverse


def _apply(inverse: Tensor, defect: Tensor) -> Tensor:
    return (inverse @ defect.unsqueeze(-1)).squeeze(-1)
