"""What torch.compile gains, of a training step and of the flow alone."""

from __future__ import annotations

import time
from typing import Any

import densities
import torch
import turns


def work(dim: int, seed: int, configuration: dict[str, Any]) -> list[dict[str, Any]]:
    """The density as it comes and compiled, in turns; and what compilation takes the first time."""
    model = densities.build("nhf", dim, seed)
    x = torch.randn(densities.BATCH, dim, generator=torch.Generator().manual_seed(seed))
    z = torch.cat((x, x.flip(0)), -1)
    backend = "eager" if configuration["quick"] else "inductor"
    loss, flow = (torch.compile(part, fullgraph=True, backend=backend) for part in (model.loss, model.flow))

    def train(of: Any) -> turns.Job:
        def step() -> None:
            model.zero_grad()
            of(x).backward()

        return step

    def carry(of: Any) -> turns.Job:
        def go() -> None:
            with torch.no_grad():
                of(z)

        return go

    found: list[dict[str, Any]] = []
    # By the clock: the compiler has processes of its own.
    start = time.perf_counter()
    train(loss)()
    found.append({"metric": "compile_seconds", "value": time.perf_counter() - start, "unit": "s"})
    for name, jobs in {
        "train": {"eager": train(model.loss), "compiled": train(loss)},
        "flow": {"eager": carry(model.flow), "compiled": carry(flow)},
    }.items():
        times = turns.take_turns(jobs, configuration["rounds"], configuration["seconds"])
        ratios = [one / other for one, other in zip(times["eager"], times["compiled"], strict=True)]
        found += turns.spread(f"compiled_speedup_{name}", ratios)
    return found
