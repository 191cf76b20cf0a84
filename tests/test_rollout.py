"""Rollouts and their diagnostics: known motions, errors that say when, trends that are and are not there."""

import math

import pytest
import torch

import hamflow as hf


def oscillator() -> hf.SeparableHamiltonian:
    return hf.SeparableHamiltonian(hf.QuadraticKinetic(1), hf.QuadraticKinetic(1))


def test_rollout_of_an_oscillator_is_a_circle() -> None:
    q = torch.linspace(0.5, 2, 7, dtype=torch.float64).reshape(7, 1)
    path = hf.rollout(hf.Splitting(oscillator(), hf.YOSHIDA6), q, 0 * q, n_steps=50, dt=0.2, substeps=4)
    t = 0.2 * torch.arange(51, dtype=torch.float64).reshape(-1, 1)
    assert path.shape == (51, 7, 2)
    assert (path[..., 0] - q.T * t.cos()).abs().max() < 1e-7
    assert (path[..., 1] + q.T * t.sin()).abs().max() < 1e-7


def test_rollout_backwards_returns() -> None:
    q, p = torch.randn(2, 5, 1, dtype=torch.float64)
    step = hf.Splitting(oscillator())
    there = hf.rollout(step, q, p, n_steps=30, dt=0.1)[-1]
    back = hf.rollout(step, *there.chunk(2, -1), n_steps=30, dt=-0.1, t=3.0)[-1]
    assert (back - torch.cat((q, p), -1)).abs().max() < 1e-12


def test_rollout_carries_gradients() -> None:
    q = torch.ones(1, 1, dtype=torch.float64, requires_grad=True)
    path = hf.rollout(hf.Splitting(oscillator(), hf.YOSHIDA6), q, torch.zeros_like(q), n_steps=10, dt=0.1)
    (slope,) = torch.autograd.grad(path[-1, 0, 0], q)
    assert float(slope) == pytest.approx(math.cos(1.0), abs=1e-6)


def test_the_tangent_map_of_a_batch() -> None:
    """Rows through vmap, without the look at their values: the rotation of an oscillator for each of them."""

    def end(z: torch.Tensor) -> torch.Tensor:
        step = hf.Splitting(oscillator(), hf.YOSHIDA6)
        return hf.rollout(step, *z.chunk(2, -1), n_steps=10, dt=0.1, check=False)[-1]

    found = torch.func.vmap(torch.func.jacrev(end))(torch.randn(4, 2, dtype=torch.float64))
    c, s = math.cos(1.0), math.sin(1.0)
    assert (found - torch.tensor([[c, s], [-s, c]])).abs().max() < 1e-6


@pytest.mark.parametrize("transform", [torch.func.jacrev, torch.func.jacfwd])
def test_a_model_differentiates_through_its_rollout(transform: object) -> None:
    model = hf.HNN(1, energy=oscillator(), scheme="yoshida6").double()
    p = torch.zeros(1, dtype=torch.float64)
    slope = transform(lambda q: model.rollout(q, p, n_steps=10, dt=0.1)[-1])(torch.ones_like(p))  # type: ignore[operator]
    assert (slope[:, 0] - torch.tensor([math.cos(1.0), -math.sin(1.0)])).abs().max() < 1e-6
    assert not model.rollout(p, p, n_steps=2, dt=0.1).requires_grad
    assert model.rollout(p.requires_grad_(), p, n_steps=2, dt=0.1).requires_grad


