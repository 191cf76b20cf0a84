"""Trajectories: what they refuse, how they are cut, and that they come back from disk as they were."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

import hamflow as hf
from hamflow.systems import Trajectories


def some(n: int = 3, n_times: int = 6, d: int = 2, *, own_times: bool = False, **changes: Any) -> Trajectories:
    generator = torch.Generator().manual_seed(0)
    times = 0.5 * torch.arange(n_times).double()
    if own_times:
        times = times + torch.arange(n).double()[:, None]
    arrays = {name: torch.randn(n, n_times, d, generator=generator).double() for name in ("q", "p", "v")}
    metadata = {"system": "test", "units": {"q": "m", "time": "s"}, "periodic": [1], "parameters": {"mass": 0.1}}
    return Trajectories(**{"times": times, **arrays, "metadata": metadata} | changes)


def spoiled(name: str, index: tuple[int, ...], value: float) -> Callable[[], Any]:
    def make() -> Trajectories:
        array = getattr(some(), name).clone()
        array[index] = value
        return some(**{name: array})

    return make


NAN = float("nan")
REFUSALS: dict[str, tuple[Callable[[], Any], str]] = {
    "unsorted": (spoiled("times", (3,), 0.7), "a time before the one in front of it at index 3, expected strictly"),
    "duplicate": (spoiled("times", (4,), 1.5), "a time twice at index 4"),
    "own_unsorted": (
        lambda: some(times=some(own_times=True).times.flip(1)),
        "before the one in front of it at index 1",
    ),
    "nan_time": (spoiled("times", (2,), NAN), "times hold values that are not finite"),
    "gap": (spoiled("q", (1, 4, 0), NAN), "q is not finite at 1 of 18 states, the first in trajectory 1 at index 4"),
    "inf_momentum": (spoiled("p", (2, 0, 1), float("inf")), "p is not finite .* trajectory 2 at index 0"),
    "flat": (lambda: some(q=torch.zeros(6, 2)), r"q has shape \(6, 2\), expected \(n, time, d\)"),
    "empty": (lambda: some(q=torch.zeros(0, 6, 2)), r"expected \(n, time, d\) with at least one of each"),
    "times": (lambda: some(times=torch.arange(5)), r"times has shape \(5,\), expected \(6,\) or \(3, 6\)"),
    "momentum": (lambda: some(p=torch.zeros(3, 6, 1)), r"p has shape \(3, 6, 1\), expected that of q"),
    "complex": (lambda: some(q=torch.zeros(3, 6, 2).cfloat()), "q has dtype torch.complex64"),
    "boolean": (lambda: some(q=torch.zeros(3, 6, 2).bool()), "q has dtype torch.bool"),
    "ragged": (lambda: some(q=[[1.0], [1.0, 2.0]]), "q is a list, expected an array of numbers"),
    "text": (lambda: some(q=np.array([[["a"]]])), "q is a ndarray, expected an array of numbers"),
    "unknown_unit": (lambda: some(metadata={"units": {"energy": "J"}}), r"metadata\['units'\] names energy"),
    "units_list": (lambda: some(metadata={"units": ["m"]}), r"metadata\['units'\] = \['m'\], expected a mapping"),
    "unit_number": (lambda: some(metadata={"units": {"q": 1.0}}), "expected a mapping"),
    "periodic": (
        lambda: some(metadata={"periodic": [2]}),
        r"metadata\['periodic'\] = \[2\], expected indices of the 2",
    ),
    "periodic_name": (lambda: some(metadata={"periodic": "q"}), "expected indices"),
    "misspelt_periodic": (
        lambda: some(metadata={"periodics": [0]}),
        "metadata has 'periodics', .* expected 'periodic'",
    ),
    "misspelt_units": (lambda: some(metadata={"unit": {"q": "m"}}), "metadata has 'unit', .* expected 'units'"),
    "negative_noise": (
        lambda: some(metadata={"noise": -1}),
        r"metadata\['noise'\] = -1, expected a standard deviation",
    ),
    "degrees": (
        lambda: some(metadata={"periodic": [0], "units": {"q": "deg"}}),
        r"metadata\['units'\]\['q'\] = 'deg', but angles \(periodic\) count in rad",
    ),
    "not_json": (lambda: some(metadata={"mass": torch.ones(1)}), "metadata cannot be written as JSON"),
    "missing": (lambda: some().need("v_dot"), "v_dot is missing: the trajectories have q, p, v"),
    "states": (lambda: some(p=None).states, "p is missing"),
    "uneven": (
        lambda: some(times=torch.tensor([0.0, 1, 2, 3, 5, 6])).dt,
        "times are not evenly spaced: gaps from 1 to 2",
    ),
    "one_time": (lambda: some(n_times=1).dt, "there is one time only, expected two or more"),
    "long_window": (lambda: some().windows(7), "length = 7, expected at most the 6 states"),
    "no_window": (lambda: some().windows(0), "length = 0"),
    "stride": (lambda: some().windows(3, stride=0), "stride = 0"),
}


@pytest.mark.parametrize(("call", "message"), REFUSALS.values(), ids=REFUSALS.keys())
def test_bad_arrays_are_named(call: Any, message: str) -> None:
    with pytest.raises(hf.InputError, match=message):
        call()


def test_arrays_become_tensors_of_one_device() -> None:
    data = Trajectories(times=[0, 1], q=np.arange(4).reshape(1, 2, 2), v=torch.zeros(1, 2, 2))
    assert data.q.dtype == data.times.dtype == torch.float64
    assert data.given == ("q", "v") and (len(data), data.n, data.n_times, data.dim) == (1, 1, 2, 2)
    assert data.to(torch.float32).q.dtype == torch.float32


@pytest.mark.parametrize("own_times", [False, True])
def test_rows_and_times_are_cut(own_times: bool) -> None:
    data = some(own_times=own_times)
    times = data.own_times()
    assert torch.equal(data[1].q, data.q[1:2]) and torch.equal(data[-1].q, data.q[2:])
    for rows in (slice(1, None), torch.tensor([2, 0]), torch.tensor([True, False, True])):
        part = data[rows]
        assert torch.equal(part.states, data.states[rows]) and torch.equal(part.own_times(), times[rows])
    middle = data.between(2, 5)
    assert torch.equal(middle.need("v"), data.need("v")[:, 2:5]) and torch.equal(middle.own_times(), times[:, 2:5])
    assert middle.times.ndim == data.times.ndim and middle.metadata == data.metadata and middle.periodic == (1,)
    train, test = data.between(0, 4), data.between(4, None)
    assert torch.equal(torch.cat((train.q, test.q), 1), data.q)
    assert data.dt == middle.dt == 0.5


@pytest.mark.parametrize("own_times", [False, True])
@pytest.mark.parametrize(
    ("length", "stride", "starts"), [(3, 1, [0, 1, 2, 3]), (4, 2, [0, 2]), (6, 1, [0]), (1, 4, [0, 4])]
)
def test_windows(length: int, stride: int, starts: list[int], own_times: bool) -> None:
    data = some(own_times=own_times)
    windows = data.windows(length, stride)
    assert windows.n == 3 * len(starts) and windows.n_times == length
    for k in range(windows.n):
        row, begin = k // len(starts), starts[k % len(starts)]
        assert torch.equal(windows.states[k], data.states[row, begin : begin + length])
        assert torch.equal(windows.own_times()[k], data.own_times()[row, begin : begin + length])


def turning(n_times: int = 60, dt: float = 0.1, *, velocities: bool = True, within: bool = True) -> Trajectories:
    """A pendulum that goes round and round beside an arm's length, its angle within [-pi, pi) or counted on."""
    t = dt * torch.arange(n_times).double()
    q = torch.stack((torch.stack((t, 4 * t + t.sin()), -1), torch.stack((t, -4 * t + 3), -1)))
    v = torch.stack((torch.stack((1 + 0 * t, 4 + t.cos()), -1), torch.stack((1 + 0 * t, -4 + 0 * t), -1)))
    if within:
        q[..., 1] = (q[..., 1] + np.pi) % (2 * np.pi) - np.pi
    return Trajectories(times=t, q=q, v=v if velocities else None, metadata={"periodic": [1]})


