"""Steps and schemes: cost, order, solver, lifts, and what they refuse. The shared promises are in test_members.py."""

import copy
from functools import partial
from typing import Any

import pyro.distributions.transforms as pyro_transforms
import pytest
import torch
from torch import Tensor, nn

from hamflow.energies import Energy, FunctionEnergy, FunctionHamiltonian, QuadraticKinetic, SeparableHamiltonian
from hamflow.errors import InputError, SolveError
from hamflow.steps import (
    BLANES_MOAN4,
    LEAPFROG,
    SCHEMES,
    SYMPLECTIC_EULER,
    YOSHIDA4,
    YOSHIDA6,
    GaussLegendre,
    ImplicitMidpoint,
    Lift,
    Scheme,
    Splitting,
    Step,
)
from hamflow.testing import check_drift, check_step
from tests.parts import MASS, geodesic, layered, pendulums


class CountedSpring(Energy):
    """A spring that counts its forces."""

    calls = 0

    def forward(self, x: Tensor, t: float = 0.0) -> Tensor:
        return 0.5 * (x**2).sum(-1)

    def gradient(self, x: Tensor, t: float = 0.0) -> Tensor:
        self.calls += 1
        return x


# Kicks that end a step merge with those that open the next one.
FORCES = {SYMPLECTIC_EULER: 10, LEAPFROG: 11, YOSHIDA4: 31, YOSHIDA6: 71, BLANES_MOAN4: 61}


@pytest.mark.parametrize("scheme", FORCES, ids=lambda scheme: scheme.name)
@pytest.mark.parametrize("backwards", [False, True])
def test_forces_of_ten_steps(scheme: Scheme, backwards: bool) -> None:
    spring = CountedSpring()
    step = Splitting(SeparableHamiltonian(QuadraticKinetic(1), spring), scheme)
    (step.iterate_inverse if backwards else step.iterate)(torch.ones(1), torch.ones(1), 0.0, 0.1, 10)
    assert spring.calls == FORCES[scheme]


def test_every_scheme_is_counted() -> None:
    assert {scheme.name for scheme in FORCES} == set(SCHEMES)


def test_leapfrog_by_hand(float64: torch.dtype) -> None:
    step = Splitting(SeparableHamiltonian(QuadraticKinetic(1, mass=2.0), CountedSpring()), LEAPFROG)
    q, p = step(torch.tensor([1.0]), torch.tensor([3.0]), 0.0, 0.2)
    half = 3.0 - 0.1 * 1.0
    moved = 1.0 + 0.2 * half / 2.0
    torch.testing.assert_close(torch.cat((q, p)), torch.tensor([moved, half - 0.1 * moved]))


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES.keys())
def test_merged_steps_equal_a_loop_from_any_time(scheme: Scheme, float64: torch.dtype) -> None:
    step = Splitting(SeparableHamiltonian(QuadraticKinetic(2, mass=MASS), Swinging()), scheme)
    q, p = torch.randn(4, 2), torch.randn(4, 2)
    loop = Step.iterate(step, q, p, 0.7, 0.1, 6)
    torch.testing.assert_close(step.iterate(q, p, 0.7, 0.1, 6), loop, rtol=1e-13, atol=1e-13)
    back = Step.iterate_inverse(step, *loop, 0.7, 0.1, 6)
    torch.testing.assert_close(back, (q, p), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(step.iterate_inverse(*loop, 0.7, 0.1, 6), (q, p), rtol=1e-12, atol=1e-12)


def test_time_step_may_be_a_tensor_of_rows(float64: torch.dtype) -> None:
    step, q, p = Splitting(pendulums().double()), torch.randn(3, 2), torch.randn(3, 2)
    dt = torch.tensor([[0.1], [0.2], [0.3]])
    together = step(q, p, 0.0, dt)
    for k in range(3):
        torch.testing.assert_close(step(q[k], p[k], 0.0, float(dt[k])), (together[0][k], together[1][k]))


def test_no_steps_change_nothing() -> None:
    q, p = torch.randn(3, 2), torch.randn(3, 2)
    assert torch.equal(torch.stack(Splitting(pendulums()).iterate(q, p, n_steps=0)), torch.stack((q, p)))


class Swinging(Energy):
    """A pendulum whose pivot is shaken: smooth in time."""

    def forward(self, x: Tensor, t: float = 0.0) -> Tensor:
        return (-x.cos() * (2 + torch.sin(torch.as_tensor(3.0 * t, dtype=x.dtype)))).sum(-1)


class Thickening(Energy):
    """A kinetic energy whose mass grows with time."""

    def forward(self, x: Tensor, t: float = 0.0) -> Tensor:
        return 0.5 * (x**2).sum(-1) / (1 + 0.5 * t) ** 2


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES.keys())
def test_order_with_energies_that_change_in_time(scheme: Scheme) -> None:
    report = check_step(Splitting(SeparableHamiltonian(Thickening(), Swinging()), scheme), 1, n_steps=10)
    assert report.order == pytest.approx(scheme.order, abs=0.2)


