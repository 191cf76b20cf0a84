"""Contenders that take turns on one machine: what each takes, and how it compares, round by round."""

from __future__ import annotations

import platform
import random
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

Job = Callable[[], Any]


def take_turns(jobs: Mapping[str, Job], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Milliseconds of process time of every job in every round, each repeated for about so many seconds a round.

    A round has an order of its own, so that nobody always follows the same.
    """
    often = {}
    for name, job in jobs.items():
        job()  # loads and allocates
        start = time.process_time()
        job()
        often[name] = max(1, int(seconds / max(time.process_time() - start, 1e-6)))
    times: dict[str, list[float]] = {name: [] for name in jobs}
    order, chance = list(jobs), random.Random(0)
    for _ in range(rounds):
        chance.shuffle(order)
        for name in order:
            start = time.process_time()
            for _ in range(often[name]):
                jobs[name]()
            times[name].append(1000 * (time.process_time() - start) / often[name])
    return times


def rows(
    times: Mapping[str, list[float]], what: str, own: str, bars: Mapping[str, float], costs: Mapping[str, int]
) -> list[dict[str, Any]]:
    """The median of each job and how many times faster the own one is than each other, with the quartiles."""
    found: list[dict[str, Any]] = []
    for name, taken in times.items():
        cost = {"params": costs[name]} if name in costs else {}
        found.append({"metric": f"{what}_{name}", "value": statistics.median(taken), "unit": "ms", **cost})
        if name == own:
            continue
        ratios = [other / ours for ours, other in zip(times[own], taken, strict=True)]
        bar = {"bar": bars[name]} if name in bars else {}
        found += spread(f"speedup_{what}_over_{name}", ratios, **bar)
    return found


def spread(name: str, ratios: list[float], **more: Any) -> list[dict[str, Any]]:
    """The median of ratios of rounds, with their quartiles."""
    found = [{"metric": name, "value": statistics.median(ratios), "unit": "times", **more}]
    if len(ratios) > 1:
        low, _, high = statistics.quantiles(ratios, n=4)
        found += [
            {"metric": f"{name}_{word}_quartile", "value": value, "unit": "times"}
            for word, value in (("first", low), ("third", high))
        ]
    return found


def machine() -> str:
    """The processor, the versions and the threads."""
    name = platform.processor() or platform.machine()
    known = Path("/proc/cpuinfo")
    if known.exists():
        lines = known.read_text(encoding="utf-8").splitlines()
        name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), name)
    return f"{name}, Python {platform.python_version()}, PyTorch {torch.__version__}, one thread"