@pytest.mark.parametrize("velocities", [False, True])
def test_angles_are_counted_on(velocities: bool) -> None:
    data, expected = turning(velocities=velocities), turning(within=False)
    found = data.unwrapped()
    # The first angle says which turn is meant.
    whole = (expected.q[:, :1] - found.q[:, :1]) / (2 * np.pi)
    assert (whole - whole.round()).abs().max() < 1e-12
    torch.testing.assert_close(found.q - found.q[:, :1], expected.q - expected.q[:, :1], rtol=0, atol=1e-12)
    for counted in (found, expected):
        assert counted.unwrapped() is counted
    assert torch.equal(data.replace(metadata={}).unwrapped().q, data.q)


def test_velocities_tell_which_way_an_angle_went() -> None:
    """At 0.75 units of time the angle moves by up to 3.75, more than half a turn."""
    expected = turning(dt=0.75, within=False).q
    found = turning(dt=0.75).unwrapped().q
    torch.testing.assert_close(found - found[:, :1], expected - expected[:, :1], rtol=0, atol=1e-12)
    assert torch.equal(turning(dt=0.75, within=False).unwrapped().q, expected)
    with pytest.raises(hf.InputError, match="trajectory 0 coordinate 1 moves by nearly half a turn from index 0 to 1"):
        turning(dt=0.75, velocities=False).unwrapped()


