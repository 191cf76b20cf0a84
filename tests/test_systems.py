"""Systems: what they are, how well they are simulated, and what they refuse. Gradients and steps: test_members.py."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

import hamflow as hf
from hamflow.steps import KAHAN_LI6, KAHAN_LI8, TRIPLE_JUMP4, Composition, Fractions, GaussLegendre
from hamflow.systems import (
    SYSTEMS,
    ChargedParticle,
    DoublePendulum,
    HenonHeiles,
    MassSpring,
    NBody,
    Pendulum,
    RelativisticParticle,
    System,
    ThreeBody,
    TwoBody,
    WaveEquation,
)
from tests import members
from tests.test_steps import Swinging, Thickening


def bodies(masses: tuple[float, ...], space: int, gravity: float, softening: float) -> Callable[..., Any]:
    """The accelerations of bodies, by two loops."""

    def acceleration(q: np.ndarray, v: np.ndarray) -> np.ndarray:
        x = q.reshape(-1, space)
        result = np.zeros_like(x)
        for i in range(len(masses)):
            for j, mass in enumerate(masses):
                if i != j:
                    apart = x[j] - x[i]
                    result[i] += gravity * mass * apart / (apart @ apart + softening**2) ** 1.5
        return result.ravel()

    return acceleration


def double_pendulum(q: np.ndarray, v: np.ndarray) -> np.ndarray:
    """The equations of Euler and Lagrange for m = (2, 1), l = (1, 0.5), g = 9.81."""
    m1, m2, l1, l2, g = 2.0, 1.0, 1.0, 0.5, 9.81
    d = q[0] - q[1]
    matrix = [[(m1 + m2) * l1, m2 * l2 * np.cos(d)], [l1 * np.cos(d), l2]]
    right = [
        -m2 * l2 * v[1] ** 2 * np.sin(d) - (m1 + m2) * g * np.sin(q[0]),
        l1 * v[0] ** 2 * np.sin(d) - g * np.sin(q[1]),
    ]
    return np.linalg.solve(matrix, right)


FIELD = np.array([0.3, -0.5, 1.0])

#: System, acceleration as a textbook has it, time: a few characteristic ones.
MOTIONS: dict[str, tuple[Any, Callable[..., Any], float]] = {
    "mass_spring": (MassSpring(0.5, 3.0), lambda q, v: -6.0 * q, 10.0),
    "pendulum": (Pendulum(0.5, 2.0, 3.0), lambda q, v: -1.5 * np.sin(q), 10.0),
    "double_pendulum": (DoublePendulum((2.0, 1.0), (1.0, 0.5)), double_pendulum, 2.0),
    "henon_heiles": (
        HenonHeiles(0.9),
        lambda q, v: np.array([-q[0] - 1.8 * q[0] * q[1], -q[1] - 0.9 * (q[0] ** 2 - q[1] ** 2)]),
        20.0,
    ),
    "two_body": (TwoBody((1.0, 2.0), gravity=1.5), bodies((1.0, 2.0), 2, 1.5, 0.0), 10.0),
    "three_body": (ThreeBody(), bodies((1.0, 1.0, 1.0), 2, 1.0, 0.0), 3.0),
    "n_body": (NBody((1.0, 0.1, 0.3, 0.2), 2.0, 0.1, space=3), bodies((1.0, 0.1, 0.3, 0.2), 3, 2.0, 0.1), 3.0),
    "charged_particle": (ChargedParticle(2.0, -1.5, tuple(FIELD)), lambda q, v: -0.75 * np.cross(v, FIELD), 20.0),
    # A = (-y, x) (1 + x) has the upright field 2 + 3 x.
    "charged_in_a_gradient": (
        ChargedParticle(
            vector_potential=lambda q: torch.stack((-q[..., 1], q[..., 0]), -1) * (1 + q[..., :1]), space=2
        ),
        lambda q, v: (2 + 3 * q[0]) * np.array([v[1], -v[0]]),
        5.0,
    ),
    # gamma^3 m a = -k q.
    "relativistic_particle": (
        RelativisticParticle(0.5, 2.0, 3.0),
        lambda q, v: -6.0 * q * (1 - v**2 / 4) ** 1.5,
        10.0,
    ),
    "wave_equation": (WaveEquation(8, 4.0, 1.5), lambda q, v: 9.0 * (np.roll(q, 1) - 2 * q + np.roll(q, -1)), 2.0),
    "wave_with_fixed_ends": (
        WaveEquation(7, 4.0, 1.5, "fixed"),
        lambda q, v: 9.0 * np.diff(np.pad(q, 1), 2),
        2.0,
    ),
}
each_motion = pytest.mark.parametrize("name", MOTIONS)


def test_every_system_is_here() -> None:
    assert {type(system) for system, *_ in MOTIONS.values()} == set(SYSTEMS.values())
    assert {type(member.make()) for member in members.SYSTEMS.values()} == set(SYSTEMS.values())
    assert all(system().name == name for name, system in SYSTEMS.items())


@each_motion
def test_simulation_agrees_with_newton_and_scipy(name: str) -> None:
    """Positions and velocities against DOP853 on the textbook's acceleration, not on the gradient of H."""
    system, acceleration, time = MOTIONS[name]
    data = system.simulate(2, 40, time / 40, seed=1)

    def slope(t: float, state: np.ndarray) -> np.ndarray:
        q, v = np.split(state, 2)
        return np.concatenate((v, acceleration(q, v)))

    for k in range(2):
        start = torch.cat((data.q[k, 0], data.v[k, 0])).numpy()
        times = data.times.numpy()
        exact = solve_ivp(slope, (0, time), start, method="DOP853", t_eval=times, rtol=1e-13, atol=1e-13).y.T
        found = torch.cat((data.q[k], data.v[k]), -1).numpy()
        assert np.abs(found - exact).max() <= 1e-10 * (1 + np.abs(exact).max())
    energy = system(data.q, data.p)
    torch.testing.assert_close(energy, energy[:, :1].expand_as(energy), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", members.SYSTEMS)
def test_energy_does_not_drift(name: str) -> None:
    system = members.SYSTEMS[name].make()
    step = members.suited(system)
    q, p = system.initial_states(4, torch.Generator().manual_seed(1))
    start, errors = system(q, p), []
    with torch.no_grad():
        for _ in range(1000 if isinstance(system, hf.SeparableHamiltonian) else 100):
            q, p = step.iterate(q, p, 0.0, 0.1, 5)
            errors.append(system(q, p) - start)
    first, last = torch.stack(errors).abs().chunk(2)
    # It swings about as far at the end as at the beginning, or stays within rounding.
    assert last.max() <= max(1.5 * float(first.max()), 1e-12)
    assert first.max() < 2e-2


LAGRANGIANS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mass_spring": lambda q, v: (0.25 * v**2 - 1.5 * q**2).sum(-1),
    "pendulum": lambda q, v: (v**2 - 3.0 * (1 - q.cos())).sum(-1),
    "charged_particle": lambda q, v: (
        (v**2).sum(-1) - 0.75 * (v * torch.linalg.cross(torch.tensor(FIELD).expand_as(q), q)).sum(-1)
    ),
    "relativistic_particle": lambda q, v: (2 - 2 * (1 - v**2 / 4).sqrt() - 1.5 * q**2).sum(-1),
}


