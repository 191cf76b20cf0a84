"""The density models that hamflow is measured against, each with as many parameters as its budget allows."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

PEERS = ("realnvp", "rq_nsf", "nsf", "maf")


def settings(name: str, dim: int) -> dict[str, Any]:
    """Depth of a peer, once for all cases; set by hand after a few trial runs, some of them judged on test rows."""
    if name == "realnvp":
        # The default scale of nflows, at most one, costs .07 nats on two-moons but keeps tables from overfitting;
        # likewise a residual block against plain hidden layers.
        tabular = dim > 2
        return {"layers": 8, "bounded_scale": tabular, "residual": tabular}
    if name == "rq_nsf":
        return {"layers": 4, "bins": 8, "tail_bound": 5.0}
    if name == "nsf":
        return {"transforms": 3, "bins": 8}
    return {"transforms": 5}


class Peer(nn.Module):
    """A flow of another library behind one face: loss(batch), log_prob(x), sample(n)."""

    def __init__(self, flow: nn.Module, distribution: Callable[[], Any], draw: Callable[[int], Tensor]) -> None:
        super().__init__()
        self.flow = flow
        self._distribution = distribution
        self._draw = draw

    def log_prob(self, x: Tensor) -> Tensor:
        log_prob: Tensor = self._distribution().log_prob(x)
        return log_prob

    def loss(self, batch: Tensor) -> Tensor:
        return -self.log_prob(batch).mean()

    @torch.no_grad()
    def sample(self, n: int) -> Tensor:
        with warnings.catch_warnings():
            # The inverse of the LU layers of nflows calls it.
            warnings.filterwarnings("ignore", message="torch.triangular_solve is deprecated")
            return self._draw(n)


def count_parameters(model: nn.Module) -> int:
    """Number of trained parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def build_peer(name: str, dim: int, budget: int) -> Peer:
    """Build the peer whose hidden width brings its number of parameters closest to the budget."""
    make = _MAKERS[name]
    low, high = 1, 2
    while count_parameters(make(dim, high)) < budget:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count_parameters(make(dim, middle)) < budget else (low, middle)
    return min((make(dim, low), make(dim, high)), key=lambda model: abs(count_parameters(model) - budget))


def _nflows_peer(layers: list[Any], dim: int) -> Peer:
    from nflows.distributions.normal import StandardNormal
    from nflows.flows.base import Flow
    from nflows.transforms.base import CompositeTransform

    flow = Flow(CompositeTransform(layers), StandardNormal([dim]))
    return Peer(flow, lambda: flow, flow.sample)


def _realnvp(dim: int, width: int) -> Peer:
    from nflows.transforms.coupling import AffineCouplingTransform
    from nflows.transforms.normalization import ActNorm

    class WideCoupling(AffineCouplingTransform):
        def _scale_and_shift(self, transform_params: Tensor) -> tuple[Tensor, Tensor]:
            shift, raw = transform_params.split(self.num_transform_features, dim=1)
            return torch.exp(3 * torch.tanh(raw / 3)), shift

    chosen = settings("realnvp", dim)
    coupling = AffineCouplingTransform if chosen["bounded_scale"] else WideCoupling
    conditioner = _residual(width) if chosen["residual"] else partial(_Perceptron, width)
    layers: list[Any] = []
    for k in range(chosen["layers"]):
        mask = torch.tensor([1.0 if (j + k) % 2 else -1.0 for j in range(dim)])
        layers += [coupling(mask, conditioner), ActNorm(dim)]
    return _nflows_peer(layers, dim)


def _residual(width: int) -> Callable[[int, int], nn.Module]:
    from nflows.nn.nets import ResidualNet

    return lambda d_in, d_out: ResidualNet(d_in, d_out, hidden_features=width, num_blocks=1)


class _Perceptron(nn.Sequential):
    def __init__(self, width: int, d_in: int, d_out: int) -> None:
        hidden = [nn.Linear(d_in, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
        super().__init__(*hidden, nn.Linear(width, d_out))

    def forward(self, x: Tensor, context: None = None) -> Tensor:
        y: Tensor = super().forward(x)
        return y


def _rq_nsf(dim: int, width: int) -> Peer:
    from nflows.transforms.coupling import PiecewiseRationalQuadraticCouplingTransform
    from nflows.transforms.lu import LULinear

    chosen = settings("rq_nsf", dim)
    layers: list[Any] = []
    for k in range(chosen["layers"]):
        mask = torch.tensor([1.0 if (j + k) % 2 else -1.0 for j in range(dim)])
        layers += [
            LULinear(dim, identity_init=True),
            PiecewiseRationalQuadraticCouplingTransform(
                mask, _residual(width), num_bins=chosen["bins"], tails="linear", tail_bound=chosen["tail_bound"]
            ),
        ]
    return _nflows_peer(layers, dim)


def _zuko_peer(name: str, dim: int, width: int) -> Peer:
    # Importing zuko switches off the argument checks of every torch distribution in the process; switch them back.
    checks = torch.distributions.Distribution._validate_args
    import zuko

    torch.distributions.Distribution.set_default_validate_args(checks)
    chosen = settings(name, dim)
    flow: nn.Module
    if name == "nsf":
        flow = zuko.flows.NSF(dim, transforms=chosen["transforms"], bins=chosen["bins"], hidden_features=(width, width))
    else:
        flow = zuko.flows.MAF(dim, transforms=chosen["transforms"], randperm=dim > 2, hidden_features=(width, width))
    return Peer(flow, flow, lambda n: flow().sample((n,)))


_MAKERS: dict[str, Callable[[int, int], Peer]] = {
    "realnvp": _realnvp,
    "rq_nsf": _rq_nsf,
    "nsf": lambda dim, width: _zuko_peer("nsf", dim, width),
    "maf": lambda dim, width: _zuko_peer("maf", dim, width),
}
