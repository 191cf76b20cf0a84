"""Data that are doubtful are told before anything is learned from them; right data, noisy and coarse ones, are not."""

import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch

import hamflow as hf
from hamflow.models.doubts import contradictions
from hamflow.systems import SYSTEMS, HenonHeiles, MassSpring, Pendulum, Trajectories

F64 = torch.float64
SPRING = MassSpring(mass=0.5, stiffness=3.0).simulate(4, 20, dt=0.1, derivatives=True)
SWING = Pendulum(mass=0.5, gravity=6.0).simulate(4, 20, dt=0.1, derivatives=True)
PLANE = HenonHeiles().simulate(20, 40, dt=0.1, derivatives=True)


def told(data: Any, model: Callable[..., Any] = hf.LNN, **settings: Any) -> list[str]:
    """What a fit warns of; an error ends the list."""
    dim = (data[0] if isinstance(data, list) else data).dim
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        errors = []
        try:
            model(dim, widths=(4,)).fit(data, **{"epochs": 1, "progress": False} | settings)
        except hf.InputError as error:
            errors.append(str(error))
    return [str(one.message) for one in found if one.category is UserWarning] + errors


def part(data: Trajectories, name: str, coordinate: int, factor: float) -> Trajectories:
    """With one coordinate of one array times a factor."""
    factors = torch.ones(data.dim, dtype=F64)
    factors[coordinate] = factor
    return data.replace(**{name: factors * data.need(name)})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (SPRING.replace(v=-SPRING.need("v")), r"v contradicts q in coordinate 0 \(slope -1.01\)"),
        (part(PLANE, "v", 1, -1.0), r"v contradicts q in coordinate 1 \(slope -1\):"),
        (part(PLANE, "v", 0, 57.3), r"v contradicts q in coordinate 0 \(slope 0.0175\):"),
        (SPRING.replace(q=SPRING.v, v=SPRING.q), r"v contradicts q in coordinate 0 \(slope -6.\d+\)"),
        (PLANE.replace(v=PLANE.need("v").flip(-1)), r"v contradicts q in coordinate 0 \(.*, coordinate 1 \("),
        (SPRING.replace(times=1e3 * SPRING.times), r"v contradicts q in coordinate 0 \(slope 0.00101\)"),
        (SPRING.replace(times=SPRING.times / 60), r"v contradicts q in coordinate 0 \(slope 60.\d+\)"),
        (SPRING.replace(v_dot=-SPRING.need("v_dot")), r"v_dot contradicts v in coordinate 0 \(slope -1.01\)"),
        (SWING.replace(v=-SWING.need("v")), r"v contradicts q in coordinate 0 \(slope -1\)"),
        (SWING.replace(times=1e3 * SWING.times), r"v contradicts q in coordinate 0 \(slope 0.001\)"),
    ],
)
def test_derivatives_that_contradict_states_are_told(data: Trajectories, message: str) -> None:
    for dtype in (F64, torch.float32):
        assert re.search(message, " ".join(told(data.to(dtype))))
    shaken = data.q + 0.02 * data.q.std() * torch.randn(data.q.shape, generator=torch.Generator().manual_seed(0))
    found = contradictions([data.replace(q=shaken)], "q", "v", torch.zeros(data.dim))
    assert bool(found) == (data.v_dot is not None and "v_dot c" not in message)


def test_momenta_are_held_against_forces() -> None:
    wrong = SPRING.replace(p_dot=-SPRING.need("p_dot"))
    assert "p_dot contradicts p in coordinate 0 (slope -1.01)" in told(wrong, hf.HNN)[0]
    assert not told(SPRING, hf.HNN) and not told(wrong), "a Lagrangian model takes no momenta"


def test_of_many_coordinates_some_are_told() -> None:
    wave = hf.systems.WaveEquation(12).simulate(3, 10, dt=0.02, derivatives=True)
    (message,) = told(wave.replace(v=-wave.need("v"), v_dot=-wave.need("v_dot")))
    assert message.count("slope -") == 5 and "and 7 more: " in message


def test_angles_that_velocities_contradict() -> None:
    """They are not said to lie within one turn: nothing of q is."""
    for wrong in (SWING.replace(times=1e3 * SWING.times), SWING.replace(v=57.3 * SWING.need("v"))):
        with pytest.raises(hf.InputError, match=r"v contradicts q: in trajectory 0 coordinate 0 moves by -?0.\d+ from"):
            wrong.unwrapped()
        assert "v contradicts q in coordinate 0" in told(wrong)[0]


def _right(name: str) -> Trajectories:
    kind = SYSTEMS[name]
    return kind().simulate(3, 20, dt=0.1, derivatives=True, tolerance=1e-8)  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", SYSTEMS)
