"""Posteriors: a Hamiltonian guide and Pyro's own, and NUTS plainly and in the guide's coordinates."""

from __future__ import annotations

import time
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import posterior_amortised
import posterior_guides
import pyro
import report
import runner
import torch
from overview import write_overview
from posterior_targets import CASES, Draws, Target, load_target
from pyro.infer import MCMC, NUTS, SVI, Trace_ELBO

import hamflow as hf

NAME = "posteriors"
GUIDES = ("auto_hamiltonian_flow", "auto_normal", "auto_multivariate_normal", "auto_iaf", "auto_spline")
STARTED = ("started_multivariate_normal", "started_iaf", "started_spline")
MODELS = (*GUIDES, *STARTED, "nuts", "nuts_hamiltonian", *posterior_amortised.MODELS)
ALL_CASES = (*CASES, posterior_amortised.CASE)
#: Chains, and draws of each, after as many to warm up.
CHAINS, DRAWS = 4, 500
#: The share of proposals that step sizes are adapted to: more than the usual .8, as is advised where chains diverge.
ACCEPTED = 0.95
NOTES = f"""
Mean and standard error over the seeds; a seed draws the weights at the start and all noise anew. Posteriors of
posteriordb, judged by its 10 x 1000 reference draws; the centred eight schools by those of the same model written
otherwise; Neal's funnel of nine plus one dimensions by the exact moments of its first one.

Guides: 3000 steps of ClippedAdam, learning rate .01 falling to a twentieth, the ELBO with 16 particles, all alike.
auto_iaf (two layers) and auto_spline (three couplings) have about as many parameters as auto_hamiltonian_flow, which
starts from the best of three Gaussians, as it does by itself. auto_normal and auto_multivariate_normal start from the
median of that one, as narrow as Pyro makes them, and auto_iaf and auto_spline where Pyro lets them. What a start is
worth: started_* are the same with the Gaussian that ours begins with, its covariance included, where these begin, the
last two by a trainable affine map after their layers, which is no guide of Pyro's as it comes. train_seconds counts
the search for that Gaussian where it is used.

- elbo: of 20 000 draws, nats; elbo_minus_best_stock: auto_hamiltonian_flow's less that of the best of auto_normal,
  auto_multivariate_normal, auto_iaf and auto_spline, seed by seed; elbo_minus_best_started: less that of the best of
  started_*.
- mean_error_sd: the largest error of a posterior mean, in standard deviations of the reference; sd_error_relative: of a
  standard deviation. Of 20 000 draws.
- pareto_k: the tail index of the weights of 10 000 draws.
- steps_per_second: of training.

nuts, nuts_hamiltonian: {CHAINS} chains of {DRAWS} draws after {DRAWS} to warm up, at a target acceptance of
{ACCEPTED}, the second in the noise of the trained auto_hamiltonian_flow of the same seed; a gradient there is one
through the flow.

- ess_per_gradient: the smallest bulk effective sample size of a number that is compared, over all gradients, those of
  warming up included and those of training not; ess_per_gradient_in_all counts each particle of each training step
  too. times_ess_per_gradient, times_in_all: these of nuts_hamiltonian over those of nuts.
- r_hat: the largest. divergences: after warming up, of {CHAINS * DRAWS} draws. divergences_over_nuts: those of all
  seeds together over those of nuts.

two_moons: posteriors of all data at once, learned from 10 000 simulations, at about equal parameters and by the same
loop (batches of 256, at most 200 epochs, until 30 bring no better validation loss). zuko_nsf has five transforms of
eight bins; mixture_network is the base of nhf alone, a mixture density network.

- c2st: accuracy of a classifier that tells 10 000 draws given the observation from the 10 000 reference draws, .5 where
  it cannot (Lueckmann et al. 2021, arXiv 2101.04653); nll: of 2000 fresh pairs, of nhf an upper bound.
"""
ACCURATE = ("eight_schools", "kidscore_momiq", "arK", "garch11")
HARD = ("eight_schools_centered", "funnel")


