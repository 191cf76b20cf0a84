"""Ordinary coupling flows for the hybrid NHF."""

from __future__ import annotations

import torch
from pyro.distributions import transforms as pyro_transforms
from pyro.distributions.torch_transform import ComposeTransformModule

from hamflow.errors import InputError, check_choice, check_positive

KINDS = ("spline", "affine")


def coupling_flow(kind: str, dim: int, *, layers: int, width: int) -> ComposeTransformModule:
    r"""``layers`` coupling transforms of R^d with reversed coordinates between them.

    Args:
        kind: ``"spline"`` (rational linear) or ``"affine"``.
        dim: d, at least 2.
        layers: the number of coupling transforms.
        width: the width of their two hidden layers.

    Raises:
        InputError: an argument is out of range.

    References:
        Dinh et al. (2017), arXiv 1605.08803 (affine); Dolatabadi et al. (2020), arXiv 2001.05168 (spline).
    """
    check_choice("lift", kind, KINDS)
    check_positive("lift_layers", layers, integer=True)
    check_positive("lift_width", width, integer=True)
    if dim < 2:
        raise InputError(f"dim = {dim}, expected at least 2: a coupling flow needs coordinates to condition on")
    hidden = [width, width]
    parts = []
    for k in range(layers):
        if k > 0:
            parts.append(pyro_transforms.Permute(torch.arange(dim).flip(0)))
        if kind == "spline":
            parts.append(pyro_transforms.spline_coupling(dim, hidden_dims=hidden, count_bins=8, bound=5.0))
        else:
            parts.append(pyro_transforms.affine_coupling(dim, hidden_dims=hidden))
    return ComposeTransformModule(parts)
