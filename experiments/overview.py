"""The page over all results: every bar, what it means, and where a contender is ahead that no bar speaks of."""

from __future__ import annotations

import json
from pathlib import Path

from report import HIGHER_IS_BETTER, VERDICTS, Figure, markdown, number, summarise, write_text

#: One line for every figure that has a bar; the tables say more.
MEANINGS = {
    "elbo_minus_best_stock": "evidence bound of our guide less that of the best of Pyro's, nats",
    "times_ess_per_gradient": "effective draws a gradient of NUTS in the guide's coordinates over those of plain NUTS",
    "divergences_over_nuts": "diverging transitions of NUTS in the guide's coordinates over those of plain NUTS",
    "covered_between": "share of held-out frames between seen ones that lie in the 90 % band of new measurements",
    "covered_ahead": "the same of frames after the seen part",
    "mean_difference_sd": "largest distance of a posterior mean of SVI from that of NUTS, in standard deviations",
    "sd_ratio_error": "largest relative difference of a posterior standard deviation of SVI from that of NUTS",
    "mean_error_sd": "largest error of a posterior mean, in standard deviations",
    "sd_error_relative": "largest relative error of a posterior standard deviation",
    "p_value": "of a test of uniform ranks of truths among posterior draws: not small",
    "evidence_gap": "exact log evidence less the bound of a guide, nats",
    "c2st": "accuracy of a classifier that tells draws of an amortised posterior from the reference, .5 if it cannot",
    "pareto_k": "tail index of the importance weights of a guide",
    "times_auto_iaf": "time of a training step of our guide over that of AutoIAFNormal",
    "r_hat": "of chains, the largest",
    "speedup_train_over_nhf_autograd": "time of a training step with forces by automatic differentiation over ours",
    "speedup_train_over_zuko_nsf": "time of a training step of a spline flow of five transforms over ours",
    "speedup_sample_over_nflows_rq_nsf": "time of draws of an autoregressive spline flow of nflows over ours",
    "speedup_sample_over_zuko_nsf": "the same of zuko's",
    "speedup_sample_over_zuko_cnf": "the same of zuko's continuous flow",
    "speedup_over_scipy": "time of SciPy's solver called for each motion over that of all motions at once",
    "matmul_share_stored_d256": "share of the machine's rate of matrix products that a training step reaches",
    "memory_growth": "memory of gradients at depth 1000 over that at depth 10, in constant memory",
    "times_stored": "time of gradients in constant memory over that of the stored graph, the worst depth",
    "gradient_error_float64": "relative distance of gradients in constant memory from those of the stored graph",
    "gradient_error_float32": "the same in single precision",
    "lattice_error_float64": "what 10 000 steps on a lattice and as many back lose",
    "lattice_error_float32": "the same in single precision",
    "accepted_samples": "share of made-up videos that are close to a true motion",
    "acceleration_l1": "mean absolute error of accelerations at fresh states",
    "angle_rmse": "of forecasts of one second of a measured arm, rad",
    "energy_error_mean_percent": "change of the true energy over 100 s in per cent of the largest potential energy",
    "energy_error_median_percent": "the same, its median over the motions",
    "relative_error_geometric_mean": "of states over 100 steps, as published for chains",
    "speedup_over_full_hessian": "time of a training step by the full Hessian over that of hamflow",
    "speedup_over_products": "time of a training step by d + 1 vector-Jacobian products over that of hamflow",
    "speedup_over_sample_loop": "time of a training step that loops over samples over that of hamflow",
    "test_loss": "of unseen pictures, the published sum of the errors of pixels, of momenta and of the dynamics",
    "speedup_at_once": "time of a step on videos frame by frame over that with all frames at once",
    "times_better_than_mlp": "error of the perceptron's forecasts over that of the Lagrangian network's",
    "weighted_l1": "error of accelerations weighted by the speed",
    "autoencode_mse": "squared error a pixel of 30 frames from themselves, in units of 1e-4",
    "inference_mse": "the same from the first five of them",
    "backward_error": "of a latent state after 150 frames forward and as many back",
    "better_than_kepler": "share of runs that predict a planet better than an ellipse about the sun does",
    "bound_gap_1000": "how far the bound with 1000 particles lies below the quadrature, nats",
    "bracket_contains_truth": "share of seeds on which the bracket of the model's samples holds the exact mean",
    "choices_at_an_edge": "sets on which the best learning rate is the last one that was tried",
    "energy_drift_significant": "1 where the energy of the rollout has a trend of more than three standard errors",
    "energy_mse": "mean squared error of the true energy along rollouts from unseen states, or from unseen pictures",
    "exploded_runs": "runs whose test nll is not finite or more than 1000 nats above that of gmm",
    "failed": "1 where a run ended with an error, which its row in metrics.json names",
    "failed_runs": "runs that ended with an error",
    "h_drift": "change of the learned energy along rollouts over what it differs between videos",
    "inference_skill": "share of what can be explained of 30 frames that is explained from the first five",
    "reconstruction_skill": "the same of 30 frames from themselves",
    "times_better_than_latent_mlp": "squared error of the plain network's forecasts over that of the energy's",
    "fit_seconds": "CPU seconds of 200 epochs of breast_cancer on one core",
    "mass_relative_error": "of the planets' masses inferred from their paths",
    "nll": "mean negative log-likelihood of test rows, nats; of the Hamiltonian flows an upper bound",
    "nll_minus_best_peer": "nll less that of the best contender of the set, the one that is named",
    "nll_minus_gmm_upper": "upper end of the one-sided 95 % interval of the difference to gmm, nats",
    "pareto_k_below_0_7": "share of test points whose weights have a tail index under 0.7",
    "sets_better_than_realnvp": "of the four small sets, those where nhf is better by two standard errors",
    "sets_better_than_realnvp_corrected": "the same by a t interval that allows for overlapping training rows",
    "sets_level_with_nsf": "of the four small sets, those where nhf is no worse than the better of two spline flows",
    "sets_no_worse_than_gmm": "of the six sets, those where nll_minus_gmm_upper is below 0.1",
    "speedup_over_double_backward": "time of a training step by double backward over that by closed forms",
}