@each_motion
def test_legendre_transform(name: str) -> None:
    system = MOTIONS[name][0]
    q, p = system.initial_states(5, torch.Generator().manual_seed(2))
    v = system.velocity(q, p)
    torch.testing.assert_close(system.momentum(q, v), p, rtol=1e-12, atol=1e-12)
    slope = torch.func.grad(lambda u: system.lagrangian(q, u).sum())(v)
    torch.testing.assert_close(slope, p, rtol=1e-11, atol=1e-11)
    if name in LAGRANGIANS:
        torch.testing.assert_close(system.lagrangian(q, v), LAGRANGIANS[name](q, v), rtol=1e-12, atol=1e-12)


def test_double_pendulum_in_cartesian_coordinates(float64: torch.dtype) -> None:
    """T is half the sum of m v^2 of the two bobs, whose velocities are found from their places."""
    system = DoublePendulum((2.0, 1.0), (1.0, 0.5))
    q, v = torch.randn(2), torch.randn(2)

    def places(angles: Tensor) -> Tensor:
        bobs = torch.stack((angles.sin(), -angles.cos()), -1) * torch.tensor([[1.0], [0.5]])
        return bobs.cumsum(0)

    x, speed = torch.func.jvp(places, (q,), (v,))
    masses = torch.tensor([2.0, 1.0])
    kinetic = 0.5 * (masses * (speed**2).sum(-1)).sum()
    potential = 9.81 * (masses * (x - places(torch.zeros(2)))[:, 1]).sum()
    torch.testing.assert_close(system(q, system.momentum(q, v)), kinetic + potential)
    torch.testing.assert_close(system.lagrangian(q, v), kinetic - potential)


