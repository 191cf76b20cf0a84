"""Physics inside a Pyro model: what the measured swing of a real pendulum says of its length, friction and law."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import report
import runner
import torch
from overview import write_overview
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoDelta, init_to_value
from torch import Tensor

import hamflow as hf

NAME = "physics_in_pyro"
CASE = "real_pendulum"
MODELS = ("nuts", "auto_hamiltonian_flow", "bayesian_hnn")
#: Every so many frames of the first part are seen; the rest of that part, and the next part, are held out.
EVERY, SEEN, AHEAD = 8, 30.0, 15.0
#: Standard gravity, as if the unit of time of the file were a second.
GRAVITY = 9.81
NUMBERS = ("length", "friction", "noise", "zero", "angle", "speed")
NOTES = f"""
Mean and standard error over the seeds, which draw the noise of inference anew: the data are one swing of a real
pendulum and stay the same. Angles alone are used, every {EVERY}th frame of the first {SEEN:g} units of time; held out
are the other frames of that part (between) and all frames of the next {AHEAD:g} units (ahead). Residuals agree
from frame to frame (residual_correlation_1, _4, _8: one, four, eight frames apart), and the likelihood takes them as
independent: every eighth frame makes that less wrong, and bands ahead show what is left.

The law is q'' = -(g / l) sin(q - zero) - friction q', with the angle and speed of the first frame, the zero of the
angle and the noise unknown. The mass is not in it: angles leave its posterior at its prior. The length is the
equivalent length with g = {GRAVITY} if the file's unit of time were a second; what is measured is g / l. The file's
velocities, which are not used, are smaller than the slopes of its angles.

- nuts: two chains in the coordinates of the Gaussian at the mode; r_hat, the largest, and ess, the smallest bulk
  effective sample size, over the six numbers. auto_hamiltonian_flow: SVI. Both float64.
- residual_sd: of all frames of the first part about the mean of the draws, rad.
- *_mean, *_sd, *_low, *_high: of the posterior and its central 90 % interval.
- mean_difference_sd: largest distance of a posterior mean of SVI from that of NUTS, in standard deviations of NUTS;
  sd_ratio_error: largest relative difference of a standard deviation.
- covered_between, covered_ahead: share of held-out frames in the central 90 % of new measurements.
- bayesian_hnn: the potential is a network of 6 ridges of sin q and cos q whose weights have priors, by SVI from the
  mode.
