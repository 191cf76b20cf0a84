"""Explicit symplectic integration of a separable Hamiltonian."""

from __future__ import annotations

from torch import Tensor

from hamflow.energies.hamiltonian import SeparableHamiltonian, Time
from hamflow.energies.slope import Slope
from hamflow.errors import InputError
from hamflow.steps.parts import Part, Shear, run
from hamflow.steps.schemes import LEAPFROG, Scheme
from hamflow.steps.step import Step


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
        return run(self.moves(q, t, dt, n_steps), q, p)

    def iterate_inverse(
        self, q: Tensor, p: Tensor, t: Time = 0.0, dt: Time = 0.1, n_steps: int = 1
    ) -> tuple[Tensor, Tensor]:
        """Undoes ``n_steps`` steps: the same kicks and drifts backwards, with the opposite sign."""
        return run(self.moves(q, t, dt, n_steps, backwards=True), q, p)

    def moves(
        self, q: Tensor, t: Time = 0.0, dt: Time = 0.1, n_steps: int = 1, *, backwards: bool = False
    ) -> list[Part]:
        """The kicks and drifts of ``n_steps`` steps, or of their inverse."""
        stages = self.scheme.stages(n_steps)
        slopes = self._slopes([(kick, t + time * dt) for kick, _, time in stages])
        parts: list[Part] = [
            Shear(slope, (-fraction if kick is not backwards else fraction) * dt, kick=kick, time=t + time * dt)
            for slope, (kick, fraction, time) in zip(slopes, stages, strict=True)
        ]
        return parts[::-1] if backwards else parts

    def _slopes(self, wanted: list[tuple[bool, Time]]) -> list[Slope]:
        # Forces and velocities at many times; each energy is asked once.
        energies = {True: self.hamiltonian.potential, False: self.hamiltonian.kinetic}
        found = {kick: iter(energy.slopes([t for k, t in wanted if k is kick])) for kick, energy in energies.items()}
        return [next(found[kick]) for kick, _ in wanted]
