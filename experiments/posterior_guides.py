"""The guides that are compared, at about equal numbers of parameters."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import pyro
import torch
from posterior_targets import Draws, Target
from pyro.distributions.torch_transform import TransformModule
from pyro.distributions.transforms import (
    ComposeTransformModule,
    affine_autoregressive,
    iterated,
    spline_coupling,
)
from pyro.infer.autoguide import (
    AutoIAFNormal,
    AutoMultivariateNormal,
    AutoNormal,
    AutoNormalizingFlow,
    init_to_value,
)
from torch import Tensor, nn
from torch.distributions import constraints

import hamflow as hf


class Affine(TransformModule):
    """A trainable affine map, begun as a Gaussian's mean and triangular root of the covariance."""

    bijective = True
    domain = codomain = constraints.real_vector

    def __init__(self, loc: Tensor, scale_tril: Tensor) -> None:
        super().__init__()
        self.loc = nn.Parameter(loc.clone())
        self.log_diagonal = nn.Parameter(scale_tril.diagonal().log())
        self.lower = nn.Parameter(scale_tril.tril(-1))

    def _root(self) -> Tensor:
        return self.lower.tril(-1) + torch.diag(self.log_diagonal.exp())

    def _call(self, x: Tensor) -> Tensor:
        return self.loc + x @ self._root().mT

    def _inverse(self, y: Tensor) -> Tensor:
        return torch.linalg.solve_triangular(self._root(), (y - self.loc).unsqueeze(-1), upper=False).squeeze(-1)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return self.log_diagonal.sum().expand(x.shape[:-1])


def build(name: str, target: Target, seed: int) -> tuple[Any, float]:
    """A guide that has seen its model, and the CPU seconds of the search for where it starts."""
    start = time.process_time()
    ours = flow(target, seed)
    seconds = time.process_time() - start
    if name == "auto_hamiltonian_flow":
        return ours, seconds
    kind = name.split("_", 1)[1]
    budget = sum(p.numel() for p in ours.parameters())
    there = {"init_loc_fn": init_to_value(values=ours.median())}
    # Fresh, ours is an affine map of the first half of its noise.
    transform, zero = ours.get_transform(), torch.zeros(2 * ours.latent_dim)
    loc = transform(zero).detach()
    root = torch.autograd.functional.jacobian(transform, zero)[:, : ours.latent_dim]
    started = name.startswith("started")

    def normalising(layers: Any) -> AutoNormalizingFlow:
        parts = [layers(ours.latent_dim), Affine(loc, root)]
        return AutoNormalizingFlow(target.model, lambda dim: ComposeTransformModule(parts))

    def layers(width: int) -> Any:
        if kind == "iaf":
            return partial(iterated, 2, partial(affine_autoregressive, hidden_dims=[width]))
        return partial(iterated, 3, partial(spline_coupling, hidden_dims=[width]))

    makers: dict[str, Any] = {
        "auto_normal": lambda width: AutoNormal(target.model, **there),
        "auto_multivariate_normal": lambda width: AutoMultivariateNormal(target.model, **there),
        "auto_iaf": lambda width: AutoIAFNormal(target.model, hidden_dim=[width], num_transforms=2),
        "auto_spline": lambda width: AutoNormalizingFlow(target.model, layers(width)),
        "started_multivariate_normal": lambda width: AutoMultivariateNormal(target.model),
        "started_iaf": lambda width: normalising(layers(width)),
        "started_spline": lambda width: normalising(layers(width)),
    }
    width = ours.latent_dim
    while True:
        pyro.clear_param_store()
        torch.manual_seed(seed)
        guide = makers[name](width)
        guide()
        if kind in ("normal", "multivariate_normal") or sum(p.numel() for p in guide.parameters()) >= budget:
            break
        width += 2
    if name == "started_multivariate_normal":
        diagonal = root.diagonal()
        guide.loc.data.copy_(loc)
        guide.scale, guide.scale_tril = diagonal, root.tril() / diagonal[:, None]
    return guide, seconds if started else 0.0


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
