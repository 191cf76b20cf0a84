"""Saved models: weights as safetensors, the rest as JSON; loading executes nothing."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.distributions import Transform

from hamflow.errors import CheckpointError, InputError, is_number
from hamflow.io import atomic_path, check_writable
from hamflow.training import History

_FORMAT = 1
_DESCRIPTION, _WEIGHTS = "model.json", "weights.safetensors"


@dataclass(frozen=True)
class SavedModel:
    """What a folder holds: the model's class, its constructor's arguments, its state, and JSON facts beside them."""

    kind: str
    config: dict[str, Any]
    state: dict[str, Tensor]
    facts: dict[str, Any]


def write_model(path: str | Path, model: SavedModel) -> None:
    """Write a model into the folder ``path``; each file appears whole or not at all.

    Raises:
        InputError: ``path`` is a file or cannot be written.
    """
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"path = {folder} is a file, expected a folder")
    check_writable(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().cpu().contiguous() for name, value in model.state.items()}
    weights = safetensors.torch.save(state)
    # The description names its weights: a crash between the two files cannot pair new ones with old ones unnoticed.
    description = {
        "format": _FORMAT,
        "model": model.kind,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "config": _json_numbers(model.config),
        "facts": _json_numbers(model.facts),
    }
    with atomic_path(folder / _WEIGHTS) as temporary:
        temporary.write_bytes(weights)
    with atomic_path(folder / _DESCRIPTION) as temporary:
        temporary.write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def read_model(path: str | Path) -> SavedModel:
    """Read what :func:`write_model` wrote.

    Raises:
        CheckpointError: the folder or a file is missing, damaged or of another version.
    """
    folder = Path(path)
    if not (folder / _DESCRIPTION).is_file():
        raise CheckpointError(f"path = {folder} holds no {_DESCRIPTION}, expected a folder that a model was saved to")
    try:
        description = json.loads((folder / _DESCRIPTION).read_text(encoding="utf-8"))
        found = description["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / _DESCRIPTION} is damaged, expected the JSON of a saved model") from error
    if found != _FORMAT:
        raise CheckpointError(
            f"{folder / _DESCRIPTION} has format {found!r}, expected {_FORMAT}: another version wrote it"
        )
    try:
        weights = (folder / _WEIGHTS).read_bytes()
        if hashlib.sha256(weights).hexdigest() != description["weights_sha256"]:
            raise CheckpointError(f"{folder / _WEIGHTS} is damaged or belongs to another {_DESCRIPTION}")
        state = safetensors.torch.load(weights)
        return SavedModel(description["model"], description["config"], state, description["facts"])
    except OSError as error:
        raise CheckpointError(f"{folder / _WEIGHTS} cannot be read: {error.strerror}") from error
    except (SafetensorError, KeyError) as error:
        raise CheckpointError(f"{folder} is damaged, expected a whole saved model") from error


def own_state(model: nn.Module) -> dict[str, Tensor]:
    """The state, each tensor once: a step holds the same energy as its model under further names."""
    found: dict[int, tuple[str, Tensor]] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        found.setdefault(id(value), (name, value.detach()))
    return dict(found.values())


def load_own_state(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Load what :func:`own_state` gave, all of it; KeyError where it is of another model."""
    if differ := own_state(model).keys() ^ state.keys():
        raise KeyError(f"weights {', '.join(sorted(differ))}")
    model.load_state_dict(state, strict=False)


@contextmanager
def of_this_version(kind: str) -> Iterator[None]:
    """Say in one :class:`CheckpointError` that a saved model of that class cannot be built here, and why."""
    try:
        yield
    except (TypeError, KeyError, AttributeError, RuntimeError, InputError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"the saved {kind} does not fit this version: {reason}") from error


def name_parts(config: dict[str, Any]) -> dict[str, Any]:
    """The arguments with each object of the caller's own, whose code is not saved, by the name of its class."""
    return {
        name: {"own": type(value).__name__} if isinstance(value, nn.Module | Transform) else value
        for name, value in config.items()
    }


def fill_parts(saved: SavedModel, parts: dict[str, Any]) -> SavedModel:
    """The saved model with the caller's objects in the places that :func:`name_parts` marked.

    Raises:
        InputError: an object is missing, is of another class, or has no such place.
    """
    with of_this_version(saved.kind):
        open_places = {name: x["own"] for name, x in saved.config.items() if isinstance(x, dict) and "own" in x}
    for name, value in parts.items():
        if name not in open_places:
            wanted = f"expected {', '.join(open_places)} only" if open_places else "expected none"
            raise InputError(f"{name} was given, but the saved {saved.kind} has no {name} of your own: {wanted}")
        if type(value).__name__ != open_places[name]:
            raise InputError(f"{name} is a {type(value).__name__}, expected the {open_places[name]} that was saved")
    for name, kind in open_places.items():
        if name not in parts:
            raise InputError(
                f"{name} is missing: the saved {saved.kind} has one of your own, whose weights are here but not its "
                f"code; expected load(path, {name}=...) with a {kind} made as before"
            )
    return SavedModel(saved.kind, saved.config | parts, saved.state, saved.facts)


def saved_history(saved: SavedModel) -> History:
    """The history among the facts of a saved model; JSON has no NaN, so a missing start comes back as one."""
    history = saved.facts["history"]
    return History(**history | {"start": math.nan if history["start"] is None else history["start"]})


def _json_numbers(value: Any) -> Any:
    # JSON has no NaN or infinity.
    if isinstance(value, dict):
        return {key: _json_numbers(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_numbers(item) for item in value]
    if is_number(value, integer=True):
        return int(value)
    if is_number(value):
        return float(value) if math.isfinite(value) else None
    return value
