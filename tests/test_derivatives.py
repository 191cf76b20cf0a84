"""Derivatives estimated from states: known functions, noise, uneven times, and SciPy's spline as a reference."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.interpolate import make_smoothing_spline
from torch import Tensor

import hamflow as hf
from hamflow.errors import InputError
from hamflow.systems import Trajectories, estimate_derivatives, estimate_noise

F64 = torch.float64


def sine(times: Tensor, *, noise: float = 0.0, momenta: bool = False) -> Trajectories:
    """q = sin(2 t + phase), p = 3 dq/dt, for two phases and two coordinates; times (time,) or (2, time)."""
    phase = torch.tensor([[0.0, 1.0], [0.5, 2.0]], dtype=F64).reshape(2, 1, 2)
    angle = 2 * times.expand(2, times.shape[-1]).unsqueeze(-1) + phase
    shake = torch.randn((2, *angle.shape), generator=torch.Generator().manual_seed(0), dtype=F64) * noise
    p = 6 * angle.cos() + shake[1] if momenta else None
    return Trajectories(times=times, q=angle.sin() + shake[0], p=p)


def slope(data: Trajectories) -> Tensor:
    clean = sine(data.times.to(F64), momenta=True)
    return clean.need("p") / 3


EVEN = torch.linspace(0, 4, 81, dtype=F64)
UNEVEN = EVEN + 0.02 * torch.sin(37 * torch.arange(81, dtype=F64))
OWN = torch.stack((EVEN, UNEVEN + 100))
TIMES = pytest.mark.parametrize("times", [EVEN, UNEVEN, OWN], ids=["even", "uneven", "own"])


@TIMES
@pytest.mark.parametrize(
    ("method", "inside", "ends"), [("spline", 1e-3, 0.25), ("interpolation", 1e-4, 5e-3), ("difference", 2e-2, 5e-2)]
)
def test_known_functions(times: Tensor, method: str, inside: float, ends: float) -> None:
    found = estimate_derivatives(sine(times, momenta=True), method=method)
    error = (found.need("v") - slope(found)).abs()
    assert error[:, 10:-10].max() < inside and error.max() < ends
    force = found.need("p_dot") + 12 * found.q
    assert force[:, 10:-10].abs().max() < 6 * inside
    assert found.given == ("q", "p", "v", "p_dot")


@pytest.mark.parametrize("method", ["spline", "interpolation", "difference"])
def test_an_angle_that_goes_round(method: str) -> None:
    """Of a pendulum above the top, its angle kept within [-pi, pi); smoothed states and noise see no jumps either."""
    full = hf.systems.Pendulum().simulate(initial=([0.0], [7.5]), n_steps=80, dt=0.05)
    q = (full.q + np.pi) % (2 * np.pi) - np.pi
    assert full.q.max() > 10 and full.need("v").min() > 1
    counted = full.replace(p=None, v=None)
    within = counted.replace(q=q)
    found, expected = (estimate_derivatives(data, method=method) for data in (within, counted))
    torch.testing.assert_close(found.need("v"), expected.need("v"), rtol=0, atol=1e-9)
    assert (found.need("v") - full.need("v"))[:, 5:-5].abs().max() < 0.05
    torch.testing.assert_close(estimate_noise(within)["q"], estimate_noise(counted)["q"], rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("method", ["spline", "interpolation", "difference"])
def test_straight_lines_and_rest_are_exact(method: str) -> None:
    q = torch.stack((3 * UNEVEN - 1, torch.full_like(UNEVEN, 0.1), 1e8 + 0 * UNEVEN), -1).unsqueeze(0)
    v = estimate_derivatives(Trajectories(times=UNEVEN, q=q), method=method).need("v")
    assert (v - torch.tensor([3.0, 0.0, 0.0], dtype=F64)).abs().max() < 1e-9


@pytest.mark.parametrize(("method", "order"), [("interpolation", 3), ("difference", 2)])
def test_order_of_accuracy(method: str, order: int) -> None:
    errors = []
    for n in (41, 81, 161):
        data = estimate_derivatives(sine(torch.linspace(0, 4, n, dtype=F64)), method=method)
        errors.append(float((data.need("v") - slope(data)).abs().max()))
    assert np.log2(errors[0] / errors[1]) > order - 0.3 and np.log2(errors[1] / errors[2]) > order - 0.2


@TIMES
def test_noise_is_smoothed(times: Tensor) -> None:
    noisy, clean = sine(times, noise=0.1), sine(times)
    smooth = estimate_derivatives(noisy, smooth=True)
    raw = estimate_derivatives(noisy, method="difference")
    error, rough = ((data.need("v") - slope(data)).square().mean().sqrt() for data in (smooth, raw))
    assert error < 0.25 and error < rough / 4
    assert (smooth.q - clean.q).square().mean().sqrt() < 0.05
    assert torch.equal(estimate_derivatives(noisy).q, noisy.q)


def test_smoothed_states_do_not_declare_their_noise() -> None:
    noisy = sine(EVEN, noise=0.1).replace(metadata={"noise": 0.1, "noise_on": "states", "seed": 3})
    assert estimate_derivatives(noisy, smooth=True).metadata == {"seed": 3}
    assert estimate_derivatives(noisy).metadata == noisy.metadata


def test_smoothing_does_not_fall_for_noise() -> None:
    """Plain cross-validation interpolates some of such short series, with errors of the slope above 1."""
    times = torch.linspace(0, 1.9, 20, dtype=F64)
    shake = 0.1 * torch.randn(200, 20, 1, generator=torch.Generator().manual_seed(1), dtype=F64)
    q = (2 * times).sin().reshape(1, 20, 1) + shake
    v = estimate_derivatives(Trajectories(times=times, q=q)).need("v")
    each = (v[..., 0] - 2 * (2 * times).cos()).square().mean(1).sqrt()
    assert each.median() < 0.3 and each.max() < 0.9


def test_long_series_agree_with_scipy() -> None:
    """Above a thousand states the spline is SciPy's; just under it both take much the same smoothness."""
    for n, bound in ((900, 0.05), (1100, 1e-4)):
        times = torch.linspace(0, 30, n, dtype=F64)
        noisy = sine(times, noise=0.1)
        v = estimate_derivatives(noisy).need("v")[0, :, 0].numpy()
        unit = 30 / (n - 1)
        spline = make_smoothing_spline(np.arange(n, dtype=float), noisy.q[0, :, 0].numpy())
        reference = spline.derivative()(np.arange(n)) / unit
        assert np.sqrt(np.mean((v - reference) ** 2)) < bound