def settings(model: str, case: str) -> dict[str, Any]:
    """What decides the figures of a contender."""
    if model in posterior_amortised.MODELS:
        return posterior_amortised.SETTINGS
    training = {"steps": 3000, "particles": 16, "learning_rate": 0.01}
    chains = {"chains": CHAINS, "draws": DRAWS, "target_accept": ACCEPTED}
    return (training if model != "nuts" else {}) | (chains if model.startswith("nuts") else {})


def work(run: runner.Run) -> list[report.Row]:
    """Fit or sample one contender and compare its draws."""
    if run.case == posterior_amortised.CASE:
        settings, quick = (run.configuration[name] for name in ("settings", "quick"))
        return posterior_amortised.work(run.model, run.seed, dict(settings), quick=quick)
    target = load_target(run.case)
    chosen = dict(run.configuration["settings"])
    if run.configuration["quick"]:
        chosen |= {name: small for name, small in {"steps": 20, "chains": 2, "draws": 10}.items() if name in chosen}
    pyro.set_rng_seed(run.seed)
    pyro.clear_param_store()
    if run.model == "nuts":
        return chains(target.model, None, target, chosen)
    name = "auto_hamiltonian_flow" if run.model == "nuts_hamiltonian" else run.model
    guide, search = posterior_guides.build(name, target, run.seed)
    seconds = train(target, guide, chosen)
    if run.model == "nuts_hamiltonian":
        neutra = hf.HamiltonianReparam(guide)
        return chains(neutra.reparam(target.model), neutra, target, chosen)
    cost = {"params": sum(p.numel() for p in guide.parameters()), "train_seconds": round(search + seconds, 1)}
    nesting: dict[str, Any] = {"max_plate_nesting": target.plates}
    weights = hf.inference.log_weights(guide, target.model, draws=20_000, **nesting)
    found = {"elbo": float(weights.double().mean()), "steps_per_second": chosen["steps"] / seconds}
    found["pareto_k"] = float(hf.densities.pareto_k(weights[:10_000, None].double()))
    found |= errors(posterior_guides.draw(guide, target, 20_000), target)
    bars = {"mean_error_sd": 0.1, "sd_error_relative": 0.1, "pareto_k": 0.7}
    ours = run.model == "auto_hamiltonian_flow" and run.case in ACCURATE
    return [
        {"metric": metric, "value": value, "unit": "1", **cost}
        | ({"bar": bars[metric]} if ours and metric in bars else {})
        for metric, value in found.items()
    ]


def train(target: Target, guide: Any, chosen: dict[str, Any]) -> float:
    """Train a guide; the CPU seconds that it took."""
    loss = Trace_ELBO(num_particles=chosen["particles"], vectorize_particles=True, max_plate_nesting=target.plates)
    decay = 0.05 ** (1 / chosen["steps"])
    svi = SVI(target.model, guide, pyro.optim.ClippedAdam({"lr": chosen["learning_rate"], "lrd": decay}), loss)
    start = time.process_time()
    for _ in range(chosen["steps"]):
        svi.step()
    return time.process_time() - start


def errors(draws: Draws, target: Target) -> dict[str, float]:
    """The largest errors of means and standard deviations."""
    found = target.quantities(draws)
    mean = [((found[name].mean(0) - target.mean[name]) / target.sd[name]).abs().max() for name in target.mean]
    spread = [(found[name].std(0) / target.sd[name] - 1).abs().max() for name in target.mean]
    return {"mean_error_sd": float(max(mean)), "sd_error_relative": float(max(spread))}


