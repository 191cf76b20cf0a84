"""The check of a flow."""

from __future__ import annotations

import copy
import io
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal, Transform, TransformedDistribution

from hamflow.testing.measures import (
    GRADIENT,
    LOG_DET,
    ROUND_TRIP,
    check_modes,
    difference,
    gradient_error,
    jacobian,
    require,
    require_dtype,
    require_shape,
)


@dataclass(frozen=True)
class FlowReport:
    """What :func:`check_flow` measured.

    Attributes:
        round_trip: relative error of the inverse after the forward map, and of the forward map after the inverse.
        log_det: largest difference between ``log_abs_det_jacobian`` and the determinant of the full Jacobian.
        gradient: relative difference between derivatives (input and parameters) and finite differences.
    """

    round_trip: float
    log_det: float
    gradient: float


def check_flow(transform: Transform, dim: int, *, seed: int = 0) -> FlowReport:
    """Check a torch or Pyro transform of vectors: everything that Pyro's distributions, modules and guides rely on.

    Args:
        transform: the bijective transform; one that is a module is also checked as a module.
        dim: the size of the last dimension of its input: 2 d for a :class:`hamflow.PhaseFlow`.
        seed: of the random points.

    Raises:
        AssertionError: a promise is broken; the message says which and by how much.

    Example:
        >>> import hamflow as hf
        >>> from hamflow.testing import check_flow
        >>> check_flow(hf.hamiltonian(4, n_steps=2, width=4), dim=4).log_det < 1e-12
        True
    """
    generator = torch.Generator().manual_seed(seed)
    if not transform.bijective or (transform.domain.event_dim, transform.codomain.event_dim) != (1, 1):
        raise AssertionError(
            f"bijective = {transform.bijective}, domain {transform.domain}, codomain {transform.codomain}: "
            "expected a bijection of real vectors"
        )
    module = isinstance(transform, nn.Module)
    original = transform
    transform = copy.deepcopy(original).double() if module else original  # type: ignore[attr-defined]
    x = torch.randn(2, 3, dim, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        y = transform(x)
        require_shape("the output", y, x.shape)
        log_det = transform.log_abs_det_jacobian(x, y)
        require_shape("log_abs_det_jacobian", log_det, x.shape[:-1])
        round_trip = max(difference(transform.inv(y.clone()), x), difference(transform(transform.inv(x)), x))
        require("round trip", round_trip, ROUND_TRIP)
        for rows in (lambda z: z[0, 0], lambda z: z[0]):
            one = rows(x).clone()
            require("the output of one row", difference(transform(one), rows(y)), 1e-12)
            part = transform.log_abs_det_jacobian(one, rows(y))
            require("the log-det of one row", difference(part, rows(log_det)), 1e-12)
    jacobians = torch.stack([jacobian(transform, row.clone()) for row in x.reshape(-1, dim)])
    exact = torch.linalg.slogdet(jacobians).logabsdet.view_as(log_det)
    mismatch = float((exact - log_det).abs().max())
    require("log_abs_det_jacobian against the Jacobian", mismatch, 1e-10 if log_det.any() else LOG_DET)
    holder = transform if isinstance(transform, nn.Module) else nn.Module()
    gradient = gradient_error(holder, lambda z: transform(z.clone()), (x,), generator)
    require("derivatives against finite differences", gradient, GRADIENT)
    check_modes(lambda z: transform(z.clone()), (x,))

    base = Independent(Normal(torch.zeros(dim).double(), torch.ones(dim).double()), 1)
    flow = TransformedDistribution(base, [transform])
    require_shape("a sample", flow.rsample((2, 3)), x.shape)
    density = difference(flow.log_prob(y), base.log_prob(x) - log_det)
    require("log_prob of a TransformedDistribution", density, ROUND_TRIP)
    if module:
        _check_module(transform, original, x, y, flow)
    return FlowReport(round_trip, mismatch, gradient)


def _check_module(transform: Any, original: Any, x: Tensor, y: Tensor, flow: TransformedDistribution) -> None:
    trained = [parameter for parameter in transform.parameters() if parameter.requires_grad]
    if trained:
        flow.log_prob(y).sum().backward()
        try:
            flow.log_prob(y).sum().backward()
        except RuntimeError as error:
            raise AssertionError(f"training twice on one tensor, expected a fresh graph each time: {error}") from error
        transform.zero_grad()
    twin = copy.deepcopy(transform)
    require("a deep copy", difference(twin(x.clone()), y), 1e-12)
    if {id(p) for p in twin.parameters()} & {id(p) for p in transform.parameters()}:
        raise AssertionError("a deep copy shares parameters with the original, expected its own")
    with torch.no_grad():
        for tensor in twin.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(1.0)
    file = io.BytesIO()
    torch.save(transform.state_dict(), file)
    file.seek(0)
    twin.load_state_dict(torch.load(file, weights_only=True))
    require("the output after saving and loading the state", difference(twin(x.clone()), y), 1e-12)
    cached = transform.with_cache(1)
    if [id(p) for p in cached.parameters()] != [id(p) for p in transform.parameters()]:
        raise AssertionError("with_cache(1) has parameters of its own, expected shared ones")
    if cached.inv(cached(x)) is not x:
        raise AssertionError("with_cache(1) recomputes the inverse, expected the cached input")
    single = copy.deepcopy(original).float()(x.float())
    require_dtype("the output", single, torch.float32)
    require("float32 against float64", difference(single.double(), y), 1e-3)
