"""Friction: against closed forms and SciPy, its log-determinant, its order. The promises are in test_members.py."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from hamflow.energies import FunctionEnergy, QuadraticKinetic, SeparableHamiltonian
from hamflow.errors import InputError
from hamflow.flow import PhaseFlow
from hamflow.steps import LEAPFROG, SYMPLECTIC_EULER, YOSHIDA4, Damped, Drift, ImplicitMidpoint, Splitting, Step
from hamflow.testing import check_step
from tests.parts import pendulums


def pendulum() -> SeparableHamiltonian:
    return SeparableHamiltonian(QuadraticKinetic(1, mass=0.5), FunctionEnergy(lambda q: 3 * (1 - q.cos()).sum(-1)))


def test_damped_pendulum_against_scipy(float64: torch.dtype) -> None:
    gamma, duration = 0.25, 4.0

    def slope(t: float, z: np.ndarray) -> list[float]:
        return [z[1] / 0.5, -3 * math.sin(z[0]) - gamma * z[1]]

    exact = solve_ivp(slope, (0, duration), [2.5, 0.3], method="DOP853", rtol=1e-12, atol=1e-12).y[:, -1]
    errors = []
    for n in (200, 400):
        step = Damped(Splitting(pendulum().double()), gamma)
        end = torch.cat(step.iterate(torch.tensor([2.5]), torch.tensor([0.3]), 0.0, duration / n, n)).numpy()
        errors.append(np.abs(end - exact).max())
    assert errors[1] < 2e-4
    assert errors[0] / errors[1] == pytest.approx(4, abs=0.1)


def test_free_motion_with_friction_is_exact(float64: torch.dtype) -> None:
    """Without a force p = p0 exp(-gamma t), whatever the step."""
    step = Damped(Drift(QuadraticKinetic(2)), torch.tensor([0.5, 2.0]))
    _, p = step.iterate(torch.zeros(2), torch.ones(2), 0.0, 0.5, 6)
    torch.testing.assert_close(p, torch.tensor([math.exp(-1.5), math.exp(-6.0)]), rtol=1e-14, atol=0)
    assert step.order is None


INNER: dict[str, tuple[Callable[[], Step], int]] = {
    "euler": (lambda: Splitting(pendulums(), SYMPLECTIC_EULER), 1),
    "leapfrog": (lambda: Splitting(pendulums(), LEAPFROG), 2),
    "yoshida4": (lambda: Splitting(pendulums(), YOSHIDA4), 2),
}


@pytest.mark.parametrize(("inner", "order"), INNER.values(), ids=INNER.keys())
def test_order_is_that_of_the_weaker_part(inner: Callable[[], Step], order: int) -> None:
    step = Damped(inner(), torch.tensor([0.4, 0.8]))
    assert step.order == order
    assert check_step(step, 2, n_steps=5).order == pytest.approx(order, abs=0.2)


def test_implicit_step_with_friction_keeps_its_tolerance(float64: torch.dtype) -> None:
    inner = ImplicitMidpoint(pendulums().double(), tolerance=1e-12)
    step = Damped(inner, 0.3)
    assert step.tolerance == inner.tolerance
    q, p = torch.randn(3, 2), torch.randn(3, 2)
    back = step.iterate_inverse(*step.iterate(q, p, 0.0, 0.1, 5), 0.0, 0.1, 5)
    torch.testing.assert_close(back, (q, p), rtol=1e-11, atol=1e-11)


class Clock(Step):
    """Writes down when it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def forward(self, q: Tensor, p: Tensor, t: float = 0.0, dt: float = 0.1) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        self.times.append(round(t, 12))
        return q, p

    def inverse(self, q: Tensor, p: Tensor, t: float = 0.0, dt: float = 0.1) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return self(q, p, t, dt)