def test_order_of_the_implicit_midpoint_in_time() -> None:
    step = ImplicitMidpoint(SeparableHamiltonian(Thickening(), Swinging()))
    assert check_step(step, 1, n_steps=5).order == pytest.approx(2, abs=0.2)


def test_layers_follow_the_kicks() -> None:
    hamiltonian = layered()
    q, p = torch.randn(3, 2), torch.randn(3, 2)
    with torch.no_grad():
        moved = Splitting(hamiltonian).iterate(q, p, 0.0, 0.25, 8)
        hamiltonian.potential.amplitude[8] += 1
        touched = Splitting(hamiltonian).iterate(q, p, 0.0, 0.25, 8)
    assert torch.equal(moved[0], touched[0]), "the last layer acts after the last drift"
    assert not torch.equal(moved[1], touched[1])
    with pytest.raises(InputError, match="falls in layer 9"):
        Splitting(hamiltonian).iterate(q, p, 0.0, 0.25, 9)


@pytest.mark.parametrize("scheme", [SYMPLECTIC_EULER, LEAPFROG, BLANES_MOAN4], ids=lambda scheme: scheme.name)
def test_energy_does_not_drift(scheme: Scheme, float64: torch.dtype) -> None:
    step = Splitting(pendulums().double(), scheme)
    report = check_drift(step, torch.rand(4, 2), torch.rand(4, 2), dt=0.1)
    assert 0 < report.largest < 0.2


def test_energy_does_not_drift_in_the_implicit_midpoint(float64: torch.dtype) -> None:
    step = ImplicitMidpoint(pendulums().double())
    assert check_drift(step, torch.rand(2), torch.rand(2), dt=0.2, n_steps=500).largest < 0.2


class RungeKutta(Step):
    """The classical method of order 4: not symplectic, and its 'inverse' is only close."""

    order = 4

    def __init__(self) -> None:
        super().__init__()
        self.hamiltonian = pendulums()

    def forward(self, q: Tensor, p: Tensor, t: float = 0.0, dt: float = 0.1) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        def slope(z: Tensor) -> Tensor:
            dq, dp = self.hamiltonian.gradient(*z)
            return torch.stack((dp, -dq))

        z = torch.stack((q, p))
        a = slope(z)
        b = slope(z + dt / 2 * a)
        c = slope(z + dt / 2 * b)
        d = slope(z + dt * c)
        q, p = z + dt / 6 * (a + 2 * b + 2 * c + d)
        return q, p

    def inverse(self, q: Tensor, p: Tensor, t: float = 0.0, dt: float = 0.1) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return self(q, p, t + dt, -dt)


class Damped(Step):
    """Invertible, but it shrinks phase space."""

    def forward(self, q: Tensor, p: Tensor, t: object = 0.0, dt: object = 0.1) -> tuple[Tensor, Tensor]:
        return q, (1 - 1e-6) * p

    def inverse(self, q: Tensor, p: Tensor, t: object = 0.0, dt: object = 0.1) -> tuple[Tensor, Tensor]:
        return q, p / (1 - 1e-6)


def test_checks_find_a_step_that_is_not_symplectic(float64: torch.dtype) -> None:
    with pytest.raises(AssertionError, match=r"round trip after 100 steps: .*expected <= 1.00e-10"):
        check_step(RungeKutta(), 2)
    with pytest.raises(AssertionError, match=r"largest entry of J' Omega J - Omega: 1.00e-06, "):
        check_step(Damped(), 2, n_steps=5)
    with pytest.raises(AssertionError, match="slope of the energy: "):
        check_drift(RungeKutta().double(), torch.rand(2), torch.rand(2), dt=0.2, n_steps=2000)


def test_checks_find_wrong_second_derivatives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hamflow.steps.gauss.DERIVATIVES", 1)
    with pytest.raises(AssertionError, match="second derivatives against finite"):
        check_step(ImplicitMidpoint(FunctionHamiltonian(geodesic)), 2, n_steps=1)


class MassForgotten(Splitting):
    """Leapfrog that moves by p dt where dH/dp dt belongs: right for mass 1 only."""

    def __init__(self) -> None:
        super().__init__(pendulums())
        self.unit = Splitting(SeparableHamiltonian(QuadraticKinetic(2), self.hamiltonian.potential))

    def iterate(self, *arguments: Any) -> tuple[Tensor, Tensor]:
        return self.unit.iterate(*arguments)

    def iterate_inverse(self, *arguments: Any) -> tuple[Tensor, Tensor]:
        return self.unit.iterate_inverse(*arguments)


