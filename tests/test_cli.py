"""The command line does what its help says, keeps the names of columns, and overwrites nothing unasked."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import hamflow as hf
from hamflow.cli import main
from hamflow.errors import InputError
from hamflow.io import read_table, write_table

TABLE = np.random.default_rng(0).normal(size=(80, 2)) @ np.array([[1.0, 0.8], [0.0, 0.6]])
NAMES = ["height", "weight"]
TINY = ["--epochs", "2", "--n-steps", "2", "--width", "4", "--particles", "2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table and a run fitted to it."""
    folder = tmp_path_factory.mktemp("cli")
    write_table(folder / "data.csv", TABLE, NAMES)
    assert main(["fit", str(folder / "data.csv"), "--out", str(folder / "run"), "--quiet", *TINY]) == 0
    return folder


def call(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_fit_says_what_it_did(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "run"
    assert call("fit", folder / "data.csv", "--out", out, *TINY) == 0
    printed = capsys.readouterr().out
    assert "80 rows, 2 columns" in printed
    assert "a lower bound on log p" in printed
    assert str(out) in printed
    assert listing(tmp_path / "new") == [
        "run", "run/model.json", "run/weights.safetensors",
    ]  # fmt: skip
    assert hf.load(out).columns == tuple(NAMES)
    assert hf.load(out).sample(3).shape == (3, 2)


def test_fit_obeys_its_options(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    options = ["--columns", "weight", "--dtype", "float64", "--seed", 3, "--batch-size", 20, "--quiet"]
    assert call("fit", folder / "data.csv", "--out", out, *options, *TINY) == 0
    assert capsys.readouterr() == ("", "")
    model = hf.load(out)
    assert model.dim == 1
    assert model.whitening.loc.dtype.itemsize == 8
    assert model.particles == 2
    assert len(model.history.train) == 2
    assert model.columns == ("weight",)


def test_fit_repeats_and_depends_on_the_seed(tmp_path: Path, folder: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert call("fit", folder / "data.csv", "--out", tmp_path / name, "--seed", seed, "-q", *TINY) == 0
    first, again, other = ((tmp_path / name / "weights.safetensors").read_bytes() for name in "abc")
    assert first == again
    assert first != other


def test_fit_goes_on_from_a_checkpoint(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = tmp_path / "state.pt"
    arguments = ["fit", folder / "data.csv", "--checkpoint", state, "-q", *TINY]
    assert call(*arguments, "--out", tmp_path / "a") == 0
    assert state.exists()
    assert call(*arguments, "--out", tmp_path / "b") == 0
    first, second = ((tmp_path / name / "weights.safetensors").read_bytes() for name in "ab")
    assert first == second
    assert call(*arguments, "--out", tmp_path / "c", "--epochs", 1) == 2
    assert "has done 2 epochs" in capsys.readouterr().err
    assert call(*arguments, "--out", tmp_path / "c", "--learning-rate", 0.1) == 2
    assert "learning_rate" in capsys.readouterr().err
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".npz", ".npy"])
def test_sample_keeps_the_names(suffix: str, tmp_path: Path, folder: Path) -> None:
    out = tmp_path / f"samples{suffix}"
    assert call("sample", folder / "run", "-n", 17, "--out", out, "--seed", 5) == 0
    table, names = read_table(out)
    assert names == (["x0", "x1"] if suffix == ".npy" else NAMES)
    np.testing.assert_allclose(table, hf.load(folder / "run").sample(17, seed=5).numpy(), rtol=1e-6)


def test_score_finds_its_columns_by_name(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    swapped = tmp_path / "swapped.csv"
    write_table(swapped, np.column_stack([TABLE[:, 1], np.zeros(80), TABLE[:, 0]]), ["weight", "other", "height"])
    write_table(tmp_path / "plain.npy", TABLE)
    for data, name in ((folder / "data.csv", "a"), (swapped, "b"), (tmp_path / "plain.npy", "c")):
        assert call("score", folder / "run", data, "--out", tmp_path / f"{name}.csv", "--particles", 32) == 0
    assert "lower bound" in capsys.readouterr().out
    scores, names = read_table(tmp_path / "a.csv")
    assert names == ["log_prob_lower_bound"]
    np.testing.assert_allclose(scores[:, 0], hf.load(folder / "run").log_prob(TABLE, particles=32), atol=1e-4)
    for name in "bc":
        np.testing.assert_array_equal(read_table(tmp_path / f"{name}.csv")[0], scores)


@pytest.mark.parametrize("kind", ["auto", "samples", "density", "history", "trajectories"])
def test_plot(kind: str, tmp_path: Path, folder: Path) -> None:
    out = tmp_path / "figure.png"
    data = [] if kind == "history" else ["--data", folder / "data.csv"]
    assert call("plot", folder / "run", "--out", out, "--kind", kind, *data) == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    assert listing(tmp_path) == ["figure.png"]


def test_names_go_from_the_shell_to_python(folder: Path) -> None:
    model = hf.load(folder / "run")
    frame = pd.DataFrame(TABLE, columns=NAMES)
    torch.testing.assert_close(model.log_prob(frame, particles=4), model.log_prob(TABLE, particles=4))
    with pytest.raises(InputError, match=r"columns \['weight', 'height'\], expected \['height', 'weight'\]"):
        model.log_prob(frame[["weight", "height"]])


def test_names_go_from_python_to_the_shell(tmp_path: Path, folder: Path) -> None:
    fit = {"epochs": 1, "progress": False}
    hf.NHF(2, n_steps=1, width=2).fit(pd.DataFrame(TABLE, columns=NAMES), **fit).save(tmp_path / "named")
    hf.NHF(2, n_steps=1, width=2).fit(TABLE, **fit).save(tmp_path / "nameless")
    for run, names in (("named", NAMES), ("nameless", ["x0", "x1"])):
        assert call("sample", tmp_path / run, "-n", 2, "--out", tmp_path / f"{run}.csv") == 0
        assert read_table(tmp_path / f"{run}.csv")[1] == names
        scores = tmp_path / f"{run}-scores.csv"
        assert call("score", tmp_path / run, folder / "data.csv", "--out", scores, "--particles", 8) == 0
        expected = hf.load(tmp_path / run).log_prob(TABLE, particles=8)
        np.testing.assert_allclose(read_table(scores)[0][:, 0], expected, atol=1e-4)
        assert call("plot", tmp_path / run, "--data", folder / "data.csv", "--out", tmp_path / f"{run}.png") == 0


@pytest.mark.filterwarnings("default")
def test_a_warning_is_one_line_that_names_the_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = np.column_stack([TABLE, TABLE.sum(1)])
    write_table(tmp_path / "data.csv", table, [*NAMES, "sum"])
    assert call("fit", tmp_path / "data.csv", "--out", tmp_path / "run", "-q", *TINY) == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(
        "hamflow: warning: x: columns depend on each other linearly ('height', 'weight', 'sum')"
    )
    assert printed.err.count("\n") == 1


def test_nothing_is_overwritten_unasked(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, file = tmp_path / "run", tmp_path / "kept.csv"
    assert call("fit", folder / "data.csv", "--out", run, "-q", *TINY) == 0
    file.write_text("kept")
    before = {path: path.read_bytes() for path in [*run.iterdir(), file]}
    capsys.readouterr()
    commands = [
        ["fit", folder / "data.csv", "--out", run],
        ["sample", run, "--out", file],
        ["score", run, folder / "data.csv", "--out", file],
        ["plot", run, "--out", file],
    ]
    for command in commands:
        assert call(*command) == 2
        assert "exists; --overwrite replaces it" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in [*run.iterdir(), file]} == before


def test_overwrite_replaces_and_spares_what_lies_beside(tmp_path: Path, folder: Path) -> None:
    run = tmp_path / "run"
    assert call("fit", folder / "data.csv", "--out", run, "-q", *TINY) == 0
    assert call("sample", run, "-n", 4, "--out", run / "samples.csv", "-q") == 0
    assert call("sample", run, "-n", 5, "--out", run / "samples.csv", "-q", "--overwrite") == 0
    assert len(read_table(run / "samples.csv")[0]) == 5
    assert call("fit", folder / "data.csv", "--columns", "weight", "--out", run, "-q", "--overwrite", *TINY) == 0
    assert hf.load(run).columns == ("weight",)
    assert (run / "samples.csv").exists()


def test_a_folder_of_other_things_is_never_a_target(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    assert call("fit", folder / "data.csv", "--out", tmp_path, "--overwrite", "-q", *TINY) == 2
    assert listing(tmp_path) == ["thesis.tex"]


@pytest.mark.parametrize("command", [[], ["fit"], ["sample"], ["score"], ["plot"]])
def test_help(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--help"]) == 0
    assert "Usage: hamflow" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"hamflow {hf.__version__}"


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (hf.FitError("the loss was not finite"), 1, "hamflow: error: the loss was not finite\n"),
        (MemoryError(), 1, "hamflow: error: out of memory\n"),
        (OSError(28, "No space left on device", "run"), 2, "hamflow: error: run: No space left on device\n"),
        (
            KeyboardInterrupt(),
            130,
            "hamflow: error: interrupted; a fit with --checkpoint goes on from there when it is run again\n",
        ),
    ],
)
def test_a_fit_that_breaks_leaves_nothing(
    error: BaseException, code: int, line: str, tmp_path: Path, folder: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def broken(*arguments: object, **settings: object) -> None:
        raise error

    monkeypatch.setattr(hf.NHF, "fit", broken)
    assert call("fit", folder / "data.csv", "--out", tmp_path / "run", *TINY) == code
    assert capsys.readouterr() == ("", line)
    assert not listing(tmp_path)


def test_a_file_that_is_no_checkpoint_is_left_alone(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("not a checkpoint")
    assert (
        call("fit", folder / "data.csv", "--out", tmp_path / "run", "--checkpoint", tmp_path / "notes.txt", "-q") == 2
    )
    assert "notes.txt cannot be read" in capsys.readouterr().err
    assert listing(tmp_path) == ["notes.txt"]
    assert (tmp_path / "notes.txt").read_text() == "not a checkpoint"


def test_as_a_process(tmp_path: Path, folder: Path) -> None:
    command = [sys.executable, "-m", "hamflow"]
    arguments = ["sample", folder / "run", "-n", "3", "--out", tmp_path / "samples.csv"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(read_table(tmp_path / "samples.csv")[0]) == 3
    arguments = ["fit", "none.csv", "--out", tmp_path / "run"]
    failed = subprocess.run([*command, *arguments], capture_output=True, text=True)
    assert (failed.returncode, failed.stdout) == (2, "")
    assert failed.stderr == "hamflow: error: none.csv does not exist\n"
