"""Bad input, through Python and through the shell: one clear error, nothing overwritten, nothing half-written."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import hamflow as hf
from hamflow.cli import main
from hamflow.io import write_table

GOOD = np.random.default_rng(0).normal(size=(40, 2))
TINY = ["--epochs", "1", "--n-steps", "2", "--width", "4", "--particles", "2", "-q"]
FEW: dict[str, Any] = {"epochs": 1, "progress": False}


def spoiled(row: int, column: int, value: float) -> np.ndarray:
    table = GOOD.copy()
    table[row, column] = value
    return table


def tiny(dim: int = 2) -> hf.NHF:
    return hf.NHF(dim, n_steps=2, width=4, particles=2)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fitted run."""
    folder = tmp_path_factory.mktemp("bad")
    write_table(folder / "good.csv", GOOD, ["a", "b"])
    assert main(["fit", str(folder / "good.csv"), "--out", str(folder / "run"), *TINY]) == 0
    return folder / "run"


# Tables that no density can be fitted to, through Python.

BAD_TABLES: dict[str, tuple[Any, str]] = {
    "one dimension": (GOOD[:, 0], r"x has shape \(40,\), expected \(n, 2\)"),
    "three dimensions": (GOOD.reshape(4, 10, 2), r"x has shape \(4, 10, 2\), expected \(n, 2\)"),
    "too many columns": (np.ones((40, 3)), r"x has shape \(40, 3\), expected \(n, 2\)"),
    "NaN": (spoiled(7, 1, np.nan), "x has 1 NaN or infinite entries, the first in row 7, column 1"),
    "infinity": (spoiled(0, 0, -np.inf), "x has 1 NaN or infinite entries, the first in row 0, column 0"),
    "strings": (np.array([["1", "red"], ["2", "blue"]]), "x has dtype <U4, expected real numbers"),
    "mixed objects": (pd.DataFrame({"a": [1.0, 2.0], "b": ["x", "y"]}), "x holds entries that are not numbers"),
    "complex": (GOOD + 1j, "x has dtype complex128, expected real numbers"),
    "ragged": ([[1.0, 2.0], [3.0]], "x is ragged"),
    "empty": (GOOD[:0], r"x has shape \(0, 2\), expected at least one row"),
    "one row": (GOOD[:1], "x has 1 row, expected at least 2 rows"),
    "constant column": (
        np.column_stack([GOOD[:, 0], np.full(40, 3.0)]),
        "x has constant columns, expected every column to vary: 1",
    ),
    "as many columns as rows": (GOOD[:2], "x has 2 rows and 2 columns, expected more rows than columns"),
    "overflow in float32": (GOOD * 1e300, r"x has entries beyond the range of torch\.float32"),
}


BAD_TENSORS: dict[str, tuple[Any, str]] = {
    "one dimension": (torch.ones(40), r"x has shape \(40,\), expected \(n, 2\)"),
    "NaN": (torch.as_tensor(spoiled(7, 1, np.nan)), "the first in row 7, column 1"),
    "complex": (torch.as_tensor(GOOD + 1j), "x has dtype torch.complex128"),
    "empty": (torch.ones(0, 2), "expected at least one row"),
    "one row": (torch.ones(1, 2), "x has 1 row, expected at least 2 rows"),
    "constant integers": (
        torch.ones(9, 2, dtype=torch.int64),
        "x has constant columns, expected every column to vary: 0, 1",
    ),
}


@pytest.mark.parametrize(
    ("table", "message"),
    [pytest.param(*case, id=name) for name, case in BAD_TABLES.items()]
    + [pytest.param(*case, id=f"tensor: {name}") for name, case in BAD_TENSORS.items()],
)
def test_fit_names_what_is_wrong(table: Any, message: str) -> None:
    model = tiny()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(hf.InputError, match=message) as caught:
        model.fit(table, **FEW)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, ValueError)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_more_columns_than_rows() -> None:
    with pytest.raises(hf.InputError, match="x has 5 rows and 9 columns, expected more rows than columns"):
        tiny(9).fit(np.random.default_rng(0).normal(size=(5, 9)), **FEW)


def test_one_column_is_no_error() -> None:
    table = GOOD[:, :1]
    model = tiny(1).fit(table, **FEW)
    assert model.sample(3, seed=0).shape == (3, 1)
    assert torch.isfinite(model.log_prob(table, particles=4)).all()


@pytest.mark.parametrize("method", ["log_prob", "elbo", "certificate"])
@pytest.mark.parametrize(
    ("table", "message"),
    [
        (GOOD[:, :1], r"x has shape \(40, 1\), expected \(n, 2\)"),
        (spoiled(3, 0, np.nan), "row 3, column 0"),
        (GOOD[:0], "at least one row"),
        ("a table", "x "),
    ],
)
def test_scoring_names_what_is_wrong(method: str, table: Any, message: str) -> None:
    with pytest.raises(hf.InputError, match=message):
        getattr(tiny(), method)(table)


