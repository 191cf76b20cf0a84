"""All parameters of a module in one tensor, because Pyro keeps an optimiser for every parameter."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn


class Packed(nn.Module):
    r"""A module whose parameters are slices of one tensor.

    Pyro registers every parameter at each step and has an optimiser for each, so twenty small ones cost more than the
    mathematics that they are for. Methods of the module are called through this one, by their names.

    Args:
        module: what is packed; its parameters are taken over with their values, and are no longer its own.

    Attributes:
        values: all parameters, (n,).

    Example:
        >>> import torch
        >>> from hamflow.inference.packed import Packed
        >>> packed = Packed(torch.nn.Linear(3, 2))
        >>> packed("forward", torch.ones(4, 3)).shape, [tuple(p.shape) for p in packed.parameters()]
        (torch.Size([4, 2]), [(8,)])
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        own = dict(module.named_parameters())
        self.module = module
        self.values = nn.Parameter(torch.cat([value.detach().flatten() for value in own.values()]))
        self._shapes = tuple(value.shape for value in own.values())
        self._places = []
        for name, value in own.items():
            owner, _, leaf = name.rpartition(".")
            part = module.get_submodule(owner)
            # A buffer in its place, empty between calls: a slice has a graph, and cannot be copied or saved.
            delattr(part, leaf)
            part.register_buffer(leaf, value.new_empty(0), persistent=False)
            self._places.append((part, leaf))

    def forward(self, method: str, *arguments: Any) -> Any:
        """What a method of the module gives."""
        parts = self.values.split([math.prod(shape) for shape in self._shapes])
        for (owner, leaf), part, shape in zip(self._places, parts, self._shapes, strict=True):
            # Not by setattr, whose checks take longer than a layer.
            owner._buffers[leaf] = part.view(shape)
        try:
            return getattr(self.module, method)(*arguments)
        finally:
            nothing = self.values.new_empty(0)
            for owner, leaf in self._places:
                owner._buffers[leaf] = nothing
