"""Loaders of measured motion: the layout of the files everywhere, what they hold where they are."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from hamflow import InputError
from hamflow.systems import (
    Trajectories,
    load_double_pendulum,
    load_experimental_pendulum,
    load_pendulum,
    load_spring,
)

DATA = Path(os.environ.get("HAMFLOW_DATA", "/nonexistent"))
needs_lipson = pytest.mark.skipif(
    not (DATA / "pendulum_lipson").is_dir(), reason="HAMFLOW_DATA names no folder with pendulum_lipson"
)
needs_multiarm = pytest.mark.skipif(
    not (DATA / "pendulum_multiarm").is_dir(), reason="HAMFLOW_DATA names no folder with pendulum_multiarm"
)
LOADERS = [load_pendulum, load_spring, load_double_pendulum, load_experimental_pendulum]


def _write_table(path: Path, header: str, rows: np.ndarray) -> Path:
    np.savetxt(path, rows, fmt="%25.16e", header=header, comments="")
    return path


def test_pendulum_and_spring_are_parsed(tmp_path: Path) -> None:
    rows = np.array([[0.0, 5.0, 1.1, 0.9], [0.0, 5.25, 1.2, 0.7], [0.0, 5.75, 1.3, 0.5]])
    _write_table(tmp_path / "real_pend_h_1.txt", "%o v", rows)
    file = _write_table(tmp_path / "real_linear_h_1.txt", "% x v", rows)
    for data, unit in ((load_pendulum(tmp_path), "rad"), (load_spring(file), "count")):
        assert data.given == ("q", "v")
        assert data.q.dtype == torch.float64
        assert data.times.tolist() == [5.0, 5.25, 5.75]
        assert data.q[0, :, 0].tolist() == [1.1, 1.2, 1.3]
        assert data.v is not None and data.v[0, :, 0].tolist() == [0.9, 0.7, 0.5]
        assert data.metadata["units"] == {"time": "s", "q": unit, "v": f"{unit} / s"}
    assert load_pendulum(tmp_path).periodic == (0,)


def test_trials_of_unequal_length_come_apart(tmp_path: Path) -> None:
    folder = tmp_path / "pendulum_lipson"
    folder.mkdir()
    trial = np.array([0.0, 0, 1, 1, 1])
    time = np.array([0.0, 0.01, 3.0, 3.01, 3.02])
    rest = np.arange(40.0).reshape(5, 8)
    rest[:, 4:6] = rest[:, 2:4]
    _write_table(folder / "real_double_pend_h_1.txt", "% o1 o2 w1 w2", np.column_stack((trial, time, rest)))
    first, second = load_double_pendulum(tmp_path)
    assert (first.n_times, second.n_times, second.metadata["trial"]) == (2, 3, 1)
    assert second.times.tolist() == [3.0, 3.01, 3.02]
    assert first.given == ("q", "v", "v_dot")
    assert torch.cat([first.q[0], first.v[0], first.v_dot[0]], -1).tolist() == rest[:2][:, [0, 1, 2, 3, 6, 7]].tolist()


@pytest.mark.parametrize("arms", [1, 2])
def test_experimental_pendulum_hangs_at_zero(arms: int, tmp_path: Path) -> None:
    states = np.full((7, 2 * arms), np.pi, dtype=np.float32) + np.arange(7, dtype=np.float32)[:, None]
    file = tmp_path / f"{'single' if arms == 1 else 'double'}_id_vad.npz"
    np.savez(file, train=states, val=states[:3], dt=np.array(0.001))
    data = load_experimental_pendulum(file, arms=arms, every=3)
    assert data.q.shape == (1, 3, arms)
    assert data.dt == pytest.approx(0.003)
    assert data.q[0, :, 0].numpy() == pytest.approx([0, 3, 6], abs=1e-6)
    assert data.v is not None and data.v[0, 1, -1].item() == pytest.approx(np.pi + 3, abs=1e-6)
    assert load_experimental_pendulum(tmp_path, "validation", arms=arms).n_times == 3
    np.savez(file, train=states[:, :1], val=states, dt=np.array(0.001))
    with pytest.raises(InputError, match=r"train has shape \(7, 1\), expected \(time,"):
        load_experimental_pendulum(file, arms=arms)


@pytest.mark.parametrize("load", LOADERS)
def test_missing_file_says_where_to_get_it(
    load: Callable[..., Trajectories], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HAMFLOW_DATA", raising=False)
    with pytest.raises(InputError, match=r"HAMFLOW_DATA is not set.*https://"):
        load()
    monkeypatch.setenv("HAMFLOW_DATA", str(tmp_path))
    with pytest.raises(InputError, match=r"holds no pendulum_\w+/\w+\.\w+ \(.*https://"):
        load()
    with pytest.raises(InputError, match="does not exist"):
        load(tmp_path / "nothing.txt")
    (tmp_path / "broken").write_bytes(b"one two\x00")
    with pytest.raises(InputError, match="broken is not a"):
        load(tmp_path / "broken")


def test_bad_tables_are_named(tmp_path: Path) -> None:
    file = tmp_path / "table.txt"
    _write_table(file, "% x v", np.ones((3, 5)))
    with pytest.raises(InputError, match=r"shape \(3, 5\), expected rows of 4 columns"):
        load_spring(file)
    _write_table(file, "% x v", np.array([[0.0, 1, 2, 3], [0, 1, 2, 3]]))
    with pytest.raises(InputError, match=r"table\.txt: times hold a time twice"):
        load_pendulum(file)
    _write_table(file, "% x v", np.array([[0.0, 1, 2, 3], [1, 1, 2, 3]]))
    with pytest.raises(InputError, match="holds 2 trials, expected one"):
        load_pendulum(file)
    with pytest.raises(InputError, match="arms = 3"):
        load_experimental_pendulum(file, arms=3)
    with pytest.raises(InputError, match="segment = 'test'"):
        load_experimental_pendulum(file, "test")


@needs_lipson
def test_real_pendulum_and_spring_obey_their_laws() -> None:
    pendulum, spring = load_pendulum(), load_spring()
    assert (pendulum.n_times, spring.n_times) == (556, 870)
    for data, force, strength in ((pendulum, pendulum.q.sin(), 1.28), (spring, spring.q, 6.1)):
        assert data.v is not None
        acceleration = np.gradient(data.v[0, :, 0].numpy(), data.times.numpy())
        x = force[0, :, 0].numpy()
        assert -(acceleration @ x) / (x @ x) == pytest.approx(strength, rel=0.01)


@needs_lipson
def test_real_double_pendulum_has_two_trials_whose_derivatives_agree() -> None:
    trials = load_double_pendulum()
    assert [trial.n_times for trial in trials] == [819, 701]
    for trial in trials:
        close = trial.times.diff() < 0.011
        for x, rate in ((trial.q, trial.v), (trial.v, trial.v_dot)):
            assert x is not None and rate is not None
            slope = (x[0].diff(dim=0) / trial.times.diff().unsqueeze(-1))[close]
            middle = ((rate[0, 1:] + rate[0, :-1]) / 2)[close]
            assert (slope - middle).square().mean() < 0.05 * middle.square().mean()


@needs_multiarm
def test_experimental_pendulums_swing_about_zero() -> None:
    for arms in (1, 2):
        first, last = (load_experimental_pendulum(segment=s, arms=arms) for s in ("identification", "validation"))
        assert first.n_times + last.n_times == {1: 55_001, 2: 80_001}[arms]
        assert first.v is not None and last.v is not None
        assert (first.q[0, -1] + 1e-3 * first.v[0, -1] - last.q[0, 0]).abs().max() < 2e-3
        assert last.q.mean().abs() < 0.05
        # Friction: the swing of the validation segment is the smaller one.
        assert last.q.abs().max() < 0.5 * first.q.abs().max()
