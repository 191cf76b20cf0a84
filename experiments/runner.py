"""The command line of an experiment, and its runs: one process and one thread each, resumed where they stopped."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from overview import write_overview
from report import Key, ResultStore, Row, fingerprint, write_table
from tqdm import tqdm

from hamflow.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Run:
    """One model on one case with one seed; the configuration holds all that decides its figures."""

    case: str
    model: str
    seed: int
    configuration: dict[str, Any] = field(hash=False)

    @property
    def key(self) -> Key:
        return self.case, self.model, self.seed


@dataclass(frozen=True)
class Options:
    """What the command line asks for."""

    quick: bool
    seeds: list[int] | None
    out: Path
    jobs: int
    cases: list[str]
    models: list[str]


def parse_options(
    name: str,
    description: str,
    cases: Sequence[str],
    models: Sequence[str],
    *,
    quick: tuple[Sequence[str], Sequence[str]],
) -> Options:
    """Read the options that every experiment shares; `quick` holds the cases and models of a quick run."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="a tiny run, under a minute, into results/quick/")
    parser.add_argument("--seeds", type=int, nargs="+", help="seeds, or folds of a cross-validation")
    parser.add_argument("--out", type=Path, help=f"folder for the results (default results/{name})")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--cases", nargs="+", choices=cases, help="only these data sets")
    parser.add_argument("--models", nargs="+", choices=models, help="only these models")
    given = parser.parse_args()
    if given.jobs < 1:
        parser.error(f"--jobs {given.jobs}: expected at least 1")
    if given.seeds and min(given.seeds) < 0:
        parser.error(f"--seeds {min(given.seeds)}: expected whole numbers from 0 on")
    out = given.out or ROOT / "results" / ("quick" if given.quick else "") / name
    cases, models = quick if given.quick else (cases, models)
    return Options(given.quick, given.seeds, out, given.jobs, given.cases or [*cases], given.models or [*models])


def _guarded(work: Callable[[Run], list[Row]], run: Run) -> list[Row]:
    """Do one run in a worker; a run that breaks is a row too, so that it shows in the table."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(run.seed)
    try:
        return work(run)
    except Exception as error:
        traceback.print_exc()
        note = f"{type(error).__name__}: {error}"
        return [{"metric": "failed", "value": 1.0, "unit": "runs", "bar": 0.0, "note": note}]


def plan(
    options: Options,
    seeds: Sequence[int],
    models: Sequence[str],
    settings: Callable[[str, str], Any],
    applies: Callable[[str, str], bool],
    measured: Mapping[str, Callable[[], Any]],
) -> tuple[list[Run], dict[tuple[str, str], Row]]:
    """The runs, and what decides the figures of every case and model; a case whose data are missing is left out.

    `settings` and `applies` take a model and a case; `measured` maps cases that rest on files to what loads these.
    """
    runs, decides = [], {}
    for case in options.cases:
        try:
            measured.get(case, lambda: None)()
        except InputError as error:
            print(f"{case} is left out: {error}", file=sys.stderr)
            continue
        decides |= {(case, model): {"quick": options.quick, "settings": settings(model, case)} for model in models}
        chosen = [model for model in options.models if applies(model, case)]
        runs += [Run(case, model, seed, decides[case, model]) for model in chosen for seed in seeds]
    return runs, decides


def take_turns(
    name: str,
    description: str,
    title: str,
    notes: str,
    cases: Sequence[str],
    model: str,
    work: Callable[[Run], list[Row]],
    *,
    quick: tuple[Sequence[str], dict[str, Any]],
    full: dict[str, Any],
) -> ResultStore:
    """The whole of an experiment on speed, whose contenders take turns within a run: options, runs, table, overview.

    `quick` holds the cases and the configuration of a quick run, `full` that of a full one.
    """
    options = parse_options(name, description, cases, [model], quick=(quick[0], [model]))
    seeds = options.seeds or ([0] if options.quick else [0, 1, 2])
    decides = quick[1] if options.quick else full
    runs = [Run(case, model, seed, decides) for case in options.cases for seed in seeds]
    store = ResultStore(options.out, quick=options.quick)
    store.drop_stale({(run.case, run.model): run.configuration for run in runs})
    # One at a time: contenders that share a machine with others are not compared fairly.
    execute(work, runs, store, 1)
    write_table(store, title, notes, cases)
    write_overview(options.out.parent)
    return store


def execute(work: Callable[[Run], list[Row]], runs: Sequence[Run], store: ResultStore, jobs: int) -> None:
    """Do every run that the store does not hold yet, and store its rows as soon as it ends."""
    configs = {run: fingerprint(run.configuration) for run in runs}
    waiting = [run for run in runs if not store.is_finished(run.key, configs[run])]
    if len(waiting) < len(runs):
        print(f"{len(runs) - len(waiting)} of {len(runs)} runs are finished already", file=sys.stderr)
    if not waiting:
        return
    # Read by the numerical libraries when a worker loads them.
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    # Workers serve many runs: starting one costs seconds, and Python 3.11 can hang when a pool replaces its workers.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        futures: dict[Future[list[Row]], Run] = {pool.submit(_guarded, work, run): run for run in waiting}
        bar = tqdm(as_completed(futures), total=len(futures), unit="run", dynamic_ncols=True)
        for future in bar:
            run = futures[future]
            rows = future.result()
            store.add(run.key, configs[run], rows)
            bar.set_postfix_str(f"{run.case} {run.model} {run.seed}: {rows[0]['metric']} {rows[0]['value']:.3f}")
