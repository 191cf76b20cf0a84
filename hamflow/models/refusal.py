"""A fit that is refused leaves the model as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

from torch import nn

from hamflow.errors import CheckpointError, InputError


@contextmanager
def unchanged_if_refused(model: nn.Module) -> Iterator[None]:
    """Give a model its old parts and attributes back where the block ends in a refusal of an argument.

    A model makes its parts anew before it trains, so the old ones need no copy.
    """
    attributes = dict(vars(model))
    held = [(now, dict(now)) for now in (model._modules, model._parameters, model._buffers)]
    like = next((x for x in chain(model.parameters(), model.buffers()) if x.is_floating_point()), None)
    dtype, device = (None, None) if like is None else (like.dtype, like.device)
    try:
        yield
    except (InputError, CheckpointError, TypeError):  # the last for a keyword that is misspelt
        vars(model).update(attributes)
        for now, before in held:
            now.update(before)  # type: ignore[arg-type]
        # A part of the caller's own may have moved with the new ones.
        model.to(device=device, dtype=dtype)
        raise
