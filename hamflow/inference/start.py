"""Where a guide starts: the mode of the posterior and the curvature there, or the spread of the prior."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hamflow.errors import InputError

#: Draws from the prior.
_DRAWS = 256
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
            curvature = torch.autograd.functional.hessian(lambda x: -log_density(x), z.detach())
            slope = torch.autograd.functional.jacobian(log_density, z.detach())
        root, failed = torch.linalg.cholesky_ex(curvature)
        gain = torch.inf if int(failed) else float(slope @ torch.cholesky_solve(slope[:, None], root)[:, 0])
    except ValueError as error:  # where latents are no numbers any more, Pyro's distributions refuse them
        refusal = error
    if not gain <= _SETTLED:
        raise InputError(
            "start = 'laplace' found no maximum of the posterior density (a scale that may shrink to zero makes it "
            "grow without end), expected one; start = 'median' or 'prior' needs none"
        ) from refusal
    return z.detach(), torch.linalg.cholesky(torch.cholesky_inverse(root))


def prior_moments(draw: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
    """Mean (d,) and diagonal root of the covariance (d, d) of draws from the prior, each (d,)."""
    draws = torch.stack([draw() for _ in range(_DRAWS)])
    # Of a heavy tail a few draws are all of the standard deviation; half the width between quantiles is not.
    low, middle, high = torch.quantile(draws, draws.new_tensor([0.16, 0.5, 0.84]), dim=0)
    return middle, torch.diag(0.5 * (high - low).clamp(min=1e-3))
