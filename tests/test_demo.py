"""`make demo` in small: everything it promises is written, and its figures of merit are those of the model it saved."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest

import hamflow as hf
from hamflow.io import read_table

EXPERIMENTS = Path(__file__).parent.parent / "experiments"


def test_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    demo = importlib.import_module("demo")
    # The search over mixtures has tests of its own and takes longest.
    settings = {"components": [1], "floors": [1e-2], "n_init": 1}
    monkeypatch.setattr(importlib.import_module("mixture_peer"), "SETTINGS", settings)
    demo.main(["--quick", "--out", str(tmp_path)])
    assert {path.name for path in tmp_path.iterdir()} == {
        "run", "samples.csv", "scores.csv", "samples.png", "history.png", "trajectories.png", "metrics.json",
    }  # fmt: skip
    samples, names = read_table(tmp_path / "samples.csv")
    assert samples.shape == (1000, 30)
    assert names[0] == "mean radius"
    rows = {row["model"]: row for row in json.loads((tmp_path / "metrics.json").read_text())}
    scores, columns = read_table(tmp_path / "scores.csv")
    assert columns == ["nhf_lower_bound", "gmm"]
    np.testing.assert_allclose(-scores.mean(0), [rows["nhf"]["value"], rows["gmm"]["value"]])
    table = importlib.import_module("datasets").load_table("breast_cancer")
    train, _, test = demo.split_rows(table, 0)
    bound = hf.load(tmp_path / "run").log_prob(test, particles=16, seed=0).double().numpy()
    # Densities of z = x / scale are those of x times the scales.
    np.testing.assert_allclose(scores[:, 0], bound + np.log(train.std(0)).sum(), rtol=1e-4)
    # Both see about the same rows in the same units, and the flow starts as a mixture.
    assert abs(rows["nhf"]["value"] - rows["gmm"]["value"]) < 15
    assert "a lower bound" in capsys.readouterr().out
