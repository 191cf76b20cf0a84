"""The command line simulates, learns, carries on and draws motions, and says plainly what it cannot do."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import hamflow as hf
from hamflow.cli import main
from hamflow.io import write_table
from hamflow.systems import Trajectories

TINY = ["--model", "hnn", "--widths", "8", "--epochs", "3", "--quiet"]


LAGRANGIAN = ["--model", "lnn", *TINY[2:]]


def call(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the motions of two systems and a run fitted to each."""
    folder = tmp_path_factory.mktemp("dynamics")
    common = ["--trajectories", 3, "--steps", 25, "--derivatives", "-q"]
    for name, system in (("spring", "mass_spring"), ("stars", "henon_heiles")):
        assert call("simulate", system, "--out", folder / f"{name}.npz", *common) == 0
        assert call("fit", folder / f"{name}.npz", "--out", folder / name, *TINY) == 0
        assert call("fit", folder / f"{name}.npz", "--out", folder / f"{name}_lnn", *LAGRANGIAN) == 0
    return folder


@pytest.mark.parametrize("suffix", [".npz", ".h5", ".csv"])
def test_simulate_is_the_python_call(suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / f"motion{suffix}"
    options = ["--trajectories", 2, "--steps", 12, "--dt", 0.2, "--noise", 0.1, "--noise-on", "velocities", "--seed", 7]
    sets = ["--set", "masses=1,2", "--set", "lengths=1,0.5", "--set", "gravity=3"]
    assert call("simulate", "double_pendulum", "--out", out, "--derivatives", *options, *sets) == 0
    assert capsys.readouterr().out == f"double_pendulum: 2 trajectories of 13 states, 0.2 s apart: {out}\n"
    system = hf.systems.DoublePendulum(masses=(1.0, 2.0), lengths=(1.0, 0.5), gravity=3.0)
    expected = system.simulate(2, 12, 0.2, noise=0.1, noise_on="velocities", derivatives=True, seed=7)
    found = Trajectories.load(out)
    assert found.metadata == expected.metadata
    for name in ("times", *expected.given):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", hf.systems.SYSTEMS)
def test_every_system_simulates(name: str, tmp_path: Path) -> None:
    out = tmp_path / "motion.npz"
    assert call("simulate", name, "--out", out, "--trajectories", 1, "--steps", 1, "--dt", 0.01, "-q") == 0
    assert Trajectories.load(out).metadata["system"] == name


def test_fit_says_what_it_did(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--learn-from", "states", "--noise", 0.01, "--window", 4, "--friction", "--energy", "mechanical"]
    options += ["--scheme", "leapfrog", "--dtype", "float32", "--seed", 3]
    assert call("fit", folder / "spring.npz", "--out", tmp_path / "run", *options, *TINY[:-1]) == 0
    printed = capsys.readouterr().out
    assert "3 trajectories of 26 states with q, p, v, p_dot, v_dot" in printed
    assert "friction: 0." in printed
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "beginnings.json", "model.json", "weights.safetensors",
    ]  # fmt: skip
    model = hf.load(tmp_path / "run")
    assert isinstance(model, hf.HNN)
    assert next(model.parameters()).dtype == torch.float32
    expected = {"energy": "mechanical", "widths": [8], "friction": True, "scheme": "leapfrog", "seed": 3, "dim": 1}
    assert {name: model.config[name] for name in expected} == expected
    assert len(model.history.train) == 2  # the third epoch made the start


def test_fit_is_the_python_call(tmp_path: Path, folder: Path) -> None:
    data = Trajectories.load(folder / "spring.npz")
    model = hf.HNN(1, widths=(8,)).fit(data, epochs=3, progress=False)
    q, p = data.q[:, 5], data.need("p")[:, 5]
    torch.testing.assert_close(hf.load(folder / "spring").energy(q, p), model.energy(q, p))
    state = tmp_path / "state.pt"
    assert call("fit", folder / "spring.npz", "--out", tmp_path / "run", "--checkpoint", state, *TINY) == 0
    assert state.exists()


def test_files_of_different_lengths_are_fitted_together(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A CSV of such trajectories is refused, and its parts are taken, as a list is in Python."""
    data = Trajectories.load(folder / "spring.npz")
    short, long = tmp_path / "short.csv", tmp_path / "long.csv"
    parts = [data[0].between(0, 10), data[1:]]
    for part, file in zip(parts, (short, long), strict=True):
        part.save(file)
    both, more = tmp_path / "both.csv", [line.split(",") for line in short.read_text().splitlines()[2:]]
    which = short.read_text().splitlines()[1].split(",").index("trajectory")
    lines = [",".join("9" if k == which else entry for k, entry in enumerate(line)) for line in more]
    both.write_text(long.read_text() + "\n".join(lines) + "\n")
    assert call("fit", both, "--out", tmp_path / "refused", *TINY) == 2
    assert "write them to files of their own, and fit to all of these" in capsys.readouterr().err
    options = ["--polish", 2, "--periodic", "0"]
    for model, extra in (("hnn", []), ("lnn", ["--regulariser", 0.01, "--composition", "none"])):
        run = tmp_path / model
        assert call("fit", short, long, "--out", run, "--model", model, *options, *extra, *TINY[2:-1]) == 0
        assert f"{short}, {long}: 3 trajectories of 10 to 26 states with q, p, v" in capsys.readouterr().out
        found, own = hf.load(run), {"regulariser": 0.01, "composition": None} if extra else {}
        kind = hf.LNN if extra else hf.HNN
        expected = kind(1, widths=(8,), periodic=(0,), **own).fit(parts, epochs=3, polish=2, progress=False)
        assert isinstance(found, kind) and found.config == expected.config
        assert all(torch.equal(a, b) for a, b in zip(found.parameters(), expected.parameters(), strict=True))
        assert call("rollout", run, "--out", tmp_path / f"{model}.npz") == 0
        path = Trajectories.load(tmp_path / f"{model}.npz")
        assert (path.n, path.n_times, path.periodic) == (3, 26, (0,))
        torch.testing.assert_close(path.q[:, 0], data.q[:, 0])
    bare = ["--model", "lnn", "--periodic", "none", "--composition", "kahan_li6", *TINY[2:]]
    assert call("fit", folder / "stars.npz", "--out", tmp_path / "bare", *bare) == 0
    model = hf.load(tmp_path / "bare")
    assert isinstance(model, hf.LNN)
    assert (model.config["periodic"], model.config["composition"]) == ([], "kahan_li6")


def test_a_run_gives_way_to_one_of_the_other_model(tmp_path: Path, folder: Path) -> None:
    run, table = tmp_path / "run", tmp_path / "table.csv"
    write_table(table, np.random.default_rng(0).normal(size=(40, 1)))
    flow = ["--epochs", 1, "--n-steps", 1, "--width", 2, "--particles", 1, "--overwrite", "-q"]
    assert call("fit", table, "--out", run, *flow) == 0
    assert call("fit", folder / "spring.npz", "--out", run, *TINY) == 2
    assert call("fit", folder / "spring.npz", "--out", run, "--overwrite", *TINY) == 0
    assert isinstance(hf.load(run), hf.HNN)
    assert call("fit", table, "--out", run, *flow) == 0
    assert not (run / "beginnings.json").exists()


def test_rollout_goes_on_from_the_first_states(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = Trajectories.load(folder / "spring.npz")
    model = hf.load(folder / "spring")
    assert isinstance(model, hf.HNN)
    assert call("rollout", folder / "spring", "--out", tmp_path / "a.npz") == 0
    printed = capsys.readouterr().out
    assert "3 trajectories of 26 states, 0.1 s apart" in printed
    assert "whether it drifts cannot be told from fewer than 4 periods, give more --steps" in printed
    found = Trajectories.load(tmp_path / "a.npz")
    expected = model.rollout(data.q[:, 0], data.need("p")[:, 0], n_steps=25, dt=data.dt)
    torch.testing.assert_close(found.states, expected.movedim(0, 1))
    torch.testing.assert_close(found.times, data.times)
    assert found.metadata["units"] == {"time": "s", "q": "m", "p": "kg m/s"}

    longer = ["--steps", 40, "--dt", 0.05, "--scheme", "leapfrog", "--substeps", 2, "-q"]
    initial = tmp_path / "one.csv"
    data[1].save(initial)
    assert call("rollout", folder / "spring", "--out", tmp_path / "b.h5", "--initial", initial, *longer) == 0
    found = Trajectories.load(tmp_path / "b.h5")
    settings = {"n_steps": 40, "dt": 0.05, "scheme": "leapfrog", "substeps": 2}
    expected = model.rollout(data.q[1:2, 0], data.need("p")[1:2, 0], **settings)
    torch.testing.assert_close(found.states, expected.movedim(0, 1))


def test_an_energy_that_is_not_separable_takes_no_scheme(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = tmp_path / "run", tmp_path / "a.npz"
    assert call("fit", folder / "spring.npz", "--out", run, "--energy", "joint", *TINY) == 0
    assert call("rollout", run, "--out", out, "--scheme", "yoshida6") == 2
    assert "scheme = 'yoshida6', but the energy is not separable" in capsys.readouterr().err
    for source, extra, name in (
        (run, [], "implicit_midpoint"), (folder / "spring", [], "yoshida4"),
        (folder / "spring", ["--scheme", "leapfrog"], "leapfrog"),
    ):  # fmt: skip
        assert call("rollout", source, "--out", out, "--overwrite", "-q", *extra) == 0
        assert Trajectories.load(out).metadata["scheme"] == name


def test_rollout_speaks_of_the_energy(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("rollout", folder / "stars", "--out", tmp_path / "a.npz", "--steps", 5) == 0
    assert "a trend needs 20 states" in capsys.readouterr().out
    data, swings = tmp_path / "pendulum.npz", tmp_path / "swings"
    assert call("simulate", "pendulum", "--out", data, "--steps", 50, "--dt", 0.05, "--derivatives", "-q") == 0
    assert call("fit", data, "--out", swings, *TINY, "--widths", "32,32", "--epochs", 100) == 0
    for steps, verdict in ((39, "whether it drifts cannot be told from"), (200, "no drift, slope ")):
        assert call("rollout", swings, "--out", tmp_path / f"{steps}.npz", "--steps", steps, "--dt", 0.05) == 0
        assert verdict in capsys.readouterr().out
    assert call("fit", folder / "spring.npz", "--out", tmp_path / "run", "--friction", *TINY) == 0
    assert call("rollout", tmp_path / "run", "--out", tmp_path / "b.npz") == 0
    assert "friction takes it, 0." in capsys.readouterr().out


def test_rollout_that_leaves_the_numbers(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a.npz"
    assert call("rollout", folder / "spring", "--out", out, "--dt", 1e307, "--steps", 300) == 1
    error = capsys.readouterr().err
    assert error.startswith("hamflow: error: the rollout left the finite numbers at time ")
    assert error.count("\n") == 1
    assert not out.exists()


def test_velocities_stand_for_momenta(tmp_path: Path) -> None:
    data = hf.systems.Pendulum().simulate(2, 20)
    data.replace(p=None).save(tmp_path / "seen.npz")
    assert call("fit", tmp_path / "seen.npz", "--out", tmp_path / "run", *TINY) == 0
    assert call("rollout", tmp_path / "run", "--out", tmp_path / "path.npz", "-q") == 0
    path = Trajectories.load(tmp_path / "path.npz")
    torch.testing.assert_close(path.need("p")[:, 0], data.need("v")[:, 0])
    assert path.metadata["units"]["p"] == "rad/s"


def test_initial_states_speak_the_language_of_the_model(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = Trajectories.load(folder / "spring.npz")
    files = {
        "velocities": data.replace(p=None, p_dot=None),
        "positions": data.replace(p=None, v=None, p_dot=None, v_dot=None),
        "millimetres": data.replace(metadata=dict(data.metadata) | {"units": {"q": "mm"}}),
        "same": data.replace(v=None, v_dot=None, p_dot=None),
    }
    for name, part in files.items():
        part.save(tmp_path / f"{name}.npz")
    messages = {
        "velocities": "has velocities, and the model was fitted to momenta",
        "positions": "has positions alone, and the model was fitted to momenta",
        "millimetres": "has q in mm, and the model was fitted to m: convert it",
    }
    for name, message in messages.items():
        for command in (["rollout", "--initial"], ["plot", "--data"]):
            out = tmp_path / ("out.npz" if command[0] == "rollout" else "out.png")
            assert call(command[0], folder / "spring", "--out", out, command[1], tmp_path / f"{name}.npz") == 2
            assert message in capsys.readouterr().err
    assert call("rollout", folder / "spring", "--out", tmp_path / "out.npz", "--initial", tmp_path / "same.npz") == 0
    (tmp_path / "other").mkdir()
    hf.load(folder / "spring").save(tmp_path / "other")
    assert call("rollout", tmp_path / "other", "--out", tmp_path / "b.npz") == 2
    assert "holds no initial states" in capsys.readouterr().err


@pytest.mark.parametrize("noise", [0.0, None])
def test_positions_alone(noise: float | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = hf.systems.Pendulum().simulate(2, 40, 0.05)
    facts = {name: value for name, value in data.metadata.items() if name != "noise" or noise is not None}
    seen, run, path = tmp_path / "seen.npz", tmp_path / "run", tmp_path / "path.npz"
    data.replace(p=None, v=None, metadata=facts).save(seen)
    assert call("fit", seen, "--out", run, *TINY) == 0
    for initial in ([], ["--initial", seen]):
        assert call("rollout", run, "--out", path, "--overwrite", "-q", *initial) == 0
        error = Trajectories.load(path).need("p")[:, 0] - data.need("v")[:, 0]
        assert error.abs().max() < (2e-3 if noise == 0.0 else 0.5)  # a natural smoothing spline is straight at its ends
    assert call("plot", run, "--out", tmp_path / "figure.png", "--data", seen) == 0
    Trajectories.load(seen).between(0, 1).save(tmp_path / "one.npz")
    assert call("rollout", run, "--out", tmp_path / "b.npz", "--initial", tmp_path / "one.npz", "--steps", 3) == 2
    assert "p and v are missing, expected one of them" in capsys.readouterr().err


def test_a_lagrangian_is_fitted_and_carried_on(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = Trajectories.load(folder / "spring.npz")
    seen, run = tmp_path / "seen.npz", tmp_path / "run"
    data.replace(p=None, p_dot=None).save(seen)
    options = ["--lagrangian", "constant_mass", "--learn-from", "residual", "--friction", "--seed", 3]
    assert call("fit", seen, "--out", run, *options, *LAGRANGIAN[:-1]) == 0
    printed = capsys.readouterr().out
    assert "3 trajectories of 26 states with q, v, v_dot" in printed
    assert "friction: C = [[" in printed and "in units of the learned mass per unit of time" in printed
    model = hf.load(run)
    assert isinstance(model, hf.LNN)
    expected = {"lagrangian": "constant_mass", "widths": [8], "friction": True, "seed": 3, "dim": 1}
    assert {name: model.config[name] for name in expected} == expected
    own = hf.LNN(1, lagrangian="constant_mass", widths=(8,), friction=True, seed=3)
    own.fit(data, learn_from="residual", epochs=3, seed=3, progress=False)
    q, v = data.q[:, 0], data.need("v")[:, 0]
    torch.testing.assert_close(model.acceleration(q, v), own.acceleration(q, v))
    for initial in ([], ["--initial", folder / "spring.npz"]):
        out = ["--out", tmp_path / "path.npz", "--overwrite", "--substeps", 2, "--steps", 30]
        assert call("rollout", run, *out, *initial) == 0
        assert "energy: it changes by up to" in (printed := capsys.readouterr().out)
        assert "friction takes it, C = [[" in printed
        found = Trajectories.load(tmp_path / "path.npz")
        assert found.given == ("q", "v") and found.metadata["units"] == {"time": "s", "q": "m", "v": "m/s"}
        assert found.metadata["system"] == "lnn" and found.metadata["scheme"] == "triple_jump4 of midpoint"
        path = model.rollout(q, v, n_steps=30, dt=data.dt, substeps=2).movedim(0, 1)
        torch.testing.assert_close(torch.cat((found.q, found.need("v")), -1), path)


def test_a_learned_lagrangian_speaks_of_its_energy(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = folder / "spring_lnn", tmp_path / "a.npz"
    assert call("rollout", run, "--out", out, "--steps", 5) == 0
    assert "a trend needs 20 states" in capsys.readouterr().out
    assert call("rollout", run, "--out", tmp_path / "b.npz", "--scheme", "leapfrog") == 2
    assert "is for splittings, and a Lagrangian model takes variational steps" in capsys.readouterr().err
    one = tmp_path / "one.npz"
    Trajectories.load(folder / "spring.npz").replace(v=None, v_dot=None).between(0, 1).save(one)
    assert call("rollout", run, "--out", tmp_path / "b.npz", "--initial", one, "--steps", 3) == 2
    assert "v is missing, expected" in capsys.readouterr().err


@pytest.mark.parametrize("run", ["spring", "stars", "spring_lnn", "stars_lnn"])
@pytest.mark.parametrize("kind", ["auto", "energy", "prediction", "history"])
def test_plot(kind: str, run: str, tmp_path: Path, folder: Path) -> None:
    out = tmp_path / "figure.png"
    data = ["--data", folder / f"{run.removesuffix('_lnn')}.npz"] if kind == "prediction" else []
    assert call("plot", folder / run, "--out", out, "--kind", kind, *data) == 0
    assert out.read_bytes().startswith(b"\x89PNG")


def test_plot_auto_depends_on_what_is_there(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = [
        ("spring", [], "phase"),
        ("stars", [], "energy"),
        ("spring_lnn", [], "phase"),
        ("stars_lnn", [], "energy"),
        ("spring", ["--data", folder / "spring.npz"], "prediction"),
    ]
    for i, (run, data, kind) in enumerate(cases):
        assert call("plot", folder / run, "--out", tmp_path / f"{i}.svg", *data) == 0
        assert capsys.readouterr().out.startswith(f"{kind} of ")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("simulate clock --out {new}.npz", "system = 'clock', expected one of 'mass_spring'"),
        ("simulate pendulum --out {new}.txt", "suffix '.txt', expected one of .npz"),
        ("simulate pendulum --out {spring}.npz", "exists; --overwrite replaces it"),
        ("simulate pendulum --out {new}.npz --set weight=1", "a parameter of pendulum: mass, length, gravity"),
        ("simulate pendulum --out {new}.npz --set mass", "expected NAME=VALUE"),
        ("simulate pendulum --out {new}.npz --set mass=heavy", "expected a number"),
        ("simulate pendulum --out {new}.npz --set mass=-1", "mass = -1, expected a positive"),
        ("simulate relativistic_particle --out {new}.npz --set potential=1", "mass, c, stiffness, space"),
        ("simulate pendulum --out {new}.npz --noise -1", "noise = -1.0"),
        ("simulate pendulum --out {new}.npz --noise-on clouds", "noise_on = 'clouds'"),
        ("fit {spring}.npz --out {new} --friction", "--friction belongs to --model hnn"),
        ("fit {spring}.npz --out {new} --learn-from states", "--learn-from belongs to --model hnn"),
        ("fit {spring}.npz --out {new} --model hnn --width 3", "--width belongs to --model nhf"),
        ("fit {spring}.npz --out {new} --model hnn --key q", "--key belongs to --model nhf"),
        ("fit {spring}.npz --out {new} --model hnn --energy dark", "energy = 'dark', expected one of 'separable'"),
        ("fit {spring}.npz --out {new} --model hnn --widths wide", "--widths = 'wide'"),
        ("fit {spring}.npz --out {new} --model hnn --noise -1", "noise = -1.0"),
        ("fit {new}.npz --out {new} --model hnn", "does not exist"),
        ("fit {spring}.npz --out {new} --lagrangian general", "--lagrangian belongs to --model lnn"),
        ("fit {spring}.npz --out {new} --model hnn --lagrangian general", "--lagrangian belongs to --model lnn"),
        ("fit {spring}.npz --out {new} --model hnn --learn-from residual", "learn_from = 'residual', expected one of"),
        ("fit {spring}.npz --out {new} --model lnn --energy joint", "--energy belongs to --model hnn"),
        ("fit {spring}.npz --out {new} --model lnn --scheme leapfrog", "--scheme belongs to --model hnn"),
        ("fit {spring}.npz --out {new} --model lnn --n-steps 3", "--n-steps belongs to --model nhf"),
        ("fit {spring}.npz --out {new} --model lnn --lagrangian dark", "lagrangian = 'dark', expected one of 'mech"),
        ("fit {spring}.npz {stars}.npz --out {new}", "2 files were given, expected one table"),
        ("fit {spring}.npz {stars}.npz --out {new} --model hnn", "data has 2 coordinates, expected dim = 1"),
        ("fit {spring}.npz --out {new} --polish 3", "--polish belongs to --model hnn"),
        ("fit {spring}.npz --out {new} --periodic 0", "--periodic belongs to --model hnn"),
        ("fit {spring}.npz --out {new} --model hnn --periodic 1", "periodic = (1,), expected indices of the 1 coord"),
        (
            "fit {spring}.npz --out {new} --model hnn --periodic all",
            "--periodic = 'all', expected whole numbers as in 0,1",
        ),
        ("fit {spring}.npz --out {new} --model hnn --regulariser 0.1", "--regulariser belongs to --model lnn"),
        ("fit {spring}.npz --out {new} --model hnn --composition none", "--composition belongs to --model lnn"),
        ("fit {spring}.npz --out {new} --model lnn --composition odd", "composition = 'odd', expected one of"),
        ("fit {spring}.npz --out {spring} --model hnn", "exists; --overwrite replaces it"),
        ("rollout {spring} --out {new}.txt", "suffix '.txt'"),
        ("rollout {spring} --out {new}.npz --initial {stars}.npz", "has 2 coordinates, expected 1"),
        ("rollout {spring} --out {new}.npz --dt -0.1", "dt = -0.1"),
        ("rollout {spring} --out {new}.npz --scheme euler", "scheme = 'euler'"),
        ("rollout {new} --out {new}.npz", "is not there, expected a folder"),
        ("sample {spring} --out {new}.csv", "holds a model of dynamics, expected a density"),
        ("plot {spring} --out {new}.png --kind density", "expected one of phase, energy, prediction, history"),
        ("plot {spring} --out {new}.png --kind prediction", "--data is missing"),
        ("plot {stars} --out {new}.png --kind phase", "2 coordinates, expected 1"),
        ("plot {spring} --out {new}.png --seed 1", "--seed is for pictures of a flow"),
    ],
)
def test_mistakes_are_named(
    command: str, message: str, tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"new": tmp_path / "new", "spring": folder / "spring", "stars": folder / "stars"}
    assert main(command.format(**names).split()) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""
    assert not list(tmp_path.iterdir())


def test_a_density_does_not_roll_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hf.NHF(2, n_steps=1, width=2).save(tmp_path / "flow")
    assert call("rollout", tmp_path / "flow", "--out", tmp_path / "a.npz") == 2
    assert "holds a density model, expected a model of dynamics" in capsys.readouterr().err


def test_a_run_without_beginnings_asks_for_them(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    model = hf.load(folder / "spring")
    model.save(run)
    assert call("rollout", run, "--out", tmp_path / "a.npz") == 2
    assert "--initial is missing" in capsys.readouterr().err
    assert call("rollout", run, "--out", tmp_path / "a.npz", "--initial", folder / "spring.npz") == 0
    start = Trajectories.load(folder / "spring.npz").between(0, 1)
    start.save(tmp_path / "start.npz")
    assert call("rollout", run, "--out", tmp_path / "b.npz", "--initial", tmp_path / "start.npz") == 2
    assert "expected --steps and --dt" in capsys.readouterr().err
    for text in ("{", json.dumps({"q": [[1.0, 2.0]], "p": [[1.0, 2.0]], "n_steps": 1, "dt": 1, "units": {}}), "[]"):
        (run / "beginnings.json").write_text(text)
        assert call("rollout", run, "--out", tmp_path / "b.npz") == 2
        assert "beginnings.json is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["simulate", "rollout"])
def test_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert "Usage: hamflow" in capsys.readouterr().out
