"""The check of an energy."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hamflow.energies.hamiltonian import Energy, Hamiltonian
from hamflow.energies.slope import Slope, leaves
from hamflow.testing.measures import (
    GRADIENT,
    check_modes,
    difference,
    gradient_error,
    require,
    require_dtype,
    require_shape,
)


@dataclass(frozen=True)
class EnergyReport:
    """What :func:`check_energy` measured.

    Attributes:
        gradient: largest relative difference between ``gradient`` and automatic differentiation.
        parameter_gradient: that between derivatives of ``gradient`` (input and parameters) and finite differences.
    """

    gradient: float
    parameter_gradient: float


def check_energy(energy: Energy | Hamiltonian, dim: int, *, seed: int = 0) -> EnergyReport:
    """Check an energy, or a Hamiltonian: its gradient and slopes, its shapes, and every mode of torch.

    Args:
        energy: an :class:`hamflow.Energy` of one variable or a :class:`hamflow.Hamiltonian` of (q, p).
        dim: d, the size of each variable.
        seed: of the random points.

    Raises:
        AssertionError: a promise is broken; the message says which and by how much.

    Example:
        >>> import hamflow as hf
        >>> from hamflow.testing import check_energy
        >>> check_energy(hf.RidgePotential(2, width=4), dim=2).gradient < 1e-12
        True
    """
    generator = torch.Generator().manual_seed(seed)
    # Any: the arguments are (x, t) or (q, p, t).
    double: Any = copy.deepcopy(energy).double()
    single: Any = copy.deepcopy(energy).float()
    arguments = 2 if isinstance(energy, Hamiltonian) else 1
    points = tuple(torch.randn(2, 3, dim, generator=generator, dtype=torch.float64) for _ in range(arguments))
    worst = worst_parameter = 0.0
    for t in [k * energy.spacing for k in range(energy.layers)] if isinstance(energy, Energy) else [0.0]:
        gradient = _stacked(lambda *x, t=t: double.gradient(*x, t))
        value = double(*points, t)
        require_shape("the energy", value, (2, 3))
        leaves = tuple(x.clone().requires_grad_() for x in points)
        expected = torch.stack(torch.autograd.grad(double(*leaves, t).sum(), leaves))
        found = gradient(*points)
        require_shape("the gradient", found, expected.shape)
        worst = max(worst, difference(found, expected))
        require("gradient against automatic differentiation", worst, 1e-12)
        worst_parameter = max(worst_parameter, gradient_error(double, gradient, points, generator))
        require("derivative of the gradient against finite differences", worst_parameter, GRADIENT)
        check_modes(gradient, points)
        if isinstance(energy, Energy):
            _check_slope(double.slopes([t])[0], points[0], found[0])
        if not getattr(energy, "implicit", False):
            mapped = torch.vmap(torch.vmap(gradient, out_dims=1), out_dims=1)(*points)
            require("the gradient under vmap", difference(mapped, found), 1e-12)
        for rows in (lambda x: x[0, 0], lambda x: x[0]):
            part = tuple(rows(x) for x in points)
            require("the energy of one row", difference(double(*part, t), rows(value)), 1e-12)
            require("the gradient of one row", difference(gradient(*part), torch.stack([*map(rows, found)])), 1e-12)
        for scale in (1.0, 100.0):
            floats = tuple(scale * x.float() for x in points)
            for name, result in (
                ("energy", single(*floats, t)),
                ("gradient", torch.stack(_tuple(single.gradient(*floats, t)))),
            ):
                require_dtype(f"the {name}", result, torch.float32)
                if not torch.isfinite(result).all():
                    raise AssertionError(f"the {name} in float32 is not finite at points of size {scale:g}")
    return EnergyReport(worst, worst_parameter)


def _check_slope(slope: Slope, x: Tensor, gradient: Tensor) -> None:
    require("slopes against the gradient", difference(slope(x), gradient), 1e-12)
    bare = slope._replace(tensors=tuple(tensor.detach() for tensor in slope.tensors))
    if slope.complete and leaves((bare(x.detach()),)):
        raise AssertionError("a slope says that it is complete, and depends on tensors that are not among its own")
    if slope.pullback is None:
        return
    # Double precision for those too that are no parameters, such as a context.
    at, *tensors = (part.detach().double().clone().requires_grad_() for part in (x, *slope.tensors))
    u = torch.ones_like(x).cumsum(-1)
    value, *kept = slope.value(at, *tensors)
    expected = torch.autograd.grad(value, [at, *tensors], u)
    with torch.no_grad():
        found = slope.pulled(slope.pullback(x, u, kept, *tensors))
    for one, other in zip(found, expected, strict=True):
        require("the pullback of a slope against automatic differentiation", difference(one, other), 1e-10)


def _tuple(value: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return value if isinstance(value, tuple) else (value,)


def _stacked(function: Callable[..., Tensor | tuple[Tensor, ...]]) -> Callable[..., Tensor]:
    return lambda *arguments: torch.stack(_tuple(function(*arguments)))
