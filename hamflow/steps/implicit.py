"""The implicit midpoint rule, symplectic for every Hamiltonian."""

from __future__ import annotations

import torch
from torch import Tensor

from hamflow.energies.hamiltonian import Hamiltonian, Time
from hamflow.errors import InputError, SolveError, check_positive
from hamflow.steps.step import Step


class ImplicitMidpoint(Step):
    r"""The implicit midpoint rule for any Hamiltonian, separable or not, order 2,

    .. math:: z' = z + \Delta t\, \Omega \nabla H\!\left(\tfrac{z + z'}{2}, t + \tfrac{\Delta t}{2}\right),
              \qquad z = (q, p).

    The equation is solved by Newton's method without a graph; one further, differentiable Newton step then carries
    gradients by the implicit function theorem. The rule is its own adjoint, so the inverse is the step with
    :math:`-\Delta t`. The last solve's largest relative residual is kept in ``residual``.

    Args:
        hamiltonian: any :class:`Hamiltonian`.
        tolerance: the largest relative residual; by default 1e-13 in float64 and 1e-6 in float32.
        max_iterations: the number of Newton iterations allowed.

    Raises:
        InputError: an argument is of the wrong kind.
        SolveError: (when stepping) the residual stays above the tolerance or is not finite.

    References:
        Hairer, Lubich and Wanner (2006), Geometric Numerical Integration, theorem VI.3.5.

    Example:
        >>> import torch, hamflow as hf
        >>> H = hf.FunctionHamiltonian(lambda q, p: 0.5 * ((1 + q**2) * p**2).sum(-1))
        >>> step = hf.ImplicitMidpoint(H)
        >>> q, p = step(torch.tensor([[1.0]]), torch.tensor([[0.5]]), 0.0, 0.1)
        >>> step.residual <= 1e-6
        True
    """

    order = 2

    def __init__(self, hamiltonian: Hamiltonian, *, tolerance: float | None = None, max_iterations: int = 50) -> None:
        super().__init__()
        if not isinstance(hamiltonian, Hamiltonian):
            raise InputError(f"hamiltonian is a {type(hamiltonian).__name__}, expected a Hamiltonian")
        if tolerance is not None:
            check_positive("tolerance", tolerance)
        check_positive("max_iterations", max_iterations, integer=True)
        self.hamiltonian = hamiltonian
        self.requested_tolerance = tolerance
        self.tolerance = tolerance if tolerance is not None else 1e-13
        self.max_iterations = max_iterations
        self.residual = 0.0

    def forward(self, q: Tensor, p: Tensor, t: Time = 0.0, dt: Time = 0.1) -> tuple[Tensor, Tensor]:
        """One step; q and p of shape (*batch, d)."""
        return self._advance(q, p, t + dt / 2, dt)

    def inverse(self, q: Tensor, p: Tensor, t: Time = 0.0, dt: Time = 0.1) -> tuple[Tensor, Tensor]:
        """Undoes one step that began at time t: the same rule around the same midpoint with -dt."""
        return self._advance(q, p, t + dt / 2, -dt)

    def _advance(self, q: Tensor, p: Tensor, middle: Time, dt: Time) -> tuple[Tensor, Tensor]:
        # Both directions are given the same middle: computed from the other end it could round into another layer.
        start = torch.cat((q, p), dim=-1)
        with torch.no_grad():
            end, jacobian = self._solve(start.detach(), middle, dt)
        if torch.is_grad_enabled():
            end = end - torch.linalg.solve(jacobian, self._defect(start, end, middle, dt).unsqueeze(-1)).squeeze(-1)
        q1, p1 = end.chunk(2, dim=-1)
        return q1, p1

    def _slope(self, z: Tensor, t: Time) -> Tensor:
        q, p = z.chunk(2, dim=-1)
        dq, dp = self.hamiltonian.gradient(q, p, t)
        return torch.cat((dp, -dq), dim=-1)

    def _defect(self, start: Tensor, end: Tensor, middle: Time, dt: Time) -> Tensor:
        return end - start - dt * self._slope((start + end) / 2, middle)

    def _solve(self, start: Tensor, middle: Time, dt: Time) -> tuple[Tensor, Tensor]:
        tolerance = self.requested_tolerance or (1e-13 if start.dtype == torch.float64 else 1e-6)
        scale = 1 + start.abs().amax(-1, keepdim=True)
        end = start + dt * self._slope(start, middle)
        # Newton converges quadratically; the Jacobian at the solution is needed for the gradient anyway. A last
        # iteration after the tolerance is met brings the residual down to rounding.
        met = False
        for _ in range(self.max_iterations):
            defect = self._defect(start, end, middle, dt)
            self.residual = float((defect.abs() / scale).max()) if defect.numel() else 0.0
            jacobian = self._jacobian(start, end, middle, dt)
            if met or self.residual == 0.0:
                return end, jacobian
            met = self.residual <= tolerance
            if not self.residual < float("inf"):
                break
            end = end - torch.linalg.solve(jacobian, defect.unsqueeze(-1)).squeeze(-1)
        if met:
            return end, jacobian
        raise SolveError(
            f"ImplicitMidpoint: residual {self.residual:.2e} after {self.max_iterations} Newton iterations, expected "
            f"<= {tolerance:.0e}; a smaller dt helps"
        )

    def _jacobian(self, start: Tensor, end: Tensor, middle: Time, dt: Time) -> Tensor:
        # Rows do not interact, so 2d vector-Jacobian products of the whole batch give every row's (2d, 2d) Jacobian.
        pullback = torch.func.vjp(lambda z: self._defect(start, z, middle, dt), end)[1]
        rows = []
        for i in range(end.shape[-1]):
            cotangent = torch.zeros_like(end)
            cotangent[..., i] = 1
            rows.append(pullback(cotangent)[0])
        return torch.stack(rows, dim=-2)
