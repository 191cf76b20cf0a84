"""The thresholds, and how a figure is taken and held against one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

#: The largest figures an explicit map may show in float64; an implicit one may show ten times its tolerance.
ROUND_TRIP = 1e-10
SYMPLECTICITY = 1e-12
LOG_DET = 1e-12
#: How far the measured order may lie from the declared one.
ORDER = 0.2
#: Relative difference between derivatives and finite differences, whose own error is about 1e-10.
GRADIENT = 1e-7


def require(what: str, measured: float, limit: float) -> None:
    """Raise unless the figure is at most the limit; NaN is not."""
    if not measured <= limit:
        raise AssertionError(f"{what}: {measured:.2e}, expected <= {limit:.2e}")


def require_shape(what: str, tensor: Tensor, shape: Sequence[int]) -> None:
    """Raise unless the tensor has the shape."""
    if tuple(tensor.shape) != tuple(shape):
        raise AssertionError(f"{what} has shape {tuple(tensor.shape)}, expected {tuple(shape)}")


def require_dtype(what: str, tensor: Tensor, dtype: torch.dtype) -> None:
    """Raise unless the tensor has the dtype."""
    if tensor.dtype != dtype:
        raise AssertionError(f"{what} of a float32 input has dtype {tensor.dtype}, expected {dtype}")


def difference(found: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to one plus the largest expected entry; both must have one shape."""
    require_shape("the result", found, expected.shape)
    return float(((found - expected).abs().max() / (1 + expected.abs().max())).detach())


def jacobian(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The full Jacobian of a function of one vector."""
    # Row by row, because vmap refuses the boolean masks of spline transforms.
    matrix: Tensor = torch.autograd.functional.jacobian(function, x)
    return matrix


def check_modes(function: Callable[..., Tensor], arguments: tuple[Tensor, ...]) -> None:
    """Raise unless the function gives the same without gradients and in inference mode, and leaks no graph there."""
    expected = function(*arguments).detach()
    modes: tuple[AbstractContextManager[Any], ...] = (torch.no_grad(), torch.inference_mode())
    for mode in modes:
        with mode:
            found = function(*arguments)
            require(f"the result under {type(mode).__name__}", difference(found, expected), 1e-12)
            if found.requires_grad:
                raise AssertionError(f"the result under {type(mode).__name__} requires a gradient, expected none")


def gradient_error(
    module: nn.Module, function: Callable[..., Tensor], points: tuple[Tensor, ...], generator: torch.Generator
) -> float:
    """The largest relative difference between derivatives by autograd and finite differences, parameters included."""
    # Directional derivatives in one random direction a tensor: automatic against central differences, extrapolated.
    points = tuple(x.clone().requires_grad_() for x in points)
    leaves = [*points, *(parameter for parameter in module.parameters() if parameter.requires_grad)]
    outputs = function(*points)
    if not outputs.requires_grad:
        raise AssertionError("the result carries no derivative, expected one with respect to its inputs")
    weight = torch.randn(outputs.shape, generator=generator, dtype=torch.float64).to(outputs)
    gradients = torch.autograd.grad((weight * outputs).sum(), leaves, allow_unused=True)
    worst = 0.0
    for leaf, gradient in zip(leaves, gradients, strict=True):
        direction = torch.randn(leaf.shape, generator=generator, dtype=torch.float64).to(leaf)
        found = 0.0 if gradient is None else float((gradient * direction).sum())

        def value() -> float:
            return float((weight * function(*points)).sum())

        # A kink, of a ReLU say, close by spoils the wide difference, and a narrow one decides.
        errors = []
        for size in (1e-4, 1e-6):
            expected = _slope_along(leaf, direction, value, size)
            errors.append(abs(found - expected) / (1 + abs(expected)))
            if errors[-1] <= GRADIENT:
                break
        worst = max(worst, min(errors))
    return worst


def curvature_error(
    module: nn.Module, function: Callable[..., Tensor], points: tuple[Tensor, ...], generator: torch.Generator
) -> float:
    """The largest relative difference between second derivatives and finite differences of the first ones."""

    def gradient(*points: Tensor) -> Tensor:
        # Of the sum of squares, so that a linear function has second derivatives too.
        with torch.enable_grad():
            leaves = [*points, *(parameter for parameter in module.parameters() if parameter.requires_grad)]
            value = function(*points).square().sum()
            slopes = torch.autograd.grad(value, leaves, create_graph=True, allow_unused=True)
        return torch.cat([slope.flatten() for slope in slopes if slope is not None])

    return gradient_error(module, gradient, points, generator)


def _slope_along(leaf: Tensor, direction: Tensor, value: Callable[[], float], size: float) -> float:
    start = leaf.detach().clone()
    quotients = []
    with torch.no_grad():
        for width in (size, size / 2):
            ends = []
            for sign in (1, -1):
                leaf.copy_(start + sign * width * direction)
                ends.append(value())
            quotients.append((ends[0] - ends[1]) / (2 * width))
        leaf.copy_(start)
    return (4 * quotients[1] - quotients[0]) / 3
