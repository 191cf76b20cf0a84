"""The contract on which everything stands: an invertible map of phase space of known volume change, mostly none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hamflow.energies.hamiltonian import Time
from hamflow.overrides import height
from hamflow.steps.parts import Part, Whole
from hamflow.steps.walk import LOT


class Step(nn.Module):
    r"""One map of phase space, :math:`(q, p, t, \Delta t) \mapsto (q', p')`, symplectic and exactly invertible.

    A subclass implements :meth:`forward` and :meth:`inverse` and sets ``order``. What it promises, and what
    :func:`hamflow.testing.check_step` verifies: :math:`J^\top \Omega J = \Omega`, hence :math:`\log|\det J| = 0`; the
    inverse undoes the forward map; and the error of one unit of time shrinks as :math:`\Delta t^{\text{order}}`.

    Attributes:
        order: the order of accuracy in dt, or None for a map that integrates no equation of motion.
        damping: the friction :math:`\gamma` of :math:`\dot p = -\partial H / \partial q - \gamma p`, a number or a
            tensor of shape () or (d,); 0 for a symplectic step. With friction :math:`\log|\det J| = -\Delta t \sum_i
            \gamma_i`, and :math:`J^\top \Omega J = e^{-\gamma \Delta t} \Omega` where all coordinates have one.
        bijective: whether it is a map of all of phase space. A step under constraints is one of the states that satisfy
            them, and no transform of densities on :math:`\mathbb R^{2d}`.
        tolerance: how far the map may miss its promises: 0 for an explicit step (rounding only), the tolerance of the
            solver for an implicit one.
    """

    order: int | None = None
    damping: float | Tensor = 0.0
    bijective: bool = True
    tolerance: float = 0.0

    def forward(self, q: Tensor, p: Tensor, t: Time = 0.0, dt: Time = 0.1) -> tuple[Tensor, Tensor]:
        """The state at time t + dt from the state at time t; q and p of shape (*batch, d)."""
        raise NotImplementedError(f"{type(self).__name__} must implement forward(q, p, t, dt)")

    def inverse(self, q: Tensor, p: Tensor, t: Time = 0.0, dt: Time = 0.1) -> tuple[Tensor, Tensor]:
        """The state at time t from the state at time t + dt: undoes ``forward(..., t, dt)``."""
        raise NotImplementedError(f"{type(self).__name__} must implement inverse(q, p, t, dt)")

    def iterate(self, q: Tensor, p: Tensor, t: Time = 0.0, dt: Time = 0.1, n_steps: int = 1) -> tuple[Tensor, Tensor]:
        """``n_steps`` steps from time t."""
        for k in range(n_steps):
            q, p = self(q, p, t + k * dt, dt)
        return q, p

    def iterate_inverse(
        self, q: Tensor, p: Tensor, t: Time = 0.0, dt: Time = 0.1, n_steps: int = 1
    ) -> tuple[Tensor, Tensor]:
        """Undoes ``iterate(..., t, dt, n_steps)``; t is the time at which that began."""
        for k in reversed(range(n_steps)):
            q, p = self.inverse(q, p, t + k * dt, dt)
        return q, p

    def moves(
        self, q: Tensor, t: Time = 0.0, dt: Time = 0.1, n_steps: int = 1, *, backwards: bool = False
    ) -> list[Part]:
        """``n_steps`` steps, or their inverse, as maps of states like q, each undone from where it led."""
        found: list[Part] = []
        for k in reversed(range(n_steps)) if backwards else range(n_steps):
            there, back = (partial(move, t=t + k * dt, dt=dt) for move in (self.__call__, self.inverse))
            found.append(Whole(back, there, self) if backwards else Whole(there, back, self))
        return found

    def chains(
        self, q: Tensor, spans: Sequence[tuple[Time, Time]], n_steps: int = 1, *, backwards: bool = False
    ) -> list[list[Part]]:
        """The :meth:`moves` of ``n_steps`` steps from the time t of each span (t, dt); energies are asked once."""
        return [self.moves(q, t, dt, n_steps, backwards=backwards) for t, dt in spans]

    def segments(self, q: Tensor, t: float, dt: float, n_states: int, substeps: int) -> Iterator[list[Part]]:
        """The maps from each of ``n_states`` states to the next, ``substeps`` steps apart."""
        for first in range(0, n_states, LOT):
            states = range(first, min(first + LOT, n_states))
            yield from self.chains(q, [(t + k * substeps * dt, dt) for k in states], substeps)

    def states(
        self, q: Tensor, p: Tensor, t: float, dt: float, n_states: int, substeps: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The ``n_states`` states after (q, p), ``substeps`` steps apart, one after the other."""
        for k in range(n_states):
            q, p = self.iterate(q, p, t + k * substeps * dt, dt, substeps)
            yield q, p

    def __init_subclass__(cls, **settings: Any) -> None:
        super().__init_subclass__(**settings)
        # Parts that a class inherits are those of another map once it has one of its own.
        changed = min(height(cls, name) for name in ("forward", "inverse", "iterate", "iterate_inverse"))
        for name in ("moves", "chains", "segments", "states"):
            if height(cls, name) > changed:
                setattr(cls, name, vars(Step)[name])
        if height(cls, "moves") < height(cls, "chains"):
            cls.chains = Step.chains  # type: ignore[method-assign]

    def log_det(self, q: Tensor, dt: Time = 0.1, n_steps: int = 1) -> Tensor:
        """The log absolute determinant of the Jacobian of ``n_steps`` steps from (q, p), (*batch, d) -> (*batch,).

        It is a constant, and zero without friction.
        """
        rates = torch.as_tensor(self.damping, dtype=q.dtype, device=q.device) * dt
        return -n_steps * rates.expand(q.shape).sum(-1)
