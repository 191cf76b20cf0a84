"""The solar system: masses of the planets and a force law learned from 1900-1990, the sky of 1990-2020 predicted."""

from __future__ import annotations

import math
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import report
import runner
from overview import write_overview

if TYPE_CHECKING:
    import torch
    from solar_fit import BodyRoll

NAME = "solar_system"
PLANETS = ("mercury", "venus", "earth", "mars", "jupiter", "saturn", "uranus", "neptune")
MODELS = ("newton", "pairs", "kepler")
#: Where the bar stands: relative error of the mass.
BARS = {"jupiter": 0.01, "saturn": 0.01}
ARCSEC = 180 * 3600 / math.pi
#: Distances at which the learned law is held against Newton's [AU].
DISTANCES = [round(0.3 * 10 ** (k / 20), 4) for k in range(41)]
NOTES = """
Positions and velocities of JPL's DE421 (package skyfield-data), 1900 to 1990, teach an energy of nine bodies; the state
at the start of 1990 is then rolled to 2020 and held against the same ephemeris. Earth stands for Earth and Moon.

- newton: V = - sum m_i m_j / r_ij with nine unknown masses; they start at 3e-4 AU^3/day^2 for the Sun and 1e-5 of that
  for every planet.
- pairs: V = sum m_i m_j phi(r_ij), phi = -exp(a + b log r + network(log r)); a, b, the network and the masses are
  learned. Every power law has this form with a network of zero; it begins near the exponent -1/2, the network not zero.
- kepler: each planet with the Sun alone, from the same state, with the masses that the ephemeris used.

Learning: sixth-order steps roll windows of days to weeks from the given states; damped Gauss-Newton steps on the misses
of the positions at their ends, with one unknown spread a body. mass_relative_error: of the planet's mass (with its
moons) over the Sun's, against the constants that DE421 was computed with. The ephemeris is smooth and was integrated
with these constants: this tests the method and is no new measurement. position_error_km, position_error_arcsec:
heliocentric position at the start of 2020; _rms over the starts of 1991 to 2020; arcseconds are the error over the
planet's distance from the Sun. Relativity, the Moon, Pluto and the asteroids are in the ephemeris and in no model here:
relativity alone turns Mercury's perihelion by 0.43 arcsec a year. Kepler orbits of the outer planets suffer from the
Sun's own motion about the barycentre, which a two-body orbit takes for the planet's. force_law_error: rms over the
planet's distances from the Sun of the learned force over Newton's, less 1. Errors of pairs are medians over the seeds,
with their range. better_than_kepler: share of the runs whose position_error_arcsec_rms is below Kepler's. A force that
is off by a millionth turns Mercury by 300 arcsec in these 30 years (twice that share of the angle it goes round), as
much as all the other planets do.
"""


def decides(model: str, quick: bool) -> report.Row:
    """All that decides the figures of a model."""
    if model == "kepler":
        return {"dt": 4.0 if quick else 0.5}
    common = {"years": [1900, 1990], "data_days": 5, "dt": 4.0 if quick else 0.5}
    # window, dt, every, iterations; short windows are nearly linear in the parameters, longer ones tell more.
    if model == "newton":
        return {**common, "stages": [[60, 3.0, 8000, 10]] if quick else [[60, 1.0, 1500, 20]]}
    stages = [[5, 2.5, 4000, 15]] if quick else [[5, 1.25, 2000, 60], [20, 1.25, 2000, 8]]
    return {**common, "width": 6 if quick else 10, "stages": stages}


@cache
def learned(model: str, seed: int, quick: bool) -> tuple[BodyRoll, float]:
    """The fitted model and its process seconds; all planets share it, so a worker fits it once."""
    import solar_fit
    import torch

    from hamflow.systems import load_solar_system

    settings = decides(model, quick)
    torch.manual_seed(seed)
    start = time.process_time()
    data = load_solar_system(*settings["years"], step_days=settings["data_days"])
    roll = solar_fit.newton() if model == "newton" else solar_fit.pairs(settings["width"])
    solar_fit.fit(roll, data, [solar_fit.Stage(*stage) for stage in settings["stages"]])
    return roll, time.process_time() - start


