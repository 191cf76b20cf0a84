"""Physics inside a Pyro model: a step rolled through the times of the data, and the measured positions as a site."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from hamflow.errors import InputError, check_positive, is_number
from hamflow.steps import Step


def observe_path(
    name: str,
    step: Step,
    q: Tensor,
    p: Tensor,
    times: Any,
    *,
    dt: float,
    noise: float | Tensor,
    obs: Any = None,
    t: float | None = None,
    periodic: Sequence[int] = (),
) -> tuple[Tensor, Tensor]:
    r"""Roll a step from a latent state through the times of the data and observe the positions, inside a Pyro model,

    .. math:: (q_i, p_i) = \Phi_{t_i - t}(q, p), \qquad y_i \sim N(q_i, \sigma^2), \qquad i = 1, \dots, n .

    The steps have one length, whatever the times: from the grid point that is nearest to :math:`t_i` one more, shorter
    step leads there, forward or backward, and all of these are taken at once. So uneven times and missing frames cost
    nothing and shift nothing, and the cost is that of the span of time, not of the number of frames.

    What a step is made of may be sampled too, as tensors (\*batch, 1) or (\*batch, d): the friction of
    :class:`hamflow.Damped`, the mass of :class:`hamflow.QuadraticKinetic`, and whatever the function of a
    :class:`hamflow.FunctionEnergy` holds. Sites with ``.to_event(1)`` have such shapes under vectorised particles and
    in ``Predictive``. Paths that leave the finite numbers give a log density that is not finite, which a Markov chain
    rejects.

    Args:
        name: of the site, whose event is (n, d).
        step: a :class:`hamflow.Step` whose ``dt`` may be a tensor.
        q: positions at time t, (\*batch, d).
        p: momenta at time t, (\*batch, d).
        times: of the data, (n,), rising.
        dt: the longest step.
        noise: :math:`\sigma`, a positive number or a tensor that broadcasts to (\*batch, d).
        obs: measured positions, (n, d), or (\*batch, n, d) for several paths in a plate; None draws them.
        t: the time of q and p; by default the first of ``times``.
        periodic: the coordinates that are angles, [rad]: a measured one is that of its turns which lies nearest to the
            path. That is the wrapped law for noise well below half a turn. Drawn ones are counted on.

    Returns:
        positions and momenta of the path without noise, each (\*batch, n, d).

    Raises:
        InputError: a shape or a number is wrong, or the times do not rise or begin before t.

    References:
        Chen et al. (2018), Neural Ordinary Differential Equations, arXiv 1806.07366, section 5, for the likelihood of
        a path.

    Example:
        >>> import torch, pyro, pyro.distributions as dist, hamflow as hf
        >>> def model(times, obs=None):
        ...     k = pyro.sample("stiffness", dist.LogNormal(torch.zeros(1), 1.0).to_event(1))
        ...     spring = hf.FunctionEnergy(lambda q: (0.5 * k * q**2).sum(-1), gradient=lambda q: k * q)
        ...     step = hf.Splitting(hf.SeparableHamiltonian(hf.QuadraticKinetic(1), spring))
        ...     q, p = torch.ones(1), torch.zeros(1)
        ...     hf.inference.observe_path("q", step, q, p, times, dt=0.1, noise=0.05, obs=obs)
        >>> times = torch.tensor([0.0, 0.1, 0.25, 0.7])
        >>> pyro.infer.Predictive(model, num_samples=8)(times)["q"].shape
        torch.Size([8, 4, 1])
    """
    q, p = _check_state(step, q, p)
    rows = torch.as_tensor(times, dtype=torch.float64, device=q.device)
    if rows.ndim != 1 or not len(rows) or not bool(rows.isfinite().all()) or bool((rows.diff() <= 0).any()):
        raise InputError(f"times have shape {tuple(rows.shape)}, expected (n,), finite and rising from row to row")
    start = float(rows[0]) if t is None else t
    if not is_number(start) or not start <= float(rows[0]):
        raise InputError(f"t = {t!r}, expected a number up to the first of times, {float(rows[0]):g}")
    check_positive("dt", dt)
    d = q.shape[-1]
    turning = _check_periodic(periodic, d)
    scale = _check_noise(noise, q)
    measured = None if obs is None else _check_measured(obs, q, len(rows), d)

    q_path, p_path = _path(step, q, p, rows - start, dt, start)
    for path in (q_path, p_path):
        if path.shape[-2:] != (len(rows), d):
            raise InputError(
                f"step leads to states of shape {tuple(path.movedim(-2, 0).shape[1:])} from (*batch, {d}), expected "
                "the same last dimension: a latent of the law needs .expand([1]).to_event(1)"
            )
    if measured is not None and turning:
        # Whole turns that take the measured angle next to the path; a step function, so it has no gradient.
        turns = ((q_path.detach() - measured) / (2 * math.pi)).round()
        measured = measured + 2 * math.pi * turns * torch.zeros(d).index_fill(0, torch.tensor(turning), 1.0).to(q)
    # One path that leaves the finite numbers is a proposal to reject, and no reason to stop.
    law = dist.Normal(q_path, scale, validate_args=False).to_event(2)
    pyro.sample(name, law, obs=measured)
    return q_path, p_path


def _path(step: Step, q: Tensor, p: Tensor, since: Tensor, dt: float, start: float) -> tuple[Tensor, Tensor]:
    """The states at the times (n,) since the start, each (*batch, n, d)."""
    span = float(since[-1])
    # A span of a whole number of steps must not get one more because of rounding.
    count = math.ceil(span / dt - 1e-9)
    small = span / count if count else dt
    states = [(q, p)]
    for k in range(count):
        q, p = step(q, p, start + k * small, small)
        states.append((q, p))
    # The state at the start lacks the batch of the parameters.
    states[0] = states[0][0].expand(q.shape), states[0][1].expand(p.shape)
    nearest = (since / small).round().long()
    column = (-1, *(1,) * q.ndim)
    rest = (since - small * nearest).to(q).reshape(column)
    grid = (start + small * nearest.double()).to(q).reshape(column)
    q, p = step(torch.stack([x for x, _ in states])[nearest], torch.stack([y for _, y in states])[nearest], grid, rest)
    return q.movedim(0, -2), p.movedim(0, -2)


def _check_state(step: Step, q: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    if not isinstance(step, Step):
        raise InputError(f"step is a {type(step).__name__}, expected a hamflow Step such as Splitting(H)")
    shapes = [tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__ for x in (q, p)]
    expected = f"q is {shapes[0]} and p is {shapes[1]}, expected tensors of shape (*batch, d)"
    if not isinstance(q, Tensor) or not isinstance(p, Tensor) or not q.ndim or not p.ndim or q.shape[-1] != p.shape[-1]:
        raise InputError(expected)
    try:
        q, p = torch.broadcast_tensors(q, p)
    except RuntimeError as error:
        raise InputError(expected) from error
    return q, p


def _check_periodic(periodic: Sequence[int], d: int) -> list[int]:
    listed = isinstance(periodic, Sequence) and not isinstance(periodic, str)
    if not listed or any(not is_number(i, integer=True) or not 0 <= i < d for i in periodic):
        raise InputError(f"periodic = {periodic!r}, expected coordinates from 0 to {d - 1}")
    return list(periodic)


def _check_noise(noise: float | Tensor, q: Tensor) -> Tensor:
    if not isinstance(noise, Tensor) and not is_number(noise):
        raise InputError(f"noise = {noise!r}, expected a positive number or tensor")
    scale = torch.as_tensor(noise, dtype=q.dtype, device=q.device)
    # What a sampler proposes may underflow, and is its own to reject.
    if not scale.requires_grad and not bool((scale > 0).all()):
        raise InputError(f"noise = {noise!r}, expected a positive number or tensor")
    if scale.ndim and scale.shape[-1] not in (1, q.shape[-1]):
        raise InputError(
            f"noise has shape {tuple(scale.shape)}, expected one that broadcasts to (*batch, {q.shape[-1]}); a site "
            "with .to_event(1) has"
        )
    return scale.unsqueeze(-2) if scale.ndim else scale


def _check_measured(obs: Any, q: Tensor, n: int, d: int) -> Tensor:
    measured = torch.as_tensor(obs, dtype=q.dtype, device=q.device)
    if measured.shape[-2:] != (n, d):
        raise InputError(f"obs has shape {tuple(measured.shape)}, expected (*batch, {n}, {d}) as times and q have")
    if not bool(measured.isfinite().all()):
        raise InputError(
            "obs has NaN or infinite entries, expected finite positions: leave missing frames out of times"
        )
    return measured
