"""An importance-weighted bound that stays a bound when data are subsampled."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import ELBO
from pyro.infer.enum import get_importance_trace
from pyro.infer.util import torch_item
from pyro.util import warn_if_nan
from torch import Tensor

from hamflow.errors import InputError, check_positive

#: How fast the slope is followed.
_SOON = 0.02


class ImportanceWeightedELBO(ELBO):
    r"""A K-sample bound on the log evidence, also in expectation over minibatches,

    .. math:: \log \frac1K \sum_k w_k = \max_\omega \sum_k \omega_k \log w_k - \sum_k \omega_k \log (K \omega_k) .

    With subsampling :math:`\log w_k` is known without bias, and w is not: its mean of exponentials lies above the
    evidence. The right-hand side is linear in :math:`\log w`, so weights :math:`\omega` from one half of the minibatch
    and values from the other give a lower bound in expectation, and both ways round are averaged. Half a minibatch
    exaggerates: :math:`\omega \propto w^\beta`, with :math:`\beta` the slope by which one half has predicted the other
    in earlier steps, 0 at the start, where this is the ELBO. Without subsampling the two halves are all of the data,
    :math:`\beta = 1`, and this is the importance-weighted bound itself.

    Args:
        num_particles: K.
        vectorize_particles: whether all at once, for which the model must keep dimensions on the left; else one after
            the other, of the same minibatch.
        max_plate_nesting: of the model; found by a trial run where it is not given.

    Raises:
        InputError: K is none; (when called) a site is under two subsampled plates or one that is gone through row by
            row, a minibatch has one row, or a guide site is not reparameterised.

    References:
        Burda et al. (2016), Importance Weighted Autoencoders, arXiv 1509.00519, for the bound; Donsker and Varadhan
        (1975) for its variational form.

    Example:
        >>> import torch, pyro, pyro.distributions as dist, hamflow as hf
        >>> def model(x):
        ...     m = pyro.sample("m", dist.Normal(0.0, 1.0))
        ...     with pyro.plate("data", len(x), subsample_size=4) as rows:
        ...         pyro.sample("x", dist.Normal(m, 1.0), obs=x[rows])
        >>> pyro.clear_param_store()
        >>> guide = hf.AutoHamiltonianFlow(model)
        >>> loss = hf.inference.ImportanceWeightedELBO(num_particles=8)
        >>> svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), loss)
        >>> isinstance(svi.step(torch.zeros(20)), float)
        True
    """

    def __init__(
        self,
        num_particles: int = 8,
        *,
        max_plate_nesting: int | float = math.inf,
        vectorize_particles: bool = True,
    ) -> None:
        check_positive("num_particles", num_particles, integer=True)
        super().__init__(
            num_particles=num_particles,
            max_plate_nesting=max_plate_nesting,
            vectorize_particles=vectorize_particles and num_particles > 1,
        )
        # Particles a trace.
        self._together = num_particles if self.vectorize_particles else 1
        self._product, self._square = 0.0, 0.0

    @property
    def slope(self) -> float:
        """By how much of its own spread one half of a minibatch has predicted the other, 0 to 1."""
        return min(1.0, max(0.0, self._product / self._square)) if self._square else 0.0

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Any:
        return get_importance_trace("flat", self.max_plate_nesting, model, guide, args, kwargs)

    def _get_traces(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Iterator[Any]:
        if self.vectorize_particles:
            yield from super()._get_traces(model, guide, args, kwargs)
            return
        # All of one minibatch: of different ones, weights would tell of those instead.
        minibatch = poutine.Trace()
        for _ in range(self.num_particles):
            runs = [poutine.trace(poutine.replay(function, trace=minibatch)) for function in (model, guide)]
            yield self._get_trace(runs[0], runs[1], args, kwargs)
            minibatch = _minibatch(run.trace for run in runs)

    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Minus the bound, a number."""
        with torch.no_grad():
            return float(torch_item(self.differentiable_loss(model, guide, *args, **kwargs)))

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Minus the bound, and its gradients added to those of the parameters."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward()
        warn_if_nan(loss, "loss")
        return float(torch_item(loss))

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Minus the bound, a tensor with gradients."""
        traces = list(self._get_traces(model, guide, args, kwargs))
        one, other = (torch.cat(half) for half in zip(*(self._halves(*pair) for pair in traces), strict=True))
        whole = not any(_cut(site) for site in traces[0][0].nodes.values())
        slope = 1.0 if whole else self.slope
        bound = 0.5 * (_bound(slope * one, other) + _bound(slope * other, one))
        if self.num_particles > 1 and not whole:
            # After its use: the slope has to know nothing of the minibatch.
            a, b = one.detach() - one.detach().mean(), other.detach() - other.detach().mean()
            self._product += _SOON * (float((a * b).mean()) - self._product)
            self._square += _SOON * (float(0.5 * (a.square() + b.square()).mean()) - self._square)
        return -bound

    def check_vectorised(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> None:
        """Whether a model says of one draw by itself what it says of it among many.

        Raises:
            InputError: it does not: some of its operations take the dimension of the draws for one of their own.
        """
        advice = "expected one that keeps dimensions on the left; vectorize=False takes one draw after the other"
        try:
            model_trace, _ = next(iter(self._get_traces(model, guide, args, kwargs)))
        except InputError:
            raise
        except (RuntimeError, ValueError, IndexError) as error:
            raise InputError(f"model fails with many draws at once, {advice}: {error}") from error
        _check_whole(model_trace)
        alone = {}
        for name in _latents(model_trace):
            site = model_trace.nodes[name]
            law, value = site["fn"], site["value"]
            # The plates of the site, without that of the draws and dimensions that only lie between.
            inner = [-frame.dim for frame in site["cond_indep_stack"] if -frame.dim < self.max_plate_nesting]
            kept = max(inner, default=0) + len(law.event_shape)
            alone[name] = value.select(-int(self.max_plate_nesting) - len(law.event_shape), 0)
            alone[name] = alone[name].reshape(alone[name].shape[alone[name].ndim - kept :])
        once = poutine.trace(poutine.condition(model, data=alone)).get_trace(*args, **kwargs).log_prob_sum()
        among = sum(self._summed(s["log_prob"])[0] for s in model_trace.nodes.values() if s["type"] == "sample")
        if not abs(float(once) - float(among)) <= 1e-3 * (1 + abs(float(once))) and math.isfinite(float(once)):
            raise InputError(
                f"model has a log density of {float(once):.6g} for a draw by itself and of {float(among):.6g} for it "
                f"among many, {advice}"
            )

    def log_weights(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Log p(x, z) - log q(z) of K draws of the guide, (K,).

        Raises:
            InputError: the model draws minibatches, or a site of the guide is a point, which has no density.
        """
        found = []
        for model_trace, guide_trace in self._get_traces(model, guide, args, kwargs):
            _check_whole(model_trace)
            self._check_points(guide_trace)
            found.append(self._halves(model_trace, guide_trace)[0])
        return torch.cat(found)

    def _check_points(self, guide_trace: poutine.Trace) -> None:
        # A Delta whose value is a map of a draw is different for every particle, and a point estimate is not.
        sites = list(guide_trace.iter_stochastic_nodes())
        alone = all(_is_point(site["fn"]) for _, site in sites)
        for name, site in sites:
            if not _is_point(site["fn"]):
                continue
            value: Any = site["value"]
            law: Any = site["fn"]
            if alone or (self._together > 1 and not self._varies(value, len(law.event_shape))):
                raise InputError(
                    f"guide site {name} is a point, the same in every draw, expected a distribution: a point has no "
                    "density that weights could be made of"
                )

    def _varies(self, value: Tensor, event_dim: int) -> bool:
        # From particle to particle.
        dim = int(self.max_plate_nesting) + event_dim
        return value.ndim >= dim and bool((value != value.narrow(-dim, 0, 1)).any())

    def _halves(self, model_trace: poutine.Trace, guide_trace: poutine.Trace) -> tuple[Tensor, Tensor]:
        # Log weights of a trace's particles by one half of every minibatch and by the other.
        wanted, given = (_latents(trace) for trace in (model_trace, guide_trace))
        if wanted != given:
            raise InputError(
                f"model has the latent sites {sorted(wanted)} and guide {sorted(given)}, expected the same: a site "
                "that is drawn by one of them alone has no weight"
            )
        totals: list[Any] = [0.0, 0.0]
        for sign, trace in ((1, model_trace), (-1, guide_trace)):
            for name, site in trace.nodes.items():
                if site["type"] != "sample":
                    continue
                if sign < 0 and not getattr(site["fn"], "has_rsample", False):
                    raise InputError(f"guide site {name} is not reparameterised, expected one that is")
                for half, part in enumerate(self._parts(name, site)):
                    totals[half] = totals[half] + sign * part
        return totals[0], totals[1]

    def _parts(self, name: str, site: Any) -> tuple[Tensor, Tensor]:
        log_prob = site["log_prob"]
        cut = _cut(site)
        if len(cut) > 1:
            names = " and ".join(frame.name for frame in cut)
            raise InputError(f"site {name} is under two subsampled plates, {names}, expected one at most")
        if not cut:
            return self._summed(log_prob), self._summed(log_prob)
        frame = cut[0]
        if frame.size < 2:
            raise InputError(f"plate {frame.name} has a minibatch of one row, expected two or more")
        rows = log_prob.expand(torch.broadcast_shapes(log_prob.shape, (frame.size,) + (1,) * (-1 - frame.dim)))
        first = frame.size // 2
        parts = rows.split([first, frame.size - first], frame.dim)
        one, other = (self._summed(part) * (frame.size / part.shape[frame.dim]) for part in parts)
        return one, other

    def _summed(self, log_prob: Tensor) -> Tensor:
        # Over everything but the particles of a trace. Pyro counts their plate among those that are nested.
        if self._together > 1 and log_prob.ndim >= (dim := int(self.max_plate_nesting)):
            return log_prob.movedim(-dim, 0).reshape(log_prob.shape[-dim], -1).sum(1).expand(self._together)
        return log_prob.sum().expand(self._together)


