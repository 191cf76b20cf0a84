"""Holonomic constraints, g(q) = 0: rods of fixed length, surfaces, whatever coordinates must satisfy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hamflow.energies.hamiltonian import directional
from hamflow.energies.inertia import solve_mass
from hamflow.energies.lagrangian import Terms
from hamflow.errors import InputError, check_positive, is_number


class Constraint(nn.Module):
    r"""Conditions :math:`g(q) = 0` on the position, m of them, and with them :math:`G(q)\, v = 0`,
    :math:`G = \partial g / \partial q`, on the velocity.

    A subclass implements :meth:`forward`, and :meth:`pullback` and :meth:`along` where closed forms are at hand.
    """

    def forward(self, q: Tensor) -> Tensor:
        """g(q), (*batch, d) -> (*batch, m)."""
        raise NotImplementedError(f"{type(self).__name__} must implement forward(q)")

    def along(self, q: Tensor, v: Tensor) -> Tensor:
        """G(q) v, both (*batch, d) -> (*batch, m); by torch.func unless overridden."""
        return directional(self.forward, (q,), (v,))[1]

    def pullback(self, q: Tensor, multipliers: Tensor) -> Tensor:
        """The force G(q)' lambda, (*batch, d) and (*batch, m) -> (*batch, d); by torch.func unless overridden."""
        force: Tensor = torch.func.vjp(self.forward, q)[1](multipliers)[0]
        return force

    def bend(self, q: Tensor, v: Tensor) -> Tensor:
        """How G v changes along v, (*batch, m)."""
        return directional(lambda x: self.along(x, v), (q,), (v,))[1]

    def jacobian(self, q: Tensor) -> Tensor:
        """G(q), (*batch, m, d)."""
        rows: Tensor = torch.func.vmap(lambda e: self.along(q, e.expand_as(q)), out_dims=-1)(
            torch.eye(q.shape[-1]).to(q)
        )
        return rows


class FunctionConstraint(Constraint):
    r"""Any differentiable function g as a constraint, its derivatives by ``torch.func``.

    Args:
        function: a callable (*batch, d) -> (*batch, m), written in torch.

    Example:
        >>> import torch, hamflow as hf
        >>> circle = hf.FunctionConstraint(lambda q: (q**2).sum(-1, keepdim=True) - 1)
        >>> circle.along(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 3.0]))
        tensor([0.])
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, q: Tensor) -> Tensor:
        """g(q), (*batch, d) -> (*batch, m)."""
        value = self.function(q)
        if value.ndim != q.ndim or value.shape[:-1] != q.shape[:-1]:
            raise InputError(
                f"function returned shape {tuple(value.shape)} for q of shape {tuple(q.shape)}, expected "
                f"{tuple(q.shape[:-1])} and one dimension of conditions"
            )
        return value


class RigidLinks(Constraint):
    r"""Rods between points, :math:`g_k(q) = \bigl(\lVert q_i - q_j \rVert^2 - \ell_k^2\bigr) / (2 \ell_k)`.

    Args:
        links: pairs (i, j) of points; -1 stands for the fixed origin.
        lengths: :math:`\ell`, one number or one a link, or a tensor, whose dtype is kept, [length].
        points: the number of points that move.
        space: the dimension of the space; q is (*batch, points * space), point by point.

    Raises:
        InputError: an argument is out of range; (when called) the last dimension is not points * space.

    Example:
        >>> import torch, hamflow as hf
        >>> chain = hf.RigidLinks([(-1, 0), (0, 1)], lengths=1.0, points=2, space=2)
        >>> chain(torch.tensor([0.0, -1.0, 1.0, -1.0]))
        tensor([0., 0.])
    """

    lengths: Tensor
    ends: Tensor

    def __init__(
        self, links: Sequence[tuple[int, int]], lengths: float | Sequence[float] | Tensor, *, points: int, space: int
    ) -> None:
        super().__init__()
        check_positive("points", points, integer=True)
        check_positive("space", space, integer=True)
        pairs = [tuple(link) for link in links]
        good = all(
            len(pair) == 2 and all(is_number(i, integer=True) and -1 <= i < points for i in pair) and pair[0] != pair[1]
            for pair in pairs
        )
        if not pairs or not good:
            raise InputError(f"links = {links!r}, expected pairs of different points from -1 to {points - 1}")
        precise = isinstance(lengths, Tensor) and lengths.is_floating_point()
        sizes: Any = torch.as_tensor(lengths, dtype=None if precise else torch.get_default_dtype())
        if sizes.shape not in ((), (len(pairs),)) or not (sizes > 0).all():
            raise InputError(f"lengths = {lengths!r}, expected a positive number or {len(pairs)} of them")
        self.points, self.space = int(points), int(space)
        self.register_buffer("lengths", sizes.detach().expand(len(pairs)).clone())
        self.register_buffer("ends", torch.tensor(pairs).T.contiguous() % (points + 1), persistent=False)

    def forward(self, q: Tensor) -> Tensor:
        """g(q), (*batch, points * space) -> (*batch, links)."""
        lengths = self.lengths.to(q)
        return 0.5 * (self._rods(q).square().sum(-1) / lengths - lengths)

    def along(self, q: Tensor, v: Tensor) -> Tensor:
        """G(q) v, (*batch, links)."""
        return (self._rods(q) * self._rods(v)).sum(-1) / self.lengths.to(q)

    def pullback(self, q: Tensor, multipliers: Tensor) -> Tensor:
        """The force G(q)' lambda, (*batch, points * space)."""
        pulls = (multipliers / self.lengths.to(q)).unsqueeze(-1) * self._rods(q)
        zero = pulls.new_zeros(*pulls.shape[:-2], self.points + 1, self.space)
        forces = zero.index_add(-2, self.ends[0], pulls).index_add(-2, self.ends[1], pulls, alpha=-1)
        return forces[..., :-1, :].flatten(-2)

    def bend(self, q: Tensor, v: Tensor) -> Tensor:
        """How G v changes along v, (*batch, links)."""
        return self._rods(v).square().sum(-1) / self.lengths.to(q)

    def arguments(self) -> dict[str, Any]:
        """The arguments that make these links anew, as JSON can hold them."""
        links = (self.ends.T.cpu() + 1).remainder(self.points + 1) - 1
        return {
            "links": links.tolist(), "lengths": self.lengths.tolist(), "points": self.points, "space": self.space
        }  # fmt: skip

    def _rods(self, x: Tensor) -> Tensor:
        # The vectors along the links, (*batch, links, space); the origin is the point after the last.
        if x.ndim == 0 or x.shape[-1] != self.points * self.space:
            raise InputError(f"q has shape {tuple(x.shape)}, expected (*batch, {self.points * self.space})")
        places = nn.functional.pad(x.unflatten(-1, (self.points, self.space)), (0, 0, 0, 1))
        return places.index_select(-2, self.ends[0]) - places.index_select(-2, self.ends[1])


