"""Lagrangians learned from noisy states, from positions alone, and across gaps."""

from typing import Any

import pytest
import torch

import hamflow as hf
from hamflow.systems import MassSpring
from tests.lagrangian_fits import EXACT, F64, SPRING, Known, fit, only


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


@pytest.mark.parametrize("learn_from", ["derivatives", "residual", "states"])
def test_declared_noise_is_that_of_velocities_too(learn_from: str) -> None:
    """Where momenta were never given the state is (q, v), and its noise is declared once."""
    clean = SPRING.simulate(**EXACT | {"n_trajectories": 12})  # type: ignore[arg-type]
    shake = 0.2 * torch.randn(2, *clean.q.shape, dtype=F64, generator=torch.Generator().manual_seed(0))
    noisy = only(clean, "q", "v", "v_dot").replace(
        q=clean.q + shake[0], v=clean.need("v") + shake[1], metadata={"noise": 0.2}
    )
    if learn_from == "states":
        noisy = only(noisy, "q", "v")
    settings: dict[str, Any] = {"learn_from": learn_from, "composition": None, "rule": "trapezoidal", "polish": 20}
    rates, runs = {}, {}
    for noise in (None, 0.2, (0.2, 0.0)):
        own = Known()
        runs[noise] = fit(noisy, own, noise=noise, epochs=9, **settings).history.train
        rates[noise] = float(own.k.detach())
    assert runs[None] == pytest.approx(runs[0.2], rel=1e-4)
    assert runs[None] != pytest.approx(runs[0.2, 0.0], rel=1e-3)
    assert rates[None] == pytest.approx(6.0, rel=0.05 if learn_from == "states" else 5e-3)


def test_simulated_velocities_are_exact() -> None:
    """simulate() adds the noise of states to q and p, which a Lagrangian model does not look at."""
    data = SPRING.simulate(**EXACT, noise=0.2)  # type: ignore[arg-type]
    positions = only(data, "q", "v", "v_dot").replace(metadata={"noise": 0.2, "noise_on": "positions"})
    runs = [
        fit(x, Known(), noise=noise, epochs=3).history.train
        for x, noise in ((data, None), (positions, None), (data, (0.2, 0.0)), (data, 0.2))
    ]
    assert runs[0] == runs[1] == pytest.approx(runs[2], rel=1e-5)
    assert runs[0] != pytest.approx(runs[3], rel=1e-3)
