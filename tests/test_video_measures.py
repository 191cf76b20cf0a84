"""Figures of predicted frames and latent states, in cases whose answer is known."""

import math
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import hamflow as hf
from hamflow.plots import plot_frames, write_gif
from hamflow.videos import (
    Scene,
    energy_spread,
    mean_frame_mse,
    noise_floor,
    pixel_mse,
    render_discs,
    scene_of,
    skill,
    symplectic_match,
    valid_prediction_time,
)

F64 = torch.float64
SPRING = hf.systems.MassSpring(mass=0.5, stiffness=2.0)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def test_the_truth_has_skill_one_and_the_mean_frame_none() -> None:
    videos = hf.videos.film(SPRING, n=30, n_frames=5, size=16)[:]
    mean = mean_frame_mse(videos, videos)
    assert mean == pytest.approx(float(videos.var((0, 1), correction=0).mean()), rel=1e-5)
    assert skill(float(pixel_mse(videos, videos).mean()), 0.0, mean) == 1
    assert skill(float(pixel_mse(videos, videos.mean((0, 1)).expand_as(videos)).mean()), 0.0, mean) == pytest.approx(0)


def test_the_noise_floor_is_what_the_best_prediction_scores() -> None:
    """The mean over many noisy pictures of the same places is that prediction."""
    q, scene = 0.5 * draw(6, 1), scene_of(SPRING)
    look = {"size": 16, "channels": 1}
    floor = noise_floor(scene, q, 0.1, draws=500, **look)
    shaken = render_discs(
        scene.places(q + 0.1 * draw(4000, 6, 1, seed=1)), radius=scene.radius, extent=scene.extent, **look
    )
    assert floor == pytest.approx(float(shaken.var(0).mean()), rel=0.03)
    assert noise_floor(scene, q, 0.2, draws=100, **look) > 1.5 * floor > 0


def test_a_linear_picture_has_a_known_floor() -> None:
    """Brightness in proportion to a place at the rim of a broad disc: its variance is that of the noise."""
    scene = Scene(lambda q: torch.cat((q + 2, 0 * q), -1), radius=2.0, extent=1e-3)
    floor = noise_floor(scene, torch.zeros(1, 1, dtype=F64), 0.01, draws=20000, size=1, channels=1, softness=100.0)
    # Alpha = 1/2 + (r - D) / (s h) with h = 2e-3: a slope of 5 a unit of length.
    assert floor == pytest.approx((5 * 0.01) ** 2, rel=0.03)


def test_the_time_of_valid_predictions() -> None:
    truth = torch.ones(3, 6, 1, 2, 2)
    size = torch.tensor([[0.0] * 6, [0, 0, 0.2, 0, 0, 0.2], [0.2] * 6]).reshape(3, 6, 1, 1, 1)
    assert valid_prediction_time(truth, truth + size).tolist() == [6, 2, 0]
    assert valid_prediction_time(truth, truth + size, threshold=0.05).tolist() == [6, 6, 6]


def test_the_spread_of_an_energy() -> None:
    between = torch.tensor([1.0, 3.0, 5.0], dtype=F64)
    along = 0.1 * torch.tensor([1.0, -1.0], dtype=F64).repeat(50)
    found = energy_spread(between + along.unsqueeze(-1))
    assert found == pytest.approx(0.1 * math.sqrt(100 / 99) / 2)
    assert math.isnan(energy_spread(torch.ones(5, 3)))


@pytest.mark.parametrize("d", [1, 2])
def test_canonical_coordinates_match_and_others_do_not(d: int) -> None:
    states = draw(2000, 2 * d)
    q, p = states.chunk(2, -1)
    # q -> q^3-like shear in p, a scaling of the symplectic form, and a linear canonical map.
    canonical = torch.cat((2 * p + 0.3 * q**2, -3 * q), -1)
    explained, error = symplectic_match(canonical, states)
    assert explained > 0.99 and error < 1e-3
    explained, error = symplectic_match(torch.cat((q, p * (0.5 * q).exp()), -1), states)
    assert error > 0.05
    assert symplectic_match(draw(2000, 2 * d, seed=5), states)[0] < 0.1


def test_wrong_shapes() -> None:
    for call, message in (
        (lambda: pixel_mse(torch.zeros(2, 3, 1, 4, 4), torch.zeros(2, 4, 1, 4, 4)), "expected one shape"),
        (lambda: valid_prediction_time(torch.zeros(3), torch.zeros(3)), "truth has shape"),
        (lambda: skill(1.0, 2.0, 1.0), "mean_frame = 1 and floor = 2"),
        (lambda: energy_spread(torch.zeros(5)), r"energy has shape \(5,\)"),
        (lambda: symplectic_match(torch.zeros(9, 3), torch.zeros(9, 2)), r"\(9, 3\) and \(9, 2\)"),
        (lambda: noise_floor(scene_of(SPRING), torch.zeros(1, 1), 0.1, draws=1), "draws = 1"),
        (lambda: plot_frames({}), "videos is empty"),
        (lambda: plot_frames({"truth": 3.0}), "truth is a float"),
        (lambda: write_gif("film.mp4", torch.rand(3, 1, 4, 4)), "ends in .gif"),
    ):
        with pytest.raises(hf.InputError, match=message):
            call()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_gif_shows_the_videos(channels: int, tmp_path: Path) -> None:
    videos = hf.videos.film(SPRING, n=2, n_frames=7, size=16, channels=channels, noise=0.1)[:]
    write_gif(tmp_path / "film.gif", videos, enlarge=2)
    with Image.open(tmp_path / "film.gif") as image:
        assert image.n_frames == 7 and image.size == (64, 32)
        image.seek(3)
        seen = np.asarray(image.convert("RGB"), dtype=float)[::2, ::2] / 255
    beside = torch.cat((videos[0, 3], videos[1, 3]), -1).expand(3, -1, -1).permute(1, 2, 0)
    assert np.abs(seen - beside.numpy()).mean() < 0.02
    strips = plot_frames({"a": videos[0], "b": videos[1, :4]}, every=2)
    shown = sum(ax.get_visible() for ax in strips.axes)
    plt.close(strips)
    assert shown == 4 + 2


def test_measures_take_what_models_take() -> None:
    levels = torch.randint(256, (2, 3, 1, 4, 4), dtype=torch.uint8)
    frames = levels / 255
    for given in (levels, hf.Videos(levels), frames.numpy()):
        assert float(pixel_mse(given, 0.5 * frames).mean()) == pytest.approx(
            float(pixel_mse(frames, 0.5 * frames).mean())
        )
        assert mean_frame_mse(given, frames) == pytest.approx(mean_frame_mse(frames, frames))
    with pytest.raises(hf.InputError, match="expected frames of one size"):
        mean_frame_mse(frames, frames[..., :1])


def test_no_number_is_no_prediction() -> None:
    truth = torch.ones(1, 4, 1, 2, 2)
    lost = truth.clone()
    lost[:, 2] = float("nan")
    assert valid_prediction_time(truth, lost).tolist() == [2]
    assert valid_prediction_time(0 * truth, 0 * truth).tolist() == [4]
