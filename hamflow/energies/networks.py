"""Learned energies whose gradient has a closed form, so that a force costs no backward pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from hamflow.energies.hamiltonian import Energy, Time
from hamflow.energies.slope import Slope
from hamflow.errors import InputError, check_choice, check_positive


class _Activation(NamedTuple):
    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]
    # Of the slope by its argument, given (a cotangent, the argument, the slope).
    bend: Callable[[Tensor, Tensor, Tensor], Tensor]


def _log_cosh(x: Tensor) -> Tensor:
    # log cosh x without overflow; the constant keeps its minimum at zero.
    return functional.softplus(2 * x) - x - math.log(2)


_ACTIVATIONS = {
    "log_cosh": _Activation(_log_cosh, torch.tanh, lambda u, x, slope: torch.ops.aten.tanh_backward(u, slope)),
    "softplus": _Activation(
        functional.softplus, torch.sigmoid, lambda u, x, slope: torch.ops.aten.sigmoid_backward(u, slope)
    ),
    "sine": _Activation(torch.sin, torch.cos, lambda u, x, slope: -u * torch.sin(x)),
}


def _ridge(activation: str) -> tuple[Callable[..., Tensor], Callable[..., tuple[Tensor, ...]]]:
    slope_of, bend = _ACTIVATIONS[activation].slope, _ACTIVATIONS[activation].bend

    def value(x: Tensor, weight: Tensor, bias: Tensor, amplitude: Tensor) -> Tensor:
        slope = slope_of(functional.linear(x, weight, bias))
        # a scales the small weight matrix rather than the large batch of slopes.
        return slope @ (amplitude.unsqueeze(-1) * weight)

    def pullback(x: Tensor, u: Tensor, weight: Tensor, bias: Tensor, amplitude: Tensor) -> tuple[Tensor, ...]:
        shape = x.shape
        x, u = x.reshape(-1, shape[-1]), u.reshape(-1, shape[-1])
        inner = torch.addmm(bias, x, weight.mT)
        slope = slope_of(inner)
        scaled = amplitude.unsqueeze(-1) * weight
        bent = bend(u @ scaled.mT, inner, slope)
        across = slope.mT @ u
        g_weight = torch.addmm(amplitude.unsqueeze(-1) * across, bent.mT, x)
        g_amplitude = (across * weight).sum(-1)
        return (slope @ scaled).view(shape), (bent @ weight).view(shape), g_weight, bent.sum(0), g_amplitude

    return value, pullback


_RIDGES = {name: _ridge(name) for name in _ACTIVATIONS}


class RidgePotential(Energy):
    r"""A sum of ridge functions with a closed-form gradient,

    .. math:: V(q) = \sum_k a_k\, \phi(w_k \cdot q + b_k), \qquad
              \nabla V(q) = W^\top \bigl(a \odot \phi'(W q + b)\bigr).

    The amplitudes start at zero, so a fresh potential exerts no force. With ``layers`` each layer has its own weights
    (the time-dependent Hamiltonian that densities need); one layer is the autonomous potential that dynamics need.

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
        k = self.layer(t)
        return _RIDGES[self.activation][0](x, self.weight[k], self.bias[k], self.amplitude[k])

    def slopes(self, times: Sequence[Time]) -> list[Slope]:
        """The gradients at many times, in closed form with their derivatives."""
        value, pullback = _RIDGES[self.activation]
        # At once: a layer that is picked later costs a gradient of the size of all layers.
        layers = list(zip(self.weight.unbind(), self.bias.unbind(), self.amplitude.unbind(), strict=True))
        return [Slope(value, layers[self.layer(t)], pullback) for t in times]


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
        k = self.layer(t)
        return _mlp_gradient(x, self.readout[k], *(part[k] for part in (*self.weights, *self.biases)))

    def slopes(self, times: Sequence[Time]) -> list[Slope]:
        """The gradients at many times, in closed form with their derivatives."""
        layers = list(zip(*(part.unbind() for part in (self.readout, *self.weights, *self.biases)), strict=True))
        return [Slope(_mlp_gradient, layers[self.layer(t)], _mlp_pullback) for t in times]


def _mlp_gradient(x: Tensor, readout: Tensor, *parameters: Tensor) -> Tensor:
    # Of the weights of all hidden layers, then their biases.
    n = len(parameters) // 2
    states = []
    for weight, bias in zip(parameters[:n], parameters[n:], strict=True):
        x = torch.tanh(functional.linear(x, weight, bias))
        states.append(x)
    cotangent = readout.expand_as(states[-1])
    for state, weight in zip(reversed(states), reversed(parameters[:n]), strict=True):
        # (1 - h^2) times the cotangent as one operation: large batches wait for memory, not for arithmetic.
        cotangent = torch.ops.aten.tanh_backward(cotangent, state) @ weight
    return cotangent


def _mlp_pullback(x: Tensor, u: Tensor, readout: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
    # With h_i = tanh(W_i h_{i-1} + b_i): the gradient goes down, c_i = d_{i+1} W_{i+1} and d_i = c_i (1 - h_i^2); its
    # cotangents e_i of d_i go up, and those of the h_i down again.
    n, shape = len(parameters) // 2, x.shape
    weights, biases = parameters[:n], parameters[n:]
    x, u = x.reshape(-1, shape[-1]), u.reshape(-1, shape[-1])
    states = [x]
    for weight, bias in zip(weights, biases, strict=True):
        states.append(torch.addmm(bias, states[-1], weight.mT).tanh_())
    cotangents, d = [readout.expand_as(states[-1])], [x] * n
    for i in reversed(range(n)):
        d[i] = torch.ops.aten.tanh_backward(cotangents[0], states[i + 1])
        cotangents.insert(0, d[i] @ weights[i])
    bent: list[Tensor] = []
    g_weights: list[Tensor] = []
    g_biases: list[Tensor] = []
    down = u
    for i in range(n):
        up = down @ weights[i].mT
        g_weights.append(d[i].mT @ down)
        bent.append(up * cotangents[i + 1] * states[i + 1])
        down = torch.ops.aten.tanh_backward(up, states[i + 1])
    g_readout, g_state = down.sum(0), torch.zeros_like(down)
    for i in reversed(range(n)):
        inner = torch.ops.aten.tanh_backward(torch.sub(g_state, bent[i], alpha=2), states[i + 1])
        g_biases.insert(0, inner.sum(0))
        g_weights[i] = torch.addmm(g_weights[i], inner.mT, states[i])
        g_state = inner @ weights[i]
    return cotangents[0].view(shape), g_state.view(shape), g_readout, *g_weights, *g_biases
