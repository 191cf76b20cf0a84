"""Symmetric composition: a step of order 2 taken several times, forwards and backwards, makes one of higher order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from torch import Tensor

from hamflow.energies.hamiltonian import Hamiltonian, Time
from hamflow.errors import InputError
from hamflow.steps.parts import Part
from hamflow.steps.schemes import YOSHIDA4, YOSHIDA6
from hamflow.steps.step import Step


@dataclass(frozen=True)
class Fractions:
    r"""The fractions :math:`\gamma_i` of the time step that a :class:`Composition` takes one after the other.

    Args:
        name: a short name.
        values: the fractions, a palindrome that sums to 1.
        order: the order that they give a symmetric step of order 2.
        reference: author, year, where.

    Raises:
        InputError: the fractions do not sum to 1 or are no palindrome.

    Example:
        >>> from hamflow.steps import KAHAN_LI8
        >>> len(KAHAN_LI8.values), KAHAN_LI8.order
        (17, 8)
    """

    name: str
    values: tuple[float, ...]
    order: int
    reference: str

    def __post_init__(self) -> None:
        if abs(sum(self.values) - 1) > 1e-12:
            raise InputError(f"values sum to {sum(self.values)}, expected 1")
        if self.values != self.values[::-1]:
            raise InputError(f"values = {self.values}, expected a palindrome: the composition must be symmetric")


def _mirrored(half: tuple[float, ...], centre: float) -> tuple[float, ...]:
    return (*half, centre, *reversed(half))


#: Order 4: forwards, backwards, forwards.
TRIPLE_JUMP4 = Fractions("triple_jump4", YOSHIDA4.drifts, 4, YOSHIDA4.reference)
#: Order 6 with 7 steps.
TRIPLE_JUMP6 = Fractions("triple_jump6", YOSHIDA6.drifts, 6, YOSHIDA6.reference)
#: Order 6 with 9 steps, and a tenth of the error of 7.
KAHAN_LI6 = Fractions(
    "kahan_li6",
    _mirrored(
        (0.39216144400731413928, 0.33259913678935943860, -0.70624617255763935981, 0.08221359629355080023),
        0.79854399093482996340,
    ),
    6,
    "Kahan and Li (1997), Mathematics of Computation 66, 1089",
)
#: Order 8 with 17 steps.
KAHAN_LI8 = Fractions(
    "kahan_li8",
    _mirrored(
        (
            0.13020248308889008088,
            0.56116298177510838456,
            -0.38947496264484728641,
            0.15884190655515560090,
            -0.39590389413323757734,
            0.18453964097831570709,
            0.25837438768632204729,
            0.29501172360931029887,
        ),
        -0.60550853383003451170,
    ),
    8,
    "Kahan and Li (1997), Mathematics of Computation 66, 1089",
)

#: Every set of fractions that ships, by name.
COMPOSITIONS = {f.name: f for f in (TRIPLE_JUMP4, TRIPLE_JUMP6, KAHAN_LI6, KAHAN_LI8)}


class Composition(Step):
    r"""A symmetric step :math:`S` of order 2, composed to a higher order,

    .. math:: \Psi_{\Delta t} = S_{\gamma_s \Delta t} \circ \dots \circ S_{\gamma_1 \Delta t}, \qquad
              \sum_i \gamma_i = 1, \quad \gamma_i = \gamma_{s + 1 - i}.

    Symplectic steps compose to a symplectic step, and the log-determinant is that of the step. The inverse takes the
    inverse steps in the opposite order. For a separable Hamiltonian :class:`Splitting` with the same fractions costs
    less; this is for the others.

    Args:
        step: a symmetric :class:`Step` of order 2, such as :class:`ImplicitMidpoint` or leapfrog.
        fractions: the :class:`Fractions`.

    Raises:
        InputError: an argument is of the wrong kind, or the step is not of order 2.

    References:
        Yoshida (1990), Physics Letters A 150, 262; Hairer, Lubich and Wanner (2006), Geometric Numerical Integration,
        section V.3.2.

    Example:
        >>> import torch, hamflow as hf
        >>> H = hf.FunctionHamiltonian(lambda q, p: 0.5 * ((1 + q**2) * p**2).sum(-1))
        >>> step = hf.Composition(hf.ImplicitMidpoint(H))
        >>> q, p = step(torch.ones(1, 1).double(), torch.ones(1, 1).double(), 0.0, 0.1)
        >>> step.order, abs(float(H(q, p)) - 1) < 1e-7
        (6, True)
    """

    def __init__(self, step: Step, fractions: Fractions = KAHAN_LI6) -> None:
        super().__init__()
        if not isinstance(step, Step):
            raise InputError(f"step is a {type(step).__name__}, expected a Step such as ImplicitMidpoint(H)")
        if step.order != 2:
            raise InputError(f"step has order {step.order}, expected a symmetric step of order 2")
        if not isinstance(fractions, Fractions):
            raise InputError(f"fractions is a {type(fractions).__name__}, expected Fractions such as KAHAN_LI6")
        self.step = step
        self.fractions = fractions
        self.order = fractions.order
        self.tolerance = step.tolerance * len(fractions.values)
        ends = accumulate(fractions.values, initial=0.0)
        self._stages = tuple(zip(ends, fractions.values, strict=False))

    @property
    def hamiltonian(self) -> Hamiltonian | None:
        """What the step that is composed integrates, where it says so."""
        return getattr(self.step, "hamiltonian", None)

    @property
    def damping(self) -> float | Tensor:  # type: ignore[override]
        """The friction of the step that is composed: the fractions sum to one, so it is that of the whole."""
        return self.step.damping

    def forward(self, q: Tensor, p: Tensor, t: Time = 0.0, dt: Time = 0.1) -> tuple[Tensor, Tensor]:
        """One step; q and p of shape (*batch, d)."""
        for begin, fraction in self._stages:
            q, p = self.step(q, p, t + begin * dt, fraction * dt)
        return q, p

    def inverse(self, q: Tensor, p: Tensor, t: Time = 0.0, dt: Time = 0.1) -> tuple[Tensor, Tensor]:
        """Undoes one step that began at time t; q and p of shape (*batch, d)."""
        for begin, fraction in reversed(self._stages):
            q, p = self.step.inverse(q, p, t + begin * dt, fraction * dt)
        return q, p

    def moves(
        self, q: Tensor, t: Time = 0.0, dt: Time = 0.1, n_steps: int = 1, *, backwards: bool = False
    ) -> list[Part]:
        """The parts of the step that is composed, in the fractions of every step."""
        return self.chains(q, [(t, dt)], n_steps, backwards=backwards)[0]

    def chains(
        self, q: Tensor, spans: Sequence[tuple[Time, Time]], n_steps: int = 1, *, backwards: bool = False
    ) -> list[list[Part]]:
        """The same from each span (t, dt)."""
        order = [(k + begin, fraction) for k in range(n_steps) for begin, fraction in self._stages]
        order = order[::-1] if backwards else order
        within = [(t + begin * dt, fraction * dt) for t, dt in spans for begin, fraction in order]
        found = iter(self.step.chains(q, within, backwards=backwards))
        return [[part for _ in order for part in next(found)] for _ in spans]

    def log_det(self, q: Tensor, dt: Time = 0.1, n_steps: int = 1) -> Tensor:
        """That of the step that is composed, (*batch, d) -> (*batch,): constant rates act for the same time in all.

        Raises:
            InputError: the step has a force, and the change of volume depends on the path.
        """
        return self.step.log_det(q, dt, n_steps)
