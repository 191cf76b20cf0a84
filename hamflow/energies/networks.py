"""Learned energies whose gradient has a closed form, so that a force costs no backward pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from hamflow.energies.hamiltonian import Energy, Time
from hamflow.energies.slope import Pullback, Slope, Value
from hamflow.errors import InputError, check_choice, check_positive


class _Activation(NamedTuple):
    value: Callable[[Tensor], Tensor]
    # The slope at x is scale * curve(rate * x) + offset: a tanh is a sigmoid, which takes a fraction of the time.
    rate: float
    scale: float
    offset: float
    curve: Callable[[Tensor], Tensor]
    # Of the curve by its argument, given (a cotangent, the curve, what computes the argument again).
    bend: Callable[[Tensor, Tensor, Callable[[], Tensor]], Tensor]


def _of_layers(
    energy: Energy,
    times: Sequence[Time],
    folded: Callable[[slice], tuple[Tensor, ...]],
    value: Value,
    pullback: Pullback,
) -> list[Slope]:
    # Those between the first and the last at once: what is picked later costs a gradient of the size of all.
    layers = [energy.layer(t) for t in times]
    first, last = min(layers, default=0), max(layers, default=0) + 1
    found = zip(*(part.unbind() for part in folded(slice(first, last))), strict=True)
    slopes = [Slope(value, tensors, pullback, complete=True) for tensors in found]
    return [slopes[k - first] for k in layers]


def _log_cosh(x: Tensor) -> Tensor:
    # log cosh x without overflow; the constant keeps its minimum at zero.
    return functional.softplus(2 * x) - x - math.log(2)


def _sigmoid_bend(u: Tensor, curve: Tensor, argument: Callable[[], Tensor]) -> Tensor:
    return torch.ops.aten.sigmoid_backward(u, curve)


_ACTIVATIONS = {
    "log_cosh": _Activation(_log_cosh, 2.0, 2.0, -1.0, torch.sigmoid_, _sigmoid_bend),
    "softplus": _Activation(functional.softplus, 1.0, 1.0, 0.0, torch.sigmoid_, _sigmoid_bend),
    "sine": _Activation(torch.sin, 1.0, 1.0, 0.0, torch.cos, lambda u, curve, argument: -u * torch.sin(argument())),
}


#: In low precision what a sigmoid rounds off at one half is not to be told from a small tanh.
_COARSE = _ACTIVATIONS | {
    "log_cosh": _Activation(
        _log_cosh, 1.0, 1.0, 0.0, torch.tanh, lambda u, curve, argument: torch.ops.aten.tanh_backward(u, curve)
    )
}


def _is_coarse(x: Tensor) -> bool:
    return torch.finfo(x.dtype).bits < 32 or torch.is_autocast_enabled(x.device.type)


def _ridge(activation: _Activation) -> tuple[Value, Pullback]:
    # Of W' and b at the rate of the curve, of the weights that its values are given, and of the sum of their offsets;
    # both weights are (d, width), since products of few columns are slow the other way round.
    def value(x: Tensor, weight: Tensor, bias: Tensor, out: Tensor, shift: Tensor) -> tuple[Tensor, ...]:
        # As a matrix: of more dimensions linear gives a view, and what is computed in place of a view is copied later.
        curve = activation.curve(functional.linear(x.reshape(-1, x.shape[-1]), weight.mT, bias))
        return functional.linear(curve, out, shift).view(x.shape), curve

    def pullback(
        x: Tensor, u: Tensor, kept: tuple[Tensor, ...], weight: Tensor, bias: Tensor, out: Tensor, shift: Tensor
    ) -> tuple[Tensor, ...]:
        (curve,), shape = kept, x.shape
        x, u = (part.reshape(-1, part.shape[-1]) for part in (x, u))
        bent = activation.bend(u @ out, curve, lambda: torch.addmm(bias, x, weight))
        return (bent @ weight.mT).view(shape), x.mT @ bent, bent.sum(0), u.mT @ curve, u.sum(0)

    return value, pullback


_RIDGES, _COARSE_RIDGES = (
    {name: _ridge(activation) for name, activation in table.items()} for table in (_ACTIVATIONS, _COARSE)
)


class RidgePotential(Energy):
    r"""A sum of ridge functions with a closed-form gradient,

    .. math:: V(q) = \sum_k a_k\, \phi(w_k \cdot q + b_k), \qquad
              \nabla V(q) = W^\top \bigl(a \odot \phi'(W q + b)\bigr).

    The force is rounded as its terms are, so where they cancel its relative error grows: in single precision it is
    known to about 1e-7 of :math:`\sum_k |a_k w_k|`. The amplitudes start at zero, so a fresh potential exerts no force.
    With ``layers`` each layer has its own weights (the time-dependent Hamiltonian that densities need); one layer is
    the autonomous potential that dynamics need.

    Args:
        dim: d, the number of degrees of freedom.
        width: the number of ridges.
        activation: :math:`\phi`, one of ``"log_cosh"``, ``"softplus"``, ``"sine"``.
        layers, spacing: see :class:`Energy`.

    Raises:
        InputError: an argument is out of range.

    References:
        Jin et al. (2020), SympNets, arXiv 2001.03750, where this gradient is called a gradient module.

    Example:
        >>> import torch, hamflow as hf
        >>> V = hf.RidgePotential(3, width=8)
        >>> V(torch.randn(4, 3)).shape, V.gradient(torch.randn(4, 3)).shape
        (torch.Size([4]), torch.Size([4, 3]))
    """

    def __init__(
        self, dim: int, width: int = 64, *, activation: str = "log_cosh", layers: int = 1, spacing: float = 1.0
    ) -> None:
        super().__init__(layers=layers, spacing=spacing)
        check_positive("dim", dim, integer=True)
        check_positive("width", width, integer=True)
        check_choice("activation", activation, tuple(_ACTIVATIONS))
        self.activation = activation
        # Ridges cross standardised data at all angles and offsets; 1.5 makes a tanh bend within one standard deviation.
        direction = functional.normalize(torch.randn(layers, width, dim), dim=-1)
        self.weight = nn.Parameter(1.5 * direction)
        self.bias = nn.Parameter(1.5 * torch.randn(layers, width))
        self.amplitude = nn.Parameter(torch.zeros(layers, width))

    def forward(self, x: Tensor, t: Time = 0.0) -> Tensor:
        """The energy, (*batch, d) -> (*batch,)."""
        k = self.layer(t)
        phi = _ACTIVATIONS[self.activation].value
        return phi(functional.linear(x, self.weight[k], self.bias[k])) @ self.amplitude[k]

    def gradient(self, x: Tensor, t: Time = 0.0) -> Tensor:
        """The gradient, (*batch, d) -> (*batch, d)."""
        # By name: a class that changes the gradient has slopes that are made of it.
        return RidgePotential.slopes(self, [t])[0](x)

    def slopes(self, times: Sequence[Time]) -> list[Slope]:
        """The gradients at many times, in closed form with their derivatives."""
        known, ridges = (_COARSE, _COARSE_RIDGES) if _is_coarse(self.weight) else (_ACTIVATIONS, _RIDGES)
        return _of_layers(self, times, partial(self._folded, known[self.activation]), *ridges[self.activation])

    def _folded(self, activation: _Activation, layers: slice) -> tuple[Tensor, ...]:
        weight, bias, amplitude = (part[layers] for part in (self.weight, self.bias, self.amplitude))
        weight = weight.mT.contiguous()
        out = amplitude.unsqueeze(-2) * weight
        shift = activation.offset * out.sum(-1)
        return activation.rate * weight, activation.rate * bias, activation.scale * out, shift


class MLPPotential(Energy):
    r"""A multilayer perceptron :math:`V(q) = u^\top \tanh(W_n \cdots \tanh(W_1 q + b_1) \cdots + b_n)`.

    The gradient is written out by the chain rule, :math:`\nabla V = W_1^\top D_1 \cdots W_n^\top D_n u` with
    :math:`D_i = \operatorname{diag}(1 - h_i^2)`, so training needs no double backward.

    Args:
        dim: d, the number of inputs.
        widths: the hidden widths.
        init: ``"scaled"``, Gaussian weights and a small readout, or ``"orthogonal"``, orthogonal weights of gain 1, the
            readout included, and uniform biases, as published for Hamiltonian Neural Networks.
        layers, spacing: see :class:`Energy`.

    Raises:
        InputError: an argument is out of range.

    References:
        Greydanus et al. (2019), Hamiltonian Neural Networks, arXiv 1906.01563, for MLP energies.

    Example:
        >>> import torch, hamflow as hf
        >>> V = hf.MLPPotential(2, widths=(16, 16))
        >>> V.gradient(torch.randn(7, 2)).shape
        torch.Size([7, 2])
    """

    def __init__(
        self,
        dim: int,
        widths: Sequence[int] = (64, 64),
        *,
        init: str = "scaled",
        layers: int = 1,
        spacing: float = 1.0,
    ) -> None:
        super().__init__(layers=layers, spacing=spacing)
        check_positive("dim", dim, integer=True)
        if not widths:
            raise InputError("widths is empty, expected at least one hidden width")
        for width in widths:
            check_positive("widths", width, integer=True)
        check_choice("init", init, ("scaled", "orthogonal"))
        sizes = [dim, *widths]
        self.weights = nn.ParameterList(
            torch.randn(layers, after, before) / math.sqrt(before) for before, after in pairwise(sizes)
        )
        self.biases = nn.ParameterList(torch.zeros(layers, after) for after in sizes[1:])
        self.readout = nn.Parameter(torch.randn(layers, sizes[-1]) * (0.1 / math.sqrt(sizes[-1])))
        if init == "orthogonal":
            self._make_orthogonal()

    def _make_orthogonal(self) -> None:
        for k in range(self.layers):
            for weight, bias in zip(self.weights, self.biases, strict=True):
                nn.init.orthogonal_(weight[k])
                bound = 1 / math.sqrt(weight.shape[-1])
                nn.init.uniform_(bias[k], -bound, bound)
            nn.init.orthogonal_(self.readout[k : k + 1])

    def forward(self, x: Tensor, t: Time = 0.0) -> Tensor:
        """The energy, (*batch, d) -> (*batch,)."""
        k = self.layer(t)
        for weight, bias in zip(self.weights, self.biases, strict=True):
            x = torch.tanh(functional.linear(x, weight[k], bias[k]))
        return x @ self.readout[k]

    def gradient(self, x: Tensor, t: Time = 0.0) -> Tensor:
        """The gradient, (*batch, d) -> (*batch, d)."""
        return MLPPotential.slopes(self, [t])[0](x)

    def slopes(self, times: Sequence[Time]) -> list[Slope]:
        """The gradients at many times, in closed form with their derivatives."""
        return _of_layers(self, times, self._folded, _sigmoids, _sigmoids_pullback)

    def _folded(self, layers: slice) -> tuple[Tensor, ...]:
        # tanh(x) = 2 sigmoid(2 x) - 1, so this is a perceptron of sigmoids, which take a fraction of the time.
        # Transposed: products of few columns are slow the other way round.
        weight, *weights = (part[layers].mT.contiguous() for part in self.weights)
        bias, *biases = (part[layers] for part in self.biases)
        after = [2 * (b - w.sum(-2)) for w, b in zip(weights, biases, strict=True)]
        return 2 * self.readout[layers], 2 * weight, *(4 * w for w in weights), 2 * bias, *after


def _sigmoids(x: Tensor, readout: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
    # The gradient of a perceptron of sigmoids, of the weights of all hidden layers, transposed, then their biases; it
    # goes down by c_i = d_{i+1} W_{i+1} and d_i = c_i h_i (1 - h_i). Kept are all h_i and c_i.
    n, shape = len(parameters) // 2, x.shape
    x, states = x.reshape(-1, x.shape[-1]), []
    for weight, bias in zip(parameters[:n], parameters[n:], strict=True):
        x = torch.sigmoid_(functional.linear(x, weight.mT, bias))
        states.append(x)
    down = [readout.expand_as(states[-1])]
    for state, weight in zip(reversed(states), reversed(parameters[:n]), strict=True):
        # As one operation: large batches wait for memory, not for arithmetic.
        down.append(torch.ops.aten.sigmoid_backward(down[-1], state) @ weight.mT)
    return down[-1].view(shape), *states, *down[1:-1]


def _sigmoids_pullback(
    x: Tensor, u: Tensor, kept: tuple[Tensor, ...], readout: Tensor, *parameters: Tensor
) -> tuple[Tensor, ...]:
    # Cotangents e_i of d_i go up, and those of the h_i down again.
    n, shape = len(parameters) // 2, x.shape
    weights = parameters[:n]
    x, u = (part.reshape(-1, part.shape[-1]) for part in (x, u))
    states, cotangents = [x, *kept[:n]], [*reversed(kept[n:]), readout.expand_as(kept[n - 1])]
    bent: list[Tensor] = []
    g_weights: list[Tensor] = []
    g_biases: list[Tensor] = []
    up = u
    for state, cotangent, weight in zip(states[1:], cotangents, weights, strict=True):
        g_weights.append(up.mT @ torch.ops.aten.sigmoid_backward(cotangent, state))
        up = up @ weight
        # Of h (1 - h) by h, the half of it.
        bent.append((0.5 - state) * cotangent * up)
        up = torch.ops.aten.sigmoid_backward(up, state)
    g_readout, g_state = up.sum(0), None
    for i in reversed(range(n)):
        both = 2 * bent[i] if g_state is None else torch.add(g_state, bent[i], alpha=2)
        inner = torch.ops.aten.sigmoid_backward(both, states[i + 1])
        g_biases.insert(0, inner.sum(0))
        g_weights[i] = torch.addmm(g_weights[i], states[i].mT, inner)
        g_state = inner @ weights[i].mT
    assert g_state is not None
    return g_state.view(shape), g_readout, *g_weights, *g_biases
