"""The experiments: data whose density is known, fair peers, results that survive an interruption, and a quick run."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hamflow

ROOT = Path(__file__).parent.parent
EXPERIMENTS = ROOT / "experiments"
sys.path.insert(0, str(EXPERIMENTS))
sys.path.append(str(EXPERIMENTS / "benchmarks"))

import datasets  # noqa: E402
import density_tabular  # noqa: E402
import hgn_limits  # noqa: E402
import hnn_contenders  # noqa: E402
import hnn_tasks  # noqa: E402
import last  # noqa: E402
import learning_rates  # noqa: E402
import mixture_peer  # noqa: E402
import overview  # noqa: E402
import peers  # noqa: E402
import pixel_pendulum  # noqa: E402
import planar  # noqa: E402
import report  # noqa: E402
import run as benchmarks  # noqa: E402
import runner  # noqa: E402


@pytest.mark.parametrize("name", planar.PLANAR_SETS)
def test_planar_set_has_mass_one_and_unit_scale(name: str) -> None:
    data = planar.PLANAR_SETS[name]
    axis, step = np.linspace(-4, 4, 401, retstep=True)
    # Cell centres, so that no point falls on an edge of the checkerboard.
    grid = np.stack(np.meshgrid(axis + 1e-3, axis + 1e-3), -1).reshape(-1, 2)
    assert np.exp(data.log_density(grid)).sum() * step**2 == pytest.approx(1, abs=0.02)
    x = data.sample(50_000, seed=1)
    assert np.abs(x.mean(0)).max() < 0.02
    assert np.abs(x.std(0) - 1).max() < 0.02


@pytest.mark.parametrize(("name", "entropy"), [("two_moons", 1.316), ("circles", 1.901), ("checkerboard", 1.792)])
def test_planar_entropy(name: str, entropy: float) -> None:
    assert planar.PLANAR_SETS[name].entropy(100_000) == pytest.approx(entropy, abs=0.01)


def test_two_moons_are_those_of_scikit_learn() -> None:
    from sklearn.datasets import make_moons

    data = planar.PLANAR_SETS["two_moons"]
    raw, _ = make_moons(20_000, noise=0.06, random_state=0)
    assert -data.log_density((raw - data.mean) / data.scale).mean() == pytest.approx(data.entropy(20_000), abs=0.03)


def test_folds_cover_a_small_table_once() -> None:
    table = np.arange(178.0)[:, None]
    tests = [datasets.split_rows(table, seed)[2] for seed in range(datasets.FOLDS)]
    assert sorted(np.concatenate(tests).ravel()) == sorted(table.ravel())
    train, validation, test = datasets.split_rows(table, seed=2)
    assert len(np.unique(np.concatenate([train, validation, test]))) == len(table)
    assert not np.array_equal(np.sort(datasets.split_rows(table, seed=7)[2]), np.sort(test))


def test_whitening_knows_its_log_determinant() -> None:
    table = datasets.load_table("breast_cancer")
    split = datasets.whitened_split(table, seed=0)
    raw = datasets.split_rows(table, seed=0)[0]
    standardised = (raw - raw.mean(0)) / raw.std(0)
    # The map from standardised to whitened rows is linear: recover it, and its determinant.
    linear = np.linalg.lstsq(standardised, split.train, rcond=None)[0]
    assert -np.linalg.slogdet(linear)[1] == pytest.approx(split.log_det, rel=1e-6)


def test_missing_data_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HAMFLOW_DATA", raising=False)
    with pytest.raises(datasets.MissingDataError, match="HAMFLOW_DATA is not set"):
        datasets.load_table("miniboone")
    monkeypatch.setenv("HAMFLOW_DATA", str(tmp_path))
    with pytest.raises(datasets.MissingDataError, match=r"no file uci/wine\.csv\.gz"):
        datasets.load_table("uci_wine")


@pytest.mark.parametrize("name", peers.PEERS)
@pytest.mark.parametrize("dim", [2, 5])
def test_peer_is_a_density_within_its_budget(name: str, dim: int) -> None:
    checks = torch.distributions.Distribution._validate_args
    peer = peers.build_peer(name, dim, budget=6000)
    assert torch.distributions.Distribution._validate_args == checks
    assert peers.count_parameters(peer) == pytest.approx(6000, rel=0.1)
    x = torch.randn(64, dim)
    peer.train().loss(x).backward()
    assert sum(float(p.grad.abs().sum()) for p in peer.parameters() if p.grad is not None) > 0
    peer.eval()
    assert peer.sample(7).shape == (7, dim)
    if dim == 2:
        axis = torch.linspace(-12, 12, 241)
        mass = peer.log_prob(torch.cartesian_prod(axis, axis)).exp().sum() * 0.1**2
        assert float(mass.detach()) == pytest.approx(1, abs=0.02)


def test_mixture_finds_its_components() -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(-4, 1, (300, 2)), rng.normal(4, 1, (300, 2))])[rng.permutation(600)]
    model, _ = mixture_peer.fit_mixture(x[:500], x[500:], seed=0)
    assert model.n_components >= 2
    assert mixture_peer.mixture_parameters(model) == 6 * model.n_components - 1


def _row(value: float, **more: Any) -> dict[str, Any]:
    return {"metric": "nll", "value": value, "unit": "nats", **more}


def test_store_resumes_and_replaces(tmp_path: Path) -> None:
    store = report.ResultStore(tmp_path)
    store.add(("moons", "nhf", 0), "a", [_row(1.0)])
    store.add(("moons", "nhf", 1), "a", [{"metric": "failed", "value": 1.0}])
    again = report.ResultStore(tmp_path)
    assert again.is_finished(("moons", "nhf", 0), "a")
    assert not again.is_finished(("moons", "nhf", 0), "b")
    assert not again.is_finished(("moons", "nhf", 1), "a")
    assert not again.is_finished(("moons", "nhf", 2), "a")
    again.add(("moons", "nhf", 0), "b", [_row(2.0)])
    assert again.values("moons", "nhf", "nll") == {0: 2.0}
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]
    with pytest.raises(ValueError, match="choose another --out"):
        report.ResultStore(tmp_path, quick=True)
    (tmp_path / "metrics.json").write_text("[{")
    with pytest.raises(ValueError, match="not valid JSON"):
        report.ResultStore(tmp_path)


def test_overview_puts_short_falls_first(tmp_path: Path) -> None:
    store = report.ResultStore(tmp_path / "density")
    store.add(("a", "nhf", 0), "x", [_row(1.0, bar=1.5)])
    store.add(("a", "nhf", 1), "x", [_row(1.2, bar=1.5)])
    store.add(("b", "maf", 0), "x", [_row(1.9)])
    store.add(("b", "nhf", 0), "x", [_row(2.0, bar=1.5), {"metric": "pareto_k_below_0_7", "value": 0.97, "bar": 0.95}])
    overview.write_overview(tmp_path)
    lines = [line for line in (tmp_path / "README.md").read_text().splitlines() if line.startswith(("| short", "| r"))]
    assert [line.split(" | ")[0] for line in lines] == ["| short", "| reached", "| reached"]
    assert "1.100 ± 0.100" in lines[1]
    page = (tmp_path / "README.md").read_text()
    assert "- nll: mean negative log-likelihood" in page
    assert "| case | nhf | maf | training gain |" in page
    assert "| b | 2.000 | **1.900** |  |" in page


def test_every_bar_is_explained() -> None:
    rows = [row for path in sorted((ROOT / "results").glob("*/metrics.json")) for row in json.loads(path.read_text())]
    assert {row["metric"] for row in rows if "bar" in row} <= overview.MEANINGS.keys()


def _quick(script: str, out: Path, *arguments: str) -> str:
    command = [sys.executable, str(EXPERIMENTS / script), "--quick", "--out", str(out), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)
    assert result.returncode == 0, result.stderr
    # A run that breaks is a row of the table, and the others go on.
    for path in (out / "metrics.json", *out.glob("*/metrics.json")):
        if path.exists():
            assert not [row for row in json.loads(path.read_text()) if row["metric"] == "failed"]
    return result.stderr


@pytest.mark.parametrize(
    ("script", "case", "models", "figure"),
    [
        ("density_2d.py", "two_moons", ["nhf", "maf"], "two_moons.png"),
        ("density_tabular.py", "wine", ["nhf", "gmm"], "nll.png"),
    ],
)
def test_quick_run_writes_and_resumes(script: str, case: str, models: list[str], figure: str, tmp_path: Path) -> None:
    out = tmp_path / "quick"
    _quick(script, out, "--seeds", "0", "--models", *models)
    rows = json.loads((out / "metrics.json").read_text())
    nll = {row["model"]: row for row in rows if row["metric"] == "nll"}
    assert set(nll) == set(models)
    assert all(row["case"] == case and np.isfinite(row["value"]) and row["params"] > 0 for row in nll.values())
    assert not [row for row in rows if row["metric"] == "certificate_failed"]
    if script == "density_2d.py":
        assert [row["unit"] for row in rows if row["metric"] == "unsettled_points"] == ["points"]
    assert (out / figure).stat().st_size > 5000
    table = (out / "table.md").read_text()
    assert all(f"| {model} | nll |" in table for model in models)
    assert "Every figure that has a bar" in (tmp_path / "README.md").read_text()
    assert "2 of 2 runs are finished already" in _quick(script, out, "--seeds", "0", "--models", *models)
    assert json.loads((out / "metrics.json").read_text()) == rows


def test_quick_run_of_learned_energies(tmp_path: Path) -> None:
    out = tmp_path / "quick"
    _quick("hnn.py", out)
    rows = json.loads((out / "metrics.json").read_text())
    assert {row["model"] for row in rows if row["metric"] == "energy_mse"} == {"hnn", "mlp"}
    assert {row["metric"] for row in rows if row["model"] == "hnn"} > {"energy_mse_published", "energy_drift_slope"}
    assert "(median; " in (out / "table.md").read_text()
    assert (out / "pendulum.png").stat().st_size > 5000
    assert (out / "drift.png").stat().st_size > 2000


def test_quick_run_of_learned_lagrangians(tmp_path: Path) -> None:
    out = tmp_path / "quick"
    _quick("lnn.py", out)
    rows = {(row["case"], row["model"], row["metric"]): row for row in json.loads((out / "metrics.json").read_text())}
    assert rows["chain_1", "lnn", "relative_error_geometric_mean"]["bar"] == 1e-4
    # The rods hold for who knows them, however little was learned.
    assert rows["chain_1", "lnn", "largest_constraint_error"]["value"] < 1e-10
    assert rows["chain_1", "mlp", "largest_constraint_error"]["value"] > 1e-3
    assert {key[1] for key in rows if key[0] == "relativistic"} == {"lnn", "mlp"}
    for case in ("chain_1", "relativistic"):
        assert (out / f"{case}.png").stat().st_size > 5000


def test_pictures_of_the_pendulum() -> None:
    """A rod that hangs down, half as bright as white, with its axle dark; the other side is its mirror image."""
    hanging, left, right = pixel_pendulum.draw(torch.tensor([[0.0, -0.4, 0.4]]))[0, :, 0].double()
    assert hanging.max() == 128 and hanging[:, 13:15].mean() > 60 and hanging[:, :10].max() == 0
    assert (left - right.flip(1)).abs().mean() < 1
    centre = (right.sum(0) * torch.arange(28)).sum() / right.sum() - 13.5
    # The middle of the rod is half a length off the axle; a picture shows 340 of 1000 pixels, which are 4.4 lengths.
    assert float(centre) == pytest.approx(0.5 * np.sin(0.4) * 28 / (340 * 4.4 / 1000), abs=0.3)


def test_the_pendulum_of_pictures_swings() -> None:
    states = pixel_pendulum.simulate(50, 400, seed=0)
    q, v = states.q[..., 0], states.need("v")[..., 0]
    energy = 0.5 * v**2 + 15 * (1 - q.cos())
    # The integrator keeps the energy up to an oscillation.
    assert float((energy[:, -100:].mean(1) / energy[:, :100].mean(1) - 1).abs().max()) < 0.05
    assert q.abs().max() < 0.62 and q[:, 0].abs().max() < np.pi / 6


def test_quick_run_of_pixels(tmp_path: Path) -> None:
    out = tmp_path / "quick"
    _quick("hnn_pixels.py", out)
    rows = json.loads((out / "metrics.json").read_text())
    assert {row["model"] for row in rows if row["metric"] == "test_loss"} == {"hnn", "baseline"}
    assert {row["metric"]: row["bar"] for row in rows if "bar" in row} == {"test_loss": 1.85e-4, "energy_mse": 1.53e-4}
    assert (out / "pixel_pendulum.png").stat().st_size > 5000


def test_the_likelihood_over_all_turns_of_a_motion() -> None:
    s, k = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    one, other = (torch.view_as_complex(x.unflatten(-1, (-1, 2))) for x in (s, k))
    angles = 2 * torch.pi * torch.arange(20_000, dtype=torch.float64) / 20_000
    turned = torch.polar(torch.ones_like(angles), angles)[:, None] * other[:, None]
    far = (one[:, None] - turned).abs().square().sum(-1)
    overlap = (one * other.conj()).sum(-1)
    found = hgn_limits.fit_of_turns((s - k).square().sum(-1), overlap)
    torch.testing.assert_close(found, (-0.5 * far).exp().mean(1).log(), rtol=1e-9, atol=1e-9)
    # The turn that brings k nearest to s, about which turns are drawn.
    nearest = angles[far.argmin(1)] - overlap.angle()
    assert float((torch.remainder(nearest + 1, 2 * torch.pi) - 1).abs().max()) < 1e-3


def test_quick_run_of_dynamics_from_videos(tmp_path: Path) -> None:
    out = tmp_path / "quick"
    _quick("hgn.py", out)
    rows = {(row["model"], row["metric"]): row for row in json.loads((out / "metrics.json").read_text())}
    assert {key[0] for key in rows} == {"hgn", "hgn_few_frames", "latent_mlp", "latent_ode", "true_law"}
    assert rows["true_law", "reconstruction_skill"]["value"] > 0.8 > rows["hgn", "reconstruction_skill"]["value"]
    assert rows["hgn", "reconstruction_skill"]["bar"] == 0.9 and "bar" not in rows["latent_mlp", "reconstruction_skill"]
    # However little was learned, the way back of a symplectic step is exact, and floors are those of the same videos.
    assert rows["hgn", "backward_error"]["value"] < 1e-5
    assert rows["hgn", "noise_floor"]["value"] == rows["latent_ode", "noise_floor"]["value"]
    sizes = [rows[model, "mse"]["params"] for model in ("hgn", "latent_mlp", "latent_ode")]
    assert max(sizes) < 1.02 * min(sizes)
    for name in ("mass_spring.png", "mass_spring_samples.png", "mass_spring.gif"):
        assert 2000 < (out / name).stat().st_size < 1e6


def test_quick_run_of_dynamics_from_videos_in_the_published_size(tmp_path: Path) -> None:
    out = tmp_path / "quick"
    _quick("hgn_published.py", out)
    rows = {row["metric"]: row for row in json.loads((out / "metrics.json").read_text())}
    assert {name for name, row in rows.items() if "bar" in row} == {"autoencode_mse", "inference_mse"}
    assert rows["autoencode_mse"]["bar"] == 7.1 and rows["inference_mse"]["reference"] == 12.21
    assert 0 < rows["noise_floor"]["value"] < rows["mean_frame"]["value"] < 1.5 * rows["autoencode_mse"]["value"]
    # The videos stay, and so does the model: nothing is drawn or learned twice.
    again = hamflow.load(out / "videos" / "mass_spring-0")
    assert isinstance(again, hamflow.HGN) and again.config["maps"] and again.config["channels"] == 3


def test_quick_run_of_the_speed_of_training_on_videos(tmp_path: Path) -> None:
    _quick("hgn_speed.py", tmp_path / "quick")
    rows = json.loads((tmp_path / "quick" / "metrics.json").read_text())
    assert {row["metric"] for row in rows} >= {"speedup_at_once", "speedup_five_frames"}


def test_quick_run_of_the_speed_of_guides(tmp_path: Path) -> None:
    _quick("guide_speed.py", tmp_path / "quick")


def test_quick_run_of_the_benchmarks(tmp_path: Path) -> None:
    _quick("benchmarks/run.py", tmp_path / "quick")
    rows = json.loads((tmp_path / "quick" / "metrics.json").read_text())
    found = {row["metric"]: row["value"] for row in rows}
    assert found["memory_growth"] < 1.1 and found["lattice_error_float32"] == 0.0
    expected = {
        "speedup_train_over_nhf_autograd", "speedup_over_scipy", "matmul_share_stored_tiny", "compiled_speedup_train",
        "speedup_sample_over_zuko_cnf", "train_nhf_batch_32", "log_prob_memory_nhf", "sample_memory_nhf",
    }  # fmt: skip
    assert expected <= found.keys()
    assert (tmp_path / "quick" / "dimension.png").exists() and (tmp_path / "quick" / "depth_rollout.png").exists()
    assert {row["metric"] for row in rows if "bar" in row} <= overview.MEANINGS.keys()


def test_figures_are_compared_with_those_that_were_committed(tmp_path: Path) -> None:
    head = {"case": "a", "model": "hamflow", "unit": "times", "config": "c"}
    rows = [{**head, "seed": seed, "metric": "speedup", "value": value} for seed, value in enumerate((2.0, 4.0))]
    (line,) = last.compare(rows, [{**rows[0], "value": 2.0}, {**rows[0], "metric": "gone"}])
    assert line.split()[:2] == ["a", "speedup"] and line.endswith("x 1.500")
    assert last.compare(rows, [{**rows[0], "value": 6.0}])[0].endswith("x 0.500  worse")
    assert last.compare(rows, [{**rows[0], "config": "other"}]) == []
    assert last.committed(tmp_path / "metrics.json") == []


def test_every_benchmark_has_its_figures() -> None:
    rows = json.loads((ROOT / "results" / "benchmarks" / "metrics.json").read_text())
    cases = benchmarks.CASES
    assert {row["case"] for row in rows} == set(cases)
    assert not [row["case"] for row in rows if row["metric"] == "failed"]
    depths = {f"{case}.png" for case in benchmarks.DEPTHS}
    assert {path.name for path in (ROOT / "results" / "benchmarks").glob("*.png")} == {
        "batch.png",
        "dimension.png",
    } | depths


def test_quick_run_of_calibration(tmp_path: Path) -> None:
    _quick("calibration.py", tmp_path / "quick")


def test_quick_run_of_posteriors(tmp_path: Path) -> None:
    _quick("posteriors.py", tmp_path / "quick")
    rows = {(row["model"], row["metric"]): row for row in json.loads((tmp_path / "quick" / "metrics.json").read_text())}
    # The bound of a guide is below the evidence, which of the funnel is zero.
    assert rows["auto_hamiltonian_flow", "elbo"]["value"] < 0.5
    assert rows["auto_hamiltonian_flow", "elbo_minus_best_stock"]["bar"] == 0
    assert rows["nuts_hamiltonian", "ess_per_gradient"]["value"] > 0


@pytest.mark.skipif(
    not (Path(os.environ.get("HAMFLOW_DATA", "/nonexistent")) / "pendulum_lipson").is_dir(),
    reason="HAMFLOW_DATA names no folder with pendulum_lipson",
)
def test_quick_run_of_physics_in_pyro(tmp_path: Path) -> None:
    _quick("physics_in_pyro.py", tmp_path / "quick")
    rows = {(row["model"], row["metric"]): row for row in json.loads((tmp_path / "quick" / "metrics.json").read_text())}
    # From the mode on even a few steps know the ratio of gravity to length, 1.356 in the unit of the file.
    for model in ("nuts", "auto_hamiltonian_flow"):
        assert 9.81 / rows[model, "length_mean"]["value"] == pytest.approx(1.356, abs=0.03)
    assert 0 <= rows["bayesian_hnn", "covered_between"]["value"] <= 1


def test_quick_run_of_the_speed_of_accelerations(tmp_path: Path) -> None:
    _quick("lnn_speed.py", tmp_path / "quick")
    rows = json.loads((tmp_path / "quick" / "metrics.json").read_text())
    assert {row["metric"] for row in rows} >= {"speedup_over_products", "speedup_over_full_hessian"}


def test_three_body_pairs_share_their_masses() -> None:
    task = hnn_tasks.load_task("three_body", 0, quick=True)
    energy = hnn_contenders.pair_energy(task.train, [8], seed=0)
    assert energy.kinetic.masses is energy.potential.masses
    assert len([name for name, _ in energy.named_parameters() if "log_masses" in name]) == 1


def test_tasks_have_their_true_energy() -> None:
    for name, by_hand in [
        ("mass_spring", lambda q, p: (q**2 + p**2).sum(-1)),
        ("pendulum", lambda q, p: (3 * (1 - q.cos()) + p**2).sum(-1)),
    ]:
        task = hnn_tasks.load_task(name, 1, quick=True)
        q, p = torch.randn(2, 5, 1, dtype=torch.float64)
        assert (task.energy(q, p) - by_hand(q, p)).abs().max() < 1e-12
        # The noise is on the states alone; third differences tell noise from motion.
        assert task.train.metadata["noise"] == 0.1
        slopes = torch.cat((task.train.need("v"), task.train.need("p_dot")), -1)
        assert task.train.states.diff(n=3, dim=1).std() > 0.3
        assert slopes.diff(n=3, dim=1).std() < 0.1


def test_learning_rates_are_chosen_by_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "quick"
    _quick("learning_rates.py", out)
    rows = json.loads((out / "metrics.json").read_text())
    for model in ("nhf", "realnvp"):
        figures = {row["metric"]: row["value"] for row in rows if row["model"] == model and row["case"] == "wine"}
        losses = {name: value for name, value in figures.items() if name.startswith("validation_nll_")}
        assert len(losses) == 2
        assert losses[f"validation_nll_{figures['learning_rate']:g}"] == min(losses.values())
        # Two rates have no middle, and four iterations never wear patience out.
        assert figures["interior"] == figures["ended_by_patience_0.001"] == figures["ended_by_patience_0.002"] == 0
        assert [row["value"] for row in rows if (row["case"], row["model"]) == ("all", model)] == [1]
    monkeypatch.setattr(runner, "ROOT", tmp_path)
    with pytest.raises(LookupError, match=r"nhf on wine was chosen yet: run experiments/learning_rates\.py first"):
        learning_rates.chosen_rate("wine", "nhf_hybrid")


@pytest.mark.parametrize(
    ("best", "tried", "interior"),
    [(4e-3, 5, True), (4e-2, 7, True), (0.15, 8, False), (6e-4, 7, True), (1e-5, 8, False)],
)
def test_search_for_a_rate_leaves_the_edge(best: float, tried: int, interior: bool) -> None:
    settings = learning_rates.RATES, learning_rates.LAST
    losses = learning_rates.search(lambda rate: abs(np.log(rate / best)), *settings)
    assert len(losses) == tried
    assert learning_rates.is_interior(losses) is interior
    assert learning_rates.LAST[0] <= min(losses)
    assert max(losses) <= learning_rates.LAST[1]


def test_search_turns_away_from_rates_that_diverge() -> None:
    settings = learning_rates.RATES, learning_rates.LAST
    losses = learning_rates.search(lambda rate: np.inf if rate > 4e-4 else rate, *settings)
    assert learning_rates.best_of(losses) == learning_rates.LAST[0]


def test_learning_rates_never_see_a_split_of_the_table() -> None:
    assert learning_rates.SPLIT > density_tabular.REPEATS
