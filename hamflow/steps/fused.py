"""Symplectic Euler through ridge potentials as one node of the graph, for flows so small that nodes cost the time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hamflow.energies import RidgePotential
from hamflow.errors import InputError


def ridge_flow(x: Tensor, potential: RidgePotential, *, dt: float, mass: float) -> tuple[Tensor, Tensor]:
    r"""One symplectic Euler step a layer of a potential, its derivatives written out,

    .. math:: p \leftarrow p - \Delta t\, W_k^\top \bigl(a_k \odot \tanh(W_k q + b_k)\bigr), \qquad
              q \leftarrow q + \Delta t\, p / m .

    The same as :class:`hamflow.PhaseFlow` of :class:`hamflow.Splitting` with ``hf.SYMPLECTIC_EULER`` and so many steps,
    and differentiable once.

    Args:
        x: positions and momenta side by side, (*batch, 2 d).
        potential: of ``log_cosh`` ridges, one layer a step.
        dt: the time step.
        mass: m.

    Raises:
        InputError: the potential has other ridges.

    Example:
        >>> import torch, hamflow as hf
        >>> from hamflow.steps.fused import ridge_flow
        >>> V = hf.RidgePotential(3, width=8, layers=2)
        >>> [part.shape for part in ridge_flow(torch.randn(5, 6), V, dt=0.1, mass=1.0)]
        [torch.Size([5, 3]), torch.Size([5, 3])]
    """
    if potential.activation != "log_cosh":
        raise InputError(f"potential has ridges {potential.activation!r}, expected 'log_cosh'")
    q, p = x.reshape(-1, x.shape[-1]).chunk(2, -1)
    found = _RidgeFlow.apply(q, p, potential.weight, potential.bias, potential.amplitude, dt, mass)
    q, p = (part.view(*x.shape[:-1], x.shape[-1] // 2) for part in found)
    return q, p


class _RidgeFlow(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, p: Tensor, weight: Tensor, bias: Tensor, amplitude: Tensor, dt: float, mass: float
    ) -> tuple[Tensor, Tensor]:
        passed = []
        for w, b, a in zip(weight, bias, amplitude, strict=True):
            slope = torch.addmm(b, q, w.mT).tanh_()
            passed += [q, slope]
            p = torch.addmm(p, slope * a, w, alpha=-dt)
            q = torch.add(q, p, alpha=dt / mass)
        ctx.save_for_backward(weight, amplitude, *passed)
        ctx.dt, ctx.mass = dt, mass
        return q, p

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        weight, amplitude, *passed = ctx.saved_tensors
        g_q, g_p = gradients
        g_weight, g_bias, g_amplitude = torch.empty_like(weight), [], []
        for k in reversed(range(len(weight))):
            w, a, q, slope = weight[k], amplitude[k], passed[2 * k], passed[2 * k + 1]
            g_p = torch.add(g_p, g_q, alpha=ctx.dt / ctx.mass)
            # Of the force that the kick took from the momentum.
            g_force = -ctx.dt * g_p
            across = g_force @ w.mT
            g_amplitude.append((across * slope).sum(0))
            inner = torch.ops.aten.tanh_backward(across * a, slope)
            g_bias.append(inner.sum(0))
            torch.addmm((slope * a).mT @ g_force, inner.mT, q, out=g_weight[k])
            g_q = torch.addmm(g_q, inner, w)
        return g_q, g_p, g_weight, torch.stack(g_bias[::-1]), torch.stack(g_amplitude[::-1]), None, None
