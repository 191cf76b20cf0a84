"""The variational step under holonomic constraints."""

from __future__ import annotations

import torch
from torch import Tensor

from hamflow.energies.constraints import Constraint
from hamflow.energies.forces import Force
from hamflow.energies.hamiltonian import Hamiltonian, Time
from hamflow.energies.lagrangian import Lagrangian
from hamflow.errors import InputError
from hamflow.roots import root
from hamflow.steps.step import Step
from hamflow.steps.variational import VariationalStep


class Rattle(Step):
    r"""A variational step that stays on :math:`g(q) = 0` and on its tangent :math:`G(q)\, v = 0`, order 2,

    .. math:: p_0 + G(q_0)^\top \lambda = -\partial_1 L_d(q_0, q_1), \quad g(q_1) = 0, \qquad
              p_1 + G(q_1)^\top \mu = \partial_2 L_d(q_0, q_1), \quad G(q_1)\, v_1 = 0 .

    It is symplectic on the states that satisfy both, :math:`\Omega(J \xi, J \eta) = \Omega(\xi, \eta)` for tangent
    vectors, and its own adjoint: the inverse is the step with :math:`-\Delta t`. For a constant mass and the
    trapezoidal rule it is RATTLE. Other states it moves onto the constraint, and so it forgets where they were: it is
    no bijection of phase space, and :class:`hamflow.PhaseFlow` refuses it.

    Args:
        lagrangian: L, any :class:`hamflow.Lagrangian` with a regular mass matrix, as if there were no constraint.
        constraint: g.
        rule: ``"trapezoidal"`` or ``"midpoint"``.
        force: as for :class:`VariationalStep`.
        tolerance: the largest relative Newton step at the end; by default 1e-13 in float64 and 1e-5 in float32.

    Raises:
        InputError: an argument is of the wrong kind.
        SolveError: (when stepping) Newton's method does not settle; the step may be too long for the constraint.

    References:
        Andersen (1983), Rattle: a velocity version of the Shake algorithm, Journal of Computational Physics 52, 24;
        Leimkuhler and Skeel (1994), Symplectic numerical integrators in constrained Hamiltonian systems, Journal of
        Computational Physics 112, 117.

    Example:
        >>> import torch, hamflow as hf
        >>> falling = hf.FunctionLagrangian(lambda q, v: 0.5 * (v**2).sum(-1) - 9.81 * q[..., 1])
        >>> rod = hf.RigidLinks([(-1, 0)], 1.0, points=1, space=2)
        >>> step = hf.Rattle(falling, rod)
        >>> q, p = step.iterate(torch.tensor([1.0, 0.0]), torch.zeros(2), 0.0, 0.01, 100)
        >>> bool(rod(q).abs() < 1e-6)
        True
    """

    bijective = False

    def __init__(
        self,
        lagrangian: Lagrangian,
        constraint: Constraint,
        rule: str = "trapezoidal",
        *,
        force: Force | None = None,
        tolerance: float | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(constraint, Constraint):
            raise InputError(f"constraint is a {type(constraint).__name__}, expected a Constraint such as RigidLinks")
        self.free = VariationalStep(lagrangian, rule, force=force, tolerance=tolerance)
        self.constraint = constraint
        self.order = 2
        self.tolerance = self.free.tolerance
        self.residual = 0.0

    @property
    def lagrangian(self) -> Lagrangian:
        """The Lagrangian as if there were no constraint."""
        return self.free.lagrangian

    @property
    def hamiltonian(self) -> Hamiltonian:
        """The Legendre transform of the Lagrangian; its value is the energy, under the constraint too."""
        return self.free.hamiltonian

    def forward(self, q: Tensor, p: Tensor, t: Time = 0.0, dt: Time = 0.1) -> tuple[Tensor, Tensor]:
        """One step; q and p of shape (*batch, d), on the constraint and its tangent."""
        return self._advance(q, p, t, t + dt, dt)

    def inverse(self, q: Tensor, p: Tensor, t: Time = 0.0, dt: Time = 0.1) -> tuple[Tensor, Tensor]:
        """Undoes one step that began at time t; q and p of shape (*batch, d)."""
        return self._advance(q, p, t + dt, t, -dt)

    def project(self, q: Tensor, p: Tensor, t: Time = 0.0) -> tuple[Tensor, Tensor]:
        """The state nearby that satisfies both conditions; q and p of shape (*batch, d).

        The position moves along G at the old one, the momentum along G at the new one.
        """
        m = self.constraint(q).shape[-1]
        moved = root(
            lambda x: self.constraint(q + self.constraint.pullback(q, x)),
            q.new_zeros(*q.shape[:-1], m),
            what=type(self).__name__,
            tolerance=self.free.requested_tolerance,
        ).value
        q = q + self.constraint.pullback(q, moved)
        return q, self._tangent(q, p, t)

    def log_det(self, q: Tensor, dt: Time = 0.1, n_steps: int = 1) -> Tensor:
        """The log-determinant on the states that satisfy both conditions, in canonical coordinates there: zero."""
        return self.free.log_det(q, dt, n_steps)

    def _advance(self, q: Tensor, p: Tensor, begin: Time, end: Time, dt: Time) -> tuple[Tensor, Tensor]:
        span = torch.as_tensor(dt, dtype=q.dtype, device=q.device)
        still = span == 0
        if bool(still.all()):
            return q, p
        if bool(still.any()):
            # Rows whose step has no length take one of another's, and then stay where they are.
            q1, p1 = self._advance(q, p, begin, end, torch.where(still, span[~still][0], span))
            return torch.where(still, q, q1), torch.where(still, p, p1)
        d = q.shape[-1]
        with torch.no_grad():
            velocity = self.lagrangian.velocity(q.detach(), p.detach(), begin)
            guess = torch.cat((dt * velocity, torch.zeros_like(self.constraint(q.detach()))), dim=-1)

        # The unknowns are the displacement and, times dt, the multipliers: the rounding of a position is what the
        # constraint can be met to, and in units of velocities that is the more the shorter the step.
        def equations(x: Tensor) -> Tensor:
            moved, multipliers = x[..., :d], x[..., d:]
            impulse = dt * (self.free.momentum(q, moved / dt, begin, end, dt) - p)
            return torch.cat((impulse - self.constraint.pullback(q, multipliers), self.constraint(q + moved)), dim=-1)

        solution, self.residual = root(
            equations, guess, what=type(self).__name__, tolerance=self.free.requested_tolerance
        )
        moved = solution[..., :d]
        q1 = q + moved
        return q1, self._tangent(q1, self.free.momentum(q1, moved / dt, end, begin, -dt), end)

    def _tangent(self, q: Tensor, p: Tensor, t: Time) -> Tensor:
        # The momentum whose velocity obeys G v = 0, reached along G.
        d = q.shape[-1]
        with torch.no_grad():
            velocity = self.lagrangian.velocity(q.detach(), p.detach(), t)
            guess = torch.cat((velocity, torch.zeros_like(self.constraint(q.detach()))), dim=-1)

        def equations(x: Tensor) -> Tensor:
            v, multipliers = x[..., :d], x[..., d:]
            pulled = self.constraint.pullback(q, multipliers)
            return torch.cat((self.lagrangian.momentum(q, v, t) + pulled - p, self.constraint.along(q, v)), dim=-1)

        solution = root(equations, guess, what=type(self).__name__, tolerance=self.free.requested_tolerance).value
        return p - self.constraint.pullback(q, solution[..., d:])
