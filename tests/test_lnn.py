"""Learned Lagrangians: known motions, units, dtypes, seeds."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import hamflow as hf
from hamflow.energies import ConstantMass
from hamflow.systems import ChargedParticle, HenonHeiles
from tests.lagrangian_fits import (
    ARM,
    EXACT,
    F64,
    NAMED,
    PENDULUM,
    SOURCES,
    SPRING,
    Known,
    damped,
    fit,
    grid,
    in_other_units,
    only,
)


@NAMED
@pytest.mark.parametrize(("learn_from", "bound"), [("derivatives", 0.05), ("residual", 0.1), ("states", 0.15)])
def test_the_accelerations_of_a_pendulum(lagrangian: str, learn_from: str, bound: float) -> None:
    """They are up to 6; those of no force at all would be off by 5."""
    data = PENDULUM.simulate(8, 20, dt=0.1, derivatives=True)
    polish = 40 if learn_from == "states" else 100
    model = fit(data, lagrangian, learn_from=learn_from, window=1, polish=polish, composition=None)
    q, v = grid()
    assert (model.acceleration(q, v) + 6 * q.sin()).abs().max() < bound
    # Periodic because the trajectories say so.
    assert model.angles == (0,)
    torch.testing.assert_close(model.acceleration(q + 2 * math.pi, v), model.acceleration(q, v), rtol=1e-9, atol=1e-9)
    # The energy is right up to a factor, which the mass matrix tells, and a constant.
    energy = model.energy(q, v) / model.mass_matrix(0 * q[:1])[0, 0, 0]
    true = 0.5 * v[:, 0] ** 2 - 6 * q[:, 0].cos()
    assert ((energy - energy.mean()) - (true - true.mean())).abs().max() < 2 * bound


def test_a_double_pendulum() -> None:
    """Its mass matrix up to one factor, and its motion for as long as the data and as long again."""
    data = ARM.simulate(12, 40, dt=0.05, derivatives=True)
    model = fit(only(data, "q", "v", "v_dot"), widths=(32,), epochs=40, polish=300)
    q = data.q[:, ::10].flatten(0, 1)
    found, c = model.mass_matrix(q).detach(), (q[:, 0] - q[:, 1]).cos()
    true = torch.stack((2 + 0 * c, c, c, 1 + 0 * c), -1).view(-1, 2, 2)
    factor = (found * true).sum() / (true * true).sum()
    assert (found / factor - true).abs().max() < 0.3
    hanging = model.mass_matrix(torch.zeros(2)).detach() / factor
    torch.testing.assert_close(hanging, torch.tensor([[2.0, 1.0], [1.0, 1.0]], dtype=F64), rtol=0, atol=0.08)
    long = ARM.simulate(initial=(data.q[:3, 0], data.need("p")[:3, 0]), n_steps=60, dt=0.05)
    path = model.rollout(long.q[:, 0], long.need("v")[:, 0], n_steps=60, dt=0.05).movedim(0, 1)
    assert (path[..., :2] - long.q).abs().max() < 0.1
    energy = model.energy(*path.chunk(2, -1)).detach() / factor
    assert (energy - energy[:, :1]).abs().max() < 1e-2


@SOURCES
def test_a_lagrangian_of_ones_own_is_learned_in_place(learn_from: str) -> None:
    own = Known()
    model = fit(SPRING.simulate(**EXACT), own, learn_from=learn_from, epochs=6, polish=15)  # type: ignore[arg-type]
    assert model.lagrangian is own
    assert own.k.item() == pytest.approx(6.0, rel=5e-4 if learn_from == "states" else 1e-9)


def test_known_gravity_and_an_unknown_spring() -> None:
    """A ball on a spring: the mass and gravity are known."""
    data = SPRING.simulate(**EXACT)  # type: ignore[arg-type]
    low = data.replace(q=data.q - 9.81 / 6)
    learned = hf.MechanicalLagrangian(ConstantMass(1), hf.RidgePotential(1, width=8))
    both = learned + hf.FunctionLagrangian(lambda q, v: -9.81 * q.sum(-1))
    model = fit(low, both, polish=60)
    q = low.q[:, 5]
    spring = learned.potential.gradient(q).detach()
    assert (spring - 6 * q).abs().max() < 0.05
    assert (model.acceleration(q, 0 * q) + 6 * q + 9.81).abs().max() < 0.05


def test_a_magnetic_field_is_no_mass() -> None:
    """It pulls across the velocity: only the general network has a term linear in that."""
    data = ChargedParticle(mass=2.0, charge=3.0).simulate(6, 20, dt=0.1, derivatives=True)
    q, v, true = (x[:, ::5].flatten(0, 1) for x in (data.q, data.need("v"), data.need("v_dot")))
    errors = [
        float((fit(data, name, polish=80).acceleration(q, v) - true).abs().max()) for name in ("general", "mechanical")
    ]
    assert 10 * errors[0] < 0.5 < errors[1]


@NAMED
def test_momenta_are_not_looked_at(lagrangian: str) -> None:
    data = ARM.simulate(**EXACT)  # type: ignore[arg-type]
    wrong = data.replace(p=torch.zeros_like(data.q), p_dot=torch.ones_like(data.q))
    for learn_from in ("derivatives", "residual", "states"):
        runs = [
            fit(x, lagrangian, learn_from=learn_from, epochs=3, composition=None).history.train for x in (data, wrong)
        ]
        assert runs[0] == runs[1]


@NAMED
@SOURCES
def test_units_do_not_matter(lagrangian: str, learn_from: str) -> None:
    data = only(HenonHeiles().simulate(6, 15, dt=0.1, derivatives=True), "q", "v", "v_dot")
    settings: dict[str, Any] = {"learn_from": learn_from, "epochs": 4, "composition": None, "friction": True}
    runs = [fit(x, lagrangian, **settings).history for x in (data, in_other_units(data))]
    assert runs[1].start == pytest.approx(runs[0].start, rel=1e-6)
    assert runs[1].train == pytest.approx(runs[0].train, rel=1e-5)


@NAMED
@SOURCES
def test_float32_in_si_units(lagrangian: str, learn_from: str) -> None:
    data = only(SPRING.simulate(**EXACT), "q", "v", "v_dot")  # type: ignore[arg-type]
    sizes = {"q": 1e11, "v": 1e4, "v_dot": 1e-3}
    large = data.replace(times=1e7 * data.times, **{name: sizes[name] * getattr(data, name) for name in data.given})
    model = fit(large.to(torch.float32), lagrangian, learn_from=learn_from, epochs=5, composition=None)
    assert min(model.history.validation) < model.history.start and math.isfinite(model.history.start)
    assert not model.history.notes


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_dtype_follows_the_data(dtype: torch.dtype) -> None:
    model = fit(damped().to(dtype), friction=True, epochs=2)
    assert {x.dtype for x in model.parameters()} == {dtype}
    for found in (model.energy([0.1], [0.2]), model.rollout([0.1], [0.2], n_steps=2, dt=0.1), model.friction):
        assert found.dtype == dtype
    assert next(fit(damped(), dtype=torch.float32, epochs=1).parameters()).dtype == torch.float32


@SOURCES
def test_seeds(learn_from: str) -> None:
    data = SPRING.simulate(**EXACT, noise=0.1)  # type: ignore[arg-type]

    def weights(model: hf.LNN) -> Tensor:
        return torch.cat([x.detach().flatten() for x in model.parameters()])

    settings: dict[str, Any] = {"learn_from": learn_from, "epochs": 2, "composition": None}
    model = fit(data, **settings)
    first = weights(model)
    torch.rand(3)
    again = model.fit(data, learn_from=learn_from, epochs=2, learning_rate=0.02, window=5, progress=False)
    assert torch.equal(first, weights(again)), "a refit starts afresh"
    assert torch.equal(first, weights(fit(data, **settings)))
    assert not torch.equal(first, weights(fit(data, seed=1, **settings)))
