"""Speed and memory: every comparison in turns on one machine, so that ratios hold where times do not."""

from __future__ import annotations

import sys
from pathlib import Path

# Scripts beside this one, and those of all experiments.
sys.path.insert(1, str(Path(__file__).resolve().parent.parent))

import report
import runner

NAME = "benchmarks"
DENSITIES = {f"density_d{dim}": dim for dim in (2, 16, 64, 256)}
DEPTHS = {"depth_nhf": "nhf", "depth_rollout": "rollout"}
ROLLOUTS = {f"rollouts_{system}": system for system in ("pendulum", "henon_heiles")}
COMPILED = {f"compiled_d{dim}": dim for dim in (2, 16, 64)}
CASES = (*DENSITIES, "batches", *DEPTHS, "lattice", "sampling", *ROLLOUTS, "matmul", *COMPILED, "demo")
NOTES = """
Process time on one thread, the contenders of a case in turns; speedups are how many times longer another takes than
nhf, round by round, the median with its quartiles. The machine is named at the end.

density_dD: batches of 512 rows of D columns. nhf has 16 leapfrog steps of width 64, a Gaussian base (its default is a
mixture) and trains by the ELBO, nhf_8 by the bound of 8 particles that is the default, nhf_constant in constant memory,
nhf_autograd with forces by automatic differentiation. Rivals as they come, with hidden layers of 64: params stand
beside times, and likelihoods at equal parameters in results/density_2d and density_tabular. log_prob of nhf is its
bound with 256 particles, the default; of pyro_iaf the inverse of the fast direction. Continuous flows (zuko_cnf, an
exact trace; ffjord, torchdiffeq's adjoint and a random one) up to d = 16.

- train, log_prob, sample: of one batch. train_memory and so on: the most that tensors take during it, of what takes
  less than a second.

batches: the training step of 16 columns at batches of 32 to 8192 rows.

depth_nhf: the density of (q, p) of an NHF of one potential; depth_rollout: a loss of six states of a motion by an MLP
energy. Of the same time, in more and more steps.

- memory_growth: of constant memory, depth 1000 over depth 10. times_stored: time over that of the stored graph, the
  worst depth. gradient_error: the largest relative distance of a parameter's gradient from the stored graph's at depth
  1000.

lattice: the largest error of 100 states after 10 000 steps and as many back.

sampling: nhf and zuko_cnf after both have learned eight pairs of half moons, turned in 16 dimensions, for as long;
log_likelihood is that of held-out rows, of nhf a bound.

rollouts_SYSTEM: 1000 motions of 1000 states, as far apart as those that an HNN as it comes has learned its energy from,
by its own step (two networks, yoshida4) in single precision (rollout_double: in double), against SciPy's RK45 for each
motion, timed on four of them, and torchdiffeq's dopri5 for all at once, both in double; either at the coarsest
tolerance, of two a decade, whose largest error over the four is no larger than ours. What SciPy loses is mostly calls
of Python.

matmul: a loss and its gradients of 4 leapfrog steps, batch 4096; the share is of the rate that products of the same
shapes reach, counting six of them a force; in constant memory eight are computed.

demo: the shares of its parts in the time of `make demo` under Python's profiler, which makes Python's own share larger;
training holds its gradients (backward), the steps, the base and the encoder.

compiled_dD: how many times faster torch.compile makes a training step and the flow alone; compile_seconds, the first
call.
"""


def work(run: runner.Run) -> list[report.Row]:
    """One case."""
    import compiled
    import demo_profile
    import densities
    import depth
    import matmul
    import rollouts
    import sampling
    import torch

    torch.set_num_threads(1)
    configuration = dict(run.configuration)
    if run.case in DENSITIES:
        return densities.work(DENSITIES[run.case], run.seed, configuration)
    if run.case in DEPTHS:
        return depth.work(DEPTHS[run.case], run.seed, configuration)
    if run.case == "demo":
        return demo_profile.work(configuration)
    if run.case in ROLLOUTS:
        return rollouts.work(ROLLOUTS[run.case], run.seed, configuration)
    if run.case in COMPILED:
        return compiled.work(COMPILED[run.case], run.seed, configuration)
    others = {
        "batches": densities.batches, "lattice": depth.lattice, "sampling": sampling.work, "matmul": matmul.work,
    }  # fmt: skip
    return others[run.case](run.seed, configuration)


def main() -> None:
    """Run what the command line asks for, write the table, the pictures and the overview; then what has changed."""
    import last
    import pictures
    import turns

    store = runner.take_turns(
        NAME, __doc__ or "", "Speed and memory", f"{NOTES}\nMachine: {turns.machine()}.\n", CASES, "hamflow", work,
        quick=(["density_d2", "batches", "depth_rollout", "lattice", "sampling", "rollouts_pendulum", "matmul",
                "compiled_d2"], {"quick": True, "rounds": 2, "seconds": 0.001}),
        full={"quick": False, "rounds": 7, "seconds": 0.1, "learn_seconds": 150, "epochs": 60},
    )  # fmt: skip
    pictures.draw(store, store.path.parent)
    lines = last.compare(store.rows, last.committed(store.path))
    print("\n".join(("Against the last committed results:", *lines)) if lines else "No committed results beside these.")


if __name__ == "__main__":
    main()
