"""Draws of flows that have learned a density: a continuous one takes more steps the more it has learned."""

from __future__ import annotations

import time
from typing import Any

import rivals
import torch
import turns
from torch import Tensor

import hamflow as hf

DIM, BATCH = 16, 512
BAR = 10.0


def moons(n: int, seed: int) -> Tensor:
    """Eight pairs of half moons, turned in 16 dimensions, (n, 16)."""
    from sklearn.datasets import make_moons

    pairs = [make_moons(n, noise=0.1, random_state=100 * seed + k)[0] for k in range(DIM // 2)]
    x = torch.cat([torch.from_numpy(pair) for pair in pairs], -1).float()
    turn = torch.linalg.qr(torch.randn(DIM, DIM, generator=torch.Generator().manual_seed(7)))[0]
    return (x - x.mean(0)) @ turn


def work(seed: int, configuration: dict[str, Any]) -> list[dict[str, Any]]:
    """Both learn for about as long; then held-out densities, and draws in turns."""
    quick = configuration["quick"]
    seconds = 0.5 if quick else configuration["learn_seconds"]
    train, test = moons(300 if quick else 10_000, 2 * seed), moons(200 if quick else 2000, 2 * seed + 1)
    start = time.process_time()
    ours = hf.NHF(DIM, n_steps=16, width=64, max_components=2 if quick else 24, seed=seed)
    ours.fit(train, epochs=1 if quick else configuration["epochs"], patience=10, seed=seed, progress=False)
    own = time.process_time() - start
    theirs = rivals.build("zuko_cnf", DIM)
    taken = _learn(theirs, train, max(seconds, own))
    with torch.no_grad():
        held = {"nhf": float(ours.log_prob(test, particles=64).mean()), "zuko_cnf": float(theirs.log_prob(test).mean())}
    found: list[dict[str, Any]] = [
        {"metric": f"log_likelihood_{name}", "value": value, "unit": "nats"} for name, value in held.items()
    ]
    found += [
        {"metric": f"learn_seconds_{name}", "value": value, "unit": "s"}
        for name, value in (("nhf", own), ("zuko_cnf", taken))
    ]
    jobs = {"nhf": lambda: ours.sample(BATCH), "zuko_cnf": lambda: theirs.sample(BATCH)}
    times = turns.take_turns(jobs, configuration["rounds"], configuration["seconds"])
    costs = {
        name: sum(p.numel() for p in model.parameters() if p.requires_grad)
        for name, model in (("nhf", ours), ("zuko_cnf", theirs))
    }
    return found + turns.rows(times, "sample", "nhf", {"zuko_cnf": BAR}, costs)


def _learn(model: rivals.Rival, x: Tensor, seconds: float) -> float:
    # By Adam with a cosine over the time that there is.
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    start = time.process_time()
    while (spent := time.process_time() - start) < seconds:
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * (1 + torch.cos(torch.tensor(torch.pi * spent / seconds)).item())
        optimizer.zero_grad()
        model.loss(x[torch.randint(len(x), (256,))]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
    return spent
