"""Energies of angles."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from hamflow.energies.features import AngleFeatures
from hamflow.energies.hamiltonian import Energy, Time
from hamflow.energies.slope import Slope
from hamflow.errors import InputError


class PeriodicEnergy(Energy):
    r"""An energy with period :math:`2\pi` in some of its variables, the angles,

    .. math:: E(x) = F\bigl(\cos x_A,\ \sin x_A,\ x_B\bigr),

    where A lists the angles and B the other variables, each in the order of their indices. It is a potential of angles
    as it stands, and with ``dim = 2 d`` inside a :class:`JointHamiltonian` a Hamiltonian whose positions are angles.

    Args:
        energy: F, an :class:`Energy` of ``dim + len(periodic)`` variables; of ``2 n (n - 1)`` more with pairs of n
            angles.
        periodic: the indices of the angles, [rad].
        dim: the number of variables of E.
        pairs: whether F also sees the cosines, then the sines, of :math:`x_j - x_i` and :math:`x_j + x_i` for every two
            angles, each after those of the angles.

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

    def __init__(self, energy: Energy, periodic: Sequence[int], dim: int, *, pairs: bool = False) -> None:
        super().__init__()
        if not isinstance(energy, Energy):
            raise InputError(f"energy is a {type(energy).__name__}, expected an Energy (FunctionEnergy wraps one)")
        self.features = AngleFeatures(periodic, dim, pairs=pairs)
        if not self.features.periodic:
            raise InputError(f"periodic = {tuple(periodic)!r}, expected different indices from 0 to {dim - 1}")
        self.energy = energy

    def forward(self, x: Tensor, t: Time = 0.0) -> Tensor:
        """The energy, (*batch, dim) -> (*batch,)."""
        value: Tensor = self.energy(self.features(x), t)
        return value

    def gradient(self, x: Tensor, t: Time = 0.0) -> Tensor:
        """The gradient, (*batch, dim) -> (*batch, dim)."""
        seen = self.features(x)
        return self.features.pullback(seen, self.energy.gradient(seen, t))

    def slopes(self, times: Sequence[Time]) -> list[Slope]:
        """The gradients at many times, as functions of what those of F are functions of."""
        return [self._of_angles(slope) for slope in self.energy.slopes(times)]

    def _of_angles(self, slope: Slope) -> Slope:
        def value(x: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
            seen = self.features(x)
            return (self.features.pullback(seen, slope.value(seen, *tensors)[0]),)

        return slope._replace(value=value, pullback=None)