def _check_whole(model_trace: poutine.Trace) -> None:
    if any(_cut(site) for site in model_trace.nodes.values()):
        raise InputError("model draws minibatches, expected one that sees all of its data here")


def _latents(trace: poutine.Trace) -> set[str]:
    return {
        name
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and not site["is_observed"] and not (site["infer"] or {}).get("is_auxiliary")
        and not _subsamples(site)
    }  # fmt: skip


def _subsamples(site: Any) -> bool:
    return type(site["fn"]).__name__ == "_Subsample"


def _minibatch(traces: Iterable[poutine.Trace]) -> poutine.Trace:
    # What plates of either have drawn, and nothing else.
    found = poutine.Trace()
    for trace in traces:
        for name, site in trace.nodes.items():
            if site["type"] == "sample" and _subsamples(site) and name not in found:
                found.add_node(name, **site)
    return found


def _is_point(law: Any) -> bool:
    while isinstance(law, (dist.Independent, dist.ExpandedDistribution, dist.MaskedDistribution)):
        law = law.base_dist
    return isinstance(law, dist.Delta)


def _cut(site: Any) -> list[Any]:
    # The plates of a site that see a part of the data.
    cut = [frame for frame in site.get("cond_indep_stack", ()) if frame.full_size and frame.size < frame.full_size]
    for frame in cut:
        if not frame.vectorized:
            raise InputError(
                f"plate {frame.name} goes through its minibatch row by row, expected a vectorised one: "
                f"with pyro.plate({frame.name!r}, ...)"
            )
    return cut


def _bound(weighing: Tensor, values: Tensor) -> Tensor:
    # With its graph: these weights are the best ones only where they come from the values themselves.
    share = weighing.log_softmax(0)
    return (share.exp() * (values - share)).sum() - math.log(len(share))