@TIMES
@pytest.mark.parametrize("length", [1e-11, 1e11])
def test_units_do_not_matter(times: Tensor, length: float) -> None:
    small = sine(times, noise=0.05)
    large = small.replace(q=length * small.q, times=86400.0 * small.times)
    v, w = (estimate_derivatives(data).need("v") for data in (small, large))
    torch.testing.assert_close(w * 86400 / length, v, rtol=1e-6, atol=1e-6)


def test_gaps_of_very_different_size() -> None:
    times = torch.cat((EVEN[:40], EVEN[40:41] - 1e-6, EVEN[40:]))
    data = estimate_derivatives(sine(times))
    assert (data.need("v") - slope(data)).abs()[:, 10:-10].max() < 1e-2


def test_what_is_given_stays() -> None:
    data = sine(EVEN, momenta=True)
    data = data.replace(v=torch.ones_like(data.q), p_dot=torch.zeros_like(data.q))
    found = estimate_derivatives(data)
    assert torch.equal(found.need("v"), data.need("v")) and torch.equal(found.need("p_dot"), data.need("p_dot"))
    assert found.need("v_dot").abs().max() < 1e-12, "the derivative of a constant velocity"
    assert estimate_derivatives(sine(EVEN)).given == ("q", "v")


def test_dtype_is_kept() -> None:
    data = sine(EVEN).to(torch.float32)
    v = estimate_derivatives(data, method="interpolation").need("v")
    assert v.dtype == torch.float32 and (v - slope(data)).abs()[:, 10:-10].max() < 1e-3


