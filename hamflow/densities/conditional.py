"""What a density knows of its context: features of it, and a mixture of positions that they set."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from pyro import distributions as dist
from torch import Tensor, nn
from torch.distributions import constraints

from hamflow.densities.mixture import GAUSSIAN, log_normal, log_student, phase_noise
from hamflow.errors import check_choice, check_positive


class ContextNetwork(nn.Module):
    r"""Features of a context, :math:`h(c) = A z + W_2\,\sigma(W_1\,\sigma(W_0 z))` of :math:`z = (c - m) / s`.

    The standardisation is that of the training rows; the linear part is learned at once, and the network the rest.

    Args:
        context_dim: the number of columns.
        features: the number of features.
        width: the width of the two hidden layers.

    Raises:
        InputError: an argument is out of range.

    Example:
        >>> import torch
        >>> from hamflow.densities import ContextNetwork
        >>> ContextNetwork(3, features=16)(torch.randn(5, 3)).shape
        torch.Size([5, 16])
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, context_dim: int, features: int, *, width: int = 64) -> None:
        super().__init__()
        for name, number in (("context_dim", context_dim), ("features", features), ("width", width)):
            check_positive(name, number, integer=True)
        self.register_buffer("loc", torch.zeros(context_dim))
        self.register_buffer("scale", torch.ones(context_dim))
        self.linear = nn.Linear(context_dim, features)
        self.network = nn.Sequential(
            nn.Linear(context_dim, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, features)
        )

    @torch.no_grad()
    def standardise(self, rows: Tensor) -> None:
        """Take mean and standard deviation from training rows (n, context_dim); of a column that never varies, 1."""
        spread = rows.std(0, correction=0)
        self.loc.copy_(rows.mean(0))
        self.scale.copy_(torch.where(spread > 0, spread, torch.ones_like(spread)))

    def forward(self, context: Tensor) -> Tensor:
        """The features, (*batch, context_dim) -> (*batch, features)."""
        z = self.standardised(context)
        features: Tensor = self.linear(z) + self.network(z)
        return features

    def standardised(self, context: Tensor) -> Tensor:
        """The context in units of the spread of the training rows, (*batch, context_dim)."""
        return (context - self.loc) / self.scale

    @torch.no_grad()
    def say(self, slopes: Tensor) -> None:
        """Let the first features be a linear function of the standardised context, (context_dim, d)."""
        last, d = self.network[-1], min(slopes.shape[1], self.linear.out_features)
        assert isinstance(last, nn.Linear)
        for weights in (self.linear.weight, self.linear.bias, last.weight, last.bias):
            weights[:d] = 0
        self.linear.weight[:d] = slopes[:, :d].mT


class MixtureNetwork(nn.Module):
    r"""A base density of :math:`(q, p)` given features h: a mixture of positions, and a standard normal momentum,

    .. math:: p(q, p \mid h) = \mathcal N(p; 0, I) \sum_k \pi_k(h)\, |\det P_k(h)|\;
              t_{\nu_k}\bigl(P_k(h)\,(q - \mu_k(h))\bigr) .

    Weights, centres and precision factors are linear in h; degrees of freedom are not told by it. Fresh, or right
    after :meth:`set_positions`, it is the same mixture whatever h.

    Args:
        dim: d, the number of positions and of momenta.
        features: the number of features.
        components: K.
        covariance: of a component, ``"full"``; ``"constant"``, whose entries of :math:`P_k` under the diagonal are not
            moved by h; or ``"diagonal"``.
        gaussian: whether all components stay Gaussian.

    Raises:
        InputError: an argument is out of range.

    References:
        Bishop (1994), Mixture Density Networks, Aston University NCRG/94/004.

    Example:
        >>> import torch
        >>> from hamflow.densities import MixtureNetwork
        >>> given = MixtureNetwork(2, features=3, components=4).condition(torch.randn(5, 3))
        >>> given.sample((7,)).shape, given.log_prob(torch.zeros(5, 4)).shape
        (torch.Size([7, 5, 4]), torch.Size([5]))
    """

    no_weight_decay = True

    def __init__(
        self, dim: int, features: int, components: int = 1, *, covariance: str = "full", gaussian: bool = False
    ) -> None:
        super().__init__()
        for name, number in (("dim", dim), ("features", features), ("components", components)):
            check_positive(name, number, integer=True)
        check_choice("covariance", covariance, ("full", "constant", "diagonal"))
        self.dim, self.components, self.gaussian = dim, components, gaussian
        below = dim * (dim - 1) // 2
        #: Of each component: its log weight, centre, log diagonal of its precision factor, and what is under that.
        self.sizes = [1, dim, dim, below if covariance == "full" else 0]
        self.below = nn.Parameter(torch.zeros(components, below)) if covariance == "constant" else None
        self.head = nn.Linear(features, components * sum(self.sizes))
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.log_degrees = nn.Parameter(torch.full((components,), math.log(GAUSSIAN)), requires_grad=not gaussian)

    @torch.no_grad()
    def set_positions(self, weights: Tensor, means: Tensor, scales: Tensor, degrees: float) -> None:
        """Set the mixture of q, whatever h; the arguments are those of :meth:`PhaseMixture.set_positions`."""
        if self.sizes[3] == 0 and self.below is None:
            scales = torch.diag_embed(scales.diagonal(dim1=-2, dim2=-1))
        factor = torch.linalg.inv(torch.linalg.cholesky(scales))
        row, column = torch.tril_indices(self.dim, self.dim, -1)
        below = factor[:, row, column]
        if self.below is not None:
            self.below.copy_(below)
        numbers = (weights.log()[:, None], means, factor.diagonal(dim1=-2, dim2=-1).log(), below[:, : self.sizes[3]])
        self.head.weight.zero_()
        self.head.bias.copy_(torch.cat([x.to(self.head.bias) for x in numbers], dim=1).flatten())
        self.log_degrees.fill_(math.log(degrees - 1))

    @torch.no_grad()
    def follow(self) -> None:
        """Let the centres be moved by the first features, one a column of q."""
        rows = self.head.weight.view(self.components, sum(self.sizes), -1)
        d = min(self.dim, rows.shape[-1])
        rows[:, 1 : 1 + d, :d] = torch.eye(d).to(rows)

    def condition(self, features: Tensor) -> MixtureGiven:
        """The density given features, (*batch, features)."""
        numbers = self.head(features).unflatten(-1, (self.components, -1))
        logits, loc, log_diagonal, below = numbers.split(self.sizes, dim=-1)
        degrees = None if self.gaussian else 1 + self.log_degrees.exp()
        below = below if self.below is None else self.below
        return MixtureGiven(logits.squeeze(-1), loc, log_diagonal, below, degrees)


