"""Learned friction beside a learned Lagrangian."""

import pytest
import torch

from hamflow.systems import Trajectories
from tests.lagrangian_fits import Known, damped, fit


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
