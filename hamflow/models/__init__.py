"""The models that users fit."""

from pathlib import Path

import torch

from hamflow.errors import CheckpointError, check_device
from hamflow.models.certificate import Certificate
from hamflow.models.hnn import HNN
from hamflow.models.lnn import LNN
from hamflow.models.nhf import NHF
from hamflow.models.storage import read_model

__all__ = ["HNN", "LNN", "NHF", "Certificate", "load"]

_MODELS: dict[str, type[HNN] | type[LNN] | type[NHF]] = {"HNN": HNN, "LNN": LNN, "NHF": NHF}


def load(path: str | Path, *, device: torch.device | str = "cpu") -> HNN | LNN | NHF:
    """Load a fitted model from the folder that its ``save`` wrote; nothing in it is executed.

    Args:
        path: the folder.
        device: where the model is to compute.

    Raises:
        InputError: the device is none of this machine.
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
    return _MODELS[saved.kind].from_saved(saved).to(check_device(device))
