"""Rational quadratic splines that start as the identity."""

from __future__ import annotations

import math

import torch
from torch import nn

#: Outside of (-TAIL_BOUND, TAIL_BOUND) a spline is the identity.
TAIL_BOUND = 5.0
_LEAST_SLOPE = 1e-3  # what nflows adds to slopes so that they stay positive


@torch.no_grad()
def start_as_identity(layer: nn.Linear, bins: int) -> None:
    """Set the last layer of a network that parametrises nflows' splines so that these are the identity.

    Equal bins with unit slopes at the knots are: a coordinate takes widths, heights and inner slopes, 3 bins - 1
    numbers, and a slope is softplus(number) + a least slope.

    References:
        Durkan et al. (2019), Neural Spline Flows, arXiv 1906.04032.

    Example:
        >>> import torch
        >>> from hamflow.densities.splines import start_as_identity
        >>> layer = torch.nn.Linear(4, 2 * 23)
        >>> start_as_identity(layer, bins=8)
        >>> layer.weight.abs().max().item()
        0.0
    """
    unit_slope = math.log(math.expm1(1 - _LEAST_SLOPE))
    start = torch.cat((torch.zeros(2 * bins), torch.full((bins - 1,), unit_slope)))
    layer.weight.zero_()
    layer.bias.copy_(start.repeat(len(layer.bias) // len(start)))
