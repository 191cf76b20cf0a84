"""The command line films systems, learns from videos, carries them on and draws them, and names what it cannot do."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

import hamflow as hf
from hamflow.cli import main
from hamflow.videos.storage import FrameFile

TINY = ["--model", "hgn", "--dim", "1", "--width", "2", "--widths", "4", "--epochs", "2", "--quiet"]
SPRING = hf.systems.MassSpring(mass=0.5, stiffness=2.0)
FILM = ["film", "mass_spring", "--size", 8, "--set", "mass=0.5", "--set", "stiffness=2", "-q"]


def call(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with videos of five and of nine frames, and runs fitted to the short ones and to a table."""
    folder = tmp_path_factory.mktemp("videos")
    assert call(*FILM, "--out", folder / "short.h5", "--videos", 6, "--n-frames", 5) == 0
    assert call(*FILM, "--out", folder / "long.npz", "--videos", 3, "--n-frames", 9, "--seed", 1) == 0
    assert call("fit", folder / "short.h5", "--out", folder / "run", *TINY) == 0
    hf.NHF(2, n_steps=1, width=2).save(folder / "flow")
    hf.HNN(1, widths=(4,)).save(folder / "spring")
    return folder


def long_frames(folder: Path) -> torch.Tensor:
    with np.load(folder / "long.npz") as archive:
        return torch.from_numpy(archive["frames"])


def model_of(run: Path) -> hf.HGN:
    model = hf.load(run)
    assert isinstance(model, hf.HGN)
    return model


