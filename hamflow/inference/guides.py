"""AutoHamiltonianFlow: a guide for any Pyro model with continuous latent variables."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import AutoContinuous, init_to_median
from pyro.poutine.runtime import am_i_wrapped
from torch import Tensor
from torch.distributions import biject_to

from hamflow.errors import check_positive
from hamflow.inference.marginal import NoiseTransform, PhaseMarginal
from hamflow.inference.packed import Packed
from hamflow.inference.phase import PhaseMap
from hamflow.training import seeded

#: The standard deviation of the unconstrained latent at the start, as that of Pyro's Gaussian guides.
_SPREAD = 0.1
#: Draws for quantiles that have no closed form.
_DRAWS = 10_000


class AutoHamiltonianFlow(AutoContinuous):
    r"""A guide whose latent is the position of a Hamiltonian flow, of any dimension, one and odd ones included,

    .. math:: \mathrm{ELBO} = \mathbb E \bigl[ \log p(x, z) + \log r(p \mid z) - \log q(z, p) \bigr] \le \log p(x),
              \qquad (z, p) = \Phi(\varepsilon).

    The unconstrained latent z gets a momentum p of the same dimension; a flow of learned leapfrog steps with trainable
    scales carries Gaussian noise to (z, p), and a learned r(p | z) takes the momentum out of the bound again. What the
    bound loses by it is the divergence of r from the true law of p given z, and that r learns to make small.

    It is a guide like Pyro's own: for ``SVI`` with ``Trace_ELBO``, ``TraceMeanField_ELBO`` and importance-weighted
    bounds, ``Predictive``, plates with subsampling of data, vectorised particles.

    Args:
        model: a Pyro model.
        blocks, n_steps, width, encoder_width, full: see :class:`hamflow.inference.phase.PhaseMap`; ``full`` by default
            up to 100 latent dimensions.
        init_loc_fn: where latents start, as for Pyro's guides.
        init_scale: the standard deviation of the unconstrained latents at the start.
        seed: for the weights at the start.

    Raises:
        InputError: an argument is out of range.
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
        >>> guide = hf.AutoHamiltonianFlow(model)
        >>> loss = Trace_ELBO(num_particles=16, vectorize_particles=True)
        >>> svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), loss)
        >>> isinstance(svi.step(torch.ones(10)), float)
        True
        >>> guide.sample_posterior(100, seed=0)["m"].shape
        torch.Size([100])
    """

    def __init__(
        self,
        model: Callable[..., Any],
        *,
        n_steps: int = 3,
        width: int = 32,
        init_loc_fn: Callable[..., Any] = init_to_median,
        init_scale: float = _SPREAD,
        seed: int = 0,
    ) -> None:
        check_positive("init_scale", init_scale)
        super().__init__(model, init_loc_fn=init_loc_fn)
        self._settings = {"n_steps": n_steps, "width": width}
        # What is out of range is said here, not at the first call.
        PhaseMap(1, **self._settings)
        self._init_scale, self._seed = float(init_scale), seed

    def __deepcopy__(self, memo: dict[int, Any]) -> AutoHamiltonianFlow:
        # Pyro drops the model from what is copied, and from the original with it.
        twin = self.__class__.__new__(self.__class__)
        memo[id(self)] = twin
        state = {name: value for name, value in self.__dict__.items() if name != "_model"}
        twin.__dict__.update(copy.deepcopy(state, memo))
        twin.__dict__["_model"] = self._model
        return twin

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        super()._setup_prototype(*args, **kwargs)
        start = self._init_loc()
        with seeded(self._seed):
            phase = PhaseMap(self.latent_dim, **self._settings)
        phase = phase.to(device=start.device, dtype=start.dtype)
        phase.set_affine(start, self._init_scale * torch.eye(self.latent_dim, dtype=start.dtype))
        self.phase = Packed(phase)

    def sample_latent(self, *args: Any, **kwargs: Any) -> Tensor:
        """The unconstrained latent, (*batch, latent_dim); noise and momentum are auxiliary sites."""
        name, phase = self._pyro_name, self.phase
        noise = pyro.sample(f"_{name}_noise", self.get_base_dist(), infer={"is_auxiliary": True})
        q, log_weight = phase("forward", noise)
        if am_i_wrapped():
            pyro.factor(f"_{name}_momentum", -log_weight, has_rsample=True)
        return q

    def get_posterior(self, *args: Any, **kwargs: Any) -> PhaseMarginal:
        """The law of the unconstrained latent; its density is a bound, by importance sampling of the momentum."""
        if self.prototype_trace is None:
            self._setup_prototype(*args, **kwargs)
        return PhaseMarginal(self.phase)

    def get_base_dist(self) -> dist.TorchDistribution:
        """The law of the noise, (2 latent_dim,)."""
        like = self.phase.values
        return dist.Normal(like.new_zeros(()), like.new_ones(())).expand([2 * self.latent_dim]).to_event(1)

    def get_transform(self, *args: Any, **kwargs: Any) -> NoiseTransform:
        """From the noise to the latent; its log-det counts the momentum's law, as :class:`HamiltonianReparam` needs."""
        return NoiseTransform(self.phase)

    @torch.no_grad()
    def sample_posterior(self, n: int, *args: Any, seed: int | None = None, **kwargs: Any) -> dict[str, Tensor]:
        """``n`` draws of every latent site, (n, *shape of the site) each."""
        check_positive("n", n, integer=True)
        if self.prototype_trace is None:
            self._setup_prototype(*args, **kwargs)
        if seed is None:
            return self._sites(self.get_posterior().sample((n,)))
        with seeded(seed, self.phase.values.device):
            return self._sites(self.get_posterior().sample((n,)))

    def _sites(self, latent: Tensor) -> dict[str, Tensor]:
        # (n, latent_dim) -> (n, *shape) by site.
        found: dict[str, Tensor] = {}
        start = 0
        assert self.prototype_trace is not None
        for name, site in self.prototype_trace.iter_stochastic_nodes():
            shape = self._unconstrained_shapes[name]
            size = shape.numel()
            rows = latent[..., start : start + size].reshape(*latent.shape[:-1], *shape)
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
        draws = self.sample_posterior(_DRAWS, *args, seed=self._seed, **kwargs)
        levels = torch.as_tensor(quantiles)
        return {
            name: torch.quantile(value.double(), levels.to(value.device, torch.float64), dim=0).to(value)
            for name, value in draws.items()
        }
