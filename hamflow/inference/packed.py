"""All parameters of a module in one tensor, because Pyro keeps an optimiser for every parameter."""

from __future__ import annotations

import math
from typing import Any, Self

import torch
from torch import Tensor, nn

from hamflow.errors import InputError


class Packed(nn.Module):
    r"""A module whose parameters are slices of one tensor that whoever calls it holds.

    Pyro registers every parameter at each step and has an optimiser for each, so twenty small ones cost more than the
    mathematics that they are for. Methods of the module are called through this one, by their names.

    Raises:
        InputError: when called, the tensor has another size.

    Example:
        >>> import torch
        >>> from hamflow.inference.packed import Packed
        >>> packed, values = Packed.of(torch.nn.Linear(3, 2))
        >>> values.shape, packed(values, "forward", torch.ones(4, 3)).shape, list(packed.parameters())
        (torch.Size([8]), torch.Size([4, 2]), [])
    """

    def __init__(self, module: nn.Module, names: tuple[str, ...], shapes: tuple[torch.Size, ...]) -> None:
        super().__init__()
        self.module = module
        self._shapes, self._sizes = shapes, [math.prod(shape) for shape in shapes]
        places = (name.rpartition(".") for name in names)
        self._places = [(module.get_submodule(owner), leaf) for owner, _, leaf in places]

    @classmethod
    def of(cls, module: nn.Module) -> tuple[Self, Tensor]:
        """A module packed, which loses its parameters, and their values in one tensor, (n,)."""
        own = {name: value.detach() for name, value in module.named_parameters()}
        for name, value in own.items():
            owner, _, leaf = name.rpartition(".")
            part = module.get_submodule(owner)
            # A buffer in its place, empty between calls: a slice has a graph, and cannot be copied or saved.
            delattr(part, leaf)
            part.register_buffer(leaf, value.new_empty(0), persistent=False)
        packed = cls(module, tuple(own), tuple(value.shape for value in own.values()))
        return packed, torch.cat([value.flatten() for value in own.values()])

    def forward(self, values: Tensor, method: str, *arguments: Any) -> Any:
        """What a method of the module gives with these parameters, (n,)."""
        if values.shape != (sum(self._sizes),):
            raise InputError(
                f"values has shape {tuple(values.shape)}, expected ({sum(self._sizes)},): where they come from Pyro's "
                "parameter store they are those of another guide of the same name; pyro.clear_param_store() forgets it"
            )
        parts = values.split(self._sizes)
        for (owner, leaf), part, shape in zip(self._places, parts, self._shapes, strict=True):
            # Not by setattr, whose checks take longer than a layer.
            owner._buffers[leaf] = part.view(shape)
        try:
            return getattr(self.module, method)(*arguments)
        finally:
            nothing = values.new_empty(0)
            for owner, leaf in self._places:
                owner._buffers[leaf] = nothing
