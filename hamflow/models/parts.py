"""What an NHF is made of, from its settings: checked, then built in the order that its seed fixes."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.distributions import Transform

from hamflow.densities import ContextNetwork, FlowEncoder, GaussianEncoder, MixtureNetwork, PhaseMixture
from hamflow.densities.warm_start import CANDIDATES
from hamflow.energies import QuadraticKinetic
from hamflow.errors import InputError, check_choice, check_positive, check_seed, is_number
from hamflow.flow import PhaseFlow, layered_hamiltonian
from hamflow.models.lifts import coupling_flow
from hamflow.standardize import Whitening
from hamflow.steps import SCHEMES, Drift, Lift, Splitting
from hamflow.training import seeded

#: Of a context, where there are no more columns.
_FEATURES = 16
#: Columns up to which a covariance with all its correlations is worth its parameters.
FEW = 8


def complete_config(config: dict[str, Any]) -> None:
    """Choose what was left open of the settings of :class:`hamflow.NHF`, by the others.

    Raises:
        InputError: one is out of range or contradicts another.
    """
    check_positive("dim", config["dim"], integer=True)
    if config["scheme"] is None:
        config["scheme"] = "symplectic_euler" if config["layerwise"] else "leapfrog"
    if config["context_features"] is None:
        config["context_features"] = max(_FEATURES, config["dim"])
    for name in ("dim", "n_steps", "width", "encoder_width", "lift_layers", "lift_width", "particles"):
        check_positive(name, config[name], integer=True)
    if not is_number(config["context_dim"], integer=True) or config["context_dim"] < 0:
        raise InputError(f"context_dim = {config['context_dim']!r}, expected a whole number >= 0")
    check_positive("context_features", config["context_features"], integer=True)
    check_positive("dt", config["dt"])
    check_seed("seed", config["seed"])
    check_choice("scheme", config["scheme"], tuple(SCHEMES))
    check_choice("base", config["base"], ("mixture", "gaussian"))
    check_choice("encoder", config["encoder"], ("gaussian", "flow"))
    check_choice("whiten", config["whiten"], ("auto", "full", "diagonal", "none"))
    check_positive("max_components", config["max_components"], integer=True)
    if config["max_components"] > CANDIDATES[-1]:
        raise InputError(f"max_components = {config['max_components']}, expected at most {CANDIDATES[-1]}")
    if config["components"] is not None:
        check_positive("components", config["components"], integer=True)
        if config["base"] == "gaussian":
            raise InputError(f"components = {config['components']} with base = 'gaussian', expected None: it has one")
    sleep = config["sleep"]
    if not is_number(sleep) or not 0 <= sleep < math.inf:
        raise InputError(f"sleep = {sleep!r}, expected a finite weight >= 0")


def fresh_base(config: dict[str, Any], components: int) -> PhaseMixture | MixtureNetwork:
    """A base over (q, p): one diagonal Gaussian, or a mixture whose components are full where there are few columns."""
    if config["context_dim"]:
        alone = config["base"] == "gaussian"
        covariance = "diagonal" if alone else "full" if config["dim"] <= FEW else "constant"
        return MixtureNetwork(
            config["dim"], config["context_features"], components, covariance=covariance, gaussian=alone
        )
    if config["base"] == "gaussian":
        return PhaseMixture(config["dim"], covariance="diagonal", gaussian=True)
    return PhaseMixture(config["dim"], components, covariance="full" if config["dim"] <= FEW else "block")


def fresh_parts(config: dict[str, Any]) -> dict[str, nn.Module | None]:
    """The whitening, the lift, the features of a context, the steps, the base, the drift back and the encoder.

    A lift of the caller's own is taken as it is; everything else is new, on the CPU, and the same for the same seed.

    Raises:
        InputError: the lift is not a bijection of R^d.
    """
    dim, n_steps, dt = config["dim"], config["n_steps"], config["dt"]
    scheme = SCHEMES[config["scheme"]]
    features = config["context_features"] if config["context_dim"] else 0
    with seeded(config["seed"]):
        lifting = _lifting(config)
        energy = layered_hamiltonian(
            dim, n_steps=n_steps, width=config["width"], dt=dt, scheme=scheme, layerwise=config["layerwise"],
            context_dim=features,
        )  # fmt: skip
        build = FlowEncoder if config["encoder"] == "flow" else GaussianEncoder
        return {
            "whitening": Whitening(dim),
            "lifting": lifting,
            "features": ContextNetwork(config["context_dim"], features) if features else None,
            "flow": PhaseFlow(Splitting(energy, scheme), n_steps=n_steps, dt=dt, memory=config["memory"]),
            "base": fresh_base(config, config["components"] or 1),
            # With fresh potentials the steps are free motion; this takes it back first, so the whole is the identity.
            "drift": PhaseFlow(Drift(QuadraticKinetic(dim)), dt=n_steps * dt, reverse=True),
            "encoder": build(
                dim, width=config["encoder_width"], covariance="full" if dim <= FEW else "shared", context_dim=features
            ),
        }


def _lifting(config: dict[str, Any]) -> Lift | None:
    lift, dim = config["lift"], config["dim"]
    if lift is None:
        return None
    if isinstance(lift, str):
        return Lift(coupling_flow(lift, dim, layers=config["lift_layers"], width=config["lift_width"]))
    if not isinstance(lift, Transform):
        raise InputError(f"lift is a {type(lift).__name__}, expected None, a name or a bijective Transform of R^{dim}")
    step = Lift(lift)
    like = next((p for p in step.parameters()), torch.zeros(()))
    try:
        moved = step.map(torch.zeros(2, dim, dtype=like.dtype, device=like.device))
    except (RuntimeError, ValueError, IndexError) as error:
        raise InputError(
            f"lift does not take rows of {dim} columns, expected a Transform of R^{dim}: {error}"
        ) from error
    if moved.shape != (2, dim):
        raise InputError(f"lift maps {dim} columns to shape {tuple(moved.shape)}, expected a Transform of R^{dim}")
    return step