@pytest.mark.parametrize(
    ("action", "name"),
    [
        (lambda m: hf.NHF(0), "dim = 0"),
        (lambda m: hf.NHF(2.5), "dim = 2.5"),
        (lambda m: hf.NHF(2, n_steps=0), "n_steps = 0"),
        (lambda m: hf.NHF(2, width=-1), "width = -1"),
        (lambda m: hf.NHF(2, particles=0), "particles = 0"),
        (lambda m: hf.NHF(2, components=0), "components = 0"),
        (lambda m: hf.NHF(2, scheme="euler"), "scheme = 'euler'"),
        (lambda m: hf.NHF(2, encoder="big"), "encoder = 'big'"),
        (lambda m: hf.NHF(2, whiten="yes"), "whiten = 'yes'"),
        (lambda m: hf.NHF(2, lift="glow"), "lift = 'glow'"),
        (lambda m: hf.NHF(1, lift="spline"), "dim = 1"),
        (lambda m: hf.NHF(2, sleep=-1.0), "sleep = -1"),
        (lambda m: m.fit(GOOD, **FEW | {"epochs": 0}), "epochs = 0"),
        (lambda m: m.fit(GOOD, **FEW, batch_size=0), "batch_size = 0"),
        (lambda m: m.fit(GOOD, **FEW, learning_rate=float("nan")), "learning_rate = nan"),
        (lambda m: m.fit(GOOD, **FEW, validation=1.0), "validation = 1.0"),
        (lambda m: m.fit(GOOD, **FEW, validation=GOOD[:, :1]), r"validation has shape \(40, 1\)"),
        (lambda m: m.fit(GOOD, **FEW, patience=0), "patience = 0"),
        (lambda m: m.fit(GOOD, **FEW, schedule="none"), "schedule = 'none'"),
        (lambda m: m.fit(GOOD, **FEW, dtype=torch.float16), "dtype = torch.float16"),
        (lambda m: m.sample(0), "n = 0"),
        (lambda m: m.sample(5, batch_size=0), "batch_size = 0"),
        (lambda m: m.log_prob(GOOD, particles=0), "particles = 0"),
        (lambda m: m.log_joint(GOOD, GOOD[:3]), r"p has shape \(3, 2\)"),
    ],
)
def test_settings_are_named(action: Callable[[hf.NHF], Any], name: str) -> None:
    with pytest.raises(hf.InputError, match=name):
        action(tiny())


# Saved models.


def damage_version(run: Path) -> None:
    content = json.loads((run / "model.json").read_text())
    (run / "model.json").write_text(json.dumps(content | {"format": 999}))


def damage_kind(run: Path) -> None:
    content = json.loads((run / "model.json").read_text())
    (run / "model.json").write_text(json.dumps(content | {"model": "Other"}))


def damage_config(run: Path) -> None:
    content = json.loads((run / "model.json").read_text())
    content["config"]["colour"] = "red"
    (run / "model.json").write_text(json.dumps(content))


