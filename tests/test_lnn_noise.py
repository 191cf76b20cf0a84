"""Lagrangians learned from noisy states, from positions alone, and across gaps."""

import pytest
import torch

import hamflow as hf
from hamflow.systems import MassSpring
from tests.lagrangian_fits import EXACT, SPRING, Known, fit, only


@pytest.mark.parametrize("learn_from", ["derivatives", "residual", "states"])
def test_noise_is_seen_through(learn_from: str) -> None:
    data = SPRING.simulate(**EXACT | {"n_trajectories": 12}, noise=0.2)  # type: ignore[arg-type]
    rates = []
    for noise in (None, 0.0):
        own = Known()
        fit(data, own, learn_from=learn_from, noise=noise, epochs=9, polish=20, composition=None, rule="trapezoidal")
        rates.append(float(own.k.detach()))
    # From states the step of dt = 0.1 shifts the frequency by half a per cent.
    assert rates[0] == pytest.approx(6.0, rel=0.05 if learn_from == "states" else 5e-3)
    assert abs(rates[1] - 6) > 3 * abs(rates[0] - 6), "errors in variables"


def test_velocities_are_inferred() -> None:
    own = Known()
    data = only(SPRING.simulate(10, 20, dt=0.1), "q")
    fit(data, own, epochs=6, polish=15)
    assert own.k.item() == pytest.approx(6.0, rel=1e-3)
    with pytest.raises(hf.InputError, match=r"the trajectories have q, expected v and v_dot: hf\.systems\.estimate"):
        fit(data, own, learn_from="residual")


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_missing_frames_and_a_pause(noise: float) -> None:
    data = MassSpring().simulate(3, 500, dt=0.05, noise=noise)
    keep = torch.cat([torch.arange(*part) for part in ((0, 40), (54, 90), (450, 501))])
    gaps = data.replace(times=data.times[keep], **{name: getattr(data, name)[:, keep] for name in data.given})
    own = Known(0.5)
    fit(gaps, own, rule="trapezoidal", composition=None, epochs=6, polish=15)
    assert own.k.item() == pytest.approx(1.0, abs=0.02 if noise else 1e-3)


def test_lengths_may_differ() -> None:
    parts = [SPRING.simulate(**EXACT | {"n_steps": n, "seed": n}) for n in (5, 20, 30)]  # type: ignore[arg-type]
    for learn_from in ("derivatives", "residual", "states"):
        own = Known()
        fit(parts, own, learn_from=learn_from, epochs=6, polish=15)
        assert own.k.item() == pytest.approx(6.0, rel=1e-3)
