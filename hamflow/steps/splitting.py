"""Explicit symplectic integration of a separable Hamiltonian."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from torch import Tensor

from hamflow.energies.hamiltonian import Energy, SeparableHamiltonian, Time
from hamflow.energies.slope import Slope
from hamflow.errors import InputError
from hamflow.steps.parts import Part, Shear
from hamflow.steps.schemes import LEAPFROG, Scheme
from hamflow.steps.step import Step
from hamflow.steps.walk import Walker, in_lots, run


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
        return run(in_lots(partial(Splitting.moves, self), q, t, dt, n_steps), q, p)

    def iterate_inverse(
        self, q: Tensor, p: Tensor, t: Time = 0.0, dt: Time = 0.1, n_steps: int = 1
    ) -> tuple[Tensor, Tensor]:
        """Undoes ``n_steps`` steps: the same kicks and drifts backwards, with the opposite sign."""
        return run(in_lots(partial(Splitting.moves, self), q, t, dt, n_steps, backwards=True), q, p)

    def moves(
        self, q: Tensor, t: Time = 0.0, dt: Time = 0.1, n_steps: int = 1, *, backwards: bool = False
    ) -> list[Part]:
        """The kicks and drifts of ``n_steps`` steps, or of their inverse."""
        return self._chains([(t, dt)], n_steps, backwards=backwards)[0]

    def chains(
        self, q: Tensor, spans: Sequence[tuple[Time, Time]], n_steps: int = 1, *, backwards: bool = False
    ) -> list[list[Part]]:
        """The same from each span (t, dt)."""
        return self._chains(spans, n_steps, backwards=backwards)

    def states(
        self, q: Tensor, p: Tensor, t: float, dt: float, n_states: int, substeps: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The ``n_states`` states after (q, p); kicks at their seams share a force."""
        walk = Walker()
        for parts in self.segments(q, t, dt, n_states, substeps):
            q, p = walk(parts, q, p)
            yield q, p

    def _chains(self, spans: Sequence[tuple[Time, Time]], n_steps: int, *, backwards: bool) -> list[list[Part]]:
        # The kicks of each merged.
        stages = self._stages(n_steps)
        wanted = [(kick, t + time * dt) for t, dt in spans for kick, _, time in stages]
        slopes, times = iter(self._slopes(wanted)), iter(at for _, at in wanted)
        chains = [
            [
                self._shear(next(slopes), (-fraction if kick is not backwards else fraction) * dt, kick, next(times))
                for kick, fraction, _ in stages
            ]
            for _, dt in spans
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
