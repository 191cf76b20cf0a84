"""The models that users fit."""

from pathlib import Path
from typing import Any

import torch

from hamflow.errors import CheckpointError, check_device
from hamflow.models.certificate import Certificate
from hamflow.models.hgn import HGN
from hamflow.models.hnn import HNN
from hamflow.models.lnn import LNN
from hamflow.models.nhf import NHF
from hamflow.models.pixel_hnn import PixelHNN
from hamflow.models.storage import fill_parts, read_model

__all__ = ["HGN", "HNN", "LNN", "NHF", "Certificate", "PixelHNN", "load"]

_Model = HGN | HNN | LNN | NHF | PixelHNN
_MODELS: dict[str, type[_Model]] = {model.__name__: model for model in (HGN, HNN, LNN, NHF, PixelHNN)}


def load(path: str | Path, *, device: torch.device | str = "cpu", **parts: Any) -> _Model:
    """Load a fitted model from the folder that its ``save`` wrote; nothing in it is executed.

    Args:
        path: the folder.
        device: where the model is to compute.
        parts: the objects of your own that the model was made with (``energy``, ``hamiltonian``, ``lagrangian``,
            ``constraint``, ``lift``), made as they were before; they get the saved weights.

    Raises:
        InputError: the device is none of this machine, or an object of your own is missing or of another class.
        CheckpointError: the folder or a file is missing, damaged or of another version.

    Example:
        >>> import tempfile, torch, hamflow as hf
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     hf.NHF(2, n_steps=2, width=4).save(folder)
        ...     hf.load(folder).dim
        2
    """
    saved = read_model(path)
    if saved.kind not in _MODELS:
        raise CheckpointError(f"{path} holds a model of kind {saved.kind!r}, expected one of {sorted(_MODELS)}")
    return _MODELS[saved.kind].from_saved(fill_parts(saved, parts)).to(check_device(device))
