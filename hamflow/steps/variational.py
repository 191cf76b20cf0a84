"""Variational steps: stationary points of a discrete action, symplectic for every Lagrangian."""

from __future__ import annotations

import torch
from torch import Tensor

from hamflow.energies.forces import Force
from hamflow.energies.hamiltonian import Hamiltonian, Time
from hamflow.energies.lagrangian import Lagrangian
from hamflow.energies.legendre import LegendreHamiltonian
from hamflow.errors import InputError, check_choice, check_positive
from hamflow.roots import root
from hamflow.steps.step import Step

#: Where a discrete Lagrangian looks at L: in the middle of the step, or at both ends.
RULES = ("midpoint", "trapezoidal")


class VariationalStep(Step):
    r"""The step of a discrete Lagrangian, carried in (q, p) and symplectic there, order 2,

    .. math:: p_0 = -\partial_1 L_d(q_0, q_1), \qquad p_1 = \partial_2 L_d(q_0, q_1),

    with the midpoint rule :math:`L_d = \Delta t\, L\bigl(\tfrac{q_0 + q_1}{2}, \tfrac{q_1 - q_0}{\Delta t}\bigr)` or
    the trapezoidal rule :math:`L_d = \tfrac{\Delta t}{2} \bigl(L(q_0, u) + L(q_1, u)\bigr)`,
    :math:`u = (q_1 - q_0) / \Delta t`. The first equation is solved for u by Newton's method without a graph, and two
    differentiable Newton steps make first and second derivatives right. Both rules are their own adjoint, so the
    inverse is the step with :math:`-\Delta t`; :class:`hamflow.Composition` makes one of higher order. For a constant
    mass the trapezoidal rule is leapfrog.

    A generalised force f enters as in the principle of d'Alembert, half of the impulse :math:`\Delta t\, f(q, u)` at
    each end. The step then keeps its exact inverse and its order, but volume and the symplectic form change, by an
    amount that depends on the state.

    Args:
        lagrangian: L, any :class:`hamflow.Lagrangian` with a regular mass matrix.
        rule: ``"midpoint"`` or ``"trapezoidal"``.
        force: f, a :class:`hamflow.energies.Force` such as :class:`hamflow.RayleighFriction`; None for none.
        tolerance: the largest relative Newton step at the end; by default 1e-13 in float64 and 1e-5 in float32.
        max_iterations: the number of iterations allowed.

    Attributes:
        residual: the last Newton step of the last solve.

    Raises:
        InputError: an argument is of the wrong kind.
        SolveError: (when stepping) Newton's method does not settle.

    References:
        Marsden and West (2001), Discrete mechanics and variational integrators, Acta Numerica 10, 357.

    Example:
        >>> import torch, hamflow as hf
        >>> L = hf.FunctionLagrangian(lambda q, v: 0.5 * ((2 + q.cos()) * v**2 - q**2).sum(-1))
        >>> step = hf.VariationalStep(L)
        >>> q, p = torch.ones(1, 1).double(), torch.zeros(1, 1).double()
        >>> q1, p1 = step(q, p, 0.0, 0.1)
        >>> torch.allclose(step.inverse(q1, p1, 0.0, 0.1)[0], q)
        True
    """

    def __init__(
        self,
        lagrangian: Lagrangian,
        rule: str = "midpoint",
        *,
        force: Force | None = None,
        tolerance: float | None = None,
        max_iterations: int = 50,
    ) -> None:
        super().__init__()
        if not isinstance(lagrangian, Lagrangian):
            raise InputError(f"lagrangian is a {type(lagrangian).__name__}, expected a Lagrangian")
        check_choice("rule", rule, RULES)
        if force is not None and not isinstance(force, Force):
            raise InputError(f"force is a {type(force).__name__}, expected a Force such as RayleighFriction, or None")
        if tolerance is not None:
            check_positive("tolerance", tolerance)
        check_positive("max_iterations", max_iterations, integer=True)
        self.lagrangian = lagrangian
        self.rule = rule
        self.force = force
        self.order = 2
        self.requested_tolerance = tolerance
        self.tolerance = tolerance if tolerance is not None else 1e-13
        self.max_iterations = max_iterations
        self.residual = 0.0

    @property
    def hamiltonian(self) -> Hamiltonian:
        """The Legendre transform of the Lagrangian."""
        return LegendreHamiltonian(self.lagrangian)

    def forward(self, q: Tensor, p: Tensor, t: Time = 0.0, dt: Time = 0.1) -> tuple[Tensor, Tensor]:
        """One step; q and p of shape (*batch, d)."""
        return self._advance(q, p, t, t + dt, dt)

    def inverse(self, q: Tensor, p: Tensor, t: Time = 0.0, dt: Time = 0.1) -> tuple[Tensor, Tensor]:
        """Undoes one step that began at time t: the same rule from the other end with -dt."""
        return self._advance(q, p, t + dt, t, -dt)

    def log_det(self, q: Tensor, dt: Time = 0.1, n_steps: int = 1) -> Tensor:
        """Zero, (*batch,).

        Raises:
            InputError: there is a force, and the change of volume depends on the path.
        """
        if self.force is not None:
            raise InputError("force is given: the change of volume depends on the path, expected a step without one")
        return super().log_det(q, dt, n_steps)

    def momentum(self, q: Tensor, u: Tensor, begin: Time, end: Time, dt: Time) -> Tensor:
        """The momentum at the beginning of a step from q with the mean velocity u, each (*batch, d).

        That at the end is the one at the beginning of the step back, from the other end with -dt.
        """
        if self.rule == "midpoint":
            middle = q + 0.5 * dt * u, u, begin + 0.5 * (end - begin)
            force, momentum = self.lagrangian.gradient(*middle)
            push = force if self.force is None else force + self.force(*middle)
            return momentum - 0.5 * dt * push
        force, momentum = self.lagrangian.gradient(q, u, begin)
        push = force if self.force is None else force + self.force(q, u, begin)
        return 0.5 * (momentum + self.lagrangian.momentum(q + dt * u, u, end)) - 0.5 * dt * push

    def _advance(self, q: Tensor, p: Tensor, begin: Time, end: Time, dt: Time) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            guess = self.lagrangian.velocity(q.detach(), p.detach(), begin)

        def equations(u: Tensor) -> Tensor:
            return self.momentum(q, u, begin, end, dt) - p

        u, self.residual = root(
            equations,
            guess,
            what=type(self).__name__,
            tolerance=self.requested_tolerance,
            max_iterations=self.max_iterations,
            # Friction may couple what the Lagrangian does not.
            linearise=self.lagrangian.linearise(equations) if self.force is None else None,
        )
        q1 = q + dt * u
        return q1, self.momentum(q1, u, end, begin, -dt)


