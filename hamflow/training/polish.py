"""The last digits of a small problem: L-BFGS on all rows at once."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from hamflow.errors import InputError, check_positive
from hamflow.training.seeding import seeded

#: Iterations between two looks at the validation loss.
_ROUND = 20
#: What the loss at the start is for the optimiser, whose tolerances are absolute.
_LARGE = 1e6


def polish(
    model: nn.Module, x: Tensor, *, iterations: int = 200, validation: Tensor | None = None, seed: int = 0
) -> float:
    r"""Minimise ``model.loss(x)`` over all rows by L-BFGS with a strong Wolfe line search, and return the loss.

    For a deterministic loss of a few thousand parameters this reaches in a few hundred evaluations what stochastic
    steps do not. The best weights are kept: those of the lowest validation loss, or of the lowest loss where no rows
    are held out. Where nothing is better, or an error ends the run, they are the weights at the start.

    Args:
        model: a module with ``loss(batch) -> scalar``.
        x: the rows, (n, ...), on the model's device.
        iterations: the largest number of iterations.
        validation: the held-out rows, on which the model's loss is taken in evaluation mode.
        seed: for the model's own noise, the same at every evaluation.

    Raises:
        InputError: ``iterations`` is not positive, or the model has nothing to train.

    References:
        Nocedal and Wright (2006), Numerical Optimization, chapter 7.

    Example:
        >>> import torch
        >>> class Line(torch.nn.Linear):
        ...     def loss(self, batch):
        ...         return (self(batch[:, :1]) - batch[:, 1:]).square().mean()
        >>> x = torch.arange(5.0, dtype=torch.float64).unsqueeze(-1)
        >>> line = Line(1, 1).double()
        >>> polish(line, torch.cat((x, 3 * x + 1), -1)) < 1e-12
        True
    """
    check_positive("iterations", iterations, integer=True)
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise InputError("model has no parameter to train, expected at least one with requires_grad")
    optimizer = torch.optim.LBFGS(
        parameters, history_size=50, line_search_fn="strong_wolfe", tolerance_grad=1e-10, tolerance_change=1e-14
    )

    scale = 1.0

    def closure() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        with seeded(seed, x.device):
            loss: Tensor = scale * model.loss(x)  # type: ignore[operator]
        loss.backward()
        return loss.detach()

    def judge(loss: float) -> float:
        if validation is None:
            return loss
        model.eval()
        with torch.no_grad(), seeded(seed, x.device):
            held = float(model.loss(validation))  # type: ignore[operator]
        model.train()
        return held

    model.train()
    best, kept = copy.deepcopy(model.state_dict()), float(closure())
    lowest, last = judge(kept), kept
    if 0 < kept < math.inf:
        # The optimiser learns no curvature from steps that gain less than 1e-10: of a small loss those would be all.
        scale = _LARGE / kept
    try:
        for done in range(0, iterations, _ROUND):
            group = optimizer.param_groups[0]
            group["max_iter"] = min(_ROUND, iterations - done)
            group["max_eval"] = 2 * group["max_iter"]
            optimizer.step(closure)
            loss = float(closure()) / scale
            score = judge(loss)
            if math.isfinite(loss) and score < lowest:
                best, kept, lowest = copy.deepcopy(model.state_dict()), loss, score
            if not loss < last:
                break
            last = loss
    finally:
        optimizer.zero_grad(set_to_none=True)
        model.load_state_dict(best)
        model.eval()
    return kept
