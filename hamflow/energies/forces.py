"""Forces that no Lagrangian has: friction, and what drives a system from outside."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hamflow.energies.hamiltonian import Time
from hamflow.errors import InputError, check_positive


class Force(nn.Module):
    r"""A generalised force :math:`f(q, v, t)` beside a Lagrangian,
    :math:`\frac{d}{dt} \partial_v L = \partial_q L + f`; a subclass implements :meth:`forward`.
    """

    def forward(self, q: Tensor, v: Tensor, t: Time = 0.0) -> Tensor:
        """The force, (*batch, d)."""
        raise NotImplementedError(f"{type(self).__name__} must implement forward(q, v, t)")


class RayleighFriction(Force):
    r"""Friction that is linear in the velocities, :math:`f = -C v` with
    :math:`C = D\, (I + L) (I + L)^\top D` positive definite; it takes the power :math:`v^\top C v`.

    Args:
        dim: d, the number of coordinates.
        rates: the diagonal of C at the start, a positive number or a tensor of shape (d,), whose dtype is kept,
            [force / velocity].
        learn: whether C is a parameter, off the diagonal too: the friction of a joint between two arms acts on the
            difference of their angles.

    Raises:
        InputError: an argument is out of range or has the wrong shape.

    References:
        Rayleigh (1873), Proceedings of the London Mathematical Society 4, 357.

    Example:
        >>> import torch, hamflow as hf
        >>> hf.RayleighFriction(2, rates=0.5)(torch.zeros(2), torch.tensor([1.0, -2.0]))
        tensor([-0.5000,  1.0000])
    """

    no_weight_decay = True

    def __init__(self, dim: int, rates: float | Tensor = 0.1, *, learn: bool = False) -> None:
        super().__init__()
        check_positive("dim", dim, integer=True)
        precise = isinstance(rates, Tensor) and rates.is_floating_point()
        start = torch.as_tensor(rates, dtype=None if precise else torch.get_default_dtype())
        if start.shape not in ((), (dim,)) or not ((start > 0) & start.isfinite()).all():
            raise InputError(f"rates = {rates!r}, expected a positive number or a positive tensor of shape ({dim},)")
        self.dim = dim
        self.log_diagonal = nn.Parameter(0.5 * start.log().expand(dim).clone(), requires_grad=learn)
        self.lower = nn.Parameter(torch.zeros(dim, dim, dtype=start.dtype), requires_grad=learn)

    def matrix(self) -> Tensor:
        """C, (d, d)."""
        factor = self.log_diagonal.exp().unsqueeze(-1) * (torch.eye(self.dim).to(self.lower) + self.lower.tril(-1))
        return factor @ factor.mT

    def forward(self, q: Tensor, v: Tensor, t: Time = 0.0) -> Tensor:
        """The force, (*batch, d)."""
        return -v @ self.matrix().to(v)
