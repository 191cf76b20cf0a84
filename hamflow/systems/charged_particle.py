"""A charge in a magnetic field, and a particle near the speed of light."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hamflow.energies.hamiltonian import Energy, FunctionEnergy, SeparableHamiltonian, Time
from hamflow.errors import InputError, check_finite, check_positive, is_number
from hamflow.systems.sampling import Range, directions, uniform
from hamflow.systems.system import System, units_of


class ChargedParticle(System):
    r"""A charge in a magnetic field :math:`B = \nabla \times A`, not separable,

    .. math:: H = \frac{\lVert p - e A(q) \rVert^2}{2 m}, \qquad p = m v + e A(q).

    Args:
        mass: m, [kg].
        charge: e, [C].
        field: a uniform field, [T]: a number for a motion in the plane that B stands upright on, three numbers for a
            motion in space; :math:`A = \tfrac12 B \times q`. By default 1, in the plane.
        vector_potential: A, a callable (*batch, space) -> (*batch, space) in torch, [T m]; in place of ``field``.
        space: 2 or 3 dimensions, for ``vector_potential``.

    Raises:
        InputError: an argument is out of range, or ``field`` and ``vector_potential`` are both given.

    Example:
        >>> import torch, hamflow as hf
        >>> particle = hf.systems.ChargedParticle(field=(0.0, 0.0, 2.0))
        >>> q, v = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0])
        >>> p = particle.momentum(q, v)
        >>> p, particle.acceleration(q, p)
        (tensor([0., 2., 0.]), tensor([2., 0., 0.]))
    """

    name = "charged_particle"
    units = units_of("m", "s", "kg")

    def __init__(
        self,
        mass: float = 1.0,
        charge: float = 1.0,
        field: float | Sequence[float] | None = None,
        *,
        vector_potential: Callable[[Tensor], Tensor] | None = None,
        space: int = 3,
    ) -> None:
        super().__init__()
        check_positive("mass", mass)
        check_finite("charge", charge)
        if field is not None and vector_potential is not None:
            raise InputError("field and vector_potential are both given, expected one of them")
        if space not in (2, 3):
            raise InputError(f"space = {space!r}, expected 2 or 3")
        self.mass, self.charge = float(mass), float(charge)
        self.vector_potential = vector_potential
        self.constants = {"mass": self.mass, "charge": self.charge}
        if vector_potential is None:
            field = 1.0 if field is None else field
            self._matrix = _cross_matrix(field)
            self.constants["field"] = [float(b) for b in field] if isinstance(field, Sequence) else float(field)
        self.dim = len(self._matrix) if vector_potential is None else int(space)

    def forward(self, q: Tensor, p: Tensor, t: Time = 0.0) -> Tensor:
        """The energy, q and p of shape (*batch, d) -> (*batch,), [J]."""
        return 0.5 * self.mass * (self.velocity(q, p) ** 2).sum(-1)

    def gradient(self, q: Tensor, p: Tensor, t: Time = 0.0) -> tuple[Tensor, Tensor]:
        """The pair (dH/dq, dH/dp), each (*batch, d)."""
        v = self.velocity(q, p)
        if self.vector_potential is None:
            pulled = 0.5 * v @ v.new_tensor(self._matrix)
        else:
            pulled = torch.func.vjp(self.vector_potential, q)[1](v)[0]
        return -self.charge * pulled, v

    def velocity(self, q: Tensor, p: Tensor) -> Tensor:
        """The velocity (p - e A(q)) / m, (*batch, d)."""
        return (p - self.charge * self._potential(q)) / self.mass

    def momentum(self, q: Tensor, v: Tensor) -> Tensor:
        """The canonical momentum m v + e A(q), (*batch, d)."""
        return self.mass * v + self.charge * self._potential(q)

    def initial_states(
        self,
        n: int,
        generator: torch.Generator | None = None,
        *,
        position: Range = (-1.0, 1.0),
        speed: Range = (0.5, 1.5),
    ) -> tuple[Tensor, Tensor]:
        """States (q, p), each (n, d): coordinates [m] uniform in a range, speeds [m/s] too, in all directions."""
        q = uniform("position", position, (n, self.dim), generator)
        v = uniform("speed", speed, (n, 1), generator) * directions((n, self.dim), generator)
        return q, self.momentum(q, v)

    def _potential(self, q: Tensor) -> Tensor:
        if self.vector_potential is None:
            return 0.5 * q @ q.new_tensor(self._matrix).mT
        value = self.vector_potential(q)
        if value.shape != q.shape:
            raise InputError(
                f"vector_potential returned shape {tuple(value.shape)}, expected that of q, {tuple(q.shape)}"
            )
        return value


def _cross_matrix(field: Any) -> tuple[tuple[float, ...], ...]:
    # The matrix of q -> B x q, in the plane or in space.
    if is_number(field):
        check_finite("field", field)
        return (0.0, -float(field)), (float(field), 0.0)
    if not isinstance(field, (tuple, list)) or len(field) != 3:
        raise InputError(f"field = {field!r}, expected a number (a motion in the plane) or three numbers")
    for value in field:
        check_finite("field", value)
    x, y, z = map(float, field)
    return (0.0, -z, y), (z, 0.0, -x), (-y, x, 0.0)


class RelativisticParticle(System, SeparableHamiltonian):
    r"""A particle near the speed of light, in a harmonic well or another potential, in natural units,

    .. math:: H = \sqrt{\lVert p \rVert^2 c^2 + m^2 c^4} - m c^2 + V(q), \qquad V(q) = \tfrac12 k \lVert q \rVert^2.

    Args:
        mass: m.
        c: the speed of light.
        stiffness: k of the well.
        potential: V, an :class:`hamflow.Energy` of the position, in place of the well.
        space: d, the number of dimensions.

    Raises:
        InputError: an argument is out of range or of the wrong kind.

    Example:
        >>> import torch, hamflow as hf
        >>> particle = hf.systems.RelativisticParticle()
        >>> particle.velocity(torch.zeros(1), torch.tensor([1e6])).item()
        1.0
    """

    name = "relativistic_particle"
    units = units_of("1", "1", "1")

    def __init__(
        self,
        mass: float = 1.0,
        c: float = 1.0,
        stiffness: float = 1.0,
        *,
        potential: Energy | None = None,
        space: int = 1,
    ) -> None:
        for name, value in (("mass", mass), ("c", c), ("stiffness", stiffness)):
            check_positive(name, value)
        check_positive("space", space, integer=True)
        rest = mass * c**2

        def energy(p: Tensor) -> Tensor:
            # Not sqrt(...) - m c^2: slow particles would lose all digits of it.
            squared = (c * p).square().sum(-1)
            return squared / ((squared + rest**2).sqrt() + rest)

        def velocity(p: Tensor) -> Tensor:
            return c**2 * p / ((c * p).square().sum(-1, keepdim=True) + rest**2).sqrt()

        well = FunctionEnergy(lambda q: 0.5 * stiffness * (q**2).sum(-1), lambda q: stiffness * q)
        super().__init__(FunctionEnergy(energy, velocity), well if potential is None else potential)
        self.dim = int(space)
        self.constants = {"mass": float(mass), "c": float(c)}
        if potential is None:
            self.constants["stiffness"] = float(stiffness)

    def momentum(self, q: Tensor, v: Tensor) -> Tensor:
        """The momentum gamma m v, (*batch, d); NaN at the speed of light and above."""
        speed = (v / self.constants["c"]).square().sum(-1, keepdim=True)
        return self.constants["mass"] * v * (1 - speed).rsqrt()

    def initial_states(
        self,
        n: int,
        generator: torch.Generator | None = None,
        *,
        position: Range = (-2.0, 2.0),
        speed: Range = (0.0, 0.9),
    ) -> tuple[Tensor, Tensor]:
        """States (q, p), each (n, d): coordinates uniform in a range, and speeds, in units of c and all directions."""
        q = uniform("position", position, (n, self.dim), generator)
        v = self.constants["c"] * uniform("speed", speed, (n, 1), generator) * directions((n, self.dim), generator)
        return q, self.momentum(q, v)
