"""Mass matrices: what kinetic energies of velocities are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hamflow.energies.features import AngleFeatures
from hamflow.energies.hamiltonian import _gradients, directional
from hamflow.energies.perceptron import Perceptron
from hamflow.errors import InputError, check_choice, check_positive


class Inertia(NamedTuple):
    r"""A mass matrix at q, and what a motion with velocity v feels of it.

    Attributes:
        mass: M(q), (*batch, d, d).
        momentum: M v, (*batch, d).
        transport: :math:`(\sum_k v_k\, \partial_k M)\, v`, the change of the momentum along v, (*batch, d).
        pull: :math:`\nabla_q \tfrac12 v^\top M(q)\, v`, (*batch, d).
    """

    mass: Tensor
    momentum: Tensor
    transport: Tensor
    pull: Tensor


class MassMatrix(nn.Module):
    """A symmetric matrix M(q) that depends on the position.

    A subclass implements :meth:`forward`, and :meth:`inertia` where closed forms are at hand.
    """

    def forward(self, q: Tensor) -> Tensor:
        """M(q), (*batch, d) -> (*batch, d, d)."""
        raise NotImplementedError(f"{type(self).__name__} must implement forward(q)")

    def inertia(self, q: Tensor, v: Tensor) -> Inertia:
        """M(q) and what a motion with velocity v feels of it, both (*batch, d); by torch.func unless overridden."""
        mass, change = directional(self.forward, (q,), (v,))
        (pull,) = _gradients(lambda x: 0.5 * (_act(self(x), v) * v).sum(-1), (q,))
        return Inertia(mass, _act(mass, v), _act(change, v), pull)


class ConstantMass(MassMatrix):
    r"""A mass matrix that is the same everywhere, :math:`M = F F^\top` with F lower triangular,

    .. math:: F = \operatorname{diag}(e^s)\, (I + L).

    Args:
        dim: d, the number of coordinates.
        mass: at the start, a number or a tensor of shape (d,), whose dtype is kept, [mass].
        structure: ``"diagonal"``, ``"full"``, or ``"bodies"``, one mass for each body.
        space: with ``"bodies"`` the dimension of the space that they move in; d is bodies times space.
        learn: whether it is a parameter.

    Raises:
        InputError: an argument is out of range or has the wrong shape.

    Example:
        >>> import torch, hamflow as hf
        >>> hf.ConstantMass(2, torch.tensor([1.0, 4.0]))(torch.zeros(2))
        tensor([[1., 0.],
                [0., 4.]])
    """

    no_weight_decay = True

    def __init__(
        self,
        dim: int,
        mass: float | Tensor = 1.0,
        *,
        structure: str = "diagonal",
        space: int = 1,
        learn: bool = False,
    ) -> None:
        super().__init__()
        check_positive("dim", dim, integer=True)
        check_positive("space", space, integer=True)
        check_choice("structure", structure, ("diagonal", "full", "bodies"))
        if dim % space or (space > 1 and structure != "bodies"):
            raise InputError(f"space = {space} for dim = {dim} and structure = {structure!r}, expected bodies * space")
        precise = isinstance(mass, Tensor) and mass.is_floating_point()
        start = torch.as_tensor(mass, dtype=None if precise else torch.get_default_dtype())
        count = dim // space
        if start.shape not in ((), (count,)) or not (start > 0).all():
            raise InputError(f"mass = {mass!r}, expected a positive number or a positive tensor of shape ({count},)")
        self.dim, self.space, self.structure = dim, space, structure
        self.log_diagonal = nn.Parameter((0.5 * start.log()).expand(count).clone(), requires_grad=learn)
        if structure == "full":
            self.lower = nn.Parameter(torch.zeros(dim, dim, dtype=start.dtype), requires_grad=learn)

    def factor(self) -> Tensor:
        """F, (d, d)."""
        diagonal = torch.diag(self.log_diagonal.exp().repeat_interleave(self.space))
        return diagonal if self.structure != "full" else diagonal + diagonal @ self.lower.tril(-1)

    def forward(self, q: Tensor) -> Tensor:
        """M, (*batch, d) -> (*batch, d, d)."""
        factor = self.factor().to(q)
        return (factor @ factor.mT).expand(*q.shape, q.shape[-1])

    def inertia(self, q: Tensor, v: Tensor) -> Inertia:
        """M and M v; the rest is zero."""
        factor = self.factor().to(v)
        still = torch.zeros_like(v)
        return Inertia((factor @ factor.mT).expand(*v.shape, v.shape[-1]), v @ factor @ factor.mT, still, still)


class NetworkMass(MassMatrix):
    r"""A mass matrix from a network, positive definite by construction,

    .. math:: M(q) = S \bigl(F F^\top + \varepsilon I\bigr) S, \qquad F = I + N\bigl((q - \mu) / s\bigr),

    N a network of lower triangular matrices that starts small, so that M starts near :math:`S^2`.

    Args:
        dim: d, the number of coordinates.
        widths: the hidden widths of the network.
        periodic: the coordinates that are angles, [rad].
        epsilon: :math:`\varepsilon`, the least that an eigenvalue of :math:`S^{-1} M S^{-1}` can be; nothing bounds the
            largest, so it keeps M positive and its condition number moderate only where F does.

    Attributes:
        loc, scale: :math:`\mu` and s, (d,); zero and one for angles and while fresh.
        root: the diagonal of S, (d,), one while fresh.

    Raises:
        InputError: an argument is out of range.

    References:
        Lutter, Ritter and Peters (2019), Deep Lagrangian Networks, arXiv 1907.04490.

    Example:
        >>> import torch, hamflow as hf
        >>> hf.NetworkMass(2, widths=(16,), periodic=(0, 1))(torch.zeros(5, 2)).shape
        torch.Size([5, 2, 2])
    """

    loc: Tensor
    scale: Tensor
    root: Tensor
    rows: Tensor
    columns: Tensor

    def __init__(
        self, dim: int, widths: Sequence[int] = (64, 64), *, periodic: Sequence[int] = (), epsilon: float = 1e-3
    ) -> None:
        super().__init__()
        check_positive("epsilon", epsilon)
        self.features = AngleFeatures(periodic, dim, pairs=True)
        self.dim, self.epsilon = dim, float(epsilon)
        rows, columns = torch.tril_indices(dim, dim)
        self.network = Perceptron(self.features.size, len(rows), widths)
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("columns", columns, persistent=False)
        self.register_buffer("loc", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))
        self.register_buffer("root", torch.ones(dim))

    def set_units(self, loc: Tensor, scale: Tensor, root: Tensor) -> NetworkMass:
        """Set the shift, the scale and the root of the mass, each (d,), and return the matrix."""
        for buffer, value in ((self.loc, loc), (self.scale, scale), (self.root, root)):
            buffer.copy_(value)
        return self

    def forward(self, q: Tensor) -> Tensor:
        """M(q), (*batch, d) -> (*batch, d, d)."""
        return self._mass(self._lower(self.network(self._seen(q)), 1.0))

    def inertia(self, q: Tensor, v: Tensor) -> Inertia:
        """M(q) and what a motion with velocity v feels of it, both (*batch, d)."""
        seen = self._seen(q)
        states = self.network.hidden(seen)
        factor = self._lower(self.network.readout(states), 1.0)
        moved = self.features.tangent(seen, v / self.scale)
        change = self._lower(self.network.pushforward(states, moved), 0.0)
        # With u = S v and w = F' u the kinetic energy is |w|^2 / 2 + epsilon |u|^2 / 2.
        u = self.root * v
        w = _act(factor.mT, u)
        momentum = self.root * (_act(factor, w) + self.epsilon * u)
        transport = self.root * (_act(change, w) + _act(factor, _act(change.mT, u)))
        slopes = u.index_select(-1, self.rows) * w.index_select(-1, self.columns)
        pull = self.features.pullback(seen, self.network.pullback(states, slopes)) / self.scale
        return Inertia(self._mass(factor), momentum, transport, pull)

    def _seen(self, q: Tensor) -> Tensor:
        self.features.check("q", q)
        found: Tensor = self.features((q - self.loc) / self.scale)
        return found

    def _mass(self, factor: Tensor) -> Tensor:
        inner = factor @ factor.mT + self.epsilon * torch.eye(self.dim).to(factor)
        return self.root.unsqueeze(-1) * inner * self.root

    def _lower(self, entries: Tensor, diagonal: float) -> Tensor:
        # Lower triangular matrices, (*batch, d, d), with so much added to the diagonal.
        flat = entries.new_zeros(*entries.shape[:-1], self.dim * self.dim)
        matrix = flat.index_copy(-1, self.rows * self.dim + self.columns, entries).unflatten(-1, (self.dim, self.dim))
        return matrix + diagonal * torch.eye(self.dim).to(entries)


def _act(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)
