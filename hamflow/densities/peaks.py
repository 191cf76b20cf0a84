"""Where the momentum's mass lies at given positions: one peak for each component of the base, seen through a flow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from hamflow.densities.mixture import PhaseMixture, log_student

_STARTS = 16  # climbs for each position, shared among the components, but two for each at least
_CLIMBS = 12  # steps of a climb
_DEPTH = 30.0  # log units under the largest peak beyond which a peak counts for nothing


@dataclass(frozen=True)
class Peaks:
    r"""Gaussians :math:`m_j\, \mathcal N(p;\ \mu_j, (R_j^\top R_j)^{-1})` that stand for the peaks of p(q, p) in p.

    Attributes:
        loc: (n, m, d).
        factor: R, upper triangular, (n, m, d, d).
        log_mass: log m up to a constant of each position, (n, m); minus infinity where there is no peak.

    Example:
        >>> import torch
        >>> from hamflow.densities import Peaks
        >>> peaks = Peaks(torch.zeros(5, 1, 2), torch.eye(2).expand(5, 1, 2, 2), torch.zeros(5, 1))
        >>> p = peaks.sample(3)
        >>> p.shape, peaks.log_prob(p).shape
        (torch.Size([3, 5, 2]), torch.Size([3, 5]))
    """

    loc: Tensor
    factor: Tensor
    log_mass: Tensor

    def log_prob(self, p: Tensor) -> Tensor:
        """The log density of their normalised mixture, p of shape (*particles, n, d) -> (*particles, n)."""
        precision = self.factor.mT @ self.factor
        each = MultivariateNormal(self.loc, precision_matrix=precision, validate_args=False)
        weights = Categorical(logits=self.log_mass, validate_args=False)
        log_prob: Tensor = MixtureSameFamily(weights, each, validate_args=False).log_prob(p)
        return log_prob

    def sample(self, particles: int, generator: torch.Generator | None = None) -> Tensor:
        """Draws from the mixture, (particles, n, d)."""
        chosen = torch.multinomial(self.log_mass.softmax(-1), particles, replacement=True, generator=generator)
        rows = torch.arange(len(chosen), device=chosen.device).unsqueeze(-1)
        noise = torch.randn(*chosen.shape, self.loc.shape[-1], 1, dtype=self.loc.dtype, device=self.loc.device,
                            generator=generator)  # fmt: skip
        spread = torch.linalg.solve_triangular(self.factor[rows, chosen], noise, upper=True).squeeze(-1)
        return (self.loc[rows, chosen] + spread).movedim(1, 0)


@torch.no_grad()
def find_peaks(base: PhaseMixture, pull_back: Callable[[Tensor], Tensor], q: Tensor, samples: Tensor) -> Peaks:
    r"""The peaks in p of each component :math:`c_k` of :math:`p(q, p) = \sum_k c_k\bigl(\Phi^{-1}(q, p)\bigr)`.

    A component is a peak of known shape in the coordinates of the base, so a damped Gauss-Newton climb finds its top
    from any start nearby, and the curvature there its width, however narrow, even where a broader one covers it.

    Args:
        base: the mixture, in the precision of ``q``.
        pull_back: :math:`\Phi^{-1}`, (m, 2d) -> (m, 2d).
        q: the positions, (n, d).
        samples: draws of (q, p), (N, 2d), whose nearest in q are where the climbs start.

    References:
        Marquardt (1963), SIAM Journal on Applied Mathematics 11, 431.

    Example:
        >>> import torch
        >>> from hamflow.densities import PhaseMixture, find_peaks
        >>> base = PhaseMixture(1)
        >>> peaks = find_peaks(base, lambda x: x, torch.zeros(3, 1), base.sample(100))
        >>> bool(peaks.loc.abs().max() < 1e-3)
        True
    """
    n, d = q.shape
    each = max(2, _STARTS // base.components)
    p = torch.cat(_starts(base, pull_back(samples), samples, q, each), dim=1)  # (n, components * each, d)
    component = torch.arange(base.components, device=q.device).repeat_interleave(each).repeat(n)
    climb = _Climb(base, pull_back, q.repeat_interleave(p.shape[1], 0), component)
    start = p.reshape(-1, d)
    p, height, curvature = climb.run(start)
    factor, failed = torch.linalg.cholesky_ex(curvature)
    log_mass = height - factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    lost = (failed != 0) | ~log_mass.isfinite() | ~p.isfinite().all(-1)
    unit = torch.eye(d, dtype=q.dtype, device=q.device)
    log_mass = torch.where(lost, -torch.inf, log_mass).reshape(n, -1)
    log_mass = log_mass.where(log_mass >= log_mass.max(-1, keepdim=True).values - _DEPTH, -torch.inf)
    # A sampler needs one peak at least: where no climb arrived, the unit balls around the starts.
    log_mass = torch.where((log_mass == -torch.inf).all(-1, keepdim=True), 0.0, log_mass)
    p = torch.where(lost[:, None], start, p)
    factor = torch.where(lost[:, None, None], unit, factor.mT)
    return Peaks(p.reshape(n, -1, d), factor.reshape(n, -1, d, d), log_mass)


def _starts(base: PhaseMixture, origins: Tensor, samples: Tensor, q: Tensor, each: int) -> list[Tensor]:
    # For each component the momenta (n, each, d) of those of its samples that lie nearest to q.
    k = torch.arange(base.components, device=q.device)
    nearest_component = _log_component(base, origins.unsqueeze(1), k)[1].argmax(-1)
    starts = []
    for index in range(base.components):
        own = samples[nearest_component == index]
        positions, momenta = (own if len(own) else samples).chunk(2, dim=-1)
        order = torch.cdist(q, positions).topk(min(each, len(positions)), largest=False).indices
        starts.append(momenta[order[:, torch.arange(each) % order.shape[1]]])
    return starts


def _log_component(base: PhaseMixture, x: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    # The whitened distance y of shape (..., 2d) from component k and the log density up to a constant, (...).
    y = (base.precision_factor()[k] @ (x - base.loc[k]).unsqueeze(-1)).squeeze(-1)
    y_q, y_p = y.square().chunk(2, dim=-1)
    constant = (base.logits.log_softmax(-1) + base.log_diagonal.sum(-1))[k]
    return y, constant + log_student(y_q.sum(-1), base.degrees()[k], base.dim) - 0.5 * y_p.sum(-1)


@dataclass(frozen=True)
class _Climb:
    # One climb a row: component k of the base over the momentum at q (m, d), k of shape (m,).
    base: PhaseMixture
    pull_back: Callable[[Tensor], Tensor]
    q: Tensor
    k: Tensor

    def run(self, p: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # The top (m, d), the log density there (m,) and minus its Gauss-Newton Hessian (m, d, d).
        height, slope, curvature = self._model(p)
        damping = torch.full_like(height, 1e-3)
        for _ in range(_CLIMBS):
            damped = curvature + torch.diag_embed(damping.unsqueeze(-1) * curvature.diagonal(dim1=-2, dim2=-1))
            trial = p + torch.linalg.solve_ex(damped, slope)[0]
            found = self._model(trial)
            better = found[0] >= height
            damping = torch.where(better, damping / 10, damping * 10)
            p = torch.where(better[:, None], trial, p)
            height = torch.where(better, found[0], height)
            slope = torch.where(better[:, None], found[1], slope)
            curvature = torch.where(better[:, None, None], found[2], curvature)
        return p, height, curvature

    def _model(self, p: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # Height, slope and curvature of the component's log density; the Student part by its reweighted squares.
        d = p.shape[-1]
        step = torch.finfo(p.dtype).eps ** 0.5 * (1 + p.abs())
        nodes = torch.cat((p.unsqueeze(1), p.unsqueeze(1) + torch.diag_embed(step)), dim=1)
        q = self.q.unsqueeze(1).expand_as(nodes)
        x = self.pull_back(torch.cat((q, nodes), dim=-1).flatten(0, 1)).unflatten(0, nodes.shape[:2])
        y, height = _log_component(self.base, x, self.k.unsqueeze(1))
        jacobian = (y[:, 1:] - y[:, :1]).mT / step.unsqueeze(-2)
        centre, degrees = y[:, 0], self.base.degrees()[self.k]
        weight = torch.ones_like(centre)
        weight[:, :d] = ((degrees + d) / (degrees + centre[:, :d].square().sum(-1))).unsqueeze(-1)
        weighted = jacobian.mT * weight.unsqueeze(-2)
        top = height[:, 0].nan_to_num(nan=-torch.inf)
        return top, -(weighted @ centre.unsqueeze(-1)).squeeze(-1), weighted @ jacobian
