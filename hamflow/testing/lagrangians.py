"""The check of a Lagrangian."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from hamflow.energies.lagrangian import Lagrangian, Terms
from hamflow.energies.legendre import LegendreHamiltonian
from hamflow.testing.measures import GRADIENT, check_modes, difference, gradient_error, require, require_dtype

#: How far a velocity may come back from its momentum, and an acceleration from the Hamiltonian's.
_ROUND_TRIP = 1e-9


@dataclass(frozen=True)
class LagrangianReport:
    """What :func:`check_lagrangian` measured.

    Attributes:
        terms: largest relative difference between ``terms`` and automatic differentiation of the Lagrangian.
        parameter_gradient: that between derivatives of ``terms`` (inputs and parameters) and finite differences.
        legendre: how far velocities come back from their momenta, and how far the accelerations are from those of the
            Legendre transform; relative.
    """

    terms: float
    parameter_gradient: float
    legendre: float


def check_lagrangian(lagrangian: Lagrangian, dim: int, *, seed: int = 0) -> LagrangianReport:
    r"""Check a Lagrangian: what the equations of motion are made of, the Legendre transform, and every mode of torch.

    Args:
        lagrangian: the :class:`hamflow.Lagrangian`, with a regular mass matrix and independent of time.
        dim: d, the number of coordinates.
        seed: of the random states.

    Raises:
        AssertionError: a promise is broken; the message says which and by how much.

    Example:
        >>> import hamflow as hf
        >>> from hamflow.testing import check_lagrangian
        >>> check_lagrangian(hf.NetworkLagrangian(2, widths=(8,)), dim=2).terms < 1e-12
        True
    """
    generator = torch.Generator().manual_seed(seed)
    double = copy.deepcopy(lagrangian).double()
    single = copy.deepcopy(lagrangian).float()
    q, v = 0.5 * torch.randn(2, 2, 3, dim, generator=generator, dtype=torch.float64)

    def flat(*points: Tensor, of: Lagrangian = double) -> Tensor:
        terms = of.terms(*points)
        return torch.cat((terms.force, terms.momentum, terms.mass.flatten(-2), terms.transport), dim=-1)

    found = double.terms(q, v)
    worst = max(difference(a, b) for a, b in zip(found, _by_automatic_differentiation(double, q, v), strict=True))
    require("terms against automatic differentiation", worst, 1e-11)
    gradient = double.gradient(q, v)
    for name, one, other in (
        ("gradient against terms", torch.cat(gradient, -1), torch.cat((found.force, found.momentum), -1)),
        ("momentum against terms", double.momentum(q, v), found.momentum),
        ("mass_matrix against terms", double.mass_matrix(q, v), found.mass),
        ("energy against p v - L", double.energy(q, v), (found.momentum * v).sum(-1) - double(q, v)),
        ("the mass matrix against its transpose", found.mass, found.mass.mT),
    ):
        require(name, difference(one, other), 1e-11)
    parameter_gradient = gradient_error(double, flat, (q, v), generator)
    require("derivative of the terms against finite differences", parameter_gradient, GRADIENT)
    check_modes(flat, (q, v))
    for rows in (lambda x: x[0, 0], lambda x: x[0]):
        require("the terms of one row", difference(flat(rows(q), rows(v)), rows(flat(q, v))), 1e-11)
    rough = flat(q.float(), v.float(), of=single)
    require_dtype("the terms", rough, torch.float32)
    require("float32 against float64", difference(rough.double(), flat(q, v)), 1e-3)
    legendre = _legendre_error(double, found, q, v)
    require("the Legendre transform and back", legendre, _ROUND_TRIP)
    return LagrangianReport(worst, parameter_gradient, legendre)


def _by_automatic_differentiation(lagrangian: Lagrangian, q: Tensor, v: Tensor) -> Terms:
    # Row by row from the full Hessian, which the package itself never forms.
    dim = q.shape[-1]
    parts: list[list[Tensor]] = []
    for state in torch.cat((q, v), -1).reshape(-1, 2 * dim):

        def value(z: Tensor) -> Tensor:
            return lagrangian(z[:dim], z[dim:])

        slope = torch.autograd.functional.jacobian(value, state)
        hessian = torch.autograd.functional.hessian(value, state)
        parts.append([slope[:dim], slope[dim:], hessian[dim:, dim:], hessian[dim:, :dim] @ state[dim:]])
    stacked = [torch.stack(part) for part in zip(*parts, strict=True)]
    return Terms(*(part.view(*q.shape[:-1], *part.shape[1:]) for part in stacked))


def _legendre_error(lagrangian: Lagrangian, terms: Terms, q: Tensor, v: Tensor) -> float:
    hamiltonian = LegendreHamiltonian(lagrangian)
    p = terms.momentum.detach()
    back = difference(lagrangian.velocity(q, p, guess=v + 0.01), v)
    dq, dp = hamiltonian.gradient(q, p)
    along = torch.func.jvp(lambda x, y: hamiltonian.gradient(x, y)[1], (q, p), (dp.detach(), -dq.detach()))[1]
    return max(back, difference(along, lagrangian.acceleration(q, v)))
