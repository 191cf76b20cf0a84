"""The share of the machine's rate of matrix products that a training step of wide layers reaches."""

from __future__ import annotations

import statistics
import time
from functools import partial
from typing import Any

import torch
import turns
from torch import Tensor

import hamflow as hf
from hamflow.steps.reversible import iterate

#: (d, width, batch).
SIZES = {"d64": (64, 256, 4096), "d128": (128, 512, 4096), "d256": (256, 1024, 4096)}
DEPTH = 4


def work(seed: int, configuration: dict[str, Any]) -> list[dict[str, Any]]:
    """Measured rates of products of the same shapes, and of a step of training."""
    found: list[dict[str, Any]] = []
    for name, (dim, width, batch) in {"tiny": (8, 16, 32)}.items() if configuration["quick"] else SIZES.items():
        torch.manual_seed(seed)
        potential = hf.RidgePotential(dim, width)
        torch.nn.init.normal_(potential.amplitude, std=0.01)
        step = hf.Splitting(hf.SeparableHamiltonian(hf.QuadraticKinetic(dim, learn=True), potential))
        q, p = torch.randn(2, batch, dim)
        forces = DEPTH + 1
        # A force is two products, and its derivatives by positions and weights four more.
        necessary = forces * 6 * 2 * batch * dim * width
        rate = _rate(batch, dim, width, configuration["rounds"])
        jobs = {memory: partial(_train, step, q.requires_grad_(), p, memory) for memory in ("constant", "stored")}
        for memory, times in turns.take_turns(jobs, configuration["rounds"], configuration["seconds"]).items():
            share = necessary / (statistics.median(times) / 1000) / rate
            head = {"metric": f"matmul_share_{memory}_{name}", "value": share, "unit": "1"}
            found.append(head | ({"bar": 0.6} if (name, memory) == ("d256", "stored") else {}))
        found.append({"metric": f"matmul_rate_{name}", "value": rate / 1e9, "unit": "GFLOP/s"})
    return found


def _train(step: hf.Splitting, q: Tensor, p: Tensor, memory: str) -> None:
    step.zero_grad()
    end = iterate(step, q, p, 0.0, 0.05, DEPTH, memory=memory)
    (end[0].sum() + end[1].sum()).backward()


def _rate(batch: int, dim: int, width: int, rounds: int) -> float:
    # Of the products that a force is made of, forwards and backwards, in turn.
    x, w, h = torch.randn(batch, dim), torch.randn(width, dim), torch.randn(batch, width)
    best = float("inf")
    for _ in range(max(3, rounds)):
        start = time.process_time()
        for _ in range(4):
            _ = x @ w.mT, h @ w, h.mT @ x
        best = min(best, (time.process_time() - start) / 4)
    return 3 * 2 * batch * dim * width / best
