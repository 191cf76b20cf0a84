"""The gradient of an energy as a function of all that it depends on: what a step needs to go back without a graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

#: Of (x, *tensors): the gradient, and what the way back needs of what was computed for it.
Value = Callable[..., tuple[Tensor, ...]]
#: Of (x, cotangent, kept, *tensors): the products of the cotangent with the derivatives by x and by each tensor.
Pullback = Callable[..., tuple[Tensor, ...]]


class Slope(NamedTuple):
    r"""The gradient of an energy at one time, :math:`g(x; \theta) = \nabla_x E(x, t; \theta)`.

    Args:
        value: of (x, *tensors), x of shape (*batch, d): a tuple of g, (*batch, d), and of intermediate results that the
            pullback needs again, if any.
        tensors: :math:`\theta`, with their graph: what has to be computed once for many steps is in them.
        pullback: of (x, u, kept, *tensors), kept being those results, in closed form: a tuple of
            :math:`u^\top \partial g / \partial x` and, one for each tensor,
            :math:`u^\top \partial g / \partial \theta`; None where there is none.
        complete: whether the value depends on nothing else that has a gradient. Where a user wrote it nobody knows.

    Example:
        >>> import torch, hamflow as hf
        >>> V, x = hf.RidgePotential(2, width=8, layers=3), torch.randn(5, 2)
        >>> slope = V.slopes([0.0, 1.0, 2.0])[1]
        >>> torch.equal(slope(x), V.gradient(x, 1.0)), len(slope.tensors)
        (True, 4)
    """

    value: Value
    tensors: tuple[Tensor, ...] = ()
    pullback: Pullback | None = None
    complete: bool = True

    def __call__(self, x: Tensor) -> Tensor:
        """The gradient, (*batch, d) -> (*batch, d)."""
        return self.value(x, *self.tensors)[0]


def learned(module: nn.Module) -> tuple[Tensor, ...]:
    """All tensors with a gradient that a module holds: parameters, and others kept with their graph."""
    found: dict[int, Tensor] = {}
    for part in module.modules():
        held: Iterator[Any] = iter((*part._parameters.values(), *part._buffers.values(), *vars(part).values()))
        for tensor in held:
            if isinstance(tensor, Tensor) and tensor.requires_grad:
                found.setdefault(id(tensor), tensor)
    return tuple(found.values())


def summed_to(x: Tensor, shape: torch.Size) -> Tensor:
    """The sum over what was broadcast, of a cotangent: (*batch, n) -> shape."""
    return x if x.shape == shape else x.sum_to_size(shape)
