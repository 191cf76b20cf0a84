"""The base density of a flow on phase space: a learned mixture with tails of its own."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from pyro import distributions as dist
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn import functional

from hamflow.errors import check_choice, check_positive

GAUSSIAN = 1e4  # degrees of freedom from which on a component counts as Gaussian
_NO_BATCH = torch.Size()


class PhaseMixture(nn.Module):
    r"""A mixture of K components on phase space :math:`x = (q, p) \in \mathbb R^{2d}`,

    .. math:: p(x) = \sum_k \pi_k\, |\det P_k|\; t_{\nu_k}\bigl(y^k_q\bigr)\, \mathcal N\bigl(y^k_p; 0, I\bigr),
              \qquad (y^k_q, y^k_p) = P_k (x - \mu_k),

    with lower-triangular precision factors :math:`P_k` of positive diagonal: the position of a component follows a
    multivariate Student t with :math:`\nu_k` degrees of freedom, learned from 1 (Cauchy) to the Gaussian limit, and the
    momentum a Gaussian, around a linear function of the position where the covariance is full. A volume-preserving
    flow with bounded forces cannot make tails heavier, so the base has to bring them. The density costs one matrix
    product and no solve.

    Args:
        dim: d, the number of positions and of momenta.
        components: K.
        covariance: ``"full"`` couples all of (q, p); ``"block"`` has a full factor for q and a diagonal one for p;
            ``"diagonal"`` a diagonal one for both.
        gaussian: whether all components stay Gaussian, or learn their degrees of freedom.

    Raises:
        InputError: an argument is out of range.

    References:
        Alexanderson and Henter (2020), Robust Model Training and Generalisation with Studentising Flows,
        arXiv 2006.06599; Peel and McLachlan (2000), Statistics and Computing 10, 339.

    Example:
        >>> import torch
        >>> from hamflow.densities import PhaseMixture
        >>> PhaseMixture(2, components=3).log_prob(torch.zeros(5, 4)).shape
        torch.Size([5])
    """

    no_weight_decay = True

    def __init__(self, dim: int, components: int = 1, *, covariance: str = "full", gaussian: bool = False) -> None:
        super().__init__()
        check_positive("dim", dim, integer=True)
        check_positive("components", components, integer=True)
        check_choice("covariance", covariance, ("full", "block", "diagonal"))
        self.dim = dim
        self.components = components
        self.covariance = covariance
        # The leading coordinates that have correlations.
        self.gaussian = gaussian
        self.coupled = {"full": 2 * dim, "block": dim, "diagonal": 1}[covariance]
        self.logits = nn.Parameter(torch.zeros(components))
        self.loc = nn.Parameter(torch.zeros(components, 2 * dim))
        self.log_diagonal = nn.Parameter(torch.zeros(components, 2 * dim))
        # Only the entries under the diagonal, row by row: a count of parameters counts what is learned.
        self.lower = nn.Parameter(torch.zeros(components, self.coupled * (self.coupled - 1) // 2))
        self.log_degrees = nn.Parameter(torch.full((components,), math.log(GAUSSIAN)), requires_grad=not gaussian)

    def precision_factor(self) -> Tensor:
        """P of shape (K, 2d, 2d), lower triangular."""
        factor = torch.diag_embed(self.log_diagonal.exp())
        row, column = torch.tril_indices(self.coupled, self.coupled, -1, device=factor.device)
        component = torch.arange(self.components, device=factor.device).unsqueeze(-1)
        return factor.index_put((component, row, column), self.lower)

    def degrees(self) -> Tensor:
        """The degrees of freedom, (K,), above 1."""
        return 1 + self.log_degrees.exp()

    def log_prob(self, x: Tensor) -> Tensor:
        """The log density, (*batch, 2d) -> (*batch,)."""
        d, factor = self.dim, self.precision_factor()
        if self.covariance == "full":
            y_q, y_p = self._scaled(x, factor, self.loc).split(d, dim=-1)
        else:
            y_q = self._scaled(x[..., :d], factor[:, :d, :d], self.loc[:, :d])
            y_p = (x[..., d:].unsqueeze(-2) - self.loc[:, d:]) * self.log_diagonal[:, d:].exp()
        squared = (y_q**2).sum(-1)
        log_component = (
            (log_normal(squared, d) if self.gaussian else log_student(squared, self.degrees(), d))
            + log_normal((y_p**2).sum(-1), d)
            + self.log_diagonal.sum(-1)
        )
        return torch.logsumexp(log_component + self.logits.log_softmax(-1), dim=-1)

    @staticmethod
    def _scaled(x: Tensor, factor: Tensor, loc: Tensor) -> Tensor:
        # P (x - mu) for all components at once, (*batch, n) -> (*batch, K, n).
        shift = (factor @ loc.unsqueeze(-1)).squeeze(-1)
        return functional.linear(x, factor.flatten(0, 1)).unflatten(-1, shift.shape) - shift

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """``n`` draws, (n, 2d)."""
        chosen = torch.multinomial(self.logits.softmax(-1), n, replacement=True, generator=generator)
        noise = phase_noise(chosen, None if self.gaussian else self.degrees(), self.loc, generator)
        # Component by component: a factor for every draw would not fit in memory.
        order = chosen.argsort()
        shares = noise[order].split(chosen.bincount(minlength=self.components).tolist())
        moved = [
            torch.linalg.solve_triangular(factor, share.mT, upper=False).mT
            for share, factor in zip(shares, self.precision_factor(), strict=True)
        ]
        return self.loc[chosen].index_add(0, order, torch.cat(moved))

    def distribution(self) -> PhaseMixtureDistribution:
        """The same density as a Pyro distribution with event shape (2d,)."""
        return PhaseMixtureDistribution(self)

    @torch.no_grad()
    def set_positions(self, weights: Tensor, means: Tensor, scales: Tensor, degrees: float) -> None:
        """Set the mixture of q; the momentum becomes a standard normal, independent of q.

        Args:
            weights: (K,).
            means: (K, d).
            scales: the scale matrices of the components, (K, d, d); a diagonal mixture takes their diagonal.
            degrees: the degrees of freedom of all of them, above 1.
        """
        d = self.dim
        # S^-1 = P' P with P lower triangular: the inverse of the Cholesky factor of S.
        if self.covariance == "diagonal":
            scales = torch.diag_embed(scales.diagonal(dim1=-2, dim2=-1))
        factor = torch.linalg.inv(torch.linalg.cholesky(scales))
        self.logits.copy_(weights.log())
        self.log_degrees.fill_(math.log(degrees - 1))
        for parameter in (self.loc, self.log_diagonal, self.lower):
            parameter.zero_()
        self.loc[:, :d] = means.to(self.loc)
        self.log_diagonal[:, :d] = factor.diagonal(dim1=-2, dim2=-1).log().to(self.loc)
        if self.covariance == "diagonal":
            return
        row, column = torch.tril_indices(d, d, -1)
        # The entries of the leading d rows come first in the row-by-row order of the larger triangle too.
        self.lower[:, : len(row)] = factor[:, row, column].to(self.loc)


class PhaseMixtureDistribution(dist.TorchDistribution):
    """A :class:`PhaseMixture` as a Pyro distribution, for ``TransformedDistribution``, ``pyro.sample`` and plates.

    Args:
        mixture: the mixture; its parameters are shared.
        batch_shape: the shape of a batch of independent copies.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real_vector
    has_rsample = False

    def __init__(
        self, mixture: PhaseMixture, batch_shape: torch.Size = _NO_BATCH, validate_args: bool | None = None
    ) -> None:
        self.mixture = mixture
        super().__init__(batch_shape, torch.Size((2 * mixture.dim,)), validate_args=validate_args)

    def expand(
        self, batch_shape: torch.Size | list[int] | tuple[int, ...], _instance: Any = None
    ) -> PhaseMixtureDistribution:
        """Independent copies in a batch of shape ``batch_shape``."""
        return PhaseMixtureDistribution(self.mixture, torch.Size(batch_shape), self._validate_args)

    def log_prob(self, x: Tensor) -> Tensor:
        """The log density, (*batch, 2d) -> (*batch,)."""
        log_prob = self.mixture.log_prob(x)
        return log_prob.expand(torch.broadcast_shapes(log_prob.shape, self.batch_shape))

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        """Draws of shape (*sample_shape, *batch, 2d)."""
        shape = (*sample_shape, *self.batch_shape)
        return self.mixture.sample(math.prod(shape)).reshape(*shape, *self.event_shape)


