"""Explicit symplectic integration of a separable Hamiltonian."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from hamflow.energies.hamiltonian import Energy, SeparableHamiltonian, Time
from hamflow.energies.slope import Slope
from hamflow.errors import InputError
from hamflow.steps.parts import Part, Shear
from hamflow.steps.schemes import LEAPFROG, Scheme
from hamflow.steps.step import Step
from hamflow.steps.walk import Walker, run

#: States of a rollout whose kicks and drifts are listed together.
_LOT = 256


class Splitting(Step):
    r"""Kicks and drifts of a separable :math:`H = T(p) + V(q)`, in the fractions that a :class:`Scheme` lists.

    .. math:: p \leftarrow p - b_i\,\Delta t\,\nabla V(q), \qquad q \leftarrow q + a_i\,\Delta t\,\nabla T(p)

    The inverse runs the list backwards with :math:`-\Delta t`: no solver, exact up to rounding. Over many steps
    neighbouring kicks are merged, so L leapfrog steps cost L + 1 forces.

    Args:
        hamiltonian: a :class:`SeparableHamiltonian`.
        scheme: a :class:`Scheme`, such as ``hf.LEAPFROG`` or ``hf.YOSHIDA4``.

    Raises:
        InputError: the Hamiltonian is not separable; :class:`ImplicitMidpoint` takes any.

    References:
        Hairer, Lubich and Wanner (2006), Geometric Numerical Integration, chapter II.

    Example:
        >>> import torch, hamflow as hf
        >>> H = hf.SeparableHamiltonian(hf.QuadraticKinetic(1), hf.FunctionEnergy(lambda q: 0.5 * (q**2).sum(-1)))
        >>> step = hf.Splitting(H, hf.LEAPFROG)
        >>> q, p = torch.tensor([[1.0]]), torch.tensor([[0.0]])
        >>> q1, p1 = step(q, p, 0.0, 0.1)
        >>> torch.allclose(torch.cat(step.inverse(q1, p1, 0.0, 0.1)), torch.cat((q, p)))
        True
    """

    def __init__(self, hamiltonian: SeparableHamiltonian, scheme: Scheme = LEAPFROG) -> None:
        super().__init__()
        if not isinstance(hamiltonian, SeparableHamiltonian):
            raise InputError(
                f"hamiltonian is a {type(hamiltonian).__name__}, expected a SeparableHamiltonian; "
                "ImplicitMidpoint takes any Hamiltonian"
            )
        if not isinstance(scheme, Scheme):
            raise InputError(f"scheme is a {type(scheme).__name__}, expected a Scheme such as hamflow.LEAPFROG")
        self.hamiltonian = hamiltonian
        self.scheme = scheme
        self.order = scheme.order

    def forward(self, q: Tensor, p: Tensor, t: Time = 0.0, dt: Time = 0.1) -> tuple[Tensor, Tensor]:
        """One step; q and p of shape (*batch, d)."""
        return self.iterate(q, p, t, dt, 1)

    def inverse(self, q: Tensor, p: Tensor, t: Time = 0.0, dt: Time = 0.1) -> tuple[Tensor, Tensor]:
        """Undoes one step that began at time t; q and p of shape (*batch, d)."""
        return self.iterate_inverse(q, p, t, dt, 1)

    def iterate(self, q: Tensor, p: Tensor, t: Time = 0.0, dt: Time = 0.1, n_steps: int = 1) -> tuple[Tensor, Tensor]:
        """``n_steps`` steps with neighbouring kicks merged."""
        return run(Splitting.moves(self, q, t, dt, n_steps), q, p)

    def iterate_inverse(
        self, q: Tensor, p: Tensor, t: Time = 0.0, dt: Time = 0.1, n_steps: int = 1
    ) -> tuple[Tensor, Tensor]:
        """Undoes ``n_steps`` steps: the same kicks and drifts backwards, with the opposite sign."""
        return run(Splitting.moves(self, q, t, dt, n_steps, backwards=True), q, p)

    def moves(
        self, q: Tensor, t: Time = 0.0, dt: Time = 0.1, n_steps: int = 1, *, backwards: bool = False
    ) -> list[Part]:
        """The kicks and drifts of ``n_steps`` steps, or of their inverse."""
        (parts,) = self._chains(t, dt, 1, n_steps, backwards=backwards)
        return parts

    def segments(self, q: Tensor, t: float, dt: float, n_states: int, substeps: int) -> Iterator[list[Part]]:
        """The kicks and drifts from each of ``n_states`` states to the next; energies are asked once for many."""
        for first in range(0, n_states, _LOT):
            begin, count = t + first * substeps * dt, min(_LOT, n_states - first)
            yield from self._chains(begin, dt, count, substeps, backwards=False)

    def states(
        self, q: Tensor, p: Tensor, t: float, dt: float, n_states: int, substeps: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The ``n_states`` states after (q, p); kicks at their seams share a force."""
        walk = Walker()
        for parts in self.segments(q, t, dt, n_states, substeps):
            q, p = walk(parts, q, p)
            yield q, p

    def _chains(self, t: Time, dt: Time, n: int, n_steps: int, *, backwards: bool) -> list[list[Part]]:
        # n times n_steps steps, the kicks of each lot merged; undone, each lot is the other way round.
        stages = self._stages(n_steps)
        times = [[t + (k * n_steps + time) * dt for _, _, time in stages] for k in range(n)]
        slopes = iter(self._slopes([(kick, at) for lot in times for (kick, _, _), at in zip(stages, lot, strict=True)]))
        chains = [
            [
                self._shear(next(slopes), (-fraction if kick is not backwards else fraction) * dt, kick, at)
                for (kick, fraction, _), at in zip(stages, lot, strict=True)
            ]
            for lot in times
        ]
        return [chain[::-1] for chain in chains] if backwards else chains

    def _stages(self, n_steps: int) -> tuple[tuple[bool, float, float], ...]:
        return self.scheme.stages(n_steps)

    def _shear(self, slope: Slope, change: Time, kick: bool, time: Time) -> Part:
        return Shear(slope, change, kick=kick, time=time, energy=self._energy(kick))

    def _energy(self, kick: bool) -> Energy:
        return self.hamiltonian.potential if kick else self.hamiltonian.kinetic

    def _slopes(self, wanted: list[tuple[bool, Time]]) -> list[Slope]:
        # Forces and velocities at many times; each energy is asked once.
        found = {kick: iter(self._energy(kick).slopes([t for k, t in wanted if k is kick])) for kick in (True, False)}
        return [next(found[kick]) for kick, _ in wanted]
