"""Encoders f(p | q): the learned conditional density of the momentum given the position."""

from __future__ import annotations

import math

import torch
from nflows.nn.nets import ResidualNet
from nflows.transforms import (
    MaskedPiecewiseRationalQuadraticAutoregressiveTransform,
    PiecewiseRationalQuadraticCouplingTransform,
)
from torch import Tensor, nn

from hamflow.errors import check_choice, check_positive


class GaussianEncoder(nn.Module):
    r"""A Gaussian :math:`f(p \mid q) = \mathcal N\bigl(p;\ \mu(q),\ L(q) L(q)^\top\bigr)`, standard normal when fresh.

    Args:
        dim: d, the number of positions and of momenta.
        width: the width of the two hidden layers.
        covariance: ``"full"`` (L lower triangular) or ``"diagonal"``.

    Raises:
        InputError: an argument is out of range.

    Example:
        >>> import torch
        >>> from hamflow.densities import GaussianEncoder
        >>> encoder, q = GaussianEncoder(2), torch.randn(5, 2)
        >>> p = encoder.rsample(q, particles=3)
        >>> p.shape, encoder(p, q).shape
        (torch.Size([3, 5, 2]), torch.Size([3, 5]))
    """

    def __init__(self, dim: int, *, width: int = 32, covariance: str = "full") -> None:
        super().__init__()
        check_positive("dim", dim, integer=True)
        check_positive("width", width, integer=True)
        check_choice("covariance", covariance, ("full", "diagonal"))
        self.dim = dim
        self.covariance = covariance
        outputs = 2 * dim + (dim * (dim - 1) // 2 if covariance == "full" else 0)
        last = nn.Linear(width, outputs)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.network = nn.Sequential(nn.Linear(dim, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), last)

    def rsample(self, q: Tensor, particles: int, generator: torch.Generator | None = None) -> Tensor:
        """Reparameterised draws, q of shape (n, d) -> (particles, n, d)."""
        shape = (particles, *q.shape)
        noise = torch.randn(shape, dtype=q.dtype, device=q.device, generator=generator)
        return self._colour(noise, *self._moments(q))

    def forward(self, p: Tensor, q: Tensor) -> Tensor:
        """log f(p | q), p of shape (*particles, n, d) and q of shape (n, d) -> (*particles, n)."""
        loc, log_scale, lower = self._moments(q)
        noise = self._whiten(p, loc, log_scale, lower)
        return _standard_normal(noise) - log_scale.sum(-1)

    def _moments(self, q: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        loc, log_scale, rest = self.network(q).split((self.dim, self.dim, self._n_lower), dim=-1)
        # A smooth floor and ceiling keep one wild row from overflowing the whole bound.
        log_scale = 6 * torch.tanh(log_scale / 6)
        if self.covariance == "diagonal":
            return loc, log_scale, None
        row, column = torch.tril_indices(self.dim, self.dim, -1, device=q.device)
        lower = torch.diag_embed(torch.ones_like(loc))
        lower = lower.index_put((torch.arange(len(q), device=q.device).unsqueeze(-1), row, column), rest)
        return loc, log_scale, lower

    @property
    def _n_lower(self) -> int:
        return self.dim * (self.dim - 1) // 2 if self.covariance == "full" else 0

    @staticmethod
    def _colour(noise: Tensor, loc: Tensor, log_scale: Tensor, lower: Tensor | None) -> Tensor:
        # L = U diag(s), U unit lower triangular.
        scaled = log_scale.exp() * noise
        return loc + (scaled if lower is None else (lower @ scaled.unsqueeze(-1)).squeeze(-1))

    @staticmethod
    def _whiten(p: Tensor, loc: Tensor, log_scale: Tensor, lower: Tensor | None) -> Tensor:
        centred = p - loc
        if lower is not None:
            centred = torch.linalg.solve_triangular(
                lower, centred.unsqueeze(-1), upper=False, unitriangular=True
            ).squeeze(-1)
        return centred * (-log_scale).exp()


class FlowEncoder(GaussianEncoder):
    r"""A Gaussian encoder whose noise first passes a conditional spline flow: skewed, heavy or two-humped f(p | q).

    .. math:: p = \mu(q) + L(q)\, T_q(\varepsilon), \qquad \varepsilon \sim \mathcal N(0, I)

    Args:
        dim: d, the number of positions and of momenta.
        width: the width of the hidden layers.
        covariance: ``"full"`` or ``"diagonal"``.
        transforms: the number of coupling layers.
        bins: the number of spline bins.

    Raises:
        InputError: an argument is out of range.

    References:
        Durkan et al. (2019), Neural Spline Flows, arXiv 1906.04032.

    Example:
        >>> import torch
        >>> from hamflow.densities import FlowEncoder
        >>> FlowEncoder(2, width=16).rsample(torch.randn(5, 2), particles=3).shape
        torch.Size([3, 5, 2])
    """

    def __init__(
        self, dim: int, *, width: int = 32, covariance: str = "full", transforms: int = 2, bins: int = 8
    ) -> None:
        super().__init__(dim, width=width, covariance=covariance)
        check_positive("transforms", transforms, integer=True)
        check_positive("bins", bins, integer=True)
        # A coupling layer needs two coordinates; with one, the autoregressive spline has nothing to iterate over.
        build = _autoregressive if dim == 1 else _coupling
        self.transforms = nn.ModuleList(build(dim, width, bins, first=k % 2) for k in range(transforms))

    def rsample(self, q: Tensor, particles: int, generator: torch.Generator | None = None) -> Tensor:
        """Reparameterised draws, q of shape (n, d) -> (particles, n, d)."""
        shape = (particles, *q.shape)
        noise = torch.randn(shape, dtype=q.dtype, device=q.device, generator=generator)
        context = q.expand(shape).reshape(-1, self.dim)
        flat = noise.reshape(-1, self.dim)
        for transform in self.transforms:
            flat, _ = transform(flat, context)
        return self._colour(flat.reshape(shape), *self._moments(q))

    def forward(self, p: Tensor, q: Tensor) -> Tensor:
        """log f(p | q), p of shape (*particles, n, d) and q of shape (n, d) -> (*particles, n)."""
        loc, log_scale, lower = self._moments(q)
        flat = self._whiten(p, loc, log_scale, lower).reshape(-1, self.dim)
        context = q.expand(p.shape).reshape(-1, self.dim)
        log_det = flat.new_zeros(len(flat))
        for transform in reversed(list(self.transforms)):
            flat, step = transform.inverse(flat, context)
            log_det = log_det + step
        return (_standard_normal(flat) + log_det).reshape(p.shape[:-1]) - log_scale.sum(-1)


def _standard_normal(noise: Tensor) -> Tensor:
    return -0.5 * (noise**2).sum(-1) - 0.5 * noise.shape[-1] * math.log(2 * math.pi)


def _coupling(dim: int, width: int, bins: int, *, first: int) -> nn.Module:
    mask = torch.tensor([1 if (i + first) % 2 else -1 for i in range(dim)])
    return PiecewiseRationalQuadraticCouplingTransform(
        mask,
        lambda inputs, outputs: ResidualNet(inputs, outputs, width, context_features=dim, num_blocks=1),
        num_bins=bins,
        tails="linear",
        tail_bound=5.0,
    )


def _autoregressive(dim: int, width: int, bins: int, *, first: int) -> nn.Module:
    return MaskedPiecewiseRationalQuadraticAutoregressiveTransform(
        dim, width, context_features=dim, num_blocks=1, num_bins=bins, tails="linear", tail_bound=5.0
    )
