"""How long a training step of a guide takes, against those of Pyro's own."""

from __future__ import annotations

import statistics
import time
from typing import Any

import report
import runner

NAME = "guide_speed"
DIM = 16
CASES = ("one_particle", "eight_particles", "sixteen_particles")
PARTICLES = dict(zip(CASES, (1, 8, 16), strict=True))
NOTES = f"""
One step of SVI, with Trace_ELBO and Adam, for the mean of 50 rows of {DIM} columns: a latent dimension of {DIM}. Guides
as they come: auto_iaf is AutoIAFNormal with its one transform, auto_hamiltonian_flow has three steps of width 32; how
many parameters each has stands beside its time. One thread; the guides take turns.

- step: of a guide, the median over rounds of its process time.
- times_NAME: that of auto_hamiltonian_flow over that of a guide of Pyro's, round by round, the median, with the
  quartiles beside it. The documented training has sixteen particles.
"""


def work(run: runner.Run) -> list[report.Row]:
    """Let the guides take turns."""
    import pyro
    import pyro.distributions as dist
    import torch
    from pyro.infer import SVI, Trace_ELBO
    from pyro.infer.autoguide import AutoIAFNormal, AutoMultivariateNormal, AutoNormal

    import hamflow as hf

    torch.set_num_threads(1)
    pyro.set_rng_seed(run.seed)
    rows = torch.randn(50, DIM)

    def model() -> None:
        m = pyro.sample("m", dist.Normal(torch.zeros(DIM), 1.0).to_event(1))
        with pyro.plate("rows", len(rows)):
            pyro.sample("x", dist.Normal(m, 1.0).to_event(1), obs=rows)

    makers: dict[str, Any] = {
        "auto_normal": AutoNormal,
        "auto_multivariate_normal": AutoMultivariateNormal,
        "auto_iaf": AutoIAFNormal,
        "auto_hamiltonian_flow": hf.AutoHamiltonianFlow,
    }
    k = PARTICLES[run.case]
    steppers, params = {}, {}
    for name, make in makers.items():
        pyro.clear_param_store()
        guide = make(model)
        guide()
        params[name] = sum(p.numel() for p in guide.parameters())
        loss = Trace_ELBO(num_particles=k, vectorize_particles=k > 1, max_plate_nesting=1)
        steppers[name] = SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), loss)
    times: dict[str, list[float]] = {name: [] for name in makers}
    for number in range(run.configuration["rounds"] + 1):
        for name, svi in steppers.items():
            start = time.process_time()
            for _ in range(run.configuration["steps"]):
                svi.step()
            # The first round loads and allocates.
            if number:
                times[name].append(1000 * (time.process_time() - start) / run.configuration["steps"])
    found: list[report.Row] = []
    for name, own in times.items():
        cost = {"params": params[name]}
        found.append({"metric": f"{name}_step", "value": statistics.median(own), "unit": "ms", **cost})
        if name == "auto_hamiltonian_flow":
            continue
        ratios = [ours / other for ours, other in zip(times["auto_hamiltonian_flow"], own, strict=True)]
        head: report.Row = {"metric": f"times_{name}", "value": statistics.median(ratios), "unit": "times"}
        found.append(head | ({"bar": 1.5} if name == "auto_iaf" else {}))
        if len(ratios) > 1:
            low, _, high = statistics.quantiles(ratios, n=4)
            found.append({"metric": f"times_{name}_first_quartile", "value": low, "unit": "times"})
            found.append({"metric": f"times_{name}_third_quartile", "value": high, "unit": "times"})
    return found


def main() -> None:
    """Run what the command line asks for, then write the table and the overview."""
    runner.take_turns(
        NAME, __doc__ or "", "Speed of training a guide", NOTES, CASES, "guides", work,
        quick=(["one_particle", "eight_particles"], {"rounds": 2, "steps": 2}), full={"rounds": 30, "steps": 20},
    )  # fmt: skip


if __name__ == "__main__":
    main()
