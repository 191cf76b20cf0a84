"""Depth: memory and time of gradients that go back along the steps, against those of a stored graph."""

from __future__ import annotations

import statistics
from typing import Any

import torch
import turns
from torch import Tensor

import hamflow as hf
from hamflow.steps.reversible import iterate
from hamflow.testing import peak_bytes

DIM, BATCH = 16, 512
DEPTHS = (10, 20, 50, 100, 200, 500, 1000)
#: Of a rollout, whose loss sees them.
STATES = 5
MEMORIES = ("constant", "stored")


def work(kind: str, seed: int, configuration: dict[str, Any]) -> list[dict[str, Any]]:
    """Memory at every depth, time at a few, and how far the gradients are apart."""
    torch.manual_seed(seed)
    depths = (10, 20) if configuration["quick"] else DEPTHS
    found: list[dict[str, Any]] = []
    peaks: dict[tuple[str, int], int] = {}
    worst = 0.0
    for depth in depths:
        jobs = {memory: _job(kind, depth, memory, seed) for memory in MEMORIES}
        for memory, job in jobs.items():
            peaks[memory, depth] = peak_bytes(job)
            value = peaks[memory, depth] / 2**20
            found.append({"metric": f"memory_{memory}_{depth}", "value": value, "unit": "MiB"})
        times = turns.take_turns(jobs, configuration["rounds"], configuration["seconds"])
        for memory in MEMORIES:
            value = statistics.median(times[memory])
            found.append({"metric": f"time_{memory}_{depth}", "value": value, "unit": "ms"})
        ratios = [one / other for one, other in zip(*(times[memory] for memory in MEMORIES), strict=True)]
        worst = max(worst, statistics.median(ratios))
        found += turns.spread(f"times_stored_{depth}", ratios)
    deep, shallow = depths[-1], depths[0]
    growth = peaks["constant", deep] / peaks["constant", shallow]
    found.append({"metric": "memory_growth", "value": growth, "unit": "times", "bar": 1.1})
    found.append({"metric": "times_stored", "value": worst, "unit": "times", "bar": 1.5})
    for dtype, bar in ((torch.float64, 1e-6), (torch.float32, 1e-4)):
        far = _distance(kind, deep, dtype, seed)
        name = str(dtype).removeprefix("torch.")
        found.append({"metric": f"gradient_error_{name}", "value": far, "unit": "1", "bar": bar})
    return found


def _model(kind: str, depth: int, memory: str, dtype: torch.dtype, seed: int) -> hf.NHF | hf.Splitting:
    # Of a time that stays the same: deeper is finer. One potential, or parameters would grow with the depth.
    torch.manual_seed(seed)
    if kind == "nhf":
        model = hf.NHF(
            DIM, n_steps=depth, dt=1.6 / depth, layerwise=False, base="gaussian", particles=1, memory=memory, seed=seed
        )
        torch.nn.init.normal_(model.flow.step.hamiltonian.potential.amplitude, std=0.1)  # type: ignore[union-attr]
        return model.to(dtype)
    energy = hf.SeparableHamiltonian(hf.QuadraticKinetic(DIM, learn=True), hf.MLPPotential(DIM, (64, 64)))
    return hf.Splitting(energy).to(dtype)


def _loss(kind: str, model: Any, depth: int, memory: str, x: Tensor, noise: Tensor) -> Tensor:
    if kind == "nhf":
        joint: Tensor = model.log_joint_standardised(x, noise)
        return -joint.mean()
    # States of a motion, compared with others.
    often = depth // STATES
    path = hf.rollout(model, x, noise, n_steps=STATES, dt=0.32, substeps=often, check=False, memory=memory)
    return (path - 1).square().mean()


def _job(kind: str, depth: int, memory: str, seed: int, dtype: torch.dtype = torch.float32) -> turns.Job:
    model = _model(kind, depth, memory, dtype, seed)
    generator = torch.Generator().manual_seed(seed)
    x, noise = torch.randn(2, BATCH, DIM, generator=generator).to(dtype)

    def job() -> list[Tensor]:
        model.zero_grad()
        _loss(kind, model, depth, memory, x, noise).backward()
        return [p.grad for p in model.parameters() if p.grad is not None]

    return job


def _distance(kind: str, depth: int, dtype: torch.dtype, seed: int) -> float:
    one, other = (_job(kind, depth, memory, seed, dtype)() for memory in MEMORIES)
    assert len(one) == len(other)
    return max(float((a - b).norm() / b.norm()) for a, b in zip(one, other, strict=True) if b.any())


def lattice(seed: int, configuration: dict[str, Any]) -> list[dict[str, Any]]:
    """How many bits 10,000 steps and as many back lose, of 100 states, and what the way back costs."""
    found: list[dict[str, Any]] = []
    n = 100 if configuration["quick"] else 10_000
    for dtype in (torch.float32, torch.float64):
        torch.manual_seed(seed)
        ridges = hf.RidgePotential(DIM, 64)
        torch.nn.init.normal_(ridges.amplitude, std=0.1)
        # A quadratic form holds the motion together.
        energy = hf.SeparableHamiltonian(hf.QuadraticKinetic(DIM), hf.QuadraticKinetic(DIM) + ridges).to(dtype)
        q, p = torch.randn(2, 100, DIM, dtype=dtype)
        for name, step in (("lattice", hf.LatticeSplitting(energy, span=64)), ("plain", hf.Splitting(energy))):
            if isinstance(step, hf.LatticeSplitting):
                q, p = step.on_lattice(q), step.on_lattice(p)
            with torch.no_grad():
                there = iterate(step, q, p, 0.0, 0.05, n, memory="stored")
                back = iterate(step, *there, 0.0, 0.05, n, memory="stored", backwards=True)
            far = max(float((a - b).abs().max()) for a, b in zip(back, (q, p), strict=True))
            row = {"metric": f"{name}_error_{str(dtype).removeprefix('torch.')}", "value": far, "unit": "1"}
            found.append(row | ({"bar": 0.0} if name == "lattice" else {}))
    return found
