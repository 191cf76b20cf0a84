"""What a learned Lagrangian tells, and its Hamiltonian twin."""

import pytest
import torch

import hamflow as hf
from tests.lagrangian_fits import ARM, EXACT, F64, NAMED, PENDULUM, fit


@NAMED
def test_momenta_velocities_energies(lagrangian: str) -> None:
    model = hf.LNN(2, lagrangian=lagrangian, widths=(8,), seed=1).double()
    q, v = torch.randn(2, 3, 5, 2, dtype=F64)
    p = model.momentum(q, v)
    torch.testing.assert_close(model.velocity(q, p), v, rtol=1e-10, atol=1e-10)
    value = model.lagrangian(q, v)
    torch.testing.assert_close(model.energy(q, v), (p * v).sum(-1) - value)
    (slope,) = torch.autograd.grad(model.lagrangian(q, v.requires_grad_()).sum(), v)
    torch.testing.assert_close(p, slope)
    assert model.mass_matrix(q).shape == model.mass_matrix(q, v).shape == (3, 5, 2, 2)
    assert torch.equal(model.mass_matrix(q), model.mass_matrix(q, 0 * v))
    assert model.acceleration([0.1, 0.2], [0, 1]).shape == (2,)
    assert torch.equal(model.friction, torch.zeros(2, 2, dtype=F64))
    assert hf.LNN(2).to("meta").friction.device.type == "meta"


@NAMED
def test_there_and_back(lagrangian: str) -> None:
    """The Hamiltonian model of it, whose momenta are another thing, and the Lagrangian model of that."""
    data = ARM.simulate(**EXACT)  # type: ignore[arg-type]
    model = fit(data, lagrangian, epochs=5, composition=None)
    q, v = data.q[:, 0], data.need("v")[:, 0]
    hnn = model.to_hnn()
    assert isinstance(hnn, hf.HNN) and hnn.history == model.history and hnn.angles == model.angles and not hnn.training
    path = model.rollout(q, v, n_steps=6, dt=0.05)
    other = hnn.rollout(q, model.momentum(q, v), n_steps=6, dt=0.05)
    a, p = other.chunk(2, -1)
    assert (path[..., :2] - a).abs().max() < 1e-8
    assert (path[..., 2:] - model.velocity(a, p)).abs().max() < 1e-8
    torch.testing.assert_close(hnn.energy(a, p), model.energy(*path.chunk(2, -1)), rtol=1e-9, atol=1e-9)
    back = hf.LNN.from_hnn(hnn, composition=None)
    assert (back.rollout(q, v, n_steps=6, dt=0.05) - path).abs().max() < 1e-8
    torch.testing.assert_close(back.acceleration(q, v), model.acceleration(q, v), rtol=1e-8, atol=1e-8)


def test_a_fitted_hamiltonian_has_velocities() -> None:
    data = PENDULUM.simulate(**EXACT)  # type: ignore[arg-type]
    hnn = hf.HNN(1, energy="mechanical", widths=(8,)).fit(data, epochs=10, progress=False)
    model = hf.LNN.from_hnn(hnn, composition="kahan_li6")
    assert model.angles == (0,) and model.history == hnn.history
    q, p = data.q[:, 0], data.need("p")[:, 0]
    v = hnn.vector_field(q, p)[0].detach()
    path = model.rollout(q, v, n_steps=4, dt=0.1, substeps=3)
    other = hnn.rollout(q, p, n_steps=4, dt=0.1, scheme="yoshida6", substeps=10)
    assert (path[..., :1] - other[..., :1]).abs().max() < 1e-8
    torch.testing.assert_close(model.energy(q, v), hnn.energy(q, p), rtol=1e-9, atol=1e-9)
    assert {id(x) for x in model.parameters()} == {id(x) for x in hnn.parameters()}


def test_friction_does_not_convert() -> None:
    with pytest.raises(hf.InputError, match="model has friction, expected one without"):
        hf.LNN.from_hnn(hf.HNN(1, friction=True))
    with pytest.raises(hf.InputError, match="model is a LNN, expected an HNN"):
        hf.LNN.from_hnn(hf.LNN(1))  # type: ignore[arg-type]
    rod = hf.RigidLinks([(-1, 0)], 1.0, points=1, space=2)
    for model in (hf.LNN(2, friction=True), hf.LNN(2, constraint=rod)):
        with pytest.raises(hf.InputError, match="the model has friction or a constraint"):
            model.to_hnn()


def test_motions_do_not_determine_a_lagrangian() -> None:
    """What the page on positions and velocities says: other Lagrangians of a spring, and of two uncoupled ones."""
    q, v = torch.randn(2, 20, 1, dtype=F64)
    strange = hf.FunctionLagrangian(lambda q, v: (v**4 / 12 + q**2 * v**2 / 2 - q**4 / 4).sum(-1))
    torch.testing.assert_close(strange.acceleration(q, v), -q)
    torch.testing.assert_close(strange.energy(q, v), (0.5 * (q**2 + v**2)).square().sum(-1))
    q, v = torch.randn(2, 20, 2, dtype=F64)
    stiffness = torch.tensor([1.0, 3.0], dtype=F64)
    for factors in ([1.0, 1.0], [0.58, 0.21]):
        c = torch.tensor(factors, dtype=F64)
        two = hf.FunctionLagrangian(lambda q, v, c=c: 0.5 * (c * (v**2 - stiffness * q**2)).sum(-1))
        torch.testing.assert_close(two.acceleration(q, v), -stiffness * q)
    full = torch.tensor([[2.0, 0.7], [0.7, 1.0]], dtype=F64)
    alike = hf.FunctionLagrangian(lambda q, v: 0.5 * ((v @ full * v).sum(-1) - (q @ full * q).sum(-1)))
    torch.testing.assert_close(alike.acceleration(q, v), -q)


def test_a_model_is_shown_in_one_line() -> None:
    """The law, which the step holds again, was printed several times over."""
    assert repr(hf.HNN(1, widths=(4,))) == "HNN(dim=1, energy='separable', integrator='yoshida4', parameters=24)"
    law = hf.MechanicalLagrangian(hf.ConstantMass(2, learn=True), hf.RidgePotential(2, width=4))
    count = sum(p.numel() for p in law.parameters())
    shown = f"LNN(dim=2, lagrangian=MechanicalLagrangian, integrator='midpoint', parameters={count})"
    assert str(hf.LNN(2, lagrangian=law, composition=None)) == shown


def test_the_hamiltonian_twin_has_another_order() -> None:
    """The implicit midpoint rule: twice the substeps, a quarter of the error."""
    model = hf.LNN(2, lagrangian=hf.LegendreLagrangian(ARM))
    data = ARM.simulate(3, 10, 0.05)
    q, p = data.q[:, 0], data.need("p")[:, 0]
    hnn = model.to_hnn()
    ends = [hnn.rollout(q, p, n_steps=10, dt=0.05, substeps=k)[-1, :, :2] for k in (1, 2, 4)]
    errors = [float((end - data.q[:, 10]).abs().max()) for end in ends]
    assert hnn.integrator == "implicit_midpoint"
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.05) and errors[1] / errors[2] == pytest.approx(4, rel=0.05)