def chains(
    model: Any, neutra: hf.HamiltonianReparam | None, target: Target, chosen: dict[str, Any]
) -> list[report.Row]:
    """Sample by NUTS, and count what it cost."""
    from pyro.ops import integrator

    parts: list[Draws] = []
    gradient, gradients, divergent = integrator.potential_grad, 0, 0

    def counted(*arguments: Any) -> Any:
        nonlocal gradients
        gradients += 1
        return gradient(*arguments)

    with mock.patch.object(integrator, "potential_grad", counted):
        for _ in range(chosen["chains"]):
            kernel = NUTS(model, target_accept_prob=chosen["target_accept"])
            chain = MCMC(kernel, chosen["draws"], warmup_steps=chosen["draws"], disable_progbar=True)
            chain.run()
            divergent += len(chain.diagnostics()["divergences"]["chain 0"])
            draws = chain.get_samples()
            parts.append(draws if neutra is None else neutra.transform_sample(next(iter(draws.values()))))
    compared = [target.quantities(part) for part in parts]
    together = {name: torch.stack([part[name] for part in compared]) for name in target.mean}
    import arviz

    data = hf.inference.to_arviz(together)
    ess = min(float(np.min(x)) for x in arviz.ess(data).data_vars.values())
    r_hat = max(float(np.max(x)) for x in arviz.rhat(data).data_vars.values())
    trained = chosen["steps"] * chosen["particles"] if neutra is not None else 0
    found = {"ess_per_gradient": ess / gradients, "ess_per_gradient_in_all": ess / (gradients + trained)}
    found |= {"r_hat": r_hat, "divergences": float(divergent)}
    found |= errors({name: torch.cat([part[name] for part in parts]) for name in parts[0]}, target)
    bar = {"bar": 1.01} if neutra is not None else {}
    return [
        {"metric": metric, "value": value, "unit": "1"} | (bar if metric == "r_hat" else {})
        for metric, value in found.items()
    ]


def derived(store: report.ResultStore) -> list[report.Row]:
    """Ours against the best of Pyro's guides, and chains in its coordinates against plain ones, seed by seed."""
    rows: list[report.Row] = []

    def add(case: str, model: str, metric: str, values: list[float], bar: float | None) -> None:
        if values:
            mean, error = report.mean_and_error(values)
            row: report.Row = {"case": case, "model": model, "metric": metric, "unit": "1", "value": mean}
            row |= {"standard_error": error, "n": len(values)}
            rows.append(row | ({} if bar is None else {"bar": bar}))

    for case in CASES:
        own = store.values(case, GUIDES[0], "elbo")
        for name, models in (("stock", GUIDES[1:]), ("started", STARTED)):
            others = [found for model in models if (found := store.values(case, model, "elbo"))]
            known = [seed for seed in own if others and all(seed in other for other in others)]
            gains = [own[seed] - max(other[seed] for other in others) for seed in known]
            bar = (0.0 if case in HARD else -0.05) if name == "stock" else None
            add(case, GUIDES[0], f"elbo_minus_best_{name}", gains, bar)
        for metric, name, bar in (
            ("ess_per_gradient", "times_ess_per_gradient", 3.0), ("ess_per_gradient_in_all", "times_in_all", None),
            ("divergences", "divergences_over_nuts", 0.1),
        ):  # fmt: skip
            flow, plain = (store.values(case, model, metric) for model in ("nuts_hamiltonian", "nuts"))
            both = sorted(flow.keys() & plain.keys())
            ratios = [flow[seed] / plain[seed] for seed in both if plain[seed]]
            if metric == "divergences":
                # Of all seeds together: one without any in plain NUTS counts too.
                total = sum(plain[seed] for seed in both)
                ratios = [sum(flow[seed] for seed in both) / total] if total else []
            add(case, "nuts_hamiltonian", name, ratios, bar if case in HARD else None)
    return rows


def _belongs(model: str, case: str) -> bool:
    return (model in posterior_amortised.MODELS) == (case == posterior_amortised.CASE)


def main() -> None:
    """Run what the command line asks for, then write the table and the overview."""
    options = runner.parse_options(
        NAME,
        __doc__ or "",
        ALL_CASES,
        MODELS,
        quick=(["funnel", "two_moons"], ["auto_hamiltonian_flow", "auto_normal", "nuts_hamiltonian", "nhf"]),
    )
    seeds = options.seeds or ([0] if options.quick else [0, 1, 2])
    measured = {case: partial(load_target, case) for case in CASES} | {
        posterior_amortised.CASE: posterior_amortised.observation
    }
    runs, decides = runner.plan(options, seeds, MODELS, settings, _belongs, measured)
    store = report.ResultStore(options.out, quick=options.quick)
    store.drop_stale(decides)
    runner.execute(work, runs, store, options.jobs)
    store.set_derived(derived(store))
    report.write_table(store, "Posteriors", NOTES, ALL_CASES)
    write_overview(options.out.parent)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
