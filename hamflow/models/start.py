"""Where a model starts: the standardisation and the base mixture, chosen on held-out rows."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hamflow.densities import MixtureNetwork, StartingMixture, choose_mixture
from hamflow.densities.mixture import GAUSSIAN, log_normal
from hamflow.errors import named
from hamflow.models.parts import fresh_base

if TYPE_CHECKING:
    from hamflow.models.nhf import NHF


#: Held-out rows that choose a mixture alone; where they are fewer, a cross-validation of the training rows does.
_ENOUGH = 100
_FOLDS = 5
#: The share of the variance of a combination of columns under which it counts as none, and of a column in it.
_DEPENDENT = 1e-10
_PART = 0.05
#: Of a regression on a context, in units of the variance of a column; and the least variance that it may leave.
_RIDGE, _LEAST = 1e-4, 1e-6


@torch.no_grad()
def warm_start(model: NHF, rows: Tensor, held_out: Tensor | None, seed: int, *, progress: bool = False) -> None:
    """Set the model's whitening and base; with the flow at the identity it then has the density of that mixture.

    What there is to choose is chosen on the validation rows where they are many, else by cross-validation of the
    training rows: a handful of rows says little about tails and numbers of components.

    A conditional density starts as a linear regression on its context, with a mixture of what that leaves.

    Args:
        model: its settings ``whiten``, ``components`` and ``max_components`` say what there is to choose.
        rows: the training rows, (n, dim + context_dim), the context on the right.
        held_out: the validation rows, (m, dim + context_dim), or None.
        seed: for the folds and the initialisation of the mixtures.
        progress: whether to show a progress bar.

    Raises:
        FitError: no mixture could be fitted.
    """
    folds = _folds(rows, held_out, seed)
    kind, mixture = _choose(model, rows, folds, seed, progress)
    model.whitening.estimate(rows[:, : model.dim], kind)
    if model.features is not None:
        model.features.say(_slopes(model, rows))
    model.base = fresh_base(model.config, len(mixture.weights)).to(model.whitening.loc)  # type: ignore[assignment]
    model.base.set_positions(mixture.weights, mixture.means, mixture.scales, mixture.degrees)
    if isinstance(model.base, MixtureNetwork):
        model.base.follow()


def _slopes(model: NHF, rows: Tensor) -> Tensor:
    # Of a linear regression of the standardised rows on the context, (context_dim, dim).
    context = _context(model, rows)
    square = context.mT @ context + _RIDGE * len(rows) * torch.eye(context.shape[1]).to(context)
    slopes = torch.linalg.solve(square, context.mT @ model.standardise(rows[:, : model.dim])[0])
    # As many columns of the base follow as there are features.
    slopes[:, model.config["context_features"] :] = 0
    return slopes


def _context(model: NHF, rows: Tensor) -> Tensor:
    return rows[:, :0] if model.features is None else model.features.standardised(rows[:, model.dim :])


def _folds(rows: Tensor, held_out: Tensor | None, seed: int) -> list[tuple[Tensor, Tensor]]:
    if held_out is not None and len(held_out) >= _ENOUGH:
        return [(rows, held_out)]
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).to(rows.device)
    parts = order.tensor_split(min(_FOLDS, len(rows)))
    kept = parts if len(rows) < _FOLDS * _ENOUGH else parts[:1]
    return [(rows[torch.cat([other for other in parts if other is not part])], rows[part]) for part in kept]


def _choose(
    model: NHF, rows: Tensor, folds: list[tuple[Tensor, Tensor]], seed: int, progress: bool
) -> tuple[str, StartingMixture]:
    whiten, components, most = (model.config[name] for name in ("whiten", "components", "max_components"))
    found = []
    for kind in ("full", "diagonal") if whiten == "auto" else (whiten,):
        standardised, log_dets = [], []
        for train, test in [*folds, (rows, rows)]:
            # A column may vary in the table and not in a part of it.
            varies = bool((train[:, : model.dim] != train[0, : model.dim]).any(0).all())
            model.whitening.estimate((train if varies else rows)[:, : model.dim], kind)
            slopes, left = _slopes(model, train), []
            for part in (train, test):
                z, log_det = model.standardise(part[:, : model.dim])
                left.append(z - _context(model, part) @ slopes)
            standardised.append((left[0], left[1]))
            log_dets.append(log_det.double().cpu())
        # The last were all of the rows, whose scores say nothing.
        z, _ = standardised.pop()
        log_dets.pop()
        if model.config["base"] == "gaussian":
            spread = torch.ones_like(z[0]) if model.features is None else z.var(0, correction=0).clamp(min=_LEAST)
            mixture = _normal(spread, torch.cat([z_test for _, z_test in standardised]))
        else:
            mixture = choose_mixture(
                z, standardised, components=components, max_components=most, seed=seed, progress=progress
            )
        found.append((kind, mixture, mixture.scores + torch.cat(log_dets)))
    kind, mixture, scores = found[0]
    if len(found) == 2:
        gain = found[1][2] - scores
        # Full whitening helps the flow more than the mixture; the plain one has to be clearly better to win.
        if len(gain) > 1 and gain.mean() > 2 * gain.std() / len(gain) ** 0.5:
            kind, mixture, _ = found[1]
    return kind, mixture


def _normal(variance: Tensor, held_out: Tensor) -> StartingMixture:
    # About zero, of the variance (d,) of every coordinate.
    rows, variance = held_out.double().cpu(), variance.double().cpu()
    scores = log_normal((rows**2 / variance).sum(-1), len(variance)) - 0.5 * variance.log().sum()
    one = torch.ones(1, dtype=rows.dtype)
    return StartingMixture(one, torch.zeros_like(rows[:1]), torch.diag(variance)[None], GAUSSIAN, scores)


def warn_of_dependent_columns(rows: Tensor, names: Sequence[str] | None) -> None:
    """Warn where a column of (n, dim) is a linear function of others: such a table has no density."""
    wide = rows.double()
    values, vectors = torch.linalg.eigh(wide.T.corrcoef() if wide.shape[1] > 1 else wide.new_ones(1, 1))
    if values[0] < _DEPENDENT:
        columns = (vectors[:, 0].abs() > _PART).nonzero().flatten().tolist()
        warnings.warn(
            f"x: columns depend on each other linearly ({named(columns, names)}): such a table has no density, and its "
            "scores are made by a regularisation; leave one of them out",
            stacklevel=4,
        )


def warn_of_lost_digits(rows: Tensor, dtype: torch.dtype, names: Sequence[str] | None) -> None:
    """Warn where rows (n, dim) vary so little beside their size that ``dtype`` blurs them."""
    resolution = torch.finfo(dtype).eps * rows.abs().max(0).values
    coarse = (resolution > 1e-3 * rows.std(0)).nonzero().flatten().tolist()
    if coarse:
        warnings.warn(
            f"x: columns vary little beside their size ({named(coarse, names)}), and {str(dtype)[6:]} resolves their "
            "spread in under 1000 steps; subtract a constant, or fit with dtype=torch.float64",
            stacklevel=4,
        )
