"""A network with several outputs whose derivatives along and against directions are written out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from hamflow.errors import InputError, check_positive


class Perceptron(nn.Module):
    r"""A multilayer perceptron :math:`y = W_n \tanh(W_{n-1} \cdots \tanh(W_1 x + b_1) \cdots) + b_n`.

    Args:
        inputs: the number of inputs.
        outputs: the number of outputs.
        widths: the hidden widths.
        readout: the size of the last weights, in units of one over the root of their number; small, it starts as a
            constant.

    Raises:
        InputError: an argument is out of range.
    """

    def __init__(self, inputs: int, outputs: int, widths: Sequence[int], *, readout: float = 0.1) -> None:
        super().__init__()
        check_positive("inputs", inputs, integer=True)
        check_positive("outputs", outputs, integer=True)
        check_widths(widths)
        shapes = list(pairwise([inputs, *widths, outputs]))
        self.weights = nn.ParameterList(nn.init.orthogonal_(torch.empty(after, before)) for before, after in shapes)
        self.biases = nn.ParameterList((2 * torch.rand(after) - 1) / math.sqrt(before) for before, after in shapes[:-1])
        self.biases.append(torch.zeros(outputs))
        with torch.no_grad():
            self.weights[-1].copy_(torch.randn(outputs, widths[-1]) * (readout / math.sqrt(widths[-1])))

    def hidden(self, x: Tensor) -> list[Tensor]:
        """The hidden states, from the first layer to the last."""
        states = []
        for weight, bias in zip(list(self.weights)[:-1], list(self.biases)[:-1], strict=True):
            x = torch.tanh(functional.linear(x, weight, bias))
            states.append(x)
        return states

    def forward(self, x: Tensor) -> Tensor:
        """The outputs, (*batch, inputs) -> (*batch, outputs)."""
        return self.readout(self.hidden(x))

    def readout(self, states: list[Tensor]) -> Tensor:
        """The outputs of hidden states."""
        return functional.linear(states[-1], self.weights[-1], self.biases[-1])

    def pushforward(self, states: list[Tensor], direction: Tensor) -> Tensor:
        """How the outputs change along a direction of the inputs, (*batch, inputs) -> (*batch, outputs)."""
        for state, weight in zip(states, list(self.weights)[:-1], strict=True):
            direction = torch.ops.aten.tanh_backward(direction @ weight.mT, state)
        return direction @ self.weights[-1].mT

    def pullback(self, states: list[Tensor], slopes: Tensor) -> Tensor:
        """The slopes in the inputs of what has these slopes in the outputs, (*batch, outputs) -> (*batch, inputs)."""
        slopes = slopes @ self.weights[-1]
        for state, weight in zip(reversed(states), reversed(list(self.weights)[:-1]), strict=True):
            slopes = torch.ops.aten.tanh_backward(slopes, state) @ weight
        return slopes


def check_widths(widths: Sequence[int]) -> None:
    """Raise :class:`InputError` unless ``widths`` holds at least one positive integer."""
    if not widths:
        raise InputError("widths is empty, expected at least one hidden width")
    for width in widths:
        check_positive("widths", width, integer=True)
