"""Oscillators: the mass on a spring, the pendulum, and the potential of Henon and Heiles."""

from __future__ import annotations

import torch
from torch import Tensor

from hamflow.energies.hamiltonian import FunctionEnergy, SeparableHamiltonian
from hamflow.errors import check_finite, check_positive
from hamflow.systems.sampling import Range, on_shells
from hamflow.systems.system import System, units_of


def point_mass(mass: float) -> FunctionEnergy:
    """The kinetic energy of one mass for all coordinates."""
    return FunctionEnergy(lambda p: (p**2).sum(-1) / (2 * mass), lambda p: p / mass)


class MassSpring(System, SeparableHamiltonian):
    r"""A mass on a spring,

    .. math:: H = \frac{p^2}{2 m} + \frac{k q^2}{2}.

    ``MassSpring(mass=0.5, stiffness=2.0)`` is :math:`q^2 + p^2`.

    Args:
        mass: m, [kg].
        stiffness: k, [kg/s^2].

    Raises:
        InputError: an argument is not positive.

    Example:
        >>> import torch, hamflow as hf
        >>> hf.systems.MassSpring(mass=0.5, stiffness=2.0)(torch.tensor([1.0]), torch.tensor([2.0])).item()
        5.0
    """

    name = "mass_spring"
    dim = 1
    units = units_of("m", "s", "kg")

    def __init__(self, mass: float = 1.0, stiffness: float = 1.0) -> None:
        check_positive("mass", mass)
        check_positive("stiffness", stiffness)
        spring = FunctionEnergy(lambda q: 0.5 * stiffness * (q**2).sum(-1), lambda q: stiffness * q)
        super().__init__(point_mass(mass), spring)
        self.constants = {"mass": float(mass), "stiffness": float(stiffness)}

    def initial_states(
        self, n: int, generator: torch.Generator | None = None, *, radius: Range = (0.1, 1.0)
    ) -> tuple[Tensor, Tensor]:
        """States (q, p) on circles of the phase plane: the radius uniform in a range, the phase uniform; each (n, 1).

        References:
            Greydanus et al. (2019), Hamiltonian Neural Networks, arXiv 1906.01563, for the range.
        """
        return on_shells(n, 1, radius, generator)

    def momentum(self, q: Tensor, v: Tensor) -> Tensor:
        """The momentum m v, (*batch, 1)."""
        return self.constants["mass"] * v


class Pendulum(System, SeparableHamiltonian):
    r"""A mass on a rod, its angle q taken from where it hangs,

    .. math:: H = \frac{p^2}{2 m l^2} + m g l\,(1 - \cos q).

    ``Pendulum(mass=0.5, gravity=6.0)`` is :math:`p^2 + 3 (1 - \cos q)`.

    Args:
        mass: m, [kg].
        length: l, [m].
        gravity: g, [m/s^2].

    Raises:
        InputError: an argument is not positive.

    Example:
        >>> import torch, hamflow as hf
        >>> hf.systems.Pendulum(mass=0.5, gravity=6.0)(torch.tensor([torch.pi]), torch.tensor([1.0])).item()
        7.0
    """

    name = "pendulum"
    dim = 1
    periodic = (0,)
    units = {  # noqa: RUF012 - a constant of the class, as in the others
        "time": "s",
        "q": "rad",
        "p": "kg m^2/s",
        "v": "rad/s",
        "p_dot": "kg m^2/s^2",
        "v_dot": "rad/s^2",
    }

    def __init__(self, mass: float = 1.0, length: float = 1.0, gravity: float = 9.81) -> None:
        for name, value in (("mass", mass), ("length", length), ("gravity", gravity)):
            check_positive(name, value)
        torque = mass * gravity * length
        weight = FunctionEnergy(lambda q: torque * (1 - q.cos()).sum(-1), lambda q: torque * q.sin())
        super().__init__(point_mass(mass * length**2), weight)
        self.constants = {"mass": float(mass), "length": float(length), "gravity": float(gravity)}

    def initial_states(
        self, n: int, generator: torch.Generator | None = None, *, radius: Range = (1.3, 2.3)
    ) -> tuple[Tensor, Tensor]:
        """States (q, p) on circles of the phase plane: the radius uniform in a range, the phase uniform; each (n, 1).

        References:
            Greydanus et al. (2019), Hamiltonian Neural Networks, arXiv 1906.01563, for the range.
        """
        return on_shells(n, 1, radius, generator)

    def momentum(self, q: Tensor, v: Tensor) -> Tensor:
        """The angular momentum m l^2 v, (*batch, 1)."""
        return self.constants["mass"] * self.constants["length"] ** 2 * v


class HenonHeiles(System, SeparableHamiltonian):
    r"""A star in the mean field of a galaxy, in natural units: regular at low energy, chaotic at high,

    .. math:: H = \tfrac12 (p_x^2 + p_y^2) + \tfrac12 (x^2 + y^2) + \lambda\,\bigl(x^2 y - \tfrac13 y^3\bigr).

    Motions of energy under :math:`1 / (6 \lambda^2)` that start near the origin stay there; others may escape.

    Args:
        lambda_: the strength of the cubic term.

    Raises:
        InputError: ``lambda_`` is not a finite number.

    References:
        Henon and Heiles (1964), The Astronomical Journal 69, 73.

    Example:
        >>> import torch, hamflow as hf
        >>> hf.systems.HenonHeiles()(torch.tensor([0.0, 1.0]), torch.zeros(2)).item()
        0.1666...
    """

    name = "henon_heiles"
    dim = 2
    units = units_of("1", "1", "1")

    def __init__(self, lambda_: float = 1.0) -> None:
        check_finite("lambda_", lambda_)

        def value(q: Tensor) -> Tensor:
            x, y = q.unbind(-1)
            return 0.5 * (x**2 + y**2) + lambda_ * (x**2 * y - y**3 / 3)

        def gradient(q: Tensor) -> Tensor:
            x, y = q.unbind(-1)
            return torch.stack((x + 2 * lambda_ * x * y, y + lambda_ * (x**2 - y**2)), -1)

        super().__init__(point_mass(1.0), FunctionEnergy(value, gradient))
        self.constants = {"lambda_": float(lambda_)}

    def initial_states(
        self, n: int, generator: torch.Generator | None = None, *, radius: Range = (0.1, 0.45)
    ) -> tuple[Tensor, Tensor]:
        """States (q, p) on spheres of phase space, the radius uniform in a range; each (n, 2).

        For lambda = 1 those of a radius under 1/2 are bound.
        """
        return on_shells(n, 2, radius, generator)

    def momentum(self, q: Tensor, v: Tensor) -> Tensor:
        """The momentum, which is the velocity, (*batch, 2)."""
        return v
