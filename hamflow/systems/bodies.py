"""Bodies that attract each other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hamflow.diagnostics import angular_momentum, total_momentum
from hamflow.energies import BodyKinetic, BodyMasses, NewtonPotential, SeparableHamiltonian
from hamflow.errors import InputError, check_positive, is_number
from hamflow.systems.sampling import Range, uniform
from hamflow.systems.system import System, numbers, units_of


class NBody(System, SeparableHamiltonian):
    r"""Point masses under their mutual gravity,

    .. math:: H = \sum_i \frac{\lVert p_i \rVert^2}{2 m_i}
                  - \sum_{i < j} \frac{G\, m_i m_j}{\sqrt{\lVert x_i - x_j \rVert^2 + \epsilon^2}}.

    q holds the positions one body after the other, (*batch, bodies * space), and p the momenta likewise.

    Args:
        masses: of the bodies, two or more.
        gravity: G; 1 in natural units.
        softening: :math:`\epsilon`, a length; 0 for Newton's law.
        space: 2 or 3 dimensions.
        units: the names of the units of length, time and mass in which the numbers are given.

    Raises:
        InputError: an argument is out of range.

    Example:
        >>> import hamflow as hf
        >>> planets = hf.systems.NBody(masses=(1.0, 1e-3, 3e-4), space=3)
        >>> data = planets.simulate(n_trajectories=2, n_steps=10)
        >>> data.q.shape, planets.angular_momentum(data.q, data.p).shape
        (torch.Size([2, 11, 9]), torch.Size([2, 11, 3]))
    """

    name = "n_body"

    def __init__(
        self,
        masses: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
        gravity: float = 1.0,
        softening: float = 0.0,
        space: int = 2,
        *,
        units: tuple[str, str, str] = ("1", "1", "1"),
    ) -> None:
        masses = numbers("masses", masses)
        if len(masses) < 2:
            raise InputError(f"masses = {masses!r}, expected two or more")
        check_positive("gravity", gravity)
        if not is_number(softening) or not 0 <= softening < float("inf"):
            raise InputError(f"softening = {softening!r}, expected a length, 0 or more")
        if space not in (2, 3):
            raise InputError(f"space = {space!r}, expected 2 or 3")
        # In double precision, so that no digit of the masses is lost; the energies follow the states they are given.
        shared = BodyMasses(len(masses), torch.tensor(masses, dtype=torch.float64))
        super().__init__(
            BodyKinetic(len(masses), space, masses=shared),
            NewtonPotential(len(masses), space, gravity=gravity, masses=shared, softening=softening),
        )
        self.masses = masses
        self.space = int(space)
        self.dim = len(masses) * self.space
        self.units = units_of(*units)
        self.constants = {
            "masses": list(masses),
            "gravity": float(gravity),
            "softening": float(softening),
            "space": self.space,
        }

    def momentum(self, q: Tensor, v: Tensor) -> Tensor:
        """The momenta m_i v_i, (*batch, bodies * space)."""
        return v * v.new_tensor(self.masses).repeat_interleave(self.space)

    def total_momentum(self, p: Tensor) -> Tensor:
        """The sum of the momenta, (*batch, space); it is conserved."""
        return total_momentum(p, space=self.space)

    def angular_momentum(self, q: Tensor, p: Tensor) -> Tensor:
        """The angular momentum about the origin, (*batch,) in the plane and (*batch, 3) in space; it is conserved."""
        return angular_momentum(q, p, space=self.space)

    def initial_states(
        self,
        n: int,
        generator: torch.Generator | None = None,
        *,
        radius: Range = (0.9, 1.2),
        velocity_noise: float = 0.2,
    ) -> tuple[Tensor, Tensor]:
        """States (q, p), each (n, d), of bodies on a ring that circle their centre of mass, in the plane of x and y.

        The bodies stand at equal angles on a circle whose radius is uniform in a range. Their velocity is that of a
        circular orbit, for two or three bodies and for equal masses, and each of its components is multiplied by
        1 + u with u uniform in plus or minus ``velocity_noise``.

        References:
            Greydanus et al. (2019), Hamiltonian Neural Networks, arXiv 1906.01563, for the ranges with three bodies.
        """
        q, v = self._ring(n, generator, radius)
        factor = 1 + uniform("velocity_noise", (-velocity_noise, velocity_noise), tuple(v.shape), generator)
        return q, self.momentum(q, v * factor)

    def _ring(self, n: int, generator: torch.Generator | None, radius: Range) -> tuple[Tensor, Tensor]:
        count = len(self.masses)
        size = uniform("radius", radius, (n, 1), generator)
        turn = uniform("phase", (0.0, 2 * torch.pi), (n, 1), generator)
        angle = turn + 2 * torch.pi / count * torch.arange(count, dtype=torch.float64)
        x = torch.zeros(n, count, self.space, dtype=torch.float64)
        x[..., 0], x[..., 1] = size * angle.cos(), size * angle.sin()
        weight = torch.tensor(self.masses, dtype=torch.float64).unsqueeze(-1)
        x = x - (weight * x).sum(1, keepdim=True) / weight.sum()
        # Gravity provides what a rotation at the rate w asks for: x . dV/dx = w^2 sum m x^2.
        q = x.flatten(1)
        virial = (q * self.potential.gradient(q)).sum(-1)
        rate = (virial / (weight * x**2).sum((1, 2))).sqrt()[:, None, None]
        v = torch.zeros_like(x)
        v[..., 0], v[..., 1] = -x[..., 1], x[..., 0]
        return q, (rate * v).flatten(1)


class TwoBody(NBody):
    r"""Two bodies on opposite sides of their centre of mass; :class:`NBody` with another usual state.

    Args:
        masses: of the two.
        gravity, softening, space, units: see :class:`NBody`.

    Raises:
        InputError: an argument is out of range, or there are not two masses.

    Example:
        >>> import hamflow as hf
        >>> hf.systems.TwoBody().simulate(n_trajectories=3, n_steps=50, dt=0.4).q.shape
        torch.Size([3, 51, 4])
    """

    name = "two_body"

    def __init__(
        self,
        masses: Sequence[float] = (1.0, 1.0),
        gravity: float = 1.0,
        softening: float = 0.0,
        space: int = 2,
        *,
        units: tuple[str, str, str] = ("1", "1", "1"),
    ) -> None:
        super().__init__(numbers("masses", masses, 2), gravity, softening, space, units=units)

    def initial_states(
        self,
        n: int,
        generator: torch.Generator | None = None,
        *,
        radius: Range = (0.5, 1.5),
        velocity_noise: float = 0.05,
    ) -> tuple[Tensor, Tensor]:
        """States (q, p), each (n, d), near a circular orbit in the plane of x and y, the centre of mass at rest.

        Half the distance between the bodies is uniform in a range. Both velocities are those of the circular orbit
        times 1 + z with one z, Gaussian of the standard deviation ``velocity_noise``, for the two.

        References:
            Greydanus et al. (2019), Hamiltonian Neural Networks, arXiv 1906.01563, for the ranges.
        """
        if not is_number(velocity_noise) or velocity_noise < 0:
            raise InputError(f"velocity_noise = {velocity_noise!r}, expected a standard deviation, 0 or more")
        q, v = self._ring(n, generator, radius)
        return q, self.momentum(
            q, v * (1 + velocity_noise * torch.randn(n, 1, generator=generator, dtype=torch.float64))
        )


class ThreeBody(NBody):
    r"""Three bodies near the corners of an equilateral triangle; :class:`NBody` with three masses.

    Args:
        masses: of the three.
        gravity, softening, space, units: see :class:`NBody`.

    Raises:
        InputError: an argument is out of range, or there are not three masses.

    Example:
        >>> import hamflow as hf
        >>> hf.systems.ThreeBody().simulate(n_trajectories=3, n_steps=20, dt=0.25).q.shape
        torch.Size([3, 21, 6])
    """

    name = "three_body"

    def __init__(
        self,
        masses: Sequence[float] = (1.0, 1.0, 1.0),
        gravity: float = 1.0,
        softening: float = 0.0,
        space: int = 2,
        *,
        units: tuple[str, str, str] = ("1", "1", "1"),
    ) -> None:
        super().__init__(numbers("masses", masses, 3), gravity, softening, space, units=units)
