"""The gradient of an energy as a function of all that it depends on: what a step needs to go back without a graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

#: Of (x, cotangent, *tensors): the gradient, and the products of the cotangent with its derivatives by x and by each.
Pullback = Callable[..., tuple[Tensor, ...]]


class Slope(NamedTuple):
    r"""The gradient of an energy at one time, :math:`g(x; \theta) = \nabla_x E(x, t; \theta)`.

    Args:
        value: g, of x of shape (*batch, d) and of the tensors, -> (*batch, d).
        tensors: :math:`\theta`, with their graph: what has to be computed once for many steps is in them.
        pullback: of (x, u, *tensors) the triple of g, :math:`u^\top \partial g / \partial x` and, one for each tensor,
            :math:`u^\top \partial g / \partial \theta`, in closed form; None where there is none.
        complete: whether the value depends on nothing else that has a gradient. Where a user wrote it nobody knows.

    Example:
        >>> import torch, hamflow as hf
        >>> V, x = hf.RidgePotential(2, width=8, layers=3), torch.randn(5, 2)
        >>> slope = V.slopes([0.0, 1.0, 2.0])[1]
        >>> torch.equal(slope.value(x, *slope.tensors), V.gradient(x, 1.0)), len(slope.tensors)
        (True, 3)
    """

    value: Callable[..., Tensor]
    tensors: tuple[Tensor, ...] = ()
    pullback: Pullback | None = None
    complete: bool = True

    def __call__(self, x: Tensor) -> Tensor:
        """The gradient, (*batch, d) -> (*batch, d)."""
        return self.value(x, *self.tensors)


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
