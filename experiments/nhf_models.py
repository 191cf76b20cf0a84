"""The hamflow contenders: Neural Hamiltonian Flows, pure and joined with lifted spline couplings."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from peers import count_parameters
from torch import Tensor

# nhf_one_component starts from a single component instead of a mixture: what the flow does on its own.
NHF_MODELS = ("nhf", "nhf_hybrid", "nhf_one_component")
# nhf before any training: the mixture that it starts from.
START = "start_mixture"
MAX_COMPONENTS = 10
SCHEME = "symplectic_euler"


def settings(name: str, case: str, dim: int, budget: int) -> dict[str, Any]:
    """Everything but the learning rate that decides a model's figures, so that a change makes the run start again.

    "model" holds arguments of hamflow.NHF. In the plane the networks are smaller than the budget allows; on tables the
    width of the potentials (the width of the lift in a hybrid) is what the budget leaves. Set by hand after trial runs.
    """
    model: dict[str, Any]
    if dim == 2:
        model = {"n_steps": 8, "dt": 0.25, "width": 64, "particles": 8, "whiten": "diagonal", "encoder_width": 32}
        model |= {"scheme": SCHEME, "components": None}
        if name == "nhf_one_component":
            model |= {"components": 1, "n_steps": 12, "width": 128, "particles": 16}
            return {"model": model, "evaluation_particles": 256}
        if name == "nhf_hybrid":
            model |= {"n_steps": 4, "width": 32, "particles": 4, "lift": "spline"}
        return {"model": model, "evaluation_particles": 128}
    model = {"n_steps": 8, "dt": 0.1, "particles": 8, "whiten": "none", "encoder_width": 32}
    model |= {"components": None, "max_components": MAX_COMPONENTS, "scheme": SCHEME}
    if name == "nhf_hybrid":
        model |= {"n_steps": 4, "width": 16, "particles": 4, "lift": "spline", "lift_layers": 4}
        if dim > 60:
            # Ten components alone would take a third of the budget, and the lift is the better use of it.
            model |= {"max_components": 3}
    if name == "nhf_one_component":
        model |= {"components": 1}
    return {"model": model, "evaluation_particles": 1000}


def build(name: str, case: str, dim: int, budget: int, seed: int) -> Any:
    """Build the contender of that name; on tables with the widest networks that keep it within the budget.

    The base is counted with the most components that it may choose.
    """
    import hamflow as hf

    chosen = settings(name, case, dim, budget)["model"]
    if dim == 2:
        return hf.NHF(dim, seed=seed, **chosen)
    free = "lift_width" if "lift" in chosen else "width"
    most = chosen["components"] or chosen["max_components"]

    def size(width: int) -> int:
        return count_parameters(hf.NHF(dim, **(chosen | {"components": most, free: width})))

    width = 1
    if size(width) > budget:
        raise ValueError(f"{name} on {case} has {size(1)} parameters at {free} 1, expected at most {budget}")
    while size(width + 1) <= budget:
        width += 1
    return hf.NHF(dim, seed=seed, **(chosen | {free: width}))


def start(name: str, case: str, dim: int, budget: int, train: Tensor, held_out: Tensor, seed: int) -> Any:
    """The contender of that name as it is before the first step of its training."""
    from hamflow.models.start import warm_start
    from hamflow.training import seeded

    model = build(name, case, dim, budget, seed)
    with seeded(seed):
        warm_start(model, train, held_out, seed)
    return model.eval()


def start_parameters(model: Any) -> int:
    """Free parameters of the mixture: weights, means, symmetric covariances and degrees of freedom of the positions."""
    components, dim = model.base.components, model.dim
    return int(components * (2 + dim + dim * (dim + 1) // 2) - 1)


def certificate_metrics(model: Any, x: NDArray[np.float64], integrated: int, seed: int) -> dict[str, float]:
    """How far the bounds of a two-dimensional model are from the truth by quadrature.

    bound_gap_1000: |mean bound with 1000 particles - mean log p by quadrature| on the first `integrated` rows of x.
    pareto_k_below_0_7: share of all rows of x whose importance weights have a Pareto k under .7.
    bracket_contains_truth: 1 when, on `integrated` samples of the model, each of ELBO <= L_1000 <= log p by quadrature
    <= U_1000 <= EUBO holds in the mean, give or take three standard errors of the paired difference (a full table makes
    over a hundred such comparisons: at two it would miss by chance alone) and the tolerance of the quadrature, 1e-4.
    unsettled_points: how many of those rows and samples lack a finite bound or a settled quadrature. The figures above
    are about the others.
    """
    import torch

    from hamflow.densities import pareto_k

    rows = torch.as_tensor(x, dtype=torch.float32)
    found = model.certificate(rows[:integrated], particles=1000, n_model=integrated, seed=seed)
    ladder = (found.model_elbo, found.model_lower, found.model_exact, found.model_upper, found.model_eubo)
    # All comparisons are made on the same points.
    kept = torch.stack([rung.isfinite() for rung in ladder]).all(0)
    distances = [(above.double() - below.double())[kept] for below, above in pairwise(ladder)]
    gap = found.lower.double() - found.exact
    contained = all(float(d.mean() + 3 * d.std() / len(d) ** 0.5) >= -1e-4 for d in distances)
    tails = pareto_k(model.log_weights(rows, particles=1000, seed=seed))
    return {
        "bound_gap_1000": abs(float(gap[gap.isfinite()].mean())),
        "pareto_k_below_0_7": float((tails < 0.7).double().mean()),
        "bracket_contains_truth": float(contained),
        "unsettled_points": int((~kept).sum() + (~gap.isfinite()).sum()),
    }
