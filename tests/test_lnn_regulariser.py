"""The regulariser is a part of the law: the same in accelerations, momenta, energies, steps and learning."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hamflow as hf
from hamflow.systems import HenonHeiles, Trajectories
from tests.lagrangian_fits import fit, in_other_units, only


class Springs(hf.Lagrangian):
    """Two springs of known masses, the second all but massless; their stiffness is learned."""

    def __init__(self, mass: float) -> None:
        super().__init__()
        self.k = nn.Parameter(torch.ones(2))
        self.register_buffer("mass", torch.tensor([1.0, mass]))

    def forward(self, q: Tensor, v: Tensor, t: Any = 0.0) -> Tensor:
        return 0.5 * (self.mass * v**2 - self.k * q**2).sum(-1)


def bent(model: hf.LNN, q: Tensor, v: Tensor, dt: float = 1e-4) -> Tensor:
    """The accelerations of a rollout, by differences of its positions."""
    path = model.rollout(q, v, n_steps=2, dt=dt)[..., : model.dim]
    return (path[2] - 2 * path[1] + path[0]) / dt**2


@pytest.mark.parametrize("mass", [0.0, 1e-6])
@pytest.mark.parametrize("friction", [False, True])
def test_one_law(mass: float, friction: bool, float64: torch.dtype) -> None:
    """L + 0.1 v^2 / 2: singular or nearly so without it."""
    model = hf.LNN(2, lagrangian=Springs(mass), regulariser=0.1, friction=friction)
    q, v = torch.randn(2, 10, 2)
    M = torch.diag(torch.tensor([1.1, mass + 0.1]))
    torch.testing.assert_close(model.mass_matrix(q[0]), M)
    torch.testing.assert_close(model.momentum(q, v), v @ M)
    torch.testing.assert_close(model.velocity(q, v @ M), v)
    torch.testing.assert_close(model.energy(q, v), 0.5 * ((v @ M) * v + q**2).sum(-1))
    exact = (-q - v @ model.friction) / M.diagonal()
    torch.testing.assert_close(model.acceleration(q, v), exact)
    middle = model.rollout(q, v, n_steps=1, dt=1e-4)[1]
    expected = model.acceleration(*middle.chunk(2, -1))
    torch.testing.assert_close(bent(model, q, v), expected, rtol=1e-5, atol=1e-5)
    if not friction:
        torch.testing.assert_close(model.to_hnn().energy(q, v @ M), model.energy(q, v))
        path = model.rollout(q, v, n_steps=20, dt=0.1)
        energy = model.energy(*path.chunk(2, -1)).detach()
        assert (energy - energy[0]).abs().max() < 1e-3 * energy[0].max()


@pytest.mark.parametrize("learn_from", ["derivatives", "residual", "states"])
def test_what_is_learned_is_what_is_rolled_out(learn_from: str, float64: torch.dtype) -> None:
    """Springs of frequencies 1 and 10; the learned stiffness answers for the masses that were added."""
    times = 0.05 * torch.arange(11)
    rate, phase = torch.tensor([1.0, 10.0]), torch.linspace(0, 6, 8).reshape(-1, 1, 1)
    angle = times.reshape(-1, 1) * rate + phase
    size = torch.tensor([1.0, 0.3])
    data = Trajectories(
        times=times, q=size * angle.sin(), v=size * rate * angle.cos(), v_dot=-size * rate**2 * angle.sin()
    )
    polish = 12 if learn_from == "states" else 40
    model = fit(
        data, Springs(0.01), learn_from=learn_from, regulariser=0.1, polish=polish, epochs=9, composition=None
    )  # fmt: skip
    q, v = data.q[:, 0], data.need("v")[:, 0]
    assert (model.acceleration(q, v) - data.need("v_dot")[:, 0]).abs().max() < 0.05 * 30
    torch.testing.assert_close(bent(model, q, v), model.acceleration(q, v).detach(), rtol=0, atol=0.1)
    # From states the stiffness makes up for the length of the step that it was learned with.
    substeps = 1 if learn_from == "states" else 4
    path = model.rollout(q, v, n_steps=10, dt=0.05, substeps=substeps)[..., :2].transpose(0, 1)
    assert (path - data.q).abs().max() < 0.01


def test_units_do_not_matter() -> None:
    data = only(HenonHeiles().simulate(6, 15, dt=0.1, derivatives=True), "q", "v", "v_dot")
    runs = [fit(x, regulariser=0.2, friction=True, epochs=4).history for x in (data, in_other_units(data))]
    assert runs[1].start == pytest.approx(runs[0].start, rel=1e-6)
    assert runs[1].train == pytest.approx(runs[0].train, rel=1e-5)
    assert runs[0].start != fit(data, friction=True, epochs=4).history.start
