"""A step inside a Pyro model: the density, batches, uneven times, recovery of known numbers, and bad input."""

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO
from torch import Tensor

import hamflow as hf
from hamflow.inference import observe_path

TRUTH = {"length": 1.2, "friction": 0.15, "noise": 0.03, "angle": 1.1, "speed": 0.4}
#: Uneven, with gaps.
TIMES = torch.tensor([0.0, 0.13, 0.2, 0.55, 0.6, 0.71, 1.4, 1.5, 1.58, 1.9, 2.3, 2.35, 2.9, 3.3])


pytestmark = pytest.mark.usefixtures("float64")


def pendulum(length: Any, friction: Any, mass: Any = 1.0) -> hf.Step:
    weight = mass * 9.81 * length
    swing = hf.FunctionEnergy(lambda q: -(weight * q.cos()).sum(-1), gradient=lambda q: weight * q.sin())
    kinetic = hf.QuadraticKinetic(1, mass=mass * length**2)
    return hf.Damped(hf.Splitting(hf.SeparableHamiltonian(kinetic, swing), hf.YOSHIDA4), friction)


def number(name: str, loc: float, scale: float, *, positive: bool = True) -> Tensor:
    law = dist.LogNormal(math.log(loc), scale) if positive else dist.Normal(loc, scale)
    return pyro.sample(name, law.expand([1]).to_event(1))  # type: ignore[no-any-return]


def model(times: Tensor, obs: Tensor | None = None) -> tuple[Tensor, Tensor]:
    length, friction = number("length", 1.0, 0.3), number("friction", 0.1, 1.0)
    noise, q = number("noise", 0.05, 1.0), number("angle", 1.0, 0.3, positive=False)
    p = length**2 * number("speed", 0.0, 0.5, positive=False)
    step = pendulum(length, friction)
    return observe_path("q", step, q, p, times, dt=0.1, noise=noise, obs=obs, t=0.0)


def truth() -> dict[str, Tensor]:
    return {name: torch.tensor([value]) for name, value in TRUTH.items()}


def fine(times: Tensor) -> Tensor:
    """The true path, every frame reached from the start by steps of its own."""
    q, p = torch.tensor([TRUTH["angle"]]), torch.tensor([TRUTH["length"] ** 2 * TRUTH["speed"]])
    step = pendulum(TRUTH["length"], TRUTH["friction"])
    return torch.stack([step.iterate(q, p, 0.0, float(t) / 300, 300)[0] if t else q for t in times])


def test_uneven_times_meet_a_fine_solution() -> None:
    expected = fine(TIMES)
    errors = []
    for dt in (0.1, 0.05):
        q, p = torch.tensor([TRUTH["angle"]]), torch.tensor([TRUTH["length"] ** 2 * TRUTH["speed"]])
        path, _ = observe_path("q", pendulum(1.2, 0.15), q, p, TIMES, dt=dt, noise=0.1)
        errors.append(float((path - expected).abs().max()))
    # Friction is of order 2, and so is the whole.
    assert errors[0] < 2e-3 and 3 < errors[0] / errors[1] < 16


def test_log_density_is_the_one_written_by_hand() -> None:
    obs = fine(TIMES) + 0.03 * torch.randn(len(TIMES), 1)
    conditioned = pyro.condition(model, truth())
    trace = poutine.trace(conditioned).get_trace(TIMES, obs)
    path, _ = trace.nodes["_RETURN"]["value"]
    sigma = TRUTH["noise"]
    expected = (-0.5 * ((obs - path) / sigma) ** 2 - math.log(sigma) - 0.5 * math.log(2 * math.pi)).sum()
    trace.compute_log_prob()
    torch.testing.assert_close(trace.nodes["q"]["log_prob_sum"], expected, rtol=1e-12, atol=0)
    assert float((path - fine(TIMES)).abs().max()) < 2e-3


def test_first_frame_may_come_after_the_start_and_may_be_the_only_one() -> None:
    q, p = torch.tensor([1.1]), torch.tensor([0.5])
    step = pendulum(1.2, 0.15)
    alone, _ = observe_path("q", step, q, p, [0.77], dt=0.1, noise=0.1, t=0.0)
    among, _ = observe_path("q", step, q, p, [0.0, 0.3, 0.77], dt=0.1, noise=0.1)
    torch.testing.assert_close(alone[0], among[-1])
    torch.testing.assert_close(observe_path("q", step, q, p, [5.0], dt=0.1, noise=0.1)[0][0], q)