@pytest.mark.parametrize("model", [hf.HNN(1, widths=(4,)), hf.LNN(1, widths=(4,))], ids=["HNN", "LNN"])
def test_initial_states_that_are_not_finite_are_named(model: hf.HNN | hf.LNN) -> None:
    """No smaller dt would mend them; energies take them as they are."""
    q = torch.zeros(3, 2, 1)
    bad = q.clone()
    bad[1:, 1] = math.nan
    for first, second, name in ((bad, q, "q"), (q, bad, model.second), (bad.nan_to_num(math.inf), bad, "q")):
        with pytest.raises(
            hf.InputError, match=rf"^{name} is not finite in coordinate 0 of the initial state at index \(1, 1\)"
        ):
            model.rollout(first, second, n_steps=2, dt=0.1)
        assert model.energy(first, second).isfinite().sum() == 4
    with pytest.raises(
        hf.InputError, match=rf"^{model.second} is not finite in coordinate 0 of the initial state, expected"
    ):
        model.rollout([0.0], [math.inf], n_steps=2, dt=0.1)
    assert torch.func.vmap(model.energy)(q, q).shape == (3, 2)


@pytest.mark.parametrize("n_steps", [60, 900])
def test_rollout_says_when_it_left_the_finite_numbers(n_steps: int) -> None:
    explosive = hf.SeparableHamiltonian(hf.QuadraticKinetic(1), hf.FunctionEnergy(lambda q: -(q**4).sum(-1)))
    q = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    with pytest.raises(hf.RolloutError, match=r"at time [\d.]+ \(state \d+\): 1 of 2 .* index \(1,\)") as error:
        hf.rollout(hf.Splitting(explosive), q, 0 * q, n_steps=n_steps, dt=0.1)
    # q'' = 4 q^3 from rest at 1 reaches infinity after 0.93 units of time; rounding to infinity takes some steps more.
    assert 0.9 < error.value.time < 3


def test_bad_input_is_named() -> None:
    step, q = hf.Splitting(oscillator()), torch.ones(3, 1)
    for kwargs, message in [
        ({"n_steps": 0, "dt": 0.1}, "n_steps = 0"),
        ({"n_steps": 3, "dt": 0.0}, "dt = 0.0"),
        ({"n_steps": 3, "dt": math.nan}, "dt = nan"),
        ({"n_steps": 3, "dt": 0.1, "substeps": 0.5}, "substeps = 0.5"),
    ]:
        with pytest.raises(hf.InputError, match=message):
            hf.rollout(step, q, q, **kwargs)
    with pytest.raises(hf.InputError, match=r"q is \(3, 1\) and p is \(2, 1\)"):
        hf.rollout(step, q, q[:2], n_steps=3, dt=0.1)
    with pytest.raises(hf.InputError, match="expected tensors of one shape"):
        hf.rollout(step, [1.0], q, n_steps=3, dt=0.1)  # type: ignore[arg-type]
    with pytest.raises(hf.InputError, match=r"q has shape \(3, 1\), expected \(\*batch, bodies \* 2\)"):
        hf.angular_momentum(q, q, space=2)
    with pytest.raises(hf.InputError, match="space = 1"):
        hf.angular_momentum(q, q, space=1)
    with pytest.raises(hf.InputError, match="5 times"):
        hf.energy_drift(torch.ones(5), dt=0.1)
    with pytest.raises(hf.InputError, match=r"dt = -0\.1"):
        hf.energy_drift(torch.ones(50), dt=-0.1)
    with pytest.raises(hf.InputError, match="1 entries that are not finite"):
        hf.energy_drift(torch.cat((torch.ones(50), torch.tensor([math.nan]))), dt=0.1)


def test_leapfrog_has_no_trend_and_euler_has() -> None:
    H = oscillator()
    q = torch.linspace(0.5, 2, 6, dtype=torch.float64).reshape(6, 1)
    with torch.no_grad():
        path = hf.rollout(hf.Splitting(H), q, 0.3 + 0 * q, n_steps=10_000, dt=0.1)
    energy = H(*path.chunk(2, -1))
    assert not hf.energy_drift(energy, dt=0.1).significant
    assert not hf.energy_drift(energy[:, :1], dt=0.1).significant
    leaking = energy * torch.linspace(1, 1.001, len(energy), dtype=torch.float64).unsqueeze(-1)
    assert hf.energy_drift(leaking, dt=0.1).significant
    assert hf.energy_drift(leaking[:, :1], dt=0.1).significant
    assert hf.energy_drift(leaking, dt=0.1).slope == pytest.approx(1e-3 / 1000 * float(energy[0].mean()), rel=0.05)


