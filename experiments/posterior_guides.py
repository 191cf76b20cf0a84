"""The guides that are compared, at about equal numbers of parameters."""

from __future__ import annotations

from functools import partial
from typing import Any

import pyro
import torch
from posterior_targets import Draws, Target
from pyro.distributions.transforms import iterated, spline_coupling
from pyro.infer.autoguide import (
    AutoIAFNormal,
    AutoMultivariateNormal,
    AutoNormal,
    AutoNormalizingFlow,
    init_to_value,
)

import hamflow as hf


def build(name: str, target: Target, seed: int) -> Any:
    """A guide that has seen its model."""
    ours = flow(target, seed)
    if name == "auto_hamiltonian_flow":
        return ours
    budget = sum(p.numel() for p in ours.parameters())
    # Ours picks where it begins, and these may begin there too.
    there = {"init_loc_fn": init_to_value(values=ours.median())}
    pyro.clear_param_store()
    torch.manual_seed(seed)
    makers: dict[str, Any] = {
        "auto_normal": lambda width: AutoNormal(target.model, **there),
        "auto_multivariate_normal": lambda width: AutoMultivariateNormal(target.model, **there),
        "auto_iaf": lambda width: AutoIAFNormal(target.model, hidden_dim=[width], num_transforms=2),
        "auto_spline": lambda width: AutoNormalizingFlow(
            target.model, partial(iterated, 3, partial(spline_coupling, hidden_dims=[width]))
        ),
    }
    width = ours.latent_dim
    while True:
        pyro.clear_param_store()
        torch.manual_seed(seed)
        guide = makers[name](width)
        guide()
        if name in ("auto_normal", "auto_multivariate_normal") or sum(p.numel() for p in guide.parameters()) >= budget:
            return guide
        width += 2


def flow(target: Target, seed: int) -> hf.AutoHamiltonianFlow:
    """Ours, from where it starts by itself."""
    pyro.clear_param_store()
    pyro.set_rng_seed(seed)
    guide = hf.AutoHamiltonianFlow(target.model, seed=seed)
    guide()
    return guide


@torch.no_grad()
def draw(guide: Any, target: Target, n: int) -> Draws:
    """Draws of every site, (n, ...)."""
    if isinstance(guide, hf.AutoHamiltonianFlow):
        return guide.sample_posterior(n)
    with pyro.plate("draws", n, dim=-1 - target.plates):
        return {name: value for name, value in guide().items()}
