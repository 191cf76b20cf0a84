"""Where a guide starts: at the mode of the posterior with its curvature, as wide as the prior, or the best of these."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from hamflow.errors import InputError

#: Draws from the prior, and those by which starts are compared.
_DRAWS, _JUDGES = 256, 64
#: Steps of Newton's method after L-BFGS, and how often each is halved.
_NEWTON, _HALVINGS = 20, 10
#: What Pyro's distributions and a model's own factorisations say where latents are no numbers any more.
_REFUSALS = (ValueError, torch.linalg.LinAlgError)
#: A Newton step from the mode would raise the log density by at most half of this.
_SETTLED = 1e-2


def laplace(log_density: Callable[[Tensor], Tensor], start: Tensor, max_iter: int = 500) -> tuple[Tensor, Tensor]:
    r"""The Gaussian that matches a log density at its mode, :math:`N(z^*, (-\nabla^2 \log p(z^*))^{-1})`.

    Args:
        log_density: (d,) -> ().
        start: where to begin, (d,).
        max_iter: steps of L-BFGS, at most.

    Returns:
        the mode (d,), and the triangular root of the covariance, (d, d).

    Raises:
        InputError: no maximum with a finite curvature is found.

    Example:
        >>> import torch
        >>> from hamflow.inference.start import laplace
        >>> laplace(lambda z: -2 * (z - 1).square().sum(), torch.zeros(1))
        (tensor([1.]), tensor([[0.5000]]))
    """
    z = start.detach().clone().requires_grad_()
    optimiser = torch.optim.LBFGS([z], max_iter=max_iter, line_search_fn="strong_wolfe", tolerance_grad=1e-6)

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = -log_density(z)
        if loss.isfinite():
            loss.backward()
        return loss

    refusal: Exception | None = None
    root, gain = torch.full((len(start), len(start)), torch.nan), torch.inf
    try:
        with torch.enable_grad():
            optimiser.step(closure)
        mode = z.detach()
        for _ in range(_NEWTON):
            root, step, gain = _newton(log_density, mode)
            if not _SETTLED < gain < torch.inf:
                break
            mode = _uphill(log_density, mode, step)
        covariance = torch.linalg.cholesky(torch.cholesky_inverse(root)) if gain <= _SETTLED else root
    except _REFUSALS as error:
        refusal, gain = error, torch.inf
    if not gain <= _SETTLED:
        raise InputError(
            "start = 'laplace' found no maximum of the posterior density (a scale that may shrink to zero makes it "
            "grow without end), expected one; start = 'median' or 'prior' needs none"
        ) from refusal
    return mode, covariance


def _newton(log_density: Callable[[Tensor], Tensor], z: Tensor) -> tuple[Tensor, Tensor, float]:
    # The root of minus the curvature, Newton's step, and what it gains, twice over; infinity where there is none.
    with torch.enable_grad():
        curvature = torch.autograd.functional.hessian(lambda x: -log_density(x), z)
        slope = torch.autograd.functional.jacobian(log_density, z)
    root, failed = torch.linalg.cholesky_ex(curvature)
    step = torch.cholesky_solve(slope[:, None], root)[:, 0]
    gain = float(slope @ step)
    return root, step, torch.inf if int(failed) or not math.isfinite(gain) else gain


def _uphill(log_density: Callable[[Tensor], Tensor], z: Tensor, step: Tensor) -> Tensor:
    # A badly scaled density stops L-BFGS far from its mode, and Newton's steps, halved where they are too long, do not.
    now = float(log_density(z))
    for _ in range(_HALVINGS):
        if float(log_density(z + step)) > now:
            return z + step
        step = step / 2
    return z


def prior_moments(draw: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
    """Mean (d,) and diagonal root of the covariance (d, d) of draws from the prior, each (d,).

    Raises:
        InputError: the model refuses most of them.
    """
    found: list[Tensor] = []
    refusal: Exception | None = None
    for _ in range(_DRAWS):
        try:
            found.append(draw())
        except _REFUSALS as error:
            refusal = error
    if len(found) < _DRAWS / 2:
        raise InputError(
            f"start = 'prior' found that the model refuses {_DRAWS - len(found)} of {_DRAWS} draws from its prior, "
            f"expected less than half: {refusal}"
        ) from refusal
    draws = torch.stack(found)
    # Of a heavy tail a few draws are all of the standard deviation; half the width between quantiles is not.
    low, middle, high = torch.quantile(draws, draws.new_tensor([0.16, 0.5, 0.84]), dim=0)
    return middle, torch.diag(0.5 * (high - low).clamp(min=1e-3))


def gaussian_bound(log_density: Callable[[Tensor], Tensor], loc: Tensor, scale_tril: Tensor) -> float:
    """The ELBO of a Gaussian, of mean (d,) and triangular root (d, d), up to a constant; -inf where it has none.

    Example:
        >>> import torch
        >>> from hamflow.inference.start import gaussian_bound
        >>> near, far = torch.zeros(1), torch.full((1,), 9.0)
        >>> bounds = [gaussian_bound(lambda z: -z.square().sum(), loc, torch.eye(1)) for loc in (near, far)]
        >>> bounds[0] > bounds[1]
        True
    """
    noise = torch.randn(_JUDGES, len(loc), dtype=loc.dtype, device=loc.device)
    try:
        with torch.no_grad():
            value = torch.stack([log_density(loc + scale_tril @ row) for row in noise]).mean()
    except _REFUSALS:
        return -math.inf
    bound = float(value + scale_tril.diagonal().log().sum())
    return bound if math.isfinite(bound) else -math.inf
