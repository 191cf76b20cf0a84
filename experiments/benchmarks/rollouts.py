"""Many motions of a learned energy at once, against SciPy's solver for each one and one that takes all at once."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import turns
from numpy.typing import NDArray
from scipy.integrate import solve_ivp
from torch import Tensor

import hamflow as hf

STATES, STEPS, DT = 1000, 1000, 0.1
#: A round takes long.
ROUNDS = 3
#: Motions that SciPy is timed on; the others would take as long.
TIMED = 4
#: The coarsest that is as accurate as our scheme is taken, for each of the others.
TOLERANCES = tuple(10.0**-k for k in np.arange(2, 8, 0.5))
SYSTEMS: dict[str, Callable[[], Any]] = {"pendulum": hf.systems.Pendulum, "henon_heiles": hf.systems.HenonHeiles}


def work(system: str, seed: int, configuration: dict[str, Any]) -> list[dict[str, Any]]:
    """Time of all motions, and of the others at tolerances that leave no larger error, in turns."""
    from torchdiffeq import odeint

    quick = configuration["quick"]
    states, steps, timed, few, epochs = (20, 20, 2, 5, 2) if quick else (STATES, STEPS, TIMED, 50, 300)
    data, begins = (
        SYSTEMS[system]().simulate(n_trajectories=n, n_steps=k, dt=DT, derivatives=True, seed=2 * seed + odd)
        for n, k, odd in ((few, 60, 0), (states, 1, 1))
    )
    learned = hf.HNN(data.dim, seed=seed).fit(data, epochs=epochs, progress=False)
    energies = {dtype: copy.deepcopy(learned.hamiltonian).to(dtype) for dtype in (torch.float32, torch.float64)}
    exact = energies[torch.float64]
    begin, dim = begins.states[:, 0].double(), data.dim
    times = torch.arange(steps + 1, dtype=torch.float64) * DT
    with torch.no_grad():
        # What is computed once for all steps is, for the others too.
        (force,), (velocity,) = exact.potential.slopes([0.0]), exact.kinetic.slopes([0.0])

    def field(t: Any, z: Tensor) -> Tensor:
        return torch.cat((velocity(z[..., dim:]), -force(z[..., :dim])), -1)

    def of_one(t: float, z: NDArray[np.float64]) -> NDArray[np.float64]:
        return field(t, torch.from_numpy(z)).numpy()

    def scipy(i: int, **how: Any) -> NDArray[np.float64]:
        return np.asarray(solve_ivp(of_one, (0, float(times[-1])), begin[i].numpy(), t_eval=times.numpy(), **how).y.T)

    def ours(dtype: torch.dtype) -> Tensor:
        step = hf.Splitting(energies[dtype], hf.SCHEMES[learned.integrator])
        q, p = begin.to(dtype).chunk(2, -1)
        return hf.rollout(step, q, p, n_steps=steps, dt=DT).double().transpose(0, 1)

    def at_once(tolerance: float) -> Tensor:
        return odeint(field, begin, times, rtol=tolerance, atol=tolerance / 100).transpose(0, 1)  # type: ignore[no-any-return]

    with torch.no_grad():
        truth = np.stack([scipy(i, method="DOP853", rtol=1e-11, atol=1e-12) for i in range(timed)])

        def error(found: Any) -> float:
            return float(np.abs(np.asarray(found)[:timed] - truth).max())

        own, double = error(ours(torch.float32)), error(ours(torch.float64))
        by_scipy = _coarsest(lambda tol: error([scipy(i, rtol=tol, atol=tol / 100) for i in range(timed)]), own)
        by_torch = _coarsest(lambda tol: error(at_once(tol)), own)
        jobs: dict[str, turns.Job] = {
            "rollout": lambda: ours(torch.float32),
            "rollout_double": lambda: ours(torch.float64),
            "scipy": lambda: [scipy(i, rtol=by_scipy[0], atol=by_scipy[0] / 100) for i in range(timed)],
            "torchdiffeq": lambda: at_once(by_torch[0]),
        }
        taken: dict[str, list[float]] = {name: [] for name in jobs}
        for _ in range(min(ROUNDS, configuration["rounds"])):
            for name, job in jobs.items():
                start = time.process_time()
                job()
                taken[name].append((time.process_time() - start) * (states / timed if name == "scipy" else 1))
    found: list[dict[str, Any]] = [
        {"metric": f"{name}_seconds", "value": statistics.median(values), "unit": "s"} for name, values in taken.items()
    ]
    found += [
        {"metric": f"{name}_error", "value": value, "unit": "1"}
        for name, value in (
            ("rollout", own), ("rollout_double", double), ("scipy", by_scipy[1]),
            ("torchdiffeq", by_torch[1]),
        )
    ]  # fmt: skip
    for name, metric in (
        ("scipy", "speedup_over_scipy"), ("torchdiffeq", "speedup_over_torchdiffeq"),
        ("rollout_double", "double_over_single"),
    ):  # fmt: skip
        ratios = [other / mine for other, mine in zip(taken[name], taken["rollout"], strict=True)]
        found += turns.spread(metric, ratios, **({"bar": 100.0} if name == "scipy" else {}))
    return found


def _coarsest(error_at: Any, bound: float) -> tuple[float, float]:
    # The first tolerance that is as accurate, and its error; if none is, the finest.
    for tolerance in TOLERANCES:
        error = error_at(tolerance)
        if error <= bound:
            break
    return tolerance, error
