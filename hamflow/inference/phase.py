"""A density of q that a Hamiltonian flow of (q, p) makes from a Gaussian: what guides are made of."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from hamflow.densities import ContextNetwork, GaussianEncoder
from hamflow.energies import QuadraticKinetic, RidgePotential, SeparableHamiltonian, beside
from hamflow.errors import check_positive
from hamflow.flow import PhaseFlow
from hamflow.inference.lifts import AffineLift, TailLift
from hamflow.steps import SYMPLECTIC_EULER, Splitting
from hamflow.steps.fused import ridge_flow

#: What the flow and r learn counts by this: where they are not needed, the noise of training does less harm.
_GAIN = 0.3
#: Up to so many dimensions r has correlations of its own.
_CORRELATED = 8


class PhaseMap(nn.Module):
    r"""A map from Gaussian noise to positions, with a law of the momentum that they leave behind,

    .. math:: \varepsilon \sim N(0, I_{2d}), \qquad (y, p) = \Phi(a + e^{s} \odot \varepsilon), \qquad
              q = m + e^{\ell} \odot \Lambda(S(y)), \qquad r(p \mid y) .

    :math:`\Phi` is a flow of symplectic steps with a potential each, which preserves volume. S gives every coordinate
    tails and a skew of its own, and :math:`\Lambda` is an autoregressive affine map; their cotangent lifts are
    Hamiltonian steps too, and r lives on the momenta before these, where it need not know of them. So :math:`\log
    q(q, p) / r(p \mid q) = \log N(\varepsilon) - \log|\det| - \log r(p \mid y)`. Fresh, q is Gaussian, and r is the
    exact law of p.

    Args:
        dim: d, the number of positions, 1 or more.
        n_steps: symplectic Euler steps: leapfrog without the last kick, which would move p alone.
        width: ridges of each potential, and of the networks of :math:`\Lambda` and r.
        context_dim: columns of a context that all of it depends on, through features of its own; 0 is none.

    Raises:
        InputError: an argument is out of range.

    References:
        Kingma et al. (2016), Improving Variational Inference with Inverse Autoregressive Flow, arXiv 1606.04934, for
        :math:`\Lambda`; Jones and Pewsey (2009), Sinh-arcsinh distributions, Biometrika 96, 761, for S; Agakov and
        Barber (2004), An auxiliary variational method, for r.

    Example:
        >>> import torch
        >>> from hamflow.inference.phase import PhaseMap
        >>> q, weight = PhaseMap(3)(torch.randn(5, 6))
        >>> q.shape, weight.shape
        (torch.Size([5, 3]), torch.Size([5]))
    """

    def __init__(self, dim: int, *, n_steps: int = 3, width: int = 32, context_dim: int = 0) -> None:
        super().__init__()
        for name, number in (("dim", dim), ("n_steps", n_steps), ("width", width)):
            check_positive(name, number, integer=True)
        self.dim = dim
        self.inner = nn.Parameter(torch.zeros(2, 2 * dim))
        # A mass of the same size leaves free motion as it is for a unit of time, and kicks are weaker.
        dt, told = _GAIN / n_steps, width if context_dim else 0
        # The scales before and after the flow are learned, so the mass need not be.
        potential = RidgePotential(dim + told, width, layers=n_steps, spacing=dt)
        energy = SeparableHamiltonian(QuadraticKinetic(dim, mass=torch.tensor(_GAIN)), potential)
        self.flow = PhaseFlow(Splitting(energy, SYMPLECTIC_EULER), n_steps=n_steps, dt=dt)
        self.tails = TailLift(dim)
        self.lift = AffineLift(dim, width, context_dim=told) if dim > 1 else None
        self.features = ContextNetwork(context_dim, told, width=width) if context_dim else None
        self.told = nn.Linear(told, 4 * dim, bias=False) if context_dim else None
        if self.told is not None:
            nn.init.zeros_(self.told.weight)
        self.loc = nn.Parameter(torch.zeros(dim))
        self.log_scale = nn.Parameter(torch.zeros(dim))
        self.encoder = GaussianEncoder(
            dim, width=width, covariance="full" if dim <= _CORRELATED else "diagonal", context_dim=told, gain=_GAIN
        )

    def set_affine(self, loc: Tensor, scale_tril: Tensor) -> None:
        """Let q be Gaussian of this mean and triangular root of the covariance where the map is fresh."""
        with torch.no_grad():
            scale = scale_tril.diagonal()
            self.loc.copy_(loc)
            self.log_scale.copy_(scale.log())
            if self.lift is not None:
                self.lift.set_shift((scale_tril / scale[:, None]).tril(-1))

    def _given(self, context: Tensor | None) -> tuple[Tensor | None, PhaseFlow, Tensor, Tensor]:
        # Features of the context, the flow given them, and where and how wide the flow begins.
        if self.features is None or self.told is None:
            return None, self.flow, self.inner[0], self.inner[1]
        features = self.features(context)
        start, log_scale = (self.inner + self.told(features).view_as(self.inner)).unbind()
        return features, self.flow.condition(features), start, log_scale

    def forward(self, noise: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Positions (*batch, d) of noise (*batch, 2 d) given a context (c,), and log r(p | y) + log|det|, (*batch,)."""
        features, flow, start, log_scale = self._given(context)
        q, p = noise.chunk(2, -1)
        # Back first: the fresh flow is free motion for a unit of time, and the whole starts as the identity.
        x = start + log_scale.exp() * torch.cat((q - p, p), -1)
        if context is None and not torch._C._are_functorch_transforms_active():
            # As one node of the graph: noise has few rows, and the nodes of a step take longer than its sums.
            potential = self.flow.step.hamiltonian.potential  # type: ignore[union-attr]
            y, p = ridge_flow(x, potential, dt=self.flow.dt, mass=_GAIN)  # type: ignore[arg-type]
        else:
            y, p = flow(x).chunk(2, -1)
        lifted, log_det = self.tails(y)
        log_det = log_det + log_scale.sum() + self.log_scale.sum()
        if self.lift is not None:
            lifted, stretched = self.lift(lifted, features)
            log_det = log_det + stretched
        seen = beside(y, features)
        seen = seen.reshape(-1, seen.shape[-1])
        log_r = self.encoder(p.reshape(-1, self.dim), seen).reshape(y.shape[:-1])
        return self.loc + self.log_scale.exp() * lifted, log_r + log_det

    def log_density(self, q: Tensor, particles: int, context: Tensor | None = None) -> Tensor:
        """Log of q(q, p) / r(p | q) at momenta drawn from r, q of shape (*batch, d) -> (particles, *batch)."""
        features, flow, start, log_scale = self._given(context)
        lifted = (q - self.loc) * (-self.log_scale).exp()
        log_det = log_scale.sum() + self.log_scale.sum()
        if self.lift is not None:
            lifted, stretched = self.lift.inverse(lifted, features)
            log_det = log_det + stretched
        y, stretched = self.tails.inverse(lifted)
        log_det = log_det + stretched
        seen = beside(y, features)
        seen = seen.reshape(-1, seen.shape[-1])
        p = self.encoder.rsample(seen, particles)
        log_r = self.encoder(p, seen).reshape(particles, *y.shape[:-1])
        x = torch.cat((y.expand(particles, *y.shape), p.reshape(particles, *y.shape)), -1)
        first, p = ((flow.inv(x) - start) * (-log_scale).exp()).chunk(2, -1)
        square = (first + p).square().sum(-1) + p.square().sum(-1)
        return -0.5 * square - self.dim * math.log(2 * math.pi) - log_det - log_r