REFUSED: list[tuple[int, dict[str, Any], str]] = [
    (4, {}, "data has 4 times, expected at least 5 for method = 'spline'"),
    (3, {"method": "interpolation"}, "expected at least 4 for method = 'interpolation'"),
    (1, {"method": "difference"}, "expected at least 2 for method = 'difference'"),
    (9, {"method": "hermite", "smooth": True}, "smooth = True with method = 'hermite', expected False"),
    (9, {"method": "fourier"}, "method = 'fourier', expected one of 'spline', 'interpolation', 'difference'"),
]


@pytest.mark.parametrize(("n", "kwargs", "message"), REFUSED)
def test_bad_input_is_named(n: int, kwargs: Any, message: str) -> None:
    with pytest.raises(hf.InputError, match=message):
        estimate_derivatives(sine(EVEN[:n]), **kwargs)


@pytest.mark.parametrize(("n", "method"), [(5, "spline"), (4, "interpolation"), (2, "difference")])
def test_the_shortest(n: int, method: str) -> None:
    data = estimate_derivatives(sine(EVEN[:n]), method=method)
    assert (data.need("v") - slope(data)).abs().max() < 0.2


@pytest.mark.parametrize("times", [EVEN, UNEVEN], ids=["even", "uneven"])
@pytest.mark.parametrize("sigma", [0.0, 1e-3])
def test_positions_and_velocities_together_are_exact_or_nothing(sigma: float, times: Tensor) -> None:
    """Rounding for exact states; and of noise, twenty times its share of a gap squared."""
    generator = torch.Generator().manual_seed(0)
    q, v = (x.view(1, -1, 1).expand(50, -1, 1) for x in (times.sin(), times.cos()))
    noise = sigma * torch.randn(2, *q.shape, generator=generator, dtype=torch.float64)
    found = estimate_derivatives(Trajectories(times=times, q=q + noise[0], v=v + noise[1]), method="hermite")
    error = (found.need("v_dot") + q).square().mean().sqrt()
    gap = times.diff().min()
    assert error < (100 * sigma / gap**2 if sigma else 1e-7)
    assert not sigma or error > 2 * sigma / times.diff().mean() ** 2


@pytest.mark.parametrize("spacing", ["even", "uneven"])
@pytest.mark.parametrize("sigma", [0.02, 0.2])
def test_noise_is_estimated(sigma: float, spacing: str) -> None:
    generator = torch.Generator().manual_seed(0)
    gaps = 0.5 + torch.rand(200, generator=generator, dtype=torch.float64)
    times = 0.1 * (gaps if spacing == "uneven" else torch.ones_like(gaps)).cumsum(0)
    q = torch.stack((times.sin(), 5 + 100 * (2 * times).cos()), -1).expand(20, -1, -1)
    scale = torch.tensor([1.0, 100.0], dtype=torch.float64)
    noisy = q + sigma * scale * torch.randn(q.shape, generator=generator, dtype=torch.float64)
    found = estimate_noise(Trajectories(times=times, q=noisy, v=q))
    assert (found["q"] / scale / sigma - 1).abs().max() < 0.05
    # Of exact states nothing is left but a small share of what moves.
    assert (found["v"] / scale).max() < 1e-4


def test_noise_needs_three_times() -> None:
    with pytest.raises(InputError, match="data has 2 times, expected at least 3"):
        estimate_noise(Trajectories(times=torch.tensor([0.0, 1.0]), q=torch.zeros(1, 2, 1)))