def test_merged_steps_equal_a_loop_and_see_the_same_times(float64: torch.dtype) -> None:
    step = Damped(Splitting(pendulums().double()), torch.tensor([0.3, 0.6]))
    q, p = torch.randn(4, 2), torch.randn(4, 2)
    loop = Step.iterate(step, q, p, 0.7, 0.1, 6)
    torch.testing.assert_close(step.iterate(q, p, 0.7, 0.1, 6), loop, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(step.iterate_inverse(*loop, 0.7, 0.1, 6), (q, p), rtol=1e-12, atol=1e-12)
    assert torch.equal(torch.stack(step.iterate(q, p, n_steps=0)), torch.stack((q, p)))
    clock = Clock()
    Damped(clock, 1.0).iterate(q, p, 0.5, 0.25, 3)
    Damped(clock, 1.0).iterate_inverse(q, p, 0.5, 0.25, 3)
    assert clock.times == [0.5, 0.75, 1.0, 1.0, 0.75, 0.5]


def test_log_det_is_the_declared_constant(float64: torch.dtype) -> None:
    q = torch.randn(4, 2)
    assert not Splitting(pendulums()).log_det(q, 0.1, 5).any()
    inner = Splitting(pendulums())
    for gamma, rate in ((0.3, 0.6), (torch.tensor([0.3, 0.5]), 0.8)):
        step = Damped(inner, gamma)
        torch.testing.assert_close(step.log_det(q, 0.1, 5), torch.full((4,), -0.5 * rate))
        rows = torch.tensor([[0.1], [0.2], [0.3], [0.4]])
        torch.testing.assert_close(step.log_det(q, rows), -rate * rows.squeeze(-1))
        flow = PhaseFlow(step, n_steps=5, dt=0.1)
        z = torch.randn(4, 4)
        torch.testing.assert_close(flow.log_abs_det_jacobian(z, flow(z)), torch.full((4,), -0.5 * rate))
        torch.testing.assert_close(flow.inv.log_abs_det_jacobian(flow(z), z), torch.full((4,), 0.5 * rate))
        back = flow.reversed()
        torch.testing.assert_close(back.log_abs_det_jacobian(z, back(z)), torch.full((4,), 0.5 * rate))
    assert torch.equal(Damped(Damped(inner, 0.1), 0.2).damping, torch.tensor(0.1) + torch.tensor(0.2))


def test_friction_is_learned_from_a_trajectory(float64: torch.dtype) -> None:
    truth, step = Damped(Splitting(pendulum()), 0.4), Damped(Splitting(pendulum()), 0.1, learn=True)
    truth, step = truth.double(), step.double()
    q, p = torch.rand(20, 1), torch.rand(20, 1)
    expected = torch.cat(truth.iterate(q, p, 0.0, 0.1, 10))
    trained = [parameter for parameter in step.parameters() if parameter.requires_grad]
    optimiser = torch.optim.Adam(trained, 0.2)
    for _ in range(100):
        optimiser.zero_grad()
        (torch.cat(step.iterate(q, p, 0.0, 0.1, 10)) - expected).square().mean().backward()
        optimiser.step()
    assert len(trained) == 1
    assert step.damping.item() == pytest.approx(0.4, abs=5e-3)


class UndeclaredFriction(Damped):
    """Friction that is not owned up to."""

    damping = 0.0  # type: ignore[assignment]


class WrongFriction(Damped):
    """Declares more than it has."""

    @property
    def damping(self) -> Tensor:  # type: ignore[override]
        return 1.001 * self.log_gamma.exp()


def test_check_finds_friction_that_is_not_as_declared() -> None:
    with pytest.raises(AssertionError, match="largest entry of J' Omega J - Omega: "):
        check_step(UndeclaredFriction(Splitting(pendulums()), 0.1), 2, n_steps=5)
    with pytest.raises(AssertionError, match=r"largest entry of J' Omega J - exp\(-gamma dt\) Omega: "):
        check_step(WrongFriction(Splitting(pendulums()), 0.1), 2, n_steps=5)
    with pytest.raises(AssertionError, match="log-determinant of the Jacobian against log_det: "):
        check_step(WrongFriction(Splitting(pendulums()), torch.tensor([0.1, 0.2])), 2, n_steps=5)


REFUSALS = {
    "step": (lambda: Damped(pendulums(), 0.1), "step is a SeparableHamiltonian, expected a hamflow Step"),  # type: ignore[arg-type]
    "sign": (lambda: Damped(Splitting(pendulums()), -0.1), "gamma = -0.1, expected a positive number"),
    "nan": (lambda: Damped(Splitting(pendulums()), float("nan")), "gamma = nan"),
    "shape": (lambda: Damped(Splitting(pendulums()), torch.ones(2, 2), learn=True), r"shape \(\) or \(d,\)"),
    "size": (
        lambda: Damped(Splitting(pendulum()), torch.ones(3))(torch.ones(5, 1), torch.ones(5, 1)),
        r"p has shape \(5, 1\), expected \(\*batch, 3\) as gamma has",
    ),
}


@pytest.mark.parametrize(("call", "message"), REFUSALS.values(), ids=REFUSALS.keys())
def test_bad_arguments_are_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
