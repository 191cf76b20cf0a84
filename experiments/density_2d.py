"""Two-dimensional densities whose entropy is known: pure and hybrid Neural Hamiltonian Flows beside their peers."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import paired
import report
import runner
from contenders import Array, Contender, Hamiltonian, Schedule, configuration, train
from nhf_models import NHF_MODELS, START, certificate_metrics
from overview import write_overview
from paired import LEVEL
from peers import PEERS
from planar import PLANAR_SETS

NAME = "density_2d"
MODELS = (*NHF_MODELS, START, *PEERS, "gmm")
FULL = {"train": 12_000, "validation": 3_000, "test": 5_000, "certified": 500, "integrated": 200, "picture": 64}
QUICK_MODELS = ("nhf", "realnvp", "gmm")
QUICK = {"train": 400, "validation": 100, "test": 100, "certified": 4, "integrated": 2, "picture": 12}
# A single component that is bent into the whole density leaves ridges in the momentum that cost seconds a point.
WARPED = {"integrated": 20}
SCHEDULE = Schedule(iterations=2000, batch_size=256, patience=15)
QUICK_SCHEDULE = Schedule(iterations=4, batch_size=256)
BUDGET = 10_000
HYBRID_BUDGET = 25_000
# nhf starts close to the optimum: large steps would only leave it.
LEARNING_RATES = dict.fromkeys(MODELS, 5e-3) | {"nhf": 1e-3, "nhf_hybrid": 1e-3}
# Where what the flow does alone is shown; a run takes five minutes.
ONE_COMPONENT_SETS = ("two_moons", "circles")
# Nats per point by which a model may be worse and still counts as no worse.
MARGIN = 0.01
# Rows that no trial of any setting has seen.
FIRST_DRAW = 1000
NLL_BARS: dict[tuple[str, str], dict[str, float]] = {
    ("two_moons", "nhf"): {"bar": 1.40, "stretch": 1.35},
    ("two_moons", "nhf_hybrid"): {"bar": 1.34},
    ("circles", "nhf"): {"bar": 2.00, "stretch": 1.94},
}
CERTIFICATE_BARS = {"bound_gap_1000": 0.005, "pareto_k_below_0_7": 0.95, "bracket_contains_truth": 1.0}
CERTIFICATE_UNITS = {
    "bound_gap_1000": "nats",
    "pareto_k_below_0_7": "share",
    "bracket_contains_truth": "share",
    "unsettled_points": "points",
}
LIMIT = 2.6
NOTES = f"""
nll: nats per test point, lower is better, in the coordinates of the set standardised by a fixed map. Reference: the
mean negative log-likelihood of the true density on the very same test points. For nhf and nhf_hybrid nll is an upper
bound (importance-weighted); bound_gap_1000 is the distance of the bound with 1000 particles from quadrature. All
trained models get the same rows, iterations, batch size, optimiser and choice of the best weights by validation. CPU
seconds are process time on one thread. gmm: full covariances; 1 to 10 components and the floor of the covariances are
chosen by validation. nhf and nhf_hybrid start from a mixture of up to 24 Student t components that is fitted first:
start_mixture is nhf before its training. nhf_one_component starts from a single component and shows what the flow does
alone. training_gain: mean bound of the trained model on the test points less that of its own start; it may be negative.

The contenders share test points, so the standard errors of nll, over draws of the data, are mostly common to all.
nll_minus_reference and nll_minus_X compare on the same points, paired by draw, with the standard error of the mean
difference. Verdicts: better or worse where the two-sided {1 - LEVEL:.0%} Student t interval in brackets does not hold
zero; no worse where the one-sided {1 - LEVEL:.0%} interval ends below {MARGIN} nats; else undecided. "2 SE" is the
plain rule of two standard errors, which with three draws errs in 18 % of comparisons of equals.

How the settings were chosen: by hand, for hamflow and for its peers; more trials went into nhf than into any peer, and
learning rates differ by model. The rows of this table were drawn afterwards: no trial has seen them.

