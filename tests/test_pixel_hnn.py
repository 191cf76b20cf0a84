"""Hamiltonian Neural Networks of pictures: what they learn, that time runs both ways, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import hamflow as hf
from hamflow.models.pixel_objective import PixelObjective
from hamflow.models.pixel_units import start
from hamflow.videos import film, mean_frame_mse, pixel_mse, skill, symplectic_match

SPRING = hf.systems.MassSpring(mass=0.5, stiffness=2.0)
SMALL: dict[str, Any] = {"size": 8, "width": 16, "widths": (8,)}


def small(**changes: Any) -> hf.PixelHNN:
    return hf.PixelHNN(**SMALL | changes)


def springs(n: int = 12, n_frames: int = 8, **settings: Any) -> hf.Videos:
    return film(SPRING, n=n, n_frames=n_frames, **{"size": 8} | settings)


def fitted(**changes: Any) -> hf.PixelHNN:
    return small(**changes).fit(springs(), epochs=2, progress=False)


def objective(model: hf.PixelHNN, videos: hf.Videos, relative: bool = False) -> PixelObjective:
    settings: dict[str, Any] = {"canonical": 1.0, "dynamics": 0.1, "frames_per_step": None}
    return PixelObjective(model, videos, relative=relative, **settings).eval()


def test_it_learns_a_spring() -> None:
    train, test = springs(60, 16), springs(200, 32, seed=1)
    model = hf.PixelHNN(size=8, width=64, widths=(32,))
    model.fit(train, epochs=250, batch_size=10, learning_rate=5e-3, progress=False)
    x = test[:]
    worst = mean_frame_mse(train[:], x)
    ahead, behind = model.forecast(x[:, :4], 28), model.forecast(x[:, 28:], 28, backward=True).flip(1)
    for found, truth in ((ahead, x[:, 4:]), (behind, x[:, :28])):
        assert skill(float(pixel_mse(truth, found).mean()), 0.0, worst) > 0.7
    assert test.states is not None
    latent = torch.cat(model.encode(x), -1)
    explained, error = symplectic_match(latent, test.states.states[:, 0])
    assert explained > 0.95 and error < 0.05
    # The learned energy ranks the motions as the true one does, up to its sign.
    energy = model.energy(*latent.chunk(2, -1)).detach().double()
    true = SPRING(test.states.q[:, 0], test.states.need("p")[:, 0])
    assert abs(float(torch.corrcoef(torch.stack((energy, true)))[0, 1])) > 0.95


def test_the_start_has_the_size_of_the_data() -> None:
    """Positions of variance one, momenta of the size of their changes, an energy that makes positions swing."""
    x = springs(50, 16)[:]
    for kind in ("joint", "separable"):
        model = small(dim=2, hamiltonian=kind)
        start(model, x)
        with torch.no_grad():
            q, p = model.states(x).chunk(2, -1)
        torch.testing.assert_close(q.flatten(0, 1).std(0), torch.ones(2), rtol=0, atol=1e-3)
        change = (q[:, 1:] - q[:, :-1]).square().mean((0, 1)).sqrt()
        torch.testing.assert_close(p.flatten(0, 1).std(0), change, rtol=1e-3, atol=0)
        dq, dp = model.hamiltonian.gradient(torch.eye(2), torch.zeros(2, 2))
        assert (dq.diagonal() > 0.01).all() and dp.abs().max() < 0.2


@pytest.mark.parametrize("kind", ["joint", "separable", "mechanical"])
def test_backwards_is_the_way_back(kind: str) -> None:
    model = fitted(hamiltonian=kind)
    q, p = model.encode(springs(seed=1)[:])
    there = model.path(q, p, 20, model.dt)[-1].chunk(2, -1)
    torch.testing.assert_close(model.path(*there, 20, -model.dt)[-1], torch.cat((q, p), -1), rtol=0, atol=1e-5)


def test_the_loss_is_what_it_says() -> None:
    """Of one video, term by term; forward differences take the gradient at the state, as published."""
    videos = springs(3)
    x = videos[:]
    for difference in ("forward", "midpoint"):
        model = fitted(difference=difference)
        z = torch.stack([torch.cat(model.encode(x[:, t : t + 2]), -1) for t in range(7)], 1)
        with torch.no_grad():
            drawn = model.draw(z)
        at = z[:, :-1] if difference == "forward" else (z[:, :-1] + z[:, 1:]) / 2
        dq, dp = (x.detach() for x in model.hamiltonian.gradient(*at.chunk(2, -1)))
        picture = torch.cat((drawn[:, :, 0] - x[:, :-1], drawn[:, :, 1] - x[:, 1:])).square().mean()
        canonical = (z[:, :-1, 1] - (z[:, 1:, 0] - z[:, :-1, 0])).square().mean()
        dynamics = (z[:, 1:] - z[:, :-1] - torch.cat((dp, -dq), -1)).square().mean()
        expected = float(picture + canonical + 0.1 * dynamics)
        with torch.no_grad():
            found = float(objective(model, videos).loss(torch.arange(3)))
        assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", ["joint", "separable", "mechanical"])
def test_the_size_of_states_is_a_choice_of_units(kind: str) -> None:
    """A fit ends with positions of variance one; in other units forecasts and the relative loss are the same."""
    videos = springs()
    model, x = fitted(hamiltonian=kind), springs(seed=1)[:]
    with torch.no_grad():
        q = model.states(videos[:]).chunk(2, -1)[0]
    assert float(q.var()) == pytest.approx(1, abs=0.02)
    (q, p), before = model.encode(x), model.forecast(x, 5)
    loss, energy = objective(model, videos, relative=True).loss(torch.arange(12)), model.energy(q, p)
    model.rescale(3.0)
    torch.testing.assert_close(torch.cat(model.encode(x)), torch.cat((q, p)) / 3)
    torch.testing.assert_close(model.forecast(x, 5), before, rtol=0, atol=1e-5)
    torch.testing.assert_close(model.energy(q / 3, p / 3), energy / 9)
    torch.testing.assert_close(objective(model, videos, relative=True).loss(torch.arange(12)), loss, rtol=1e-4, atol=0)


def test_a_step_that_was_learned_is_the_step_of_a_forecast() -> None:
    """Where the midpoint rule holds between states, the rollout meets them."""
    model = small(hamiltonian=hf.systems.Pendulum()).double()
    path = model.path(torch.tensor([[0.3]]).double(), torch.tensor([[0.1]]).double(), 5, 1.0)
    change, middle = path[1:] - path[:-1], (path[1:] + path[:-1]) / 2
    torch.testing.assert_close(change, model.velocity(middle), rtol=0, atol=1e-12)


def test_forecasts_follow_the_states() -> None:
    model, x = fitted(), springs(seed=1)[:]
    pair = x[:, :2]
    whole = model.reconstruct(pair, 10)
    torch.testing.assert_close(model.forecast(pair, 8), whole[:, 2:], rtol=0, atol=1e-6)
    torch.testing.assert_close(model.forecast(x[:, :5], 3), model.forecast(x[:, 3:5], 3))
    torch.testing.assert_close(model.forecast(pair, 8, dt_scale=0.5)[:, 1::2], whole[:, 2:6], rtol=0, atol=0.05)
    first = model.decode(*model.encode(x))
    assert first.shape == (12, 2, 1, 8, 8)
    torch.testing.assert_close(first[:, 0], whole[:, 0])
    back = model.forecast(x, 4, backward=True)
    torch.testing.assert_close(back, model.forecast(x[:, :2], 4, backward=True))
    assert model.reconstruct(x).shape == x.shape and not torch.equal(back, model.forecast(pair, 4))


def test_pictures_of_any_size_and_colour() -> None:
    videos = springs(size=9, channels=3)
    model = small(size=9, channels=3).fit(videos, epochs=1, progress=False)
    assert model.forecast(videos[:2], 3).shape == (2, 3, 3, 9, 9)


def test_videos_on_disk_teach_the_same(tmp_path: Path) -> None:
    videos = springs(dtype=torch.uint8)
    videos.save(tmp_path / "film.h5")
    one, two = (
        small().fit(v, epochs=2, progress=False, frames_per_step=4)
        for v in (videos, hf.Videos.load(tmp_path / "film.h5"))
    )
    assert one.history.train == two.history.train


def test_an_interrupted_fit_goes_on(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"epochs": 3, "progress": False, "checkpoint": tmp_path / "run"}
    first, again = (small().fit(springs(), **settings) for _ in range(2))
    assert first.history.train == again.history.train
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("changes", [{}, {"hamiltonian": "separable", "difference": "forward", "dim": 2}])
def test_saved_and_loaded_bit_for_bit(changes: dict[str, Any], tmp_path: Path) -> None:
    model, x = fitted(**changes), springs(seed=1)[:]
    model.save(tmp_path / "model")
    twin = hf.load(tmp_path / "model")
    assert isinstance(twin, hf.PixelHNN) and twin.history == model.history
    assert torch.equal(twin.forecast(x, 5), model.forecast(x, 5))


def test_an_energy_of_ones_own(tmp_path: Path) -> None:
    model, x = fitted(hamiltonian=hf.systems.MassSpring(mass=1.0, stiffness=0.1)), springs(seed=1)[:]
    model.save(tmp_path / "model")
    with pytest.raises(hf.InputError, match="hamiltonian is missing"):
        hf.load(tmp_path / "model")
    twin = hf.load(tmp_path / "model", hamiltonian=hf.systems.MassSpring(mass=1.0, stiffness=0.1))
    assert isinstance(twin, hf.PixelHNN) and torch.equal(twin.forecast(x, 5), model.forecast(x, 5))


def test_a_refused_fit_leaves_the_model() -> None:
    model, x = fitted(), springs(seed=1)[:]
    before = model.forecast(x, 3)
    with pytest.raises(hf.InputError, match="all alike"):
        model.fit(torch.zeros(4, 6, 1, 8, 8))
    assert torch.equal(model.forecast(x, 3), before)


def frames(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


REFUSED = {
    "size": (lambda: small().fit(frames(4, 6, 1, 16, 16)), "1 channels of 16 x 16 pixels, expected 1 of 8 x 8"),
    "channels": (lambda: small().fit(frames(4, 6, 3, 8, 8)), "3 channels of 8 x 8 pixels, expected 1"),
    "rank": (lambda: small().fit(frames(6, 1, 8, 8)), r"expected \(n, time, channel"),
    "two_frames": (lambda: small().fit(frames(4, 2, 1, 8, 8)), "videos = 2 frames, expected 3 or more"),
    "frames_per_step": (lambda: small().fit(springs(), frames_per_step=2), "frames_per_step = 2 frames, expected 3"),
    "canonical": (lambda: small().fit(springs(), canonical=0.0), "canonical = 0"),
    "one_frame": (lambda: small().encode(frames(2, 1, 1, 8, 8)), "one frame a video"),
    "one_frame_ahead": (lambda: small().forecast(frames(2, 1, 1, 8, 8), 3), "one frame does not show a motion"),
    "encode_size": (lambda: small().encode(frames(2, 3, 1, 16, 16)), "expected 1 of 8 x 8"),
    "n_frames": (lambda: small().forecast(frames(2, 3, 1, 8, 8), 0), "n_frames = 0"),
    "dt_scale": (lambda: small().forecast(frames(2, 3, 1, 8, 8), 2, dt_scale=-1.0), "dt_scale = -1.0"),
    "difference": (lambda: small(difference="backward"), "difference = 'backward'"),
    "rescale": (lambda: small().rescale(-1.0), "size = -1.0"),
    "rescale_own": (lambda: small(hamiltonian=hf.systems.Pendulum()).rescale(2.0), "your own and has its unit"),
    "build_size": (lambda: small(size=0), "size = 0"),
    "build_channels": (lambda: small(channels=2), "channels = 2"),
    "hamiltonian": (lambda: small(hamiltonian=3), "hamiltonian is a int"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case: str) -> None:
    call, message = REFUSED[case]
    with pytest.raises(hf.InputError, match=message):
        call()
