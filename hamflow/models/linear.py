"""An invertible linear map in the interface of nflows, for the lifts."""

from __future__ import annotations

import math

import torch
from nflows.transforms.base import Transform
from torch import Tensor, nn
from torch.nn.functional import linear, softplus

_LEAST = 1e-3  # of the diagonal


class LULinear(Transform):
    r"""The linear map :math:`y = L U x + b`, the identity when fresh, with :math:`\log|\det LU| = \sum_i \log U_{ii}`.

    L has a unit and U a positive diagonal, :math:`U_{ii} = \operatorname{softplus}(u_i) + 10^{-3}`. The parameters have
    the names and the order of the layer of the same name in nflows, whose inverse calls what torch has deprecated.

    Args:
        dim: d.

    References:
        Kingma and Dhariwal (2018), Glow, arXiv 1807.03039.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.bias = nn.Parameter(torch.zeros(dim))
        self.lower_entries = nn.Parameter(torch.zeros(dim * (dim - 1) // 2))
        self.upper_entries = nn.Parameter(torch.zeros(dim * (dim - 1) // 2))
        self.unconstrained_upper_diag = nn.Parameter(torch.full((dim,), math.log(math.expm1(1 - _LEAST))))
        # Buffers, because index tensors made anew in each call would have to go to the device each time.
        self.register_buffer("_below", torch.tril_indices(dim, dim, -1), persistent=False)
        self.register_buffer("_above", torch.triu_indices(dim, dim, 1), persistent=False)

    _below: Tensor
    _above: Tensor

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The map, (n, d), and its log-det, (n,); the context has no effect."""
        lower, upper, log_det = self._factors()
        return linear(linear(inputs, upper), lower, self.bias), log_det.expand(len(inputs))

    def inverse(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The inverse, (n, d), and its log-det, (n,); the context has no effect."""
        lower, upper, log_det = self._factors()
        half = torch.linalg.solve_triangular(lower.mT, inputs - self.bias, upper=True, left=False, unitriangular=True)
        return torch.linalg.solve_triangular(upper.mT, half, upper=False, left=False), -log_det.expand(len(inputs))

    def _factors(self) -> tuple[Tensor, Tensor, Tensor]:
        diagonal = softplus(self.unconstrained_upper_diag) + _LEAST
        zero = self.bias.new_zeros(self.dim, self.dim)
        lower = zero.index_put(tuple(self._below), self.lower_entries) + torch.ones_like(diagonal).diag()
        upper = zero.index_put(tuple(self._above), self.upper_entries) + diagonal.diag()
        return lower, upper, diagonal.log().sum()
