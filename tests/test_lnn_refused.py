"""What a model of a Lagrangian refuses, by name, and what cannot be done."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import hamflow as hf
from hamflow.systems import HenonHeiles
from tests.lagrangian_fits import F64, PENDULUM, Known, fit, only, tiny


@pytest.mark.parametrize("learn_from", ["derivatives", "states"])
def test_a_singular_mass_is_reported(learn_from: str) -> None:
    """With its condition number, and the regulariser that lets it be."""

    def half() -> hf.Lagrangian:
        return Known(3.0) + hf.FunctionLagrangian(lambda q, v: -0.5 * v[..., 1] ** 2)

    data = HenonHeiles().simulate(3, 10, dt=0.1, derivatives=True)
    with pytest.raises(hf.SolveError, match=r"singular: condition number inf.*LNN\(regulariser=1e-3\)"):
        fit(data, half(), learn_from=learn_from)
    for dtype in (torch.float32, F64):
        model = fit(data.to(dtype), half(), learn_from="derivatives", regulariser=1e-3, epochs=3)
        assert min(model.history.validation) < model.history.start
        assert model.acceleration(data.q[0], data.need("v")[0]).isfinite().all()


MODELS: list[tuple[dict[str, Any], str]] = [
    ({"dim": 0}, "dim = 0"),
    ({"lagrangian": "joint"}, "lagrangian = 'joint', expected one of 'mechanical', 'constant_mass', 'general'"),
    ({"lagrangian": PENDULUM}, "lagrangian is a Pendulum, expected a Lagrangian or one of"),
    ({"widths": (0,)}, "widths = 0"),
    ({"widths": ()}, "widths is empty"),
    ({"periodic": (1,)}, r"periodic = \(1,\), expected indices of the 1 coordinates"),
    ({"periodic": (0, 0)}, "expected different indices"),
    ({"constraint": 3}, "constraint is a int, expected a Constraint such as RigidLinks"),
    (
        {"constraint": hf.RigidLinks([(-1, 0)], 1.0, points=1, space=1)},
        "has 1 conditions on 1 coordinates, expected fewer",
    ),
    ({"constraint": hf.FunctionConstraint(lambda q: q)}, "constraint has 1 conditions on 1 coordinates"),
    ({"constraint": hf.RigidLinks([(-1, 0)], 1.0, points=1, space=2)}, r"q has shape \(1,\), expected \(\*batch, 2\)"),
    ({"rule": "euler"}, "rule = 'euler', expected one of 'midpoint', 'trapezoidal'"),
    ({"composition": "yoshida4"}, "composition = 'yoshida4', expected one of 'triple_jump4'"),
    ({"regulariser": -1e-3}, "regulariser = -0.001, expected a number from 0 to 1"),
    ({"regulariser": "small"}, "regulariser = 'small'"),
    ({"seed": -1}, "seed = -1"),
]


@pytest.mark.parametrize(("settings", "message"), MODELS)
def test_bad_models_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(hf.InputError, match=message):
        hf.LNN(**{"dim": 1} | settings)


FITS: dict[str, tuple[Callable[[], Any], dict[str, Any], str]] = {
    "nothing": (lambda: None, {}, "data is NoneType, expected Trajectories or a list of them"),
    "dim": (lambda: HenonHeiles().simulate(2, 6), {}, "data has 2 coordinates, expected dim = 1"),
    "learn_from": (tiny, {"learn_from": "momenta"}, "learn_from = 'momenta', expected one of 'auto', 'derivatives'"),
    "momenta": (
        lambda: only(tiny(), "q", "p", "p_dot"), {"learn_from": "derivatives"},
        "the trajectories have q, expected v and v_dot: hf.systems.estimate_derivatives",
    ),
    "window": (tiny, {"window": 0}, "window = 0"),
    "substeps": (tiny, {"substeps": 0}, "substeps = 0"),
    "noise": (tiny, {"noise": -1}, "noise = -1"),
    "validation": (tiny, {"validation": 1.0}, "validation = 1.0"),
    "polish": (tiny, {"polish": -1}, "polish = -1"),
    "epochs": (tiny, {"epochs": 0}, "epochs = 0"),
    "dtype": (tiny, {"dtype": torch.float16}, "dtype = torch.float16"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "settings", "message"), FITS.values(), ids=FITS.keys())
def test_bad_data_are_named(make: Any, settings: dict[str, Any], message: str) -> None:
    model = hf.LNN(1, widths=(4,))
    lagrangian = model.lagrangian
    with pytest.raises(hf.InputError, match=message):
        model.fit(make(), **{"epochs": 1, "progress": False} | settings)
    assert model.lagrangian is lagrangian, "a refused fit costs what was learned"


def test_one_number_a_row() -> None:
    wrong = hf.FunctionLagrangian(lambda q, v: (v**2 - q**2).sum())
    with pytest.raises(hf.InputError, match=r"function returned shape \(\)"):
        fit(tiny(), wrong)

    class Timed(Known):
        def forward(self, q: Tensor, v: Tensor, t: Any = 0.0) -> Tensor:
            return super().forward(q, v) + (torch.as_tensor(t) * q).sum(-1) * torch.as_tensor(t).mean(-1, keepdim=True)

    with pytest.raises(hf.InputError, match=r"lagrangian returned shape \(2, 2\) for q"):
        fit(tiny(), Timed())


@pytest.mark.parametrize("read", ["acceleration", "energy", "momentum", "velocity", "mass_matrix"])
def test_bad_times_are_named(read: str) -> None:
    """One time a state is (*batch, 1): times without the last dimension would go to other states."""
    function = getattr(hf.LNN(2, widths=(4,)), read)
    for batch, t in [((5,), (5,)), ((2, 2), (2, 2)), ((3, 4), (4,)), ((5,), (5, 2)), ((2,), (3, 2, 1)), ((), (2,))]:
        message = f"t has shape {t} for states of shape {(*batch, 2)}, expected a number or shape {(*batch, 1)}"
        with pytest.raises(hf.InputError, match=re.escape(message)):
            function(torch.zeros(*batch, 2), torch.ones(*batch, 2), torch.ones(t))
    with pytest.raises(hf.InputError, match="t is a str, expected a number or an array"):
        function(torch.zeros(2), torch.ones(2), "now")
    for t in (0.5, torch.tensor(0.5), torch.ones(1), torch.ones(4, 1), torch.ones(3, 4, 1), np.ones((3, 1, 1))):
        assert function(torch.zeros(3, 4, 2), torch.ones(3, 4, 2), t).shape[:2] == (3, 4)


def test_bad_states_are_named() -> None:
    model = hf.LNN(2, widths=(4,))
    for q, v, settings, message in [
        ([0.0], [0.0], {}, r"q has shape \(1,\) and v \(1,\), expected \(\*batch, 2\) for both"),
        (torch.zeros(3, 2), torch.zeros(2, 2), {}, r"q has shape \(3, 2\) and v \(2, 2\)"),
        ([0.0, 0.0], [0.0, 0.0], {"dt": 0.0}, "dt = 0.0"),
        ([0.0, 0.0], [0.0, 0.0], {"n_steps": 0}, "n_steps = 0"),
        ([0.0, 0.0], [0.0, 0.0], {"substeps": 0}, "substeps = 0"),
    ]:
        with pytest.raises(hf.InputError, match=message):
            model.rollout(q, v, **{"n_steps": 2, "dt": 0.1} | settings)  # type: ignore[arg-type]
    for method in (model.energy, model.acceleration, model.momentum, model.velocity):
        with pytest.raises(hf.InputError, match=r"q has shape \(3,\)"):
            method(torch.zeros(3), torch.zeros(3))
    with pytest.raises(hf.InputError, match=r"q has shape \(3,\)"):
        model.mass_matrix(torch.zeros(3))


def test_a_constraint_that_insists_on_a_dtype_is_one() -> None:
    weights = {dtype: torch.ones(2, 1, dtype=dtype) for dtype in (torch.float32, torch.float64)}
    for weight in weights.values():
        hf.LNN(2, constraint=hf.FunctionConstraint(lambda q, w=weight: q @ w))
        with pytest.raises(hf.InputError, match="has 2 conditions on 2 coordinates"):
            hf.LNN(2, constraint=hf.FunctionConstraint(lambda q, w=weight: q @ w.expand(2, 2)))
