"""The demonstration behind `make demo`: a flow fitted to the breast cancer table that scikit-learn ships.

Writes into results/demo/: run/ (the fitted model, for `hamflow sample`, `score` and `plot`), samples.csv, scores.csv,
three figures and metrics.json. A Gaussian mixture, its size chosen on the same validation rows, is scored beside it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import sklearn.datasets
import torch
from datasets import split_rows, whitened_split
from mixture_peer import fit_mixture, mixture_parameters
from numpy.typing import NDArray

import hamflow as hf
from hamflow import plots
from hamflow.io import atomic_path, write_table

ROOT = Path(__file__).resolve().parent.parent
SHOWN = 5
SEED = 0
Array = NDArray[np.float64]


def fit_flow(train: pd.DataFrame, validation: Array, *, quick: bool) -> hf.NHF:
    """Fit the flow; the table stays in its own units, the model standardises it."""
    torch.manual_seed(SEED)
    size = {"n_steps": 2, "width": 8, "particles": 2} if quick else {"n_steps": 8, "width": 64, "particles": 16}
    return hf.NHF(train.shape[1], **size).fit(
        train, validation=torch.as_tensor(validation), epochs=2 if quick else 200, patience=40, seed=SEED
    )


def held_out_scores(model: hf.NHF, table: Array, *, particles: int) -> tuple[dict[str, Array], dict[str, int]]:
    """Nats a row of the held-out rows, in units of each column's standard deviation, and parameters, by model."""
    train, _, test = split_rows(table, SEED)
    bound = model.log_prob(test, particles=particles, seed=SEED).double().numpy()
    whitened = whitened_split(table, SEED)
    mixture, _ = fit_mixture(whitened.train, whitened.validation, SEED)
    scores = {
        # Densities of x and of x / scale differ by the product of the scales.
        "nhf": bound + np.log(train.std(0)).sum(),
        "gmm": mixture.score_samples(whitened.test) - whitened.log_det,
    }
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return scores, {"nhf": trained, "gmm": mixture_parameters(mixture)}


def write_figures(model: hf.NHF, table: Array, names: list[str], out: Path) -> None:
    """Samples over data, the course of the training, and the way of samples through the flow."""
    figures = {
        "samples.png": plots.plot_samples(model, table, columns=names, n=len(table), max_columns=SHOWN, seed=SEED),
        "history.png": plots.plot_history(model.history).figure,
        "trajectories.png": plots.plot_trajectories(model, seed=SEED).figure,
    }
    for name, figure in figures.items():
        with atomic_path(out / name) as temporary:
            figure.savefig(temporary, dpi=130, bbox_inches="tight")


def main(argv: list[str] | None = None) -> None:
    """Run the demonstration."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "demo")
    parser.add_argument("--quick", action="store_true", help="a tiny fit, to see that all works")
    given = parser.parse_args(argv)
    bunch = sklearn.datasets.load_breast_cancer()
    table, names = bunch.data, [str(name) for name in bunch.feature_names]
    train, validation, test = split_rows(table, SEED)
    print(f"breast cancer table: {table.shape[0]} rows, {table.shape[1]} columns; {len(test)} rows held out as test")

    print("choosing the mixture to start from, then training", flush=True)
    start = time.perf_counter()
    model = fit_flow(pd.DataFrame(train, columns=names), validation, quick=given.quick)
    seconds = time.perf_counter() - start
    print("scoring the test rows, drawing figures", flush=True)
    scores, params = held_out_scores(model, table, particles=16 if given.quick else 1000)

    out = given.out
    model.save(out / "run")
    write_table(out / "samples.csv", model.sample(1000, seed=SEED).numpy(), names)
    write_table(out / "scores.csv", np.column_stack([scores["nhf"], scores["gmm"]]), ["nhf_lower_bound", "gmm"])
    write_figures(model, table, names, out)
    rows = [
        {"case": "breast_cancer", "model": name, "seed": SEED, "metric": "nll", "value": float(-values.mean()),
         "unit": "nats", "n": len(values), "params": params[name]}
        for name, values in scores.items()
    ]  # fmt: skip
    rows[0]["train_seconds"] = round(model.history.seconds, 1)
    with atomic_path(out / "metrics.json") as temporary:
        temporary.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")

    print(f"fitted in {seconds:.0f} s; kept epoch {model.history.best_epoch} of {len(model.history.train)}")
    gain = model.history.start - min(model.history.start, *model.history.validation)
    print(f"on the validation rows training added {gain:.3f} nats to the Student t mixture that the flow starts from")
    print("mean log density of the test rows, in nats a row (standardised columns, higher is better):")
    error = len(test) ** -0.5
    print(f"  hamflow NHF       {scores['nhf'].mean():8.3f} +- {scores['nhf'].std() * error:.3f}   (a lower bound)")
    print(f"  Gaussian mixture  {scores['gmm'].mean():8.3f} +- {scores['gmm'].std() * error:.3f}")
    difference = scores["nhf"] - scores["gmm"]
    print(f"  difference        {difference.mean():+8.3f} +- {difference.std() * error:.3f}   (paired by row)")
    print(f"written to {out}: {', '.join(sorted(path.name for path in out.iterdir()))}")


if __name__ == "__main__":
    # Several threads only hinder each other in layers as small as these.
    torch.set_num_threads(1)
    sys.exit(main())