def test_particles_equal_single_ones() -> None:
    draws = {name: value * (1 + 0.1 * torch.rand(7, 1)) for name, value in truth().items()}
    obs = fine(TIMES)

    def density(values: dict[str, Tensor]) -> Tensor:
        trace = poutine.trace(pyro.condition(model, values)).get_trace(TIMES, obs)
        trace.compute_log_prob()
        return trace.nodes["q"]["log_prob"]  # type: ignore[no-any-return]

    with pyro.plate("particles", 7):
        together = density(draws)
    single = torch.stack([density({name: value[k] for name, value in draws.items()}) for k in range(7)])
    assert together.shape == (7,)
    torch.testing.assert_close(together, single, rtol=1e-11, atol=0)


def test_gradients_reach_every_number() -> None:
    values = {name: value.requires_grad_() for name, value in truth().items()}
    path, _ = pyro.condition(model, values)(TIMES)
    slopes = torch.autograd.grad(path.sum(), [values[name] for name in TRUTH if name != "noise"])
    for name, slope in zip((name for name in TRUTH if name != "noise"), slopes, strict=True):
        ends = []
        for sign in (1, -1):
            moved = truth() | {name: torch.tensor([TRUTH[name] + sign * 1e-5])}
            ends.append(pyro.condition(model, moved)(TIMES)[0].sum())
        torch.testing.assert_close(slope[0], (ends[0] - ends[1]) / 2e-5, rtol=1e-6, atol=1e-8)


def test_angles_alone_say_nothing_of_the_mass() -> None:
    paths = []
    for mass in (0.5, 5.0):
        inertia = mass * 1.2**2
        q, p = torch.tensor([1.1]), torch.tensor([0.4 * inertia])
        step = pendulum(torch.tensor([1.2]), 0.15, torch.tensor([mass]))
        paths.append(observe_path("q", step, q, p, TIMES, dt=0.1, noise=0.1)[0])
    torch.testing.assert_close(paths[0], paths[1], rtol=1e-12, atol=1e-12)


def test_an_angle_counts_from_the_turn_nearest_to_the_path() -> None:
    obs = fine(TIMES)
    turned = obs + 2 * math.pi * torch.randint(-2, 3, obs.shape)
    found = []
    for measured, periodic in ((obs, ()), (turned, (0,)), (turned, ())):
        q, p = torch.tensor([1.1]), torch.tensor([0.5])

        def rolled(measured: Tensor = measured, periodic: Any = periodic, q: Tensor = q, p: Tensor = p) -> None:
            step = pendulum(1.2, 0.15)
            observe_path("q", step, q, p, TIMES, dt=0.1, noise=0.1, obs=measured, periodic=periodic)

        found.append(poutine.trace(rolled).get_trace().log_prob_sum())
    torch.testing.assert_close(found[0], found[1])
    assert found[2] < found[0] - 100


def test_several_swings_in_a_plate_and_predictive_shapes() -> None:
    def swings(obs: Tensor | None = None) -> None:
        length = number("length", 1.0, 0.3)
        with pyro.plate("swings", 3):
            q = number("angle", 1.0, 0.3, positive=False)
            observe_path("q", pendulum(length, 0.1), q, 0 * q, TIMES, dt=0.1, noise=0.05, obs=obs)

    drawn = Predictive(swings, num_samples=1)()["q"]
    assert drawn.shape == (1, 3, len(TIMES), 1)
    trace = poutine.trace(swings).get_trace(drawn[0])
    trace.compute_log_prob()
    assert trace.nodes["q"]["log_prob"].shape == (3,)
    for parallel in (False, True):
        draws = {name: value.expand(5, 1) for name, value in truth().items()}
        assert Predictive(model, draws, parallel=parallel)(TIMES)["q"].shape == (5, len(TIMES), 1)


