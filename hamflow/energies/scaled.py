"""Energies in other units: a network that sees numbers of order one, whatever the data's units are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hamflow.energies.hamiltonian import Energy, Time
from hamflow.energies.slope import Slope
from hamflow.errors import InputError


class ScaledEnergy(Energy):
    r"""An energy of shifted and scaled coordinates, :math:`E(x) = c\, E_0\bigl((x - \mu) / s\bigr)`.

    Args:
        energy: :math:`E_0`, an :class:`Energy` of d variables.
        dim: d.

    Attributes:
        loc: :math:`\mu`, (d,), zero when fresh.
        scale: s, (d,), one when fresh.
        factor: c, a number, one when fresh.

    Raises:
        InputError: ``energy`` is no :class:`Energy`.

    Example:
        >>> import torch, hamflow as hf
        >>> E = hf.ScaledEnergy(hf.QuadraticKinetic(1), 1).set_units(torch.zeros(1), torch.tensor([10.0]), 4.0)
        >>> E(torch.tensor([10.0])).item(), E.gradient(torch.tensor([10.0])).item()
        (2.0, 0.4000000059604645)
    """

    loc: Tensor
    scale: Tensor
    factor: Tensor

    def __init__(self, energy: Energy, dim: int) -> None:
        super().__init__()
        if not isinstance(energy, Energy):
            raise InputError(f"energy is a {type(energy).__name__}, expected an Energy")
        self.energy = energy
        self.register_buffer("loc", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))
        self.register_buffer("factor", torch.ones(()))

    def set_units(self, loc: Tensor, scale: Tensor, factor: Any) -> ScaledEnergy:
        """Set the shift (d,), the scale (d,) and the factor, all of them constants, and return the energy."""
        self.loc.copy_(loc.detach())
        self.scale.copy_(scale.detach())
        self.factor.copy_(torch.as_tensor(factor).detach())
        return self

    def forward(self, x: Tensor, t: Time = 0.0) -> Tensor:
        """The energy, (*batch, d) -> (*batch,)."""
        value: Tensor = self.factor * self.energy((x - self.loc) / self.scale, t)
        return value

    def gradient(self, x: Tensor, t: Time = 0.0) -> Tensor:
        """The gradient, (*batch, d) -> (*batch, d)."""
        return self.energy.gradient((x - self.loc) / self.scale, t) * (self.factor / self.scale)

    def slopes(self, times: Sequence[Time]) -> list[Slope]:
        """The gradients at many times; the units are not learned."""
        inner = self.energy.slopes(times)
        # Those that are the same, as of all times of one layer, stay the same.
        scaled = {id(slope): self._scaled(slope) for slope in inner}
        return [scaled[id(slope)] for slope in inner]

    def _scaled(self, slope: Slope) -> Slope:
        loc, scale, back = self.loc, self.scale, self.factor / self.scale

        def value(x: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
            found, *kept = slope.value((x - loc) / scale, *tensors)
            return found * back, *kept

        def pullback(x: Tensor, u: Tensor, kept: tuple[Tensor, ...], *tensors: Tensor) -> tuple[Tensor, ...]:
            assert slope.pullback is not None
            across, *rest = slope.pullback((x - loc) / scale, u * back, kept, *tensors)
            return across / scale, *rest

        return slope._replace(value=value, pullback=None if slope.pullback is None else pullback)