@each_motion
def test_derivatives_are_those_of_the_motion(name: str) -> None:
    data = MOTIONS[name][0].simulate(2, 8, 0.01, derivatives=True, seed=3)
    # Central differences of order 8, at the middle of nine states.
    half = [4 / 5, -1 / 5, 4 / 105, -1 / 280]
    weights = torch.tensor([-w for w in reversed(half)] + [0.0, *half], dtype=torch.float64)[:, None] / 0.01
    for of, derivative in (("q", "v"), ("p", "p_dot"), ("v", "v_dot")):
        slope = (weights * data.need(of)).sum(1)
        torch.testing.assert_close(slope, data.need(derivative)[:, 4], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("space", [2, 3])
def test_bodies_conserve_momentum_and_angular_momentum(space: int) -> None:
    system = NBody((1.0, 0.1, 0.3), 2.0, space=space)
    generator = torch.Generator().manual_seed(0)
    q, p = system.initial_states(3, generator)
    p = p + 0.2 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    data = system.simulate(initial=(q, p), n_steps=30)
    for value in (system.total_momentum(data.need("p")), system.angular_momentum(data.q, data.need("p"))):
        assert value.shape[:2] == (3, 31) and value.abs().max() > 0.1
        torch.testing.assert_close(value, value[:, :1].expand_as(value), rtol=1e-12, atol=1e-12)


def test_angular_momentum_by_hand() -> None:
    flat, deep = TwoBody(), TwoBody(space=3)
    q, p = torch.tensor([1.0, 2.0, 0.0, 3.0]), torch.tensor([4.0, 5.0, 6.0, 0.0])
    assert flat.angular_momentum(q, p) == 1 * 5 - 2 * 4 - 3 * 6
    assert flat.total_momentum(p).tolist() == [10, 5]
    x, y = torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0, 2.0]), torch.tensor([0.0, 1.0, 0.0, 3.0, 0.0, 0.0])
    assert deep.angular_momentum(x, y).tolist() == [0, 6, 1]


@pytest.mark.parametrize("system", [TwoBody((1.0, 3.0)), ThreeBody((1.0, 2.0, 3.0)), NBody((1.0,) * 5, softening=0.3)])
def test_bodies_circle_without_velocity_noise(system: NBody) -> None:
    q, p = system.initial_states(3, torch.Generator().manual_seed(0), velocity_noise=0.0)
    data = system.simulate(initial=(q, p), n_steps=20)
    x = data.q.unflatten(-1, (-1, system.space))
    distance = (x[..., 0, :] - x[..., 1, :]).norm(dim=-1)
    torch.testing.assert_close(distance, distance[:, :1].expand_as(distance), rtol=1e-9, atol=1e-9)
    assert system.total_momentum(data.need("p")).abs().max() < 1e-12


