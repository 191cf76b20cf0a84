"""Whether to believe a guide: importance weights, their tail, and a verdict in words."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hamflow.densities import effective_sample_size, importance_bound, pareto_k
from hamflow.errors import InputError, check_positive
from hamflow.inference.bounds import ImportanceWeightedELBO
from hamflow.training import seeded

#: Tail indices up to which importance sampling converges fast, and up to which it works at all.
GOOD, USABLE = 0.5, 0.7
#: Draws at a time, for memory.
_AT_ONCE = 500


@dataclass(frozen=True)
class Diagnosis:
    """What the importance weights of a guide say; printed, a verdict. They say nothing of modes it never draws from.

    Attributes:
        elbo: the evidence lower bound [nats]; elbo_error: its standard error.
        evidence: a bound of the log evidence from below in expectation, by all draws together [nats].
        pareto_k: the tail index of the weights.
        effective_draws: how many independent posterior draws the weighted ones are worth.
        draws: how many there were.

    Example:
        >>> import hamflow as hf
        >>> hf.inference.Diagnosis(-3.1, 0.1, -2.0, pareto_k=0.9, effective_draws=5, draws=1000).verdict[:15]
        'do not trust it'
    """

    elbo: float
    elbo_error: float
    evidence: float
    pareto_k: float
    effective_draws: float
    draws: int

    @property
    def verdict(self) -> str:
        """What to do, in a sentence."""
        if not self.pareto_k <= USABLE:
            return (
                "do not trust it: some of the posterior is hardly ever drawn. Train longer, start from the prior or a "
                "Laplace fit, or run NUTS in its coordinates (HamiltonianReparam)"
            )
        if self.pareto_k > GOOD:
            return "usable where its draws are weighted: means and quantiles by themselves are a little off"
        return (
            "good: where its draws go they are the posterior's but for little, and weighted for less. Weights know of "
            "no mode that was never drawn: start guides from several places, or compare with chains"
        )

    def __str__(self) -> str:
        return (
            f"ELBO {self.elbo:.3f} +- {self.elbo_error:.3f}, log evidence at least {self.evidence:.3f} (a gap of "
            f"{self.evidence - self.elbo:.3f} nats)\n"
            f"Pareto k {self.pareto_k:.2f}, {self.draws} draws are worth {self.effective_draws:.0f}\n{self.verdict}"
        )


def log_weights(
    guide: Callable[..., Any],
    model: Callable[..., Any],
    *args: Any,
    draws: int = 1000,
    vectorize: bool = True,
    max_plate_nesting: int | float = float("inf"),
    seed: int = 0,
    **kwargs: Any,
) -> Tensor:
    r""":math:`\log p(x, z_k) - \log q(z_k)` of draws of a guide, (draws,).

    Args:
        guide: any Pyro guide of reparameterised sites.
        model: its model.
        *args: what both take.
        draws: how many.
        vectorize: whether many at once, for which the model must keep dimensions on the left; else one after the other.
        max_plate_nesting: of the model; found by a trial run where it is not given.
        seed: of the draws.
        **kwargs: what both take by name.

    Raises:
        InputError: the model draws minibatches, of which weights are not those of the data; its latent sites are not
            those of the guide; a site of the guide is a point, as those of ``AutoDelta`` are; the model takes no
            dimensions on the left, and ``vectorize`` is on; a number is out of range.

    Example:
        >>> import torch, pyro, pyro.distributions as dist, hamflow as hf
        >>> def model():
        ...     z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...     pyro.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(1.0))
        >>> pyro.clear_param_store()
        >>> guide = hf.AutoHamiltonianFlow(model, start="laplace")      # exact here
        >>> hf.inference.log_weights(guide, model, draws=3)
        tensor([-1.5155, -1.5155, -1.5155])
    """
    check_positive("draws", draws, integer=True)
    for name, function in (("guide", guide), ("model", model)):
        if not callable(function):
            raise InputError(f"{name} is a {type(function).__name__}, expected a function of the model's arguments")
    together = min(draws, _AT_ONCE) if vectorize else 1
    bound = ImportanceWeightedELBO(together, max_plate_nesting=max_plate_nesting)
    own = next(guide.parameters(), None) if isinstance(guide, torch.nn.Module) else None
    with torch.no_grad(), seeded(seed, "cpu" if own is None else own.device):
        if together > 1:
            bound.check_vectorised(model, guide, *args, **kwargs)
        found = [bound.log_weights(model, guide, *args, **kwargs) for _ in range(math.ceil(draws / together))]
    return torch.cat(found)[:draws]


def diagnose(
    guide: Callable[..., Any], model: Callable[..., Any], *args: Any, draws: int = 1000, **kwargs: Any
) -> Diagnosis:
    r"""How far a guide is from its posterior, by the weights :math:`w_k = p(x, z_k) / q(z_k)` of its draws.

    A guide that sits on one of several modes has even weights there, and no draw tells of the others.

    Args:
        guide: any Pyro guide of reparameterised sites.
        model: its model.
        *args: what both take.
        draws: how many.
        **kwargs: the same by name, and settings of :func:`log_weights`.

    Returns:
        a :class:`Diagnosis`; print it for a verdict.

    Raises:
        InputError: as :func:`log_weights`; fewer than 100 draws, which say nothing of a tail.

    References:
        Yao et al. (2018), Yes, but Did It Work?: Evaluating Variational Inference, arXiv 1802.02538.

    Example:
        >>> import torch, pyro, pyro.distributions as dist, hamflow as hf
        >>> def model():
        ...     z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...     pyro.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(1.0))
        >>> pyro.clear_param_store()
        >>> guide = hf.AutoHamiltonianFlow(model, start="laplace")
        >>> print(hf.inference.diagnose(guide, model))
        ELBO -1.516 +- 0.000, log evidence at least -1.516 (a gap of ... nats)
        Pareto k ..., 1000 draws are worth 1000
        good: where its draws go they are the posterior's but for little, and weighted for less. ...
    """
    check_positive("draws", draws, integer=True)
    if draws < 100:
        raise InputError(f"draws = {draws}, expected 100 or more: fewer say nothing of a tail")
    weights = log_weights(guide, model, *args, draws=draws, **kwargs)
    # In their own precision, which says what of their tail is rounding.
    tail = float(pareto_k(weights[:, None]))
    weights = weights.double()
    column = weights[:, None]
    return Diagnosis(
        elbo=float(weights.mean()),
        elbo_error=float(weights.std()) / draws**0.5,
        evidence=float(importance_bound(column)),
        pareto_k=tail,
        effective_draws=float(effective_sample_size(column)),
        draws=draws,
    )
