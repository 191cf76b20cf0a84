"""The residual of the equations of motion as a loss, and its guard against trivial minima."""

from typing import Any

import pytest
import torch
from torch import Tensor

import hamflow as hf
from hamflow.models.residual import guarded_residual
from hamflow.models.units import Units
from hamflow.systems import Trajectories
from tests.lagrangian_fits import ARM, F64, fit


def residual(lagrangian: hf.Lagrangian, data: tuple[Tensor, Tensor, Tensor], **settings: Any) -> float:
    q, v, a = data
    units = Units(torch.ones(q.shape[-1], dtype=F64), torch.tensor([1.0, 2.0, 0.5, 3.0], dtype=F64)[: q.shape[-1]])
    model = hf.LNN(q.shape[-1], lagrangian=lagrangian, **settings)
    return float(model.residual(q, v, v, a, 0 * q[:, :1], units).mean())


def test_the_trivial_minimum_of_the_residual_is_none() -> None:
    """A factor of L changes nothing, to any size; and no direction of M can be given up."""
    data = ARM.simulate(4, 10, derivatives=True, noise=0.1)
    rows = tuple(x.flatten(0, 1) for x in (data.q, data.need("v"), data.need("v_dot")))
    true = hf.LegendreLagrangian(ARM)
    losses = [
        residual(hf.FunctionLagrangian(lambda q, v, c=c: c * true(q, v)), rows)
        for c in (1.0, -3.0, 1e-8, 1e8)  # type: ignore[misc, arg-type]
    ]
    assert losses[0] > 1e-3
    assert losses == pytest.approx([losses[0]] * 4, rel=1e-9)

    def well(weights: list[float], share: float) -> hf.Lagrangian:
        m = torch.tensor(weights, dtype=F64)
        return hf.FunctionLagrangian(lambda q, v: 0.5 * (m * v**2).sum(-1) - share * 0.5 * (q**2).sum(-1))

    q, v = torch.randn(2, 50, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    noisy = (q, v, -q + 0.1 * v)
    exact = residual(well([1.0, 1.0], 1.0), noisy)  # type: ignore[arg-type]
    shrunk = [residual(well([1.0, m], 1.0), noisy) for m in (0.3, 0.03, 1e-3)]  # type: ignore[arg-type]
    both = [residual(well([m, m], 1.0), noisy) for m in (0.3, 0.03, 1e-3)]  # type: ignore[arg-type]
    assert exact < shrunk[0] < shrunk[1] < shrunk[2] and exact < both[0] < both[1] < both[2]
    assert residual(well([1.0, 1.0], 0.0), noisy) > 10 * exact  # type: ignore[arg-type]


@pytest.mark.parametrize("mass", [1.0, 1e-1, 1e-3, 1e-8])
def test_an_error_in_the_lightest_coordinate_counts(mass: float) -> None:
    """However light: the loss is at least the misfit of the accelerations."""
    m = torch.tensor([1.0, mass], dtype=F64)
    springs = hf.FunctionLagrangian(lambda q, v: 0.5 * (m * (v**2 - q**2)).sum(-1))
    q, v = torch.randn(2, 50, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    found = residual(springs, (q, v, -q + torch.tensor([0.0, 2.0])))
    # Sizes (1, 2): a misfit of 1 / 4, times 1 + (M_22 D_2^2 / M_11 D_1^2)^2.
    assert found == pytest.approx(0.25 * (1 + (4 * mass) ** 2), rel=1e-9)


@pytest.mark.parametrize("d", [1, 2, 5])
@pytest.mark.parametrize("m", [0, 1, 3])
def test_the_residual_bounds_the_misfit(d: int, m: int) -> None:
    """For any mass, positive or not, and on the tangent space of any constraints."""
    d = d + m
    draw = torch.Generator().manual_seed(d + m)
    turn = torch.linalg.qr(torch.randn(300, d, d, generator=draw, dtype=F64)).Q
    values = torch.randn(300, d, generator=draw, dtype=F64).sign() * 10 ** torch.randn(300, d, generator=draw)
    mass = turn @ torch.diag_embed(values) @ turn.mT
    r, sizes = torch.randn(300, d, generator=draw, dtype=F64), 10 ** torch.randn(d, generator=draw, dtype=F64)
    normal = torch.randn(300, m, d, generator=draw, dtype=F64) if m else None
    basis = torch.linalg.svd(normal * sizes).Vh[:, m:] if m else torch.eye(d, dtype=F64).expand(300, d, d)
    inside = basis @ (sizes.unsqueeze(-1) * mass * sizes) @ basis.mT
    misfit = torch.linalg.solve(inside, (basis @ (sizes * r).unsqueeze(-1)).squeeze(-1)).square().mean(-1) / 2
    found = guarded_residual(r, mass, sizes, normal)
    narrow = (d - m) * torch.linalg.cond(inside).square()
    assert bool((found > (1 - 1e-6) * misfit).all()) and bool((found < (1 + 1e-6) * narrow * misfit).all())
    torch.testing.assert_close(guarded_residual(1e-9 * r, 1e-9 * mass, sizes, normal), found, rtol=1e-6, atol=0)
    nothing = guarded_residual(0 * r, 0 * mass, sizes, normal)
    assert not bool(nothing.isfinite().any())


def test_noise_on_one_acceleration_is_not_hidden() -> None:
    """Two springs: least squares cannot fit noise, so the loss stays at its size however long the fit."""
    draw = torch.Generator().manual_seed(1)
    q, v, noise = torch.randn(3, 200, 1, 2, generator=draw, dtype=F64)
    noise = noise * torch.tensor([0.0, 0.1])
    data = Trajectories(times=[0.0], q=q, v=v, v_dot=noise - q)
    model = fit(data, "constant_mass", learn_from="residual", widths=(8,), validation=None, epochs=5, polish=150)
    off = model.acceleration(q, v).detach() - data.need("v_dot")
    size = data.need("v_dot").square().mean((0, 1))
    loss = float(model.history.notes[-1].rsplit(" ", 1)[-1])
    assert loss > (off.square().mean((0, 1)) / size).mean() / 2 > 2e-3
    assert (model.acceleration(q, v) + q).abs().mean() < 0.02


def test_the_residual_under_a_constraint() -> None:
    """On the tangent space alone: multipliers, and masses that no motion feels, change nothing."""
    rods = hf.RigidLinks([(-1, 0), (0, 1)], [1.0, 0.8], points=2, space=2).double()
    q, v, a = torch.randn(3, 20, 4, generator=torch.Generator().manual_seed(0), dtype=F64)
    free = hf.FunctionLagrangian(lambda x, u: (u**2).sum(-1) + 0.3 * u[..., 0] * u[..., 2] - 5 * x[..., 1])
    sizes = torch.tensor([1.0, 2.0, 0.5, 3.0], dtype=F64)
    found = residual(free, (q, v, a), constraint=rods)
    terms, jacobian = free.terms(q, v), rods.jacobian(q) * sizes
    basis = torch.linalg.svd(jacobian).Vh[:, 2:]  # (n, 2, 4)
    r = sizes * ((terms.mass @ a.unsqueeze(-1)).squeeze(-1) + terms.transport - terms.force)
    inside = basis @ (sizes.unsqueeze(-1) * terms.mass * sizes) @ basis.mT
    each = (basis @ r.unsqueeze(-1)).square().sum((1, 2)) / 4 * torch.linalg.inv(inside).square().sum((1, 2))
    assert found == pytest.approx(float(each.mean()), rel=1e-10)
    heavy = hf.FunctionLagrangian(lambda x, u: free(x, u) + 7 * rods.along(x, u).square().sum(-1))
    turned = v - (torch.linalg.pinv(rods.jacobian(q)) @ rods.along(q, v).unsqueeze(-1)).squeeze(-1)
    right = a - (torch.linalg.pinv(rods.jacobian(q)) @ (rods.along(q, a) + rods.bend(q, turned)).unsqueeze(-1))[..., 0]
    plain = residual(free, (q, turned, right), constraint=rods)
    assert residual(heavy, (q, turned, right), constraint=rods) == pytest.approx(plain, rel=1e-8)
    exact = hf.energies.constrained_acceleration(free.terms(q, turned), rods, q, turned)
    assert residual(free, (q, turned, exact), constraint=rods) < 1e-20 < plain