def test_momenta_of_bodies() -> None:
    q, p = torch.randn(2, 4, 6, dtype=torch.float64)
    bodies = list(zip(q.reshape(4, 2, 3).unbind(1), p.reshape(4, 2, 3).unbind(1), strict=True))
    assert torch.equal(hf.total_momentum(p, space=3), p[:, :3] + p[:, 3:])
    expected = sum(torch.linalg.cross(a, b) for a, b in bodies)
    assert (hf.angular_momentum(q, p, space=3) - expected).abs().max() < 1e-14
    flat = hf.angular_momentum(q[:, :4], p[:, :4], space=2)
    assert (flat - (q[:, 0] * p[:, 1] - q[:, 1] * p[:, 0] + q[:, 2] * p[:, 3] - q[:, 3] * p[:, 2])).abs().max() < 1e-14


def test_an_implicit_step_that_does_not_settle_says_when() -> None:
    stiff = hf.FunctionHamiltonian(lambda q, p: 0.5 * (p**2).sum(-1) - (q**4).sum(-1))
    q = torch.ones(2, 1, dtype=torch.float64)
    with pytest.raises(hf.RolloutError, match=r"stopped between times [\d.]+ and [\d.]+: ImplicitMidpoint") as error:
        hf.rollout(hf.ImplicitMidpoint(stiff), q, 0 * q, n_steps=100, dt=0.1)
    assert 0.5 < error.value.time < 3 and isinstance(error.value.__cause__, hf.SolveError)


