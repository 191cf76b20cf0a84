"""What happened during a fit."""

from __future__ import annotations

import math
from dataclasses import dataclass, field


@dataclass
class History:
    """What happened during :func:`hamflow.training.fit`; losses are in the model's unit (nats), one entry an epoch.

    Attributes:
        start: the validation loss before training, NaN without validation rows.
        train: the mean training loss.
        validation: the validation loss; empty without validation rows.
        best_epoch: the epoch whose weights were restored, 0 for the weights at the start.
        seconds: the process time spent.
        notes: what was out of the ordinary, such as a return to earlier weights.
    """

    start: float = math.nan
    train: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    best_epoch: int = 0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
