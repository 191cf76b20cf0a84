"""HamiltonianReparam: MCMC in the coordinates of a trained Hamiltonian guide."""

from __future__ import annotations

from typing import Any

import torch
from pyro.infer.reparam import NeuTraReparam
from torch import Tensor

from hamflow.errors import InputError
from hamflow.inference.guides import AutoHamiltonianFlow


class HamiltonianReparam(NeuTraReparam):
    r"""Neural transport through an :class:`AutoHamiltonianFlow`: NUTS walks in the Gaussian noise of its flow,

    .. math:: \log \pi(\varepsilon) = \log p(x, z) + \log r(p \mid z) +
              \log\left|\frac{\partial (z, p)}{\partial \varepsilon}\right|, \qquad (z, p) = \Phi(\varepsilon) .

    The momentum, of which the model knows nothing, has the normalised law r given z, so it leaves the law of z alone:
    draws of :math:`\varepsilon` are mapped to exact posterior draws of z, whatever the guide has learned. What it has
    learned decides how fast the chain mixes: with a perfect guide the target is a standard normal of dimension 2 d.

    Use it as Pyro's :class:`~pyro.infer.reparam.neutra.NeuTraReparam`: ``reparam`` turns the model into one with a
    single latent site, and ``transform_sample`` turns its draws into those of the model's own sites. For chains in
    parallel processes, pass ``num_chains`` and ``mp_context="spawn"`` to MCMC, in a script with a main guard.

    Args:
        guide: a trained :class:`AutoHamiltonianFlow`.

    Raises:
        InputError: it is none, has not seen its model yet, or has a context; draws have the wrong shape.

    References:
        Hoffman et al. (2019), NeuTra-lizing Bad Geometry in Hamiltonian Monte Carlo Using Neural Transport, arXiv
        1903.03704.

    Example:
        >>> import torch, pyro, pyro.distributions as dist, hamflow as hf
        >>> from pyro.infer import MCMC, NUTS
        >>> def model():
        ...     pyro.sample("m", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        >>> pyro.clear_param_store()
        >>> guide = hf.AutoHamiltonianFlow(model)
        >>> _ = guide()                         # and train it
        >>> neutra = hf.HamiltonianReparam(guide)
        >>> mcmc = MCMC(NUTS(neutra.reparam(model)), num_samples=5, warmup_steps=5, disable_progbar=True)
        >>> mcmc.run()
        >>> neutra.transform_sample(mcmc.get_samples()["m_shared_latent"])["m"].shape
        torch.Size([5, 2])
    """

    def __init__(self, guide: AutoHamiltonianFlow) -> None:
        if not isinstance(guide, AutoHamiltonianFlow):
            raise InputError(
                f"guide is a {type(guide).__name__}, expected an AutoHamiltonianFlow; others have NeuTraReparam"
            )
        if guide.prototype_trace is None:
            raise InputError("guide has not seen its model yet, expected one that is trained")
        if guide.has_context:
            raise InputError("guide has a context, expected one of a single posterior: a chain walks in one")
        super().__init__(guide)

    def _reparam_config(self, site: Any) -> Any:
        chosen = super()._reparam_config(site)
        own = site["is_observed"] or site["name"].endswith("_shared_latent")
        if chosen is None and not own and type(site["fn"]).__name__ != "_Subsample":
            assert self.guide.prototype_trace is not None
            known = sorted(name for name, _ in self.guide.prototype_trace.iter_stochastic_nodes())
            raise InputError(f"model has a latent site {site['name']}, expected those of the guide: {known}")
        return chosen

    def transform_sample(self, latent: Tensor) -> dict[str, Tensor]:
        """Draws of the model's own sites from those of the noise, (*batch, 2 d) -> (*batch, *shape of the site)."""
        transform = self.guide.get_transform()
        if not isinstance(latent, Tensor) or latent.shape[-1:] != transform.noise_shape:
            shape = tuple(latent.shape) if isinstance(latent, Tensor) else type(latent).__name__
            raise InputError(f"latent is {shape}, expected a tensor (*batch, {transform.noise_shape[0]})")
        with torch.no_grad():
            return self.guide.sites(transform(latent.to(self.guide.values)))
