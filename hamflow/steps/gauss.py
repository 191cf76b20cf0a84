"""Gauss collocation: implicit, symplectic for every Hamiltonian, of any even order."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hamflow.energies.hamiltonian import Hamiltonian, Time
from hamflow.errors import InputError, SolveError, check_positive
from hamflow.roots import blamed
from hamflow.steps.step import Step

#: How often a step may be differentiated; each time costs one evaluation of the stages with a graph.
DERIVATIVES = 2
#: A fixed-point iteration of one stage that leaves more than this share of the residual gives way to Newton's method.
_SLOW = 0.1


class GaussLegendre(Step):
    r"""The Runge-Kutta method of Gauss with s stages for any Hamiltonian, separable or not, order 2 s,

    .. math:: Z_i = \Delta t \sum_j a_{ij}\, f(z + Z_j, t + c_j \Delta t), \qquad
              z' = z + \Delta t \sum_j b_j\, f(z + Z_j, t + c_j \Delta t), \qquad f = \Omega \nabla H,

    with :math:`c_j` the nodes and :math:`b_j` the weights of Gauss and Legendre on the unit interval. One stage is the
    implicit midpoint rule. All stages are evaluated as one batch and solved by fixed-point iteration without a graph,
    so a step costs about a dozen gradients whatever its order; it must be short enough for the iteration to contract.
    Two differentiable Newton steps then make first and second derivatives right, by states, times and parameters; third
    ones are not. The method is its own adjoint. The last solve's largest relative residual is kept in ``residual``.

    Args:
        hamiltonian: any :class:`Hamiltonian`, smooth in time.
        stages: s, the number of stages.
        tolerance: the largest relative residual; by default 1e-13 in float64 and 1e-6 in float32.
        max_iterations: the number of iterations allowed.

    Raises:
        InputError: an argument is of the wrong kind.
        SolveError: (when stepping) the residual stays above the tolerance or is not finite.

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
        self._matrix, self._weights, self._nodes = _tableau(stages)

    def forward(self, q: Tensor, p: Tensor, t: Time = 0.0, dt: Time = 0.1) -> tuple[Tensor, Tensor]:
        """One step; q and p of shape (*batch, d)."""
        return self._advance(q, p, self._times(q, t, dt, self._nodes), dt)

    def inverse(self, q: Tensor, p: Tensor, t: Time = 0.0, dt: Time = 0.1) -> tuple[Tensor, Tensor]:
        """Undoes one step that began at time t: the same method from the other end with -dt."""
        # The same times read backwards: computed from the other end they could round into another layer.
        return self._advance(q, p, self._times(q, t, dt, self._nodes[::-1]), -dt)

    def _times(self, q: Tensor, t: Time, dt: Time, nodes: list[float]) -> Time:
        # Several stages have a dimension of their own, in front, so that what belongs to rows broadcasts as ever. One
        # stage has none, and its time stays a number where it is one, as layered energies want it.
        return t + (nodes[0] if len(nodes) == 1 else q.new_tensor(nodes).view(-1, *[1] * q.ndim)) * dt

    def _advance(self, q: Tensor, p: Tensor, times: Time, dt: Time) -> tuple[Tensor, Tensor]:
        start = torch.cat((q, p), dim=-1)
        matrix, weights = start.new_tensor(self._matrix), start.new_tensor(self._weights)
        first = start if len(matrix) == 1 else start.expand(len(matrix), *start.shape)
        differentiable = torch.is_grad_enabled()
        with torch.no_grad():
            stages = self._solve(first.detach(), matrix, times, dt)
            if differentiable:
                inverse = self._inverse_jacobian(first.detach() + stages, matrix, times, dt)
        if differentiable:
            # From the solution, which is a constant here, each step with that one Jacobian makes one more order of
            # derivatives right: the error it leaves is the one before times the change of the Jacobian.
            for _ in range(DERIVATIVES):
                stages = stages - _apply(inverse, self._defect(first, stages, matrix, times, dt))
        # The increment as a combination of the stages, b A^-1 Z: a further evaluation of f would say the same.
        end = start + _mix(torch.linalg.solve(matrix.mT, weights.unsqueeze(-1)).mT, stages).view_as(start)
        q1, p1 = end.chunk(2, dim=-1)
        return q1, p1

    def _slope(self, z: Tensor, t: Time) -> Tensor:
        q, p = z.chunk(2, dim=-1)
        dq, dp = self.hamiltonian.gradient(q, p, t)
        return torch.cat((dp, -dq), dim=-1)

    def _defect(self, first: Tensor, stages: Tensor, matrix: Tensor, times: Time, dt: Time) -> Tensor:
        return stages - dt * _mix(matrix, self._slope(first + stages, times)).view_as(stages)

    def _solve(self, first: Tensor, matrix: Tensor, times: Time, dt: Time) -> Tensor:
        tolerance = self.requested_tolerance or (1e-13 if first.dtype == torch.float64 else 1e-6)
        scale = 1 + first.abs().amax(-1, keepdim=True)
        stages = torch.zeros_like(first)
        # Newton's matrices grow with the stages: where several of them settle slowly, a shorter step costs less.
        before, newton = float("inf"), False
        for _ in range(self.max_iterations):
            defect = self._defect(first, stages, matrix, times, dt)
            each = (defect.abs() / scale).amax(-1)
            self.residual = float(each.max()) if defect.numel() else 0.0
            # Once the tolerance is met, going on until the residual stops shrinking brings it down to rounding.
            if self.residual == 0 or (before <= tolerance and (newton or self.residual >= before)):
                return stages
            if not self.residual < float("inf"):
                break
            newton = newton or (len(matrix) == 1 and tolerance < self.residual > _SLOW * before)
            if newton:
                defect = _apply(self._inverse_jacobian(first + stages, matrix, times, dt), defect)
            stages = stages - defect
            before = self.residual
        if self.residual <= tolerance:
            return stages
        raise SolveError(
            f"{type(self).__name__}: residual {self.residual:.2e} after at most {self.max_iterations} iterations, "
            f"expected <= {tolerance:.0e}: {blamed(each if len(matrix) == 1 else each.amax(0), tolerance)}; "
            "a smaller dt helps"
        )

    def _inverse_jacobian(self, z: Tensor, matrix: Tensor, times: Time, dt: Time) -> Tensor:
        # Block (i, j) is the identity minus dt a_ij f'(z_j); neither rows nor stages interact within f, so one product
        # with the whole batch gives a row of every f'.
        pullback = torch.func.vjp(lambda y: dt * self._slope(y, times), z)[1]
        size, count = z.shape[-1], len(matrix)
        rows = []
        for i in range(size):
            cotangent = torch.zeros_like(z)
            cotangent[..., i] = 1
            rows.append(pullback(cotangent)[0])
        slopes = torch.stack(rows, dim=-2).view(count, -1, size, size)
        blocks = torch.einsum("ij,jnkl->nikjl", matrix, slopes).reshape(-1, count * size, count * size)
        return torch.linalg.inv(torch.eye(count * size).to(z) - blocks)


def _mix(matrix: Tensor, stages: Tensor) -> Tensor:
    # Combinations of the stages, (m, s) times (s, ...) -> (m, the rest).
    return matrix @ stages.reshape(matrix.shape[1], stages.numel() // matrix.shape[1])


def _apply(inverse: Tensor, defect: Tensor) -> Tensor:
    # The inverses, one a row of the batch, act on all stages of that row at once.
    size = defect.shape[-1]
    count = inverse.shape[-1] // size
    rows = defect.reshape(count, -1, size).movedim(0, 1).reshape(-1, count * size, 1)
    return (inverse @ rows).view(-1, count, size).movedim(1, 0).reshape(defect.shape)


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
