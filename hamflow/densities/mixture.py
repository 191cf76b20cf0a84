"""A learned mixture of Gaussians: the base density of a flow on phase space."""

from __future__ import annotations

import math

import torch
from pyro import distributions as dist
from torch import Tensor, nn
from torch.nn import functional

from hamflow.errors import InputError, check_choice, check_positive


class GaussianMixture(nn.Module):
    r"""A mixture of K Gaussians on :math:`\mathbb R^{D}`,

    .. math:: \log p(x) = \log \sum_k \pi_k\, |\det P_k|\, (2\pi)^{-D/2}
              e^{-\frac12 \lVert P_k (x - \mu_k) \rVert^2},

    with the precision factors :math:`P_k` lower triangular with a positive diagonal, so that the density costs one
    matrix product and no solve. A fresh mixture has K standard normal components around slightly different means.

    Args:
        dim: D.
        components: K.
        covariance: ``"full"`` or ``"diagonal"``.

    Raises:
        InputError: an argument is out of range.

    Example:
        >>> import torch
        >>> from hamflow.densities import GaussianMixture
        >>> GaussianMixture(4, components=3).log_prob(torch.zeros(5, 4)).shape
        torch.Size([5])
    """

    def __init__(self, dim: int, components: int = 1, *, covariance: str = "full") -> None:
        super().__init__()
        check_positive("dim", dim, integer=True)
        check_positive("components", components, integer=True)
        check_choice("covariance", covariance, ("full", "diagonal"))
        self.dim = dim
        self.components = components
        self.covariance = covariance
        self.logits = nn.Parameter(torch.zeros(components))
        self.loc = nn.Parameter(0.1 * torch.randn(components, dim) if components > 1 else torch.zeros(1, dim))
        self.log_diagonal = nn.Parameter(torch.zeros(components, dim))
        if covariance == "full":
            # Only the entries under the diagonal are stored, row by row: a count of parameters counts what is learned.
            self.lower = nn.Parameter(torch.zeros(components, dim * (dim - 1) // 2))

    def precision_factor(self) -> Tensor:
        """P of shape (K, D, D), lower triangular: the precision of a component is P' P."""
        factor = torch.diag_embed(self.log_diagonal.exp())
        if self.covariance == "diagonal":
            return factor
        row, column = torch.tril_indices(self.dim, self.dim, -1, device=factor.device)
        component = torch.arange(self.components, device=factor.device).unsqueeze(-1)
        return factor.index_put((component, row, column), self.lower)

    def log_prob(self, x: Tensor) -> Tensor:
        """The log density, (*batch, D) -> (*batch,)."""
        if self.covariance == "diagonal":
            scaled = (x.unsqueeze(-2) - self.loc) * self.log_diagonal.exp()
        else:
            factor = self.precision_factor()
            shift = (factor @ self.loc.unsqueeze(-1)).squeeze(-1)
            product = functional.linear(x, factor.reshape(-1, self.dim))
            scaled = product.unflatten(-1, (self.components, self.dim)) - shift
        log_component = self.log_diagonal.sum(-1) - 0.5 * (scaled**2).sum(-1) - 0.5 * self.dim * math.log(2 * math.pi)
        return torch.logsumexp(log_component + self.logits.log_softmax(-1), dim=-1)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """``n`` draws, (n, D)."""
        like = self.loc
        chosen = torch.multinomial(self.logits.softmax(-1), n, replacement=True, generator=generator)
        noise = torch.randn(n, self.dim, dtype=like.dtype, device=like.device, generator=generator)
        if self.covariance == "diagonal":
            return self.loc[chosen] + noise * (-self.log_diagonal[chosen]).exp()
        spread = torch.linalg.inv(self.precision_factor())[chosen]
        return self.loc[chosen] + (spread @ noise.unsqueeze(-1)).squeeze(-1)

    def distribution(self) -> dist.MixtureSameFamily:
        """The same density as a Pyro distribution with event shape (D,)."""
        scale = torch.linalg.inv(self.precision_factor())
        covariance = scale @ scale.mT
        return dist.MixtureSameFamily(
            dist.Categorical(logits=self.logits), dist.MultivariateNormal(self.loc, covariance_matrix=covariance)
        )

    @torch.no_grad()
    def set(self, weights: Tensor, means: Tensor, precisions: Tensor) -> None:
        """Set the mixture from weights (K,), means (K, D) and precision matrices (K, D, D).

        Raises:
            InputError: the shapes do not fit, or the covariance structure is diagonal.
        """
        if means.shape != self.loc.shape or self.covariance != "full":
            raise InputError(
                f"means has shape {tuple(means.shape)} for a {self.covariance} mixture, "
                f"expected {tuple(self.loc.shape)} and a full one"
            )
        # Q = P' P with P lower triangular: flip the order of the coordinates and Cholesky gives it.
        flipped = torch.linalg.cholesky(precisions.flip(-1, -2))
        factor = flipped.mT.flip(-1, -2)
        self.logits.copy_(weights.log())
        self.loc.copy_(means)
        self.log_diagonal.copy_(factor.diagonal(dim1=-2, dim2=-1).log())
        row, column = torch.tril_indices(self.dim, self.dim, -1)
        self.lower.copy_(factor[:, row, column])
