"""How long the default fit takes: 200 epochs of breast_cancer on one core, without early stopping."""

from __future__ import annotations

import time

import report
import runner
from datasets import load_table
from overview import write_overview

NAME = "fit_time"
NOTES = """
fit_seconds: process seconds on one thread of NHF(30).fit(x, epochs=200, patience=None) with the package's defaults, the
choice of the starting mixture included; the training table is the whole of scikit-learn's breast_cancer (569 rows).
"""


def work(run: runner.Run) -> list[report.Row]:
    """Fit once and time it."""
    import hamflow as hf

    table = load_table(run.case)
    start = time.process_time()
    model = hf.NHF(table.shape[1], seed=run.seed)
    model.fit(table, epochs=run.configuration["epochs"], patience=None, seed=run.seed, progress=False)
    seconds = time.process_time() - start
    params = sum(p.numel() for p in model.parameters())
    return [{"metric": "fit_seconds", "value": round(seconds, 2), "unit": "s", "params": params, "bar": 60.0}]


def main() -> None:
    """Run what the command line asks for, then write the table and the overview."""
    options = runner.parse_options(NAME, __doc__ or "", ["breast_cancer"], ["nhf"], quick=(["breast_cancer"], ["nhf"]))
    seeds = options.seeds or ([0] if options.quick else [0, 1, 2])
    decides = {"epochs": 2 if options.quick else 200}
    runs = [runner.Run("breast_cancer", "nhf", seed, decides) for seed in seeds]
    store = report.ResultStore(options.out, quick=options.quick)
    runner.execute(work, runs, store, options.jobs)
    report.write_table(store, "Time of the default fit", NOTES, ["breast_cancer"])
    write_overview(options.out.parent)


if __name__ == "__main__":
    main()
