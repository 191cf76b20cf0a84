"""Many motions at once, against SciPy's solver called for each one with the same network."""

from __future__ import annotations

import copy
import statistics
import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.integrate import solve_ivp

import hamflow as hf

DIM, STATES, STEPS, DT = 2, 1000, 1000, 0.1
#: Motions that SciPy is timed on; the others would take as long.
TIMED = 8


def work(seed: int, configuration: dict[str, Any]) -> list[dict[str, Any]]:
    """Time of all motions, at tolerances of SciPy that are no more accurate than the leapfrog."""
    torch.manual_seed(seed)
    energy = hf.SeparableHamiltonian(hf.QuadraticKinetic(DIM), hf.MLPPotential(DIM, (64, 64))).double()
    torch.nn.init.normal_(energy.potential.readout, std=0.5)  # type: ignore[arg-type]
    # Errors of the scheme are far above those of single precision.
    single = hf.Splitting(copy.deepcopy(energy).float())
    states, steps, timed = (20, 20, 2) if configuration["quick"] else (STATES, STEPS, TIMED)
    q, p = torch.randn(2, states, DIM, dtype=torch.float64)

    # What is computed once for all steps is, for SciPy too.
    with torch.no_grad():
        (slope,) = energy.potential.slopes([0.0])

    def field(t: float, z: NDArray[np.float64]) -> NDArray[np.float64]:
        with torch.no_grad():
            at = torch.from_numpy(z)
            return np.concatenate((at[DIM:].numpy(), -slope(at[:DIM]).numpy()))

    def solve(i: int, **how: Any) -> NDArray[np.float64]:
        begin = torch.cat((q[i], p[i])).numpy()
        found = solve_ivp(field, (0, steps * DT), begin, t_eval=np.arange(steps + 1) * DT, **how)
        return np.asarray(found.y.T)

    truth = np.stack([solve(i, method="DOP853", rtol=1e-11, atol=1e-12) for i in range(timed)])
    ours, theirs = [], []
    with torch.no_grad():
        for number in range(configuration["rounds"] + 1):
            start = time.process_time()
            path = hf.rollout(single, q.float(), p.float(), n_steps=steps, dt=DT)
            if number:
                ours.append(time.process_time() - start)
    error = float(np.abs(path[:, :timed].transpose(0, 1).numpy() - truth).max())
    for tolerance in (1e-3, 1e-4, 1e-5, 1e-6):
        start = time.process_time()
        found = np.stack([solve(i, rtol=tolerance, atol=tolerance * 1e-2) for i in range(timed)])
        theirs.append(((time.process_time() - start) * states / timed, float(np.abs(found - truth).max()), tolerance))
    # The coarsest that is as accurate; if none is, the finest.
    taken, their_error, tolerance = next((row for row in theirs if row[1] <= error), theirs[-1])
    own = statistics.median(ours)
    return [
        {"metric": "rollout_seconds", "value": own, "unit": "s"},
        {"metric": "scipy_seconds", "value": taken, "unit": "s"},
        {"metric": "rollout_error", "value": error, "unit": "1"},
        {"metric": "scipy_error", "value": their_error, "unit": "1"},
        {"metric": "scipy_tolerance", "value": tolerance, "unit": "1"},
        {"metric": "speedup_over_scipy", "value": taken / own, "unit": "times", "bar": 100.0},
    ]
