"""Videos: ``hamflow film`` draws those of a known system, ``hamflow forecast`` those of a learned energy; their fit."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from hamflow.cli.dynamics import system_of
from hamflow.cli.frames import BESIDE, check_writable_as_videos, is_gif, read_frames, write_frames
from hamflow.cli.options import Key, Overwrite, Quiet, Run, Seed, Seen, Setting
from hamflow.cli.runs import check_places, check_target, read_video_model, report, write_run
from hamflow.errors import InputError, check_choice
from hamflow.models import HGN
from hamflow.systems import SYSTEMS
from hamflow.videos import Videos
from hamflow.videos import film as film_system
from hamflow.videos.storage import SUFFIXES

#: Videos that are carried on at a time.
_AT_A_TIME = 64
#: Videos that a model makes up, and that are filmed, where nobody says how many.
SAMPLES, _FILMED = 8, 100
#: What goes to the fit of a model, and not to the model.
_LEARNING = {"frames_per_step", "growth", "objective", "beta", "tolerance"}


class Colour(StrEnum):
    """The numbers of pixels."""

    uint8 = "uint8"
    float32 = "float32"
    float64 = "float64"


def film(
    system: Annotated[
        str,
        typer.Argument(
            help="A system of bodies in the plane: mass_spring, pendulum, double_pendulum, two_body, ...",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="The videos to write: HDF5, NPZ or GIF.", show_default=False)],
    videos: Annotated[
        int | None,
        typer.Option(min=1, help="How many, from random initial states.", show_default=f"{_FILMED}; GIF: {BESIDE}"),
    ] = None,
    n_frames: Annotated[int, typer.Option(min=2, help="Frames of each.")] = 30,
    dt: Annotated[float, typer.Option(help="The time between two frames.")] = 0.125,
    size: Annotated[int, typer.Option(min=1, help="Pixels a side.")] = 32,
    channels: Annotated[int, typer.Option(help="1 for grey, 3 for RGB.")] = 1,
    noise: Annotated[float, typer.Option(help="The standard deviation of positions before they are drawn.")] = 0.0,
    friction: Annotated[float, typer.Option(help="The rate at which momentum is lost, per unit of time.")] = 0.0,
    dtype: Annotated[
        Colour, typer.Option(help="uint8 takes a quarter of the room, and is exact to half a level of 255.")
    ] = Colour.float32,
    set_: Setting = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Simulate a physical system and draw it as videos."""
    check_target(out, overwrite)
    check_writable_as_videos(out)
    check_choice("system", system, tuple(SYSTEMS))
    on_disk = out.suffix.lower() in SUFFIXES
    found = film_system(
        system_of(system, set_ or []), videos or (BESIDE if is_gif(out) else _FILMED), n_frames, dt, size=size,
        channels=channels, noise=noise, friction=friction, dtype=getattr(torch, dtype.value), seed=seed,
        path=out if on_disk else None, progress=not quiet and sys.stderr.isatty(),
    )  # fmt: skip
    if not on_disk:
        write_frames(out, [torch.as_tensor(found.frames[:])], dt, {})
    if not quiet:
        print(f"{system}: {described(found)}, {dt:g} apart: {out}")


