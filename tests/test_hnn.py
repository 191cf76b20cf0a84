"""Learned dynamics: known energies, noise, states alone, friction, units, and what is refused."""

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor, nn

import hamflow as hf
from hamflow.models.units import Units
from hamflow.systems import HenonHeiles, MassSpring, Pendulum, Trajectories, estimate_noise

F64 = torch.float64
PENDULUM = Pendulum(mass=0.5, gravity=6.0)


class Square(nn.Module):
    """k x^2 / 2 with k learned."""

    def __init__(self, k: float = 1.0) -> None:
        super().__init__()
        self.k = nn.Parameter(torch.tensor(k))

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * self.k * (x**2).sum(-1)


def spring() -> hf.SeparableHamiltonian:
    """p^2 / 2 m + k q^2 / 2, both learned."""
    return hf.SeparableHamiltonian(hf.QuadraticKinetic(1, learn=True), hf.FunctionEnergy(Square()))


class AnySpring(nn.Module):
    """The same as a function of both, which asks for an implicit step."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.p = Square(), Square()

    def forward(self, q: Tensor, p: Tensor) -> Tensor:
        return self.q(q) + self.p(p)


def fit(data: Any, energy: Any = "separable", *, friction: bool = False, **settings: Any) -> hf.HNN:
    dim = (data if isinstance(data, Trajectories) else data[0]).dim
    own = {name: settings.pop(name) for name in ("scheme", "periodic", "seed", "standardise") if name in settings}
    model = hf.HNN(dim, energy=energy, widths=(32,), friction=friction, **own)
    return model.fit(data, **{"epochs": 30, "learning_rate": 0.05, "window": 5, "progress": False} | settings)


def stiffness(model: hf.HNN) -> Tensor:
    """(1 / m, k) of a learned spring."""
    one = torch.ones(1, 1, dtype=next(model.parameters()).dtype)
    return torch.stack(model.vector_field(one, one)).flatten().detach().abs()


def field_error(model: hf.HNN, system: Any = PENDULUM, width: float = 1.0) -> tuple[float, float]:
    """The largest errors of dH/dq and dH/dp on a grid inside the data."""
    axis = torch.linspace(-width, width, 9, dtype=F64)
    q, p = (x.reshape(-1, 1) for x in torch.meshgrid(axis, axis, indexing="ij"))
    found, true = model.hamiltonian.gradient(q, p), system.gradient(q, p)
    return tuple(float((a - b).detach().abs().max()) for a, b in zip(found, true, strict=True))  # type: ignore[return-value]


def only(data: Trajectories, *names: str) -> Trajectories:
    return data.replace(**{name: None for name in data.given if name not in names})


SPRING = MassSpring(mass=0.5, stiffness=3.0)
EXACT = {"derivatives": True, "n_trajectories": 6, "n_steps": 20, "dt": 0.1}


# What is learned from derivatives.


def test_the_energy_of_a_pendulum_from_exact_derivatives() -> None:
    data = PENDULUM.simulate(20, 40, derivatives=True)
    model = fit(data, polish=100, learning_rate=0.01)
    assert max(field_error(model)) < 5e-3
    # Forces are up to 3 and velocities up to 2; periodic because the trajectories say so.
    q = torch.linspace(-3, 3, 7, dtype=F64).reshape(-1, 1)
    assert model.angles == (0,)
    assert (model.energy(q, 0 * q) - model.energy(q + 2 * math.pi, 0 * q)).abs().max() < 1e-12
    # Ten periods, at leapfrog's own error: the learned motion against the true one.
    q, p = data.q[:3, 0], data.p[:3, 0]  # type: ignore[index]
    path = model.rollout(q, p, n_steps=200, dt=0.1, substeps=2)
    assert (path[:41] - data[:3].states.transpose(0, 1)).abs().max() < 0.02
    true = PENDULUM(*path.chunk(2, -1))
    assert (true - true[0]).abs().max() < 0.02 * true[0].max()


@pytest.mark.parametrize("energy", ["separable", "mechanical", "joint"])
def test_each_energy_learns_a_spring(energy: str) -> None:
    data = SPRING.simulate(**EXACT, initial=(torch.linspace(0.1, 1, 6).reshape(-1, 1), torch.zeros(6, 1)))  # type: ignore[arg-type]
    model = fit(data, energy, polish=100, learning_rate=0.01)
    assert max(field_error(model, SPRING, 0.5)) < 0.02 * 3


def test_an_energy_of_ones_own_is_learned_in_place() -> None:
    own = spring()
    model = fit(SPRING.simulate(**EXACT), own, polish=40)  # type: ignore[arg-type]
    assert model.hamiltonian is own
    assert stiffness(model) == pytest.approx([2.0, 3.0], abs=1e-6)
    assert own.kinetic.mass().item() == pytest.approx(0.5, abs=1e-6)  # type: ignore[operator]


def test_lengths_may_differ() -> None:
    parts = [SPRING.simulate(**EXACT | {"n_steps": n, "seed": n}, noise=0.1) for n in (5, 20, 40)]
    for learn_from in ("derivatives", "states"):
        model = fit(parts, spring(), learn_from=learn_from, polish=20)
        assert stiffness(model) == pytest.approx([2.0, 3.0], rel=0.05)


# Noise.


def test_paths_see_through_noise() -> None:
    """Derivatives at noisy states blur the field; along paths they teach it."""
    noisy = SPRING.simulate(**EXACT, noise=0.2)
    naive, path = (stiffness(fit(noisy, spring(), polish=40, noise=noise)) for noise in (0.0, None))
    true = torch.tensor([2.0, 3.0], dtype=F64)
    assert (naive / true).log().abs().max() > 0.1, "errors in variables"
    assert (path / true).log().abs().max() < 5e-3


def test_paths_infer_the_states() -> None:
    from hamflow.models.learning import _unseen
    from hamflow.models.objectives import PathObjective
    from hamflow.training import polish

    clean, noisy = (SPRING.simulate(**EXACT, noise=noise) for noise in (0.0, 0.2))
    model = hf.HNN(1, energy=spring()).double()
    one = torch.ones(1, dtype=F64)
    unseen = _unseen([noisy], 0.1, 0)
    objective = PathObjective(model, [noisy], torch.full((2,), 0.2, dtype=F64), Units(one, one), unseen, model.misfit)
    rows = torch.arange(noisy.n).unsqueeze(-1)

    def error() -> float:
        return float((objective.states(rows[:, 0]).detach() - clean.states).square().mean().sqrt())

    assert 0.2 / math.sqrt(21) < 1.5 * error() < 0.12, "the mean over a path alone"
    polish(objective, rows, iterations=60)
    assert error() < 0.005


def test_noise_on_velocities_is_none_on_states() -> None:
    """The states are exact then, so their derivatives are learned as they stand: without inferred states."""
    data = SPRING.simulate(**EXACT, noise=0.2, noise_on="velocities")
    assert fit(data, epochs=2).history.train == fit(data, epochs=2, noise=0.0).history.train
    states = only(data, "q", "p")
    assert fit(states, epochs=3).history.train == fit(states, epochs=3, noise=0.0).history.train
    # And where velocities stand for momenta it is theirs: without it the first velocity of each window is believed.
    velocities = only(data, "q", "v")
    rates = [float(stiffness(fit(velocities, spring(), window=10, polish=20, noise=n)).prod()) for n in (None, 0.0)]
    assert rates[0] == pytest.approx(6.0, rel=0.05) and abs(rates[0] - 6) < 0.5 * abs(rates[1] - 6)


@pytest.mark.parametrize("noise", [(0.0, 0.3), (0.1, 0.3), (0.1, 0.0)])
def test_velocities_as_noisy_as_momenta(noise: tuple[float, float]) -> None:
    """Where they are both, neither the momentum nor the slope of q is the measured one; and exact halves stay."""
    from hamflow.models.learning import _unseen, with_momenta
    from hamflow.models.objectives import PathObjective

    clean = only(PENDULUM.simulate(5, 100, dt=0.1, derivatives=True), "q", "v", "v_dot")
    shake = torch.randn(2, *clean.q.shape, generator=torch.Generator().manual_seed(0), dtype=F64)
    data = clean.replace(q=clean.q + noise[0] * shake[0], v=clean.v + noise[1] * shake[1])  # type: ignore[operator]
    part, one = with_momenta(data), torch.ones(1, dtype=F64)
    model, sigma = hf.HNN(1, energy=PENDULUM).double(), torch.tensor(noise, dtype=F64)
    unseen = _unseen([part], 0.1, 0)
    objective = PathObjective(model, [part], sigma, Units(one, one), unseen, model.misfit, velocities=True)
    there = (objective.seen + objective.unseen) > 0
    q, p = objective.states(torch.arange(len(there))).detach()[there].chunk(2, -1)
    for found, true, size in ((q, clean.q, noise[0]), (p, clean.need("v"), noise[1])):
        assert (found - true.flatten(0, 1)).square().mean().sqrt() <= 0.2 * size
    model = fit(data, spring(), noise=noise, epochs=2, standardise=False)
    own = fit(clean, spring(), noise=0.0, epochs=2, standardise=False)
    assert torch.allclose(stiffness(model), stiffness(own), rtol=0.02)


def missing(noise: float) -> Trajectories:
    """A spring of unit frequency, fourteen frames of 0.05 left out, and behind a long pause some more."""
    data = MassSpring().simulate(4, 700, dt=0.05, derivatives=True, noise=noise)
    keep = torch.cat([torch.arange(*part) for part in ((0, 100), (114, 230), (650, 701))])
    return data.replace(times=data.times[keep], **{name: getattr(data, name)[:, keep] for name in data.given})


@pytest.mark.parametrize(("noise", "bound"), [(0.0, 1e-3), (0.02, 0.015)])
@pytest.mark.parametrize("learn_from", ["states", "derivatives"])
def test_missing_frames(learn_from: str, noise: float, bound: float) -> None:
    model = fit(missing(noise), spring(), learn_from=learn_from, scheme="leapfrog", window=10, polish=30)
    assert stiffness(model) == pytest.approx([1.0, 1.0], abs=bound)


def test_no_step_is_much_longer_than_the_others() -> None:
    from hamflow.models.learning import _windows

    data, energy = only(missing(0.0), "q", "p"), MassSpring()
    steps = []
    for scale in (1, 4):
        objective = _windows(
            hf.HNN(1, energy=energy).double(), [data], [data], torch.zeros(2, dtype=F64), momenta=True, window=10,
            substeps=scale, validation=None, seed=0,
        )  # fmt: skip
        steps.append((objective.gaps / objective.steps).amax().item())
        assert objective.steps.amin() == scale
        # Behind the pause nothing counts, in front of it and from there on everything does.
        with torch.no_grad():
            error = objective.roll(torch.arange(len(objective.seen))) - objective.observed
        assert (error * (objective.seen > 0)).abs().max() < 1e-5
        assert error.abs().max() > 0.1
        assert objective.seen.sum() >= 2 * (data.q.numel() - len(objective.seen))
    assert steps[0] == pytest.approx(0.075, abs=5e-3) and steps[1] == pytest.approx(0.019, abs=2e-3)


def test_paths_end_where_their_integral_is_off() -> None:
    from hamflow.models.paths import paths

    def lengths(data: Trajectories, noise: float) -> list[int]:
        masks = [torch.zeros(data.n, data.n_times, dtype=torch.bool)]
        found = paths([data], torch.full((2,), noise, dtype=F64), masks, velocities=False)
        return found.seen.sum(1).int().tolist()  # type: ignore[no-any-return]

    dense, rare = (MassSpring().simulate(3, 60, dt=dt, derivatives=True) for dt in (0.05, 1.5))
    assert lengths(dense, 0.1) == [61] * 3
    assert lengths(rare, 1e-5) == [1] * 183
    assert lengths(missing(0.0)[:1], 0.02) == [216, 51], "the pause alone"
    assert sum(lengths(missing(0.0)[:1], 1e-3)) == 267 and max(lengths(missing(0.0)[:1], 1e-3)) < 120
    # With so little noise no inference is better than a bad one.
    noisy = MassSpring().simulate(10, 40, dt=1.5, derivatives=True, noise=1e-5)
    assert stiffness(fit(noisy, spring(), polish=40)) == pytest.approx([1.0, 1.0], abs=1e-5)


def test_noise_of_each_and_from_the_data() -> None:
    data = HenonHeiles().simulate(4, 20, dt=0.2, noise=0.1).replace(v=None, metadata={})
    found = estimate_noise(data)
    runs = {
        name: fit(data, epochs=3, noise=noise).history.train
        for name, noise in {
            "one": 0.1, "pair": (0.1, 0.1), "each": [0.1] * 4, "other": (0.1, 0.2),
            "estimate": "estimate", "estimated": [*found["q"].tolist(), *found["p"].tolist()],
        }.items()
    }  # fmt: skip
    assert runs["one"] == runs["pair"] == runs["each"] != runs["other"]
    assert runs["estimate"] == pytest.approx(runs["estimated"], rel=1e-6)


def test_states_alone_do_not_look_at_derivatives() -> None:
    data = SPRING.simulate(**EXACT, noise=0.1)
    wrong = data.replace(v=torch.randn_like(data.q), p_dot=torch.zeros_like(data.q), v_dot=torch.ones_like(data.q))
    runs = [fit(x, learn_from="states", epochs=3).history.train for x in (data, wrong, only(data, "q", "p"))]
    assert runs[0] == runs[1] == runs[2]


@pytest.mark.parametrize("noise", [0.0, 0.1])
@pytest.mark.parametrize("times", ["even", "own"])
def test_states_alone(noise: float, times: str) -> None:
    clean = SPRING.simulate(12, 20, dt=0.1)
    t = clean.times
    if times != "even":
        # Some of the states of a denser simulation.
        dense = SPRING.simulate(12, 200, dt=0.01)
        jump = torch.randint(-4, 5, (12 if times == "own" else 1, 21), generator=torch.Generator().manual_seed(0))
        index = (10 * torch.arange(21) + jump).clamp(0, 200)
        rows = torch.arange(12).unsqueeze(-1)
        clean = dense.replace(
            times=dense.times[index if times == "own" else index[0]], q=dense.q[rows, index], p=dense.p[rows, index],  # type: ignore[index]
            v=None,
        )  # fmt: skip
    shake = noise * torch.randn(2, *clean.q.shape, generator=torch.Generator().manual_seed(1), dtype=F64)
    data = clean.replace(q=clean.q + shake[0], p=clean.p + shake[1], metadata={"noise": noise})
    assert t.shape == (21,)
    model = fit(data, spring(), polish=20)
    assert stiffness(model) == pytest.approx([2.0, 3.0], rel=0.04 if noise else 2e-3)


@pytest.mark.parametrize("given", ["q", "qv"])
def test_velocities_and_positions_stand_for_momenta(given: str) -> None:
    """Up to the mass, which neither tells."""
    data = only(SPRING.simulate(10, 20, dt=0.1), *given)
    model = fit(data, spring(), polish=20)
    assert float(stiffness(model).prod()) == pytest.approx(6.0, rel=1e-2)
    if given == "qv":
        assert stiffness(model) == pytest.approx([1.0, 6.0], rel=5e-3)


def test_accelerations_stand_for_forces() -> None:
    data = only(SPRING.simulate(**EXACT), "q", "v", "v_dot")
    for learn_from in ("auto", "derivatives"):
        model = fit(data, spring(), learn_from=learn_from, polish=20)
        assert stiffness(model) == pytest.approx([1.0, 6.0], abs=1e-8)


def test_a_network_learns_from_positions() -> None:
    data = only(PENDULUM.simulate(12, 20, dt=0.1), "q")
    model = fit(data, "mechanical", scheme="leapfrog", polish=60)
    q, p = data.q[:, 0], data.q[:, 0] * 0
    # From rest: q'' = -6 sin q whatever the mass.
    change = 1e-3
    path = model.rollout(q, p, n_steps=1, dt=change, substeps=1)
    acceleration = 2 * (path[1, :, :1] - q) / change**2
    assert (acceleration + 6 * q.sin()).abs().max() < 0.2


@pytest.mark.parametrize("n_times", [2, 3, 4])
def test_short_trajectories_have_states_too(n_times: int) -> None:
    data = only(SPRING.simulate(60, n_times - 1, dt=0.2), "q", "p")
    assert stiffness(fit(data, spring(), polish=20)) == pytest.approx([2.0, 3.0], rel=0.01)


@pytest.mark.parametrize("n_times", [6, 11, 20, 21, 25])
def test_every_state_is_in_a_window(n_times: int) -> None:
    from hamflow.models.learning import _starts

    starts = _starts(n_times - 1, min(10, n_times - 1))
    covered = {k for start in starts for k in range(start, start + min(11, n_times))}
    assert covered == set(range(n_times)) and len(starts) == math.ceil((n_times - 1) / 10)


@pytest.mark.parametrize("noise", [0.0, 0.1])
@pytest.mark.parametrize("learn_from", ["states", "derivatives"])
def test_held_out_states_do_not_train(learn_from: str, noise: float) -> None:
    """Wherever they are, they change the validation loss and not the training loss (at the same start)."""
    from hamflow.models.learning import _starts, _unseen, _windows
    from hamflow.models.objectives import PathObjective

    data = SPRING.simulate(3, 25, dt=0.1, derivatives=True)
    model = hf.HNN(1, energy=spring()).double()
    exact = learn_from == "states" and not noise
    (unseen,) = _unseen([data], 0.2, 0, given=[_starts(25, 10)] if exact else None)
    assert int(unseen.sum()) == round(0.2 * (unseen.numel() - 9 * exact))
    spoiled = data.replace(q=torch.where(unseen.unsqueeze(-1), data.q + 1, data.q))
    sigma, one = torch.full((2,), noise, dtype=F64), torch.ones(1, dtype=F64)
    if learn_from == "derivatives":
        # The whole of it, but for units, which are those of all states.
        settings: dict[str, Any] = {"standardise": False, "validation": 0.2, "noise": noise, "epochs": 5}
        runs = [fit(part, spring(), **settings).history for part in (data, spoiled)]
        assert runs[0].train == runs[1].train
        if not noise:
            assert runs[1].start > runs[0].start + 0.1
            return
    losses = []
    for part in (data, spoiled):
        objective: Any
        if learn_from == "states":
            objective = _windows(
                model, [part], [part if exact else data], sigma, momenta=True, window=10, substeps=1, validation=0.2,
                seed=0,
            )  # fmt: skip
            objective.scale = torch.ones(2, dtype=F64)
        else:
            objective = PathObjective(model, [part], sigma, Units(one, one), [unseen], model.misfit)
        rows = torch.arange(len(objective.seen)).unsqueeze(-1)
        losses.append((objective.train().loss(rows).item(), objective.eval().loss(rows).item()))
    assert losses[0][0] == losses[1][0]
    # Along a path derivatives judge, where the states that train say that it goes.
    assert losses[1][1] == losses[0][1] if learn_from == "derivatives" else losses[1][1] > losses[0][1] + 0.1


@pytest.mark.parametrize("noise", [0.0, 0.1])
@pytest.mark.parametrize("learn_from", ["states", "derivatives"])
def test_some_states_are_always_held_out(noise: float, learn_from: str) -> None:
    """With none the first weights would be the best ones."""
    data = SPRING.simulate(**EXACT | {"n_trajectories": 1, "n_steps": 5}, noise=noise)
    model = fit(data, learn_from=learn_from, epochs=6)
    assert model.history.start > 0 and min(model.history.validation) > 0
    losses = {tuple(fit(data, learn_from=learn_from, epochs=3, noise=noise, **{"validation": share}).history.train)
              for share in (0.1, 0.4)}  # fmt: skip
    assert len(losses) == 2


# Friction.


def damped(gamma: float = 0.3) -> Trajectories:
    """A damped pendulum, q'' = -6 sin q - gamma q', by DOP853."""
    times = np.linspace(0, 6, 61)
    paths = []
    for start in ([1.5, 0.0], [-2.0, 1.0], [0.5, -2.0]):

        def slope(_: float, z: Any) -> list[float]:
            return [z[1], -6 * math.sin(z[0]) - gamma * z[1]]

        paths.append(solve_ivp(slope, (0, 6), start, "DOP853", times, rtol=1e-11, atol=1e-11).y.T)
    z = torch.tensor(np.stack(paths))
    acceleration = -6 * z[..., :1].sin() - gamma * z[..., 1:]
    return Trajectories(times=times, q=z[..., :1], v=z[..., 1:], v_dot=acceleration, metadata={"periodic": [0]})


