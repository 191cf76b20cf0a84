"""AutoHamiltonianFlow: a guide for any Pyro model with continuous latent variables."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import AutoContinuous, init_to_median
from torch import Tensor
from torch.distributions import biject_to

from hamflow.errors import check_positive
from hamflow.inference.marginal import PhaseMarginal
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
        >>> svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO(num_particles=4, vectorize_particles=True))
        >>> loss = svi.step(torch.ones(10))
        >>> guide.sample_posterior(100, seed=0)["m"].shape
        torch.Size([100])
    """

    def __init__(
        self,
        model: Callable[..., Any],
        *,
        blocks: int = 2,
        n_steps: int = 4,
        width: int = 32,
        encoder_width: int = 32,
        layers: int = 2,
        full: bool | None = None,
        init_loc_fn: Callable[..., Any] = init_to_median,
        init_scale: float = _SPREAD,
        seed: int = 0,
    ) -> None:
        check_positive("init_scale", init_scale)
        super().__init__(model, init_loc_fn=init_loc_fn)
        self._settings = {
            "blocks": blocks,
            "n_steps": n_steps,
            "width": width,
            "encoder_width": encoder_width,
            "layers": layers,
        }
        # What is out of range is said here, not at the first call.
        PhaseMap(1, **self._settings)
        self._full, self._init_scale, self._seed = full, float(init_scale), seed

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
        full = self.latent_dim <= 100 if self._full is None else self._full
        with seeded(self._seed):
            phase = PhaseMap(self.latent_dim, full=full, **self._settings)
        phase = phase.to(device=start.device, dtype=start.dtype)
        phase.set_affine(start, self._init_scale * torch.eye(self.latent_dim, dtype=start.dtype))
        self.phase = phase

    def sample_latent(self, *args: Any, **kwargs: Any) -> Tensor:
        """The unconstrained latent, (*batch, latent_dim); noise and momentum are auxiliary sites."""
        name = self._pyro_name
        like = self.phase.loc
        law = dist.Normal(like.new_zeros(()), like.new_ones(())).expand([2 * self.latent_dim]).to_event(1)
        noise = pyro.sample(f"_{name}_noise", law, infer={"is_auxiliary": True})
        q, p, log_det = self.phase(noise)
        pyro.factor(f"_{name}_momentum", -self.phase.log_momentum(q, p) - log_det, has_rsample=True)
        return q

    def get_posterior(self, *args: Any, **kwargs: Any) -> PhaseMarginal:
        """The law of the unconstrained latent; its density is a bound, by importance sampling of the momentum."""
        if self.prototype_trace is None:
            self._setup_prototype(*args, **kwargs)
        return PhaseMarginal(self.phase)

    @torch.no_grad()
    def sample_posterior(self, n: int, *args: Any, seed: int | None = None, **kwargs: Any) -> dict[str, Tensor]:
        """``n`` draws of every latent site, (n, *shape of the site) each."""
        check_positive("n", n, integer=True)
        if self.prototype_trace is None:
            self._setup_prototype(*args, **kwargs)
        if seed is None:
            return self._sites(self.get_posterior().sample((n,)))
        with seeded(seed, self.phase.loc.device):
            return self._sites(self.get_posterior().sample((n,)))

    def _sites(self, latent: Tensor) -> dict[str, Tensor]:
        # (n, latent_dim) -> (n, *shape) by site.
        found: dict[str, Tensor] = {}
        start = 0
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
