"""Flows of other libraries, as they come, behind one face: loss(x), log_prob(x), sample(n)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Rival(nn.Module):
    """A density of another library.

    Args:
        parts: the modules that are trained.
        law: a new distribution, of event shape (d,).
    """

    def __init__(self, parts: nn.Module, law: Callable[[], Any]) -> None:
        super().__init__()
        self.parts = parts
        self._law = law

    def loss(self, x: Tensor) -> Tensor:
        return -self.log_prob(x).mean()

    def log_prob(self, x: Tensor) -> Tensor:
        found: Tensor = self._law().log_prob(x)
        return found

    @torch.no_grad()
    def sample(self, n: int) -> Tensor:
        found: Tensor = self._law().sample((n,))
        return found


def names(dim: int) -> list[str]:
    """Those that are timed in so many dimensions: an exact trace takes d backward passes a step of the solver."""
    return [name for name in _MAKERS if dim <= 16 or name not in ("zuko_cnf", "ffjord")]


def build(name: str, dim: int) -> Rival:
    """A contender by its name."""
    return _MAKERS[name](dim)


class _Nflows:
    # nflows draws by a number, the others by a shape.
    def __init__(self, flow: Any) -> None:
        self.flow = flow

    def log_prob(self, x: Tensor) -> Tensor:
        found: Tensor = self.flow.log_prob(x)
        return found

    def sample(self, shape: tuple[int]) -> Tensor:
        found: Tensor = self.flow.sample(shape[0])
        return found


def _nflows(layers: list[Any], dim: int) -> Rival:
    from nflows.distributions.normal import StandardNormal
    from nflows.flows.base import Flow
    from nflows.transforms.base import CompositeTransform

    flow = Flow(CompositeTransform(layers), StandardNormal([dim]))
    return Rival(flow, lambda: _Nflows(flow))


def _nflows_rq_nsf(dim: int) -> Rival:
    from nflows.transforms.autoregressive import MaskedPiecewiseRationalQuadraticAutoregressiveTransform
    from nflows.transforms.permutations import ReversePermutation

    layers: list[Any] = []
    for _ in range(5):
        layers += [
            ReversePermutation(dim),
            MaskedPiecewiseRationalQuadraticAutoregressiveTransform(
                dim, hidden_features=64, num_bins=8, tails="linear", tail_bound=5.0
            ),
        ]
    return _nflows(layers, dim)


def _nflows_realnvp(dim: int) -> Rival:
    from nflows.nn.nets import ResidualNet
    from nflows.transforms.coupling import AffineCouplingTransform

    def network(inside: int, outside: int) -> nn.Module:
        return ResidualNet(inside, outside, hidden_features=64, num_blocks=2)

    masks = [torch.arange(dim) % 2 == k % 2 for k in range(8)]
    return _nflows([AffineCouplingTransform(mask, network) for mask in masks], dim)


def _zuko(name: str, dim: int, **settings: Any) -> Rival:
    from torch.distributions import Distribution

    checks = Distribution._validate_args
    import zuko

    # It turns the checks of all distributions off.
    Distribution.set_default_validate_args(checks)
    flow = getattr(zuko.flows, name)(dim, **settings)
    return Rival(flow, lambda: flow())


def _pyro(dim: int, transforms: list[Any]) -> Rival:
    import pyro.distributions as dist

    base = dist.Normal(torch.zeros(dim), torch.ones(dim)).to_event(1)

    def law() -> Any:
        found = dist.TransformedDistribution(base, transforms)
        # The transforms keep the graph of the last rows, and would go through it again.
        found.clear_cache()
        return found

    return Rival(nn.ModuleList(transforms), law)


def _pyro_iaf(dim: int) -> Rival:
    from pyro.distributions.transforms import affine_autoregressive

    # Fast to draw from; a density of data goes through its inverse, one coordinate after the other.
    # Its masks ask for no fewer units than columns.
    width = max(64, dim)
    return _pyro(dim, [affine_autoregressive(dim, hidden_dims=[width, width]) for _ in range(3)])


def _pyro_spline(dim: int) -> Rival:
    from pyro.distributions.transforms import spline_coupling

    return _pyro(dim, [spline_coupling(dim, hidden_dims=[64, 64]) for _ in range(5)])


class _Field(nn.Module):
    # dx/dt and d log p/dt, the divergence by one random vector as in FFJORD.
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Linear(dim + 1, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, dim)
        )
        self.noise: Tensor | None = None

    def forward(self, t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        x = state[0]
        if self.noise is None:
            return self.network(torch.cat((x, t.expand(len(x), 1)), 1)), torch.zeros_like(state[1])
        with torch.enable_grad():
            x = x if x.requires_grad else x.detach().requires_grad_()
            v = self.network(torch.cat((x, t.expand(len(x), 1)), 1))
            along = torch.autograd.grad(v, x, self.noise, create_graph=True)[0]
        return v, -(along * self.noise).sum(1)


class _Ffjord:
    def __init__(self, field: _Field, dim: int) -> None:
        self.field, self.dim = field, dim

    def _solve(self, x: Tensor, begin: float, end: float) -> tuple[Tensor, Tensor]:
        from torchdiffeq import odeint_adjoint

        times = torch.tensor([begin, end])
        found = odeint_adjoint(self.field, (x, torch.zeros(len(x))), times, rtol=1e-5, atol=1e-5)
        return found[0][-1], found[1][-1]

    def log_prob(self, x: Tensor) -> Tensor:
        self.field.noise = torch.randint(0, 2, x.shape) * 2.0 - 1
        z, change = self._solve(x, 0.0, 1.0)
        return torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1) - change

    def sample(self, shape: tuple[int]) -> Tensor:
        self.field.noise = None
        return self._solve(torch.randn(shape[0], self.dim), 1.0, 0.0)[0]


def _ffjord(dim: int) -> Rival:
    field = _Field(dim)
    return Rival(field, lambda: _Ffjord(field, dim))


_MAKERS: dict[str, Callable[[int], Rival]] = {
    "nflows_rq_nsf": _nflows_rq_nsf,
    "nflows_realnvp": _nflows_realnvp,
    "zuko_nsf": lambda dim: _zuko("NSF", dim, transforms=5, bins=8, hidden_features=(64, 64)),
    "zuko_maf": lambda dim: _zuko("MAF", dim, transforms=5, hidden_features=(64, 64)),
    "zuko_cnf": lambda dim: _zuko("CNF", dim, hidden_features=(64, 64)),
    "ffjord": _ffjord,
    "pyro_iaf": _pyro_iaf,
    "pyro_spline": _pyro_spline,
}
