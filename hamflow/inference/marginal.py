"""The law of the position of a phase-space density, its momentum taken out by importance sampling."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from hamflow.densities import importance_bound
from hamflow.inference.phase import PhaseMap

#: Momenta of a log density.
_PARTICLES = 64


class PhaseMarginal(TorchDistribution):
    r"""Draws of q, and in expectation a lower bound on their log density,

    .. math:: \log \frac1K \sum_k \frac{q(z, p_k)}{r(p_k \mid z)}, \qquad p_k \sim r(\cdot \mid z).

    Args:
        phase: the map.
        particles: K.

    Example:
        >>> import torch
        >>> from hamflow.inference.marginal import PhaseMarginal
        >>> from hamflow.inference.phase import PhaseMap
        >>> law = PhaseMarginal(PhaseMap(2))
        >>> law.log_prob(law.sample((5,))).shape
        torch.Size([5])
    """

    support = constraints.real_vector
    has_rsample = True
    arg_constraints: dict[str, Any] = {}

    def __init__(self, phase: PhaseMap, *, particles: int = _PARTICLES) -> None:
        self.phase, self.particles = phase, particles
        super().__init__(torch.Size(), torch.Size((phase.dim,)), validate_args=False)

    def rsample(self, sample_shape: torch.Size | tuple[int, ...] = torch.Size()) -> Tensor:
        """Draws, (*sample_shape, d)."""
        noise = torch.randn(*sample_shape, 2 * self.phase.dim, dtype=self.phase.loc.dtype, device=self.phase.loc.device)
        return self.phase(noise)[0]

    def log_prob(self, value: Tensor) -> Tensor:
        """The bound, (*batch, d) -> (*batch,)."""
        p, log_r = self.phase.draw_momentum(value, self.particles)
        return importance_bound(self.phase.log_joint(value.expand_as(p), p) - log_r)
