"""The contract on which everything stands: an invertible, volume-preserving map of phase space."""

from __future__ import annotations

from torch import Tensor, nn

from hamflow.energies.hamiltonian import Time


class Step(nn.Module):
    r"""One map of phase space, :math:`(q, p, t, \Delta t) \mapsto (q', p')`, symplectic and exactly invertible.

    A subclass implements :meth:`forward` and :meth:`inverse` and sets ``order``. What it promises, and what
    :func:`hamflow.testing.check_step` verifies: :math:`J^\top \Omega J = \Omega`, hence :math:`\log|\det J| = 0`; the
    inverse undoes the forward map; and the error of one unit of time shrinks as :math:`\Delta t^{\text{order}}`.

    Attributes:
        order: the order of accuracy in dt, or None for a map that integrates no equation of motion.
        tolerance: how far the map may miss its promises: 0 for an explicit step (rounding only), the tolerance of the
            solver for an implicit one.
    """

    order: int | None = None
    tolerance: float = 0.0

    def forward(self, q: Tensor, p: Tensor, t: Time = 0.0, dt: Time = 0.1) -> tuple[Tensor, Tensor]:
        """The state at time t + dt from the state at time t; q and p of shape (*batch, d)."""
        raise NotImplementedError(f"{type(self).__name__} must implement forward(q, p, t, dt)")

    def inverse(self, q: Tensor, p: Tensor, t: Time = 0.0, dt: Time = 0.1) -> tuple[Tensor, Tensor]:
        """The state at time t from the state at time t + dt: undoes ``forward(..., t, dt)``."""
        raise NotImplementedError(f"{type(self).__name__} must implement inverse(q, p, t, dt)")

    def iterate(self, q: Tensor, p: Tensor, t: Time = 0.0, dt: Time = 0.1, n_steps: int = 1) -> tuple[Tensor, Tensor]:
        """``n_steps`` steps from time t."""
        for k in range(n_steps):
            q, p = self(q, p, t + k * dt, dt)
        return q, p

    def iterate_inverse(
        self, q: Tensor, p: Tensor, t: Time = 0.0, dt: Time = 0.1, n_steps: int = 1
    ) -> tuple[Tensor, Tensor]:
        """Undoes ``iterate(..., t, dt, n_steps)``; t is the time at which that began."""
        for k in reversed(range(n_steps)):
            q, p = self.inverse(q, p, t + k * dt, dt)
        return q, p
