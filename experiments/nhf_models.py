"""The two hamflow contenders: a pure Neural Hamiltonian Flow, and one joined with lifted spline couplings."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from peers import count_parameters

NHF_MODELS = ("nhf", "nhf_hybrid")
MAX_COMPONENTS = 10


def settings(name: str, case: str, dim: int, budget: int) -> dict[str, Any]:
    """Everything that decides the model and its training, so that a change makes the run start again.

    "model" holds arguments of hamflow.NHF; without a width the budget decides it.
    """
    model: dict[str, Any] = {"n_steps": 12, "whiten": "diagonal"}
    if name == "nhf_hybrid":
        planar = {"lift": "spline", "width": 128}
        model |= {"n_steps": 6, **(planar if dim == 2 else {"lift": "affine", "lift_layers": 2})}
    if dim > 60:
        # Every component of the base has a full covariance over (q, p): 8,400 parameters here.
        model["components"] = 3
    return {"model": model, "learning_rate": 5e-3, "evaluation_particles": 256 if dim == 2 else 64}


def build(name: str, case: str, dim: int, budget: int) -> Any:
    """Build the contender of that name within the budget, counting the most components that its base may choose."""
    import hamflow as hf

    chosen = settings(name, case, dim, budget)["model"]
    components = chosen.get("components") or MAX_COMPONENTS

    def size(width: int) -> int:
        return count_parameters(hf.NHF(dim, **(chosen | {"components": components, "width": width})))

    slope = size(9) - size(8)
    width = chosen.get("width") or 8 + (budget - size(8)) // slope
    if width < 1 or size(width) > budget:
        raise ValueError(f"{name} on {case} has {size(max(width, 1))} parameters, expected at most {budget}")
    return hf.NHF(dim, **(chosen | {"width": width}))


def certificate_metrics(model: Any, x: NDArray[np.float64], seed: int) -> dict[str, float]:
    """How far the bounds of a two-dimensional model are from the truth by quadrature.

    bound_gap_1000: |mean bound with 1000 particles - mean log p by quadrature| on x.
    pareto_k_below_0_7: share of x whose importance weights have a Pareto k under .7.
    bracket_contains_truth: 1 when, on the model's own samples, ELBO <= log p by quadrature <= EUBO in the mean, give or
    take two standard errors of these differences and the tolerance of the quadrature, 1e-4.
    """
    import torch

    rows = torch.as_tensor(x, dtype=torch.float32)
    found = model.certificate(rows, particles=1000, n_model=len(rows), seed=seed)
    distances = [found.model_exact - found.model_elbo, found.model_eubo - found.model_exact]
    contained = all(float(d.mean() + 2 * d.std() / len(d) ** 0.5) >= -1e-4 for d in distances)
    return {
        "bound_gap_1000": abs(float((found.lower.double() - found.exact).mean())),
        "pareto_k_below_0_7": float((found.pareto_k < 0.7).double().mean()),
        "bracket_contains_truth": float(contained),
    }