@cache
def predicted(model: str, seed: int, quick: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Heliocentric positions of the planets, predicted and true, each (31, planets, 3) [AU], a Julian year apart."""
    import torch

    from hamflow.systems import load_solar_system
    from hamflow.systems.solar_system import YEAR_DAYS

    data = load_solar_system(1990, 2020, step_days=YEAR_DAYS)
    true = _from_sun(data.q[0])
    n_steps = round(YEAR_DAYS / decides(model, quick)["dt"])
    dt = YEAR_DAYS / n_steps
    path = []
    with torch.no_grad():
        if model == "kepler":
            step = _two_bodies()
            q, v = true[0], _from_sun(data.need("v")[0])[0]
            for _ in true:
                path.append(q)
                q, v = step.iterate(q, v, 0.0, dt, n_steps)
            return torch.stack(path), true
        roll, _ = learned(model, seed, quick)
        q, v = data.q[0, 0], data.need("v")[0, 0]
        for _ in true:
            path.append(q)
            q, v = roll(q, v, dt, n_steps)
    return _from_sun(torch.stack(path)), true


def _from_sun(x: torch.Tensor) -> torch.Tensor:
    bodies = x.unflatten(-1, (-1, 3))
    return bodies[..., 1:, :] - bodies[..., :1, :]


def _two_bodies() -> torch.nn.Module:
    import torch
    from solar_fit import SunPull

    import hamflow as hf
    from hamflow.systems.solar_system import GM_SUN, SUN_OVER_PLANET

    pull = torch.tensor([GM_SUN * (1 + 1 / SUN_OVER_PLANET[planet]) for planet in PLANETS], dtype=torch.float64)
    return hf.Splitting(hf.SeparableHamiltonian(hf.QuadraticKinetic(3), SunPull(pull)), hf.YOSHIDA6)


def work(run: runner.Run) -> list[report.Row]:
    """Learn, or take what this worker has learned, and judge one planet."""
    from hamflow.systems.solar_system import AU_KM, SUN_OVER_PLANET

    quick = run.configuration["quick"]
    path, true = predicted(run.model, run.seed, quick)
    which = PLANETS.index(run.case)
    missed = (path - true)[:, which].norm(dim=-1)
    rows: list[report.Row] = []
    for unit, values in (("km", missed * AU_KM), ("arcsec", missed / true[:, which].norm(dim=-1) * ARCSEC)):
        by_year = [float(f"{value:.6g}") for value in values.tolist()]
        rms = float(values[1:].square().mean().sqrt())
        # Errors of different seeds differ by decades: a mean would be that of the worst.
        head = {"unit": unit, "summary": "median"}
        rows.append({"metric": f"position_error_{unit}", "value": by_year[-1], "by_year": by_year, **head})
        rows.append({"metric": f"position_error_{unit}_rms", "value": float(f"{rms:.6g}"), **head})
    if run.model == "kepler":
        return rows
    roll, seconds = learned(run.model, run.seed, quick)
    error = abs(roll.ratios()[run.case] * SUN_OVER_PLANET[run.case] - 1)
    row = {"metric": "mass_relative_error", "value": float(f"{error:.4g}"), "unit": "1"}
    bar = {"bar": BARS[run.case]} if run.case in BARS else {}
    rows.insert(0, {**row, **bar})
    if run.model == "pairs":
        rows.append(_law(roll, true[:, which].norm(dim=-1)))
    params = sum(p.numel() for p in roll.parameters())
    return [{**row, "params": params, "train_seconds": round(seconds, 1)} for row in rows]


def _law(roll: BodyRoll, distances: torch.Tensor) -> report.Row:
    import torch

    from hamflow.systems.solar_system import GM_SUN

    def over_newton(r: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return roll.masses()[0] * roll.step.hamiltonian.potential.slope(r) * r.square() / GM_SUN

    error = float((over_newton(distances) - 1).square().mean().sqrt())
    by_distance = over_newton(torch.tensor(DISTANCES, dtype=torch.float64)).tolist()
    return {
        "metric": "force_law_error",
        "value": float(f"{error:.4g}"),
        "unit": "1",
        "summary": "median",
        "by_distance": [float(f"{value:.8g}") for value in by_distance],
    }


def beside_kepler(store: report.ResultStore) -> list[report.Row]:
    """For each planet the share of the runs of a model whose forecast is nearer than Kepler's, over all years."""
    rows = []
    for planet in PLANETS:
        kepler = store.values(planet, "kepler", "position_error_arcsec_rms")
        for model in MODELS[:2]:
            own = store.values(planet, model, "position_error_arcsec_rms")
            if kepler and own:
                better = [error < min(kepler.values()) for error in own.values()]
                row = {
                    "case": planet,
                    "model": model,
                    "metric": "better_than_kepler",
                    "value": sum(better) / len(better),
                }
                rows.append({**row, "n": len(better), "unit": "share", "bar": 1.0})
    return rows


def draw(store: report.ResultStore, folder: Path) -> None:
    """Error against time by planet, and the learned law, from the rows of the store."""
    import matplotlib

    matplotlib.use("Agg")
    import pandas as pd
    import seaborn as sns
    from matplotlib import pyplot as plt

    sns.set_theme(style="whitegrid")
    lines = [
        {"planet": row["case"], "model": row["model"], "year": 1990 + k, "error [km]": value, "seed": row["seed"]}
        for row in store.rows
        if row["metric"] == "position_error_km"
        for k, value in enumerate(row["by_year"])
        if k > 0
    ]
    order = [planet for planet in PLANETS if any(line["planet"] == planet for line in lines)]
    grid = sns.relplot(
        pd.DataFrame(lines),
        x="year",
        y="error [km]",
        hue="model",
        hue_order=[model for model in MODELS if any(line["model"] == model for line in lines)],
        col="planet",
        col_order=order,
        col_wrap=min(4, len(order)),
        units="seed",
        estimator=None,
        kind="line",
        height=2.4,
        facet_kws={"sharey": True},
    )
    grid.set(yscale="log")
    grid.set_titles("{col_name}")
    grid.figure.savefig(folder / "errors.png", dpi=80)
    plt.close(grid.figure)
    laws = {row["seed"]: row["by_distance"] for row in store.rows if row["metric"] == "force_law_error"}
    if not laws:
        return
    figure, (upper, lower) = plt.subplots(2, figsize=(6, 5), sharex=True)
    for seed, law in laws.items():
        upper.plot(DISTANCES, law, label=f"learned, seed {seed}")
        lower.plot(DISTANCES, [abs(value - 1) for value in law])
    upper.axhline(1, color="black", linestyle="--", linewidth=1, label="Newton")
    upper.set(xscale="log", ylabel="r² force / GM", ylim=(0.9, 1.1))
    lower.set(yscale="log", xlabel="distance r [AU]", ylabel="difference from 1")
    upper.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(folder / "law.png", dpi=80)
    plt.close(figure)


def main() -> None:
    """Run what the command line asks for, then write the table, the figures and the overview."""
    quick = (["mercury", "jupiter", "saturn"], MODELS)
    options = runner.parse_options(NAME, __doc__ or "", PLANETS, MODELS, quick=quick)
    runs = []
    for model in options.models:
        # Only the network begins at random.
        seeds = (options.seeds or ([0] if options.quick else [0, 1, 2])) if model == "pairs" else [0]
        settings = {**decides(model, options.quick), "quick": options.quick}
        runs += [runner.Run(case, model, seed, settings) for seed in seeds for case in options.cases]
    store = report.ResultStore(options.out, quick=options.quick)
    store.drop_stale({(run.case, run.model): run.configuration for run in runs})
    runner.execute(work, runs, store, options.jobs)
    store.set_derived(beside_kepler(store))
    report.write_table(store, "The solar system", NOTES, PLANETS)
    draw(store, options.out)
    write_overview(options.out.parent)


if __name__ == "__main__":
    main()
