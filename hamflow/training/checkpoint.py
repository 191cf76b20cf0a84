"""Training checkpoints: one file, written atomically, from which a run goes on exactly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from hamflow.errors import CheckpointError
from hamflow.io import atomic_path

_FORMAT = "hamflow-training-1"


def write_checkpoint(path: str | Path, state: dict[str, Any], settings: dict[str, Any]) -> None:
    """Write ``state`` with the ``settings`` it belongs to; the file appears whole or not at all."""
    # Of a path torch takes the stem as a name inside the file, and fails where there is none.
    with atomic_path(Path(path)) as temporary, open(temporary, "wb") as file:
        torch.save({"format": _FORMAT, "settings": settings, "state": state}, file)


def read_checkpoint(path: str | Path, settings: dict[str, Any], free: Sequence[str] = ()) -> dict[str, Any] | None:
    """The state written under the same ``settings`` but for ``free`` ones, None where no file is; no code is executed.

    Raises:
        CheckpointError: the file is damaged, of another version, or belongs to other settings.
    """
    file = Path(path)
    if not file.exists():
        return None
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes that are no checkpoint make the reader fail in any way
        raise CheckpointError(f"checkpoint {file} cannot be read, expected a whole training checkpoint") from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise CheckpointError(f"checkpoint {file} is not of the format {_FORMAT}")
    saved = content["settings"]
    changed = [name for name in settings if name not in free and saved.get(name) != settings[name]]
    if changed:
        name = changed[0]
        raise CheckpointError(
            f"checkpoint {file} was written with {name} = {saved.get(name)!r}, expected {settings[name]!r}; "
            "use the same settings to resume, or another path to start afresh"
        )
    state: dict[str, Any] = content["state"]
    return state
