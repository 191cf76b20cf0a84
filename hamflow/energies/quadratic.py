"""Quadratic energies: the kinetic energy of a learned mass."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hamflow.energies.hamiltonian import Energy, Time
from hamflow.energies.slope import Slope, summed_to
from hamflow.errors import InputError, check_choice, check_positive


class QuadraticKinetic(Energy):
    r"""The kinetic energy of a constant mass, :math:`T(p) = \tfrac12 p^\top M^{-1} p`.

    The inverse mass is :math:`M^{-1} = \operatorname{diag}(e^{s})`, or :math:`M^{-1} = F F^\top` with
    :math:`F = \operatorname{diag}(e^{s/2})\,(I + L)` and L strictly lower triangular, without units, so it stays
    positive definite while it is learned. With ``layers`` each layer has its own.

    Args:
        dim: d, the number of degrees of freedom.
        mass: the initial mass, a number or a tensor of shape (d,). A diagonal one that is a tensor and not learned is
            kept with its graph, and may be (*batch, d) or (*batch, 1), one mass a row: a latent of a model.
        structure: ``"diagonal"`` or ``"full"``.
        learn: whether the mass is a parameter.
        layers, spacing: see :class:`Energy`.

    Raises:
        InputError: an argument has the wrong shape or sign.

    Example:
        >>> import torch, hamflow as hf
        >>> T = hf.QuadraticKinetic(2, mass=2.0)
        >>> T(torch.tensor([2.0, 0.0])).item(), T.gradient(torch.tensor([2.0, 0.0]))[0].item()
        (1.0, 1.0)
    """

    no_weight_decay = True
    log_diagonal: Tensor

    def __init__(
        self,
        dim: int,
        *,
        mass: float | Tensor = 1.0,
        structure: str = "diagonal",
        learn: bool = False,
        layers: int = 1,
        spacing: float = 1.0,
    ) -> None:
        super().__init__(layers=layers, spacing=spacing)
        check_positive("dim", dim, integer=True)
        check_choice("structure", structure, ("diagonal", "full"))
        given = isinstance(mass, Tensor) and mass.is_floating_point()
        kept = given and not learn and structure == "diagonal"
        start = torch.as_tensor(mass, dtype=None if kept else torch.get_default_dtype())
        rows = kept and start.ndim > 0 and start.shape[-1] in (1, dim)
        # What a sampler proposes may underflow, and is its own to reject.
        fine = (start.requires_grad and kept) or bool((start > 0).all())
        if not fine or (start.shape not in ((), (dim,)) and not rows):
            raise InputError(f"mass = {mass!r}, expected a positive number or a positive tensor of shape ({dim},)")
        self.dim = dim
        self.structure = structure
        # Half the logarithm of the inverse mass: the logarithm of the diagonal of its factor F.
        diagonal = (-0.5 * start.log()).expand(layers, *start.shape[:-1], dim).clone()
        if kept:
            self.register_buffer("log_diagonal", diagonal)
        else:
            self.log_diagonal = nn.Parameter(diagonal, requires_grad=learn)
        if structure == "full":
            self.lower = nn.Parameter(torch.zeros(layers, dim, dim), requires_grad=learn)

    def factor(self, t: Time = 0.0) -> Tensor:
        """F of shape (d, d) with inverse mass F F', lower triangular."""
        k = self.layer(t)
        diagonal = torch.diag_embed(self.log_diagonal[k].exp())
        return diagonal if self.structure == "diagonal" else diagonal + diagonal @ self.lower[k].tril(-1)

    def mass(self, t: Time = 0.0) -> Tensor:
        """The mass matrix M of shape (d, d)."""
        return torch.cholesky_inverse(self.factor(t))

    def forward(self, x: Tensor, t: Time = 0.0) -> Tensor:
        """The energy, (*batch, d) -> (*batch,)."""
        return 0.5 * (x * self.gradient(x, t)).sum(-1)

    def gradient(self, x: Tensor, t: Time = 0.0) -> Tensor:
        """The velocity M^-1 p, (*batch, d) -> (*batch, d)."""
        if self.structure == "diagonal":
            return x * (2 * self.log_diagonal[self.layer(t)]).exp()
        factor = self.factor(t)
        return x @ factor @ factor.mT

    def slopes(self, times: Sequence[Time]) -> list[Slope]:
        """The velocities at many times, in closed form with their derivatives."""
        if self.structure == "full":
            factors = [self.factor(k * self.spacing) for k in range(self.layers)]
            return [Slope(_full, (factors[self.layer(t)],), _full_pullback, complete=True) for t in times]
        inverse = (2 * self.log_diagonal).exp().unbind()
        return [Slope(_diagonal, (inverse[self.layer(t)],), _diagonal_pullback, complete=True) for t in times]


def _diagonal(x: Tensor, inverse: Tensor) -> tuple[Tensor]:
    return (x * inverse,)


def _diagonal_pullback(x: Tensor, u: Tensor, kept: tuple[Tensor, ...], inverse: Tensor) -> tuple[Tensor, ...]:
    return u * inverse, summed_to(u * x, inverse.shape)


def _full(x: Tensor, factor: Tensor) -> tuple[Tensor, ...]:
    y = x @ factor
    return y @ factor.mT, y


def _full_pullback(x: Tensor, u: Tensor, kept: tuple[Tensor, ...], factor: Tensor) -> tuple[Tensor, ...]:
    v = u @ factor
    x, u, y, w = (part.reshape(-1, part.shape[-1]) for part in (x, u, *kept, v))
    return v @ factor.mT, x.mT @ w + u.mT @ y
