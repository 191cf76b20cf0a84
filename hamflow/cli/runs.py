"""The folders that ``hamflow fit`` writes: the model, and beside it what it was fitted to, in a word."""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path
from typing import Any

from hamflow.cli.beginnings import Beginnings
from hamflow.errors import CheckpointError, InputError
from hamflow.io import atomic_path
from hamflow.models import NHF, load
from hamflow.models.dynamics import Dynamics

#: What lies beside a density: the names of its columns; and beside dynamics: where the motions began.
_COLUMNS, _BEGINNINGS = "columns.json", "beginnings.json"


def check_target(path: Path, overwrite: bool) -> None:
    """Raise :class:`InputError` unless a file may be written there."""
    if path.is_dir():
        raise InputError(f"{path} is a folder, expected the name of a file to write")
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists; --overwrite replaces it")


def check_run_target(out: Path, overwrite: bool) -> None:
    """Raise :class:`InputError` unless a run may be written there."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file, expected a folder")
    if out.is_dir() and any(out.iterdir()):
        # Only a run gives way to a run: a folder of something else is a mistake.
        if not any((out / name).exists() for name in (_COLUMNS, _BEGINNINGS)):
            raise InputError(f"{out} is a folder that holds other things, expected a new one or one that fit wrote")
        if not overwrite:
            raise InputError(f"{out} exists; --overwrite replaces it")


def write_run(model: NHF | Dynamics, beside: list[str] | Beginnings, out: Path) -> None:
    """Write a model with the names of its columns, or with the beginnings of the motions it has learned.

    A new folder appears whole, and in an old one the model changes last.
    """
    if isinstance(beside, Beginnings):
        name, stale, facts = _BEGINNINGS, _COLUMNS, beside.as_json()
    else:
        name, stale, facts = _COLUMNS, _BEGINNINGS, {"columns": beside}
    target = out if out.exists() else out.with_name(f".{uuid.uuid4().hex[:12]}-{out.name}")
    with atomic_path(target / name) as temporary:
        temporary.write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    model.save(target)
    (target / stale).unlink(missing_ok=True)
    if target != out:
        os.replace(target, out)


def read_run(run: Path) -> NHF | Dynamics:
    """The model in a folder."""
    if not run.is_dir():
        raise InputError(f"{run} is {'a file' if run.exists() else 'not there'}, expected a folder that fit wrote")
    return load(run)


def read_density(run: Path) -> tuple[NHF, list[str]]:
    """The density in a folder and the names of its columns."""
    model = read_run(run)
    if not isinstance(model, NHF):
        raise InputError(
            f"{run} holds a model of dynamics, expected a density model; hamflow rollout carries states on"
        )
    return model, read_columns(run, model)


def read_dynamics(run: Path) -> Dynamics:
    """The model of dynamics in a folder."""
    model = read_run(run)
    if not isinstance(model, Dynamics):
        raise InputError(f"{run} holds a density model, expected a model of dynamics; hamflow sample draws from it")
    return model


def read_columns(run: Path, model: NHF) -> list[str]:
    """The names of the columns of a run; x0, x1, ... where it was saved without."""
    path = run / _COLUMNS
    if not path.exists():
        return [f"x{i}" for i in range(model.dim)]
    try:
        names = _read_json(path)["columns"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged, expected the names of the columns") from error
    if not isinstance(names, list) or len(names) != model.dim or not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"{path} is damaged, expected {model.dim} names of columns")
    return names


def read_beginnings(run: Path, model: Dynamics) -> Beginnings | None:
    """Where the motions began that a run was fitted to; None where it was saved without."""
    path = run / _BEGINNINGS
    if not path.exists():
        return None
    try:
        found = Beginnings.from_json(_read_json(path))
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged, expected initial states") from error
    if found.q.shape[1] != model.dim:
        raise CheckpointError(f"{path} is damaged, expected states of {model.dim} coordinates")
    return found


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
