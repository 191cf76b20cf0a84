"""The settings of a training run: checked, and what they mean for each parameter."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from hamflow.errors import InputError, check_choice, check_positive, check_seed, is_number


def check_settings(**settings: Any) -> dict[str, Any]:
    """The settings of a run that decide its course, all of them, or an :class:`InputError` that names a bad one.

    Args:
        settings: epochs, batch_size, learning_rate, weight_decay, schedule, patience, clip and seed.
    """
    check_positive("epochs", settings["epochs"], integer=True)
    check_positive("batch_size", settings["batch_size"], integer=True)
    check_positive("learning_rate", settings["learning_rate"])
    check_positive("clip", settings["clip"])
    check_choice("schedule", settings["schedule"], ("cosine", "plateau", "constant"))
    if settings["patience"] is not None:
        check_positive("patience", settings["patience"], integer=True)
    decay = settings["weight_decay"]
    if not is_number(decay) or not 0 <= decay < math.inf:
        raise InputError(f"weight_decay = {decay!r}, expected a finite number >= 0")
    check_seed("seed", settings["seed"])
    return settings


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The trained parameters for the optimiser: those of modules with ``no_weight_decay`` apart."""
    spared = {
        id(parameter)
        for module in model.modules()
        if getattr(module, "no_weight_decay", False)
        for parameter in module.parameters(recurse=False)
    }
    groups: dict[float, list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            groups.setdefault(0.0 if id(parameter) in spared else weight_decay, []).append(parameter)
    return [{"params": parameters, "weight_decay": decay} for decay, parameters in groups.items()]