@pytest.mark.parametrize(("learn_from", "bound"), [("derivatives", 2e-3), ("states", 1e-2)])
def test_friction_is_learned(learn_from: str, bound: float) -> None:
    settings: dict[str, Any] = {"learning_rate": 0.02, "polish": 60, "scheme": "leapfrog"}
    model = fit(damped(), "mechanical", friction=True, learn_from=learn_from, **settings)
    assert float(model.friction) == pytest.approx(0.3, rel=bound)
    z = damped()
    path = model.rollout(z.q[:, 0], z.v[:, 0], n_steps=60, dt=0.1)  # type: ignore[index]
    assert (path[..., :1] - z.q.transpose(0, 1)).abs().max() < 0.05
    # Another scheme has the same friction, to the last digit, and shares it.
    other = model.rollout(z.q[:, 0], z.v[:, 0], n_steps=60, dt=0.1, scheme="leapfrog")  # type: ignore[index]
    assert torch.equal(path, other)


def test_friction_at_uneven_times_has_gradients() -> None:
    step = hf.Damped(hf.Splitting(spring()), 0.5, learn=True).double()
    q, p = torch.ones(2, 3, 1, dtype=F64)
    gaps = torch.tensor([[0.1], [0.2], [0.3]], dtype=F64)

    def end(gap: Any) -> Tensor:
        return torch.cat(step.iterate(q, p, 0.0, gap, 2), -1)

    rows = torch.stack([end(float(gap))[i] for i, gap in enumerate(gaps)])
    torch.testing.assert_close(end(gaps), rows, rtol=0, atol=1e-14)
    (slope,) = torch.autograd.grad(end(gaps).sum(), step.log_gamma)
    with torch.no_grad():
        step.log_gamma += 1e-6
        more = end(gaps).sum()
        step.log_gamma -= 2e-6
        assert float(slope) == pytest.approx(float(more - end(gaps).sum()) / 2e-6, rel=1e-6)


