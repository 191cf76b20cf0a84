"""Learned friction beside a learned Lagrangian."""

import pytest
import torch

import hamflow as hf
from hamflow.systems import Trajectories
from tests.lagrangian_fits import F64, Known, damped, fit


@pytest.mark.parametrize(("learn_from", "bound"), [("derivatives", 0.01), ("residual", 0.01), ("states", 0.03)])
def test_friction_is_learned(learn_from: str, bound: float) -> None:
    data, polish = damped(), 40 if learn_from == "states" else 100
    model = fit(data, "constant_mass", friction=True, learn_from=learn_from, window=1, polish=polish, composition=None)
    rate = model.friction / model.mass_matrix(torch.zeros(1))
    assert float(rate.detach()) == pytest.approx(0.3, rel=bound)
    path = model.rollout(data.q[:, 0], data.need("v")[:, 0], n_steps=40, dt=0.1, substeps=2)
    assert (path[..., :1] - data.q.transpose(0, 1)).abs().max() < 0.05
    energy = model.energy(*path.chunk(2, -1))
    assert bool((energy[-1] < energy[0]).all())


@pytest.mark.parametrize("learn_from", ["derivatives", "residual"])
def test_friction_between_coordinates(learn_from: str, float64: torch.dtype) -> None:
    """C is a matrix: what rubs is the difference of two rates."""
    matrix = torch.tensor([[0.5, -0.4], [-0.4, 0.6]])
    q, v = torch.randn(2, 60, 1, 2, generator=torch.Generator().manual_seed(0))
    data = Trajectories(times=[0.0], q=q, v=v, v_dot=-q - v @ matrix)
    model = fit(data, Known(), friction=True, learn_from=learn_from, polish=60)
    torch.testing.assert_close(model.friction, matrix, rtol=0, atol=1e-4)


@pytest.mark.parametrize("units", [1.0, 1e3])
def test_friction_begins_where_a_coordinate_has_no_mass_yet(units: float) -> None:
    """In the data both coordinates slow down; only the regulariser gives the second a mass."""
    q, v = torch.randn(2, 60, 1, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    rate = torch.tensor([0.5, 0.3], dtype=F64)
    size = torch.tensor([1.0, units], dtype=F64)
    data = Trajectories(times=[0.0], q=size * q, v=size * v, v_dot=size * (-q - rate * v))
    for regulariser in (1e-2, 0.0):
        half = Known() + hf.FunctionLagrangian(lambda q, v: -0.5 * v[..., 1] ** 2)
        model = hf.LNN(2, lagrangian=half, friction=True, regulariser=regulariser).double()
        rows = torch.cat((data.q, data.need("v"), data.need("v"), data.need("v_dot"), 0 * q[..., :1]), -1)[:, 0]
        model.set_units(rows)
        start = size**2 * model.friction.diagonal()
        assert 1e-3 * start[0] < start[1] < start[0]
    model = fit(data, Known(), friction=True, regulariser=1e-2, epochs=3)
    assert model.friction.isfinite().all()