def test_checks_find_a_wrong_order() -> None:
    with pytest.raises(AssertionError, match=r"order: errors|measured order: -?0\.\d+, expected 2 to within 0.2"):
        check_step(MassForgotten(), 2)
    boastful = Splitting(pendulums(), LEAPFROG)
    boastful.order = 4
    with pytest.raises(AssertionError, match=r"measured order: 2.0\d|measured order: 1.9\d"):
        check_step(boastful, 2)


def test_implicit_residual_is_kept_and_small(float64: torch.dtype) -> None:
    step = ImplicitMidpoint(FunctionHamiltonian(geodesic))
    q, p = torch.randn(5, 2), torch.randn(5, 2)
    q1, p1 = step(q, p, 0.0, 0.2)
    assert 0 <= step.residual <= 1e-13
    dq, dp = step.hamiltonian.gradient((q + q1) / 2, (p + p1) / 2)
    torch.testing.assert_close((q1, p1), (q + 0.2 * dp, p - 0.2 * dq), rtol=1e-13, atol=1e-13)


def test_implicit_solve_that_fails_is_an_error() -> None:
    steep = FunctionHamiltonian(lambda q, p: (q**4 + p**4).sum(-1))
    with pytest.raises(SolveError, match=r"ImplicitMidpoint: residual .* at most 1 iterations, .*a smaller dt helps"):
        ImplicitMidpoint(steep, max_iterations=1)(torch.ones(1, 1), torch.ones(1, 1), 0.0, 0.5)
    with pytest.raises(SolveError, match=r"residual (nan|inf)"):
        ImplicitMidpoint(steep)(torch.full((1, 1), float("nan")), torch.ones(1, 1), 0.0, 0.5)


def test_implicit_midpoint_keeps_quadratic_invariants(float64: torch.dtype) -> None:
    coupled = FunctionHamiltonian(lambda q, p: 0.5 * (p**2 + 3 * q**2 + q * p).sum(-1))
    step = ImplicitMidpoint(coupled)
    q, p = torch.randn(4, 1), torch.randn(4, 1)
    torch.testing.assert_close(coupled(*step.iterate(q, p, 0.0, 0.3, 50)), coupled(q, p), rtol=1e-12, atol=1e-12)


def test_gradient_through_the_implicit_solve(float64: torch.dtype) -> None:
    stiffness = torch.tensor(1.5, requires_grad=True)

    def end(q: Tensor, p: Tensor, k: Tensor) -> Tensor:
        step = ImplicitMidpoint(FunctionHamiltonian(lambda a, b: (b**2 / (2 + a.cos()) + k * a**4).sum(-1)))
        return torch.cat(step.iterate(q, p, 0.0, 0.2, 2), -1)

    inputs = (torch.randn(2, 1, requires_grad=True), torch.randn(2, 1, requires_grad=True), stiffness)
    assert torch.autograd.gradcheck(end, inputs, eps=1e-5, atol=1e-8, rtol=1e-7)


IMPLICIT = {"midpoint": ImplicitMidpoint, **{f"gauss{s}": partial(GaussLegendre, stages=s) for s in (1, 2, 3)}}


@pytest.mark.parametrize("inverse", [False, True], ids=["forward", "inverse"])
@pytest.mark.parametrize("make", IMPLICIT.values(), ids=IMPLICIT.keys())
def test_second_derivatives_through_an_implicit_solve(make: Any, inverse: bool, float64: torch.dtype) -> None:
    """By the state, dt and a number in the energy, of autograd and of torch.func, against differences of the first."""

    def value(v: Tensor) -> Tensor:
        step = make(FunctionHamiltonian(lambda q, p: 0.5 * ((1 + v[3] * q**2) * p**2).sum(-1) + (q**4).sum(-1) / 4))
        return torch.cat((step.inverse if inverse else step)(v[:1], v[1:2], 0.0, v[2])).square().sum()

    point = torch.tensor([0.7, 0.9, 0.3, 1.3])
    slope = torch.func.grad(value)
    width = 1e-3
    fourth_order = [
        (8 * (slope(point + h) - slope(point - h)) - slope(point + 2 * h) + slope(point - 2 * h)) / (12 * width)
        for h in width * torch.eye(4)
    ]
    expected = torch.stack(fourth_order)
    assert expected.abs().max() > 1
    torch.testing.assert_close(torch.autograd.functional.hessian(value, point), expected, rtol=1e-8, atol=1e-8)
    for found in (torch.func.hessian(value)(point), torch.func.jacrev(slope)(point)):
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)
    rough = torch.autograd.functional.hessian(value, point.float())
    torch.testing.assert_close(rough, expected.float(), rtol=1e-4, atol=1e-4)


