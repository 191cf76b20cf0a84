"""The last digits of a small problem: L-BFGS on all rows at once."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from hamflow.errors import check_positive
from hamflow.training.seeding import seeded


def polish(model: nn.Module, x: Tensor, *, iterations: int = 200, seed: int = 0) -> float:
    r"""Minimise ``model.loss(x)`` over all rows by L-BFGS with a strong Wolfe line search, and return the loss.

    For a deterministic loss of a few thousand parameters this reaches in a few hundred evaluations what stochastic
    steps do not. Where the loss ends higher than it began, or not finite, the weights are left as they were.

    Args:
        model: a module with ``loss(batch) -> scalar``.
        x: the rows, (n, ...), on the model's device.
        iterations: the largest number of iterations.
        seed: for the model's own noise, the same at every evaluation.

    Raises:
        InputError: ``iterations`` is not positive.

    References:
        Nocedal and Wright (2006), Numerical Optimization, chapter 7.
    """
    check_positive("iterations", iterations, integer=True)
    before = copy.deepcopy(model.state_dict())
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.LBFGS(
        parameters, max_iter=iterations, max_eval=2 * iterations, history_size=50, line_search_fn="strong_wolfe",
        tolerance_grad=1e-10, tolerance_change=1e-14,
    )  # fmt: skip
    model.train()

    def closure() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        with seeded(seed, x.device):
            loss: Tensor = model.loss(x)  # type: ignore[operator]
        loss.backward()
        return loss

    start = float(closure())
    optimizer.step(closure)
    end = float(closure())
    optimizer.zero_grad(set_to_none=True)
    model.eval()
    if math.isfinite(end) and end <= start:
        return end
    model.load_state_dict(before)
    return start
