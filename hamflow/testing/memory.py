"""How much memory a computation takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def peak_bytes(job: Callable[[], Any]) -> int:
    """The most memory that tensors on the CPU take while a job runs, beyond the least that was held before, in bytes.

    What the job frees of earlier results does not hide what it takes, so gradients of an earlier run may lie about.

    Args:
        job: a function without arguments.

    Example:
        >>> import torch
        >>> from hamflow.testing import peak_bytes
        >>> peak_bytes(lambda: torch.zeros(1000, dtype=torch.float32)) >= 4000
        True
    """
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        job()
    held = least = most = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            least = min(least, held)
            most = max(most, held - least)
    return most
