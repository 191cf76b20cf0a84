"""Backpropagation that goes back along the steps: no state is kept but the last."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hamflow.energies.hamiltonian import Time
from hamflow.errors import InputError, SolveError, check_choice
from hamflow.steps.parts import Pair, Part
from hamflow.steps.step import Step
from hamflow.steps.walk import Walker, WayBack

MEMORIES = ("constant", "stored")


def iterate(
    step: Step,
    q: Tensor,
    p: Tensor,
    t: Time,
    dt: Time,
    n_steps: int,
    *,
    memory: str,
    backwards: bool = False,
    forgiving: bool = False,
) -> tuple[Tensor, Tensor]:
    r"""``n_steps`` steps from time t, or their inverse, differentiable with or without a graph of all of them.

    With ``memory="constant"`` nothing is kept but the end. Every map of the chain is undone on the way back, and
    derivatives are taken where it began,

    .. math:: z_k = \Phi_k^{-1}(z_{k+1}), \qquad
              \bar z_k = \Bigl(\frac{\partial \Phi_k}{\partial z}\Bigr)^{\!\top} \bar z_{k+1}, \qquad
              \bar\theta \leftarrow \bar\theta +
              \Bigl(\frac{\partial \Phi_k}{\partial \theta}\Bigr)^{\!\top} \bar z_{k+1},

    so memory does not grow with the number of steps, and derivatives are those of the numbers that were computed but
    for rounding, which grows as the way back takes neighbours apart: in unstable motions, and with friction, which
    grows going back. The start is kept, and met again or missed with an error. Energies are asked once more, and must
    be the same functions: no dropout, no weights that are drawn anew. What an energy holds gets gradients if it is a
    leaf; a result of other computations passes them on, and ``torch.autograd.grad`` by it alone finds none. Where
    PyTorch has no place for that (``torch.func``, forward mode, compilation, tracing) the graph is stored whatever was
    asked.

    Args:
        step: any invertible :class:`Step`; explicit ones without solving anything anew.
        q: positions, (*batch, d).
        p: momenta, (*batch, d).
        t: the time at the start, of the backwards direction too.
        dt: the time step.
        n_steps: how many.
        memory: ``"constant"`` or ``"stored"``.
        backwards: whether the steps are undone.
        forgiving: whether a way back that misses the start is taken once more, from states that are all kept, with a
            warning in place of an error.

    Raises:
        InputError: ``memory`` is neither; dt has a gradient, which ``"constant"`` does not give; (on the way back) a
            second derivative is asked of ``"constant"``, or energies depend on other tensors than on the way there.
        SolveError: (on the way back) the steps do not lead back to where they began.

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
        if isinstance(dt, Tensor) and dt.requires_grad:
            raise InputError("dt is a tensor with a gradient, expected a number, or memory = 'stored'")
        q, p = torch.broadcast_tensors(q, p)
        end = _walk([step.moves(q, t, dt, n_steps, backwards=backwards)], q, p, record=False, forgiving=forgiving)
        # Not views: these may be changed in place.
        q, p = (half.clone() for half in end.chunk(2, -1))
        return q, p
    move = step.iterate_inverse if backwards else step.iterate
    return move(q, p, t, dt, n_steps)


def path(
    step: Step,
    q: Tensor,
    p: Tensor,
    t: float,
    dt: float,
    n_states: int,
    substeps: int,
    passed: Callable[[], None] = lambda: None,
) -> Tensor:
    """The states after every ``substeps`` steps of ``dt``, the first included, with the graph of none of the steps.

    Cotangents of all states are gathered on one way back, which begins anew at every state. ``passed`` is called after
    every state.

    Returns:
        (n_states + 1, *batch, 2 d), positions and momenta side by side.
    """
    return _walk(list(step.segments(q, t, dt, n_states, substeps)), q, p, record=True, passed=passed)


def keeps_nothing() -> bool:
    """Whether a graph of our own making has a place here: not under ``torch.func``, forward mode or a compiler."""
    return torch.is_grad_enabled() and not (
        torch._C._are_functorch_transforms_active()
        or torch.autograd.forward_ad._current_level >= 0
        or torch.compiler.is_compiling()
        or torch.jit.is_tracing()
    )


def _walk(
    segments: list[list[Part]],
    q: Tensor,
    p: Tensor,
    *,
    record: bool,
    passed: Callable[[], None] = lambda: None,
    forgiving: bool = False,
) -> Tensor:
    tensors, trials = _distinct([part for segment in segments for part in segment], q, p)
    walked: Tensor = _Walk.apply((segments, trials, record, passed, forgiving), q, p, *tensors)
    return walked


#: The leaves that an owner of parts depends on at the start, and the ids of those that were met on the way back.
Trial = tuple[tuple[Tensor, ...], set[int]]


def _distinct(parts: list[Part], q: Tensor, p: Tensor) -> tuple[list[Tensor], list[Trial]]:
    found = {id(tensor): tensor for part in parts for tensor in part.tensors if tensor.requires_grad}
    # What a user wrote is tried once: at the ends of its graph are tensors that it holds elsewhere.
    tried: dict[int, set[int]] = {}
    trials: list[Trial] = []
    for part in parts:
        if part.owner is None:
            continue
        if id(part.owner) in tried:
            part.met = tried[id(part.owner)]
            continue
        tried[id(part.owner)] = part.met
        reached, known = part.leaves(q, p), {id(tensor) for tensor in part.tensors}
        trials.append((reached, part.met))
        hidden = tuple(leaf for leaf in reached if id(leaf) not in known)
        found |= {id(tensor): tensor for tensor in hidden}
        for other in parts:
            if hidden and other.owner is part.owner:
                other.also(hidden)
    return list(found.values()), trials


