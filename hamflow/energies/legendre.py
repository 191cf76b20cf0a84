"""The Legendre transform: from a Lagrangian to its Hamiltonian, and back."""

from __future__ import annotations

import torch
from torch import Tensor

from hamflow.energies.hamiltonian import Hamiltonian, Time, directional
from hamflow.energies.lagrangian import Lagrangian, Terms
from hamflow.errors import InputError
from hamflow.roots import root


class LegendreHamiltonian(Hamiltonian):
    r"""The Hamiltonian of a Lagrangian, :math:`H(q, p) = p \cdot v - L(q, v)` at the v with
    :math:`p = \partial L / \partial v`.

    Args:
        lagrangian: L, a :class:`Lagrangian` whose mass matrix is regular.

    Raises:
        InputError: the argument is no :class:`Lagrangian`.
        SolveError: (when called) a momentum is that of no velocity nearby.

    Example:
        >>> import torch, hamflow as hf
        >>> heavy = hf.FunctionLagrangian(lambda q, v: (v**2 - q**2).sum(-1))
        >>> hf.LegendreHamiltonian(heavy)(torch.tensor([1.0]), torch.tensor([2.0])).item()
        2.0
    """

    implicit = True

    def __init__(self, lagrangian: Lagrangian) -> None:
        super().__init__()
        if not isinstance(lagrangian, Lagrangian):
            raise InputError(f"lagrangian is a {type(lagrangian).__name__}, expected a Lagrangian")
        self.lagrangian = lagrangian

    def forward(self, q: Tensor, p: Tensor, t: Time = 0.0) -> Tensor:
        """The energy, q and p of shape (*batch, d) -> (*batch,)."""
        v = self.velocity(q, p, t)
        value: Tensor = (p * v).sum(-1) - self.lagrangian(q, v, t)
        return value

    def gradient(self, q: Tensor, p: Tensor, t: Time = 0.0) -> tuple[Tensor, Tensor]:
        """The pair (dH/dq, dH/dp) = (-dL/dq, v), each (*batch, d)."""
        v = self.velocity(q, p, t)
        return -self.lagrangian.gradient(q, v, t)[0], v

    def velocity(self, q: Tensor, p: Tensor, t: Time = 0.0) -> Tensor:
        """The velocity of a momentum, (*batch, d)."""
        return self.lagrangian.velocity(q, p, t)


class LegendreLagrangian(Lagrangian):
    r"""The Lagrangian of a Hamiltonian, :math:`L(q, v) = p \cdot v - H(q, p)` at the p with
    :math:`v = \partial H / \partial p`.

    Args:
        hamiltonian: H, a :class:`Hamiltonian` that is convex in p, or at least regular there.

    Raises:
        InputError: the argument is no :class:`Hamiltonian`.
        SolveError: (when called) a velocity is that of no momentum nearby.

    Example:
        >>> import torch, hamflow as hf
        >>> arm = hf.LegendreLagrangian(hf.systems.DoublePendulum(gravity=9.8))
        >>> arm.mass_matrix(torch.zeros(2), torch.zeros(2))
        tensor([[2., 1.],
                [1., 1.]])
    """

    def __init__(self, hamiltonian: Hamiltonian) -> None:
        super().__init__()
        if not isinstance(hamiltonian, Hamiltonian):
            raise InputError(f"hamiltonian is a {type(hamiltonian).__name__}, expected a Hamiltonian")
        self.hamiltonian = hamiltonian

    def forward(self, q: Tensor, v: Tensor, t: Time = 0.0) -> Tensor:
        """The Lagrangian, q and v of shape (*batch, d) -> (*batch,)."""
        p = self.momentum(q, v, t)
        value: Tensor = (p * v).sum(-1) - self.hamiltonian(q, p, t)
        return value

    def gradient(self, q: Tensor, v: Tensor, t: Time = 0.0) -> tuple[Tensor, Tensor]:
        """The pair (dL/dq, dL/dv) = (-dH/dq, p), each (*batch, d)."""
        p = self.momentum(q, v, t)
        return -self.hamiltonian.gradient(q, p, t)[0], p

    def terms(self, q: Tensor, v: Tensor, t: Time = 0.0) -> Terms:
        """What the equations of motion are made of, from derivatives of H at fixed p; q and v of shape (*batch, d)."""
        p = self.momentum(q, v, t)
        time = torch.as_tensor(t, dtype=q.dtype, device=q.device)

        def along(direction: Tensor) -> Tensor:
            change = directional(lambda y: self.hamiltonian.gradient(q, y, time)[1], (p,), (direction.expand_as(p),))[1]
            # Of one float32 number times a Python number forward mode makes float64.
            return change.to(p)

        # The velocity is held: H_pp dp + H_pq v + H_pt = 0.
        mass = torch.linalg.inv(torch.func.vmap(along)(torch.eye(p.shape[-1]).to(p)).movedim(0, -1))

        def speed(x: Tensor, s: Tensor) -> Tensor:
            return self.hamiltonian.gradient(x, p, s)[1]

        moved = directional(speed, (q, time), (v, torch.ones_like(time)))[1].to(p)
        return Terms(-self.hamiltonian.gradient(q, p, t)[0], p, mass, -(mass @ moved.unsqueeze(-1)).squeeze(-1))

    def momentum(self, q: Tensor, v: Tensor, t: Time = 0.0) -> Tensor:
        """The momentum of a velocity, (*batch, d)."""
        equations = lambda p: self.hamiltonian.gradient(q, p, t)[1] - v  # noqa: E731
        return root(equations, torch.zeros_like(v), what="the momentum of a velocity").value

    def velocity(self, q: Tensor, p: Tensor, t: Time = 0.0, *, guess: Tensor | None = None) -> Tensor:
        """The velocity dH/dp, (*batch, d)."""
        return self.hamiltonian.gradient(q, p, t)[1]
