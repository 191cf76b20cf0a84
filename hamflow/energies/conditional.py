"""An energy that depends on a context: one of both, whose context does not move."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from hamflow.energies.hamiltonian import Energy, Time
from hamflow.energies.slope import Slope, summed_to
from hamflow.errors import InputError


class ConditionedEnergy(Energy):
    r"""An energy of the position given a context, from an energy U of both side by side,

    .. math:: V(q; c) = U\bigl((q, c)\bigr), \qquad
              \nabla_q V(q; c) = \bigl(\nabla U\bigl((q, c)\bigr)\bigr)_{1 \dots d} .

    The context is a coordinate of infinite mass: it acts and does not move. Whatever energy there is of d + c
    dimensions becomes conditional by this, its closed-form gradient included; parameters are shared with it.

    Args:
        energy: U, of d + c dimensions.
        context: (*batch, c), the same batch as the positions have but for dimensions on their left.

    Example:
        >>> import torch, hamflow as hf
        >>> U = hf.RidgePotential(2 + 3, width=8)
        >>> V = hf.ConditionedEnergy(U, context=torch.randn(5, 3))
        >>> V.gradient(torch.randn(4, 5, 2)).shape
        torch.Size([4, 5, 2])
    """

    def __init__(self, energy: Energy, context: Tensor) -> None:
        super().__init__(layers=energy.layers, spacing=energy.spacing)
        self.energy = energy
        self.context = context

    def forward(self, x: Tensor, t: Time = 0.0) -> Tensor:
        """The energy, (*batch, d) -> (*batch,)."""
        value: Tensor = self.energy(beside(x, self.context), t)
        return value

    def gradient(self, x: Tensor, t: Time = 0.0) -> Tensor:
        """The gradient in the position, (*batch, d) -> (*batch, d)."""
        return self.energy.gradient(beside(x, self.context), t)[..., : x.shape[-1]]

    def slopes(self, times: Sequence[Time]) -> list[Slope]:
        """The gradients at many times, as functions of the context too."""
        return [_given(slope, self.context) for slope in self.energy.slopes(times)]


def _given(slope: Slope, context: Tensor) -> Slope:
    def value(x: Tensor, context: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        found, *kept = slope.value(beside(x, context), *tensors)
        return found[..., : x.shape[-1]], *kept

    def pullback(
        x: Tensor, u: Tensor, kept: tuple[Tensor, ...], context: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        assert slope.pullback is not None
        d, c = x.shape[-1], context.shape[-1]
        across, *rest = slope.pullback(beside(x, context), functional.pad(u, (0, c)), kept, *tensors)
        return across[..., :d], summed_to(across[..., d:], context.shape), *rest

    return Slope(value, (context, *slope.tensors), None if slope.pullback is None else pullback, slope.complete)


def beside(x: Tensor, context: Tensor | None) -> Tensor:
    """Rows with their context on their right, (*batch, d) and (*batch, c), dimensions on the left shared.

    Raises:
        InputError: the context has another batch.

    Example:
        >>> import torch
        >>> from hamflow.energies.conditional import beside
        >>> beside(torch.zeros(7, 5, 2), torch.zeros(5, 3)).shape
        torch.Size([7, 5, 5])
    """
    if context is None:
        return x
    try:
        spread = context.expand(*x.shape[:-1], context.shape[-1])
    except RuntimeError as error:
        raise InputError(
            f"context has shape {tuple(context.shape)} beside rows of shape {tuple(x.shape)}, expected "
            f"(*batch, {context.shape[-1]}) with a batch that broadcasts to {tuple(x.shape[:-1])}"
        ) from error
    return torch.cat((x, spread), dim=-1)