class MixtureGiven(dist.TorchDistribution):
    """A :class:`MixtureNetwork` given features, as a Pyro distribution of (q, p) with event shape (2d,).

    Args:
        logits: of the weights, (*batch, K).
        loc: centres, (*batch, K, d).
        log_diagonal: of the precision factors, (*batch, K, d).
        below: their entries under the diagonal, row by row, (*batch, K, d (d - 1) / 2), or none; or the same for all of
            the batch, (K, d (d - 1) / 2).
        degrees: of freedom, (K,); None where all are Gaussian.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real_vector
    has_rsample = False

    def __init__(
        self, logits: Tensor, loc: Tensor, log_diagonal: Tensor, below: Tensor, degrees: Tensor | None
    ) -> None:
        self.logits, self.loc, self.log_diagonal, self.below, self.degrees = logits, loc, log_diagonal, below, degrees
        self.dim = loc.shape[-1]
        super().__init__(logits.shape[:-1], torch.Size((2 * self.dim,)), validate_args=False)

    def lower(self) -> Tensor | None:
        """P without its diagonal, (*batch, K, d, d) or (K, d, d); None where it is diagonal."""
        if not self.below.shape[-1]:
            return None
        row, column = torch.tril_indices(self.dim, self.dim, -1, device=self.below.device)
        square = self.below.new_zeros(*self.below.shape[:-1], self.dim, self.dim)
        square[..., row, column] = self.below
        return square

    def expand(self, batch_shape: Any, _instance: Any = None) -> MixtureGiven:
        """Copies of the same numbers in a batch of shape ``batch_shape``."""
        shape = torch.Size(batch_shape)
        own = len(self.batch_shape)
        # What is the same for all of a batch stays so.
        kept = self.below.ndim == 2
        numbers = (self.logits, self.loc, self.log_diagonal, *(() if kept else (self.below,)))
        logits, loc, log_diagonal, *below = (x.expand(*shape, *x.shape[own:]) for x in numbers)
        return MixtureGiven(logits, loc, log_diagonal, self.below if kept else below[0], self.degrees)

    def log_prob(self, x: Tensor) -> Tensor:
        """The log density, (*sample_shape, *batch, 2d) -> (*sample_shape, *batch)."""
        q, p = x.split(self.dim, dim=-1)
        away = q.unsqueeze(-2) - self.loc
        y, lower = self.log_diagonal.exp() * away, self.lower()
        if lower is not None:
            y = y + torch.einsum("...kij,...kj->...ki", lower, away)
        squared = (y**2).sum(-1)
        radial = log_normal(squared, self.dim) if self.degrees is None else log_student(squared, self.degrees, self.dim)
        positions = torch.logsumexp(radial + self.log_diagonal.sum(-1) + self.logits.log_softmax(-1), dim=-1)
        return positions + log_normal((p**2).sum(-1), self.dim)

    @torch.no_grad()
    def sample(self, sample_shape: Any = (), generator: torch.Generator | None = None) -> Tensor:
        """Draws, (*sample_shape, *batch, 2d)."""
        given = self.expand((*sample_shape, *self.batch_shape))
        shape = given.batch_shape
        chosen = torch.multinomial(
            given.logits.reshape(-1, given.logits.shape[-1]).softmax(-1), 1, generator=generator
        ).reshape(shape)
        like = self.loc.new_empty(2 * self.dim)
        q, p = phase_noise(chosen, self.degrees, like, generator).split(self.dim, dim=-1)
        pick = chosen[..., None, None].expand(*shape, 1, self.dim)
        centre, log_diagonal = (x.gather(-2, pick).squeeze(-2) for x in (given.loc, given.log_diagonal))
        factor, lower = torch.diag_embed(log_diagonal.exp()), given.lower()
        if lower is not None:
            square = pick.unsqueeze(-1).expand(*shape, 1, self.dim, self.dim)
            factor = factor + (lower[chosen] if lower.ndim == 3 else lower.gather(-3, square).squeeze(-3))
        moved = torch.linalg.solve_triangular(factor, q.unsqueeze(-1), upper=False).squeeze(-1)
        return torch.cat((centre + moved, p), dim=-1)
