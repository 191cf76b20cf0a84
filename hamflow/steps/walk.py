"""Along a chain of parts and back: neighbours that kick, or drift, at one time share a slope."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from torch import Tensor

from hamflow.energies.hamiltonian import Time
from hamflow.steps.parts import Pair, Part, Shear, Taken

#: Steps, or states of a rollout, whose parts are listed together.
LOT = 256


class Walker:
    """Parts one after the other; a slope is shared over ends of steps too."""

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


def in_lots(
    moves: Callable[..., list[Part]], q: Tensor, t: Time, dt: Time, n_steps: int, *, backwards: bool = False
) -> Iterator[Part]:
    """The parts of many steps by the ``moves`` of a step, so that a list of all of them is never there."""
    # No steps at all may still be a look at the state.
    for first in range(0, max(n_steps, 1), LOT)[:: -1 if backwards else 1]:
        yield from moves(q, t + first * dt, dt, min(LOT, n_steps - first), backwards=backwards)


class WayBack:
    """Parts undone, the last first, with their cotangents; those of a slope that is shared are pulled back together.

    Args:
        take: is given every part that was passed, and the cotangents of its tensors.
    """

    def __init__(self, take: Callable[[Part, tuple[Tensor | None, ...]], None]) -> None:
        self._take = take
        self._taken: Taken | None = None
        self._force: Tensor | None = None

    def __call__(
        self,
        parts: Sequence[Part],
        before: Part | None,
        end: Pair,
        cotangents: Pair,
        begins: Sequence[Pair] | None = None,
    ) -> tuple[Pair, Pair]:
        """Where the parts began, and the cotangents there, from where they led; ``before`` is the part before them.

        ``begins`` are the states at which each part began, where they were kept.
        """
        for k, earlier in zip(reversed(range(len(parts))), [before, *parts][-2::-1], strict=True):
            part, begin = parts[k], None if begins is None else begins[k]
            if not isinstance(part, Shear):
                end, cotangents, found = part.undo(end, cotangents, begin)
                self._take(part, found)
                continue
            # x stays and y moves.
            (x, y), (g_x, g_y) = (end, cotangents) if part.kick else (end[::-1], cotangents[::-1])
            slope, pull = self._taken = self._taken or part.take(x)
            force = part.change * g_y
            self._force = force if self._force is None else self._force + force
            y = part.add(y, slope, -1)
            if not (isinstance(earlier, Shear) and part.goes_on(earlier)):
                across, *grads = pull(self._force)
                self._take(part, tuple(grads))
                self._taken, self._force, g_x = None, None, g_x + across
            end, cotangents = ((x, y), (g_x, g_y)) if part.kick else ((y, x), (g_y, g_x))
            end = begin or end
        return end, cotangents
