"""Ordinary coupling flows for the hybrid NHF."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributions import Transform

from hamflow.errors import InputError, check_choice, check_positive

KINDS = ("spline",)
_BINS = 8
_LEAST_SLOPE = 1e-3  # what nflows adds to slopes so that they stay positive


def coupling_flow(kind: str, dim: int, *, layers: int, width: int) -> Transform:
    r"""A flow of R^d, the identity when fresh: ``layers`` times a linear map (LU) and a coupling transform of nflows.

    Args:
        kind: ``"spline"``, rational quadratic.
        dim: d, at least 2.
        layers: the number of coupling transforms.
        width: the width of their residual networks.

    Raises:
        InputError: an argument is out of range.

    References:
        Durkan et al. (2019), Neural Spline Flows, arXiv 1906.04032.
    """
    from nflows.transforms import CompositeTransform

    from hamflow.interop.nflows import from_nflows
    from hamflow.models.linear import LULinear

    check_choice("lift", kind, KINDS)
    check_positive("lift_layers", layers, integer=True)
    check_positive("lift_width", width, integer=True)
    if dim < 2:
        raise InputError(f"dim = {dim}, expected at least 2: a coupling flow needs coordinates to condition on")
    parts: list[nn.Module] = []
    for k in range(layers):
        mask = torch.tensor([1.0 if (i + k) % 2 else -1.0 for i in range(dim)])
        parts += [LULinear(dim), _spline(mask, width)]
    return from_nflows(CompositeTransform(parts))


def _spline(mask: Tensor, width: int) -> nn.Module:
    from nflows.transforms import PiecewiseRationalQuadraticCouplingTransform

    # Equal bins with unit slopes at the knots are the identity; a slope is softplus(raw) + _LEAST_SLOPE.
    raw_slope = math.log(math.expm1(1 - _LEAST_SLOPE))
    start = torch.cat((torch.zeros(2 * _BINS), torch.full((_BINS - 1,), raw_slope)))
    return PiecewiseRationalQuadraticCouplingTransform(
        mask, lambda n_in, n_out: _network(n_in, n_out, width, start), num_bins=_BINS, tails="linear", tail_bound=5.0
    )


def _network(inputs: int, outputs: int, width: int, start: Tensor) -> nn.Module:
    from nflows.nn.nets import ResidualNet

    network = ResidualNet(inputs, outputs, hidden_features=width, num_blocks=1)
    with torch.no_grad():
        network.final_layer.weight.zero_()
        network.final_layer.bias.copy_(start.repeat(outputs // len(start)))
    return network
