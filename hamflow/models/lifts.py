"""Ordinary coupling flows for the hybrid NHF."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Transform

from hamflow.densities.splines import TAIL_BOUND, start_as_identity
from hamflow.errors import InputError, check_choice, check_positive

KINDS = ("spline",)
_BINS = 8


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
    from nflows.nn.nets import ResidualNet
    from nflows.transforms import PiecewiseRationalQuadraticCouplingTransform

    def network(inputs: int, outputs: int) -> nn.Module:
        made = ResidualNet(inputs, outputs, hidden_features=width, num_blocks=1)
        start_as_identity(made.final_layer, _BINS)
        return made

    return PiecewiseRationalQuadraticCouplingTransform(
        mask, network, num_bins=_BINS, tails="linear", tail_bound=TAIL_BOUND
    )