"""


def load(quick: bool = False) -> dict[str, Tensor]:
    """Times from the first frame on and angles, seen and held out."""
    data = hf.systems.load_pendulum()
    times, q = data.times - data.times[0], data.q[0]
    seen, ahead = (5.0, 2.0) if quick else (SEEN, AHEAD)
    first = times <= seen
    chosen = first & (torch.arange(len(times)) % EVERY == 0)
    later = (times > seen) & (times <= seen + ahead)
    parts = {"first": first, "seen": chosen, "between": first & ~chosen, "ahead": later}
    return {f"{part}_{name}": x[rows] for part, rows in parts.items() for name, x in (("times", times), ("q", q))}


def number(name: str, law: Any) -> Tensor:
    """A latent of shape (*batch, 1)."""
    drawn: Tensor = pyro.sample(name, law.expand([1]).to_event(1))
    return drawn


def roll(times: Tensor, obs: Tensor | None, potential: hf.FunctionEnergy) -> None:
    """The path under a potential a unit of inertia, with what both laws share."""
    friction = number("friction", dist.LogNormal(-4.5, 1.0))
    noise = number("noise", dist.LogNormal(-4.0, 1.0))
    angle, speed = number("angle", dist.Normal(1.1, 0.2)), number("speed", dist.Normal(0.9, 0.3))
    energy = hf.SeparableHamiltonian(hf.FunctionEnergy(lambda p: 0.5 * (p**2).sum(-1), lambda p: p), potential)
    step = hf.Damped(hf.Splitting(energy, hf.BLANES_MOAN4), friction)
    hf.inference.observe_path("q", step, angle, speed, times, dt=0.5, noise=noise, obs=obs, t=0.0)


def pendulum(times: Tensor, obs: Tensor | None = None) -> None:
    """The law of a pendulum of unknown length."""
    pull = GRAVITY / number("length", dist.LogNormal(2.0, 0.5))
    zero = number("zero", dist.Normal(0.0, 0.05))
    roll(times, obs, hf.FunctionEnergy(lambda q: -(pull * (q - zero).cos()).sum(-1), lambda q: pull * (q - zero).sin()))


def network(times: Tensor, obs: Tensor | None = None) -> None:
    """A network as the potential, its weights drawn."""
    scales = {"a": 2.0, "w": 1.0, "u": 1.0, "b": 1.0}
    a, w, u, b = (pyro.sample(name, dist.Normal(0.0, s).expand([6]).to_event(1)) for name, s in scales.items())

    def ridges(q: Tensor) -> Tensor:
        return torch.tanh(w * q.sin() + u * q.cos() + b)

    def slope(q: Tensor) -> Tensor:
        return (a * (1 - ridges(q) ** 2) * (w * q.cos() - u * q.sin())).sum(-1, keepdim=True)

    roll(times, obs, hf.FunctionEnergy(lambda q: (a * ridges(q)).sum(-1), slope))


def settings(model: str, case: str) -> dict[str, Any]:
    """What decides the figures of a contender."""
    shared = {"every": EVERY, "seen": SEEN, "ahead": AHEAD}
    own = {
        "nuts": {"chains": 2, "draws": 500, "warmup": 200, "depth": 4},
        "auto_hamiltonian_flow": {"steps": 2000},
        "bayesian_hnn": {"mode_steps": 300, "steps": 500},
    }
    return shared | own[model]


def work(run: runner.Run) -> list[report.Row]:
    """Infer, and count held-out frames in the bands."""
    torch.set_default_dtype(torch.float64)
    quick = run.configuration["quick"]
    data, chosen = load(quick), dict(run.configuration["settings"])
    if quick:
        chosen |= {name: 8 for name in ("draws", "warmup", "steps", "mode_steps") if name in chosen}
    pyro.set_rng_seed(run.seed)
    pyro.clear_param_store()
    seen = data["seen_times"], data["seen_q"]
    start = time.process_time()
    contenders: Mapping[str, Callable[..., dict[str, Tensor]]] = {
        "nuts": by_chain, "auto_hamiltonian_flow": by_guide, "bayesian_hnn": by_network
    }  # fmt: skip
    draws = contenders[run.model](seen, chosen, run.seed)
    seconds = round(time.process_time() - start, 1)
    found: dict[str, float] = {}
    for name in NUMBERS:
        if name in draws:
            low, high = draws[name].flatten().quantile(torch.tensor([0.05, 0.95])).tolist()
            found |= {f"{name}_mean": float(draws[name].mean()), f"{name}_sd": float(draws[name].std())}
            found |= {f"{name}_low": low, f"{name}_high": high}
    if run.model == "nuts":
        found |= agreement(draws, chosen["chains"])
    law = network if run.model == "bayesian_hnn" else pendulum
    for part in ("between", "ahead"):
        new = Predictive(law, draws, parallel=True)(data[f"{part}_times"])["q"]
        low, high = new.quantile(torch.tensor([0.05, 0.95]), 0)
        inside = (data[f"{part}_q"] > low) & (data[f"{part}_q"] < high)
        found[f"covered_{part}"] = float(inside.double().mean())
    path = Predictive(law, draws, parallel=True)(data["first_times"])["q"].mean(0)
    left = (data["first_q"] - path).flatten()
    found["residual_sd"] = float(left.std())
    left = left - left.mean()
    for gap in (1, 4, 8):
        found[f"residual_correlation_{gap}"] = float((left[gap:] * left[:-gap]).mean() / left.square().mean())
    bars = {"covered_between": 0.85, "covered_ahead": 0.85, "r_hat": 1.01}
    return [
        {"metric": metric, "value": value, "unit": "1", "train_seconds": seconds}
        | ({"bar": bars[metric]} if metric in bars else {})
        for metric, value in found.items()
    ]


def by_guide(seen: tuple[Tensor, Tensor], chosen: dict[str, Any], seed: int) -> dict[str, Tensor]:
    """Draws of a trained guide."""
    guide = hf.AutoHamiltonianFlow(pendulum, init_loc_fn=init_to_value(values=beginning()), seed=seed)
    train(guide, pendulum, seen, chosen["steps"])
    return draws_of(guide, seen, seed)


def by_chain(seen: tuple[Tensor, Tensor], chosen: dict[str, Any], seed: int) -> dict[str, Tensor]:
    """Draws of NUTS."""
    guide = hf.AutoHamiltonianFlow(
        pendulum, init_loc_fn=init_to_value(values=beginning()), start="laplace", n_steps=1, width=4, seed=seed
    )
    guide(*seen)
    neutra = hf.HamiltonianReparam(guide)
    parts = []
    for _ in range(chosen["chains"]):
        kernel = NUTS(neutra.reparam(pendulum), max_tree_depth=chosen["depth"])
        chain = MCMC(kernel, chosen["draws"], warmup_steps=chosen["warmup"], disable_progbar=True)
        chain.run(*seen)
        parts.append(neutra.transform_sample(next(iter(chain.get_samples().values()))))
    return {name: torch.cat([part[name].detach() for part in parts]) for name in parts[0]}


def agreement(draws: dict[str, Tensor], chains: int) -> dict[str, float]:
    """The largest R-hat and the smallest effective sample size of draws, chain after chain."""
    import arviz

    apart = {name: draws[name].reshape(chains, -1) for name in NUMBERS}
    data = hf.inference.to_arviz(apart)
    r_hat = max(float(x) for x in arviz.rhat(data).data_vars.values())
    return {"r_hat": r_hat, "ess": min(float(x) for x in arviz.ess(data).data_vars.values())}


def by_network(seen: tuple[Tensor, Tensor], chosen: dict[str, Any], seed: int) -> dict[str, Tensor]:
    """Draws of the weights: the mode of the beginning first, for long paths have false modes."""
    known = beginning()

    def anywhere(site: dict[str, Any]) -> Tensor:
        shape = site["fn"].shape()
        return known[site["name"]].expand(shape) if site["name"] in known else 0.5 * torch.randn(shape)

    mode = AutoDelta(network, init_loc_fn=anywhere)
    for share in (0.1, 0.25, 0.5, 1.0):
        few = [x[: max(4, int(share * len(x)))] for x in seen]
        decay = {"lr": 0.03, "lrd": 0.1 ** (1 / chosen["mode_steps"])}
        svi = SVI(network, mode, pyro.optim.ClippedAdam(decay), Trace_ELBO())
        for _ in range(chosen["mode_steps"]):
            svi.step(*few)
    at_mode = init_to_value(values={name: value.detach() for name, value in mode.median().items()})
    pyro.clear_param_store()
    guide = hf.AutoHamiltonianFlow(network, init_loc_fn=at_mode, start="median", init_scale=0.005, seed=seed)
    train(guide, network, seen, chosen["steps"])
    return draws_of(guide, seen, seed)


def beginning() -> dict[str, Tensor]:
    """Where inference starts: the first frame, and a period that is about right."""
    rough = {"length": 7.3, "friction": 0.01, "noise": 0.02, "zero": 0.0, "angle": 1.12, "speed": 0.92}
    return {name: torch.tensor([value]) for name, value in rough.items()}


def train(guide: Any, law: Callable[..., None], seen: tuple[Tensor, Tensor], steps: int) -> None:
    """SVI with 16 particles, learning rate .01 falling to a twentieth."""
    loss = Trace_ELBO(num_particles=16, vectorize_particles=True, max_plate_nesting=0)
    svi = SVI(law, guide, pyro.optim.ClippedAdam({"lr": 0.01, "lrd": 0.05 ** (1 / steps)}), loss)
    for _ in range(steps):
        svi.step(*seen)


def draws_of(guide: Any, seen: tuple[Tensor, Tensor], seed: int) -> dict[str, Tensor]:
    """A thousand draws of the posterior."""
    found: dict[str, Tensor] = guide.sample_posterior(1000, *seen, seed=seed)
    return found


def derived(store: report.ResultStore) -> list[report.Row]:
    """How far SVI lies from NUTS, seed by seed."""
    rows: list[report.Row] = []
    means, errors = [], []

    def of(model: str, metric: str) -> dict[int, float]:
        return store.values(CASE, model, metric)

    for seed in sorted(of("nuts", "length_mean").keys() & of("auto_hamiltonian_flow", "length_mean").keys()):
        chain, guide = (
            [(of(model, f"{name}_mean")[seed], of(model, f"{name}_sd")[seed]) for name in NUMBERS]
            for model in MODELS[:2]
        )
        means.append(max(abs(g[0] - c[0]) / c[1] for c, g in zip(chain, guide, strict=True)))
        errors.append(max(abs(g[1] / c[1] - 1) for c, g in zip(chain, guide, strict=True)))
    for metric, values, bar in (("mean_difference_sd", means, 0.3), ("sd_ratio_error", errors, 0.3)):
        if values:
            mean, error = report.mean_and_error(values)
            row: report.Row = {"case": CASE, "model": MODELS[1], "metric": metric, "unit": "1", "value": mean}
            rows.append(row | {"standard_error": error, "n": len(values), "bar": bar})
    return rows


def main() -> None:
    """Run what the command line asks for, then write the table and the overview."""
    options = runner.parse_options(NAME, __doc__ or "", [CASE], MODELS, quick=([CASE], MODELS))
    seeds = options.seeds or ([0] if options.quick else [0, 1, 2])
    runs, decides = runner.plan(options, seeds, MODELS, settings, lambda model, case: True, {CASE: load})
    store = report.ResultStore(options.out, quick=options.quick)
    store.drop_stale(decides)
    runner.execute(work, runs, store, options.jobs)
    store.set_derived(derived(store))
    report.write_table(store, "Physics inside a Pyro model", NOTES, [CASE])
    write_overview(options.out.parent)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
