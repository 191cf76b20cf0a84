"""Lagrangians learned under a constraint."""

import pytest
import torch

import hamflow as hf
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


def test_states_off_the_constraint_are_moved_onto_it(float64: torch.dtype) -> None:
    rod = hf.RigidLinks([(-1, 0)], 0.7, points=1, space=2)
    model = hf.LNN(2, lagrangian="constant_mass", widths=(8,), constraint=rod)
    q, v = torch.tensor([[0.72, 0.01], [0.5, 0.5]]), torch.tensor([[0.3, 1.0], [0.0, 1.0]])
    path = model.rollout(q, v, n_steps=3, dt=0.05)
    assert rod(path[..., :2]).abs().max() < 1e-12 and rod.along(*path.chunk(2, -1)).abs().max() < 1e-12
    assert (path[0, :, :2] - q).abs().max() < 0.05
    with pytest.raises(hf.SolveError, match="Rattle"):
        model.rollout([0.0, 0.0], [1.0, 0.0], n_steps=3, dt=0.05)
