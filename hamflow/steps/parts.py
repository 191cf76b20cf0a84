"""What a chain of steps is made of: maps that are undone from where they led, together with their derivatives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from hamflow.energies.hamiltonian import Time
from hamflow.energies.slope import Slope, learned, leaves, summed_to
from hamflow.errors import InputError

#: A state, and the cotangents of one.
Pair = tuple[Tensor, Tensor]
#: A slope, and of a cotangent of it the products with its derivatives by where it was taken and by each tensor.
Taken = tuple[Tensor, Callable[[Tensor], tuple[Any, ...]]]


class Part:
    """One invertible map of a chain, and what it depends on.

    Attributes:
        tensors: those of its tensors that a gradient may be asked of.
        owner: the energy or step whose part it is, where that may depend on tensors that are not among these.
    """

    tensors: tuple[Tensor, ...] = ()
    owner: nn.Module | None = None

    def __init__(self) -> None:
        # The leaves that were met on the way back; shared by all parts of one owner.
        self.met: set[int] = set()

    def __call__(self, q: Tensor, p: Tensor) -> Pair:
        """The map, q and p of shape (*batch, d)."""
        raise NotImplementedError

    def undo(
        self, end: Pair, cotangents: Pair, begin: Pair | None = None
    ) -> tuple[Pair, Pair, tuple[Tensor | None, ...]]:
        """From where the map led: where it began, if that was not kept, the cotangents there, and the tensors'."""
        raise NotImplementedError

    def leaves(self, q: Tensor, p: Tensor) -> tuple[Tensor, ...]:
        """The leaves that it depends on at a state, but for those by way of its own tensors."""
        return ()

    def also(self, tensors: tuple[Tensor, ...]) -> None:
        """Add tensors that turned out to be among those it depends on."""
        self.tensors = (*self.tensors, *tensors)

    def _derivatives(
        self,
        outputs: tuple[Tensor, ...],
        arguments: tuple[Tensor, ...],
        tensors: tuple[Tensor, ...],
        cotangents: tuple[Tensor, ...],
        *,
        complete: bool,
    ) -> tuple[Any, ...]:
        # Products of the cotangents with the derivatives of the outputs of a graph by its arguments and by each leaf
        # among the tensors, once each; what was computed of leaves is not asked for beside them, or it would count
        # twice.
        wanted = {id(tensor): tensor for tensor in tensors if tensor.requires_grad and tensor.is_leaf}
        if not complete:
            found = {id(leaf) for leaf in leaves(outputs)}
            self.met |= found
            if not found <= wanted.keys() | {id(tensor) for tensor in arguments}:
                raise InputError(
                    "memory = 'constant' with an energy or step that depends on tensors which are no parameters, "
                    "buffers or attributes of it, and on others than at the start: expected memory = 'stored', or "
                    "these as its attributes"
                )
        pairs = [(y, g) for y, g in zip(outputs, cotangents, strict=True) if y.requires_grad]
        if not pairs:
            return *map(torch.zeros_like, arguments), *(None for _ in tensors)
        # What lies behind a tensor that a user made is needed again for the step before.
        outs, ins = [y for y, _ in pairs], (*arguments, *wanted.values())
        with _without_hooks(wanted.values()):
            grads = torch.autograd.grad(outs, ins, [g for _, g in pairs], allow_unused=True, retain_graph=not complete)
        by = dict(zip(wanted, grads[len(arguments) :], strict=True))
        moved = (torch.zeros_like(x) if g is None else g for x, g in zip(arguments, grads, strict=False))
        return *moved, *(by.pop(id(tensor), None) for tensor in tensors)


