"""Along a chain of parts and back: neighbours that kick, or drift, at one time share a slope."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from torch import Tensor

from hamflow.steps.parts import Pair, Part, Shear, Taken


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


class WayBack:
    """Parts undone, the last first, with their cotangents; those of a slope that is shared are pulled back together.

    Args:
        take: is given every part that was passed, and the cotangents of its tensors.
    """

    def __init__(self, take: Callable[[Part, tuple[Tensor | None, ...]], None]) -> None:
        self._take = take
        self._taken: Taken | None = None
        self._force: Tensor | None = None

    def __call__(self, parts: Sequence[Part], before: Part | None, end: Pair, cotangents: Pair) -> tuple[Pair, Pair]:
        """Where the parts began, and the cotangents there, from where they led; ``before`` is the part before them."""
        for part, earlier in zip(parts[::-1], [before, *parts][-2::-1], strict=True):
            if not isinstance(part, Shear):
                end, cotangents, found = part.undo(end, cotangents)
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
        return end, cotangents
