"""Encoders f(p | q): the learned conditional density of the momentum given the position."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hamflow.densities.mixture import log_normal
from hamflow.densities.splines import TAIL_BOUND, start_as_identity
from hamflow.errors import check_choice, check_positive


class GaussianEncoder(nn.Module):
    r"""A Gaussian whose mean, scales and (in few dimensions) correlations depend on the position,

    .. math:: f(p \mid q) = \mathcal N\bigl(p;\ A q + m(q),\ L(q) L(q)^\top\bigr), \qquad
              L(q) = U(q) \operatorname{diag}\, e^{s(q)},

    with m and s from one network and U unit lower triangular. Standard normal when fresh. The linear part A q is exact
    where the flow is linear, so the network has only the rest to learn.

    Args:
        dim: d, the number of positions and of momenta.
        width: the width of the two hidden layers.
        covariance: ``"full"``: U depends on q, d (d - 1) / 2 outputs; ``"shared"``: U is one learned matrix;
            ``"diagonal"``: there is none.
        context_dim: columns of a context beside the position; q is then (n, d + context_dim) wherever it is asked for.
        gain: a factor of all that is learned; below 1 it is learned in smaller steps.

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

    def __init__(
        self, dim: int, *, width: int = 32, covariance: str = "full", context_dim: int = 0, gain: float = 1.0
    ) -> None:
        super().__init__()
        check_positive("dim", dim, integer=True)
        check_positive("gain", gain)
        self.gain = gain
        check_positive("width", width, integer=True)
        check_choice("covariance", covariance, ("full", "shared", "diagonal"))
        self.dim = dim
        self.covariance = covariance
        n_lower = dim * (dim - 1) // 2
        last = nn.Linear(width, 2 * dim + (n_lower if covariance == "full" else 0))
        self.linear = nn.Linear(dim + context_dim, dim, bias=False)
        for parameter in (last.weight, last.bias, self.linear.weight):
            nn.init.zeros_(parameter)
        self.network = nn.Sequential(
            nn.Linear(dim + context_dim, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), last
        )
        if covariance == "shared":
            self.lower = nn.Parameter(torch.zeros(n_lower))

    def rsample(self, q: Tensor, particles: int, generator: torch.Generator | None = None) -> Tensor:
        """Reparameterised draws, q of shape (n, d) -> (particles, n, d)."""
        return self.colour(draw_noise(q[..., : self.dim], particles, generator), q)[0]

    def rsample_scored(self, q: Tensor, particles: int) -> tuple[Tensor, Tensor]:
        """Draws (particles, n, d), and their log f (particles, n) whose derivatives see the draws and nothing else.

        What :func:`reparameterised_loss` asks for: parameters and q are held fixed in log f.
        """
        noise = draw_noise(q[..., : self.dim], particles)
        moments = self._moments(q)
        p, log_f = self._coloured(noise, moments)
        with torch.no_grad():
            # The derivative of log f by the draws, -L^-T noise, written out: the value is known from the noise.
            _, log_scale, lower = moments
            slope = noise * (-log_scale).exp()
            if lower is not None:
                columns = slope.movedim(0, -1) if lower.ndim == 3 else slope.reshape(-1, self.dim).mT
                solved = torch.linalg.solve_triangular(lower.mT, columns, upper=True, unitriangular=True)
                slope = solved.movedim(-1, 0) if lower.ndim == 3 else solved.mT.reshape(slope.shape)
        return p, log_f.detach() - (slope * (p - p.detach())).sum(-1)

    def forward(self, p: Tensor, q: Tensor) -> Tensor:
        """Log f(p | q), p of shape (*particles, n, d) and q of shape (n, d) -> (*particles, n)."""
        noise, log_det = self.whiten(p, q)
        return log_normal((noise**2).sum(-1), self.dim) + log_det

    def _moments(self, q: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        # Mean (n, d), log scale (n, d) and U of shape (n, d, d) or (d, d), where there is one.
        outputs = self.network(q)
        if self.gain != 1:
            outputs = self.gain * outputs
        loc, log_scale = outputs[:, : self.dim] + self.gain * self.linear(q), outputs[:, self.dim : 2 * self.dim]
        # A smooth floor and ceiling keep one wild row from overflowing the whole bound.
        log_scale = 6 * torch.tanh(log_scale / 6)
        if self.covariance == "diagonal":
            return loc, log_scale, None
        below = self.gain * self.lower if self.covariance == "shared" else outputs[:, 2 * self.dim :]
        row, column = torch.tril_indices(self.dim, self.dim, -1, device=q.device)
        unit = torch.eye(self.dim, dtype=q.dtype, device=q.device).expand(*below.shape[:-1], -1, -1)
        index = (row, column) if below.ndim == 1 else (torch.arange(len(q), device=q.device)[:, None], row, column)
        return loc, log_scale, unit.index_put(index, below)

    def colour(self, noise: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
        """Momenta A q + m(q) + L(q) noise and their log f, noise (particles, n, d) -> the same and (particles, n).

        Log f comes from the noise: of a momentum so large that its noise is lost in rounding it is right all the same.
        """
        return self._coloured(noise, self._moments(q))

    def _coloured(self, noise: Tensor, moments: tuple[Tensor, Tensor, Tensor | None]) -> tuple[Tensor, Tensor]:
        loc, log_scale, lower = moments
        scaled = log_scale.exp() * noise
        if lower is not None:
            scaled = scaled @ lower.mT if lower.ndim == 2 else torch.einsum("...nj,nij->...ni", scaled, lower)
        return loc + scaled, log_normal((noise**2).sum(-1), self.dim) - log_scale.sum(-1)

    def whiten(self, p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
        """The inverse of :meth:`colour` and its log-det, p of shape (*particles, n, d) -> the same and (n,)."""
        loc, log_scale, lower = self._moments(q)
        solve = {"upper": False, "unitriangular": True}
        centred = p - loc
        if lower is None:
            scaled = centred
        elif lower.ndim == 2:
            flat = torch.linalg.solve_triangular(lower, centred.reshape(-1, self.dim).mT, **solve)
            scaled = flat.mT.reshape(p.shape)
        else:
            # One factor a row, shared by all its particles: (n, d, particles).
            columns = centred.reshape(-1, len(q), self.dim).permute(1, 2, 0)
            columns = torch.linalg.solve_triangular(lower, columns, **solve)
            scaled = columns.permute(2, 0, 1).reshape(p.shape)
        return scaled * (-log_scale).exp(), -log_scale.sum(-1)


class FlowEncoder(nn.Module):
    r"""A :class:`GaussianEncoder` whose noise first passes a conditional spline flow: skewed or two-humped f(p | q).

    .. math:: p = \mu(q) + L(q)\, T_q(\varepsilon), \qquad \varepsilon \sim \mathcal N(0, I)

    Standard normal when fresh.

    Args:
        dim: d, the number of positions and of momenta.
        width: the width of the hidden layers.
        covariance: ``"full"`` or ``"shared"``, see :class:`GaussianEncoder`.
        transforms: the number of coupling layers.
        bins: the number of spline bins.
        context_dim: see :class:`GaussianEncoder`.

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
        self,
        dim: int,
        *,
        width: int = 32,
        covariance: str = "full",
        transforms: int = 2,
        bins: int = 8,
        context_dim: int = 0,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.gaussian = GaussianEncoder(dim, width=width, covariance=covariance, context_dim=context_dim)
        check_positive("transforms", transforms, integer=True)
        check_positive("bins", bins, integer=True)
        # A coupling layer needs two coordinates; with one, the autoregressive spline has nothing to iterate over.
        build = _autoregressive if dim == 1 else _coupling
        self.transforms = nn.ModuleList(
            build(dim, width, bins, seen=dim + context_dim, first=k % 2) for k in range(transforms)
        )

    def rsample(self, q: Tensor, particles: int, generator: torch.Generator | None = None) -> Tensor:
        """Reparameterised draws, q of shape (n, d) -> (particles, n, d)."""
        return self.colour(draw_noise(q[..., : self.dim], particles, generator), q)[0]

    def rsample_scored(self, q: Tensor, particles: int) -> tuple[Tensor, Tensor]:
        """Draws, and their log f whose derivatives see nothing else, see :meth:`GaussianEncoder.rsample_scored`."""
        p = self.rsample(q, particles)
        frozen = {name: value.detach() for name, value in self.named_parameters()}
        log_f: Tensor = torch.func.functional_call(self, frozen, (p, q.detach()))
        return p, log_f

    def colour(self, noise: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
        """Momenta mu(q) + L(q) T_q(noise) and their log f, noise (particles, n, d) -> the same and (particles, n)."""
        context, flat = q.expand(*noise.shape[:-1], -1).flatten(0, 1), noise.flatten(0, 1)
        log_det = flat.new_zeros(len(flat))
        for transform in self.transforms:
            flat, step = transform(flat, context)
            log_det = log_det + step
        warped, log_det = flat.reshape(noise.shape), log_det.reshape(noise.shape[:-1])
        p, log_gaussian = self.gaussian.colour(warped, q)
        # The Gaussian's own log f is that of the warped noise: the noise that was drawn takes its place.
        squares = (noise**2).sum(-1) - (warped**2).sum(-1)
        return p, log_gaussian - 0.5 * squares - log_det

    def forward(self, p: Tensor, q: Tensor) -> Tensor:
        """Log f(p | q), p of shape (*particles, n, d) and q of shape (n, d) -> (*particles, n)."""
        noise, gaussian_log_det = self.gaussian.whiten(p, q)
        flat, context = (x.expand(*p.shape[:-1], -1).reshape(-1, x.shape[-1]) for x in (noise, q))
        log_det = flat.new_zeros(len(flat))
        for transform in reversed(list(self.transforms)):
            flat, step = transform.inverse(flat, context)  # type: ignore[operator]
            log_det = log_det + step
        return (log_normal((flat**2).sum(-1), p.shape[-1]) + log_det).reshape(p.shape[:-1]) + gaussian_log_det


def draw_noise(q: Tensor, particles: int, generator: torch.Generator | None = None) -> Tensor:
    """Standard normals of shape (particles, n, d) for positions q of shape (n, d).

    Example:
        >>> import torch
        >>> from hamflow.densities import draw_noise
        >>> draw_noise(torch.zeros(5, 2), particles=3).shape
        torch.Size([3, 5, 2])
    """
    return torch.randn((particles, *q.shape), dtype=q.dtype, device=q.device, generator=generator)


# nflows is imported where it is used, so that `import hamflow` does not wait for it.


def _coupling(dim: int, width: int, bins: int, *, seen: int, first: int) -> nn.Module:
    from nflows.nn.nets import ResidualNet
    from nflows.transforms import PiecewiseRationalQuadraticCouplingTransform

    def network(inputs: int, outputs: int) -> nn.Module:
        made = ResidualNet(inputs, outputs, width, context_features=seen, num_blocks=1)
        start_as_identity(made.final_layer, bins)
        return made

    mask = torch.tensor([1 if (i + first) % 2 else -1 for i in range(dim)])
    return PiecewiseRationalQuadraticCouplingTransform(
        mask, network, num_bins=bins, tails="linear", tail_bound=TAIL_BOUND
    )


def _autoregressive(dim: int, width: int, bins: int, *, seen: int, first: int) -> nn.Module:
    from nflows.transforms import MaskedPiecewiseRationalQuadraticAutoregressiveTransform

    made = MaskedPiecewiseRationalQuadraticAutoregressiveTransform(
        dim, width, context_features=seen, num_blocks=1, num_bins=bins, tails="linear", tail_bound=TAIL_BOUND
    )
    start_as_identity(made.autoregressive_net.final_layer, bins)
    return made