def test_known_numbers_are_found_again() -> None:
    times = torch.linspace(0, 3, 31)[torch.rand(31) > 0.2]
    obs = Predictive(pyro.condition(model, truth()), num_samples=1)(times)["q"][0]
    guide = hf.AutoHamiltonianFlow(model, start="laplace", n_steps=1, width=8)
    loss = Trace_ELBO(num_particles=16, vectorize_particles=True, max_plate_nesting=0)
    svi = SVI(model, guide, pyro.optim.ClippedAdam({"lr": 0.005}), loss)
    for _ in range(40):
        svi.step(times, obs)
    draws = guide.sample_posterior(1000, times, obs, seed=0)
    for name, value in truth().items():
        mean, sd = draws[name].mean(), draws[name].std()
        assert (mean - value).abs() < 3 * sd, name
        # The data know far more than the prior did.
        assert sd < 0.12, name


STATE = torch.tensor([1.0])


def flat() -> hf.Step:
    """A step of a law whose latent has no dimension of its own."""
    spring = hf.FunctionEnergy(lambda q: (q**2).sum(-1), gradient=lambda q: torch.ones(8) * q)
    return hf.Splitting(hf.SeparableHamiltonian(hf.QuadraticKinetic(1), spring))


REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "step": ({"step": 3}, "step is a int, expected a hamflow Step"),
    "shapes": ({"p": torch.ones(2)}, r"q is \(1,\) and p is \(2,\), expected tensors of shape \(\*batch, d\)"),
    "falling": ({"times": [0.0, 0.2, 0.1]}, r"times have shape \(3,\), expected \(n,\), finite and rising"),
    "table of times": ({"times": [[0.0, 0.2]]}, r"times have shape \(1, 2\)"),
    "late start": ({"t": 0.5}, "t = 0.5, expected a number up to the first of times, 0"),
    "dt": ({"dt": 0.0}, "dt = 0.0"),
    "noise": ({"noise": 0.0}, "noise = 0.0, expected a positive number or tensor"),
    "negative noise": ({"noise": torch.tensor([-0.1])}, "expected a positive number or tensor"),
    "shape of noise": ({"noise": torch.ones(3)}, r"noise has shape \(3,\)"),
    "obs": ({"obs": torch.ones(2, 1)}, r"obs has shape \(2, 1\), expected \(\*batch, 3, 1\)"),
    "missing": ({"obs": torch.tensor([[0.0], [math.nan], [0.0]])}, "leave missing frames out of times"),
    "periodic": ({"periodic": (1,)}, r"periodic = \(1,\), expected coordinates from 0 to 0"),
    "no list": ({"periodic": True}, "periodic = True, expected coordinates from 0 to 0"),
    "word": ({"noise": "a"}, "noise = 'a', expected a positive number or tensor"),
    "scalars": (
        {"step": flat()},
        r"step leads to states of shape \(8,\) from \(\*batch, 1\), expected .*\.to_event\(1\)",
    ),
}


def test_a_path_that_leaves_the_numbers_is_no_error() -> None:
    # A proposal, which a sampler rejects and of which SVI has others.
    with poutine.trace() as trace:
        observe_path(
            "q", pendulum(1.0, 0.1), STATE, math.inf * STATE, [0.0, 0.1, 0.2], dt=0.1, noise=0.1, obs=torch.zeros(3, 1)
        )
    assert not trace.trace.log_prob_sum().isfinite()


@pytest.mark.parametrize(("changed", "message"), REFUSALS.values(), ids=REFUSALS.keys())
def test_bad_arguments_are_named(changed: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"step": pendulum(1.0, 0.1), "q": STATE, "p": STATE, "times": [0.0, 0.1, 0.2]}
    given |= {"dt": 0.1, "noise": 0.1}
    with pytest.raises(hf.InputError, match=message):
        observe_path("q", **given | changed)


LATENT: dict[str, Callable[[Tensor], Any]] = {
    "mass": lambda x: hf.QuadraticKinetic(2, mass=x).gradient(torch.ones(3, 2)),
    "friction": lambda x: hf.Damped(hf.Drift(hf.QuadraticKinetic(2)), x)(torch.ones(3, 2), torch.ones(3, 2))[1],
}


@pytest.mark.parametrize("use", LATENT.values(), ids=LATENT.keys())
@pytest.mark.parametrize("shape", [(), (2,), (3, 1), (3, 2)])
def test_a_given_tensor_keeps_its_graph(use: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> None:
    x = (0.5 + torch.rand(shape)).requires_grad_()
    assert torch.autograd.gradcheck(use, (x,))
