"""The check of a step under constraints."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from hamflow.energies.constraints import constrained_acceleration
from hamflow.steps.rattle import Rattle
from hamflow.testing.measures import (
    GRADIENT,
    ORDER,
    ROUND_TRIP,
    check_modes,
    difference,
    gradient_error,
    jacobian,
    require,
)

#: How far a state may leave the constraint and its tangent.
_CONSTRAINT = 1e-10


@dataclass(frozen=True)
class ConstrainedReport:
    """What :func:`check_constrained_step` measured.

    Attributes:
        constraint: the largest :math:`|g(q)|` and :math:`|G v|` along the motion.
        round_trip: relative error of the inverse after the forward map.
        symplecticity: the largest entry of T' (J' Omega J - Omega) T, where the columns of T span the tangent space of
            the states that satisfy both conditions.
        order: the slope of log error against log dt.
        gradient: relative difference between derivatives and finite differences.
    """

    constraint: float
    round_trip: float
    symplecticity: float
    order: float
    gradient: float


def check_constrained_step(
    step: Rattle, dim: int, *, dt: float = 0.05, n_steps: int = 100, seed: int = 0
) -> ConstrainedReport:
    r"""Check a :class:`hamflow.Rattle`: the constraint and its tangent, the inverse, symplecticity there, the order.

    The order is measured against SciPy's DOP853 on the accelerations under the constraint.

    Args:
        step: the step, without a force, whose constraint is not far from a standard normal position.
        dim: d, the number of coordinates.
        dt: the time step.
        n_steps: the steps of the motion.
        seed: of the random states.

    Raises:
        AssertionError: a promise is broken; the message says which and by how much.

    Example:
        >>> import hamflow as hf
        >>> from hamflow.testing import check_constrained_step
        >>> falling = hf.FunctionLagrangian(lambda q, v: 0.5 * (v**2).sum(-1) - q[..., 1])
        >>> rod = hf.RigidLinks([(-1, 0)], 1.0, points=1, space=2)
        >>> check_constrained_step(hf.Rattle(falling, rod), dim=2, n_steps=20).constraint < 1e-10
        True
    """
    step = copy.deepcopy(step).double()
    generator = torch.Generator().manual_seed(seed)
    q, p = step.project(*torch.randn(2, 3, dim, generator=generator, dtype=torch.float64))
    start = torch.cat((q, p), -1).detach()

    def conditions(z: Tensor) -> Tensor:
        a, b = z.chunk(2, -1)
        return torch.cat((step.constraint(a), step.constraint.along(a, step.lagrangian.velocity(a, b))), -1)

    def once(z: Tensor) -> Tensor:
        return torch.cat(step(*z.chunk(2, -1), 0.0, dt), -1)

    with torch.no_grad():
        z, off = start, 0.0
        for k in range(n_steps):
            z = torch.cat(step(*z.chunk(2, -1), k * dt, dt), -1)
            off = max(off, float(conditions(z).abs().max()))
        require("distance from the constraint and its tangent", off, _CONSTRAINT)
        last_q, last_p = z.chunk(2, -1)
        back = torch.cat(step.iterate_inverse(last_q, last_p, 0.0, dt, n_steps), -1)
        round_trip = difference(back, start)
        require(f"round trip after {n_steps} steps", round_trip, ROUND_TRIP)
    check_modes(once, (start,))
    symplecticity = max(_symplecticity(once, conditions, z) for z in start)
    require("T' (J' Omega J - Omega) T", symplecticity, 10 * step.tolerance)
    gradient = gradient_error(step, once, (start,), generator)
    require("derivatives against finite differences", gradient, GRADIENT)
    order = _order(step, start)
    if abs(order - 2) > ORDER:
        raise AssertionError(f"measured order: {order:.2f}, expected 2 to within {ORDER}")
    return ConstrainedReport(off, round_trip, symplecticity, order, gradient)


def _symplecticity(once: Callable[[Tensor], Tensor], conditions: Callable[[Tensor], Tensor], z: Tensor) -> float:
    dim = len(z) // 2
    normal = jacobian(conditions, z)
    tangent = torch.linalg.svd(normal).Vh[len(normal) :].mT
    moved = jacobian(once, z) @ tangent
    omega = torch.kron(torch.tensor([[0.0, 1.0], [-1.0, 0.0]]), torch.eye(dim)).to(z)
    return float((moved.mT @ omega @ moved - tangent.mT @ omega @ tangent).abs().max())


def _order(step: Rattle, start: Tensor, duration: float = 0.5) -> float:
    lagrangian, constraint = step.lagrangian, step.constraint

    def slope(_: float, flat: np.ndarray) -> np.ndarray:
        q, v = torch.as_tensor(flat).view(len(start), -1).chunk(2, -1)
        a = constrained_acceleration(lagrangian.terms(q, v), constraint, q, v)
        return torch.cat((v, a), -1).flatten().numpy()

    with torch.no_grad():
        q, p = start.chunk(2, -1)
        begin = torch.cat((q, lagrangian.velocity(q, p)), -1).flatten().numpy()
        exact = solve_ivp(slope, (0.0, duration), begin, method="DOP853", rtol=1e-12, atol=1e-12).y[:, -1]
        reference = torch.as_tensor(exact).view(len(start), -1).chunk(2, -1)[0]
        counts = np.array([16, 24, 32, 48])
        errors = [
            float((step.iterate(q, p, 0.0, duration / int(n), int(n))[0] - reference).square().mean().sqrt())
            for n in counts
        ]
    return float(np.polyfit(np.log(duration / counts), np.log(errors), 1)[0])
