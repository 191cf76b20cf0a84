"""What dynamics are trained on: derivatives at states, derivatives along paths, and states alone through the step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from hamflow.systems import Trajectories

if TYPE_CHECKING:
    from hamflow.models.hnn import HNN

#: The relative error of a learned derivative that the inference of noisy states reckons with.
_MODEL_ERROR = 0.05
_HELD_OUT_SEED = 1


@dataclass(frozen=True)
class Units:
    """Spreads of the derivatives, in which misfits are measured: of dq/dt and of dp/dt, each (d,)."""

    velocity: Tensor
    force: Tensor


class DerivativeObjective(nn.Module):
    r"""The mean squared misfit of the vector field, rows (q, p, dq/dt, dp/dt) side by side, (n, 4 d),

    .. math:: \tfrac{1}{2d} \bigl( |\dot q - \partial_p H|^2 / s_v^2
              + |\dot p + \partial_q H + \gamma p|^2 / s_f^2 \bigr).
    """

    def __init__(self, model: HNN, units: Units) -> None:
        super().__init__()
        self.model, self.units = model, units

    def loss(self, batch: Tensor) -> Tensor:
        """The mean over rows (n, 4 d)."""
        q, p, v, force = batch.chunk(4, dim=-1)
        return misfit(self.model, q, p, v, force, self.units).mean()


def misfit(model: HNN, q: Tensor, p: Tensor, v: Tensor, force: Tensor, units: Units) -> Tensor:
    """The squared misfit of the vector field in given units, all of shape (*batch, d) -> (*batch,)."""
    dq, dp = model.vector_field(q, p)
    return 0.5 * (((dq - v) / units.velocity) ** 2 + ((dp - force) / units.force) ** 2).mean(-1)


class PathObjective(nn.Module):
    r"""Exact derivatives at noisy states: the path is known up to where it begins, and that is inferred,

    .. math:: z_i(t) = a_i + \int_0^t \dot z_i, \qquad a_i \sim \mathcal N(\bar a_i, \sigma^2 / T).

    Derivatives at noisy states blur what they teach (errors in variables). The integral of the derivatives, by a cubic
    spline, has no such noise; its T distances from the measured states say where it begins, within
    :math:`\sigma / \sqrt T`, and the fit of the vector field settles the rest.
    """

    def __init__(self, model: HNN, data: Trajectories, noise: Tensor, units: Units, held_out: float) -> None:
        super().__init__()
        self.model, self.units = model, units
        slopes = torch.cat((data.need("v"), data.need("p_dot")), dim=-1)
        path = integrate(data, slopes)
        self.begin = (data.states - path).mean(1, keepdim=True)
        # In units of the noise, so that one learning rate fits all.
        self.shift = nn.Parameter(torch.zeros_like(self.begin))
        self.path, self.slopes, self.noise = path, slopes, noise
        self.seen = _seen(data.q.shape[:2], held_out, path)

    def loss(self, batch: Tensor) -> Tensor:
        """The mean over trajectories, given by their indices (n, 1)."""
        i = batch[:, 0]
        states = self.begin[i] + self.noise * self.shift[i] + self.path[i]
        q, p = states.chunk(2, dim=-1)
        v, force = self.slopes[i].chunk(2, dim=-1)
        each = misfit(self.model, q, p, v, force, self.units)
        weights = self.seen[i] if self.training else 1 - self.seen[i]
        return (each * weights).sum() / weights.sum().clamp_min(1) + _MODEL_ERROR**2 * (self.shift[i] ** 2).mean()

    def states(self) -> Tensor:
        """The inferred states, (n, time, 2 d)."""
        return (self.begin + self.noise * self.shift + self.path).detach()


class WindowObjective(nn.Module):
    r"""States alone: the step carries each window from its first state, and every later state counts,

    .. math:: \tfrac1L \sum_{k} \bigl|(\Phi_{t_k}(z_0) - z_k) / \sigma\bigr|^2 / (2 d).

    With noise the first state of each window is inferred with the energy (multiple shooting); without, it is the
    measured one. What was not measured (momenta, where only positions are known) does not count.
    """

    def __init__(
        self,
        model: HNN,
        windows: Trajectories,
        start: Tensor,
        noise: Tensor | None,
        spread: Tensor,
        substeps: int,
        held_out: float,
    ) -> None:
        super().__init__()
        self.model, self.substeps = model, substeps
        q = windows.q
        p = torch.zeros_like(q) if windows.p is None else windows.p
        self.observed = torch.cat((q, p), dim=-1)
        self.counts = torch.cat((torch.ones_like(q), torch.full_like(q, float(windows.p is not None))), dim=-1)
        self.scale = spread if noise is None else noise
        self.start = start
        self.shift = None if noise is None else nn.Parameter(torch.zeros_like(start))
        self.gaps = windows.own_times().diff(dim=-1).to(q)
        mean = self.gaps.mean()
        self.even = float(mean) if (self.gaps - mean).abs().max() < 1e-5 * mean else None
        seen = _seen(q.shape[:2], held_out, q).unsqueeze(-1)
        self.seen, self.unseen = self.counts * seen, self.counts * (1 - seen)
        if noise is None:
            # The first state is given, so it says nothing.
            self.seen[:, 0] = self.unseen[:, 0] = 0.0

    def loss(self, batch: Tensor) -> Tensor:
        """The mean over windows, given by their indices (n, 1)."""
        i = batch[:, 0]
        predicted = self.roll(i)
        weights = self.seen[i] if self.training else self.unseen[i]
        return (((predicted - self.observed[i]) / self.scale) ** 2 * weights).sum() / weights.sum().clamp_min(1)

    def roll(self, i: Tensor) -> Tensor:
        """The states of the windows ``i`` as the model carries them, (len(i), time, 2 d)."""
        z = self.start[i] if self.shift is None else self.start[i] + self.scale * self.shift[i]
        q, p = z.chunk(2, dim=-1)
        states = [z]
        for k in range(self.gaps.shape[1]):
            gap = self.gaps[i, k].unsqueeze(-1) if self.even is None else self.even
            q, p = self.model.step.iterate(q, p, 0.0, gap / self.substeps, self.substeps)
            states.append(torch.cat((q, p), dim=-1))
        return torch.stack(states, dim=1)


def integrate(data: Trajectories, slopes: Tensor) -> Tensor:
    """The integral of slopes (n, time, m) from the first time on, by cubic splines, of the same shape."""
    from scipy.interpolate import CubicSpline

    times = data.own_times().detach().double().cpu().numpy()
    values = slopes.detach().double().cpu().numpy()
    paths = [CubicSpline(t, x).antiderivative()(t) for t, x in zip(times, values, strict=True)]
    return torch.as_tensor(np.stack(paths)).to(slopes)


def _seen(shape: torch.Size, held_out: float, like: Tensor) -> Tensor:
    # Which states train, (n, time); the others judge. They lie inside the very paths whose beginnings are inferred.
    generator = torch.Generator().manual_seed(_HELD_OUT_SEED)
    return (torch.rand(shape, generator=generator) >= held_out).to(like)
