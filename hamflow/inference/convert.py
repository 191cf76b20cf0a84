"""Draws as ArviZ takes them, in its version 0 and its version 1."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from hamflow.errors import InputError

_GROUPS = (
    "sample_stats", "log_likelihood", "log_prior", "posterior_predictive", "predictions", "observed_data",
    "constant_data", "predictions_constant_data", "prior", "prior_predictive", "sample_stats_prior",
)  # fmt: skip


def to_arviz(posterior: Mapping[str, Any], *, chains: bool = True, **groups: Mapping[str, Any]) -> Any:
    """What ArviZ summarises and plots, from draws as Pyro gives them.

    Args:
        posterior: by site, (chain, draw, *shape), as ``mcmc.get_samples(group_by_chain=True)`` gives them; without
            ``chains`` (draw, *shape), as a guide's ``sample_posterior`` does.
        chains: whether the first dimension counts chains.
        groups: further groups of ArviZ's, such as ``sample_stats``, ``log_likelihood`` or ``posterior_predictive``, in
            the same shapes; ``observed_data`` has neither chains nor draws.

    Returns:
        ``arviz.InferenceData``, or from version 1 on an ``xarray.DataTree``.

    Raises:
        InputError: a group has no name of ArviZ's, or a variable no such dimensions, or another number of chains or
            draws.

    Example:
        >>> import torch, hamflow as hf
        >>> data = hf.inference.to_arviz({"theta": torch.randn(4, 100, 8)}, sample_stats={"lp": torch.randn(4, 100)})
        >>> data.posterior["theta"].shape
        (4, 100, 8)
    """
    unknown = sorted(groups.keys() - set(_GROUPS))
    if unknown:
        raise InputError(f"groups has {unknown}, expected names of ArviZ's: {', '.join(_GROUPS)}")
    for group, variables in {"posterior": posterior, **groups}.items():
        if not isinstance(variables, Mapping):
            raise InputError(
                f"{group} is a {type(variables).__name__}, expected draws by site, as get_samples gives them"
            )
    tables: dict[str, dict[str, np.ndarray]] = {}
    first: tuple[str, tuple[int, ...]] | None = None
    for group, variables in {"posterior": posterior, **groups}.items():
        tables[group] = {}
        for name, values in variables.items():
            array = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
            if group not in ("observed_data", "constant_data"):
                array = array if chains else array[None]
                if array.ndim < 2:
                    raise InputError(f"{group}[{name!r}] has shape {array.shape}, expected (chain, draw, ...)")
                # Predictions and priors may be as many as one likes; what belongs to a draw must have one.
                paired = group in ("posterior", "sample_stats", "log_likelihood", "posterior_predictive")
                first = first or (name, array.shape[:2])
                if paired and array.shape[:2] != first[1]:
                    raise InputError(
                        f"{group}[{name!r}] has {array.shape[0]} chains of {array.shape[1]} draws, expected those of "
                        f"{first[0]!r}, {first[1][0]} of {first[1][1]}"
                    )
            tables[group][name] = array
    with warnings.catch_warnings():
        # Version 0.23 announces its refactoring at import.
        warnings.simplefilter("ignore", FutureWarning)
        import arviz
    if int(arviz.__version__.split(".")[0]) >= 1:
        return arviz.from_dict(tables)
    return arviz.from_dict(**tables)  # type: ignore[arg-type]
