"""Splitting schemes as data: coefficients of kicks and drifts, an order and a citation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch

from hamflow.errors import InputError


@dataclass(frozen=True)
class Scheme:
    r"""A splitting scheme: kick, drift, kick, ... with the fractions of the time step that each one takes.

    A kick is :math:`p \leftarrow p - b_i\,\Delta t\,\nabla V(q)`, a drift
    :math:`q \leftarrow q + a_i\,\Delta t\,\nabla T(p)`.

    Args:
        name: a short name.
        kicks: the fractions b_i, summing to 1.
        drifts: the fractions a_i, summing to 1; as many as kicks or one fewer.
        order: the order of accuracy.
        reference: author, year, where.

    Raises:
        InputError: the fractions do not sum to 1 or do not alternate.

    Example:
        >>> import hamflow as hf
        >>> hf.LEAPFROG.kicks, hf.LEAPFROG.drifts, hf.LEAPFROG.order
        ((0.5, 0.5), (1.0,), 2)
    """

    name: str
    kicks: tuple[float, ...]
    drifts: tuple[float, ...]
    order: int
    reference: str

    def __post_init__(self) -> None:
        if len(self.kicks) - len(self.drifts) not in (0, 1):
            raise InputError(
                f"kicks has {len(self.kicks)} and drifts {len(self.drifts)} fractions, "
                "expected as many or one more kick"
            )
        for name, fractions in (("kicks", self.kicks), ("drifts", self.drifts)):
            if abs(sum(fractions) - 1) > 1e-12:
                raise InputError(f"{name} sum to {sum(fractions)}, expected 1")

    def stages(self, n_steps: int) -> tuple[tuple[bool, float, float], ...]:
        """The kicks and drifts of ``n_steps`` steps, neighbours of one kind merged.

        Returns:
            triples (is a kick, fraction of dt, time of evaluation in units of dt). A kick sees the time that the drifts
            have covered and a drift the time that the kicks have, so that a time-dependent energy keeps the order.
        """
        # A compiler looks through what is remembered, and warns of it; and long lists are not worth their memory.
        merge = _merged if torch.compiler.is_compiling() or n_steps > _FEW else _remembered
        return merge(self.kicks, self.drifts, n_steps)


def _merged(kicks: tuple[float, ...], drifts: tuple[float, ...], n_steps: int) -> tuple[tuple[bool, float, float], ...]:
    merged: list[tuple[bool, float, float]] = []
    for k in range(n_steps):
        covered = {True: 0.0, False: 0.0}
        fractions = [(True, b) for b in kicks]
        for i, a in enumerate(drifts):
            fractions.insert(2 * i + 1, (False, a))
        for is_kick, fraction in fractions:
            # Sums such as .1 + .2 + .7 must land on the same time as the next step's start, or nothing would merge.
            time = k + round(covered[not is_kick], 12)
            covered[is_kick] += fraction
            if merged and merged[-1][0] is is_kick and merged[-1][2] == time:
                merged[-1] = (is_kick, merged[-1][1] + fraction, time)
            else:
                merged.append((is_kick, fraction, time))
    return tuple(merged)


_FEW = 256
_remembered = lru_cache(maxsize=64)(_merged)


def _symmetric(half: tuple[float, ...], *, centre: bool) -> tuple[float, ...]:
    # A palindrome from its first half; with `centre` one middle entry completes the sum to 1.
    middle = (1 - 2 * sum(half),) if centre else ()
    return (*half, *middle, *reversed(half))


def _leapfrog_composition(weights: tuple[float, ...]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    # Leapfrog steps of the given lengths in a row: kicks at the seams are the mean of their neighbours.
    padded = (0.0, *weights, 0.0)
    return tuple((a + b) / 2 for a, b in pairwise(padded)), weights


def _composed(name: str, weights: tuple[float, ...], order: int, reference: str) -> Scheme:
    kicks, drifts = _leapfrog_composition(weights)
    return Scheme(name, kicks, drifts, order, reference)


#: Order 1: a kick and a drift.
SYMPLECTIC_EULER = Scheme(
    "symplectic_euler", (1.0,), (1.0,), 1, "de Vogelaere (1956), University of Notre Dame report 4"
)
#: Order 2, symmetric: half a kick, a drift, half a kick.
LEAPFROG = Scheme("leapfrog", (0.5, 0.5), (1.0,), 2, "Verlet (1967), Physical Review 159, 98")
#: Order 4: three leapfrog steps, the middle one backwards.
YOSHIDA4 = _composed(
    "yoshida4", _symmetric((1 / (2 - 2 ** (1 / 3)),), centre=True), 4, "Yoshida (1990), Physics Letters A 150, 262"
)
#: Order 6: seven leapfrog steps.
YOSHIDA6 = _composed(
    "yoshida6",
    _symmetric((0.78451361047755726382, 0.23557321335935813368, -1.17767998417887100695), centre=True),
    6,
    "Yoshida (1990), Physics Letters A 150, 262, solution A",
)
#: Order 4 with six forces a step and error constants made small: far more accurate than YOSHIDA4 at equal cost.
BLANES_MOAN4 = Scheme(
    "blanes_moan4",
    _symmetric((0.0792036964311957, 0.353172906049774, -0.0420650803577195), centre=True),
    _symmetric((0.209515106613362, -0.143851773179818, 0.5 - 0.209515106613362 + 0.143851773179818), centre=False),
    4,
    "Blanes and Moan (2002), Journal of Computational and Applied Mathematics 142, 313, S6",
)

#: Every scheme that ships, by name.
SCHEMES = {s.name: s for s in (SYMPLECTIC_EULER, LEAPFROG, YOSHIDA4, YOSHIDA6, BLANES_MOAN4)}