# Energies that depend on time.


class Driven(hf.Hamiltonian):
    """p^2 / 2 + k q^2 / 2 - f cos(2 t) q, k and f learned."""

    def __init__(self) -> None:
        super().__init__()
        self.k, self.f = nn.Parameter(torch.tensor(0.5)), nn.Parameter(torch.tensor(0.1))

    def forward(self, q: Tensor, p: Tensor, t: Any = 0.0) -> Tensor:
        return (0.5 * p**2 + 0.5 * self.k * q**2 - self.f * torch.as_tensor(2.0 * t).to(q).cos() * q).sum(-1)


def driven(noise: float) -> Trajectories:
    """k = f = 1, by DOP853."""
    times, generator = np.linspace(5, 11, 61), torch.Generator().manual_seed(0)
    paths = []
    for start in torch.randn(8, 2, generator=generator, dtype=F64).tolist():

        def slope(t: float, z: Any) -> list[float]:
            return [z[1], math.cos(2 * t) - z[0]]

        paths.append(solve_ivp(slope, (5, 11), start, "DOP853", times, rtol=1e-11, atol=1e-11).y.T)
    z = torch.tensor(np.stack(paths))
    q, p = (z + noise * torch.randn(z.shape, generator=generator, dtype=F64)).chunk(2, -1)
    force = torch.tensor(np.cos(2 * times)).reshape(1, -1, 1) - z[..., :1]
    return Trajectories(times=times, q=q, p=p, v=z[..., 1:], p_dot=force, metadata={"noise": noise})


