"""Where the Hamiltonian flows stand among all contenders on the tables: paired differences, bars, runs that failed."""

from __future__ import annotations

import statistics

import paired
import report
from datasets import TABLES, TEST_TO_TRAIN
from nhf_models import NHF_MODELS, START
from paired import Paired
from peers import PEERS

# The four small sets that the bars against realnvp and nsf speak of.
SMALL_SETS = ("digits", "breast_cancer", "wine", "miniboone")
# Two implementations of one published model, of zuko and of nflows.
SPLINE_FLOWS = ("nsf", "rq_nsf")
RIVALS = (*PEERS, "gmm")
CONTENDERS = (*NHF_MODELS, START, *RIVALS)
# Nats per row by which a model may be worse and still counts as no worse.
MARGIN = 0.1
EXPLODED = 1000.0  # nats above gmm from which on a run counts as exploded

Found = dict[tuple[str, str, str], Paired]


def derived_rows(store: report.ResultStore) -> list[report.Row]:
    """All comparisons of the Hamiltonian flows, how many sets meet the bars, and the runs that went wrong."""
    found: Found = {}
    rows: list[report.Row] = []
    for case in TABLES:
        for model in NHF_MODELS:
            for other in (*RIVALS, START):
                comparison = paired.pair(store, case, model, other, TEST_TO_TRAIN, MARGIN)
                if comparison is not None:
                    found[case, model, other] = comparison
                    rows.append(paired.difference_row(case, model, other, comparison))
            rows += _against_the_best(found, case, model)
    for model in NHF_MODELS:
        rows += _counts(found, model)
    for model in CONTENDERS:
        rows += _mishaps(store, model)
    # The bars are for the pure flow.
    return [{k: v for k, v in row.items() if k != "bar" or row["model"] == "nhf"} for row in rows]


def _against_the_best(found: Found, case: str, model: str) -> list[report.Row]:
    """The difference to the better spline flow and to the best rival of all, and how far gmm may still be ahead."""
    rows = []
    for name, rivals in (("best_nsf", SPLINE_FLOWS), ("best_peer", RIVALS)):
        at_hand = [rival for rival in rivals if (case, model, rival) in found]
        if at_hand:
            # The rival of lowest nll on the shared splits is the one to which the difference is largest.
            best = max(at_hand, key=lambda rival: found[case, model, rival].mean)
            found[case, model, name] = found[case, model, best]
            rows.append(paired.difference_row(case, model, name, found[case, model, name]) | {"against": best})
    if rows and model == "nhf":
        # The verdict on this one is short or reached, so that the page over all results shows who is ahead.
        rows[-1] = {k: v for k, v in rows[-1].items() if k != "verdict"} | {"bar": 0.0}
    for name in ("gmm", "best_nsf"):
        if comparison := found.get((case, model, name)):
            row = {"case": case, "model": model, "metric": f"nll_minus_{name}_upper", "value": comparison.upper}
            row |= {"n": comparison.n, "unit": "nats"}
            rows.append(row | ({"bar": MARGIN} if name == "gmm" else {}))
    return rows


def _counts(found: Found, model: str) -> list[report.Row]:
    """On how many sets a model meets a bar, by two plain standard errors and by the corrected t intervals."""
    kinds = [
        ("sets_better_than_realnvp", "realnvp", SMALL_SETS, 3, lambda p: p.two_errors == "better"),
        ("sets_better_than_realnvp_corrected", "realnvp", SMALL_SETS, 3, lambda p: p.verdict == "better"),
        ("sets_level_with_nsf", "best_nsf", SMALL_SETS, 2, lambda p: p.no_worse),
        ("sets_not_behind_nsf_two_se", "best_nsf", SMALL_SETS, None, lambda p: p.two_errors != "worse"),
        ("sets_no_worse_than_gmm", "gmm", TABLES, len(TABLES), lambda p: p.no_worse),
        ("sets_not_behind_gmm_two_se", "gmm", TABLES, None, lambda p: p.two_errors != "worse"),
    ]
    rows = []
    for metric, rival, cases, bar, accepts in kinds:
        judged = [found[case, model, rival] for case in cases if (case, model, rival) in found]
        if judged:
            row = {"case": "all", "model": model, "metric": metric, "value": sum(map(accepts, judged))}
            row |= {"n": len(judged), "unit": "sets"}
            rows.append(row | ({} if bar is None else {"bar": bar}))
    ahead = {
        case: [rival for rival in RIVALS if (case, model, rival) in found and found[case, model, rival].mean > 0]
        for case in TABLES
    }
    named = [f"{case} ({', '.join(rivals)})" for case, rivals in ahead.items() if rivals]
    judged_sets = sum((case, model, "best_peer") in found for case in TABLES)
    if judged_sets:
        row = {"case": "all", "model": model, "metric": "sets_with_a_peer_ahead", "value": len(named), "unit": "sets"}
        rows.append(row | {"n": judged_sets, "verdict": "; ".join(named) or "none"})
    return rows


def _mishaps(store: report.ResultStore, model: str) -> list[report.Row]:
    """Runs of a model that broke, and runs whose test nll is not finite or far above that of gmm."""
    own = [row for row in store.rows if row["model"] == model and "seed" in row]
    runs = {(row["case"], row["seed"]) for row in own}
    if not runs:
        return []
    failed = {(row["case"], row["seed"]) for row in own if row["metric"] == "failed"}
    exploded = {(row["case"], row["seed"]) for row in own if row["metric"] == "exploded" or _far_off(store, row)}
    head = {"case": "all", "model": model, "n": len(runs), "unit": "runs", "bar": 0}
    return [
        {**head, "metric": "failed_runs", "value": len(failed)},
        {**head, "metric": "exploded_runs", "value": len(exploded)},
    ]


def _far_off(store: report.ResultStore, row: report.Row) -> bool:
    if row["metric"] not in ("nll", "nll_repeated"):
        return False
    base = store.values(row["case"], "gmm", "nll")
    # Repetitions have no gmm of their own split.
    usual = base.get(row["seed"], statistics.median(base.values())) if base else None
    return usual is not None and row["value"] > usual + EXPLODED