def forecast(
    run: Run,
    videos: Annotated[Path, typer.Argument(help="The frames to go on from: HDF5, NPZ or NPY.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The videos to write: HDF5, NPZ or GIF.", show_default=False)],
    n_frames: Annotated[
        int | None,
        typer.Option(min=2, help="Frames to write.", show_default="the rest of the file, or as many as were seen"),
    ] = None,
    seen: Seen = None,
    n: Annotated[
        int | None,
        typer.Option(
            "-n", "--n", min=1, help="Only the first so many videos.", show_default=f"all; GIF: at most {BESIDE}"
        ),
    ] = None,
    dt_scale: Annotated[float, typer.Option(help="The time between two frames, in units of the learned one.")] = 1.0,
    backward: Annotated[
        bool, typer.Option("--backward", help="Run time backwards from the first frame: the latest comes first.")
    ] = False,
    refine: Annotated[
        int, typer.Option(min=0, help="Steps by which the state of each video is made to explain its frames better.")
    ] = 0,
    draws: Annotated[
        int, typer.Option(min=0, help="Draws of the state from its posterior; the mean of their frames is written.")
    ] = 0,
    seed: Seed = 0,
    key: Key = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Carry videos on by a learned energy, and compare with the rest of the file where there is one."""
    check_target(out, overwrite)
    check_writable_as_videos(out)
    model = read_video_model(run)
    films = read_films(videos, model, run, key)
    shown = films.n_frames if seen is None else check_seen(seen, films, videos)
    rest = films.n_frames - shown
    comparable = not backward and dt_scale == 1.0
    length = n_frames or (rest if comparable and rest > 1 else shown)
    count = min(len(films), n or (BESIDE if is_gif(out) else len(films)))
    errors = _Errors(min(length, rest) if comparable else 0)

    def parts() -> Iterator[Tensor]:
        for start in range(0, count, _AT_A_TIME):
            frames = films[start : min(start + _AT_A_TIME, count)]
            known = frames[:, :shown]
            found = model.forecast(
                known, length, dt_scale=dt_scale, backward=backward, refine=refine, draws=draws, seed=seed
            )
            errors.add(frames[:, shown:], found, frames[:, shown - 1 : shown])
            yield found

    metadata = {"seen": shown, "dt_scale": dt_scale, "backward": backward, "refine": refine, "draws": draws}
    write_frames(out, parts(), model.dt * dt_scale, metadata)
    if not quiet:
        where = "before the first" if backward else "after the last"
        print(f"{count} videos, {length} frames {where} of {shown}, {model.dt * dt_scale:g} apart: {out}")
        errors.report()


def fit_videos(data: list[Path], out: Path, own: dict[str, Any], training: dict[str, Any]) -> None:
    """Fit a model to files of videos and write it; ``own`` are options of the model, of its fit and of reading."""
    reading = {name: own.pop(name, None) for name in ("key", "dt")}
    films = Videos.joined([read_frames(path, **reading)[0] for path in data])
    check_places(out, training)
    height, width = films.size
    if height != width:
        raise InputError(f"{data[0]} has frames of {height} x {width} pixels, expected as many rows as columns")
    learning = {name: own.pop(name) for name in _LEARNING & own.keys()}
    usual = inspect.signature(HGN).parameters["frames"].default
    # More than a video has would be weights for nothing.
    settings = {"frames": min(usual, films.n_frames), "size": height, "channels": films.channels}
    model = HGN(**settings | {"seed": training["seed"]} | own)
    model.fit(films, **learning, **training)
    write_run(model, out)
    if training["progress"]:
        report(model, f"{', '.join(map(str, data))}: {described(films)}, {films.dt:g} apart")
        if model.history.validation:
            best = min([model.history.start, *model.history.validation])
            print(f"validation videos: a loss of {best:.4f} a pixel; they chose the model, so it is optimistic")
        print(f"model: {out}")


def sample_videos(model: HGN, out: Path, n: int, n_frames: int | None, seed: int) -> str:
    """Write videos that a model makes up, and say so."""
    check_writable_as_videos(out)
    length = n_frames or model.config["frames"]
    write_frames(out, [model.sample(n, length, seed=seed)], model.dt, {"seed": seed})
    return f"{n} videos of {length} frames, {model.dt:g} apart: {out}"


def read_films(path: Path, model: HGN, run: Path, key: str | None) -> Videos:
    """The videos in a file, which are like those that the model was fitted to.

    Raises:
        InputError: their size, channels or time between frames is another.
    """
    films, told = read_frames(path, key=key)
    wanted = model.config["channels"], model.config["size"], model.config["size"]
    if tuple(films.frames.shape[2:]) != wanted:
        found, expected = (f"{c} channels of {h} x {w} pixels" for c, h, w in (films.frames.shape[2:], wanted))
        raise InputError(f"{path} has {found}, expected {expected} as the model in {run}")
    if told and not math.isclose(films.dt, model.dt, rel_tol=1e-6):
        raise InputError(f"{path} has frames {films.dt:g} apart, expected {model.dt:g} as the model in {run}")
    return films


def check_seen(seen: int, films: Videos, path: Path) -> int:
    """How many frames the model is shown, or :class:`InputError` where there are not so many."""
    if seen > films.n_frames:
        raise InputError(f"--seen = {seen}, expected at most the {films.n_frames} frames of the videos in {path}")
    return seen


def described(videos: Videos) -> str:
    """A set of videos, in words."""
    height, width = videos.size
    kind = "grey" if videos.channels == 1 else "RGB"
    return f"{len(videos)} videos of {videos.n_frames} frames, {height} x {width} pixels in {kind}"


class _Errors:
    """Mean squared errors a pixel of a forecast and of the last frame seen, over the frames that are known."""

    def __init__(self, frames: int) -> None:
        self.frames, self.count = frames, 0
        self.found = self.still = 0.0

    def add(self, truth: Tensor, found: Tensor, last: Tensor) -> None:
        """A part of the videos."""
        truth = truth[:, : self.frames]
        self.count += truth.numel()
        self.found += float((found[:, : self.frames] - truth).square().sum(dtype=torch.float64))
        self.still += float((last - truth).square().sum(dtype=torch.float64))

    def report(self) -> None:
        """A line, where something is known."""
        if self.count:
            error, still = self.found / self.count, self.still / self.count
            print(
                f"mean squared error a pixel of the {self.frames} frames that the file has: {error:.3g}; of the last "
                f"frame seen, standing still: {still:.3g}"
            )
