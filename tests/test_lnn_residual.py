"""The residual of the equations of motion as a loss, and its guard against trivial minima."""

from typing import Any

import pytest
import torch
from torch import Tensor

import hamflow as hf
from hamflow.models.units import Units
from tests.lagrangian_fits import ARM, F64


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
    each = (basis @ r.unsqueeze(-1)).squeeze(-1).square().sum(-1) / 4 / torch.linalg.det(inside)
    assert found == pytest.approx(float(each.mean()), rel=1e-10)
    heavy = hf.FunctionLagrangian(lambda x, u: free(x, u) + 7 * rods.along(x, u).square().sum(-1))
    turned = v - (torch.linalg.pinv(rods.jacobian(q)) @ rods.along(q, v).unsqueeze(-1)).squeeze(-1)
    right = a - (torch.linalg.pinv(rods.jacobian(q)) @ (rods.along(q, a) + rods.bend(q, turned)).unsqueeze(-1))[..., 0]
    plain = residual(free, (q, turned, right), constraint=rods)
    assert residual(heavy, (q, turned, right), constraint=rods) == pytest.approx(plain, rel=1e-8)
    exact = hf.energies.constrained_acceleration(free.terms(q, turned), rods, q, turned)
    assert residual(free, (q, turned, exact), constraint=rods) < 1e-20 < plain
