"""Draws from the posterior of a state given frames: the right law, the right noise, and better pictures."""

from typing import Any

import pytest
import torch
from test_hgn import SMALL, fitted, springs

import hamflow as hf
from hamflow.models.draws import drawn, noise_along
from hamflow.videos import pixel_mse


def seeded_generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="module")
def swing() -> hf.HGN:
    """A model with two codes, whose posterior can be laid out on a grid."""
    model = hf.HGN(size=8, frames=6, dim=1, width=8, widths=(16,), code=2)
    return model.fit(springs(100), epochs=60, learning_rate=4e-3, progress=False)


@pytest.mark.parametrize("shake", [0.05, 1.0, 50.0])
def test_draws_follow_the_posterior(swing: hf.HGN, shake: float) -> None:
    frames = springs(3, seed=1)[:]
    swing.shake.fill_(shake)
    with torch.no_grad():
        axis = torch.linspace(-4, 4, 161)
        grid = torch.cartesian_prod(axis, axis)
        far = torch.cdist(swing.pictures(grid, 6).flatten(1), frames.flatten(1)).square()
        weight = torch.softmax(-0.5 * far / shake - 0.5 * grid.square().sum(1, keepdim=True), 0).mT
        mean = weight @ grid
        second = weight @ grid.square()
    z = drawn(swing, frames, 2000, seeded_generator())
    assert z.shape == (2000, 3, 2)
    spread = (second - mean**2).sqrt()
    assert bool(((z.mean(0) - mean).abs() < 0.15 * spread + 0.01).all())
    assert bool((z.std(0) / spread.clamp_min(0.05 / 2) - 1).abs().max() < 0.15)


def test_noise_is_that_of_the_directions_in_which_states_move(swing: hf.HGN) -> None:
    z = torch.randn(400, 2, generator=seeded_generator())
    with torch.no_grad():
        pictures = swing.pictures(z, 6)
        q = swing.path(*swing.initial_state(z), 5, swing.dt)[..., :1]
        # Independent pixels, and positions that shake: the same for every pixel, and hundreds of times as much a frame.
        pixels = pictures + 0.05 * torch.randn(pictures.shape, generator=seeded_generator())
        jolt = 0.05 * torch.randn(q.shape, generator=seeded_generator())
        slope = (swing.decode(q + 1e-3) - swing.decode(q - 1e-3)) / 2e-3
        shaken = pictures + (jolt[..., None, None] * slope).movedim(0, 1)
    assert float(noise_along(swing, pixels, z, seeded_generator())) == pytest.approx(0.05**2, rel=0.15)
    size = slope.flatten(2).square().sum(-1)
    wanted = 0.05**2 * float(size.square().mean() / size.mean())
    assert float(noise_along(swing, shaken, z, torch.Generator().manual_seed(1))) == pytest.approx(wanted, rel=0.2)
    assert wanted > 5 * float((shaken - pictures).square().mean())


def test_the_mean_over_draws_is_nearer_than_one_mode() -> None:
    train, test = springs(200, noise=0.2), springs(60, noise=0.2, seed=1)[:]
    model = hf.HGN(**SMALL | {"dim": 1, "width": 8, "context": 2})
    model.fit(train, epochs=60, learning_rate=4e-3, progress=False)

    def error(**how: Any) -> float:
        return float(pixel_mse(test, model.reconstruct(test[:, :2], 6, **how)).mean())

    assert error(draws=64, seed=0) < 0.95 * error(refine=40)
    before = float(pixel_mse(test[:, 3:], model.forecast(test[:, :3], 3, refine=40)).mean())
    assert float(pixel_mse(test[:, 3:], model.forecast(test[:, :3], 3, draws=64, seed=0)).mean()) < before


def test_draws_have_a_seed_and_states_of_their_own() -> None:
    model, frames = fitted(), springs(3, seed=1)[:]
    q, p = model.draw_states(frames, 8, seed=1)
    assert q.shape == p.shape == (8, 3, 2)
    assert torch.equal(q, model.draw_states(frames, 8, seed=1)[0])
    assert not torch.equal(q, model.draw_states(frames, 8, seed=2)[0])

    states = zip(q, p, strict=True)
    each = [model.decode(model.path(*state, 5, model.dt)[..., :2]).detach().movedim(0, 1) for state in states]
    torch.testing.assert_close(model.reconstruct(frames, draws=8, seed=1), torch.stack(each).mean(0))
    assert model.forecast(frames, 4, backward=True, draws=3).shape == (3, 4, 1, 8, 8)


REFUSED = {
    "both": (lambda: fitted().encode(springs()[:], refine=1, draws=1), TypeError, "draws"),
    "mode": (lambda: fitted().reconstruct(springs()[:], refine=1, draws=1), hf.InputError, "refine = 1 and draws = 1"),
    "number": (lambda: fitted().reconstruct(springs()[:], draws=-1), hf.InputError, "draws = -1, expected"),
    "none": (lambda: fitted().draw_states(springs()[:], 0), hf.InputError, "draws = 0"),
    "maps": (lambda: fitted(maps=True).draw_states(springs()[:]), hf.InputError, "whose states are vectors"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case: str) -> None:
    call, kind, message = REFUSED[case]
    with pytest.raises(kind, match=message):
        call()