@pytest.mark.parametrize("learn_from", ["derivatives", "states"])
@pytest.mark.parametrize(("noise", "bound"), [(0.0, 2e-3), (0.1, 0.1)])
def test_an_energy_that_depends_on_time(learn_from: str, noise: float, bound: float) -> None:
    data = driven(noise)
    model = fit(data, Driven(), learn_from=learn_from, polish=40)
    energy: Any = model.hamiltonian
    assert energy.k.item() == pytest.approx(1.0, abs=bound) and energy.f.item() == pytest.approx(1.0, abs=bound)
    path = model.rollout(data.q[:, 0], data.need("p")[:, 0], n_steps=60, dt=0.1, t=5.0).transpose(0, 1)
    assert (path - data.states).square().mean().sqrt() < 0.01 + 2.5 * noise
    last = 11 * torch.ones(8, 1, dtype=F64)
    _, force = model.vector_field(data.q[:, -1], data.need("v")[:, -1], last)
    assert (force - data.need("p_dot")[:, -1]).abs().max() < 5 * bound + 4 * noise


def test_times_that_broadcast_over_rows_are_named() -> None:
    class Wrong(Driven):
        def forward(self, q: Tensor, p: Tensor, t: Any = 0.0) -> Tensor:
            return super().forward(q, p) - self.f * torch.as_tensor(t) * q.sum(-1)

    with pytest.raises(hf.InputError, match=r"energy returned shape \(2, 2\) .* expected \(2,\): a time broadcasts"):
        fit(driven(0.0), Wrong())