def log_normal(squared: Tensor, d: int) -> Tensor:
    """The log of the standard normal density in R^d at squared distance from its centre."""
    return -0.5 * squared - 0.5 * d * math.log(2 * math.pi)


def log_student(squared: Tensor, degrees: Tensor, d: int) -> Tensor:
    """The log of the unit-scale multivariate t density in R^d at squared distance from its centre; shapes broadcast."""
    # In double precision: towards the Gaussian limit the two lgamma are huge and nearly equal.
    nu = degrees.double()
    normaliser = torch.lgamma((nu + d) / 2) - torch.lgamma(nu / 2) - 0.5 * d * (nu * math.pi).log()
    return normaliser.to(squared) - 0.5 * (degrees + d) * torch.log1p(squared / degrees)


def phase_noise(chosen: Tensor, degrees: Tensor | None, like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Noise of the components chosen, (*batch) -> (*batch, 2 d): Student t in q, Gaussian in p.

    Args:
        chosen: component of each draw.
        degrees: of freedom of the components, (K,); None where all are Gaussian.
        like: of the dtype and device of the noise, (..., 2 d).
        generator: of the noise.
    """
    width = like.shape[-1]
    noise = torch.randn(*chosen.shape, width, dtype=like.dtype, device=like.device, generator=generator)
    # Student t: a Gaussian over the root of a mean-one gamma variable. The Gamma of torch.distributions takes no
    # generator, and what it draws from does.
    if degrees is not None:
        half = degrees[chosen].detach().double() / 2
        gamma = torch._standard_gamma(half, generator=generator)
        noise[..., : width // 2] *= gamma.div(half).rsqrt().to(noise).unsqueeze(-1)
    return noise