@pytest.mark.parametrize("name", SYSTEMS)
def test_default_simulation(name: str) -> None:
    system = SYSTEMS[name]()
    data = system.simulate(3, 4, derivatives=True, dtype=torch.float32)
    assert data.q.shape == (3, 5, system.dim) and data.q.dtype == data.times.dtype == torch.float32
    assert data.given == ("q", "p", "v", "p_dot", "v_dot")
    assert data.metadata["system"] == name and data.metadata["parameters"] == system.constants
    assert set(data.metadata["units"]) == {"time", *data.given}
    assert data.periodic == system.periodic and data.dt == pytest.approx(0.1)
    assert all(str(value) in repr(system) for value in system.constants.values())


def test_seeds_and_noise() -> None:
    system = Pendulum()

    def run(**settings: Any) -> Any:
        return system.simulate(200, 20, **{"noise": 0.1, "seed": 5} | settings)

    state = torch.random.get_rng_state()
    noisy, clean = run(derivatives=True), run(noise=0.0, derivatives=True)
    assert torch.equal(torch.random.get_rng_state(), state), "the caller's random state has moved"
    assert torch.equal(noisy.states, run().states)
    assert not torch.equal(noisy.states, run(seed=6).states)
    shake = noisy.states - clean.states
    # 8400 draws: their mean is known to 0.0011 and their standard deviation to 0.0008.
    assert abs(shake.mean()) < 0.005 and float(shake.std()) == pytest.approx(0.1, abs=0.004)
    assert abs((shake[..., 0] * shake[..., 1]).mean()) < 1e-3
    for name in ("v", "p_dot", "v_dot"):
        assert torch.equal(noisy.need(name), clean.need(name))
    measured = run(noise_on="velocities")
    assert torch.equal(measured.states, clean.states)
    assert float((measured.v - clean.v).std()) == pytest.approx(0.1, abs=0.006)


