"""Gauss collocation: implicit, symplectic for every Hamiltonian, of any even order."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hamflow.energies.hamiltonian import Hamiltonian, Time
from hamflow.errors import InputError, SolveError, check_positive
from hamflow.steps.step import Step


class GaussLegendre(Step):
    r"""The Runge-Kutta method of Gauss with s stages for any Hamiltonian, separable or not, order 2 s,

    .. math:: Z_i = \Delta t \sum_j a_{ij}\, f(z + Z_j, t + c_j \Delta t), \qquad
              z' = z + \Delta t \sum_j b_j\, f(z + Z_j, t + c_j \Delta t), \qquad f = \Omega \nabla H,

    with :math:`c_j` the nodes and :math:`b_j` the weights of Gauss and Legendre on the unit interval. One stage is the
    implicit midpoint rule. All stages are evaluated as one batch and solved by fixed-point iteration, so a step costs
    about a dozen gradients whatever its order; it must be short enough for the iteration to contract. A differentiable
    Newton step then carries gradients by the implicit function theorem. The method is its own adjoint.

    Args:
        hamiltonian: any :class:`Hamiltonian`, smooth in time.
        stages: s, the number of stages.
        tolerance: the largest relative change in the last iteration; by default 1e-13 in float64 and 1e-6 in float32.
        max_iterations: the number of iterations allowed.

    Raises:
        InputError: an argument is of the wrong kind.
        SolveError: (when stepping) the iteration does not settle at the tolerance.

    References:
        Butcher (1964), Mathematics of Computation 18, 50; Sanz-Serna (1988), BIT 28, 877.

    Example:
        >>> import torch, hamflow as hf
        >>> H = hf.FunctionHamiltonian(lambda q, p: 0.5 * ((1 + q**2) * p**2).sum(-1))
        >>> step = hf.GaussLegendre(H, stages=4)
        >>> q, p = step(torch.ones(1, 1).double(), torch.ones(1, 1).double(), 0.0, 0.1)
        >>> step.order, abs(float(H(q, p)) - 1) < 1e-11
        (8, True)
    """

    def __init__(
        self, hamiltonian: Hamiltonian, stages: int = 4, *, tolerance: float | None = None, max_iterations: int = 50
    ) -> None:
        super().__init__()
        if not isinstance(hamiltonian, Hamiltonian):
            raise InputError(f"hamiltonian is a {type(hamiltonian).__name__}, expected a Hamiltonian")
        check_positive("stages", stages, integer=True)
        if tolerance is not None:
            check_positive("tolerance", tolerance)
        check_positive("max_iterations", max_iterations, integer=True)
        self.hamiltonian = hamiltonian
        self.order = 2 * stages
        self.requested_tolerance = tolerance
        self.tolerance = tolerance if tolerance is not None else 1e-13
        self.max_iterations = max_iterations
        self.residual = 0.0
        self._tableau = _tableau(stages)

    def forward(self, q: Tensor, p: Tensor, t: Time = 0.0, dt: Time = 0.1) -> tuple[Tensor, Tensor]:
        """One step; q and p of shape (*batch, d)."""
        return self._advance(q, p, t, dt)

    def inverse(self, q: Tensor, p: Tensor, t: Time = 0.0, dt: Time = 0.1) -> tuple[Tensor, Tensor]:
        """Undoes one step that began at time t: the same method from the other end with -dt."""
        return self._advance(q, p, t + dt, -dt)

    def _advance(self, q: Tensor, p: Tensor, t: Time, dt: Time) -> tuple[Tensor, Tensor]:
        start = torch.cat((q, p), dim=-1).unsqueeze(-2)
        a, b, c = (start.new_tensor(part) for part in self._tableau)
        # The stages get a dimension of their own in front of the last; so must times that belong to rows.
        t, dt = (x.unsqueeze(-2) if isinstance(x, Tensor) and x.ndim else x for x in (t, dt))
        times = t + c.unsqueeze(-1) * dt
        with torch.no_grad():
            stages = self._solve(start.detach(), a, times, dt)
        if torch.is_grad_enabled():
            defect = stages - dt * (a @ self._slope(start + stages, times))
            with torch.no_grad():
                jacobian = self._jacobian((start + stages).detach(), a, times, dt)
            step = torch.linalg.solve(jacobian, defect.flatten(-2).unsqueeze(-1)).squeeze(-1)
            stages = stages - step.view_as(stages)
        end = start + dt * (b @ self._slope(start + stages, times)).unsqueeze(-2)
        q1, p1 = end.squeeze(-2).chunk(2, dim=-1)
        return q1, p1

    def _slope(self, z: Tensor, t: Time) -> Tensor:
        q, p = z.chunk(2, dim=-1)
        dq, dp = self.hamiltonian.gradient(q, p, t)
        return torch.cat((dp, -dq), dim=-1)

    def _solve(self, start: Tensor, a: Tensor, times: Tensor, dt: Time) -> Tensor:
        tolerance = self.requested_tolerance or (1e-13 if start.dtype == torch.float64 else 1e-6)
        scale = 1 + start.abs().amax(-1, keepdim=True)
        stages = torch.zeros_like(start).expand(*start.shape[:-2], len(a), -1)
        before = float("inf")
        for _ in range(self.max_iterations):
            new = dt * (a @ self._slope(start + stages, times))
            self.residual = float(((new - stages).abs() / scale).max()) if new.numel() else 0.0
            stages = new
            # Iterating until the changes stop shrinking brings the error down to rounding.
            if self.residual == 0 or (before <= tolerance and self.residual >= before):
                return stages
            if not self.residual < float("inf"):
                break
            before = self.residual
        if self.residual <= tolerance:
            return stages
        raise SolveError(
            f"GaussLegendre: the last of at most {self.max_iterations} iterations changed the stages by "
            f"{self.residual:.2e}, expected <= {tolerance:.0e}; a smaller dt helps"
        )

    def _jacobian(self, z: Tensor, a: Tensor, times: Tensor, dt: Time) -> Tensor:
        # Block (i, j) is the identity minus dt a_ij f'(z_j); neither rows nor stages interact within f.
        pullback = torch.func.vjp(lambda y: self._slope(y, times), z)[1]
        size = z.shape[-1]
        rows = []
        for i in range(size):
            cotangent = torch.zeros_like(z)
            cotangent[..., i] = 1
            rows.append(pullback(cotangent)[0])
        slopes = torch.stack(rows, dim=-2)
        blocks = torch.einsum("ij,...jkl->...ikjl", a, slopes).flatten(-2).flatten(-3, -2)
        return torch.eye(len(a) * size).to(z) - dt * blocks


def _tableau(stages: int) -> tuple[list[list[float]], list[float], list[float]]:
    x, w = np.polynomial.legendre.leggauss(stages)
    nodes, weights = (x + 1) / 2, w / 2
    # a_ij is the integral of the j-th Lagrange polynomial up to node i, found by the same quadrature on (0, c_i).
    matrix = np.empty((stages, stages))
    for j in range(stages):
        others = np.delete(nodes, j)
        points = nodes[:, None] * nodes[None, :]
        polynomial = np.prod((points[..., None] - others) / (nodes[j] - others), axis=-1)
        matrix[:, j] = nodes * (polynomial @ weights)
    return matrix.tolist(), weights.tolist(), nodes.tolist()
