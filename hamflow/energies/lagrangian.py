"""Lagrangians: scalar functions of position and velocity, and what the Euler-Lagrange equations need of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hamflow.energies.hamiltonian import Time, _gradients, directional, time_of_rows
from hamflow.energies.inertia import solve_mass
from hamflow.errors import InputError
from hamflow.roots import root


class Terms(NamedTuple):
    r"""The terms of the equations of motion :math:`M \ddot q = \partial_q L - (\partial_q \partial_v L)\, v`.

    Attributes:
        force: :math:`\partial L / \partial q`, (*batch, d).
        momentum: :math:`\partial L / \partial v`, (*batch, d).
        mass: :math:`M = \partial^2 L / \partial v^2`, (*batch, d, d).
        transport: the change of the momentum along the motion at constant velocity,
            :math:`(\partial^2 L / \partial v\, \partial q)\, v + \partial^2 L / \partial v\, \partial t`, (*batch, d).
    """

    force: Tensor
    momentum: Tensor
    mass: Tensor
    transport: Tensor

    def acceleration(self, applied: Tensor | None = None, *, regulariser: float = 0.0) -> Tensor:
        """The acceleration, with a generalised force (*batch, d) that is no part of L; see :func:`solve_mass`."""
        force = self.force - self.transport
        return solve_mass(self.mass, force if applied is None else force + applied, regulariser=regulariser)


class Lagrangian(nn.Module):
    r"""A function :math:`L(q, v, t)` of position and velocity, whose motions obey the Euler-Lagrange equations,

    .. math:: \frac{d}{dt} \frac{\partial L}{\partial v} = \frac{\partial L}{\partial q}, \qquad
              M \ddot q = \frac{\partial L}{\partial q} - \frac{\partial^2 L}{\partial v\, \partial q}\, v, \qquad
              M = \frac{\partial^2 L}{\partial v^2}.

    A subclass implements :meth:`forward`, and :meth:`terms` and :meth:`gradient` where closed forms are at hand. By
    default d + 1 directional derivatives of the momentum give M and the one product: never the full Hessian.

    References:
        Cranmer et al. (2020), Lagrangian Neural Networks, arXiv 2003.04630.
    """

    def forward(self, q: Tensor, v: Tensor, t: Time = 0.0) -> Tensor:
        """The Lagrangian, q and v of shape (*batch, d) -> (*batch,)."""
        raise NotImplementedError(f"{type(self).__name__} must implement forward(q, v, t)")

    def gradient(self, q: Tensor, v: Tensor, t: Time = 0.0) -> tuple[Tensor, Tensor]:
        """The pair (dL/dq, dL/dv), each (*batch, d); by torch.func unless overridden."""
        dq, dv = _gradients(lambda a, b: _one_a_row(self(a, b, t), q, type(self).__name__), (q, v))
        return dq, dv

    def terms(self, q: Tensor, v: Tensor, t: Time = 0.0) -> Terms:
        """What the equations of motion are made of; q and v of shape (*batch, d)."""
        time = torch.as_tensor(t, dtype=q.dtype, device=q.device)
        force, momentum = self.gradient(q, v, time)

        def along(direction: Tensor) -> Tensor:
            return directional(lambda u: self.gradient(q, u, time)[1], (v,), (direction.expand_as(v),))[1]

        # Not out_dims=-1, which breaks where L has no velocity in it.
        mass = torch.func.vmap(along)(torch.eye(v.shape[-1]).to(v)).movedim(0, -1)
        transport = directional(lambda x, s: self.gradient(x, v, s)[1], (q, time), (v, torch.ones_like(time)))[1]
        return Terms(force, momentum, mass, transport)

    def momentum(self, q: Tensor, v: Tensor, t: Time = 0.0) -> Tensor:
        r"""The canonical momentum :math:`p = \partial L / \partial v`, (*batch, d)."""
        return self.gradient(q, v, t)[1]

    def mass_matrix(self, q: Tensor, v: Tensor, t: Time = 0.0) -> Tensor:
        r""":math:`M = \partial^2 L / \partial v^2`, (*batch, d, d)."""
        return self.terms(q, v, t).mass

    def energy(self, q: Tensor, v: Tensor, t: Time = 0.0) -> Tensor:
        """The energy p · v - L, (*batch,)."""
        value: Tensor = (self.momentum(q, v, t) * v).sum(-1) - self(q, v, t)
        return value

    def acceleration(
        self, q: Tensor, v: Tensor, t: Time = 0.0, *, applied: Tensor | None = None, regulariser: float = 0.0
    ) -> Tensor:
        r"""The acceleration :math:`\ddot q` of the Euler-Lagrange equations.

        Args:
            q: positions, (*batch, d).
            v: velocities, (*batch, d).
            t: the time.
            applied: a generalised force that is no part of L, such as friction, (*batch, d).
            regulariser: see :func:`hamflow.energies.solve_mass`.

        Returns:
            (*batch, d).

        Raises:
            SolveError: a mass matrix is singular.
        """
        return self.terms(q, v, t).acceleration(applied, regulariser=regulariser)

    def velocity(self, q: Tensor, p: Tensor, t: Time = 0.0, *, guess: Tensor | None = None) -> Tensor:
        """The velocity of a momentum, the root v of dL/dv(q, v) = p, (*batch, d).

        Raises:
            SolveError: the momentum is that of no velocity nearby.
        """
        start = torch.zeros_like(p) if guess is None else guess
        equations = lambda v: self.momentum(q, v, t) - p  # noqa: E731
        return root(equations, start, what=f"the velocity of a momentum of {type(self).__name__}").value

    def linearise(self, equations: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Callable[[Tensor], Tensor]] | None:
        """How :func:`hamflow.roots.root` solves equations of velocities that couple them as the gradient of L does.

        None where the Jacobian is best inverted as a dense matrix, which is so unless a subclass knows of zeros in it.
        """
        return None

    def __add__(self, other: Lagrangian) -> SumLagrangian:
        return SumLagrangian(self, other)


def _one_a_row(value: Tensor, q: Tensor, what: str) -> Tensor:
    if value.shape != q.shape[:-1]:
        raise InputError(
            f"{what} returned shape {tuple(value.shape)} for q of shape {tuple(q.shape)}, "
            f"expected {tuple(q.shape[:-1])}: sum over the last dimension"
        )
    return value


def _takes_time(function: Callable[..., Tensor]) -> bool:
    # A third argument with a default may be a constant of the caller's, unless it is called t.
    try:
        arguments = inspect.signature(function.forward if isinstance(function, nn.Module) else function).parameters
    except (TypeError, ValueError):
        return False
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    third = [argument for argument in arguments.values() if argument.kind in kinds][2:3]
    return any(argument.name == "t" or argument.default is argument.empty for argument in third)


class FunctionLagrangian(Lagrangian):
    r"""Any differentiable function of (q, v), or of (q, v, t), as a Lagrangian, its derivatives by ``torch.func``.

    A known generalised force :math:`\tau(t)`, such as that of a motor, is the term :math:`\tau(t) \cdot q`.

    Args:
        function: a callable or module taking q and v of shape (*batch, d) to (*batch,), written in torch; a module's
            parameters are learned. Where its third argument has no default, or is called ``t``, that is the time, a
            tensor (*batch, 1).

    Raises:
        InputError: (when called) the function returns anything but one number a row, or a time has another shape.

    Example:
        >>> import torch, hamflow as hf
        >>> spring = hf.FunctionLagrangian(lambda q, v: (0.5 * v**2 - 1.5 * q**2).sum(-1))
        >>> spring.acceleration(torch.tensor([2.0]), torch.tensor([0.0]))
        tensor([-6.])
        >>> pushed = spring + hf.FunctionLagrangian(lambda q, v, t: (t.sin() * q).sum(-1))
        >>> pushed.acceleration(torch.tensor([2.0]), torch.tensor([0.0]), torch.pi / 2)
        tensor([-5.])
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function
        self.takes_time = _takes_time(function)

    def forward(self, q: Tensor, v: Tensor, t: Time = 0.0) -> Tensor:
        """The Lagrangian, q and v of shape (*batch, d) -> (*batch,)."""
        if not self.takes_time:
            return _one_a_row(self.function(q, v), q, "function")
        time = time_of_rows(t, q)
        return _one_a_row(self.function(q, v, time), q, f"function, given t of shape {tuple(time.shape)},")


