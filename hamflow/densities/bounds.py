"""Bounds on a log density from importance weights, and how far they can be trusted."""

from __future__ import annotations

import math
import warnings

import numpy as np
import torch
from torch import Tensor


def importance_bound(log_weights: Tensor) -> Tensor:
    r"""The importance-weighted bound, in expectation a lower bound on log p,

    .. math:: L_K = \log \tfrac1K \sum_{k=1}^K w_k, \qquad
              \mathbb E\, L_1 \le \mathbb E\, L_K \le \log p.

    Args:
        log_weights: log w of shape (K, n); K = 1 gives the ELBO's integrand.

    Returns:
        (n,).

    References:
        Burda et al. (2016), Importance Weighted Autoencoders, arXiv 1509.00519.

    Example:
        >>> import torch
        >>> from hamflow.densities import importance_bound
        >>> importance_bound(torch.tensor([[1.0], [3.0]]).log()).exp().round().item()
        2.0
    """
    return torch.logsumexp(log_weights, dim=0) - math.log(len(log_weights))


def reparameterised_loss(log_weights: Tensor, draws: Tensor) -> Tensor:
    r"""Minus the mean importance-weighted bound, with the doubly reparameterised gradient for the encoder.

    The value is :math:`-\frac1n \sum_i L_K(x_i)`. Its gradient weights the model's part of each particle by the
    normalised weight :math:`\tilde w_k` and what reaches the encoder through the draw by :math:`\tilde w_k^2`: an
    unbiased gradient whose signal does not vanish as K grows.

    Args:
        log_weights: log w of shape (K, n), where the encoder's density was evaluated without a graph to its
            parameters.
        draws: the reparameterised draws of shape (K, n, d) from which they were computed.

    Returns:
        A scalar.

    References:
        Tucker et al. (2019), Doubly Reparameterized Gradient Estimators, arXiv 1810.04152.

    Example:
        >>> import torch
        >>> from hamflow.densities import GaussianEncoder, reparameterised_loss
        >>> encoder, q = GaussianEncoder(2), torch.randn(5, 2)
        >>> p, log_f = encoder.rsample_scored(q, particles=3)
        >>> loss = reparameterised_loss(-((p - q.unsqueeze(0)) ** 2).sum(-1) - log_f, p)
        >>> loss.backward()
        >>> encoder.linear.weight.grad.shape
        torch.Size([2, 2])
    """
    weights = log_weights.detach().softmax(0)
    if draws.requires_grad:
        draws.register_hook(lambda gradient: gradient * weights.unsqueeze(-1))
    surrogate = -(weights * log_weights).sum(0).mean()
    value = -importance_bound(log_weights.detach()).mean()
    return value + surrogate - surrogate.detach()


def effective_sample_size(log_weights: Tensor) -> Tensor:
    r""":math:`1 / \sum_k \tilde w_k^2` of normalised weights, log_weights (K, n) -> (n,), between 1 and K.

    Example:
        >>> import torch
        >>> from hamflow.densities import effective_sample_size
        >>> effective_sample_size(torch.tensor([[0.5], [0.5], [0.0]]).log()).round().item()
        2.0
    """
    return 1 / (log_weights.softmax(0) ** 2).sum(0)


#: Of which the largest fifth are enough for a tail.
_FEWEST = 30


def pareto_k(log_weights: Tensor) -> Tensor:
    """The tail index of the importance weights, log_weights (K, n) -> (n,); above 0.7 they cannot be trusted.

    Minus infinity, the limit of tails that end ever more abruptly, where the largest weights are equal up to rounding
    (their logarithms within the root of the precision of their type): a tail fitted to rounding would say anything.
    Infinity where the weights are no numbers, all zero, fewer than 30, or nothing like a tail.

    References:
        Vehtari et al. (2024), Pareto Smoothed Importance Sampling, arXiv 1507.02646.

    Example:
        >>> import torch
        >>> from hamflow.densities import pareto_k
        >>> uniform = torch.rand(10_000, 1, generator=torch.Generator().manual_seed(0))
        >>> pareto_k(-uniform.log()).round().item(), pareto_k(torch.zeros(100, 1)).item()
        (1.0, -inf)
    """
    particles = len(log_weights)
    # As many as the fit looks at, and not so few that two of them agree by chance.
    tail = min(particles, 1 + max(5, math.ceil(min(particles / 5, 3 * particles**0.5))))
    largest = log_weights.detach().topk(tail, dim=0).values
    rounding = torch.finfo(log_weights.dtype).eps ** 0.5 * largest[0].abs().clamp(min=1)
    usable = largest[0].isfinite() & ~log_weights.isnan().any(0)
    level = usable & (largest[0] - largest[-1] <= rounding)
    k = torch.where(level, -torch.inf, torch.inf).to(log_weights)
    fitted = usable & ~level & (particles >= _FEWEST)
    if fitted.any():
        columns = log_weights.detach()[:, fitted].double().cpu().numpy().T
        k[fitted] = torch.as_tensor(_psis(np.ascontiguousarray(columns))).to(k)
    return k


def _psis(log_weights: np.ndarray) -> np.ndarray:
    # ArviZ moved the function in version 1.
    try:
        from arviz_stats.base import array_stats
    except ImportError:
        # ArviZ 0.23 announces its refactoring at import, which says nothing to who asked for a certificate.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            import arviz
        return np.atleast_1d(np.asarray(arviz.psislw(log_weights)[1]))
    # Version 1 takes log densities, whose weights are their inverses.
    found = array_stats.psislw(-log_weights, r_eff=1, axis=-1)[1]
    return np.nan_to_num(np.atleast_1d(np.asarray(found)), nan=np.inf, posinf=np.inf)
