"""The learning rate of every contender on every table, chosen on the validation rows of a split of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import report
import runner
from contenders import Flow, Hamiltonian, Schedule, configuration, train
from datasets import TABLES, load_table, tables_at_hand, whitened_split
from overview import write_overview
from peers import PEERS
from tabular import budget_of, schedule_of

from hamflow.errors import FitError

NAME = "learning_rates"
MODELS = ("nhf", *PEERS)
RATES = (1e-3, 2e-3, 5e-3, 1e-2, 2e-2)
# The search goes on by factors of two while the best rate lies at an edge, but never beyond these.
LAST = (1.25e-4, 0.16)
# Fits of nhf_hybrid take minutes, and nhf_one_component is nhf from another start.
TAKES_RATE_OF = {"nhf_hybrid": "nhf", "nhf_one_component": "nhf"}
# A shuffle that no table of results uses; its test rows are never scored.
SPLIT = 1000
NOTES = f"""
validation_nll_R: nats per validation row, in whitened coordinates, of a contender trained with learning rate R;
learning_rate: the R of the best one, which density_tabular then uses on all splits (nhf_hybrid, whose fits
take minutes, and nhf_one_component take that of nhf).
The rates are {", ".join(f"{rate:g}" for rate in RATES)}; while the best one is the largest or the smallest, the next
one, twice or half as large, is tried too, down to {LAST[0]:g} and up to {LAST[1]:g}. interior: 1 where a smaller and
a larger rate were both tried and found no better. ended_by_patience_R: 1 where patience ended the training, 0 where
the cap on the iterations did. diverged_R: the loss was not finite again and again, so R cannot be chosen.

Trained as there. The split is a shuffle that density_tabular never uses (seed {SPLIT} and up) and its test rows are not
looked at; but a table has only so many rows, so most of these are test rows of some split there.
"""


def chosen_rate(case: str, model: str) -> float:
    """The learning rate of a contender on a table, from the results of this experiment.

    Raises:
        LookupError: the experiment has not been run for them.
    """
    own = TAKES_RATE_OF.get(model, model)
    found = report.ResultStore(runner.ROOT / "results" / NAME).values(case, own, "learning_rate")
    if not found:
        raise LookupError(f"no learning rate of {own} on {case} was chosen yet: run experiments/{NAME}.py first")
    return found[min(found)]


def search(loss_at: Callable[[float], float], rates: Sequence[float], last: Sequence[float]) -> dict[float, float]:
    """Losses by rate: of the given rates, then of further ones by factors of two until the best is not at an edge.

    Args:
        loss_at: the loss that training with a rate reaches.
        rates: where the search starts.
        last: the smallest and the largest rate that may be tried.
    """
    losses = {rate: loss_at(rate) for rate in rates}
    while True:
        best = best_of(losses)
        following = 2 * best if best == max(losses) else best / 2
        if is_interior(losses) or not last[0] <= following <= last[1]:
            return losses
        losses[following] = loss_at(following)


def best_of(losses: dict[float, float]) -> float:
    """The rate of lowest loss, and of equals the smallest: rates that all diverge call for a smaller one."""
    return min(losses, key=lambda rate: (losses[rate], rate))


def is_interior(losses: dict[float, float]) -> bool:
    """Whether the rate of lowest loss lies between two others."""
    return min(losses) < best_of(losses) < max(losses)


def work(run: runner.Run) -> list[report.Row]:
    """Train one contender with one rate after another and compare them on the validation rows."""
    split = whitened_split(load_table(run.case), SPLIT + run.seed)
    schedule = Schedule(**run.configuration["schedule"])
    rows: list[report.Row] = []

    def loss_at(rate: float) -> float:
        budget = budget_of(split.dim)
        try:
            fitted = train(run.model, run.case, budget, schedule, rate, split.train, split.validation, run.seed)
        except FitError:
            rows.append({"metric": f"diverged_{rate:g}", "value": 1.0, "unit": "runs"})
            return math.inf
        assert isinstance(fitted, (Flow, Hamiltonian))
        cost = {"params": fitted.params, "train_seconds": round(fitted.train_seconds, 2)}
        loss, patience = fitted.validation_loss, float(fitted.ended_by_patience)
        rows.append({"metric": f"validation_nll_{rate:g}", "value": loss, "unit": "nats", **cost})
        rows.append({"metric": f"ended_by_patience_{rate:g}", "value": patience, "unit": "runs"})
        return loss

    losses = search(loss_at, run.configuration["rates"], run.configuration["last"])
    best = best_of(losses)
    if not math.isfinite(losses[best]):
        raise FitError(f"{run.model} on {run.case} diverged with every rate: {sorted(losses)}")
    chosen = {"metric": "learning_rate", "value": best, "unit": "1"}
    return [chosen, {"metric": "interior", "value": float(is_interior(losses)), "unit": "1"}, *rows]


def choices_at_an_edge(store: report.ResultStore) -> list[report.Row]:
    """For how many tables the choice of a model lies at an edge of the rates that were tried."""
    rows = []
    for model in MODELS:
        found = [value for case in TABLES for value in store.values(case, model, "interior").values()]
        if found:
            row = {"case": "all", "model": model, "metric": "choices_at_an_edge", "value": found.count(0.0)}
            rows.append({**row, "n": len(found), "unit": "choices", "bar": 0})
    return rows


def main() -> None:
    """Run what the command line asks for, then write the table and the overview."""
    options = runner.parse_options(NAME, __doc__ or "", TABLES, MODELS, quick=(["wine"], ["nhf", "realnvp"]))
    rates, last = (RATES[:2], RATES[:2]) if options.quick else (RATES, LAST)
    runs, decides = [], {}
    for case, table in tables_at_hand(options.cases):
        schedule, dim = schedule_of(len(table), options.quick), table.shape[1]
        for model in MODELS:
            own = configuration(model, case, dim, budget_of(dim), schedule, rates[0])
            # The rates are searched here, so that of the contender decides nothing.
            own["settings"].pop("learning_rate")
            decides[case, model] = {
                "shape": list(table.shape), "schedule": vars(schedule), "rates": rates, "last": last, "contender": own,
            }  # fmt: skip
        for model in options.models:
            runs += [runner.Run(case, model, seed, decides[case, model]) for seed in options.seeds or [0]]
    store = report.ResultStore(options.out, quick=options.quick)
    store.drop_stale(decides)
    runner.execute(work, runs, store, options.jobs)
    store.set_derived(choices_at_an_edge(store))
    report.write_table(store, "Learning rates", NOTES, TABLES)
    write_overview(options.out.parent)


if __name__ == "__main__":
    main()