Where training_gain is 0 the weights of the start were kept, because no epoch beat it on the validation rows: the
momentum is then independent of the position and the certificate is tight by construction, so it says nothing about a
trained flow. Pareto k is taken on 500 test points, bound_gap_1000 on 200 of them; bracket_contains_truth (ELBO <= bound
with 1000 particles <= quadrature <= upper bound with 1000 particles <= EUBO, in the mean, within three standard errors)
on 200 samples of the model; of nhf_one_component, whose quadrature costs seconds a point, on 20 and 20.
unsettled_points counts those of the 400, or 40, whose quadrature did not settle or whose bound is not finite; they are
left out.
"""


def _budget(model: str) -> int:
    return HYBRID_BUDGET if model == "nhf_hybrid" else BUDGET


def work(run: runner.Run, pictures: Path) -> list[report.Row]:
    """Fit one model on one set and score it; one seed also leaves its density and samples for the figure."""
    sizes = run.configuration["data"]
    data = PLANAR_SETS[run.case]
    parts = ("train", "validation", "test")
    rows = {part: data.sample(sizes[part], seed=FIRST_DRAW + 10 * run.seed + k) for k, part in enumerate(parts)}
    schedule = Schedule(**run.configuration["schedule"])
    budget, rate = _budget(run.model), LEARNING_RATES[run.model]
    fitted = train(run.model, run.case, budget, schedule, rate, rows["train"], rows["validation"], run.seed)
    figures: list[report.Row] = [
        {
            "metric": "nll",
            "value": float(-fitted.log_density(rows["test"]).mean()),
            "unit": "nats",
            "params": fitted.params,
            "train_seconds": round(fitted.train_seconds, 2),
            "reference": round(float(-data.log_density(rows["test"]).mean()), 5),
            "reference_source": "true density on the test points",
            **NLL_BARS.get((run.case, run.model), {}),
        }
    ]
    if isinstance(fitted, Hamiltonian):
        figures.append({"metric": "training_gain", "value": fitted.training_gain(rows["test"]), "unit": "nats"})
        figures += _certificate(fitted, rows["test"][: sizes["certified"]], sizes["integrated"], run.seed)
    if run.seed == 0:
        _save_picture(fitted, pictures / f"{run.case}_{run.model}.npz", sizes["picture"])
    return figures


def _certificate(fitted: Hamiltonian, x: Array, integrated: int, seed: int) -> list[report.Row]:
    return [
        {"metric": metric, "value": value, "unit": CERTIFICATE_UNITS[metric]}
        | ({"bar": CERTIFICATE_BARS[metric]} if metric in CERTIFICATE_BARS else {})
        for metric, value in certificate_metrics(fitted.model, x, integrated, seed).items()
    ]


def derived_rows(store: report.ResultStore) -> list[report.Row]:
    """Differences in nll on the same test points: to the true density, and of the Hamiltonian flows to the others."""
    rows: list[report.Row] = []
    for case in PLANAR_SETS:
        for model in MODELS:
            gaps = [
                row["value"] - row["reference"]
                for row in store.rows
                if (row["case"], row["model"], row["metric"]) == (case, model, "nll") and "seed" in row
            ]
            if gaps:
                mean, error = report.mean_and_error(gaps)
                row = {"case": case, "model": model, "metric": "nll_minus_reference", "value": mean, "unit": "nats"}
                rows.append(row | {"standard_error": error, "n": len(gaps)})
        for model in NHF_MODELS:
            for other in (START, *PEERS, "gmm"):
                # Every seed draws its data anew, so no training rows are shared.
                found = paired.pair(store, case, model, other, test_to_train=0, margin=MARGIN)
                if found is not None:
                    rows.append(paired.difference_row(case, model, other, found))
    return rows


def _grid(size: int) -> Array:
    axis = np.linspace(-LIMIT, LIMIT, size)
    return np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)


def _save_picture(fitted: Contender, path: Path, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    density = np.exp(fitted.log_density(_grid(size))).reshape(size, size)
    samples = fitted.sample(2000, seed=0)
    np.savez_compressed(path, density=density.astype(np.float32), samples=samples.astype(np.float32))


def draw(case: str, out: Path, pictures: Path, models: list[str]) -> None:
    """Draw the densities above the samples, truth first; a set whose pictures are not all at hand keeps its figure."""
    import matplotlib

    matplotlib.use("Agg")
    import seaborn as sns
    from matplotlib import pyplot as plt

    files = {model: pictures / f"{case}_{model}.npz" for model in models}
    if not models or not all(file.is_file() for file in files.values()):
        return
    panels: dict[str, dict[str, Any]] = {model: dict(np.load(file)) for model, file in files.items()}
    size = next(iter(panels.values()))["density"].shape[0]
    truth = PLANAR_SETS[case]
    true_density = np.exp(truth.log_density(_grid(size))).reshape(size, size)
    panels = {"data": {"density": true_density, "samples": truth.sample(2000, seed=0)}, **panels}
    sns.set_theme(style="white", font_scale=0.8)
    figure, axes = plt.subplots(2, len(panels), figsize=(1.7 * len(panels), 3.6), layout="constrained", squeeze=False)
    for (top, bottom), (name, panel) in zip(axes.T, panels.items(), strict=True):
        extent = (-LIMIT, LIMIT, -LIMIT, LIMIT)
        top.imshow(panel["density"], origin="lower", extent=extent, cmap="mako", vmin=0, vmax=true_density.max())
        sns.scatterplot(x=panel["samples"][:, 0], y=panel["samples"][:, 1], s=3, linewidth=0, ax=bottom)
        bottom.set(xlim=extent[:2], ylim=extent[2:], aspect="equal")
        top.set_title(name)
        for axis in (top, bottom):
            axis.set(xticks=[], yticks=[])
    figure.suptitle(f"{case}: density above, samples below")
    figure.savefig(out / f"{case}.png", dpi=80)
    plt.close(figure)


def main() -> None:
    """Run what the command line asks for, then write the table, the figures and the overview."""
    options = runner.parse_options(NAME, __doc__ or "", list(PLANAR_SETS), MODELS, quick=(["two_moons"], QUICK_MODELS))
    sizes, schedule = (QUICK, QUICK_SCHEDULE) if options.quick else (FULL, SCHEDULE)
    seeds = options.seeds or ([0] if options.quick else [0, 1, 2])
    decides = {
        (case, model): {
            "data": sizes | {"first_draw": FIRST_DRAW} | (WARPED if model == "nhf_one_component" else {}),
            "schedule": vars(schedule),
            "contender": configuration(model, case, 2, _budget(model), schedule, LEARNING_RATES[model]),
            **({"training_gain": "test rows"} if model in NHF_MODELS else {}),
        }
        for case in options.cases
        for model in MODELS
    }
    runs = [
        runner.Run(case, model, seed, decides[case, model])
        for case in options.cases
        for model in options.models
        for seed in seeds
        if model != "nhf_one_component" or case in ONE_COMPONENT_SETS
    ]
    store = report.ResultStore(options.out, quick=options.quick)
    store.drop_stale(decides)
    pictures = options.out / "pictures"
    runner.execute(partial(work, pictures=pictures), runs, store, options.jobs)
    store.set_derived(derived_rows(store))
    report.write_table(store, "Densities in two dimensions", NOTES, PLANAR_SETS)
    for case in options.cases:
        draw(case, options.out, pictures, [m for m in MODELS if store.values(case, m, "nll")])
    write_overview(options.out.parent)


if __name__ == "__main__":
    main()
