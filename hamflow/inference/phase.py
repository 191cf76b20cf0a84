"""A density of q that a Hamiltonian flow of (q, p) makes from a Gaussian: what guides are made of."""

from __future__ import annotations

import math

import torch
from pyro.distributions.transforms import affine_autoregressive
from torch import Tensor, nn

from hamflow.densities import GaussianEncoder
from hamflow.errors import check_positive
from hamflow.flow import PhaseFlow, layered_hamiltonian
from hamflow.steps import LEAPFROG, Splitting


class PhaseMap(nn.Module):
    r"""A map from Gaussian noise to positions and momenta, with a law of the momentum given the position,

    .. math:: \varepsilon \sim N(0, I_{2d}), \qquad (y, p) = \Phi_B \circ A_B \circ \dots \circ \Phi_1 \circ A_1
              (\varepsilon), \qquad q = m + L y, \qquad r(p \mid q) .

    Every :math:`\Phi` is a flow of leapfrog steps, which preserves volume, and every A scales and shifts each coordinate,
    so the log-det is a number. Fresh, q is a Gaussian and p is independent of it.

    Args:
        dim: d, the number of positions, 1 or more.
        blocks: B.
        n_steps: leapfrog steps of a block.
        width: ridges of each potential.
        encoder_width: of the network of r.
        full: whether L is a triangle with all its entries, or diagonal.

    Raises:
        InputError: an argument is out of range.

    Example:
        >>> import torch
        >>> from hamflow.inference.phase import PhaseMap
        >>> q, p, log_det = PhaseMap(3)(torch.randn(5, 6))
        >>> q.shape, p.shape, log_det.shape
        (torch.Size([5, 3]), torch.Size([5, 3]), torch.Size([]))
    """

    def __init__(
        self,
        dim: int,
        *,
        blocks: int = 2,
        n_steps: int = 4,
        width: int = 32,
        encoder_width: int = 32,
        full: bool = True,
        layers: int = 2,
    ) -> None:
        super().__init__()
        for name, number in (("dim", dim), ("blocks", blocks), ("n_steps", n_steps), ("width", width)):
            check_positive(name, number, integer=True)
        self.dim = dim
        self.inner_loc = nn.Parameter(torch.zeros(blocks, 2 * dim))
        self.inner_log_scale = nn.Parameter(torch.zeros(blocks, 2 * dim))
        dt = 1 / n_steps
        self.flows = nn.ModuleList()
        for _ in range(blocks):
            energy = layered_hamiltonian(dim, n_steps=n_steps, width=width, dt=dt)
            self.flows.append(PhaseFlow(Splitting(energy, LEAPFROG), n_steps=n_steps, dt=dt))
        # With fresh potentials the steps are free motion for so long.
        self.time = float(blocks)
        self.outer = nn.ModuleList()
        for _ in range(layers if dim > 1 else 0):
            layer = affine_autoregressive(dim, hidden_dims=[max(2 * dim, 32)] * 2)
            last = layer.arn.layers[-1]
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            pass
            self.outer.append(layer)
        self.loc = nn.Parameter(torch.zeros(dim))
        self.log_scale = nn.Parameter(torch.zeros(dim))
        self.lower = nn.Parameter(torch.zeros(dim * (dim - 1) // 2)) if full and dim > 1 else None
        self.encoder = GaussianEncoder(dim, width=encoder_width, covariance="full" if dim <= 8 else "shared")

    def set_affine(self, loc: Tensor, scale_tril: Tensor) -> None:
        """Let q be Gaussian of this mean and triangular root of the covariance where the flow is fresh."""
        with torch.no_grad():
            self.loc.copy_(loc)
            scale = scale_tril.diagonal()
            self.log_scale.copy_(scale.log())
            if self.lower is not None:
                row, column = torch.tril_indices(self.dim, self.dim, -1)
                self.lower.copy_((scale_tril / scale[:, None])[row, column])

    def scale_tril(self) -> Tensor:
        """L, (d, d)."""
        unit = torch.eye(self.dim, dtype=self.loc.dtype, device=self.loc.device)
        if self.lower is not None:
            row, column = torch.tril_indices(self.dim, self.dim, -1, device=self.loc.device)
            unit = unit.index_put((row, column), self.lower)
        return self.log_scale.exp()[:, None] * unit

    def log_det(self) -> Tensor:
        """Of the whole map: of its scales, since the steps have none."""
        return self.inner_log_scale.sum() + self.log_scale.sum()

    def forward(self, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Positions and momenta (*batch, d) of noise (*batch, 2 d), and the log-det, a number."""
        # Back first, so that the whole starts as the identity.
        q, p = noise.chunk(2, -1)
        x = torch.cat((q - self.time * p, p), -1)
        for loc, log_scale, flow in zip(self.inner_loc, self.inner_log_scale, self.flows, strict=True):
            x = flow(loc + log_scale.exp() * x)
        y, p = x.chunk(2, -1)
        self.y = y
        log_det = self.log_det()
        for layer in self.outer:
            out = layer(y)
            log_det = log_det + layer.log_abs_det_jacobian(y, out)
            y = out
        return self.loc + y @ self.scale_tril().mT, p, log_det

    def inverse(self, q: Tensor, p: Tensor) -> Tensor:
        """The noise of positions and momenta, (*batch, d) twice -> (*batch, 2 d)."""
        x = torch.cat((self.standard(q), p), -1)
        for loc, log_scale, flow in reversed(list(zip(self.inner_loc, self.inner_log_scale, self.flows, strict=True))):
            x = (flow.inv(x) - loc) * (-log_scale).exp()
        first, p = x.chunk(2, -1)
        return torch.cat((first + self.time * p, p), -1)

    def standard(self, q: Tensor) -> Tensor:
        """Y of positions, (*batch, d) -> (*batch, d)."""
        centred = (q - self.loc).unsqueeze(-1)
        return torch.linalg.solve_triangular(self.scale_tril(), centred, upper=False).squeeze(-1)

    def log_joint(self, q: Tensor, p: Tensor) -> Tensor:
        """Log density of positions and momenta under the map, (*batch, d) twice -> (*batch,)."""
        noise = self.inverse(q, p)
        return -0.5 * noise.square().sum(-1) - self.dim * math.log(2 * math.pi) - self.log_det()

    def log_momentum(self, q: Tensor, p: Tensor) -> Tensor:
        """Log r(p | q), (*batch, d) twice -> (*batch,)."""
        y = self.y
        rows = y.reshape(-1, self.dim)
        return self.encoder(p.reshape(rows.shape), rows).reshape(y.shape[:-1])

    def draw_momentum(self, q: Tensor, particles: int) -> tuple[Tensor, Tensor]:
        """Momenta of r(p | q) and their log density, q (*batch, d) -> (particles, *batch, d) and (particles, *batch)."""
        rows = self.standard(q).reshape(-1, self.dim)
        p = self.encoder.rsample(rows, particles)
        return p.reshape(particles, *q.shape), self.encoder(p, rows).reshape(particles, *q.shape[:-1])