class SumLagrangian(Lagrangian):
    r"""The sum of Lagrangians of the same coordinates, :math:`L = \sum_i L_i`; ``a + b`` makes one.

    What is known and what is learned are added: known gravity, say, and a network for the rest.

    Raises:
        InputError: there is no term, or one is not a :class:`Lagrangian`.

    Example:
        >>> import torch, hamflow as hf
        >>> free = hf.FunctionLagrangian(lambda q, v: 0.5 * (v**2).sum(-1))
        >>> falling = free + hf.FunctionLagrangian(lambda q, v: -9.81 * q.sum(-1))
        >>> falling.acceleration(torch.zeros(1), torch.zeros(1)).item()
        -9.8100004196167
    """

    def __init__(self, *terms: Lagrangian) -> None:
        super().__init__()
        wrong = [type(term).__name__ for term in terms if not isinstance(term, Lagrangian)]
        if wrong or not terms:
            raise InputError(f"terms is {wrong[0] if wrong else 'empty'}, expected one Lagrangian or more")
        self.parts = nn.ModuleList(terms)

    def forward(self, q: Tensor, v: Tensor, t: Time = 0.0) -> Tensor:
        """The Lagrangian, q and v of shape (*batch, d) -> (*batch,)."""
        return torch.stack([_one_a_row(part(q, v, t), q, type(part).__name__) for part in self.parts]).sum(0)

    def gradient(self, q: Tensor, v: Tensor, t: Time = 0.0) -> tuple[Tensor, Tensor]:
        """The pair (dL/dq, dL/dv), each (*batch, d)."""
        pairs = zip(*(part.gradient(q, v, t) for part in self.parts), strict=True)  # type: ignore[operator]
        dq, dv = (torch.stack(parts).sum(0) for parts in pairs)
        return dq, dv

    def terms(self, q: Tensor, v: Tensor, t: Time = 0.0) -> Terms:
        """What the equations of motion are made of; q and v of shape (*batch, d)."""
        each = zip(*(part.terms(q, v, t) for part in self.parts), strict=True)  # type: ignore[operator]
        return Terms(*(torch.stack(parts).sum(0) for parts in each))
