"""Rollouts of learned Lagrangians."""

import numpy as np
import pytest
import torch

import hamflow as hf
from tests.lagrangian_fits import EXACT, F64, PENDULUM, fit


def test_rollouts() -> None:
    model = fit(PENDULUM.simulate(**EXACT), epochs=3)  # type: ignore[arg-type]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    q, v = torch.randn(2, 200, 1, generator=torch.Generator().manual_seed(0))
    path = model.rollout(q, v, n_steps=10, dt=0.1)
    assert path.shape == (11, 200, 2) and not path.requires_grad
    torch.testing.assert_close(path[0], torch.cat((q, v), -1).double(), rtol=1e-12, atol=1e-12)
    back = model.rollout(*path[-1].chunk(2, -1), n_steps=10, dt=-0.1)
    assert (back[-1] - path[0]).abs().max() < 1e-10
    fine = model.rollout(q[:5], v[:5], n_steps=10, dt=0.1, substeps=4)
    assert 1e-9 < (fine - path[:, :5]).abs().max() < 0.05
    assert model.rollout([0.3], [0.1], n_steps=3, dt=0.1).shape == (4, 2)
    assert model.rollout(np.zeros((2, 3, 1)), np.ones((2, 3, 1)), n_steps=3, dt=0.1).shape == (4, 2, 3, 2)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.integrator == "triple_jump4 of midpoint" and hf.LNN(1, composition=None).integrator == "midpoint"


def test_a_rollout_that_ends_says_when() -> None:
    explosive = hf.FunctionLagrangian(lambda q, v: 0.5 * (v**2).sum(-1) + (q**4).sum(-1))
    model = hf.LNN(1, lagrangian=explosive)
    with pytest.raises(hf.RolloutError, match=r"the rollout stopped between times .* VariationalStep: ") as error:
        model.rollout(torch.ones(2, 1, dtype=F64), torch.zeros(2, 1, dtype=F64), n_steps=100, dt=0.1)
    assert 0.1 < error.value.time < 5
