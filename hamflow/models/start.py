"""Where a model starts: the standardisation and the base mixture, chosen on held-out rows."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hamflow.densities import StartingMixture, choose_mixture
from hamflow.densities.mixture import GAUSSIAN
from hamflow.models.parts import fresh_base
from hamflow.training import split_rows

if TYPE_CHECKING:
    from hamflow.models.nhf import NHF


@torch.no_grad()
def warm_start(model: NHF, rows: Tensor, held_out: Tensor | None, seed: int) -> None:
    """Set the model's whitening and base; with the flow at the identity it then has the density of that mixture.

    Args:
        model: its settings ``whiten``, ``components`` and ``max_components`` say what there is to choose.
        rows: the training rows, (n, dim).
        held_out: the validation rows, (m, dim); without them a tenth of the training rows chooses.
        seed: for the initialisation of the mixtures.

    Raises:
        FitError: no mixture could be fitted.
    """
    if held_out is None:
        rows, held_out = split_rows(rows, 0.1, seed)
    assert held_out is not None
    kind, mixture = _choose(model, rows, held_out, seed)
    model.whitening.estimate(rows, kind)
    model.base = fresh_base(model.config, len(mixture.weights)).to(model.whitening.loc)
    model.base.set_positions(mixture.weights, mixture.means, mixture.scales, mixture.degrees)


def _choose(model: NHF, rows: Tensor, held_out: Tensor, seed: int) -> tuple[str, StartingMixture]:
    whiten, components, most = (model.config[name] for name in ("whiten", "components", "max_components"))
    found = []
    for kind in ("full", "diagonal") if whiten == "auto" else (whiten,):
        model.whitening.estimate(rows, kind)
        z, _ = model.standardise(rows)
        z_held, log_det = model.standardise(held_out)
        if model.config["base"] == "gaussian":
            mixture = _standard_normal(z_held)
        else:
            mixture = choose_mixture(z, z_held, components=components, max_components=most, seed=seed)
        found.append((kind, mixture, mixture.scores + log_det.double().cpu()))
    kind, mixture, scores = found[0]
    if len(found) == 2:
        gain = found[1][2] - scores
        # Full whitening helps the flow more than the mixture; the plain one has to be clearly better to win.
        if len(gain) > 1 and gain.mean() > 2 * gain.std() / len(gain) ** 0.5:
            kind, mixture, _ = found[1]
    return kind, mixture


def _standard_normal(held_out: Tensor) -> StartingMixture:
    rows, d = held_out.double().cpu(), held_out.shape[1]
    scores = -0.5 * (rows**2).sum(-1) - 0.5 * d * math.log(2 * math.pi)
    one = torch.ones(1, dtype=rows.dtype)
    return StartingMixture(one, torch.zeros_like(rows[:1]), torch.eye(d, dtype=rows.dtype)[None], GAUSSIAN, scores)


def warn_of_lost_digits(rows: Tensor, dtype: torch.dtype) -> None:
    """Warn where rows (n, dim) vary so little beside their size that ``dtype`` blurs them."""
    resolution = torch.finfo(dtype).eps * rows.abs().max(0).values
    coarse = (resolution > 1e-3 * rows.std(0)).nonzero().flatten().tolist()
    if coarse:
        name = str(dtype).removeprefix("torch.")
        warnings.warn(
            f"x: columns {coarse} vary little beside their size, and {name} resolves their spread in under 1000 steps; "
            "subtract a constant, or fit with dtype=torch.float64",
            stacklevel=3,
        )
