"""Rollouts of learned Lagrangians."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

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


class Growing(hf.Lagrangian):
    """A mass that grows, (1 + t^2) v^2 / 2: the velocity falls as 1 / (1 + t^2)."""

    def forward(self, q: Tensor, v: Tensor, t: Any = 0.0) -> Tensor:
        return 0.5 * ((1 + torch.as_tensor(t) ** 2) * v**2).sum(-1)


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_a_lagrangian_that_depends_on_time(batch: tuple[int, ...]) -> None:
    model = hf.LNN(2, lagrangian=Growing(), composition="kahan_li6")
    q, v = torch.zeros(*batch, 2, dtype=F64), torch.ones(*batch, 2, dtype=F64)
    for dt in (0.1, -0.1):
        path = model.rollout(q, v, n_steps=10, dt=dt, substeps=2)
        times = dt * torch.arange(11, dtype=F64).reshape(-1, *[1] * (len(batch) + 1))
        exact = torch.cat((times.atan().expand(11, *batch, 2), (1 / (1 + times**2)).expand(11, *batch, 2)), -1)
        assert (path - exact).abs().max() < 1e-7
        # Two coordinates: p^2 / (1 + t^2), and p stays 1.
        a, b = path.chunk(2, -1)
        torch.testing.assert_close(model.momentum(a, b, times), torch.ones_like(a), rtol=1e-7, atol=0)
        torch.testing.assert_close(model.energy(a, b, times), 1 / (1 + times[..., 0] ** 2).expand(a.shape[:-1]))
        torch.testing.assert_close(model.acceleration(a, b, times), -2 * times * b / (1 + times**2))
        torch.testing.assert_close(model.velocity(a, torch.ones_like(a), times), b, rtol=1e-7, atol=0)
        mass = model.mass_matrix(a, b, times)
        torch.testing.assert_close(mass, (1 + times**2).unsqueeze(-1) * torch.eye(2).expand_as(mass))
    assert float(model.energy(q, v, 2).flatten()[0]) == pytest.approx(5.0)
    wrong = hf.FunctionLagrangian(lambda q, v: (v**2).sum())
    with pytest.raises(hf.InputError, match=r"function returned shape \(\)"):
        hf.LNN(2, lagrangian=wrong).rollout(torch.zeros(3, 2), torch.ones(3, 2), n_steps=2, dt=0.1)


def test_a_momentum_of_two_velocities_is_named() -> None:
    """v^4 / 4 - v^2 / 2 has the momentum v^3 - v, which near rest falls."""
    model = hf.LNN(1, lagrangian=hf.FunctionLagrangian(lambda q, v: (v**4 / 4 - v**2 / 2 - q**2 / 2).sum(-1)))
    q, v = torch.zeros(3, 1, dtype=F64), torch.tensor([[0.1], [0.9], [2.0]], dtype=F64)
    with pytest.raises(hf.SolveError, match=r"of 1 of 3 initial states .* index \(1,\): \[0.9\] comes back as \[0.176"):
        model.rollout(q, v, n_steps=2, dt=0.01)
    with pytest.raises(hf.SolveError, match=r"index \(\): \[0.9\] comes back"):
        model.rollout(q[1], v[1], n_steps=2, dt=0.01)
    torch.testing.assert_close(model.rollout(q[::2], v[::2], n_steps=2, dt=0.01)[0, :, 1:], v[::2])


def test_a_rollout_carries_gradients() -> None:
    """Of a spring of stiffness and mass one: the rotation by one radian, to the order of the step."""
    spring = hf.FunctionLagrangian(lambda q, v: 0.5 * (v**2 - q**2).sum(-1))
    model = hf.LNN(1, lagrangian=spring).double()
    v = torch.zeros(1, dtype=torch.float64)
    slope = torch.func.jacrev(lambda q: model.rollout(q, v, n_steps=10, dt=0.1)[-1])(torch.ones_like(v))
    assert (slope[:, 0] - torch.tensor([0.5403023, -0.8414710])).abs().max() < 1e-4
    assert not model.rollout(v, v, n_steps=2, dt=0.1).requires_grad