def constrained_acceleration(
    terms: Terms,
    constraint: Constraint,
    q: Tensor,
    v: Tensor,
    *,
    applied: Tensor | None = None,
    regulariser: float = 0.0,
) -> Tensor:
    r"""The acceleration under a constraint,

    .. math:: M a = f - G^\top \lambda, \qquad G a = -\dot G v, \qquad
              G M^{-1} G^\top \lambda = G M^{-1} f + \dot G v .

    Args:
        terms: those of the Lagrangian at (q, v), with a positive definite mass matrix.
        constraint: g.
        q: positions, (*batch, d).
        v: velocities, (*batch, d), with G v = 0.
        applied: a generalised force that is no part of L, (*batch, d).
        regulariser: of the solves with M, see :func:`solve_mass`.

    Returns:
        (*batch, d)

    Raises:
        SolveError: the constraints are not independent, or M is singular.

    Example:
        >>> import torch, hamflow as hf
        >>> from hamflow.energies import constrained_acceleration
        >>> free = hf.FunctionLagrangian(lambda q, v: 0.5 * (v**2).sum(-1))
        >>> circle = hf.RigidLinks([(-1, 0)], 1.0, points=1, space=2)
        >>> q, v = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0])
        >>> constrained_acceleration(free.terms(q, v), circle, q, v)
        tensor([-4., 0.])
    """
    force = terms.force - terms.transport
    force = force if applied is None else force + applied
    jacobian = constraint.jacobian(q)
    d = q.shape[-1]
    # One factorisation serves the force and all constraints: M^-1 [f, G'].
    sides = torch.cat((force.unsqueeze(-2), jacobian), dim=-2)
    masses = terms.mass.unsqueeze(-3).expand(*sides.shape[:-1], d, d)
    solved = solve_mass(masses, sides, regulariser=regulariser)
    free, pulled = solved[..., 0, :], solved[..., 1:, :]
    inner = jacobian @ pulled.mT
    excess = (jacobian @ free.unsqueeze(-1)).squeeze(-1) + constraint.bend(q, v)
    multipliers = solve_mass(0.5 * (inner + inner.mT), excess, what="matrix G M^-1 G' of the constraints")
    return free - (multipliers.unsqueeze(-2) @ pulled).squeeze(-2)
