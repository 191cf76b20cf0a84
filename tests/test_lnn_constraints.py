"""Lagrangians learned under a constraint."""

import warnings
from typing import Any

import pytest
import torch

import hamflow as hf
from hamflow.systems import Trajectories
from tests.lagrangian_fits import SOURCES, fit, hung


@SOURCES
def test_a_pendulum_in_cartesian_coordinates(learn_from: str, float64: torch.dtype) -> None:
    data = hung(5, 10)
    rod = hf.RigidLinks([(-1, 0)], 0.7, points=1, space=2)
    polish = 10 if learn_from == "states" else 80
    model = fit(
        data,
        "constant_mass",
        constraint=rod,
        learn_from=learn_from,
        polish=polish,
        composition=None,
        rule="trapezoidal",
    )
    q, v = data.q[:, ::4].flatten(0, 1), data.need("v")[:, ::4].flatten(0, 1)
    error = model.acceleration(q, v) - data.need("v_dot")[:, ::4].flatten(0, 1)
    assert error.abs().max() < (1.0 if learn_from == "states" else 0.1), "of up to 30"
    path = model.rollout(data.q[:, 0], data.need("v")[:, 0], n_steps=10, dt=0.05, substeps=2)
    assert (path[..., :2] - data.q.transpose(0, 1)).abs().max() < 0.03
    assert rod(path[..., :2]).abs().max() < 1e-10
    assert rod.along(*path.chunk(2, -1)).abs().max() < 1e-10


def test_a_pause_under_a_constraint(float64: torch.dtype) -> None:
    data = hung(3, 60)
    keep = torch.cat((torch.arange(20), torch.arange(50, 61)))
    gaps = data.replace(times=data.times[keep], **{name: getattr(data, name)[:, keep] for name in data.given})
    model = fit(
        gaps, "constant_mass", constraint=hf.RigidLinks([(-1, 0)], 0.7, points=1, space=2), learn_from="states",
        epochs=6, composition=None,
    )  # fmt: skip
    assert min(model.history.validation) < model.history.start and not model.history.notes


ROD = hf.RigidLinks([(-1, 0)], 0.7, points=1, space=2)


def test_states_off_the_constraint_are_moved_onto_it(float64: torch.dtype) -> None:
    model = hf.LNN(2, lagrangian="constant_mass", widths=(8,), constraint=ROD)
    q, v = torch.tensor([[0.72, 0.01], [0.5, 0.5]]), torch.tensor([[0.3, 1.0], [0.0, 1.0]])
    with pytest.warns(UserWarning) as told:
        path = model.rollout(q, v, n_steps=3, dt=0.05)
    assert ROD(path[..., :2]).abs().max() < 1e-12 and ROD.along(*path.chunk(2, -1)).abs().max() < 1e-12
    assert (path[0, :, :2] - q).abs().max() < 0.05
    first, second = (str(one.message) for one in told if one.category is UserWarning)
    assert (
        first == "2 of 2 initial q are off the constraint and were moved onto it, the farthest by 0.0201 at index (0,)"
    )
    assert (
        second == "2 of 2 initial v are off the constraint and were moved onto it, the farthest by 0.707 at index (1,)"
    )


def test_small_moves_onto_the_constraint_are_not_told(float64: torch.dtype) -> None:
    """Rounding of float32, noise of half a per cent, and speeds of rounding at rest."""
    model = hf.LNN(2, lagrangian="constant_mass", widths=(8,), constraint=ROD)
    data = hung(3, 5)
    at = data.q[:, 2], data.need("v")[:, 2]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for q, v in [
            at, (at[0].float(), at[1].float()), (1.005 * at[0], at[1]), (at[0], 0 * at[1]), (at[0], 1e-15 * at[0]),
            (at[0][:0], at[1][:0]), (at[0][0], at[1][0]),
        ]:  # fmt: skip
            model.rollout(q, v, n_steps=2, dt=0.05)
        with pytest.raises(hf.InputError, match=r"dt = 0.0"):
            model.rollout(*at, n_steps=2, dt=0.0)


def test_states_far_from_the_constraint_are_named(float64: torch.dtype) -> None:
    model = hf.LNN(2, lagrangian="constant_mass", widths=(8,), constraint=ROD)
    with pytest.warns(UserWarning, match=r"1 of 1 initial q are off .* the farthest by 0.7$"):
        path = model.rollout([1.4, 0.0], [0.0, 1.0], n_steps=3, dt=0.05)
    torch.testing.assert_close(path[0], torch.tensor([0.7, 0.0, 0.0, 1.0]))
    with pytest.raises(hf.SolveError, match=r"the initial state is off the constraint, g\(q\) = 0.35 there, .*Rattle"):
        model.rollout([0.0, 0.0], [1.0, 0.0], n_steps=3, dt=0.05)
    with pytest.raises(hf.SolveError, match=r"the initial state at index \(1,\) is off the constraint"):
        model.rollout([[0.7, 0.0], [0.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]], n_steps=3, dt=0.05)


def told(data: Trajectories, constraint: hf.Constraint, **settings: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        fit(data, "constant_mass", constraint=constraint, epochs=1, composition=None, widths=(4,), **settings)
    return [str(one.message) for one in found if one.category is UserWarning]


def test_data_off_the_constraint_are_told(float64: torch.dtype) -> None:
    data = hung(5, 10)
    spread = float((data.q - data.q.mean((0, 1))).square().sum(-1).mean().sqrt())
    (message,) = told(data, hf.RigidLinks([(-1, 0)], 1.0, points=1, space=2))
    # g = (0.49 - 1) / 2 at length 0.7, where G has the length 0.7.
    assert message.startswith(
        f"data: q lies off the constraint, at a median distance of 0.364, which is {100 * 0.51 / 1.4 / spread:.3g} % of"
    )
    centre = hf.FunctionConstraint(lambda q: (q**2).sum(-1, keepdim=True))
    assert "median distance of 0.35," in told(data, centre)[0]
    (message,) = told(data.replace(v=data.need("v").flip(-1), v_dot=None), ROD)[-1:]
    assert message.startswith("data: v moves across the constraint, ") and " % of the speed; look for a co" in message


@pytest.mark.parametrize("declared", [False, True])
def test_data_on_the_constraint_are_not_told(declared: bool, float64: torch.dtype) -> None:
    """Exact, of float32, and with noise."""
    data = hung(5, 30)
    assert not told(data, ROD) and not told(data.to(torch.float32), ROD)
    for size in (0.02, 0.1):
        torch.manual_seed(0)
        q, v = (x + size * torch.randn(x.shape) for x in (data.q, data.need("v")))
        noisy = data.replace(q=q, v=v, v_dot=None)
        assert not told(noisy, ROD, noise=size if declared else None)