# Implicit steps.


def test_a_joint_energy_takes_the_implicit_midpoint_rule() -> None:
    data = only(SPRING.simulate(4, 10, dt=0.1), "q", "p")
    model = fit(data, hf.FunctionHamiltonian(AnySpring()), epochs=10, polish=15, window=5, substeps=2)
    assert isinstance(model.step, hf.ImplicitMidpoint)
    # The rule turns by 2 atan(w h / 2) where the motion turns by w h: h = 0.05, w^2 = 6.
    h, w = 0.05, math.sqrt(6)
    assert stiffness(model) == pytest.approx([2.0, 3.0], rel=2e-3)
    assert float(stiffness(model).prod().sqrt()) == pytest.approx(2 / h * math.tan(w * h / 2), rel=1e-5)


def test_a_step_that_does_not_settle_is_a_bad_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    data = only(SPRING.simulate(4, 10, dt=0.1), "q", "p")
    calls = []
    solve = hf.ImplicitMidpoint._solve

    def sometimes(self: Any, *args: Any) -> Any:
        calls.append(1)
        if len(calls) == 40:
            raise hf.SolveError("no")
        return solve(self, *args)

    monkeypatch.setattr(hf.ImplicitMidpoint, "_solve", sometimes)
    model = fit(data, hf.FunctionHamiltonian(AnySpring()), epochs=5, window=5)
    assert any("the loss was not finite" in note for note in model.history.notes)


# Units, dtypes, seeds.


@pytest.mark.parametrize(
    ("energy", "how"),
    [
        ("separable", "derivatives"), ("mechanical", "derivatives"), ("joint", "derivatives"), ("separable", "paths"),
        ("mechanical", "states"), ("joint", "states"), ("separable", "noisy states"), ("separable", "positions"),
    ],
)  # fmt: skip
def test_units_do_not_matter(energy: str, how: str) -> None:
    """Metres or astronomical units, seconds or days: the same loss, epoch by epoch."""
    noise = 0.05 if how in ("paths", "noisy states") else 0.0
    data = HenonHeiles().simulate(4, 10, dt=0.2, noise=noise, derivatives=how in ("derivatives", "paths"))
    # A plane in space: the third coordinate stays where it is.
    data = data.replace(**{name: nn.functional.pad(getattr(data, name), (0, 1)) for name in data.given})
    data = data.replace(q=data.q + torch.tensor([3.0, 0.0, 1.0]))
    if how == "positions":
        data = only(data, "q")
    length, momentum, time = 1.5e11, 1e-9, 86400.0
    sizes = {"q": length, "p": momentum, "v": length / time, "p_dot": momentum / time, "v_dot": length / time**2}
    other = data.replace(
        times=time * data.times + 2.4e6 * time, **{name: sizes[name] * getattr(data, name) for name in data.given}
    )
    friction = energy != "joint"
    if how == "noisy states" or how == "paths":
        # One noise for positions and momenta is one unit for both.
        other = data.replace(times=time * data.times, q=length * data.q, p=length * data.need("p"),
                             **{n: length / time * getattr(data, n) for n in ("v", "p_dot") if n in data.given},
                             v_dot=None, metadata=dict(data.metadata) | {"noise": length * noise})  # fmt: skip
        data = data.replace(v_dot=None)
    runs = [fit(x, energy, friction=friction, epochs=4, learning_rate=1e-4).history for x in (data, other)]
    assert runs[1].start == pytest.approx(runs[0].start, rel=1e-6)
    assert runs[1].train == pytest.approx(runs[0].train, rel=1e-6)


@pytest.mark.parametrize("energy", ["separable", "mechanical", "joint"])
@pytest.mark.parametrize("learn_from", ["derivatives", "states"])
def test_float32_in_si_units(energy: str, learn_from: str) -> None:
    """Momenta of planets: their squares are no float32."""
    data = SPRING.simulate(**EXACT)
    sizes = {"q": 1e11, "p": 1e28, "v": 1e4, "p_dot": 1e21, "v_dot": 1e-3}
    large = data.replace(times=1e7 * data.times, **{name: sizes[name] * getattr(data, name) for name in data.given})
    model = fit(large.to(torch.float32), energy, learn_from=learn_from, epochs=5, window=5)
    assert min(model.history.validation) < model.history.start and math.isfinite(model.history.start)


def test_julian_days_in_float32() -> None:
    data = SPRING.simulate(**EXACT)
    late = data.replace(times=data.times + 2451545.0)
    runs = [fit(x, dtype=torch.float32, learn_from="states", epochs=3).history.train for x in (data, late)]
    assert runs[1] == pytest.approx(runs[0], rel=1e-5)


