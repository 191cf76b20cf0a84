"""Rows, contexts and draws of a density: what goes with what, in every shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hamflow.densities import reparameterised_loss
from hamflow.energies import beside
from hamflow.errors import InputError, check_rows

if TYPE_CHECKING:
    from hamflow.models.nhf import NHF


def check_positions(model: NHF, x: Any, name: str) -> Tensor:
    """A finite table of the model's columns as its tensor; a conditional density takes any batch, (*batch, dim)."""
    if model.features is None:
        return check_rows(x, name, dim=model.dim, columns=model.columns).to(model.whitening.loc)
    return _batched(x, name, model.dim, model.columns).to(model.whitening.loc)


def check_context(model: NHF, context: Any, *, fitting: bool = False) -> Tensor | None:
    """A context (*batch, context_dim) as the model's tensor; None where the density depends on none.

    In fitting as it came: names and dtype are those that the model is about to have.

    Raises:
        InputError: it is missing, not needed, of another width, or not finite.
    """
    width = model.config["context_dim"]
    if (context is None) == (width == 0):
        if context is None:
            return None
        rows = _batched(context, "context", width, None if fitting else model.context_columns)
        return rows if fitting else rows.to(model.whitening.loc)
    if context is None:
        raise InputError(f"context is None, expected one of shape (*batch, {width}): the density depends on it")
    raise InputError(
        f"context is a {type(context).__name__}, expected None: NHF(dim, context_dim) makes it conditional"
    )


def check_pair(model: NHF, x: Any, context: Any, name: str = "x") -> tuple[Tensor, Tensor | None, torch.Size]:
    """Rows (n, dim), their contexts (n, context_dim) where there are any, and the batch that both come from."""
    rows, seen = check_positions(model, x, name), check_context(model, context)
    if seen is None:
        return rows, None, rows.shape[:-1]
    try:
        batch = torch.broadcast_shapes(rows.shape[:-1], seen.shape[:-1])
    except RuntimeError as error:
        shapes = f"{tuple(seen.shape)} for {name} of shape {tuple(rows.shape)}"
        raise InputError(f"context has shape {shapes}, expected batches that broadcast") from error
    rows, seen = (y.expand(*batch, -1).reshape(-1, y.shape[-1]) for y in (rows, seen))
    return rows, seen, batch


def _batched(x: Any, name: str, width: int, columns: tuple[str, ...] | None) -> Tensor:
    # As a table of rows, whose checks are those of all tables.
    shape = tuple(getattr(x, "shape", ())) or torch.as_tensor(x).shape
    if not shape or shape[-1] != width:
        raise InputError(f"{name} has shape {tuple(shape)}, expected (*batch, {width})")
    if len(shape) == 2:
        return check_rows(x, name, dim=width, columns=columns)
    table = x if isinstance(x, Tensor) else torch.as_tensor(x)
    return check_rows(table.reshape(-1, width), name, dim=width).reshape(shape)


def features_of(model: NHF, context: Tensor | None) -> Tensor | None:
    """The features of a context, (*batch, context_dim) -> (*batch, context_features), where the density has any."""
    return None if model.features is None else model.features(context)


def weigh(
    model: NHF, rows: Tensor, context: Tensor | None, noise: Callable[[Tensor], Tensor], batch_size: int
) -> Tensor:
    """Log p(x, p_k) - log f(p_k | x) of rows (n, dim) and contexts (n, context_dim), (K, n).

    ``noise`` makes standard normals (K, m, dim) of rows (m, dim).
    """
    parts = []
    for start in range(0, len(rows), batch_size):
        part = rows[start : start + batch_size]
        features = features_of(model, None if context is None else context[start : start + batch_size])
        z, log_det = model.standardise(part)
        p, log_f = model.encoder.colour(noise(part), beside(z, features))
        parts.append(model.log_joint_standardised(z, p, features) + log_det - log_f)
    # Where a momentum leaves the finite numbers its weight is zero: the bound remains one.
    return torch.cat(parts, dim=1).nan_to_num(nan=-torch.inf, posinf=-torch.inf, neginf=-torch.inf)


def draw(model: NHF, n: int, context: Tensor | None, generator: torch.Generator | None, batch_size: int) -> Tensor:
    """``n`` draws of (q, p) in data coordinates for each row of a context (*batch, context_dim), (n, *batch, 2 dim)."""
    batch = torch.Size() if context is None else context.shape[:-1]
    told = None if context is None else context.expand(n, *context.shape).flatten(0, -2)
    count, parts = n * batch.numel(), []
    for start in range(0, count, batch_size):
        end = min(count, start + batch_size)
        features = features_of(model, None if told is None else told[start:end])
        x = model.drift(draw_base(model, end - start, features, generator))
        x = model.given(features)[0](x)
        for lift in model.lifts():
            x = lift(x)
        parts.append(x)
    return torch.cat(parts).unflatten(0, (n, *batch))


def draw_base(model: NHF, n: int, features: Tensor | None, generator: torch.Generator | None = None) -> Tensor:
    """``n`` draws of the base, one for each row of features where there are any, (n, 2 dim)."""
    if features is None:
        return model.base.sample(n, generator)
    given = model.base.condition(features)  # type: ignore[operator]
    drawn: Tensor = given.sample((), generator)
    return drawn


def bound_loss(model: NHF, batch: Tensor) -> Tensor:
    """Minus the importance-weighted bound, the mean over rows (n, dim + context_dim), the context on the right.

    In evaluation with four times the particles.

    Raises:
        InputError: the rows have another number of columns.
    """
    columns = model.dim + int(model.config["context_dim"])
    if batch.ndim != 2 or batch.shape[1] != columns:
        raise InputError(f"batch has shape {tuple(batch.shape)}, expected (n, {columns})")
    rows, context = batch[:, : model.dim], batch[:, model.dim :]
    features = features_of(model, context)
    z, log_det = model.standardise(rows)
    particles = model.particles if model.training else 4 * model.particles
    p, log_f = model.encoder.rsample_scored(beside(z, features), particles)
    log_weights = model.log_joint_standardised(z, p, features) + log_det - log_f
    loss = reparameterised_loss(log_weights, p)
    if model.training and model.sleep > 0:
        sleep = model.sleep * _sleep_loss(model, len(batch), features)
        # The gradient is added, not the value: the loss that is shown remains the bound.
        loss = loss + sleep - sleep.detach()
    return loss


def _sleep_loss(model: NHF, n: int, features: Tensor | None) -> Tensor:
    with torch.no_grad():
        q, p = model.given(features)[0](model.drift(draw_base(model, n, features))).chunk(2, dim=-1)
    return -model.encoder(p, beside(q, features)).mean()
