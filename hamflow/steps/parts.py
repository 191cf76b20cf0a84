"""What a chain of steps is made of: maps that are undone from where they led, together with their derivatives."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property

import torch
from torch import Tensor, nn

from hamflow.energies.hamiltonian import Time
from hamflow.energies.slope import Slope, learned, summed_to
from hamflow.errors import InputError

#: A state, and the cotangents of one.
Pair = tuple[Tensor, Tensor]


class Part:
    """One invertible map of a chain, and what it depends on.

    Attributes:
        tensors: those of its tensors that a gradient may be asked of.
    """

    tensors: tuple[Tensor, ...] = ()

    def __call__(self, q: Tensor, p: Tensor) -> Pair:
        """The map, q and p of shape (*batch, d)."""
        raise NotImplementedError

    def undo(self, end: Pair, cotangents: Pair) -> tuple[Pair, Pair, tuple[Tensor | None, ...]]:
        """From where the map led: where it began, the cotangents there, and those of the tensors."""
        raise NotImplementedError

    def opaque(self) -> bool:
        """Whether it may depend on tensors that are not among its own."""
        return False

    def also(self, tensors: tuple[Tensor, ...]) -> None:
        """Add tensors that turned out to be among those it depends on."""
        self.tensors = (*self.tensors, *tensors)


class Shear(Part):
    r"""A kick, :math:`p \leftarrow p - c\,\nabla V(q)`, or a drift, :math:`q \leftarrow q + c\,\nabla T(p)`.

    Args:
        slope: of V or T.
        change: -c or c, a number or a tensor that broadcasts to (*batch, d).
        kick: which of the two it is.
        time: at which the slope is taken.
    """

    def __init__(self, slope: Slope, change: Time, *, kick: bool, time: Time) -> None:
        self.slope = slope
        self.change = change
        self.kick = kick
        self.time = time
        self.tensors = slope.tensors

    def opaque(self) -> bool:
        """Whether a user wrote the energy."""
        return not self.slope.complete

    def also(self, tensors: tuple[Tensor, ...]) -> None:
        """Add tensors that turned out to be among those it depends on."""
        super().also(tensors)
        self.slope = self.slope._replace(tensors=self.tensors)

    def __call__(self, q: Tensor, p: Tensor) -> Pair:
        """The map, q and p of shape (*batch, d)."""
        return self.move(q, p, self.slope(q if self.kick else p))

    def goes_on(self, before: Shear) -> bool:
        """Whether its slope is that of the shear before it: at one time, of what that has not moved."""
        if self.kick is not before.kick or isinstance(self.time, Tensor) or isinstance(before.time, Tensor):
            return False
        # Ends of steps are sums in different orders.
        return abs(self.time - before.time) <= 1e-12 * (1 + abs(self.time))

    def move(self, q: Tensor, p: Tensor, slope: Tensor) -> Pair:
        """The map, its slope being known."""
        return (q, self.add(p, slope, 1)) if self.kick else (self.add(q, slope, 1), p)

    def add(self, x: Tensor, slope: Tensor, sign: int) -> Tensor:
        """The change of a coordinate (*batch, d), or with -1 as the sign its undoing."""
        change = sign * self.change
        return x + change * slope if isinstance(change, Tensor) else torch.add(x, slope, alpha=change)

    def undo(self, end: Pair, cotangents: Pair) -> tuple[Pair, Pair, tuple[Tensor | None, ...]]:
        """From where the map led: where it began, the cotangents there, and those of the tensors."""
        # x stays and y moves.
        (x, y), (g_x, g_y) = (end, cotangents) if self.kick else (end[::-1], cotangents[::-1])
        value, across, grads = _pulled(self.slope, x, self.change * g_y)
        y, g_x = self.add(y, value, -1), g_x + across
        begin, g = ((x, y), (g_x, g_y)) if self.kick else ((y, x), (g_y, g_x))
        return begin, g, grads


class Scale(Part):
    r"""Friction, :math:`p \leftarrow f\,p`.

    Args:
        factor: f, of shape () or one that broadcasts to (*batch, d).
    """

    def __init__(self, factor: Tensor) -> None:
        self.tensors = (factor,)

    def __call__(self, q: Tensor, p: Tensor) -> Pair:
        """The map, q and p of shape (*batch, d)."""
        return q, p * self.tensors[0]

    def undo(self, end: Pair, cotangents: Pair) -> tuple[Pair, Pair, tuple[Tensor | None, ...]]:
        """From where the map led: where it began, the cotangents there, and that of the factor."""
        (q, p), (g_q, g_p), (factor,) = end, cotangents, self.tensors
        p = p / factor
        return (q, p), (g_q, g_p * factor), (summed_to(g_p * p, factor.shape),)


class Whole(Part):
    """A step of any kind, undone by its own inverse and taken once more with a graph.

    Args:
        there: the step with its time and its dt, of (q, p).
        back: its inverse.
        owner: the step itself.
    """

    def __init__(self, there: Callable[..., Pair], back: Callable[..., Pair], owner: nn.Module) -> None:
        self.there = there
        self.back = back
        self._owner = owner

    @cached_property
    def tensors(self) -> tuple[Tensor, ...]:  # type: ignore[override]
        """What the step is known to depend on; looked for where a gradient is wanted."""
        return learned(self._owner)

    def opaque(self) -> bool:
        """Always: there is no telling what a step depends on."""
        return True

    def __call__(self, q: Tensor, p: Tensor) -> Pair:
        """The map, q and p of shape (*batch, d)."""
        return self.there(q, p)

    def undo(self, end: Pair, cotangents: Pair) -> tuple[Pair, Pair, tuple[Tensor | None, ...]]:
        """From where the map led: where it began, the cotangents there, and those of the tensors."""
        q, p = self.back(*end)
        (g_q, g_p), grads = _derivatives(self.there, (q, p), self.tensors, cotangents, complete=False)
        return (q, p), (g_q, g_p), grads


class Walker:
    """Parts one after the other; neighbours that kick, or drift, at one time share a slope, over ends of steps too."""

    def __init__(self) -> None:
        self._known: Shear | None = None
        self._slope: Tensor | None = None

    def __call__(self, parts: Iterable[Part], q: Tensor, p: Tensor) -> Pair:
        """The end of the parts from (q, p), which is where the last call ended."""
        for part in parts:
            if not isinstance(part, Shear):
                q, p = part(q, p)
                self._known = self._slope = None
                continue
            if self._slope is None or self._known is None or not part.goes_on(self._known):
                self._slope = part.slope(q if part.kick else p)
            q, p = part.move(q, p, self._slope)
            self._known = part
        return q, p


def run(parts: Iterable[Part], q: Tensor, p: Tensor) -> Pair:
    """One part after the other."""
    return Walker()(parts, q, p)


def unknown_leaves(outputs: tuple[Tensor, ...], known: tuple[Tensor, ...]) -> list[Tensor]:
    """The tensors at the ends of a graph that gradients would flow to, past those that are known."""
    stop = {tensor.grad_fn for tensor in known if tensor.grad_fn is not None}
    ends, waiting, found = {id(tensor) for tensor in known}, [output.grad_fn for output in outputs], []
    seen = set(stop)
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None and id(leaf) not in ends:
            found.append(leaf)
        waiting += [following for following, _ in node.next_functions]
    return found


def _pulled(slope: Slope, x: Tensor, u: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor | None, ...]]:
    # The slope at x, and the products of u with its derivatives by x and by each tensor.
    if slope.pullback is not None:
        value, across, *closed = slope.pullback(x, u, *slope.tensors)
        return value, across, tuple(closed)
    kept: list[Tensor] = []

    def value_of(x: Tensor) -> tuple[Tensor]:
        kept.append(slope.value(x, *slope.tensors))
        return (kept[0],)

    (across,), grads = _derivatives(value_of, (x,), slope.tensors, (u,), complete=slope.complete)
    return kept[0].detach(), across, grads


def _derivatives(
    function: Callable[..., tuple[Tensor, ...]],
    at: tuple[Tensor, ...],
    tensors: tuple[Tensor, ...],
    cotangents: tuple[Tensor, ...],
    *,
    complete: bool,
) -> tuple[tuple[Tensor, ...], tuple[Tensor | None, ...]]:
    # Products of the cotangents with the derivatives of a function by its arguments and by each tensor.
    with torch.enable_grad():
        arguments = tuple(x.detach().requires_grad_() for x in at)
        outputs = function(*arguments)
    wanted = [tensor for tensor in tensors if tensor.requires_grad]
    if not complete and unknown_leaves(outputs, (*arguments, *wanted)):
        raise InputError(
            "memory = 'constant' with an energy or step that depends on tensors which are no parameters, buffers or "
            "attributes of it, and on others than at the start: expected memory = 'stored', or these as its attributes"
        )
    pairs = [(y, g) for y, g in zip(outputs, cotangents, strict=True) if y.requires_grad]
    # What lies behind a tensor that a user made is needed again for the step before.
    outs, ins = [y for y, _ in pairs], (*arguments, *wanted)
    found = torch.autograd.grad(outs, ins, [g for _, g in pairs], allow_unused=True, retain_graph=not complete)
    by = iter(found[len(arguments) :])
    moved = tuple(torch.zeros_like(x) if g is None else g for x, g in zip(at, found, strict=False))
    return moved, tuple(next(by) if tensor.requires_grad else None for tensor in tensors)