class _Walk(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, what: tuple[Any, ...], q: Tensor, p: Tensor, *tensors: Tensor) -> Tensor:
        device = q.device.type
        ctx.autocast = {"device_type": device, "enabled": torch.is_autocast_enabled(device)}
        ctx.autocast["dtype"] = torch.get_autocast_dtype(device)
        ctx.segments, ctx.trials, ctx.record, passed, ctx.forgiving = what
        ctx.order = {id(tensor): i for i, tensor in enumerate(tensors)}
        walk, states = Walker(), [torch.cat((q, p), -1)]
        for segment in ctx.segments:
            q, p = walk(segment, q, p)
            states.append(torch.cat((q, p), -1))
            passed()
        walked = torch.stack(states) if ctx.record else states[-1]
        # The tensors too: whoever changes one before the way back is told.
        ctx.save_for_backward(*((walked,) if ctx.record else states), *tensors)
        return walked

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise InputError(
                "a second derivative (create_graph=True) was asked of memory = 'constant', expected memory = 'stored', "
                "which keeps the graph"
            )
        saved = ctx.saved_tensors  # once: a checkpoint around this computes them anew
        states, tensors = (saved[0], saved[1:]) if ctx.record else (saved[:2], saved[2:])
        with torch.autocast(**ctx.autocast):
            g, found, missed = _back(ctx, states, cotangents[0], None)
            if missed > _allowed(states[-1]):
                if not ctx.forgiving:
                    raise SolveError(f"memory = 'constant': {_told(missed, states[-1])}")
                warnings.warn(f"states are kept, as memory = 'stored' does: {_told(missed, states[-1])}", stacklevel=2)
                g, found, _ = _back(ctx, states, cotangents[0], _kept(ctx.segments, states))
        _check_same(ctx.trials)
        # A hook knows no gradient that is none.
        pairs = zip(tensors, found, strict=True)
        return None, *g, *(torch.zeros_like(x) if grad is None and x._backward_hooks else grad for x, grad in pairs)


def _back(
    ctx: Any, states: Sequence[Tensor], cotangent: Tensor, begins: list[list[Pair]] | None
) -> tuple[Pair, list[Tensor | None], float]:
    # Cotangents of the start and of the tensors, and by how much the way back has missed a state.
    segments, totals = ctx.segments, _Totals(ctx.order)
    for _, met in ctx.trials:
        met.clear()
    back, g = WayBack(totals.add), _halves(cotangent[-1] if ctx.record else cotangent)
    missed = states[-1].new_zeros(())
    for k in reversed(range(len(segments))):
        before = segments[k - 1][-1] if k and segments[k - 1] else None
        begin, g = back(segments[k], before, _halves(states[k + 1]), g, None if begins is None else begins[k])
        missed = torch.maximum(missed, _distance(begin, states[k], states[k + 1]))
        if ctx.record:
            more = _halves(cotangent[k])
            g = g[0] + more[0], g[1] + more[1]
    # One look at the end, or a GPU would be waited for at every step.
    return g, totals.found, float(missed)


def _kept(segments: list[list[Part]], states: Sequence[Tensor]) -> list[list[Pair]]:
    # Where every part began, on the same way once more.
    begins: list[list[Pair]] = []
    walk, (q, p) = Walker(), _halves(states[0])
    for segment in segments:
        begins.append([])
        for part in segment:
            begins[-1].append((q, p))
            q, p = walk([part], q, p)
    missed = float(_distance((q, p), states[-1], states[0]))
    if missed > _allowed(states[-1]):
        raise SolveError(f"memory = 'constant': {_told(missed, states[-1])}")
    return begins


def _halves(x: Tensor) -> Pair:
    q, p = x.chunk(2, -1)
    return q, p


def _allowed(x: Tensor) -> float:
    return float(torch.finfo(x.dtype).eps) ** 0.5


def _distance(found: Pair, known: Tensor, other: Tensor) -> Tensor:
    # Row by row, by the larger of its two ends; rows that are much smaller than others, or than the unit of what they
    # are measured in, by a size that rounding leaves alone. What overflowed on the way there is no error of the way
    # back.
    if not known.numel():
        return known.new_zeros(())
    eps = torch.finfo(known.dtype).eps
    size = torch.maximum(known.abs().amax(-1), other.abs().amax(-1))
    fine = size.isfinite()
    size = torch.where(fine, size, 0)
    size = torch.maximum(size, (eps**0.25 * size.amax()).clamp(min=eps**0.4))
    off = (torch.cat(found, -1) - known).abs().amax(-1) / size
    return torch.where(fine, off.nan_to_num(nan=torch.inf), 0).amax()


def _told(missed: float, end: Tensor) -> str:
    return (
        f"the way back misses a state that it began at by {missed:.1e} of its size, expected <= {_allowed(end):.0e}. "
        "Rounding grows on the way back where there is friction or the motion is unstable, and an energy that is "
        "random, or has changed since, leads elsewhere; memory = 'stored' needs no way back, and fewer steps between "
        "two states of a rollout shorten it"
    )


def _check_same(trials: list[Trial]) -> None:
    lost = sum(id(leaf) not in met for reached, met in trials for leaf in reached)
    if lost:
        raise InputError(
            f"memory = 'constant' with an energy or step that has lost {lost} of the tensors that it depended on, as "
            "after torch.func.functional_call, which puts the old ones back: expected memory = 'stored', or a gradient "
            "that is taken before"
        )


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
            # Products in lower precision are summed in that of the tensor.
            i, grad = self.order[id(tensor)], grad.to(tensor.dtype)
            known = self.found[i]
            if known is None:
                self.found[i] = grad
            elif i in self._own:
                known += grad
            else:
                self.found[i] = known + grad
                self._own.add(i)
