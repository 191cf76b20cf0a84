"""The learning rate of every contender on every table, chosen on the validation rows of a split of its own."""

from __future__ import annotations

import report
import runner
from contenders import Flow, Hamiltonian, Schedule, configuration, train
from datasets import TABLES, load_table, tables_at_hand, whitened_split
from peers import PEERS
from tabular import budget_of, schedule_of

NAME = "learning_rates"
MODELS = ("nhf", *PEERS)
RATES = (1e-3, 2e-3, 5e-3, 1e-2)
# A shuffle that no table of results uses; its test rows are never scored.
SPLIT = 1000
NOTES = f"""
validation_nll_R: nats per validation row, in whitened coordinates, of a contender trained with learning rate R;
learning_rate: the R of the best one, which density_tabular then uses on all splits (nhf_hybrid takes that of nhf).
Trained as there. The split is a shuffle that density_tabular never uses (seed {SPLIT} and up) and its test rows are not
looked at; but a table has only so many rows, so most of these are test rows of some split there.
"""


def chosen_rate(case: str, model: str) -> float:
    """The learning rate of a contender on a table, from the results of this experiment.

    Raises:
        LookupError: the experiment has not been run for them.
    """
    own = "nhf" if model == "nhf_hybrid" else model
    found = report.ResultStore(runner.ROOT / "results" / NAME).values(case, own, "learning_rate")
    if not found:
        raise LookupError(f"no learning rate of {own} on {case} was chosen yet: run experiments/{NAME}.py first")
    return found[min(found)]


def work(run: runner.Run) -> list[report.Row]:
    """Train one contender with every rate and compare them on the validation rows."""
    split = whitened_split(load_table(run.case), SPLIT + run.seed)
    schedule = Schedule(**run.configuration["schedule"])
    losses = {}
    for rate in run.configuration["rates"]:
        budget = budget_of(split.dim)
        fitted = train(run.model, run.case, budget, schedule, rate, split.train, split.validation, run.seed)
        assert isinstance(fitted, (Flow, Hamiltonian))
        losses[rate] = fitted.validation_loss
    rows = [{"metric": "learning_rate", "value": min(losses, key=losses.__getitem__), "unit": "1"}]
    return rows + [{"metric": f"validation_nll_{r:g}", "value": loss, "unit": "nats"} for r, loss in losses.items()]


def main() -> None:
    """Run what the command line asks for, then write the table and the overview."""
    options = runner.parse_options(NAME, __doc__ or "", TABLES, MODELS, quick=(["wine"], ["nhf", "realnvp"]))
    rates = RATES[:2] if options.quick else RATES
    runs, decides = [], {}
    for case, table in tables_at_hand(options.cases):
        schedule, dim = schedule_of(len(table), options.quick), table.shape[1]
        for model in MODELS:
            own = [configuration(model, case, dim, budget_of(dim), schedule, rate) for rate in rates]
            decides[case, model] = {
                "shape": list(table.shape), "schedule": vars(schedule), "rates": rates, "contenders": own,
            }  # fmt: skip
        for model in options.models:
            runs += [runner.Run(case, model, seed, decides[case, model]) for seed in options.seeds or [0]]
    store = report.ResultStore(options.out, quick=options.quick)
    store.drop_stale(decides)
    runner.execute(work, runs, store, options.jobs)
    report.write_table(store, "Learning rates", NOTES, TABLES)
    report.write_overview(options.out.parent)


if __name__ == "__main__":
    main()
