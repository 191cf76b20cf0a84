"""Energies of angles."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hamflow.energies.hamiltonian import Energy, Time
from hamflow.errors import InputError, check_positive, is_number


class PeriodicEnergy(Energy):
    r"""An energy with period :math:`2\pi` in some of its variables, the angles,

    .. math:: E(x) = F\bigl(\cos x_A,\ \sin x_A,\ x_B\bigr),

    where A lists the angles and B the other variables, each in the order of their indices. It is a potential of angles
    as it stands, and with ``dim = 2 d`` inside a :class:`JointHamiltonian` a Hamiltonian whose positions are angles.

    Args:
        energy: F, an :class:`Energy` of ``dim + len(periodic)`` variables.
        periodic: the indices of the angles, [rad].
        dim: the number of variables of E.

    Raises:
        InputError: ``energy`` is not an :class:`Energy`, or an index is out of range or given twice; (when called) the
            last dimension is not ``dim``.

    Example:
        >>> import torch, hamflow as hf
        >>> V = hf.PeriodicEnergy(hf.MLPPotential(3, widths=(16,)), periodic=(0,), dim=2)
        >>> x = torch.tensor([[0.3, 1.0]])
        >>> torch.allclose(V(x), V(x + torch.tensor([2 * torch.pi, 0.0])))
        True
    """

    order: Tensor
    back: Tensor

    def __init__(self, energy: Energy, periodic: Sequence[int], dim: int) -> None:
        super().__init__()
        if not isinstance(energy, Energy):
            raise InputError(f"energy is a {type(energy).__name__}, expected an Energy (FunctionEnergy wraps one)")
        check_positive("dim", dim, integer=True)
        angles = sorted(periodic)
        in_range = all(is_number(i, integer=True) and 0 <= i < dim for i in angles)
        if not angles or not in_range or len(set(angles)) < len(angles):
            raise InputError(f"periodic = {tuple(periodic)!r}, expected different indices from 0 to {dim - 1}")
        self.energy = energy
        self.dim = dim
        self.periodic = tuple(int(i) for i in angles)
        # Angles first, then the rest; and the way back.
        order = torch.tensor([*angles, *(i for i in range(dim) if i not in angles)])
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("back", order.argsort(), persistent=False)

    def _features(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if x.ndim == 0 or x.shape[-1] != self.dim:
            raise InputError(f"x has shape {tuple(x.shape)}, expected (*batch, {self.dim})")
        n = len(self.periodic)
        angles, others = x.index_select(-1, self.order).split((n, self.dim - n), dim=-1)
        return angles.cos(), angles.sin(), others

    def forward(self, x: Tensor, t: Time = 0.0) -> Tensor:
        """The energy, (*batch, dim) -> (*batch,)."""
        value: Tensor = self.energy(torch.cat(self._features(x), dim=-1), t)
        return value

    def gradient(self, x: Tensor, t: Time = 0.0) -> Tensor:
        """The gradient, (*batch, dim) -> (*batch, dim)."""
        cos, sin, others = self._features(x)
        inner = self.energy.gradient(torch.cat((cos, sin, others), dim=-1), t)
        n = len(self.periodic)
        by_cos, by_sin, by_others = inner.split((n, n, self.dim - n), dim=-1)
        turned = torch.cat((cos * by_sin - sin * by_cos, by_others), dim=-1)
        return turned.index_select(-1, self.back)