class Shear(Part):
    r"""A kick, :math:`p \leftarrow p - c\,\nabla V(q)`, or a drift, :math:`q \leftarrow q + c\,\nabla T(p)`.

    Args:
        slope: of V or T.
        change: -c or c, a number or a tensor without a gradient that broadcasts to (*batch, d).
        kick: which of the two it is.
        time: at which the slope is taken.
        energy: V or T.
    """

    def __init__(self, slope: Slope, change: Time, *, kick: bool, time: Time, energy: nn.Module) -> None:
        super().__init__()
        self.slope = slope
        self.change = change
        self.kick = kick
        self.time = time
        self.energy = energy
        self.tensors = slope.tensors
        self.owner = None if slope.complete else energy

    def leaves(self, q: Tensor, p: Tensor) -> tuple[Tensor, ...]:
        """The leaves that the slope depends on at a state, but for those by way of its own tensors."""
        copies = tuple(tensor.detach() for tensor in self.slope.tensors)
        # With a gradient, as on the way back: an energy without one may make a leaf of its own.
        at = (q if self.kick else p).detach().requires_grad_()
        with torch.enable_grad():
            found = leaves((self.slope._replace(tensors=copies)(at),))
        return tuple(leaf for leaf in found if leaf is not at)

    def also(self, tensors: tuple[Tensor, ...]) -> None:
        """Add tensors that turned out to be among those it depends on."""
        super().also(tensors)
        # Closed forms that know nothing of them are not those of the whole.
        self.slope = self.slope._replace(pullback=None)

    def __call__(self, q: Tensor, p: Tensor) -> Pair:
        """The map, q and p of shape (*batch, d)."""
        return self.move(q, p, self.slope(q if self.kick else p))

    def goes_on(self, before: Shear) -> bool:
        """Whether its slope is that of the shear before it: of one energy at one time, of what that has not moved."""
        if self.kick is not before.kick or self.energy is not before.energy:
            return False
        if isinstance(self.time, Tensor) or isinstance(before.time, Tensor):
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

    def take(self, x: Tensor) -> Taken:
        """The slope where x is, (*batch, d), and how cotangents of it are pulled back."""
        slope, pullback = self.slope, self.slope.pullback
        if pullback is not None:
            value, *kept = slope.kept(x)
            return value, lambda u: slope.pulled(pullback(x, u, kept, *slope.tensors))
        with torch.enable_grad():
            at = x.detach().requires_grad_()
            # Copies: what the tensors themselves were computed of is no concern of this part.
            copies = tuple(tensor.detach().requires_grad_(tensor.requires_grad) for tensor in slope.tensors)
            found = slope._replace(tensors=copies)(at)
        return found.detach(), lambda u: self._pull(found, at, copies, u)

    def _pull(self, found: Tensor, at: Tensor, copies: tuple[Tensor, ...], u: Tensor) -> tuple[Any, ...]:
        own = () if self.slope.complete else self.tensors
        across, *grads = self._derivatives((found,), (at,), (*copies, *own), (u,), complete=self.slope.complete)
        # By the copies, and by the tensors where an energy has them from elsewhere.
        through, past = grads[: len(copies)], grads[len(copies) :] or [None] * len(self.tensors)
        through += [None] * (len(self.tensors) - len(copies))
        return across, *(_plus(one, other) for one, other in zip(through, past, strict=True))


class Scale(Part):
    r"""Friction, :math:`p \leftarrow f\,p`.

    Args:
        factor: f, of shape () or one that broadcasts to (*batch, d).
    """

    def __init__(self, factor: Tensor) -> None:
        super().__init__()
        self.tensors = (factor,)

    def __call__(self, q: Tensor, p: Tensor) -> Pair:
        """The map, q and p of shape (*batch, d)."""
        return q, p * self.tensors[0]

    def undo(
        self, end: Pair, cotangents: Pair, begin: Pair | None = None
    ) -> tuple[Pair, Pair, tuple[Tensor | None, ...]]:
        """From where the map led: where it began, the cotangents there, and that of the factor."""
        (q, p), (g_q, g_p), (factor,) = end, cotangents, self.tensors
        q, p = begin or (q, p / factor)
        return (q, p), (g_q, g_p * factor), (summed_to(g_p * p, factor.shape),)


class Whole(Part):
    """A step of any kind, undone by its own inverse and taken once more with a graph.

    Args:
        there: the step with its time and its dt, of (q, p).
        inverse: its inverse.
        owner: the step itself.
    """

    def __init__(self, there: Callable[..., Pair], inverse: Callable[..., Pair], owner: nn.Module) -> None:
        super().__init__()
        self.there = there
        self.inverse = inverse
        self.owner: nn.Module = owner

    @cached_property
    def tensors(self) -> tuple[Tensor, ...]:  # type: ignore[override]
        """What the step is known to depend on; looked for where a gradient is wanted."""
        return learned(self.owner)

    def leaves(self, q: Tensor, p: Tensor) -> tuple[Tensor, ...]:
        """The leaves that the step depends on at a state."""
        at = q.detach().requires_grad_(), p.detach().requires_grad_()
        with torch.enable_grad():
            found = leaves(self.there(*at))
        return tuple(leaf for leaf in found if leaf is not at[0] and leaf is not at[1])

    def __call__(self, q: Tensor, p: Tensor) -> Pair:
        """The map, q and p of shape (*batch, d)."""
        return self.there(q, p)

    def undo(
        self, end: Pair, cotangents: Pair, begin: Pair | None = None
    ) -> tuple[Pair, Pair, tuple[Tensor | None, ...]]:
        """From where the map led: where it began, the cotangents there, and those of the tensors."""
        q, p = begin or self.inverse(*end)
        with torch.enable_grad():
            at = q.detach().requires_grad_(), p.detach().requires_grad_()
            ends = self.there(*at)
        g_q, g_p, *grads = self._derivatives(ends, at, self.tensors, cotangents, complete=False)
        return (q, p), (g_q, g_p), tuple(grads)


def _plus(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    return other if one is None else one if other is None else one + other


@contextmanager
def _without_hooks(tensors: Iterable[Tensor]) -> Iterator[None]:
    # Hooks of a leaf are for its whole gradient, not for what one step adds to it.
    hooks = [(tensor._backward_hooks, dict(tensor._backward_hooks)) for tensor in tensors if tensor._backward_hooks]
    for held, _ in hooks:
        held.clear()
    try:
        yield
    finally:
        for held, kept in hooks:
            held.update(kept)