def test_even_times_are_seen_through_rounding() -> None:
    from hamflow.models.objectives import even_gap

    exact = 0.05 * torch.arange(2000, dtype=F64).reshape(2, 1000)
    times = exact.float()
    assert even_gap(times) == pytest.approx(0.05, rel=1e-6)
    assert even_gap(exact + 2.4e6) == pytest.approx(0.05, rel=1e-6)
    times[0, 500] += 1e-3
    assert even_gap(times) is None


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_dtype_follows_the_data(dtype: torch.dtype) -> None:
    model = fit(damped().to(dtype), friction=True, epochs=2)
    assert {x.dtype for x in model.parameters()} == {dtype}
    assert model.energy([0.1], [0.2]).dtype == model.rollout([0.1], [0.2], n_steps=2, dt=0.1).dtype == dtype
    assert next(fit(damped(), dtype=torch.float32, epochs=1).parameters()).dtype == torch.float32


@pytest.mark.parametrize("learn_from", ["derivatives", "states"])
def test_seeds(learn_from: str) -> None:
    data = SPRING.simulate(**EXACT, noise=0.1)

    def weights(model: hf.HNN) -> Tensor:
        return torch.cat([x.detach().flatten() for x in model.parameters()])

    settings = {"learn_from": learn_from, "epochs": 3, "learning_rate": 0.01, "window": 5}
    model = fit(data, **settings)  # type: ignore[arg-type]
    first = weights(model)
    torch.rand(3)
    again = weights(model.fit(data, progress=False, **settings))  # type: ignore[arg-type]
    assert torch.equal(first, again), "a refit starts afresh"
    assert torch.equal(first, weights(fit(data, **settings)))  # type: ignore[arg-type]
    assert not torch.equal(first, weights(fit(data, seed=1, **settings)))  # type: ignore[arg-type]
    other = hf.HNN(1, widths=(32,)).fit(data, progress=False, seed=1, **settings)  # type: ignore[arg-type]
    assert other.history.start != model.history.start, "other states are held out"


# Saving and resuming.


@pytest.mark.parametrize("energy", ["separable", "mechanical", "joint"])
def test_saved_and_loaded_bit_for_bit(energy: str, tmp_path: Path) -> None:
    model = fit(damped(), energy, friction=energy != "joint", epochs=2)
    model.save(tmp_path / "model")
    twin = hf.load(tmp_path / "model")
    assert isinstance(twin, hf.HNN) and twin.angles == (0,) and not twin.training
    assert twin.config == model.config and twin.history == model.history
    mine, other = model.state_dict(), twin.state_dict()
    assert mine.keys() == other.keys() and all(torch.equal(mine[name], other[name]) for name in mine)
    q = torch.linspace(-2, 2, 5, dtype=F64).reshape(-1, 1)
    assert torch.equal(model.rollout(q, q, n_steps=9, dt=0.1), twin.rollout(q, q, n_steps=9, dt=0.1))  # type: ignore[operator]


def test_an_energy_of_ones_own_comes_back_with_its_weights(tmp_path: Path) -> None:
    model = hf.HNN(1, energy=hf.HNN(1, widths=(8,), seed=1).hamiltonian)
    model.save(tmp_path / "model")
    twin = hf.load(tmp_path / "model", energy=hf.HNN(1, widths=(8,), seed=2).hamiltonian)
    q = torch.linspace(-2, 2, 5).reshape(-1, 1)
    assert isinstance(twin, hf.HNN) and torch.equal(twin.energy(q, q), model.energy(q, q))


