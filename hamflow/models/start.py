"""Where a model starts: the standardisation and the base mixture, chosen on held-out rows."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hamflow.densities import PhaseMixture, StartingMixture, choose_mixture
from hamflow.densities.mixture import GAUSSIAN

if TYPE_CHECKING:
    from hamflow.models.nhf import NHF

#: Columns up to which a covariance of (q, p) with all its correlations is worth its parameters.
FEW = 8


def fresh_base(kind: str, dim: int, components: int) -> PhaseMixture:
    """A base over (q, p): one diagonal Gaussian, or a mixture whose components are full where there are few columns."""
    if kind == "gaussian":
        return PhaseMixture(dim, covariance="diagonal", gaussian=True)
    return PhaseMixture(dim, components, covariance="full" if dim <= FEW else "block")


@torch.no_grad()
def warm_start(model: NHF, rows: Tensor, held_out: Tensor, seed: int) -> None:
    """Set the model's whitening and base; with the flow at the identity it then has the density of that mixture.

    Args:
        model: its settings ``whiten``, ``components`` and ``max_components`` say what there is to choose.
        rows: the training rows, (n, dim).
        held_out: the validation rows, (m, dim).
        seed: for the initialisation of the mixtures.

    Raises:
        FitError: no mixture could be fitted.
    """
    kind, mixture = _choose(model, rows, held_out, seed)
    model.whitening.estimate(rows, kind)
    model.base = fresh_base(model.config["base"], model.dim, len(mixture.weights)).to(model.whitening.loc)
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
        found.append((kind, mixture, mixture.scores + log_det.double().cpu()[: len(mixture.scores)]))
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
