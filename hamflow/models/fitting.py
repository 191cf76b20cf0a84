"""Fitting a density to a table: everything is checked before the model changes, and a refusal changes nothing."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hamflow.energies import beside
from hamflow.errors import (
    FitError,
    InputError,
    check_device,
    check_dtype,
    check_rows,
    check_training_table,
    column_names,
    is_number,
)
from hamflow.io import check_writable
from hamflow.models.conditional import check_context
from hamflow.models.refusal import unchanged_if_refused
from hamflow.models.start import warm_start, warn_of_dependent_columns, warn_of_lost_digits
from hamflow.training import History, fit, seeded, split_rows

if TYPE_CHECKING:
    from hamflow.models.nhf import NHF


def fit_density(
    model: NHF,
    x: Any,
    context: Any,
    *,
    validation: Any,
    dtype: torch.dtype | None,
    device: torch.device | str | None,
    progress: bool,
    checkpoint: str | Path | None,
    settings: dict[str, Any],
) -> None:
    """Make the model anew and train it on the rows of a table; see :meth:`hamflow.NHF.fit`."""
    rows = check_training_table(x, dim=model.dim)
    seen = check_context(model, context, fitting=True)
    if seen is not None and seen.shape[:-1] != rows.shape[:-1]:
        raise InputError(f"context has shape {tuple(seen.shape)}, expected {(len(rows), seen.shape[-1])}, a row each")
    follows = rows if isinstance(x, Tensor) and x.is_floating_point() else model.whitening.loc
    check_dtype(dtype)
    target = check_device(follows.device if device is None else device)
    if checkpoint is not None:
        check_writable(checkpoint)
    with unchanged_if_refused(model):
        model.assemble()
        model.to(device=target, dtype=dtype or follows.dtype)
        model.columns, model.context_columns = column_names(x), column_names(context)
        warn_of_lost_digits(rows, model.whitening.loc.dtype, model.columns)
        warn_of_dependent_columns(rows, model.columns)
        _train(model, rows.to(model.whitening.loc), seen, validation, progress, checkpoint, settings)


def _train(
    model: NHF,
    rows: Tensor,
    context: Tensor | None,
    validation: Any,
    progress: bool,
    checkpoint: str | Path | None,
    settings: dict[str, Any],
) -> None:
    seed = settings["seed"]
    if not rows.isfinite().all():
        # The table was finite before it was rounded to the dtype of the model.
        raise InputError(f"x has entries beyond the range of {rows.dtype}, expected smaller ones or another dtype")
    check_training_table(rows)
    if validation is not None and not is_number(validation):
        width = model.dim + model.config["context_dim"]
        validation = check_rows(validation, "validation", dim=width, columns=model.columns).to(rows)
    train, held_out = split_rows(beside(rows, None if context is None else context.to(rows)), validation, seed)
    check_training_table(train[:, : model.dim], "x without its validation rows")
    if model.features is not None:
        model.features.standardise(train[:, model.dim :])
    wanted = model.config["components"]
    if wanted is not None and wanted > len(train):
        raise InputError(f"components = {wanted}, expected at most the {len(train)} training rows")
    model.history = History()
    started = time.process_time()
    with seeded(seed, rows.device):
        warm_start(model, train, held_out, seed, progress=progress)
    start_seconds = time.process_time() - started
    try:
        model.history = fit(model, train, validation=held_out, progress=progress, checkpoint=checkpoint, **settings)
        model.history.seconds += start_seconds
    except FitError as error:
        model.history = error.history or model.history
        raise
