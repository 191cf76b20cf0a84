"""The gradient of an energy as a function of all that it depends on: what a step needs to go back without a graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hamflow.errors import InputError

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
        complete: whether the value depends on nothing else that has a gradient; if not, the rest is looked for.

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
    complete: bool = False

    def __call__(self, x: Tensor) -> Tensor:
        """The gradient, (*batch, d) -> (*batch, d)."""
        return self.kept(x)[0]

    def kept(self, x: Tensor) -> tuple[Tensor, ...]:
        """The gradient, and what the pullback needs.

        Raises:
            InputError: the value is no tuple.
        """
        found = self.value(x, *self.tensors)
        if not isinstance(found, tuple):
            raise InputError(f"value of a Slope gave a {type(found).__name__}, expected a tuple such as (gradient,)")
        return found

    def pulled(self, found: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """What the pullback gave.

        Raises:
            InputError: it is not one result by x and one by each tensor.
        """
        if not isinstance(found, tuple) or len(found) != 1 + len(self.tensors):
            came = f"{len(found)} results" if isinstance(found, tuple) else f"a {type(found).__name__}"
            raise InputError(
                f"pullback of a Slope gave {came}, expected a tuple of {1 + len(self.tensors)}: by x and by each of "
                f"{len(self.tensors)} tensors"
            )
        return found


def learned(module: nn.Module) -> tuple[Tensor, ...]:
    """All leaves with a gradient that a module holds, or that what it holds was computed of."""
    held = (
        tensor
        for part in module.modules()
        for tensor in (*part._parameters.values(), *part._buffers.values(), *vars(part).values())
    )
    return leaves(tensor for tensor in held if isinstance(tensor, Tensor))


def leaves(tensors: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """The tensors at the ends of graphs, which gradients flow to."""
    found = {id(tensor): tensor for tensor in tensors if tensor.requires_grad}
    waiting, seen = [tensor.grad_fn for tensor in found.values()], set()
    found = {key: tensor for key, tensor in found.items() if tensor.grad_fn is None}
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            found.setdefault(id(leaf), leaf)
        waiting += [following for following, _ in node.next_functions]
    return tuple(found.values())


def summed_to(x: Tensor, shape: torch.Size) -> Tensor:
    """The sum over what was broadcast, of a cotangent: (*batch, n) -> shape."""
    return x if x.shape == shape else x.sum_to_size(shape)
