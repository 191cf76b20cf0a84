"""Networks of latent states: from a code to a state, and the energy of states that are maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hamflow.energies import (
    Energy,
    FunctionEnergy,
    Hamiltonian,
    JointHamiltonian,
    MLPPotential,
    PeriodicEnergy,
    QuadraticKinetic,
    ScaledEnergy,
    SeparableHamiltonian,
    SumEnergy,
)
from hamflow.energies.features import AngleFeatures
from hamflow.models.pictures import SIDE


def transformer(codes: int, outputs: int, widths: Sequence[int], width: int, *, maps: bool) -> nn.Sequential:
    """The network from z to (q, p), of either sign; of maps 4 x 4 where ``maps``."""
    if maps:
        layers: list[nn.Module] = [
            nn.Conv2d(codes, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, outputs, 3, padding=1),
        ]
        return nn.Sequential(*layers)
    layers, before = [], codes
    for after in widths:
        layers += [nn.Linear(before, after), nn.SiLU()]
        before = after
    return nn.Sequential(*layers, nn.Linear(before, outputs))


def oscillating(
    kind: str, dim: int, angles: Sequence[int], widths: Sequence[int], width: int, rate: float, *, maps: bool
) -> Hamiltonian:
    r"""A learned Hamiltonian that starts near oscillators, :math:`H \approx \tfrac{\omega}{2} (p^2 + q^2)`.

    Where nothing moved at the start, a decoder would learn to draw the mean frame, and the rest nothing. Angles start
    near rotors. Networks are in units of :math:`\omega`, so that training goes alike in any unit of time.

    Args:
        kind: ``"separable"``, networks T(p) and V(q) beside the oscillators; ``"mechanical"``, a network V(q) only;
            ``"joint"``, a network H(q, p).
        dim: the number of positions, or of maps of them.
        angles: the positions that are angles; of their cosines and sines an energy is a function.
        widths: the hidden widths of a network.
        width: the channels of a network of maps.
        rate: :math:`\omega`, [1 / time].
        maps: whether positions are maps of 4 x 4.
    """
    d = dim * SIDE**2 if maps else dim

    def learned(variables: int, angles: Sequence[int], network: bool = True) -> Energy:
        size = AngleFeatures(angles, variables).size
        energy: Energy = QuadraticKinetic(size, mass=1 / rate, learn=True)
        if network:
            free = FunctionEnergy(MapEnergy(variables // SIDE**2, width)) if maps else MLPPotential(size, widths)
            energy = SumEnergy(energy, ScaledEnergy(free, size).set_units(torch.zeros(size), torch.ones(size), rate))
        return PeriodicEnergy(energy, angles, variables) if angles else energy

    if kind == "joint":
        return JointHamiltonian(learned(2 * d, angles))
    return SeparableHamiltonian(learned(d, (), network=kind == "separable"), learned(d, angles))


class MapEnergy(nn.Module):
    """A convolutional energy of maps of 4 x 4, (*batch, 16 maps) -> (*batch,)."""

    def __init__(self, maps: int, width: int) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Conv2d(maps, width, 3, padding=1), nn.Softplus(), nn.Conv2d(width, width, 3, padding=1), nn.Softplus(),
            nn.Conv2d(width, 1, SIDE),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """The energy."""
        rows = x.reshape(-1, x.shape[-1]).unflatten(-1, (-1, SIDE, SIDE))
        value: Tensor = self.network(rows)
        return value.reshape(x.shape[:-1])
