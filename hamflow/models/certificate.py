"""The certificate: how far a bound of NHF lies from the truth."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from pyro.distributions.torch_transform import ComposeTransformModule
from torch import Tensor

from hamflow.densities import (
    Peaks,
    Quadrature,
    effective_sample_size,
    find_peaks,
    importance_bound,
    integrate_momentum,
    pareto_k,
)
from hamflow.errors import InputError, check_positive, check_seed

if TYPE_CHECKING:
    from hamflow.models.nhf import NHF


_FEWEST = 2  # one weight has no spread
_STARTS = 4000  # samples of the model from which the search for peaks starts
_CHECKS = 256  # particles of each of the two proposals that check the quadrature
_SIGNIFICANT = 5.0  # standard errors
_IMPOSSIBLE = 1e6
_SLACK = 1e-3  # relative, for what two settled figures may differ by


@dataclass(frozen=True)
class Certificate:
    r"""What is known about log p(x) of a fitted :class:`hamflow.NHF`.

    The first group is about the given rows, (n,). The second is about samples of the model itself: their momentum is an
    exact draw from p(p | q), so one can bound from above as well,

    .. math:: \mathbb E\,L_K \le \mathbb E \log p(q) \le \mathbb E\,U_K, \qquad
              U_K = \log \tfrac1K \Bigl(w(p^*) + \sum_{k=2}^K w(p_k)\Bigr),

    with :math:`p^*` the sample's own momentum and :math:`p_k \sim f(\cdot \mid q)`. K = 1 is ELBO and EUBO.

    Attributes:
        lower: the K-particle lower bound on log p(x), (n,).
        elbo: the single-sample bound, (n,).
        standard_error: the Monte Carlo error of ``lower`` by the delta method, (n,).
        pareto_k: the tail index of the weights, (n,); above 0.7 the bound is loose and the error understated.
        effective_sample_size: of the K weights, (n,).
        exact: log p(x) by quadrature over the momentum, (n,), NaN where it did not settle or importance sampling found
            more; None where dim > 2 or where
            it was not asked for.
        model_elbo, model_lower, model_upper, model_eubo: the four bounds on log p of the model's samples, (m,).
        model_standard_error: the Monte Carlo error of ``model_lower``, and nearly that of ``model_upper``, (m,).
        model_exact: log p of the model's samples by quadrature, (m,), or None where dim > 2.

    Example:
        >>> import torch, hamflow as hf
        >>> flow = hf.NHF(dim=1, n_steps=2, width=4).eval()
        >>> certificate = flow.certificate(torch.zeros(3, 1), particles=100, n_model=50)
        >>> bool((certificate.exact - certificate.lower).abs().max() < 0.01), certificate.gap < 0.01
        (True, True)
    """

    lower: Tensor
    elbo: Tensor
    standard_error: Tensor
    pareto_k: Tensor
    effective_sample_size: Tensor
    exact: Tensor | None
    model_elbo: Tensor
    model_lower: Tensor
    model_upper: Tensor
    model_eubo: Tensor
    model_standard_error: Tensor
    model_exact: Tensor | None

    @property
    def gap(self) -> float:
        """The mean width of the bracket on the model's samples, in nats: the bound's looseness, measured."""
        return float((self.model_upper - self.model_lower).mean())

    def __str__(self) -> str:
        # All figures of a group are means over the same points, or they could not be compared.
        rows = _finite(self.lower, self.elbo, self.exact)
        samples = _finite(self.model_lower, self.model_elbo, self.model_upper, self.model_eubo, self.model_exact)

        def mean(values: Tensor, kept: Tensor) -> str:
            return f"{float(values[kept].mean()):.4f}"

        def remarks(values: Tensor, errors: Tensor, exact: Tensor | None, kept: Tensor) -> list[str]:
            n, left_out = int(kept.sum()), int((~kept).sum())
            # The points are the same for all figures, so what the particles add is the error of their differences.
            particles = float((errors[kept].double() ** 2).nansum().sqrt() / max(n, 1))
            lines = [f"+- {particles:.4f} by the particles: a bound may pass the exact mean by one or two of these"]
            if n > 1:
                lines.append(
                    f"+- {float(values[kept].std() / n**0.5):.4f} by the choice of the points, alike for all figures"
                )
            if exact is not None:
                lines.insert(0, f"exact, by quadrature {mean(exact, kept)}")
            if left_out:
                lines.append(f"without {left_out} of {len(kept)}: a bound not finite or no exact value")
            return [f"               {line}" for line in lines]

        lines = [
            f"rows:          lower bound {mean(self.lower, rows)} nats (ELBO {mean(self.elbo, rows)})",
            *remarks(self.lower, self.standard_error, self.exact, rows),
            f"               Pareto k < 0.7 on {100 * float((self.pareto_k < 0.7).double().mean()):.1f} % of rows, "
            f"effective sample size {float(self.effective_sample_size.nanmedian()):.0f} (median)",
            f"model samples: {mean(self.model_lower, samples)} <= E log p <= {mean(self.model_upper, samples)} "
            f"(ELBO {mean(self.model_elbo, samples)}, EUBO {mean(self.model_eubo, samples)})",
            *remarks(self.model_lower, self.model_standard_error, self.model_exact, samples),
        ]
        return "\n".join(lines)


def _finite(*columns: Tensor | None) -> Tensor:
    # Which points have a number in all columns that there are.
    return torch.stack([column.isfinite() for column in columns if column is not None]).all(0)


def _error(log_weights: Tensor, bound: Tensor) -> Tensor:
    # Of the logarithm of the mean weight, by the delta method.
    return (log_weights - bound).exp().std(0) / len(log_weights) ** 0.5


@torch.no_grad()
def certify(model: NHF, rows: Tensor, *, particles: int, n_model: int, exact: bool, seed: int) -> Certificate:
    """The :class:`Certificate` of a model on rows (n, dim); see :meth:`hamflow.NHF.certificate`.

    Args:
        model: the fitted model.
        rows: the rows, (n, dim), on the model's device.
        particles: K, at least 2; a hundred or more for the tail of the weights to show.
        n_model: m, how many samples of the model to bracket.
        exact: whether to integrate by quadrature where there are one or two columns.
        seed: for the particles and the samples.
    """
    check_positive("particles", particles, integer=True)
    check_positive("n_model", n_model, integer=True)
    check_seed("seed", seed)
    if particles < _FEWEST:
        raise InputError(f"particles = {particles}, expected at least {_FEWEST} to compare their weights")
    for_rows, for_samples, for_others = (int(s) for s in np.random.SeedSequence(int(seed)).generate_state(3))
    log_weights = model.log_weights(rows, particles=particles, seed=for_rows)
    lower = importance_bound(log_weights)
    q, p = model.sample_joint(n_model, seed=for_samples)
    own = model.log_joint(q, p) - _log_encoder(model, q, p)
    others = model.log_weights(q, particles=particles, seed=for_others)
    below = importance_bound(others)
    upper = importance_bound(torch.cat((own.unsqueeze(0), others[1:])))
    integrate = exact and model.dim <= 2
    return Certificate(
        lower=lower,
        elbo=log_weights.mean(0),
        standard_error=_error(log_weights, lower),
        pareto_k=pareto_k(log_weights),
        effective_sample_size=effective_sample_size(log_weights),
        exact=exact_log_prob(model, rows).log_prob if integrate else None,
        model_elbo=others.mean(0),
        model_lower=below,
        model_upper=upper,
        model_eubo=own,
        model_standard_error=_error(others, below),
        model_exact=exact_log_prob(model, q).log_prob if integrate else None,
    )


def _log_encoder(model: NHF, q: Tensor, p: Tensor) -> Tensor:
    # Log f(p | q) in data coordinates. The lifts carry p along: back to the coordinates in which the encoder speaks.
    z, inner = ComposeTransformModule(model.lifts()).inv(torch.cat((q, p), dim=-1)).chunk(2, dim=-1)
    log_f: Tensor = model.encoder(inner, z) - model.standardise(q)[1]
    return log_f


def exact_log_prob(model: NHF, rows: Tensor) -> Quadrature:
    """Log p(x) by quadrature over the momentum, rows (n, dim) with dim 1 or 2, in float64.

    NaN where halving the cells did not settle it, and where importance sampling finds more mass than the quadrature.
    """
    double = copy.deepcopy(model).double()
    z, log_det = double.standardise(rows.double())
    generator = torch.Generator(rows.device).manual_seed(0)
    samples = double.flow(double.drift(double.base.sample(20_000, generator)))
    # Momenta of the model's samples show where the mass can be; four times their spread leaves nothing outside.
    p = samples.chunk(2, dim=-1)[1]
    centre, half = (p.max(0).values + p.min(0).values) / 2, (p.max(0).values - p.min(0).values)
    peaks = find_peaks(double.base, lambda x: double.drift.inv(double.flow.inv(x)), z, samples[:_STARTS])
    joint = double.log_joint_standardised
    result = integrate_momentum(joint, z, centre - 2 * half, centre + 2 * half, peaks=peaks)
    missed = _found_elsewhere(double, z, peaks, result.log_prob, generator)
    return Quadrature((result.log_prob + log_det).masked_fill(missed, torch.nan), result.error)


def _found_elsewhere(double: NHF, z: Tensor, peaks: Peaks, log_prob: Tensor, generator: torch.Generator) -> Tensor:
    # Where an estimate that knows nothing of the grid is significantly larger. Half of its particles come from the
    # encoder and half from the peaks; each is weighted by the density of the two together.
    p = torch.cat((double.encoder.rsample(z, _CHECKS, generator), peaks.sample(_CHECKS, generator)))
    log_proposal = torch.logaddexp(double.encoder(p, z), peaks.log_prob(p)) - math.log(2)
    log_joint = double.log_joint_standardised(z, p).nan_to_num(nan=-torch.inf)
    # Capped so that neither the mean nor the spread overflows.
    relative = (log_joint - log_proposal - log_prob).clamp(max=300.0).exp()
    excess, error = relative.mean(0) - 1, relative.std(0) / len(p) ** 0.5
    # A positive estimate of mean one exceeds c with a probability of 1 / c at most, however it is distributed.
    return (excess > _SIGNIFICANT * error + _SLACK) | (excess > _IMPOSSIBLE)
