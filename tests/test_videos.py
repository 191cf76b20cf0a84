"""Videos: what is drawn, what is kept, what is refused."""

import math
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch
from torch import Tensor

import hamflow as hf
from hamflow.videos import film, render_discs, scene_of

F64 = torch.float64
SPRING = hf.systems.MassSpring(mass=0.5, stiffness=2.0)
PENDULUM = hf.systems.Pendulum(mass=0.5, gravity=3.0)
FILMED = {
    "mass_spring": SPRING,
    "pendulum": PENDULUM,
    "double_pendulum": hf.systems.DoublePendulum(),
    "two_body": hf.systems.TwoBody(),
    "three_body": hf.systems.ThreeBody(),
}


def middle(frame: Tensor, extent: float) -> Tensor:
    """The centre of brightness of grey pictures (..., 1, n, n) on black, x and y."""
    n = frame.shape[-1]
    axis = ((torch.arange(n, dtype=frame.dtype) + 0.5) / n * 2 - 1) * extent
    weight = frame[..., 0, :, :] / frame.sum((-3, -2, -1))[..., None, None]
    return torch.stack(((weight * axis).sum((-2, -1)), (weight * axis.flip(0).unsqueeze(-1)).sum((-2, -1))), -1)


def test_a_disc_has_its_area_and_its_place() -> None:
    centres = torch.rand(20, 1, 2, dtype=F64, generator=torch.Generator().manual_seed(0)) - 0.5
    frames = render_discs(centres, radius=0.4, extent=1.0, size=32, channels=1)
    assert frames.shape == (20, 1, 32, 32) and frames.dtype == F64 and frames.min() >= 0 and frames.max() == 1
    area = frames.sum((1, 2, 3)) * (2 / 32) ** 2
    torch.testing.assert_close(area, torch.full_like(area, math.pi * 0.16), rtol=5e-3, atol=0)
    torch.testing.assert_close(middle(frames, 1.0), centres[:, 0], rtol=0, atol=2e-3)


def test_pictures_follow_a_place_smoothly() -> None:
    """A move of a hundredth of a pixel shows, and its gradient is that of the picture."""
    centre = torch.tensor([[0.1, -0.2]], dtype=F64, requires_grad=True)
    still = render_discs(centre, size=16, channels=1)
    assert (render_discs(centre + 0.01 * 3 / 16, size=16, channels=1) - still).abs().max() > 1e-3
    (slope,) = torch.autograd.grad((still * torch.linspace(0, 1, 16, dtype=F64)).sum(), centre)
    assert slope[0, 0] > 0.1 and slope.isfinite().all()
    at_pixel = torch.full((1, 2), 1.5 / 16, dtype=F64, requires_grad=True)
    assert torch.autograd.grad(render_discs(at_pixel, size=16).sum(), at_pixel)[0].isfinite().all()


def test_later_bodies_cover_earlier_ones() -> None:
    frame = render_discs(torch.zeros(2, 2), colours=[[1.0, 0, 0], [0, 1.0, 0]], background=0.5, size=9)
    assert frame[:, 4, 4].tolist() == [0, 1, 0] and frame[:, 0, 0].tolist() == [0.5, 0.5, 0.5]


@pytest.mark.parametrize("name", FILMED)
def test_every_scene_holds_its_bodies(name: str) -> None:
    system = FILMED[name]
    scene = scene_of(system)
    videos = film(system, n=20, n_frames=10, size=16, channels=3)
    assert videos.frames.shape == (20, 10, 3, 16, 16) and 0 <= videos.frames.min() <= videos.frames.max() <= 1
    places = scene.places(videos.states.q)
    assert places.abs().max() + scene.radius < 1.15 * scene.extent
    assert (videos.frames[:, 1:] - videos.frames[:, :-1]).abs().mean() > 1e-3


def test_a_pendulum_hangs_down() -> None:
    scene = scene_of(PENDULUM)
    state = torch.tensor([[math.pi / 2]], dtype=F64), torch.zeros(1, 1, dtype=F64)
    videos = film(PENDULUM, n_frames=2, dt=1e-6, initial=state, dtype=F64)
    torch.testing.assert_close(
        middle(videos.frames[0, 0], scene.extent), torch.tensor([1.0, 0.0], dtype=F64), rtol=0, atol=5e-3
    )