def cut(name: str, share: float) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        content = (run / name).read_bytes()
        (run / name).write_bytes(content[: int(share * len(content))])

    return damage


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "another version": (damage_version, "999"),
    "another kind": (damage_kind, "Other"),
    "another setting": (damage_config, "does not fit this version"),
    "truncated weights": (cut("weights.safetensors", 0.7), "damaged"),
    "empty weights": (cut("weights.safetensors", 0.0), "damaged"),
    "truncated description": (cut("model.json", 0.5), "damaged"),
    "no weights": (lambda run: (run / "weights.safetensors").unlink(), "weights.safetensors"),
    "no description": (lambda run: (run / "model.json").unlink(), "model.json"),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_damaged_model(case: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage, message = DAMAGES[case]
    copy = tmp_path / "run"
    copy.mkdir()
    for file in run.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    damage(copy)
    with pytest.raises(hf.CheckpointError, match=message) as caught:
        hf.load(copy)
    assert "\n" not in str(caught.value)
    for arguments in (["sample"], ["score", str(run.parent / "good.csv")]):
        command = [arguments[0], str(copy), *arguments[1:], "--out", str(tmp_path / "out.csv")]
        one_line_error(command, message, tmp_path, capsys)


def test_missing_model(tmp_path: Path) -> None:
    with pytest.raises(hf.CheckpointError, match="nowhere"):
        hf.load(tmp_path / "nowhere")


# The shell.


def one_line_error(command: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command fails with one line that holds the message, and leaves the folder as it was."""
    before = {path: path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}
    capsys.readouterr()
    assert main(command) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("hamflow: error: ")
    assert printed.err.count("\n") == 1
    assert message in printed.err
    assert {path: path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")} == before


def text_of(table: np.ndarray) -> str:
    return pd.DataFrame(table, columns=[f"c{i}" for i in range(table.shape[1])]).to_csv(index=False)


BAD_FILES: dict[str, tuple[str, str]] = {
    "NaN": (text_of(spoiled(7, 1, np.nan)), "column 'c1' has 1 missing or infinite entries"),
    "infinity": (text_of(spoiled(7, 1, np.inf)), "column 'c1' has 1 missing or infinite entries"),
    "strings": ("a,b\n1,red\n2,blue\n", "column 'b' holds text"),
    "empty": ("", "data.csv is empty"),
    "header only": ("a,b\n", "0 rows"),
    "one row": ("a,b\n1,2\n", "has 1 row, expected at least 2 rows"),
    "constant column": ("a,b\n1,2\n2,2\n3,2\n", "expected every column to vary: 'b'"),
    "more columns than rows": ("a,b,c\n1,2,5\n2,3,4\n", "has 2 rows and 3 columns, expected more rows"),
    "truncated": ("a,b\n1,2\n2,3\n3", "column 'b' has 1 missing"),
    "ragged": ("a,b\n1,2\n2,3,4\n", "as many cells in every row"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_fit_from_the_shell(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, message = BAD_FILES[case]
    (tmp_path / "data.csv").write_text(text)
    command = ["fit", str(tmp_path / "data.csv"), "--out", str(tmp_path / "run"), *TINY]
    one_line_error(command, message, tmp_path, capsys)


def test_truncated_binary_from_the_shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "data.npy"
    np.save(path, GOOD)
    path.write_bytes(path.read_bytes()[:-9])
    one_line_error(["fit", str(path), "--out", str(tmp_path / "run"), *TINY], "is not a whole", tmp_path, capsys)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--columns", "a,z"], "no column 'z'"),
        (["--key", "x"], "is no NPZ file"),
        (["--epochs", "0"], "--epochs"),
        (["--epochs", "many"], "--epochs"),
        (["--learning-rate", "0"], "learning_rate = 0.0"),
        (["--validation", "2"], "validation = 2.0"),
        (["--seed", "-1"], "--seed"),
        (["--dtype", "float16"], "--dtype"),
        (["--device", "abacus"], "device = 'abacus'"),
        (["--device", "meta"], "device = 'meta'"),
        (["--colour", "red"], "--colour"),
    ],
)
def test_fit_options(
    options: list[str], message: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["fit", str(run.parent / "good.csv"), "--out", str(tmp_path / "run"), *TINY, *options]
    one_line_error(command, message, tmp_path, capsys)


def test_other_commands(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, out = str(run.parent / "good.csv"), str(tmp_path / "out.csv")
    (tmp_path / "one.csv").write_text("a\n1\n2\n")
    (tmp_path / "one.npy").write_bytes(b"junk")
    (tmp_path / "folder.csv").mkdir()
    cases: list[tuple[list[str], str]] = [
        ([], "Missing command"),
        (["train"], "train"),
        (["fit", good], "--out"),
        (["fit", str(tmp_path / "none.csv"), "--out", out], "none.csv does not exist"),
        (["fit", str(tmp_path / "folder.csv"), "--out", out], "is a folder"),
        (["fit", "data.xlsx", "--out", out], "suffix '.xlsx'"),
        (["fit", good, "--out", good], "is a file, expected a folder"),
        (["sample", str(tmp_path / "none"), "--out", out], "none is not there"),
        (["sample", good, "--out", out], "is a file, expected a folder"),
        (["sample", str(tmp_path), "--out", out], "model.json"),
        (["sample", str(run), "--out", "samples"], "suffix ''"),
        (["sample", str(run), "-n", "0", "--out", out], "-n"),
        (["sample", str(run), "--out", str(tmp_path / "one.csv" / "s.csv")], "cannot be written"),
        (["score", str(run), str(tmp_path / "one.csv"), "--out", out], "no column 'b'"),
        (["score", str(run), str(tmp_path / "one.npy"), "--out", out], "is not a whole NumPy file"),
        (["score", str(run), good, "--out", out, "--particles", "0"], "--particles"),
        (["plot", str(run), "--out", str(tmp_path / "figure.docx")], "suffix '.docx'"),
        (["plot", str(run), "--out", str(tmp_path / "f.png"), "--kind", "pie"], "--kind"),
        (["plot", str(run), "--out", str(tmp_path / "f.png"), "--data", out], "out.csv does not exist"),
    ]
    for command, message in cases:
        one_line_error(command, message, tmp_path, capsys)


def test_density_of_many_columns_from_the_shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny(3).fit(np.random.default_rng(0).normal(size=(30, 3)), **FEW).save(tmp_path / "run")
    command = ["plot", str(tmp_path / "run"), "--kind", "density", "--out", str(tmp_path / "f.png")]
    one_line_error(command, "dim = 3, expected 2", tmp_path, capsys)
