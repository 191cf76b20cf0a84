"""The folders that ``hamflow fit`` writes: the model, and beside dynamics where the motions began."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hamflow.cli.beginnings import Beginnings
from hamflow.errors import CheckpointError, InputError, check_device
from hamflow.io import atomic_path, check_writable
from hamflow.models import HGN, NHF, PixelHNN, load
from hamflow.models.dynamics import Dynamics

_MODEL, _BEGINNINGS = "model.json", "beginnings.json"
_KINDS: dict[type, tuple[str, str]] = {
    NHF: ("a density model", "hamflow sample draws from it"),
    Dynamics: ("a model of dynamics", "hamflow rollout carries states on"),
    HGN: ("a model of videos", "hamflow forecast carries frames on"),
}


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
        if not (out / _MODEL).exists():
            raise InputError(f"{out} is a folder that holds other things, expected a new one or one that fit wrote")
        if not overwrite:
            raise InputError(f"{out} exists; --overwrite replaces it")


def check_places(out: Path, training: Mapping[str, Any]) -> None:
    """Raise :class:`InputError` unless the device is there, and the run and its checkpoint can be written."""
    check_device(training["device"])
    for target in (out, *([training["checkpoint"]] if "checkpoint" in training else [])):
        check_writable(target)


def write_run(model: NHF | Dynamics | HGN, out: Path, beginnings: Beginnings | None = None) -> None:
    """Write a model, dynamics with the beginnings of the motions that it has learned.

    A new folder appears whole, and in an old one the model changes last.
    """
    target = out if out.exists() else out.with_name(f".{uuid.uuid4().hex[:12]}-{out.name}")
    if beginnings is not None:
        with atomic_path(target / _BEGINNINGS) as temporary:
            temporary.write_text(json.dumps(beginnings.as_json(), indent=2) + "\n", encoding="utf-8")
    model.save(target)
    if beginnings is None:
        (target / _BEGINNINGS).unlink(missing_ok=True)
    if target != out:
        os.replace(target, out)


def report(model: NHF | Dynamics | HGN, what: str) -> None:
    """Say what was fitted to what, at which cost, and which epoch was kept."""
    history = model.history
    params = sum(p.numel() for p in model.parameters() if p.requires_grad)
    print(f"{what}; {params} parameters; {history.seconds:.0f} s of CPU time")
    for note in history.notes:
        print(f"note: {note}")
    print(f"kept epoch {history.best_epoch} of {len(history.train)}")


def read_run(run: Path) -> NHF | Dynamics | HGN:
    """The model in a folder."""
    if not run.is_dir():
        raise InputError(f"{run} is {'a file' if run.exists() else 'not there'}, expected a folder that fit wrote")
    model = load(run)
    if isinstance(model, PixelHNN):
        raise InputError(f"{run} holds a model of pairs of frames, which hamflow.load reads and no command serves")
    return model


def read_density(run: Path) -> NHF:
    """The density in a folder."""
    model = read_run(run)
    if not isinstance(model, NHF):
        raise other_kind(run, model, "a density model")
    return model


def read_dynamics(run: Path) -> Dynamics:
    """The model of dynamics in a folder."""
    model = read_run(run)
    if not isinstance(model, Dynamics):
        raise other_kind(run, model, "a model of dynamics")
    return model


def read_video_model(run: Path) -> HGN:
    """The model of videos in a folder."""
    model = read_run(run)
    if not isinstance(model, HGN):
        raise other_kind(run, model, "a model of videos")
    return model


def other_kind(run: Path, model: NHF | Dynamics | HGN, expected: str) -> InputError:
    """That a run holds a model of another kind, and what it is for."""
    found = next(words for kind, words in _KINDS.items() if isinstance(model, kind))
    return InputError(f"{run} holds {found[0]}, expected {expected}; {found[1]}")


def read_beginnings(run: Path, model: Dynamics) -> Beginnings | None:
    """Where the motions began that a run was fitted to; None where it was saved without."""
    path = run / _BEGINNINGS
    if not path.exists():
        return None
    try:
        found = Beginnings.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged, expected initial states") from error
    if found.q.shape[1] != model.dim:
        raise CheckpointError(f"{path} is damaged, expected states of {model.dim} coordinates")
    return found