def test_lift_moves_momenta_by_the_inverse_transposed_jacobian(float64: torch.dtype) -> None:
    coupling = pyro_transforms.affine_coupling(3)
    q, p = torch.randn(3), torch.randn(3)
    moved, pulled = Lift(coupling)(q, p)
    jacobian = torch.autograd.functional.jacobian(lambda x: coupling._call(x), q)
    torch.testing.assert_close(moved, coupling._call(q))
    torch.testing.assert_close(pulled, torch.linalg.solve(jacobian.mT, p))


LIFTED = {
    "module": lambda: pyro_transforms.spline_coupling(2),
    "inverse": lambda: pyro_transforms.affine_coupling(2).inv,
    "compose_module": lambda: pyro_transforms.ComposeTransformModule(
        [pyro_transforms.affine_coupling(2), pyro_transforms.permute(2), pyro_transforms.affine_coupling(2)]
    ),
    "compose": lambda: pyro_transforms.ComposeTransform([pyro_transforms.affine_coupling(2)]),
}


@pytest.mark.parametrize("make", LIFTED.values(), ids=LIFTED.keys())
def test_lift_trains_copies_and_keeps_no_cache(make: Any, float64: torch.dtype) -> None:
    transform = make()
    lift = Lift(transform)
    assert any(isinstance(p, nn.Parameter) for p in lift.parameters())
    optimiser = torch.optim.SGD(lift.parameters(), 0.01)
    q, p = torch.randn(5, 2), torch.randn(5, 2)
    losses = []
    for _ in range(3):
        loss = torch.cat(lift(q, p)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        assert all(parameter.grad is not None for parameter in lift.parameters())
        optimiser.step()
        losses.append(loss.item())
    assert losses[2] < losses[1] < losses[0], "the same tensor twice must see the new parameters"
    twin = copy.deepcopy(lift)
    torch.testing.assert_close(twin(q, p), lift(q, p))
    torch.testing.assert_close(lift.inverse(*lift(q, p)), (q, p))


REFUSALS = {
    "sum": (lambda: Scheme("x", (0.5, 0.6), (1.0,), 2, ""), r"kicks sum to 1\.1, expected 1"),
    "drifts": (lambda: Scheme("x", (0.5, 0.5), (0.9,), 2, ""), r"drifts sum to 0\.9"),
    "alternate": (lambda: Scheme("x", (1.0,), (0.5, 0.5), 2, ""), "kicks has 1 and drifts 2 fractions"),
    "separable": (lambda: Splitting(FunctionHamiltonian(geodesic)), "FunctionHamiltonian.*ImplicitMidpoint takes any"),  # type: ignore[arg-type]
    "scheme": (lambda: Splitting(pendulums(), "leapfrog"), "scheme is a str"),  # type: ignore[arg-type]
    "hamiltonian": (lambda: ImplicitMidpoint(geodesic), "hamiltonian is a function"),  # type: ignore[arg-type]
    "tolerance": (lambda: ImplicitMidpoint(pendulums(), tolerance=0.0), "tolerance = 0.0"),
    "iterations": (lambda: ImplicitMidpoint(pendulums(), max_iterations=0), "max_iterations = 0"),
    "module": (lambda: Lift(nn.Linear(2, 2)), "transform is a Linear.*from_nflows wraps"),  # type: ignore[arg-type]
    "matrix": (lambda: Lift(pyro_transforms.CorrCholeskyTransform()), "no.* bijection of vectors|not a bijection"),
    "layer": (lambda: Splitting(layered()).iterate(torch.ones(2), torch.ones(2), 5.0), "t = 5.0 falls in layer 20"),
}


@pytest.mark.parametrize(("call", "message"), REFUSALS.values(), ids=REFUSALS.keys())
def test_bad_arguments_are_named(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


def test_abstract_step_says_what_is_missing() -> None:
    with pytest.raises(NotImplementedError, match="Step must implement forward"):
        Step()(torch.ones(1), torch.ones(1))
    with pytest.raises(NotImplementedError, match="Step must implement inverse"):
        Step().inverse(torch.ones(1), torch.ones(1))


def test_schemes_carry_their_sources() -> None:
    assert all(scheme.reference and scheme.order >= 1 for scheme in SCHEMES.values())


def test_function_energies_step_under_vmap() -> None:
    step = Splitting(SeparableHamiltonian(QuadraticKinetic(2), FunctionEnergy(lambda q: (q**4).sum(-1))))
    q, p = torch.randn(5, 2), torch.randn(5, 2)
    torch.testing.assert_close(torch.vmap(step.forward)(q, p), step(q, p))