def same(one: hf.HGN, other: hf.HGN) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def test_film_is_the_python_call(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    look = ["--videos", 2, "--n-frames", 4, "--dt", 0.2, "--channels", 3, "--noise", 0.1]
    settings = {"size": 8, "channels": 3, "noise": 0.1, "seed": 7}
    expected = hf.videos.film(SPRING, 2, 4, 0.2, **settings)
    for suffix in (".h5", ".npz", ".gif"):
        out = tmp_path / f"film{suffix}"
        assert call(*FILM[:-1], "--out", out, "--seed", 7, *look) == 0
        told = f"mass_spring: 2 videos of 4 frames, 8 x 8 pixels in RGB, 0.2 apart: {out}\n"
        assert capsys.readouterr().out == told
    found = hf.Videos.load(tmp_path / "film.h5")
    assert found.dt == 0.2 and found.metadata == expected.metadata and found.states is not None
    assert expected.states is not None
    torch.testing.assert_close(found.states.q, expected.states.q)
    with np.load(tmp_path / "film.npz") as archive:
        assert float(archive["dt"]) == 0.2
        for frames in (found[:], torch.from_numpy(archive["frames"])):
            torch.testing.assert_close(frames, expected[:])
    with Image.open(tmp_path / "film.gif") as image:
        assert image.n_frames == 4 and image.size == (64, 32)
    small = [*FILM, "--out", tmp_path / "small.h5", "--videos", 1, "--n-frames", 2, "--friction", 0.3]
    assert call(*small, "--dtype", "uint8") == 0
    levels = hf.Videos.load(tmp_path / "small.h5")
    assert levels.frames.dtype == torch.uint8 and levels.metadata["friction"] == 0.3


def test_fit_says_what_it_did(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--hamiltonian", "joint", "--frames", 4, "--context", 2, "--frames-per-step", 2, "--objective", "geco"]
    options += ["--tolerance", 0.1, "--beta", 0.5, "--code", 3, "--substeps", 2, "--dtype", "float64", "--seed", 3]
    training = ["--batch-size", 4, "--learning-rate", 0.01, "--validation", 0.4]
    assert call("fit", folder / "short.h5", "--out", tmp_path / "run", *options, *training, *TINY[:-1]) == 0
    printed = capsys.readouterr().out
    assert f"{folder / 'short.h5'}: 6 videos of 5 frames, 8 x 8 pixels in grey, 0.125 apart; " in printed
    assert "validation videos: a loss of " in printed and f"model: {tmp_path / 'run'}" in printed
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["model.json", "weights.safetensors"]
    own = {
        "frames": 4,
        "context": 2,
        "dim": 1,
        "code": 3,
        "hamiltonian": "joint",
        "widths": (4,),
        "width": 2,
        "substeps": 2,
    }
    expected = hf.HGN(size=8, seed=3, **own).fit(
        hf.Videos.load(folder / "short.h5"), frames_per_step=2, objective="geco", tolerance=0.1, beta=0.5,
        dtype=torch.float64, batch_size=4, learning_rate=0.01, validation=0.4, epochs=2, seed=3, progress=False,
    )  # fmt: skip
    found = model_of(tmp_path / "run")
    assert found.config == expected.config and found.dt == 0.125
    assert same(found, expected)


def test_all_kinds_of_files_teach_the_same(tmp_path: Path, folder: Path) -> None:
    frames = hf.Videos.load(folder / "short.h5")[:]
    parts = {"a.h5": frames[:2], "b.npy": frames[2:3], "c.npz": frames[3:4], "d.npz": frames[4:]}
    hf.Videos(parts["a.h5"], dt=0.125).save(tmp_path / "a.h5")
    np.save(tmp_path / "b.npy", parts["b.npy"].numpy().astype(">f4"))
    np.savez(tmp_path / "c.npz", anything=parts["c.npz"].numpy())
    np.savez(tmp_path / "d.npz", frames=parts["d.npz"].numpy(), dt=0.125, other=np.zeros(3))
    files = [tmp_path / name for name in parts]
    # The arrays tell no time, and the others the one that is given.
    assert call("fit", *files, "--out", tmp_path / "run", "--dt", 0.125, *TINY) == 0
    assert same(model_of(tmp_path / "run"), model_of(folder / "run"))


def test_videos_on_disk_stay_there(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each epoch reads batch by batch; what looks at more, looks before the first epoch."""
    sizes: list[int] = []
    read = FrameFile.__getitem__

    def counted(self: FrameFile, index: object) -> torch.Tensor:
        found = read(self, index)
        sizes.append(len(found))
        return found

    monkeypatch.setattr(FrameFile, "__getitem__", counted)
    files = [folder / "short.h5"] * 2
    reads = []
    for epochs in (1, 3):
        sizes.clear()
        training = ["--batch-size", 3, "--validation", 0.5, "--epochs", epochs]
        assert call("fit", *files, "--out", tmp_path / str(epochs), *TINY, *training) == 0
        reads.append((sum(size <= 3 for size in sizes), sum(size > 3 for size in sizes)))
    (few, before), (many, still) = reads
    assert many >= few + 8 and before == still


def test_a_fit_goes_on_from_its_checkpoint(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state, out = tmp_path / "state.pt", tmp_path / "run"
    arguments = ["fit", folder / "short.h5", "--checkpoint", state, *TINY]
    assert call(*arguments, "--out", out) == 0
    assert same(model_of(out), model_of(folder / "run"))
    assert call(*arguments, "--out", out) == 2
    assert "exists; --overwrite replaces it" in capsys.readouterr().err
    assert call(*arguments, "--out", out, "--overwrite") == 0
    assert same(model_of(out), model_of(folder / "run"))
    assert call(*arguments, "--out", tmp_path / "other", "--hamiltonian", "mechanical") == 2
    assert "state.pt" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_forecast_is_the_python_call(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, frames = model_of(folder / "run"), long_frames(folder)
    out = tmp_path / "ahead.h5"
    assert call("forecast", folder / "run", folder / "long.npz", "--out", out, "--seen", 5) == 0
    found, expected = hf.Videos.load(out), model.forecast(frames[:, :5], 4)
    torch.testing.assert_close(found[:], expected)
    assert found.dt == 0.125 and found.metadata == {
        "seen": 5, "dt_scale": 1.0, "backward": False, "refine": 0, "draws": 0,
    }  # fmt: skip
    errors = [float((x - frames[:, 5:]).square().mean()) for x in (expected, frames[:, 4:5])]
    printed = capsys.readouterr().out
    assert f"3 videos, 4 frames after the last of 5, 0.125 apart: {out}" in printed
    assert f"the 4 frames that the file has: {errors[0]:.3g}; of the last" in printed
    assert printed.endswith(f"standing still: {errors[1]:.3g}\n")

    slow = ["--dt-scale", 0.5, "--n-frames", 6, "-n", 2, "--backward", "--refine", 3]
    assert call("forecast", folder / "run", folder / "long.npz", "--out", tmp_path / "past.npz", *slow) == 0
    printed = capsys.readouterr().out
    assert "2 videos, 6 frames before the first of 9, 0.0625 apart" in printed and "squared error" not in printed
    with np.load(tmp_path / "past.npz") as archive:
        past = model.forecast(frames[:2], 6, dt_scale=0.5, backward=True, refine=3)
        torch.testing.assert_close(torch.from_numpy(archive["frames"]), past)
        assert float(archive["dt"]) == 0.0625
    drawn = ["--seen", 5, "-n", 2, "--draws", 4, "--seed", 3, "-q"]
    assert call("forecast", folder / "run", folder / "long.npz", "--out", tmp_path / "mean.h5", *drawn) == 0
    found, expected = hf.Videos.load(tmp_path / "mean.h5"), model.forecast(frames[:2, :5], 4, draws=4, seed=3)
    torch.testing.assert_close(found[:], expected)
    assert call("forecast", folder / "run", folder / "short.h5", "--out", tmp_path / "a.gif", "-q", "-n", 2) == 0
    with Image.open(tmp_path / "a.gif") as image:
        assert image.n_frames == 5 and image.size == (64, 32)
    assert capsys.readouterr().out == ""


def test_a_forecast_in_pieces_is_the_whole(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["forecast", folder / "run", folder / "long.npz", "--seen", 5, "--out"]
    assert call(*arguments, tmp_path / "a.h5") == 0
    whole = capsys.readouterr().out.splitlines()
    monkeypatch.setattr("hamflow.cli.videos._AT_A_TIME", 2)
    assert call(*arguments, tmp_path / "b.h5") == 0
    assert capsys.readouterr().out.splitlines()[1] == whole[1]
    torch.testing.assert_close(hf.Videos.load(tmp_path / "a.h5")[:], hf.Videos.load(tmp_path / "b.h5")[:])


def test_sample_makes_videos_up(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = model_of(folder / "run")
    out = tmp_path / "a.h5"
    assert call("sample", folder / "run", "--out", out, "-n", 3, "--n-frames", 7, "--seed", 5) == 0
    assert capsys.readouterr().out == f"3 videos of 7 frames, 0.125 apart: {out}\n"
    torch.testing.assert_close(hf.Videos.load(out)[:], model.sample(3, 7, seed=5))
    assert call("sample", folder / "run", "--out", tmp_path / "a.gif", "-q") == 0
    with Image.open(tmp_path / "a.gif") as image:
        assert image.n_frames == 5 and image.size == (8 * 32, 32)


def test_a_motion_that_leaves_the_numbers(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = model_of(folder / "run")
    with torch.no_grad():
        for parameter in model.hamiltonian.parameters():
            parameter.mul_(1e20)
    model.save(tmp_path / "wild")
    for command in (["sample", tmp_path / "wild"], ["forecast", tmp_path / "wild", folder / "long.npz"]):
        for suffix in (".h5", ".gif"):
            assert call(*command, "--out", tmp_path / f"a{suffix}", "--n-frames", 9) == 1
            told = capsys.readouterr().err
            assert told.startswith("hamflow: error: the motion of ") and "left the finite numbers" in told
    assert [path.name for path in tmp_path.iterdir()] == ["wild"]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("samples", []),
        ("history", ["--kind", "history"]),
        ("prediction", ["--data", "{folder}/long.npz", "--seen", 5]),
        ("prediction", ["--data", "{folder}/short.h5", "--kind", "prediction", "--seed", 1]),
    ],
)
def test_plot(
    kind: str, options: list[object], tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "figure.png"
    filled = [str(option).format(folder=folder) for option in options]
    assert call("plot", folder / "run", "--out", out, *filled) == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out == f"{kind} of {folder / 'run'}: {out}\n"


def test_joined_videos_are_those_of_their_parts() -> None:
    parts = [hf.Videos(torch.rand(n, 3, 1, 4, 4), dt=0.1) for n in (4, 1, 3)]
    joined, whole = hf.Videos.joined(parts), torch.cat([part[:] for part in parts])
    assert len(joined) == 8 and hf.Videos.joined(parts[:1]) is parts[0]
    more, twice = hf.Videos.joined([joined, parts[0]]), torch.cat((whole, parts[0][:]))
    indices = [slice(None), slice(2, 7), 5, -1, [7, 0, 4, 4], torch.tensor([6, 1]), torch.arange(8) % 3 == 0]
    for index in indices:
        torch.testing.assert_close(joined[index], whole[index], rtol=0, atol=0)
    torch.testing.assert_close(more[:], twice, rtol=0, atol=0)
    with pytest.raises(IndexError):
        joined[8]
    other = hf.Videos(torch.rand(2, 3, 1, 4, 4), dt=0.2)
    for wrong, message in (([*parts, other], "differ in dt, 0.1 and 0.2"), ([], "videos is empty")):
        with pytest.raises(hf.InputError, match=message):
            hf.Videos.joined(wrong)


def test_strips_may_begin_late() -> None:
    video = torch.rand(5, 1, 4, 4)
    figure = hf.plots.plot_frames({"seen": video, "ahead": video}, every=2, start={"ahead": 5})
    drawn = [bool(ax.images) for ax in figure.axes]
    # Frames 0, 2, 4 of the first; frames 6 and 8 of all, which are 1 and 3 of the second.
    assert drawn == [True, True, True, False, False, False, False, False, True, True]
    shown = figure.axes[8].images[0].get_array()
    np.testing.assert_array_equal(shown, (255 * video[1, 0]).round())
    plt.close(figure)
    for start in ({"other": 1}, {"ahead": -1}):
        with pytest.raises(hf.InputError, match="start has"):
            hf.plots.plot_frames({"ahead": video}, start=start)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("film clock --out {new}.h5", "system = 'clock', expected one of 'mass_spring'"),
        ("film henon_heiles --out {new}.h5", "system is a HenonHeiles, expected one that has a scene"),
        ("film pendulum --out {new}.mp4", "suffix '.mp4', expected one of .h5, .hdf5, .npz, .gif"),
        ("film pendulum --out {long}.npz", "exists; --overwrite replaces it"),
        ("film pendulum --out {new}.h5 --set weight=1", "a parameter of pendulum: mass, length, gravity"),
        ("film pendulum --out {new}.h5 --n-frames 1", "Invalid value for '--n-frames'"),
        ("film pendulum --out {new}.h5 --channels 2", "channels = 2"),
        ("fit {long}.npz --out {new} --dim 3", "--dim belongs to --model hgn, and the model is nhf"),
        ("fit {long}.npz --out {new} --model hnn --maps", "--maps belongs to --model hgn, and the model is hnn"),
        ("fit {long}.npz --out {new} --model lnn --dt 1", "--dt belongs to --model hgn, and the model is lnn"),
        ("fit {long}.npz --out {new} --model hgn --friction", "--friction belongs to --model hnn"),
        ("fit {long}.npz --out {new} --model hgn --particles 2", "--particles belongs to --model nhf"),
        ("fit {new}.h5 --out {new} --model hgn", "new.h5 does not exist"),
        ("fit {new}.npz --out {new} --model hgn", "new.npz does not exist"),
        ("fit {new}.csv --out {new} --model hgn", "suffix '.csv', expected one of .h5, .hdf5, .npz, .npy"),
        ("fit {long}.npz --out {new} --model hgn --dt 1", "long.npz says that its frames are 0.125 apart"),
        ("fit {long}.npz --out {new} --model hgn --dt -1", "--dt = -1.0, expected a positive finite number"),
        ("fit {long}.npz --out {new} --model hgn --key q", "holds the arrays frames, expected one of them as --key"),
        ("fit {short}.h5 --out {new} --model hgn --key q", "short.h5 is no NPZ file"),
        ("fit {long}.npz {short}.h5 --out {new} --model hgn", "differ in frames a video, 9 and 5"),
        ("fit {short}.h5 --out {new} --model hgn --hamiltonian dark", "hamiltonian = 'dark', expected one of 'sep"),
        ("fit {short}.h5 --out {new} --model hgn --objective gan", "objective = 'gan', expected one of 'elbo'"),
        ("fit {short}.h5 --out {new} --model hgn --context 9", "context = 9, expected 2 to the 5 frames"),
        ("fit {short}.h5 --out {new} --model hgn --beta -1", "beta = -1.0"),
        ("fit {short}.h5 --out {new} --model hgn --widths wide", "--widths = 'wide'"),
        ("fit {short}.h5 --out {new} --model hgn --device moon", "device"),
        ("fit {short}.h5 --out {run} --model hgn", "exists; --overwrite replaces it"),
        ("forecast {run} {long}.npz --out {new}.csv", "suffix '.csv', expected one of .h5"),
        ("forecast {run} {long}.npz --out {new}.h5 --seen 10", "--seen = 10, expected at most the 9 frames"),
        ("forecast {run} {long}.npz --out {new}.h5 --dt-scale -1", "dt_scale = -1.0"),
        ("forecast {run} {long}.npz --out {long}.npz", "exists; --overwrite replaces it"),
        ("forecast {flow} {long}.npz --out {new}.h5", "holds a density model, expected a model of videos; hamflow sam"),
        ("forecast {spring} {long}.npz --out {new}.h5", "holds a model of dynamics, expected a model of videos; ham"),
        ("sample {run} --out {new}.csv", "suffix '.csv', expected one of .h5"),
        ("sample {flow} --out {new}.csv --n-frames 5", "--n-frames is for models of videos"),
        ("score {run} {long}.npz --out {new}.csv", "holds a model of videos, expected a density model; hamflow fore"),
        ("rollout {run} --out {new}.npz", "holds a model of videos, expected a model of dynamics"),
        ("plot {run} --out {new}.png --kind phase", "expected one of samples, prediction, history"),
        ("plot {run} --out {new}.png --kind prediction", "--data is missing, expected the videos"),
        ("plot {run} --out {new}.png --data {long}.npz --seen 10", "--seen = 10, expected at most the 9 frames"),
        ("plot {flow} --out {new}.png --seen 3", "--seen is for pictures of videos, and"),
        ("plot {spring} --out {new}.png --seen 3", "--seen is for pictures of"),
    ],
)
def test_mistakes_are_named(
    command: str, message: str, tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {name: folder / name for name in ("short", "long", "run", "flow", "spring")}
    before = sorted(folder.rglob("*"))
    assert main(command.format(new=tmp_path / "new", **names).split()) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""
    assert not list(tmp_path.iterdir()) and sorted(folder.rglob("*")) == before


def test_files_that_are_no_videos_are_named(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frames = np.zeros((2, 5, 1, 8, 8), np.float32)
    np.save(tmp_path / "last.npy", frames.transpose(0, 1, 3, 4, 2))
    np.save(tmp_path / "levels.npy", frames + 200)
    np.save(tmp_path / "objects.npy", np.array([{}, 1], dtype=object))
    np.savez(tmp_path / "two.npz", a=frames, b=frames)
    np.savez(tmp_path / "timeless.npz", frames=frames, dt=-1.0)
    np.savez(tmp_path / "faster.npz", frames=frames, dt=0.5)
    np.save(tmp_path / "large.npy", np.zeros((2, 5, 1, 16, 16), np.uint8))
    np.save(tmp_path / "wide.npy", np.zeros((2, 5, 1, 8, 16), np.uint8))
    np.save(tmp_path / "black.npy", frames)
    (tmp_path / "half.npz").write_bytes((folder / "long.npz").read_bytes()[:300])
    (tmp_path / "half.h5").write_bytes((folder / "short.h5").read_bytes()[:300])
    fit, ahead = ("fit", "--model", "hgn", "--epochs", "1", "-q"), ("forecast", folder / "run")
    for command, name, message in (
        (fit, "last.npy", "last.npy has shape (2, 5, 8, 8, 1), expected (n, time, channel, height, width)"),
        (fit, "levels.npy", "levels.npy has values from 200 to 200, expected [0, 1]; frames in [0, 255] are divided"),
        (fit, "objects.npy", "objects.npy is not a whole NumPy file of numbers: arrays of objects are not read"),
        (fit, "two.npz", "two.npz holds the arrays a, b, expected one, or --key"),
        (fit, "timeless.npz", "timeless.npz: dt = -1.0, expected a positive"),
        (fit, "half.npz", "half.npz is not a whole NumPy file"),
        (fit, "half.h5", "half.h5 is not a whole file of videos"),
        (fit, "wide.npy", "wide.npy has frames of 8 x 16 pixels, expected as many rows as columns"),
        (fit, "black.npy", "frames are all alike"),
        (ahead, "faster.npz", "faster.npz has frames 0.5 apart, expected 0.125 as the model in"),
        (ahead, "large.npy", "large.npy has 1 channels of 16 x 16 pixels, expected 1 channels of 8 x 8 pixels as"),
    ):
        assert call(*command, tmp_path / name, "--out", tmp_path / "new.h5") == 2, name
        printed = capsys.readouterr().err
        assert message in printed and printed.count("\n") == 1
        assert not (tmp_path / "new.h5").exists()
    # The right array has a name, and what tells no time is taken to have the model's.
    assert call(*ahead, tmp_path / "two.npz", "--key", "b", "--out", tmp_path / "new.h5", "-q") == 0


@pytest.mark.parametrize("command", ["film", "forecast"])
def test_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert "Usage: hamflow" in capsys.readouterr().out
