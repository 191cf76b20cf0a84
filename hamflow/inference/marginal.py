"""The position of a phase-space density by itself: its law, and the map from noise that Markov chains walk on."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from hamflow.densities import importance_bound
from hamflow.inference.packed import Packed

#: Momenta of a log density.
_PARTICLES = 64


class NoiseMap:
    r"""From noise to positions, :math:`\varepsilon \mapsto q`, with :math:`\log r(p \mid q) + \log|\det|` in the place
    of a log-det.

    A momentum that is drawn from r given q has just this density beside that of q, so a target of q becomes one of
    noise. The map halves the dimension and has no inverse, so it is no
    :class:`torch.distributions.Transform`.

    Args:
        phase: the :class:`PhaseMap`, packed.
        values: its parameters.
        context: what it depends on, (c,), if anything.

    Example:
        >>> import torch
        >>> from hamflow.inference.marginal import NoiseMap
        >>> from hamflow.inference.packed import Packed
        >>> from hamflow.inference.phase import PhaseMap
        >>> T, noise = NoiseMap(*Packed.of(PhaseMap(2))), torch.randn(5, 4)
        >>> q = T(noise)
        >>> q.shape, T.log_abs_det_jacobian(noise, q).shape
        (torch.Size([5, 2]), torch.Size([5]))
    """

    def __init__(self, phase: Packed, values: Tensor, *, context: Tensor | None = None) -> None:
        self.phase, self.values, self.context = phase, values, context
        self._last: tuple[Tensor, Tensor, Tensor] | None = None

    @property
    def noise_shape(self) -> torch.Size:
        """(2 d,)."""
        return torch.Size((2 * int(self.phase.module.dim),))  # type: ignore[arg-type]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_last": None}

    def __call__(self, x: Tensor) -> Tensor:
        """Positions of noise, (*batch, 2 d) -> (*batch, d)."""
        q, weight = self.phase(self.values, "forward", x, self.context)
        self._last = x, q, weight
        return q

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Log r(p | q) + log|det|, noise x (*batch, 2 d) and positions y (*batch, d) -> (*batch,)."""
        # It is asked for right after the call, and gradients of both are one backward pass.
        last, self._last = self._last, None
        if last is not None and last[0] is x and last[1] is y:
            return last[2]
        weight: Tensor = self.phase(self.values, "forward", x, self.context)[1]
        return weight


class PhaseMarginal(TorchDistribution):
    r"""Draws of q, and in expectation a lower bound on their log density,

    .. math:: \log \frac1K \sum_k \frac{q(z, p_k)}{r(p_k \mid z)}, \qquad p_k \sim r(\cdot \mid z).

    Args:
        phase: the :class:`PhaseMap`, packed.
        values: its parameters.
        particles: K.
        context: what it depends on, (c,), if anything.

    Example:
        >>> import torch
        >>> from hamflow.inference.marginal import PhaseMarginal
        >>> from hamflow.inference.packed import Packed
        >>> from hamflow.inference.phase import PhaseMap
        >>> law = PhaseMarginal(*Packed.of(PhaseMap(2)))
        >>> law.log_prob(law.sample((5,))).shape
        torch.Size([5])
    """

    support = constraints.real_vector
    has_rsample = True
    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(
        self, phase: Packed, values: Tensor, *, particles: int = _PARTICLES, context: Tensor | None = None
    ) -> None:
        self.phase, self.values, self.particles, self.context = phase, values, particles, context
        self.dim: int = phase.module.dim  # type: ignore[assignment]
        super().__init__(torch.Size(), torch.Size((self.dim,)), validate_args=False)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws, (*sample_shape, d)."""
        like = self.values
        noise = torch.randn(*sample_shape, 2 * self.dim, dtype=like.dtype, device=like.device)
        found: Tensor = self.phase(like, "forward", noise, self.context)[0]
        return found

    def log_prob(self, value: Tensor) -> Tensor:
        """The bound, (*batch, d) -> (*batch,)."""
        return importance_bound(self.phase(self.values, "log_density", value, self.particles, self.context))