def test_the_same_seed_gives_the_same_film(tmp_path: Path) -> None:
    """In memory and on disk, whatever the noise; and the noise does not change the states."""
    settings: dict[str, Any] = {"n": 7, "n_frames": 5, "size": 12, "noise": 0.1, "seed": 3}
    whole = film(SPRING, **settings)
    kept = film(SPRING, **settings, path=tmp_path / "film.h5")
    assert torch.equal(kept[:], whole.frames) and torch.equal(kept.states.q, whole.states.q) and kept.dt == whole.dt
    assert torch.equal(film(SPRING, **settings | {"noise": 0.0}).states.q, whole.states.q)
    assert not torch.equal(film(SPRING, **settings | {"noise": 0.0}).frames, whole.frames)
    assert not torch.equal(film(SPRING, **settings | {"seed": 4}).frames, whole.frames)


def test_friction_takes_energy() -> None:
    states = film(SPRING, n=3, n_frames=9, dt=0.25, size=8, friction=0.3).states
    # q'' + .3 q' + 4 q = 0: the solution is known.
    t, rate = states.times, math.sqrt(4 - 0.15**2)
    q, v = states.q[:, :1, 0], states.p[:, :1, 0] / 0.5
    exact = torch.exp(-0.15 * t) * (q * torch.cos(rate * t) + (v + 0.15 * q) / rate * torch.sin(rate * t))
    torch.testing.assert_close(states.q[..., 0], exact, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_videos_on_disk(dtype: torch.dtype, tmp_path: Path) -> None:
    videos = film(PENDULUM, n=9, n_frames=4, size=8, dtype=dtype)
    videos.save(tmp_path / "a.h5")
    twin = hf.Videos.load(tmp_path / "a.h5")
    assert twin.frames.dtype == dtype and len(twin) == 9 and twin.size == (8, 8) and twin.channels == 1
    mixed = torch.tensor([5, 0, 5, 8])
    for index in (mixed, torch.tensor([-1, 0]), [3, -2], torch.arange(9) % 2 == 0, 2, -1, slice(3, 6)):
        assert torch.equal(twin[index], videos[index])
    with pytest.raises(IndexError):
        twin[torch.tensor([9])]
    assert twin[mixed].dtype == torch.float32 and torch.equal(
        hf.Videos.load(tmp_path / "a.h5", in_memory=True)[:], videos[:]
    )
    assert torch.equal(twin.states.p, videos.states.p) and twin.metadata == videos.metadata
    assert not list(tmp_path.glob(".*"))


REFUSED = {
    "rank": (torch.rand(4, 5, 8, 8), r"shape \(4, 5, 8, 8\), expected .*one video is frames\[None\]"),
    "channels_last": (torch.rand(2, 4, 8, 8, 3), "channels are last here"),
    "channels": (torch.rand(2, 4, 2, 8, 8), "with 1 or 3 channels$"),
    "range": (255 * torch.rand(2, 4, 1, 8, 8), "divided by 255"),
    "negative": (torch.rand(2, 4, 1, 8, 8) - 0.5, r"expected \[0, 1\]$"),
    "nan": (torch.full((2, 4, 1, 8, 8), math.nan), "holds NaN"),
    "channels_second": (torch.rand(2, 3, 4, 8, 8), "channels are before the times here"),
    "no_channel": (torch.rand(4, 5, 8, 8), r"frames\[:, :, None\]"),
    "mask": (torch.randint(2, (2, 4, 1, 8, 8), dtype=torch.uint8), "masks are given as bool"),
    "dtype": (torch.ones(2, 4, 1, 8, 8, dtype=torch.int64), "dtype torch.int64, expected"),
    "one_frame": (torch.rand(2, 1, 1, 8, 8), "one frame a video"),
    "empty": (torch.rand(0, 4, 1, 8, 8), "at least one video"),
    "lengths": ([torch.rand(4, 1, 8, 8), torch.rand(5, 1, 8, 8)], r"shapes \(4, 1, 8, 8\) and \(5, 1, 8, 8\)"),
    "text": ("film", "frames is a str, expected an array"),
    "names": (["a.mp4", "b.mp4"], "frames is a list, expected an array"),
    "one_with_channels_last": (torch.rand(9, 8, 8, 3), r"frames\[None\].permute\(0, 1, 4, 2, 3\)"),
    "one_grey": (torch.rand(9, 8, 8), r"is frames\[None, :, None\]"),
}


def test_masks_and_arrays_that_run_backwards() -> None:
    mask = torch.rand(2, 4, 1, 8, 8) > 0.5
    torch.testing.assert_close(hf.Videos(mask)[:], mask.float())
    array = torch.rand(2, 4, 1, 8, 8).numpy()
    assert torch.equal(hf.Videos(array[:, ::-1])[:], torch.from_numpy(array).flip(1))
    assert torch.equal(hf.Videos([video[::-1] for video in array])[:], torch.from_numpy(array).flip(1))


def test_what_a_file_cannot_hold_becomes_what_it_can(tmp_path: Path) -> None:
    frames = torch.rand(2, 4, 1, 8, 8, requires_grad=True)
    videos = hf.Videos(frames.bfloat16())
    videos.save(tmp_path / "a.h5")
    assert torch.equal(hf.Videos.load(tmp_path / "a.h5")[:], videos[:])
    assert not hf.Videos(frames)[:].requires_grad
    assert repr(videos) == "Videos((2, 4, 1, 8, 8), torch.float32, dt=1)"
    assert str(tmp_path / "a.h5") in repr(hf.Videos.load(tmp_path / "a.h5"))


def test_a_file_of_something_else(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "own.h5", "w") as file:
        file["frames"] = torch.rand(2, 4, 1, 8, 8).numpy()
    with pytest.raises(hf.InputError, match=r"holds frames, expected what Videos\(frames, dt\).save\(path\) writes"):
        hf.Videos.load(tmp_path / "own.h5")


def test_some_videos_are_drawn_by_a_seed(tmp_path: Path) -> None:
    videos = hf.Videos(torch.rand(20, 3, 1, 4, 4))
    some = videos.some(5, seed=1)
    numbers = [int((videos[:] == one).flatten(1).all(1).nonzero()) for one in some]
    assert numbers == sorted(set(numbers)) and numbers != [0, 1, 2, 3, 4]
    assert torch.equal(videos.some(5, seed=1), some) and not torch.equal(videos.some(5, seed=2), some)
    assert torch.equal(videos.some(99), videos[:])
    assert len(videos.some(10, numbers=150)) == 3 and len(videos.some(10, numbers=1)) == 1
    videos.save(tmp_path / "a.h5")
    assert torch.equal(hf.Videos.load(tmp_path / "a.h5").some(5, seed=1), some)


@pytest.mark.parametrize("case", REFUSED)
def test_what_are_no_videos(case: str) -> None:
    frames, message = REFUSED[case]
    with pytest.raises(hf.InputError, match=message):
        hf.Videos(frames)


def test_wrong_arguments(tmp_path: Path) -> None:
    for call, message in (
        (lambda: film(SPRING, n_frames=1), "n_frames = 1"),
        (lambda: film(SPRING, dtype=torch.int64), "dtype = torch.int64"),
        (lambda: film(SPRING, n=10**9, dtype=torch.bfloat16), "dtype = torch.bfloat16"),
        (lambda: film(SPRING, noise=-1.0), "noise = -1.0"),
        (lambda: film(SPRING, n=10**9, channels=2), "channels = 2"),
        (lambda: film(SPRING, n=10**9, path=tmp_path / "a.mp4"), "suffix '.mp4'"),
        (lambda: film(hf.systems.HenonHeiles()), "system is a HenonHeiles"),
        (lambda: film(SPRING, n=1, n_frames=2, path=tmp_path / "a.mp4"), "suffix '.mp4'"),
        (lambda: render_discs(torch.zeros(2)), r"centres is \(2,\)"),
        (lambda: render_discs(torch.zeros(2, 2), radius=[1.0]), "radius has 1 numbers"),
        (lambda: render_discs(torch.zeros(2, 2), channels=2), "channels = 2"),
        (lambda: render_discs(torch.zeros(1, 2), background=2.0), "background = 2.0"),
        (lambda: hf.Videos.load(tmp_path / "none.h5"), "does not exist"),
        (lambda: hf.Videos(torch.rand(2, 3, 1, 4, 4), dt=0.0), "dt = 0.0"),
        (lambda: hf.Videos(torch.rand(2, 3, 1, 4, 4), states=SPRING.simulate(3, 2)), "states has 3 trajectories"),
    ):
        with pytest.raises(hf.InputError, match=message):
            call()
    (tmp_path / "broken.h5").write_bytes(b"no such thing")
    with pytest.raises(hf.InputError, match="not a whole file of videos"):
        hf.Videos.load(tmp_path / "broken.h5")
