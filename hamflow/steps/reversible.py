"""Backpropagation that goes back along the steps: no state is kept but the last."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hamflow.errors import InputError, check_choice
from hamflow.steps.parts import Pair, Part, unknown_leaves
from hamflow.steps.step import Step
from hamflow.steps.walk import Walker, WayBack

MEMORIES = ("constant", "stored")


def iterate(
    step: Step, q: Tensor, p: Tensor, t: float, dt: float, n_steps: int, *, memory: str, backwards: bool = False
) -> tuple[Tensor, Tensor]:
    r"""``n_steps`` steps from time t, or their inverse, differentiable with or without a graph of all of them.

    With ``memory="constant"`` nothing is kept but the end. Every map of the chain is undone on the way back, and
    derivatives are taken where it began,

    .. math:: z_k = \Phi_k^{-1}(z_{k+1}), \qquad
              \bar z_k = \Bigl(\frac{\partial \Phi_k}{\partial z}\Bigr)^{\!\top} \bar z_{k+1}, \qquad
              \bar\theta \leftarrow \bar\theta +
              \Bigl(\frac{\partial \Phi_k}{\partial \theta}\Bigr)^{\!\top} \bar z_{k+1},

    so memory does not grow with the number of steps, and derivatives are those of the numbers that were computed but
    for rounding, which grows as the motion takes neighbours apart. Where PyTorch has no place for that (``torch.func``,
    forward mode, compilation, tracing) the graph is stored whatever was asked.

    Args:
        step: any invertible :class:`Step`; explicit ones without solving anything anew.
        q: positions, (*batch, d).
        p: momenta, (*batch, d).
        t: the time at the start, of the backwards direction too.
        dt: the time step.
        n_steps: how many.
        memory: ``"constant"`` or ``"stored"``.
        backwards: whether the steps are undone.

    Raises:
        InputError: ``memory`` is neither; (on the way back) a second derivative is asked of ``"constant"``.

    References:
        Gomez et al. (2017), The Reversible Residual Network, arXiv 1707.04585; Maclaurin et al. (2015),
        Gradient-based Hyperparameter Optimization through Reversible Learning, arXiv 1502.03492.

    Example:
        >>> import torch, hamflow as hf
        >>> from hamflow.steps.reversible import iterate
        >>> step = hf.Splitting(hf.SeparableHamiltonian(hf.QuadraticKinetic(2), hf.MLPPotential(2)))
        >>> q = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
        >>> ends = [iterate(step.double(), q, 0 * q, 0.0, 0.1, 20, memory=m)[0] for m in ("constant", "stored")]
        >>> one, other = (torch.autograd.grad(end.square().sum(), q)[0] for end in ends)
        >>> torch.allclose(one, other)
        True
    """
    check_choice("memory", memory, MEMORIES)
    if memory == "constant" and keeps_nothing():
        end = _walk([step.moves(q, t, dt, n_steps, backwards=backwards)], q, p, record=False)
        q, p = end.chunk(2, -1)
        return q, p
    move = step.iterate_inverse if backwards else step.iterate
    return move(q, p, t, dt, n_steps)


def path(step: Step, q: Tensor, p: Tensor, t: float, dt: float, n_states: int, substeps: int) -> Tensor:
    """The states after every ``substeps`` steps of ``dt``, the first included, with the graph of none of the steps.

    Cotangents of all states are gathered on one way back, which begins anew at every state.

    Returns:
        (n_states + 1, *batch, 2 d), positions and momenta side by side.
    """
    return _walk(list(step.segments(q, t, dt, n_states, substeps)), q, p, record=True)


def keeps_nothing() -> bool:
    """Whether a graph of our own making has a place here: not under ``torch.func``, forward mode or a compiler."""
    return torch.is_grad_enabled() and not (
        torch._C._are_functorch_transforms_active()
        or torch.autograd.forward_ad._current_level >= 0
        or torch.compiler.is_compiling()
        or torch.jit.is_tracing()
    )


def _walk(segments: list[list[Part]], q: Tensor, p: Tensor, *, record: bool) -> Tensor:
    tensors = _distinct([part for segment in segments for part in segment], q, p)
    walked: Tensor = _Walk.apply(segments, record, q, p, *tensors)
    return walked


def _distinct(parts: list[Part], q: Tensor, p: Tensor) -> list[Tensor]:
    found = {id(tensor): tensor for part in parts for tensor in part.tensors if tensor.requires_grad}
    # What a user wrote is tried once: at the ends of its graph are tensors that it holds elsewhere.
    tried: set[tuple[type, bool]] = set()
    for part in parts:
        kind = (type(part), getattr(part, "kick", False))
        if part.opaque() and kind not in tried:
            tried.add(kind)
            with torch.enable_grad():
                ends = part(q.detach(), p.detach())
            hidden = unknown_leaves(ends, tuple(found.values()))
            found |= {id(tensor): tensor for tensor in hidden}
            for other in parts:
                if hidden and other.opaque():
                    other.also(tuple(hidden))
    return list(found.values())


class _Walk(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, segments: list[list[Part]], record: bool, q: Tensor, p: Tensor, *tensors: Tensor) -> Tensor:
        device = q.device.type
        ctx.autocast = {"device_type": device, "enabled": torch.is_autocast_enabled(device)}
        ctx.autocast["dtype"] = torch.get_autocast_dtype(device)
        ctx.segments, ctx.record, ctx.order = segments, record, {id(tensor): i for i, tensor in enumerate(tensors)}
        walk, states = Walker(), [torch.cat((q, p), -1)] if record else []
        for segment in segments:
            q, p = walk(segment, q, p)
            if record:
                states.append(torch.cat((q, p), -1))
        walked = torch.stack(states) if record else torch.cat((q, p), -1)
        # The tensors too: whoever changes one before the way back is told.
        ctx.save_for_backward(walked, *tensors)
        return walked

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise InputError(
                "a second derivative (create_graph=True) was asked of memory = 'constant', expected memory = 'stored', "
                "which keeps the graph"
            )
        walked, cotangent, segments, totals = ctx.saved_tensors[0], cotangents[0], ctx.segments, _Totals(ctx.order)
        back, g = WayBack(totals.add), _halves(cotangent[-1] if ctx.record else cotangent)
        with torch.autocast(**ctx.autocast):
            for k in reversed(range(len(segments))):
                before = segments[k - 1][-1] if k and segments[k - 1] else None
                end = _halves(walked[k + 1] if ctx.record else walked)
                g = back(segments[k], before, end, g)[1]
                if ctx.record:
                    more = _halves(cotangent[k])
                    g = g[0] + more[0], g[1] + more[1]
        return None, None, *g, *totals.found


def _halves(x: Tensor) -> Pair:
    q, p = x.chunk(2, -1)
    return q, p


class _Totals:
    # Sums of cotangents of tensors; the first may be shared with something else, later ones are our own.
    def __init__(self, order: dict[int, int]) -> None:
        self.order = order
        self.found: list[Tensor | None] = [None] * len(order)
        self._own: set[int] = set()

    def add(self, part: Part, grads: tuple[Tensor | None, ...]) -> None:
        for tensor, grad in zip(part.tensors, grads, strict=True):
            if grad is None or not tensor.requires_grad:
                continue
            i = self.order[id(tensor)]
            known = self.found[i]
            if known is None:
                self.found[i] = grad
            elif i in self._own:
                known += grad
            else:
                self.found[i] = known + grad
                self._own.add(i)
