"""Maps of positions alone that end the map of a guide: tails coordinate by coordinate, and an affine map in turn."""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.nn import ConditionalAutoRegressiveNN
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

#: Log scales beyond this are a runaway, not a posterior; up to a third of it they go on straight, as a funnel's do.
_LARGEST = 15.0
#: What is learned of tails counts by this, so that a step of an optimiser changes no tail at once.
_GAIN = 0.5


class TailLift(nn.Module):
    r"""Tails and a skew for every coordinate, the sinh-arcsinh map, the identity when fresh,

    .. math:: S_i(y) = \sinh\bigl(e^{b_i} (\operatorname{arsinh} y_i + a_i)\bigr) .

    With b > 0 the tails of a Gaussian become heavier, with b < 0 lighter; a makes one heavier than the other.

    Args:
        dim: d.

    References:
        Jones and Pewsey (2009), Sinh-arcsinh distributions, Biometrika 96, 761.

    Example:
        >>> import torch
        >>> from hamflow.inference.lifts import TailLift
        >>> lift, y = TailLift(3), torch.randn(5, 3)
        >>> x, log_det = lift(y)
        >>> torch.allclose(lift.inverse(x)[0], y, atol=1e-5), log_det.shape
        (True, torch.Size([5]))
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.shape = nn.Parameter(torch.zeros(2, dim))

    def forward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """The map and its log-det, (*batch, d) -> (*batch, d) and (*batch,)."""
        skew, weight = (_GAIN * self.shape).unbind()
        if torch._C._are_functorch_transforms_active():
            u = (torch.asinh(y) + skew) * weight.exp()
            return torch.sinh(u), _log_det(u, y, weight)
        x, log_det = _SinhArcsinh.apply(y, skew, weight.exp())
        return x, log_det + weight.sum()

    def inverse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The inverse, and the log-det of the map there."""
        skew, weight = (_GAIN * self.shape).unbind()
        u = torch.asinh(x)
        y = torch.sinh(u * (-weight).exp() - skew)
        return y, _log_det(u, y, weight)


def _log_det(u: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    return (_log_cosh(u) + weight - 0.5 * torch.log1p(y * y)).sum(-1)


def _log_cosh(u: Tensor) -> Tensor:
    # Without overflow.
    size = u.abs()
    return size + functional.softplus(-2 * size) - math.log(2)


class _SinhArcsinh(torch.autograd.Function):
    # Its dozen nodes take longer than its numbers.
    @staticmethod
    def forward(ctx: Any, y: Tensor, skew: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        wide = torch.asinh(y).add_(skew)
        u = wide * weight
        x = torch.sinh(u)
        square = 1 + y * y
        ctx.save_for_backward(y, wide, u, x, square, weight)
        return x, (_log_cosh(u) - 0.5 * square.log()).sum(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y, wide, u, x, square, weight = ctx.saved_tensors
        g_x, g_log = gradients[0], gradients[1].unsqueeze(-1)
        # dx/du is cosh u, and the slope of its logarithm tanh u.
        g_u = g_x * torch.sqrt(1 + x * x) + g_log * torch.tanh(u)
        g_wide = g_u * weight
        g_y = g_wide * square.rsqrt() - g_log * (y / square)
        d = y.shape[-1]
        return g_y, g_wide.reshape(-1, d).sum(0), (g_u * wide).reshape(-1, d).sum(0)


class AffineLift(nn.Module):
    r"""The autoregressive affine map :math:`\Lambda_i(y) = m_i(y_{<i}) + e^{s_i(y_{<i})} y_i`, the identity when fresh.

    Args:
        dim: d, 2 or more.
        width: of the network of m and s; d where that is more.
        context_dim: columns of a context that m and s see too.

    Example:
        >>> import torch
        >>> from hamflow.inference.lifts import AffineLift
        >>> lift, y = AffineLift(3, 8), torch.randn(5, 3)
        >>> x, log_det = lift(y)
        >>> torch.equal(lift.inverse(x)[0], y), log_det.shape
        (True, torch.Size([5]))
    """

    def __init__(self, dim: int, width: int, *, context_dim: int = 0) -> None:
        super().__init__()
        # In the order of the model, where scales come before what they scale. Bounded units and a linear part: far out,
        # where nothing was learned, log scales go on straight.
        order: Any = torch.arange(dim)
        self.network = ConditionalAutoRegressiveNN(
            dim, context_dim, [max(width, dim)], nonlinearity=nn.Tanh(), skip_connections=True, permutation=order
        )
        for layer in (self.network.layers[-1], self.network.skip_layer):
            assert isinstance(layer, nn.Linear)
            for weights in layer.parameters():
                nn.init.zeros_(weights)

    @torch.no_grad()
    def set_shift(self, lower: Tensor) -> None:
        """Let m be a linear function of y, by a strictly lower triangle (d, d), where the map is fresh."""
        skip = self.network.skip_layer
        assert isinstance(skip, nn.Linear)
        # Shifts come first among the outputs, and y last among the inputs.
        skip.weight[: len(lower), -len(lower) :] = lower

    def forward(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The map and its log-det, (*batch, d) -> (*batch, d) and (*batch,)."""
        shift, log_scale = self._moments(y, context)
        return shift + log_scale.exp() * y, log_scale.sum(-1)

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The inverse, one coordinate after the other, and the log-det of the map there."""
        y = torch.zeros_like(x)
        for i in range(x.shape[-1]):
            shift, log_scale = self._moments(y, context)
            solved = (x[..., i] - shift[..., i]) * (-log_scale[..., i]).exp()
            y = torch.cat((y[..., :i], solved.unsqueeze(-1), y[..., i + 1 :]), -1)
        return y, self._moments(y, context)[1].sum(-1)

    def _moments(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        shift, log_scale = self.network(y, y[..., :0] if context is None else context)
        return shift, _LARGEST * torch.tanh(log_scale / _LARGEST)
