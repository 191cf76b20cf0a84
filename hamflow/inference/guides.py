"""AutoHamiltonianFlow: a guide for any Pyro model with continuous latent variables."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoContinuous, init_to_median
from pyro.nn import PyroParam
from pyro.poutine.runtime import am_i_wrapped
from torch import Tensor
from torch.distributions import biject_to, constraints

from hamflow.errors import InputError, check_choice, check_positive, check_seed
from hamflow.inference.marginal import NoiseMap, PhaseMarginal
from hamflow.inference.packed import Packed
from hamflow.inference.phase import PhaseMap
from hamflow.inference.start import gaussian_bound, laplace, prior_moments
from hamflow.training import seeded

#: The standard deviation of the unconstrained latent at the start, as that of Pyro's Gaussian guides.
_SPREAD = 0.1
#: Where a guide may start.
STARTS = ("best", "median", "prior", "laplace")
#: Up to so many dimensions the curvature is looked at where nobody asks for it.
_CURVED = 100
#: Attributes that hold the model, which is neither copied nor pickled.
_MODELS = ("_model", "_free_model")
#: Draws for quantiles that have no closed form.
_DRAWS = 10_000


class AutoHamiltonianFlow(AutoContinuous):
    r"""A guide whose latent is the position of a Hamiltonian flow, of any dimension, one and odd ones included,

    .. math:: \mathrm{ELBO} = \mathbb E \bigl[ \log p(x, z) + \log r(p \mid z) - \log q(z, p) \bigr] \le \log p(x),
              \qquad (z, p) = \Phi(\varepsilon).

    The unconstrained latent z gets a momentum p of the same dimension; a flow of learned symplectic steps with
    trainable scales carries Gaussian noise to (z, p), and a learned r(p | z) takes the momentum out of the bound again.
    What the bound loses by it is the divergence of r from the true law of p given z, and that r learns to make small.

    It is a guide like Pyro's own: for ``SVI`` with ``Trace_ELBO``, ``TraceMeanField_ELBO`` and importance-weighted
    bounds, ``Predictive``, plates with subsampling of data, vectorised particles.

    Args:
        model: a Pyro model.
        n_steps, width: see :class:`hamflow.inference.PhaseMap`.
        context: what the posterior depends on, a function of the model's arguments that gives numbers of about the
            size of one, (c,): the guide then learns the posteriors of all data that it is trained on at once.
        start: ``"median"``: at ``init_loc_fn`` with ``init_scale``; ``"prior"``: as wide as the prior;
            ``"laplace"``: as the Gaussian that matches the posterior at its mode, if there is one; ``"best"``: the one
            of the three that has the best bound, beyond 100 latents without the mode, whose curvature takes long, and
            with a context, which stands for many posteriors, the prior. It runs the model some hundred times at the
            first call; ``"median"`` does not.
        init_loc_fn: where latents start, as for Pyro's guides.
        init_scale: the standard deviation of the unconstrained latents at the start.
        seed: for the weights at the start.
        name: of the guide in the parameter store; two in one store need two.

    Raises:
        InputError: an argument is out of range; (when called) the context is no vector, or of another size than it was.
        RuntimeError: (when first called) the model has no continuous latent variable.

    References:
        Toth et al. (2020), Hamiltonian Generative Networks, arXiv 1909.13789, for the flow; Agakov and Barber (2004),
        An auxiliary variational method, for the bound.

    Example:
        >>> import torch, pyro, pyro.distributions as dist, hamflow as hf
        >>> from pyro.infer import SVI, Trace_ELBO
        >>> def model(x):
        ...     m = pyro.sample("m", dist.Normal(0.0, 1.0))
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("x", dist.Normal(m, 1.0), obs=x)
        >>> pyro.clear_param_store()
        >>> guide = hf.AutoHamiltonianFlow(model)
        >>> loss = Trace_ELBO(num_particles=16, vectorize_particles=True)
        >>> svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), loss)
        >>> isinstance(svi.step(torch.ones(10)), float)
        True
        >>> guide.sample_posterior(100, seed=0)["m"].shape
        torch.Size([100])
    """

    #: All parameters of the flow, (n,).
    values: Tensor

    def __init__(
        self,
        model: Callable[..., Any],
        *,
        n_steps: int = 3,
        width: int = 32,
        context: Callable[..., Tensor] | None = None,
        start: str = "best",
        init_loc_fn: Callable[..., Any] = init_to_median,
        init_scale: float = _SPREAD,
        seed: int = 0,
        name: str = "AutoHamiltonianFlow",
    ) -> None:
        for what, function in (("model", model), ("init_loc_fn", init_loc_fn)):
            if not callable(function):
                raise InputError(f"{what} is a {type(function).__name__}, expected a function")
        check_choice("start", start, STARTS)
        check_positive("init_scale", init_scale)
        check_seed("seed", seed)
        if context is not None and not callable(context):
            raise InputError(f"context is a {type(context).__name__}, expected a function of the model's arguments")
        super().__init__(model, init_loc_fn=init_loc_fn)
        self._pyro_name = name
        self._settings = {"n_steps": n_steps, "width": width}
        # What is out of range is said here, not at the first call.
        PhaseMap(1, **self._settings)
        # Pyro's own is the model with its sites at ``init_loc_fn``; a tuple, so that it is no part of this module.
        self._free_model = (model,)
        self._start, self._init_scale, self._seed = start, float(init_scale), seed
        self._context = context

    def __deepcopy__(self, memo: dict[int, Any]) -> AutoHamiltonianFlow:
        # Pyro's own way drops the model from the original too.
        twin = self.__class__.__new__(self.__class__)
        memo[id(self)] = twin
        twin.__dict__.update(copy.deepcopy(self.__getstate__(), memo))
        twin.__dict__ |= {name: getattr(self, name) for name in _MODELS}
        return twin

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__ | dict.fromkeys((*_MODELS, "master"))
        # Pyro ties a weak reference to every parameter that was in its store, which no file can hold.
        held = {name: value for name, value in self._parameters.items() if value is not None}
        own = {name: torch.nn.Parameter(value.detach().clone()) for name, value in held.items()}
        return state | {"_parameters": own}

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        if self._model is None:
            raise InputError("guide was saved before it had seen its model, expected one that was called: guide(*args)")
        super()._setup_prototype(*args, **kwargs)
        self._check_structure(*args, **kwargs)
        loc = self._init_loc()
        scale_tril = self._init_scale * torch.eye(self.latent_dim, dtype=loc.dtype, device=loc.device)
        context = self._told(*args, **kwargs)
        with seeded(self._seed, loc.device):
            size = 0 if context is None else len(context)
            phase = PhaseMap(self.latent_dim, context_dim=size, **self._settings).to(device=loc.device, dtype=loc.dtype)
            loc, scale_tril = self._first(loc, scale_tril, *args, **kwargs)
        phase.set_affine(loc, scale_tril)
        self.phase, values = Packed.of(phase)
        # A store that was loaded holds what was learned, whatever is asked of the guide first.
        known = pyro.get_param_store()._params.get(f"{self._pyro_name}.values")
        if known is not None and known.shape != values.shape:
            raise InputError(
                f"values has shape {tuple(known.shape)} in Pyro's parameter store, expected {tuple(values.shape)}: "
                "they are those of another guide of the same name; name= tells guides apart, and "
                "pyro.clear_param_store() forgets them"
            )
        self.values = PyroParam(values if known is None else known.detach().clone().to(values))  # type: ignore[assignment]

    @property
    def has_context(self) -> bool:
        """Whether it learns the posteriors of many data at once."""
        return self._context is not None

    def _told(self, *args: Any, **kwargs: Any) -> Tensor | None:
        # The context of these data, (c,).
        if self._context is None:
            return None
        context = self._context(*args, **kwargs)
        if not isinstance(context, Tensor) or context.ndim != 1 or not len(context):
            given = f"shape {tuple(context.shape)}" if isinstance(context, Tensor) else f"a {type(context).__name__}"
            raise InputError(f"context gives {given}, expected a vector, a tensor of shape (c,)")
        if not bool(context.isfinite().all()):
            raise InputError("context gives NaN or infinite entries, expected finite numbers")
        return context.detach()

    def _seen(self, *args: Any, **kwargs: Any) -> Tensor | None:
        # The same, as the flow takes it.
        context = self._told(*args, **kwargs)
        if context is None:
            return None
        known: Tensor = self.phase.module.features.loc  # type: ignore[union-attr, assignment]
        if context.shape != known.shape:
            raise InputError(
                f"context gives shape {tuple(context.shape)}, expected that of before, {tuple(known.shape)}"
            )
        return context.to(self.values)

    def _first(self, loc: Tensor, scale_tril: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        # Mean and root of the covariance at the start; the first ones are Pyro's.
        def log_density(z: Tensor) -> Tensor:
            return self.log_joint(z, *args, **kwargs)

        found = [(loc, scale_tril)]
        start = "prior" if self._start == "best" and self._context is not None else self._start
        wanted: dict[str, Callable[[], tuple[Tensor, Tensor]]] = {
            "prior": lambda: prior_moments(lambda: self._prior_draw(*args, **kwargs)),
            "laplace": lambda: laplace(log_density, loc),
        }
        for name, find in wanted.items():
            if start == name or (start == "best" and (name == "prior" or self.latent_dim <= _CURVED)):
                try:
                    found.append(find())
                except InputError:
                    if start == name:
                        raise
        if start != "best":
            return found[-1]
        return max(found, key=lambda start: gaussian_bound(log_density, *start))

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any, **kwargs: Any) -> None:
        if self.prototype_trace is None:
            raise InputError("guide has not seen its model yet, expected one that was called: guide(*args), then load")
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def log_joint(self, latent: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The model's log density of an unconstrained latent, its Jacobian included, (latent_dim,) -> ().

        Of a model that draws a minibatch, always the same one.
        """
        with seeded(self._seed, latent.device), poutine.block():
            seen = poutine.condition(self.model, data=self.sites(latent))
            log_density = poutine.trace(seen).get_trace(*args, **kwargs).log_prob_sum()
        for site, value in self._unpack_latent(latent):
            transform = biject_to(site["fn"].support)
            log_density = log_density + transform.log_abs_det_jacobian(value, transform(value)).sum()
        return torch.as_tensor(log_density)

    def _check_structure(self, *args: Any, **kwargs: Any) -> None:
        # Pyro takes the supports of one run for those of all.
        assert self.prototype_trace is not None
        with poutine.block():
            again = poutine.trace(self.model).get_trace(*args, **kwargs)
        sites = dict(self.prototype_trace.iter_stochastic_nodes())
        now = {name: site for name, site in again.iter_stochastic_nodes() if type(site["fn"]).__name__ != "_Subsample"}
        if sites.keys() != now.keys():
            found = sorted(sites.keys() ^ now.keys())
            raise InputError(f"model has sites that come and go, {found}, expected the same latent sites in every run")
        for name, site in sites.items():
            one, other = (getattr(s["fn"], "support") for s in (site, now[name]))  # noqa: B009
            if not _equal(one, other):
                raise InputError(
                    f"site {name} has a support that changes from run to run, {one} and {other}, expected a fixed one; "
                    "scale or shift a site of fixed support instead"
                )

    def _prior_draw(self, *args: Any, **kwargs: Any) -> Tensor:
        assert self.prototype_trace is not None
        with poutine.block():
            trace = poutine.trace(self._free_model[0]).get_trace(*args, **kwargs)
        sites = [trace.nodes[name] for name, _ in self.prototype_trace.iter_stochastic_nodes()]
        return torch.cat([biject_to(site["fn"].support).inv(site["value"]).detach().flatten() for site in sites])  # type: ignore[attr-defined]

    def sample_latent(self, *args: Any, **kwargs: Any) -> Tensor:
        """The unconstrained latent, (*batch, latent_dim); noise and momentum are auxiliary sites."""
        name = self._pyro_name
        noise = pyro.sample(f"_{name}_noise", self.get_base_dist(), infer={"is_auxiliary": True})
        q, log_weight = self.phase(self.values, "forward", noise, self._seen(*args, **kwargs))
        if am_i_wrapped():
            pyro.factor(f"_{name}_momentum", -log_weight, has_rsample=True)
        return q

    def get_posterior(self, *args: Any, **kwargs: Any) -> PhaseMarginal:
        """The law of the unconstrained latent; its density is a bound, by importance sampling of the momentum."""
        if self.prototype_trace is None:
            self._setup_prototype(*args, **kwargs)
        return PhaseMarginal(self.phase, self.values, context=self._seen(*args, **kwargs))

    def get_base_dist(self) -> dist.TorchDistribution:
        """The law of the noise, (2 latent_dim,)."""
        zeros = self.values.new_zeros(2 * self.latent_dim)
        return dist.Normal(zeros, torch.ones_like(zeros), validate_args=False).to_event(1)

    def get_transform(self, *args: Any, **kwargs: Any) -> NoiseMap:
        """From the noise to the latent; its log-det counts the momentum's law, as :class:`HamiltonianReparam` needs."""
        return NoiseMap(self.phase, self.values.detach(), context=self._seen(*args, **kwargs))

    @torch.no_grad()
    def sample_posterior(self, n: int, *args: Any, seed: int | None = None, **kwargs: Any) -> dict[str, Tensor]:
        """``n`` draws of every latent site, (n, *shape of the site) each."""
        check_positive("n", n, integer=True)
        if self.prototype_trace is None:
            self._setup_prototype(*args, **kwargs)
        if seed is None:
            return self.sites(self.get_posterior(*args, **kwargs).sample((n,)))
        with seeded(seed, self.values.device):
            return self.sites(self.get_posterior(*args, **kwargs).sample((n,)))

    def sites(self, latent: Tensor) -> dict[str, Tensor]:
        """Constrained values by site, (*batch, latent_dim) -> (*batch, *shape of the site)."""
        found: dict[str, Tensor] = {}
        start = 0
        assert self.prototype_trace is not None
        for name, site in self.prototype_trace.iter_stochastic_nodes():
            shape = self._unconstrained_shapes[name]
            size = shape.numel()
            rows = latent[..., start : start + size].reshape(latent.shape[:-1] + shape)
            found[name] = biject_to(site["fn"].support)(rows)
            start += size
        return found

    @torch.no_grad()
    def median(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """The median of every latent variable, from draws."""
        return {name: value[0] for name, value in self.quantiles([0.5], *args, **kwargs).items()}

    @torch.no_grad()
    def quantiles(self, quantiles: Any, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Quantiles of every latent variable, (number of quantiles, *shape of the site) each, from draws."""
        levels = torch.as_tensor(quantiles)
        if not bool(((levels >= 0) & (levels <= 1)).all()):
            raise InputError(f"quantiles = {quantiles!r}, expected numbers from 0 to 1")
        draws = self.sample_posterior(_DRAWS, *args, seed=self._seed, **kwargs)
        return {
            name: torch.quantile(value.double(), levels.to(value.device, torch.float64), dim=0).to(value)
            for name, value in draws.items()
        }


def _equal(one: Any, other: Any) -> bool:
    # Of supports: numbers, tensors, and other supports.
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, constraints.Constraint):
        return type(one) is type(other) and _equal(vars(one), vars(other))
    return bool(torch.equal(torch.as_tensor(one), torch.as_tensor(other))) if isinstance(one, Tensor) else one == other
