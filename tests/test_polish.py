"""Polishing by L-BFGS: a known minimum, the best weights, and what happens when it fails."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hamflow.errors import InputError
from hamflow.training import polish

F64 = torch.float64


class Line(nn.Module):
    """Least squares of y = a x + b; rows (x, y). ``noise`` is the model's own."""

    def __init__(self, noise: float = 0.0) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(2, dtype=F64))
        self.noise = noise
        self.calls = 0

    def loss(self, batch: Tensor) -> Tensor:
        self.calls += 1
        x, y = batch.unbind(-1)
        return ((self.weights[0] * x + self.weights[1] - y + self.noise * torch.randn_like(x)) ** 2).mean()


def rows(n: int = 40, slope: float = 2.0, scatter: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    x, shake = torch.randn(2, n, generator=generator, dtype=F64)
    return torch.stack((x, slope * x - 1 + scatter * shake), -1)


def test_the_minimum_of_least_squares() -> None:
    model, x = Line(), rows(scatter=0.3)
    loss = polish(model, x)
    design = torch.stack((x[:, 0], torch.ones(len(x), dtype=F64)), -1)
    exact = torch.linalg.lstsq(design, x[:, 1:]).solution[:, 0]
    torch.testing.assert_close(model.weights.detach(), exact, rtol=0, atol=1e-8)
    assert loss == pytest.approx(float(((design @ exact - x[:, 1]) ** 2).mean()))
    assert not model.training and model.weights.grad is None


def test_a_badly_scaled_valley() -> None:
    class Rosenbrock(Line):
        def loss(self, batch: Tensor) -> Tensor:
            a, b = self.weights
            return (1 - a) ** 2 + 100 * (b - a**2) ** 2

    model = Rosenbrock()
    assert polish(model, rows(), iterations=100) < 1e-15
    torch.testing.assert_close(model.weights.detach(), torch.ones(2, dtype=F64), rtol=0, atol=1e-6)


def test_iterations_are_a_limit() -> None:
    losses = []
    for iterations in (1, 3, 30):
        model = Line()
        losses.append(polish(model, rows(scatter=0.3), iterations=iterations))
        assert model.calls <= 2 * iterations + 5
    assert losses[0] > losses[1] >= losses[2]


def test_the_best_of_the_validation_is_kept() -> None:
    """On its way to a slope of 2 the model passes, or does not pass, what is held out."""
    model = Line()
    start = float(model.loss(rows()))
    loss = polish(model, rows(), validation=rows(slope=-2.0))
    assert torch.equal(model.weights, torch.zeros(2, dtype=F64)) and loss == pytest.approx(start)
    assert polish(model, rows(), validation=rows(slope=2.0)) < 1e-12


def test_the_models_own_noise_is_the_same_at_every_call() -> None:
    state = torch.get_rng_state()
    results = []
    for seed in (0, 0, 1):
        model = Line(noise=0.5)
        results.append((polish(model, rows(), seed=seed), model.weights.tolist()))
    assert results[0] == results[1] != results[2]
    assert torch.equal(torch.get_rng_state(), state)


class Spoiled(Line):
    """From the third call on something else comes back."""

    def __init__(self, what: Any) -> None:
        super().__init__()
        self.what = what

    def loss(self, batch: Tensor) -> Tensor:
        loss = super().loss(batch)
        if self.calls < 3:
            return loss
        if isinstance(self.what, BaseException):
            raise self.what
        return loss * 0 + loss.detach() * self.what + (self.weights * 1e3).sum()


@pytest.mark.parametrize("what", [float("nan"), float("inf"), 1e6])
def test_a_bad_loss_leaves_the_weights(what: float) -> None:
    model = Spoiled(what)
    loss = polish(model, rows())
    assert torch.equal(model.weights, torch.zeros(2, dtype=F64)) and 0 < loss < 100
    assert not model.training


@pytest.mark.parametrize("what", [KeyboardInterrupt(), RuntimeError("out of memory")])
def test_an_error_leaves_the_weights(what: BaseException) -> None:
    model = Spoiled(what)
    with pytest.raises(type(what)):
        polish(model, rows())
    assert torch.equal(model.weights, torch.zeros(2, dtype=F64)) and not model.training


def test_frozen_parameters_stay() -> None:
    model = Line()
    model.extra = nn.Parameter(torch.ones(3, dtype=F64), requires_grad=False)
    polish(model, rows())
    assert torch.equal(model.extra, torch.ones(3, dtype=F64))


def test_bad_input_is_named() -> None:
    with pytest.raises(InputError, match="iterations = 0"):
        polish(Line(), rows(), iterations=0)
    with pytest.raises(InputError, match="no parameter to train"):
        polish(Line().requires_grad_(False), rows())


class Valley(nn.Module):
    """Rosenbrock's function, in some unit."""

    def __init__(self, unit: float) -> None:
        super().__init__()
        self.unit, self.at = unit, nn.Parameter(torch.tensor([-1.2, 1.0], dtype=torch.float64))

    def loss(self, batch: Tensor) -> Tensor:
        a, b = self.at
        return self.unit * (100 * (b - a**2) ** 2 + (1 - a) ** 2)


@pytest.mark.parametrize("unit", [1e-12, 1e-6, 1.0, 1e6])
def test_the_unit_of_the_loss_does_not_matter(unit: float) -> None:
    valley = Valley(unit)
    assert polish(valley, torch.zeros(1, 1), iterations=60) < 1e-12 * unit
    torch.testing.assert_close(valley.at.detach(), torch.ones(2, dtype=torch.float64), rtol=1e-5, atol=0)
