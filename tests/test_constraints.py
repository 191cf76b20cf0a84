"""Holonomic constraints and the accelerations under them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import hamflow as hf
from hamflow.energies import (
    ConstantMass,
    Terms,
    constrained_acceleration,
)
from tests.mechanisms import F64, states


def links() -> hf.RigidLinks:
    """A chain of two rods from the origin, and one between its points and a third."""
    return hf.RigidLinks([(-1, 0), (0, 1), (2, 0), (1, 2)], [1.0, 0.8, 1.3, 0.5], points=3, space=2).double()


def test_closed_forms_of_links() -> None:
    rods = links()
    lengths = rods.lengths

    def same(q: Tensor) -> Tensor:
        a, b, c = q.unflatten(-1, (3, 2)).unbind(-2)
        ends = torch.stack((a, a - b, c - a, b - c), dim=-2)
        return (ends.square().sum(-1) - lengths**2) / (2 * lengths)

    other = hf.FunctionConstraint(same)
    q, v = states(5, 6)
    multipliers = states(5, 4)[0]
    for found, expected in (
        (rods(q), other(q)),
        (rods.along(q, v), other.along(q, v)),
        (rods.pullback(q, multipliers), other.pullback(q, multipliers)),
        (rods.bend(q, v), other.bend(q, v)),
        (rods.jacobian(q), other.jacobian(q)),
    ):
        torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)
    jacobian = torch.stack([torch.autograd.functional.jacobian(same, x) for x in q])
    torch.testing.assert_close(rods.jacobian(q), jacobian)
    again = hf.RigidLinks(**rods.arguments()).double()
    assert torch.equal(again(q), rods(q)) and again.arguments() == rods.arguments()


def test_a_pendulum_in_cartesian_coordinates(float64: torch.dtype) -> None:
    """m = 2, l = 0.7 under gravity, against the equation of its angle from straight down."""
    length, friction = 0.7, hf.RayleighFriction(2, rates=0.4)
    weight = hf.MechanicalLagrangian(ConstantMass(2, 2.0), hf.FunctionEnergy(lambda q: 2 * 9.81 * q[..., 1]))
    rod = hf.FunctionConstraint(lambda q: (q**2).sum(-1, keepdim=True) - length**2)
    angle, rate = states(8, 1, size=2.0)
    along = torch.cat((angle.cos(), angle.sin()), -1)
    q, v = length * torch.cat((angle.sin(), -angle.cos()), -1), length * rate * along
    # m l^2 a'' = -m g l sin a - l^2 c a'.
    bend = -9.81 / length * angle.sin() - 0.4 / 2 * rate
    expected = length * (bend * along - rate**2 * torch.cat((angle.sin(), -angle.cos()), -1))
    terms = weight.terms(q, v)
    found = constrained_acceleration(terms, rod, q, v, applied=friction(q, v))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    # The condition keeps its value to second order in time.
    torch.testing.assert_close(rod.bend(q, v) + rod.along(q, found), torch.zeros(8, 1, dtype=F64), rtol=0, atol=1e-12)


def test_constraints_that_are_not_independent() -> None:
    q, v = torch.tensor([[0.6, 0.8]], dtype=F64), torch.tensor([[-0.8, 0.6]], dtype=F64)
    terms = hf.FunctionLagrangian(lambda a, b: 0.5 * (b**2).sum(-1)).terms(q, v)
    twice = hf.RigidLinks([(-1, 0), (0, -1)], 1.0, points=1, space=2)
    with pytest.raises(hf.SolveError, match="of the constraints of 1 of 1 states is singular: condition number"):
        constrained_acceleration(terms, twice, q, v)
    singular = Terms(terms.force, terms.momentum, torch.diag(torch.tensor([1.0, 0.0], dtype=F64))[None], v)
    once = hf.RigidLinks([(-1, 0)], 1.0, points=1, space=2)
    with pytest.raises(hf.SolveError, match="the mass matrix of 2 of 2 states is singular"):
        constrained_acceleration(singular, once, q, v)
    assert constrained_acceleration(singular, once, q, v, regulariser=1e-3).isfinite().all()


Q = torch.ones(3, 2)

BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "constraint": (
        lambda: hf.FunctionConstraint(lambda q: q.sum(-1))(Q),
        r"function returned shape \(3,\) .* one dimension of conditions",
    ),
    "links": (lambda: hf.RigidLinks([], 1.0, points=1, space=2), r"links = \[\], expected pairs"),
    "link_beyond": (lambda: hf.RigidLinks([(0, 1)], 1.0, points=1, space=2), "different points from -1 to 0"),
    "link_itself": (lambda: hf.RigidLinks([(0, 0)], 1.0, points=1, space=2), "expected pairs of different points"),
    "link_of_three": (lambda: hf.RigidLinks([(0, 1, 2)], 1.0, points=3, space=2), "expected pairs"),  # type: ignore[list-item]
    "length": (lambda: hf.RigidLinks([(-1, 0)], 0.0, points=1, space=2), "lengths = 0.0, expected a positive number"),
    "lengths": (lambda: hf.RigidLinks([(-1, 0)], [1.0, 2.0], points=1, space=2), "or 1 of them"),
    "points": (lambda: hf.RigidLinks([(-1, 0)], 1.0, points=0, space=2), "points = 0"),
    "links_space": (lambda: hf.RigidLinks([(-1, 0)], 1.0, points=1, space=0), "space = 0"),
    "links_shape": (lambda: links()(torch.ones(4)), r"q has shape \(4,\), expected \(\*batch, 6\)"),
}  # fmt: skip


@pytest.mark.parametrize(("call", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_named(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(hf.InputError, match=message):
        call()