@pytest.mark.parametrize("stages", [1, 3, None])
@pytest.mark.parametrize(
    ("shape", "places"),
    [
        ((5,), r"1 of 5 rows, at \(1,\);"),
        ((5, 8), r"8 of 40 rows, at \(1, 0\), .*, \(1, 4\), ...;"),
        ((), "1 of 1 rows;"),
    ],
)
def test_an_implicit_step_that_does_not_settle_says_which(
    stages: int | None, shape: tuple[int, ...], places: str
) -> None:
    """All rest at the top of a hill but one, by Gauss collocation or a variational step."""
    hill = hf.FunctionHamiltonian(lambda q, p: (0.5 * p**2 - q**4).sum(-1))
    moving = hf.FunctionLagrangian(lambda q, v: (0.5 * v**2 + q**4).sum(-1))
    q = torch.tensor([0.0, 3.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    q = (q[:, None].expand(5, 8) if len(shape) == 2 else q if shape else q[1])[..., None]
    step = hf.LNN(1, lagrangian=moving).step if stages is None else hf.GaussLegendre(hill, stages)
    with pytest.raises(hf.RolloutError, match=places):
        hf.rollout(step, q, 0 * q, n_steps=50, dt=0.3 if stages else 0.1)


@pytest.mark.parametrize("n", [20, 25, 39, 200])
def test_a_short_series_has_a_trend_too(n: int) -> None:
    noise = torch.randn(n, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    times = 0.1 * torch.arange(n, dtype=torch.float64)
    assert hf.energy_drift(noise, dt=0.1).standard_error > 0
    steep = hf.energy_drift(noise + 100 * times, dt=0.1)
    assert steep.significant and steep.slope == pytest.approx(100, rel=0.05)


def test_rounding_that_walks_at_random_is_no_trend() -> None:
    steps = torch.randn(10_000, 8, generator=torch.Generator().manual_seed(0))
    walk = 2 * (1 + torch.finfo(torch.float32).eps * steps.cumsum(0).double()).float()
    for k in range(8):
        assert not hf.energy_drift(walk[:, k], dt=0.1).significant
    assert hf.energy_drift(walk[:, :1] + torch.linspace(0, 1e-2, 10_000)[:, None], dt=0.1).significant


def test_the_check_of_drift_is_the_diagnostic() -> None:
    step, q = hf.Splitting(oscillator()), torch.linspace(0.5, 2, 6, dtype=torch.float64).reshape(6, 1)
    with torch.no_grad():
        path = hf.rollout(step, q, 0 * q, n_steps=200, dt=0.5, substeps=5)
    energies = oscillator()(*path.chunk(2, -1))
    assert hf.testing.check_drift(step, q, 0 * q, dt=0.1, n_steps=1000) == hf.energy_drift(energies, dt=0.5)


def energies_of(system: hf.systems.System, scheme: hf.Scheme, n_steps: int, dt: float) -> torch.Tensor:
    q, p = system.initial_states(100, torch.Generator().manual_seed(1))
    with torch.no_grad():
        return system(*hf.rollout(hf.Splitting(system, scheme), q, p, n_steps=n_steps, dt=dt).chunk(2, -1))


@pytest.mark.parametrize(
    ("system", "scheme", "dt"),
    [
        (hf.systems.Pendulum(), hf.LEAPFROG, 0.05),
        (hf.systems.Pendulum(), hf.SYMPLECTIC_EULER, 0.05),
        (hf.systems.HenonHeiles(), hf.YOSHIDA4, 0.2),
    ],
)
def test_symplectic_steps_do_not_drift(system: hf.systems.System, scheme: hf.Scheme, dt: float) -> None:
    """Alone or in a batch, however long: 3 of 1000 may be significant, of 240 here that is 2 at most."""
    energy = energies_of(system, scheme, 1000, dt)
    false, told = 0, 0
    for n in (20, 30, 40, 200, 300, 1000):
        trends = [hf.energy_drift(energy[:n, k : k + m], dt) for k, m in [(k, 1) for k in range(35)] + [(0, 20)] * 5]
        false += sum(trend.significant for trend in trends)
        told += sum(trend.conclusive for trend in trends) if n >= 200 else 0
    assert false <= 2 and told == 120


def test_a_piece_of_an_oscillation_is_no_drift() -> None:
    energy = energies_of(hf.systems.Pendulum(), hf.LEAPFROG, 39, 0.05)
    trend = hf.energy_drift(energy, 0.05)
    assert not trend.conclusive and not trend.significant and math.isfinite(trend.slope)
    with pytest.raises(hf.InputError, match="n_steps = 150 holds fewer than 4 periods"):
        pendulum = hf.systems.Pendulum()
        hf.testing.check_drift(hf.Splitting(pendulum), *pendulum.initial_states(3), dt=0.01, n_steps=150)


@pytest.mark.parametrize("n_steps", [300, 2000])
@pytest.mark.parametrize("gamma", [0.001, 0.15])
def test_friction_is_a_drift(gamma: float, n_steps: int) -> None:
    """Alone or together, whether the energy has begun to fall or is long lost."""
    pendulum = hf.systems.Pendulum()
    q, p = pendulum.initial_states(8, torch.Generator().manual_seed(1))
    step = hf.Damped(hf.Splitting(pendulum), gamma=gamma)
    with torch.no_grad():
        energy = pendulum(*hf.rollout(step, q, p, n_steps=n_steps, dt=0.05).chunk(2, -1))
    for trend in [hf.energy_drift(energy, 0.05), *(hf.energy_drift(row, 0.05) for row in energy.T)]:
        assert trend.significant and trend.slope < 0


@pytest.mark.parametrize("n", [20, 100, 1000])
def test_noise_is_a_trend_three_times_in_a_thousand(n: int) -> None:
    noise = torch.randn(n, 500, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert sum(hf.energy_drift(column, dt=0.1).significant for column in noise.T) <= 6