def log_det_in_velocities(
    lagrangian: Lagrangian, start: tuple[Tensor, Tensor], end: tuple[Tensor, Tensor], t: Time = 0.0, dt: Time = 0.1
) -> Tensor:
    r"""The log absolute determinant of a symplectic step seen in (q, v), exactly,

    .. math:: \log \lvert \det \partial(q_1, v_1) / \partial(q_0, v_0) \rvert
              = \log \lvert \det M(q_0, v_0) \rvert - \log \lvert \det M(q_1, v_1) \rvert .

    In (q, p) a step preserves volume; the change of variables from v to p has the Jacobian M at each end.

    Args:
        lagrangian: L, whose mass matrix M is.
        start: the state (q, v) before, each (*batch, d).
        end: the state after, one or many steps later.
        t: the time before.
        dt: the time between the two.

    Returns:
        (*batch,)

    Example:
        >>> import torch, hamflow as hf
        >>> L = hf.LegendreLagrangian(hf.systems.DoublePendulum())
        >>> hf.steps.log_det_in_velocities(L, (torch.zeros(2), torch.zeros(2)), (torch.zeros(2), torch.ones(2))).item()
        0.0
    """
    before, after = lagrangian.mass_matrix(*start, t), lagrangian.mass_matrix(*end, t + dt)
    change: Tensor = torch.linalg.slogdet(before).logabsdet - torch.linalg.slogdet(after).logabsdet
    return change