def write_overview(results: Path) -> None:
    """Write README.md over every experiment beside it, short falls first."""
    found = {
        path.parent.name: summarise(json.loads(path.read_text(encoding="utf-8")))
        for path in sorted(results.glob("*/metrics.json"))
    }
    parts = [
        "# Results\n\nEvery figure that has a bar to clear, short falls first. Each experiment is one command,"
        " `python experiments/NAME.py`; this page is generated from their tables.\n",
        *_bars(found),
        *_meanings(found),
        *_contenders(found),
        "Tables: " + ", ".join(f"[{name}]({name}/table.md)" for name in found) + "\n",
    ]
    write_text(results / "README.md", "\n".join(parts))


def _bars(found: dict[str, list[Figure]]) -> list[str]:
    entries = [(name, figure) for name, figures in found.items() for figure in figures if figure.bar is not None]
    entries.sort(key=lambda e: (VERDICTS.index(e[1].verdict), e[0], e[1].case, e[1].model, e[1].metric))
    short = sum(figure.verdict == "short" for _, figure in entries)
    header = ["verdict", "experiment", "case", "model", "metric", "reached", "runs", "bar", "stretch"]
    lines = []
    for name, f in entries:
        sign = "≥" if f.metric in HIGHER_IS_BETTER else "≤"
        place = [f.verdict, f"[{name}]({name}/table.md)", f.case, f.model, f.metric]
        lines.append([*place, f.shown, str(f.n), f"{sign} {number(f.bar)}", number(f.stretch)])
    return [f"{short} of {len(entries)} bars are missed.\n", markdown(header, lines)]


def _meanings(found: dict[str, list[Figure]]) -> list[str]:
    barred = {figure.metric for figures in found.values() for figure in figures if figure.bar is not None}
    lines = [f"- {name}: {meaning}." for name, meaning in MEANINGS.items() if name in barred]
    return ["## What these figures are\n", "\n".join(lines) + "\n"]


def _contenders(found: dict[str, list[Figure]]) -> list[str]:
    """Mean nll of all contenders side by side, and what the training of nhf adds to the mixture that it starts from."""
    parts = []
    for name, figures in found.items():
        nll = {(f.case, f.model): f.mean for f in figures if f.metric == "nll"}
        if not nll:
            continue
        gain = {f.case: f.shown for f in figures if (f.model, f.metric) == ("nhf", "training_gain")}
        cases = sorted({case for case, _ in nll})
        models = sorted({model for _, model in nll}, key=lambda model: (not model.startswith("nhf"), model))
        lines = []
        for case in cases:
            best = min(value for (other, _), value in nll.items() if other == case)
            cells = [_cell(nll.get((case, model)), best) for model in models]
            lines.append([case, *cells, gain.get(case, "")])
        parts += [
            f"## All contenders of {name}\n",
            "Mean nll over the runs of each, the lowest in bold, whoever it is; training gain: what the training of nhf"
            " adds, in nats a test row, to the mixture that it starts from (start_mixture).\n",
            markdown(["case", *models, "training gain"], lines),
        ]
    return parts


def _cell(value: float | None, best: float) -> str:
    return f"**{number(value)}**" if value == best else number(value)