def stop_at(monkeypatch: pytest.MonkeyPatch, call: int) -> Callable[[], None]:
    """Interrupt the optimiser at that step."""
    step, calls = torch.optim.AdamW.step, []

    def stop(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", stop)
    return lambda: monkeypatch.setattr(torch.optim.AdamW, "step", step)


@pytest.mark.parametrize("learn_from", ["derivatives", "states"])
@pytest.mark.parametrize("call", [5, 20])
def test_an_interrupted_run_goes_on(
    learn_from: str, call: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """From states it may stop in the start from derivatives (10 steps) or after it."""
    data = SPRING.simulate(**EXACT, noise=0.1)
    settings: dict[str, Any] = {"learn_from": learn_from, "epochs": 30, "polish": 3, "window": 5}
    whole = fit(data, **settings)
    go_on = stop_at(monkeypatch, call)
    with pytest.raises(KeyboardInterrupt):
        fit(data, checkpoint=tmp_path / "run", **settings)
    go_on()
    resumed = fit(data, checkpoint=tmp_path / "run", **settings)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert resumed.history.train == whole.history.train


@pytest.mark.parametrize("learn_from", ["derivatives", "states"])
def test_a_checkpoint_belongs_to_its_data(learn_from: str, tmp_path: Path) -> None:
    data, other = (SPRING.simulate(**EXACT, noise=0.1, seed=seed) for seed in (0, 1))
    settings: dict[str, Any] = {"learn_from": learn_from, "epochs": 3, "checkpoint": tmp_path / "run"}
    fit(data, **settings)
    (tmp_path / "run.start").unlink(missing_ok=True)
    with pytest.raises(hf.CheckpointError, match="model data"):
        fit(other, **settings)
    (tmp_path / "run.start").unlink(missing_ok=True)
    with pytest.raises(hf.CheckpointError, match="model scheme = 'yoshida4'"):
        fit(data, scheme="leapfrog", **settings)


# Rollouts.


def test_rollouts() -> None:
    model = fit(PENDULUM.simulate(**EXACT), epochs=3)  # type: ignore[arg-type]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    q, p = torch.randn(2, 4000, 1, generator=torch.Generator().manual_seed(0))
    path = model.rollout(q, p, n_steps=20, dt=0.1)
    assert path.shape == (21, 4000, 2) and not path.requires_grad
    assert torch.equal(path[0], torch.cat((q, p), -1).double())
    back = model.rollout(*path[-1].chunk(2, -1), n_steps=20, dt=-0.1)
    assert (back[-1] - path[0]).abs().max() < 1e-10
    fine = model.rollout(q[:5], p[:5], n_steps=20, dt=0.1, scheme="yoshida6", substeps=4)
    assert 1e-9 < (fine - path[:, :5]).abs().max() < 0.05
    assert model.rollout([0.3], [0.1], n_steps=3, dt=0.1).shape == (4, 2)
    assert model.rollout(np.zeros((2, 3, 1)), np.ones((2, 3, 1)), n_steps=3, dt=0.1).shape == (4, 2, 3, 2)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.energy(q, p).shape == (4000,)


def test_an_unbound_rollout_says_when() -> None:
    explosive = hf.SeparableHamiltonian(hf.QuadraticKinetic(1), hf.FunctionEnergy(lambda q: -(q**4).sum(-1)))
    model = hf.HNN(1, energy=explosive).double()
    with pytest.raises(hf.RolloutError, match="left the finite numbers at time"):
        model.rollout(torch.ones(2, 1, dtype=F64), torch.zeros(2, 1, dtype=F64), n_steps=100, dt=0.1)


def test_states_keep_their_dtype_where_the_energy_has_no_weights() -> None:
    model = hf.HNN(1, energy=MassSpring())
    assert model.rollout(torch.ones(1, dtype=F64), torch.ones(1, dtype=F64), n_steps=2, dt=0.1).dtype == F64


# What is refused.


def tiny(**changes: Any) -> Trajectories:
    return SPRING.simulate(2, 6, dt=0.1, derivatives=True).replace(**changes)


def noted(noise: Any) -> Trajectories:
    return tiny(metadata={"noise": noise})


MODELS: list[tuple[dict[str, Any], str]] = [
    ({"dim": 0}, "dim = 0"),
    ({"energy": "lagrangian"}, "energy = 'lagrangian', expected one of 'separable', 'mechanical', 'joint'"),
    ({"energy": nn.Linear(1, 1)}, "energy is a Linear, expected a Hamiltonian or one of"),
    ({"widths": (0,)}, "widths = 0"),
    ({"widths": ()}, "widths is empty"),
    ({"periodic": (1,)}, r"periodic = \(1,\), expected indices of the 1 coordinates"),
    ({"periodic": (0, 0)}, "expected different indices"),
    ({"scheme": "euler"}, "scheme = 'euler'"),
    ({"seed": -1}, "seed = -1"),
]


@pytest.mark.parametrize(("settings", "message"), MODELS)
def test_bad_models_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(hf.InputError, match=message):
        hf.HNN(**{"dim": 1} | settings)


FITS: dict[str, tuple[Callable[[], Any], dict[str, Any], str]] = {
    "nothing": (lambda: None, {}, "data is NoneType, expected Trajectories or a list of them"),
    "array": (lambda: torch.ones(3, 2), {}, "data is Tensor"),
    "empty": (list, {}, "data is empty"),
    "list": (lambda: [tiny(), 3], {}, "data is int"),
    "dim": (lambda: HenonHeiles().simulate(2, 6), {}, "data has 2 coordinates, expected dim = 1"),
    "mixed": (lambda: [tiny(), tiny(v=None)], {}, r"parts with arrays \('q', 'p', 'v', .* expected the same in all"),
    "angles": (
        lambda: [tiny(), tiny(metadata={"periodic": [0]})],
        {},
        r"parts with periodic coordinates \(\) and \(0,\)",
    ),
    "noises": (lambda: [noted(0.1), noted(0.2)], {}, "parts of different noise"),
    "no_force": (lambda: tiny(p_dot=None), {"learn_from": "derivatives"}, "have q, p, v, v_dot, expected v and p_dot"),
    "only_q": (
        lambda: only(tiny(), "q"),
        {"learn_from": "derivatives"},
        "have q, expected v and v_dot, or p, v and p_dot: hf.systems.estimate_derivatives",
    ),
    "learn_from": (tiny, {"learn_from": "energies"}, "learn_from = 'energies'"),
    "one_state": (lambda: tiny().between(0, 1), {"learn_from": "states"}, "a trajectory of a single state"),
    "half": (lambda: tiny().to(torch.float16), {}, "data has dtype torch.float16"),
    "window": (tiny, {"window": 0}, "window = 0"),
    "substeps": (tiny, {"substeps": 1.5}, "substeps = 1.5"),
    "nan_noise": (tiny, {"noise": math.nan}, "noise = nan, expected a finite standard deviation"),
    "noise": (tiny, {"noise": -1}, "noise = -1"),
    "three_noises": (tiny, {"noise": (1, 2, 3)}, r"noise = \(1, 2, 3\), expected a finite standard deviation"),
    "noise_word": (tiny, {"noise": "much"}, "noise = 'much', expected .* or 'estimate'"),
    "noise_text": (lambda: noted("much"), {}, r"metadata\['noise'\] = 'much', expected a standard deviation"),
    "noise_on": (
        lambda: tiny(metadata={"noise": 0.1, "noise_on": "q"}),
        {},
        r"metadata\['noise_on'\] = 'q', expected one of 'states', 'velocities'",
    ),
    "noise_list": (lambda: noted([0.1]), {}, r"metadata\['noise'\] = \[0.1\]"),
    "validation": (tiny, {"validation": 1.0}, "validation = 1.0"),
    "all_held_out": (lambda: tiny().between(0, 1)[:1], {}, "leaves none to train on"),
    "polish": (tiny, {"polish": -1}, "polish = -1"),
    "epochs": (tiny, {"epochs": 0}, "epochs = 0"),
    "dtype": (tiny, {"dtype": torch.float16}, "dtype = torch.float16"),
    "device": (tiny, {"device": "nowhere"}, "device = 'nowhere'"),
}


@pytest.mark.parametrize(("make", "settings", "message"), FITS.values(), ids=FITS.keys())
def test_bad_data_are_named(make: Any, settings: dict[str, Any], message: str) -> None:
    model = hf.HNN(1)
    hamiltonian = model.hamiltonian
    with pytest.raises(hf.InputError, match=message):
        model.fit(make(), **{"epochs": 1, "progress": False} | settings)
    assert model.hamiltonian is hamiltonian or "leaves none" in message, "a refused fit costs what was learned"


def test_bad_rollouts_are_named() -> None:
    model = hf.HNN(2)
    for q, p, settings, message in [
        ([0.0], [0.0], {}, r"q has shape \(1,\) and p \(1,\), expected \(\*batch, 2\) for both"),
        (torch.zeros(3, 2), torch.zeros(2, 2), {}, r"q has shape \(3, 2\) and p \(2, 2\)"),
        (1.0, 2.0, {}, r"q has shape \(\)"),
        ([0.0, 0.0], [0.0, 0.0], {"scheme": "euler"}, "scheme = 'euler'"),
        ([0.0, 0.0], [0.0, 0.0], {"dt": 0.0}, "dt = 0.0"),
        ([0.0, 0.0], [0.0, 0.0], {"n_steps": 0}, "n_steps = 0"),
    ]:
        with pytest.raises(hf.InputError, match=message):
            model.rollout(q, p, **{"n_steps": 2, "dt": 0.1} | settings)  # type: ignore[arg-type]


def test_constant_coordinates_are_learned_as_such() -> None:
    """A particle that rests in one coordinate: also in float32, where its mean is not its value."""
    data = MassSpring().simulate(5, 20, dt=0.1, derivatives=True)
    flat = data.replace(
        **{name: torch.cat((getattr(data, name), torch.full_like(data.q, 0.1 * (name == "q"))), -1)
           for name in data.given}
    ).to(torch.float32)  # fmt: skip
    for learn_from in ("derivatives", "states"):
        model = fit(flat, learn_from=learn_from, epochs=40, scheme="leapfrog", learning_rate=0.01)
        dq, dp = model.hamiltonian.gradient(flat.q[:, 0], flat.p[:, 0])  # type: ignore[index]
        assert max(float(dq[:, 1].abs().max()), float(dp[:, 1].abs().max())) < 0.1
        near = flat.q[:, 0] + torch.tensor([0.0, 0.05])
        assert model.hamiltonian.gradient(near, 0 * near)[0].abs().max() < 2, "no wall beside it"


@pytest.mark.parametrize("learn_from", ["derivatives", "states"])
def test_angles_within_one_turn_are_learned_as_if_counted_on(learn_from: str) -> None:
    data = hf.systems.Pendulum().simulate(initial=([0.0], [7.5]), n_steps=40, dt=0.05, derivatives=True)
    within = data.replace(q=(data.q + math.pi) % (2 * math.pi) - math.pi)
    assert (within.q - data.q).abs().max() > 6
    settings = {"learn_from": learn_from, "epochs": 6, "progress": False}
    one, other = (hf.HNN(1, widths=(8,)).fit(part, **settings) for part in (data, within))  # type: ignore[arg-type]
    torch.testing.assert_close(one.history.train, other.history.train, rtol=1e-6, atol=0)


def test_angles_named_by_the_model_are_counted_on() -> None:
    rotating = torch.zeros(2, 1).double(), torch.tensor([[9.0], [10.0]]).double()
    data = PENDULUM.simulate(n_steps=20, dt=0.05, initial=rotating)
    plain = {name: value for name, value in data.metadata.items() if name != "periodic"}
    wrapped = (data.q + math.pi) % (2 * math.pi) - math.pi
    assert not torch.equal(wrapped, data.q)
    runs = [
        hf.HNN(1, widths=(8,), periodic=[0]).fit(x.replace(metadata=plain), epochs=3, progress=False).history.train
        for x in (data, data.replace(q=wrapped))
    ]
    assert runs[0] == pytest.approx(runs[1], rel=1e-6)


# Doubts.


def test_velocities_that_stand_for_momenta_are_told() -> None:
    data = HenonHeiles().simulate(3, 10)
    with pytest.warns(UserWarning, match="data has no momenta: velocities stand for them"):
        fit(only(data, "q", "v"), epochs=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(only(data, "q", "p"), epochs=1)
        fit(only(SPRING.simulate(3, 10), "q", "v"), epochs=1)


@pytest.mark.parametrize("given", [("q",), ("q", "v")])
def test_an_angle_that_nobody_named_is_told(given: tuple[str, ...]) -> None:
    times = 0.1 * torch.arange(60, dtype=F64)
    speed = torch.tensor([2.0, 3.0], dtype=F64).reshape(2, 1, 1)
    q = speed * times.reshape(1, -1, 1)
    arrays = {"q": torch.remainder(q, 2 * math.pi), "v": speed.expand_as(q)}
    data = Trajectories(times=times, **{name: arrays[name] for name in given})
    with pytest.warns(UserWarning, match=r"coordinate 0 jumps by 2 pi .* metadata=\{'periodic': \[0\]\}"):
        fit(data, epochs=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(data.replace(metadata={"periodic": [0]}), epochs=1)
        # Counted on it jumps nowhere, and a walk through large numbers is none of angles.
        fit(data.replace(q=q), epochs=1)
        fit(data.replace(q=7 * q, v=None if data.v is None else 7 * data.v), epochs=1)


def test_parts_in_different_units_are_refused() -> None:
    data = only(SPRING.simulate(3, 10), "q", "p")
    parts = [data.replace(metadata={"units": {"q": unit}}) for unit in ("m", "mm")]
    with pytest.raises(hf.InputError, match=r"parts with units \{'q': 'm'\} and \{'q': 'mm'\}"):
        fit(parts)


def test_pieces_of_a_driven_motion_keep_their_clock() -> None:
    data = driven(0.0)
    for part in (data.windows(21, 20), data.between(25, None)):
        energy: Any = fit(only(part, "q", "p", "v", "p_dot"), Driven(), learn_from="derivatives", polish=40).hamiltonian
        assert energy.f.item() == pytest.approx(1.0, abs=1e-3)
    model = fit(data, Driven(), learn_from="derivatives", polish=40)
    path = model.rollout(data.q[:, 25], data.need("p")[:, 25], n_steps=20, dt=0.1, t=float(data.times[25]))
    assert (path.transpose(0, 1) - data.states[:, 25:46]).abs().max() < 0.02


def test_a_rollout_takes_as_many_steps_as_the_fit(tmp_path: Path) -> None:
    data = only(SPRING.simulate(4, 10, dt=0.4), "q", "p")
    model = fit(data, epochs=2, substeps=4)
    start = data.q[:, 0], data.need("p")[:, 0]
    model.save(tmp_path / "run")
    for one in (model, hf.load(tmp_path / "run")):
        expected = one.rollout(*start, n_steps=5, dt=0.4, substeps=4)
        torch.testing.assert_close(one.rollout(*start, n_steps=5, dt=0.4), expected, rtol=0, atol=0)
        assert not torch.equal(one.rollout(*start, n_steps=5, dt=0.4, substeps=1), expected)