def test_right_data_raise_no_doubt(name: str) -> None:
    """Exact, of another precision, sampled coarsely, and with noise up to the size of the motion, declared or not."""
    data = _right(name)
    sets = [data, data.to(torch.float32)]
    if data.dim < 10:
        # Waves on a fine grid are too fast for that.
        sets.append(data._map(lambda x: x[:, ::3], own_times=True))
    generator = torch.Generator().manual_seed(0)
    for share in (0.1, 1.0):
        q, v = (
            x + share * x.std() * torch.randn(x.shape, generator=generator, dtype=F64) for x in (data.q, data.need("v"))
        )
        sets.append(data.replace(q=q, v=v))
        known = share * data.need("v").std()
        assert not contradictions([sets[-1]], "q", "v", known.expand(data.dim))
    for one in sets:
        for first, second in (("q", "v"), ("v", "v_dot"), ("p", "p_dot")):
            assert not contradictions([one], first, second, torch.zeros(data.dim)), (first, second)


def test_turns_that_velocities_foretell_raise_no_doubt() -> None:
    """An angle that goes round within one turn, slowly and by more than half a turn a step."""
    for speed in (2.0, 40.0):
        t = 0.1 * torch.arange(60, dtype=F64)
        q, v = speed * t + 0.3 * t.sin(), speed + 0.3 * t.cos()
        arrays = {"times": t, "q": torch.remainder(q, 2 * torch.pi).reshape(1, -1, 1), "v": v.reshape(1, -1, 1)}
        right = Trajectories(**arrays, metadata={"periodic": [0]})
        counted = right.replace(q=q.reshape(1, -1, 1))
        for data in (right, counted):
            assert not contradictions([data], "q", "v", torch.zeros(1))
        wrong = right.replace(times=1e3 * t)
        assert contradictions([wrong], "q", "v", torch.zeros(1))


def test_too_few_steps_raise_no_doubt() -> None:
    wrong = SPRING.replace(v=-SPRING.need("v"))
    single = wrong._map(lambda x: x[:, :1], own_times=True)
    few = wrong[:1]._map(lambda x: x[:, :4], own_times=True)
    for data in (single, few):
        assert not told(data)
    # Many short trajectories are enough.
    assert "v contradicts q" in told(wrong.windows(2))[0]


def test_pauses_raise_no_doubt() -> None:
    """What lies between is not foretold, and one long step outweighs all others."""
    data = MassSpring(mass=0.5, stiffness=3.0).simulate(3, 60, dt=0.05, derivatives=True)
    keep = torch.cat((torch.arange(20), torch.arange(50, 61)))
    gaps = data.replace(times=data.times[keep], **{name: getattr(data, name)[:, keep] for name in data.given})
    assert not told(gaps) and not told(gaps, hf.HNN)
    assert "v contradicts q" in told(gaps.replace(v=-gaps.need("v")))[0]


def test_uniform_motion_raises_no_doubt() -> None:
    """Rounding of velocities that never change is no contradiction of accelerations."""
    t = torch.linspace(0, 1, 30, dtype=F64)
    v = 0.1 + 1e-16 * torch.randn(1, 30, 1, generator=torch.Generator().manual_seed(0), dtype=F64)
    for v_dot in (torch.zeros_like(v), 1e-17 * v):
        data = Trajectories(times=t, q=5 + 0.1 * t.reshape(1, -1, 1), v=v, v_dot=v_dot)
        assert not contradictions([data], "v", "v_dot", torch.zeros(1))


@pytest.mark.parametrize(
    ("names", "model", "message"),
    [
        (("q", "v_dot"), hf.LNN, "data has v_dot but no v: v_dot is not used"),
        (("q", "v_dot"), hf.HNN, "data has v_dot but no v: v_dot is not used"),
        (("q", "p", "p_dot"), hf.HNN, "data has p_dot but no v: p_dot is not used"),
        (("q", "v", "p_dot"), hf.HNN, "data has p_dot but no p: p_dot is not used"),
        (("q", "p", "v", "v_dot"), hf.HNN, "data has v_dot but no p_dot: v_dot is not used"),
    ],
)
def test_derivatives_that_are_not_used_are_told(names: tuple[str, ...], model: Any, message: str) -> None:
    data = SPRING.replace(**{name: None for name in SPRING.given if name not in names})
    (found,) = told(data, model)
    assert found.startswith(message)
    assert not told(data, model, learn_from="states"), "as asked for"
    if "p_dot" not in message.split(":")[0] or "p" in names:
        filled = hf.systems.estimate_derivatives(data, method="interpolation")
        assert not told(filled, model)


def test_a_coordinate_that_rests_is_told() -> None:
    still = torch.tensor([1.0, 0.0], dtype=F64)
    data = PLANE.replace(
        q=PLANE.q * still + torch.tensor([0.0, 3.1], dtype=F64), v=PLANE.need("v") * still,
        v_dot=PLANE.need("v_dot") * still, p=PLANE.need("p") * still, p_dot=PLANE.need("p_dot") * still,
    )  # fmt: skip
    message = "data: coordinate 1 does not move: nothing can be learned about what happens along it"
    for model in (hf.LNN, hf.HNN):
        assert told(data, model) == [message]
        assert told([data[:10], data[10:]], model) == [message]
    assert told(data.replace(v=None, v_dot=None)) == [message]
    # At rest in different places a force is learned, and so it is of one state with a velocity.
    apart = data.q + torch.tensor([0.0, 1.0], dtype=F64) * torch.arange(20).reshape(-1, 1, 1)
    assert not told(data.replace(q=apart))
    assert not told(PLANE[:1]._map(lambda x: x[:, :1], own_times=True), validation=None)