def test_replace_checks_again() -> None:
    assert some().replace(p=None).given == ("q", "v")
    with pytest.raises(hf.InputError, match="p has shape"):
        some().replace(p=torch.zeros(1, 6, 2))


def same(found: Trajectories, expected: Trajectories) -> None:
    assert found.given == expected.given and found.metadata == expected.metadata
    for name in ("times", *expected.given):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name


@pytest.mark.parametrize("suffix", [".npz", ".h5", ".hdf5", ".csv"])
@pytest.mark.parametrize("own_times", [False, True])
def test_files_bring_everything_back(suffix: str, own_times: bool, tmp_path: Path) -> None:
    data = some(own_times=own_times, d=11)
    data.save(tmp_path / f"data{suffix}")
    same(Trajectories.load(tmp_path / f"data{suffix}"), data)
    assert [path.name for path in tmp_path.iterdir()] == [f"data{suffix}"], "a temporary file is left"


@pytest.mark.parametrize("suffix", [".npz", ".h5", ".csv"])
def test_simulations_go_to_disk(suffix: str, tmp_path: Path) -> None:
    data = hf.systems.DoublePendulum().simulate(2, 3, derivatives=True, noise=0.1)
    data.save(tmp_path / f"data{suffix}")
    same(Trajectories.load(tmp_path / f"data{suffix}"), data)


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_binary_files_keep_float32(suffix: str, tmp_path: Path) -> None:
    data = some().to(torch.float32)
    data.save(tmp_path / f"data{suffix}")
    same(Trajectories.load(tmp_path / f"data{suffix}"), data)


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_table_of_someone_else(tmp_path: Path) -> None:
    """No metadata, no trajectory column or trajectories in turns, columns in any order."""
    path = write(tmp_path / "a.csv", "time,v0,q0\n0,3,1\n1,4,2\n")
    data = Trajectories.load(path)
    assert data.given == ("q", "v") and data.times.tolist() == [0, 1] and data.need("v").flatten().tolist() == [3, 4]
    path = write(tmp_path / "b.csv", "trajectory,time,q0\n7,0,1\n3,0,5\n7,1,2\n3,2,6\n")
    data = Trajectories.load(path)
    assert data.q[..., 0].tolist() == [[5, 6], [1, 2]] and data.times.tolist() == [[0, 2], [0, 1]]


