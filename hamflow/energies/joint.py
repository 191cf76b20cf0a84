"""One energy of positions and momenta together, as a Hamiltonian."""

from __future__ import annotations

import torch
from torch import Tensor

from hamflow.energies.hamiltonian import Energy, Hamiltonian, Time
from hamflow.errors import InputError


class JointHamiltonian(Hamiltonian):
    r"""Any energy of 2d variables as a Hamiltonian, :math:`H(q, p, t) = E([q, p], t)`; separable or not.

    The gradient is that of the energy, cut in two: closed where the energy's is. The published Hamiltonian Neural
    Network is ``JointHamiltonian(MLPPotential(2 * d, widths=(200, 200), init="orthogonal"))``.

    Args:
        energy: E, an :class:`Energy` of positions and momenta side by side, (*batch, 2 d) -> (*batch,).

    Raises:
        InputError: ``energy`` is not an :class:`Energy`; (when called) q and p differ in shape.

    References:
        Greydanus et al. (2019), Hamiltonian Neural Networks, arXiv 1906.01563.

    Example:
        >>> import torch, hamflow as hf
        >>> H = hf.JointHamiltonian(hf.MLPPotential(2, widths=(16, 16)))
        >>> dq, dp = H.gradient(torch.randn(7, 1), torch.randn(7, 1))
        >>> dq.shape, dp.shape
        (torch.Size([7, 1]), torch.Size([7, 1]))
    """

    def __init__(self, energy: Energy) -> None:
        super().__init__()
        if not isinstance(energy, Energy):
            raise InputError(f"energy is a {type(energy).__name__}, expected an Energy (FunctionEnergy wraps one)")
        self.energy = energy

    def forward(self, q: Tensor, p: Tensor, t: Time = 0.0) -> Tensor:
        """The energy, q and p of shape (*batch, d) -> (*batch,)."""
        value: Tensor = self.energy(_side_by_side(q, p), t)
        return value

    def gradient(self, q: Tensor, p: Tensor, t: Time = 0.0) -> tuple[Tensor, Tensor]:
        """The pair (dH/dq, dH/dp), each (*batch, d)."""
        dq, dp = self.energy.gradient(_side_by_side(q, p), t).chunk(2, dim=-1)
        return dq, dp


def _side_by_side(q: Tensor, p: Tensor) -> Tensor:
    if q.shape != p.shape:
        raise InputError(f"p has shape {tuple(p.shape)}, expected that of q, {tuple(q.shape)}")
    return torch.cat((q, p), dim=-1)