def test_noise_does_not_repeat_the_draws_of_the_states() -> None:
    start = torch.randn(2, 400, 1, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    settings = {"initial": tuple(start), "n_steps": 1, "seed": 5}
    shake = Pendulum().simulate(noise=0.1, **settings).q - Pendulum().simulate(**settings).q
    # Of independent draws the correlation is 0.035 in size.
    assert abs(float(torch.corrcoef(torch.stack((start.flatten(), shake.flatten())))[0, 1])) < 0.2


@pytest.mark.parametrize("system", [MassSpring(), Pendulum(), HenonHeiles()])
def test_oscillators_start_at_radii_in_the_range(system: Any) -> None:
    q, p = system.initial_states(4000, torch.Generator().manual_seed(0), radius=(1.0, 3.0))
    radius = (q**2 + p**2).sum(-1).sqrt()
    assert 1 - 1e-12 <= radius.min() < 1.01 and 2.99 < radius.max() <= 3 + 1e-12
    assert float(radius.mean()) == pytest.approx(2, abs=0.05)
    assert torch.cat((q, p), -1).mean(0).abs().max() < 0.15


def test_initial_states_are_taken() -> None:
    data = Pendulum().simulate(initial=([0.5], [0.0]), n_steps=3)
    assert data.q.shape == (1, 4, 1) and data.q[0, 0, 0] == 0.5
    assert MassSpring().simulate(2, 3, initial=(torch.zeros(2, 1), torch.zeros(2, 1))).q.abs().max() == 0


def test_a_batch_is_its_rows() -> None:
    system = ThreeBody()
    q, p = system.initial_states(4, torch.Generator().manual_seed(0))
    together = system.simulate(initial=(q, p), n_steps=5)
    for k in range(4):
        alone = system.simulate(initial=(q[k], p[k]), n_steps=5)
        torch.testing.assert_close(alone.states[0], together.states[k], rtol=1e-11, atol=1e-11)


def test_a_collision_is_an_error_that_names_it() -> None:
    """Two bodies that fall from rest at the distance 1 meet after pi / 4."""
    q = torch.tensor([[1.0, 0.0, -1.0, 0.0], [0.5, 0.0, -0.5, 0.0]])
    p = torch.tensor([[0.0, 0.5, 0.0, -0.5], [0.0, 0.0, 0.0, 0.0]])
    with pytest.raises(hf.SolveError, match=r"trajectory 1 between times 0\.7 and 0\.8: .*tolerance = 1e-12"):
        TwoBody().simulate(initial=(q, p), n_steps=20)


def test_slow_relativistic_particles_keep_their_digits() -> None:
    energy = RelativisticParticle(c=1e5)(torch.zeros(1), torch.tensor([1e-3], dtype=torch.float64))
    assert float(energy) == pytest.approx(5e-7, rel=1e-14)


@pytest.mark.parametrize("fractions", [TRIPLE_JUMP4, KAHAN_LI6, KAHAN_LI8], ids=lambda f: f.name)
def test_composition_follows_time(fractions: Fractions) -> None:
    step = Composition(hf.Splitting(hf.SeparableHamiltonian(Thickening(), Swinging())), fractions)
    q, p = torch.randn(3, 1).double(), torch.randn(3, 1).double()
    torch.testing.assert_close(step.inverse(*step(q, p, 0.7, 0.3), 0.7, 0.3), (q, p), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_gauss_follows_time_and_takes_rows_of_time_steps(stages: int) -> None:
    hamiltonian = hf.FunctionHamiltonian(members.geodesic)
    step = GaussLegendre(hamiltonian, stages)
    q, p = torch.randn(3, 1).double(), torch.randn(3, 1).double()
    dt = torch.tensor([[0.1], [0.2], [0.3]]).double()
    end = step(q, p, 0.7, dt)
    torch.testing.assert_close(step.inverse(*end, 0.7, dt), (q, p), rtol=1e-12, atol=1e-12)
    for k in range(3):
        torch.testing.assert_close(step(q[k], p[k], 0.7, float(dt[k])), (end[0][k], end[1][k]), rtol=1e-12, atol=1e-12)
    if stages == 1:
        torch.testing.assert_close(hf.ImplicitMidpoint(hamiltonian)(q, p, 0.7, dt), end, rtol=1e-12, atol=1e-12)


class Shaken(hf.Hamiltonian):
    """A pendulum whose gravity swings, for times of any shape."""

    def forward(self, q: Tensor, p: Tensor, t: Any = 0.0) -> Tensor:
        gravity = 2 + torch.sin(3 * torch.as_tensor(t, dtype=q.dtype))
        return (0.5 * p**2 - gravity * q.cos()).sum(-1)


@pytest.mark.parametrize("stages", [1, 2])
def test_order_of_gauss_in_time(stages: int) -> None:
    step = GaussLegendre(Shaken(), stages)
    states = torch.randn(3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert hf.testing.measure_order(step, step.hamiltonian, states) == pytest.approx(2 * stages, abs=0.2)
    q, p = states.chunk(2, -1)
    torch.testing.assert_close(step.inverse(*step(q, p, 0.7, 0.3), 0.7, 0.3), (q, p), rtol=1e-12, atol=1e-12)


def test_gauss_solve_that_fails_is_an_error() -> None:
    with pytest.raises(hf.SolveError, match=r"GaussLegendre: .* at most 5 iterations, .*a smaller dt helps"):
        GaussLegendre(MassSpring(stiffness=100.0), max_iterations=5)(torch.ones(1, 1), torch.ones(1, 1), 0.0, 1.0)


def simulate(**settings: Any) -> Callable[[], Any]:
    return lambda: Pendulum().simulate(**settings)


REFUSALS: dict[str, tuple[Callable[[], Any], str]] = {
    "mass": (lambda: MassSpring(mass=0.0), "mass = 0.0, expected a positive"),
    "length": (lambda: Pendulum(length=-1.0), "length = -1.0"),
    "lambda": (lambda: HenonHeiles(float("nan")), "lambda_ = nan, expected a finite number"),
    "masses": (lambda: DoublePendulum(masses=(1.0,)), r"masses = \(1.0,\), expected a sequence of 2"),
    "one_body": (lambda: NBody((1.0,)), "expected two or more"),
    "three_masses": (lambda: TwoBody((1.0, 1.0, 1.0)), "expected a sequence of 2"),
    "softening": (lambda: NBody(softening=-0.1), "softening = -0.1"),
    "space": (lambda: NBody(space=4), "space = 4, expected 2 or 3"),
    "field": (lambda: ChargedParticle(field=(1.0, 2.0)), r"field = \(1.0, 2.0\), expected a number"),
    "both": (lambda: ChargedParticle(field=1.0, vector_potential=lambda q: q), "both given"),
    "potential": (
        lambda: ChargedParticle(vector_potential=lambda q: q.sum(-1)).simulate(),
        r"vector_potential returned shape \(1,\)",
    ),
    "energy": (lambda: RelativisticParticle(potential=torch.cos), "expected an Energy"),  # type: ignore[arg-type]
    "boundary": (lambda: WaveEquation(boundary="free"), "boundary = 'free', expected one of 'periodic', 'fixed'"),
    "modes": (lambda: WaveEquation().initial_states(3, modes=0), "modes = 0"),
    "n_steps": (simulate(n_steps=0), "n_steps = 0"),
    "n_trajectories": (simulate(n_trajectories=2.5), "n_trajectories = 2.5"),
    "dt": (simulate(dt=-0.1), "dt = -0.1"),
    "noise": (simulate(noise=-1.0), "noise = -1.0, expected a standard deviation"),
    "noise_on": (simulate(noise_on="q"), "noise_on = 'q', expected one of 'states', 'velocities'"),
    "seed": (simulate(seed=-1), "seed = -1"),
    "tolerance": (simulate(tolerance=0), "tolerance = 0"),
    "dtype": (simulate(dtype=torch.int64), "dtype = torch.int64, expected a floating dtype"),
    "device": (simulate(device="nowhere"), "device = 'nowhere'"),
    "no_pair": (simulate(initial=torch.zeros(3)), "initial is a Tensor, expected a pair"),
    "shape": (simulate(initial=(torch.zeros(3, 2), torch.zeros(3, 2))), r"expected \(n, 1\) for both"),
    "nan": (simulate(initial=([float("nan")], [0.0])), "initial holds NaN"),
    "text": (simulate(initial=("a", "b")), "initial does not hold numbers"),
    "rows": (simulate(n_trajectories=2, initial=(torch.zeros(3, 1), torch.zeros(3, 1))), "expected the 3 rows"),
    "radius": (lambda: Pendulum().initial_states(3, radius=(2.0, 1.0)), r"radius = \(2.0, 1.0\)"),
    "spread": (lambda: TwoBody().initial_states(3, velocity_noise=-1.0), "velocity_noise = -1.0"),
    "step": (lambda: Composition(Pendulum()), "step is a Pendulum"),  # type: ignore[arg-type]
    "order": (lambda: Composition(GaussLegendre(Pendulum(), 2)), "step has order 4, expected a symmetric"),
    "fractions": (lambda: Composition(hf.Splitting(Pendulum()), hf.YOSHIDA4), "fractions is a Scheme"),  # type: ignore[arg-type]
    "palindrome": (lambda: Fractions("x", (0.4, 0.6), 2, ""), "expected a palindrome"),
    "sum": (lambda: Fractions("x", (0.6, 0.6), 2, ""), r"values sum to 1\.2, expected 1"),
    "hamiltonian": (lambda: GaussLegendre(torch.cos), "hamiltonian is a builtin"),  # type: ignore[arg-type]
    "stages": (lambda: GaussLegendre(Pendulum(), 0), "stages = 0"),
}


@pytest.mark.parametrize(("call", "message"), REFUSALS.values(), ids=REFUSALS.keys())
def test_bad_arguments_are_named(call: Any, message: str) -> None:
    with pytest.raises(hf.InputError, match=message):
        call()


def test_abstract_system_says_what_is_missing() -> None:
    with pytest.raises(NotImplementedError, match="System must implement initial_states"):
        System().initial_states(1)
    with pytest.raises(NotImplementedError, match="System must implement momentum"):
        System().momentum(torch.ones(1), torch.ones(1))