@pytest.mark.parametrize("suffix", [".npz", ".h5", ".csv"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_truncated_files(suffix: str, share: float, tmp_path: Path) -> None:
    path = tmp_path / f"data{suffix}"
    some(n=20, n_times=100).save(path)
    content = path.read_bytes()
    # A table that ends with a whole line would be a shorter table.
    path.write_bytes(content[: int(share * len(content))].rstrip(b"\n0123456789"))
    with pytest.raises(hf.InputError, match=rf"data\{suffix}"):
        Trajectories.load(path)


class Trap:
    """Unpickling it would leave a trace."""

    def __reduce__(self) -> Any:
        return print, ("executed",)


def test_objects_are_refused_and_not_executed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, times=np.arange(2.0), q=np.array([[[Trap()], [Trap()]]], dtype=object))
    with pytest.raises(hf.InputError, match="not a whole NPZ file of numbers"):
        Trajectories.load(path)
    assert "executed" not in capsys.readouterr().out


def npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def hdf5(path: Path, **arrays: Any) -> Path:
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return path


def attributed(path: Path, place: str, name: str, value: Any) -> Path:
    hdf5(path, times=T, q=Q)
    with h5py.File(path, "a") as file:
        file[place].attrs["made by"] = "someone else"
        file[place].attrs[name] = value
    return path


T, Q = np.arange(2.0), np.zeros((1, 2, 1))
BAD_FILES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda d: d / "none.npz", "none.npz does not exist"),
    "folder": (lambda d: (d / "x.npz").mkdir() or d / "x.npz", "is a folder"),  # type: ignore[func-returns-value]
    "suffix": (lambda d: write(d / "x.json", "{}"), r"suffix '.json', expected one of .npz, .h5, .hdf5, .csv"),
    "no_q": (lambda d: npz(d / "x.npz", times=T), "holds times, expected also q"),
    "hdf5_no_times": (lambda d: hdf5(d / "x.h5", q=Q), "holds q, expected also times"),
    "hdf5_group": (lambda d: hdf5(d / "x.h5", times=T, **{"q/a": Q}), "x.h5"),
    "text_array": (lambda d: npz(d / "x.npz", times=T, q=np.array([[["a"], ["b"]]])), "q has dtype <U1"),
    "metadata": (lambda d: npz(d / "x.npz", times=T, q=Q, metadata="{"), "the metadata is not JSON"),
    "metadata_list": (lambda d: npz(d / "x.npz", times=T, q=Q, metadata="[]"), "the metadata is a list"),
    "units": (
        lambda d: npz(d / "x.npz", times=T, q=Q, metadata=json.dumps({"units": {"x": "m"}})),
        "x.npz: .* names x",
    ),
    "unsorted": (lambda d: npz(d / "x.npz", times=T[::-1], q=Q), "x.npz: times hold a time before"),
    "gap": (lambda d: npz(d / "x.npz", times=T, q=Q * np.nan), "x.npz: q is not finite at 2 of 2 states"),
    "not_a_zip": (lambda d: write(d / "x.npz", "hello"), "not a whole NPZ file"),
    "not_hdf5": (lambda d: write(d / "x.h5", "hello"), "not a whole HDF5 file"),
    "no_time": (lambda d: write(d / "x.csv", "t,q0\n0,1\n"), "columns t, q0, expected time, q0, q1"),
    "skipped": (lambda d: write(d / "x.csv", "time,q0,q2\n0,1,2\n"), "2 columns q0, q1, ..., but q1 is missing"),
    "unknown": (
        lambda d: write(d / "x.csv", "time,q0,velocity0\n0,1,2\n"),
        "columns called velocity0, expected some of",
    ),
    "unknown_npz": (
        lambda d: npz(d / "x.npz", times=T, q=Q, velocity=Q),
        "x.npz has arrays called velocity, expected some of times",
    ),
    "hdf5_attribute": (
        lambda d: attributed(d / "x.h5", "q", "units", "deg"),
        "/q has an attribute 'units', expected it",
    ),
    "hdf5_file_attribute": (lambda d: attributed(d / "x.h5", "/", "periodic", [0]), "/ has an attribute 'periodic'"),
    "unknown_hdf5": (lambda d: hdf5(d / "x.h5", times=T, q=Q, velocity=Q), "arrays called velocity"),
    "uneven": (lambda d: write(d / "x.csv", "trajectory,time,q0\n0,0,1\n0,1,1\n1,0,1\n"), "of 1 to 2 states"),
    "words": (lambda d: write(d / "x.csv", "time,q0\n0,one\n"), "x.csv"),
    "csv_gap": (lambda d: write(d / "x.csv", "time,q0\n0,1\n1,\n"), "x.csv"),
    "csv_metadata": (lambda d: write(d / "x.csv", "# units: m\ntime,q0\n0,1\n"), "the metadata is not JSON"),
}


@pytest.mark.parametrize(("make", "message"), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_bad_files_are_named(make: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(hf.InputError, match=message):
        Trajectories.load(make(tmp_path))


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(hf.InputError, match=r"suffix '.txt'"):
        some().save(tmp_path / "x.txt")
    (tmp_path / "nowhere").write_text("a file")
    with pytest.raises(hf.InputError, match="nowhere"):
        some().save(tmp_path / "nowhere" / "x.npz")


@pytest.mark.parametrize("dtype", [">f8", ">f4", "<f4", "longdouble", ">i4", "u2", "f2"])
def test_numbers_of_other_machines(dtype: str, tmp_path: Path) -> None:
    """Foreign byte orders, long double, whole numbers and reversed views are what they say."""
    values = np.arange(6).reshape(1, 3, 2).astype(dtype)
    expected = {">f4": torch.float32, "<f4": torch.float32, "f2": torch.float16}.get(dtype, torch.float64)
    times = np.arange(3).astype(dtype)
    for data in (
        Trajectories.load(npz(tmp_path / "x.npz", times=times, q=values)),
        Trajectories.load(hdf5(tmp_path / "x.h5", times=times, q=values)),
        Trajectories(times=times, q=values[:, ::-1].copy()[:, ::-1]),
    ):
        assert data.q.dtype == data.times.dtype == expected
        assert data.q.flatten().tolist() == [0, 1, 2, 3, 4, 5] and data.times.tolist() == [0, 1, 2]


def test_a_loop_over_trajectories_ends() -> None:
    data = some()
    assert [torch.equal(part.q[0], row) for part, row in zip(data, data.q, strict=True)] == [True] * 3
    assert torch.equal(data[np.int64(1)].q, data.q[1:2]) and torch.equal(data[-3].q, data.q[:1])
    for index in (3, -4):
        with pytest.raises(IndexError):
            data[index]
