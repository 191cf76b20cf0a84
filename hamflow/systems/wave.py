"""The wave equation on a grid."""

from __future__ import annotations

import torch
from torch import Tensor

from hamflow.energies.field import BOUNDARIES
from hamflow.energies.hamiltonian import FunctionEnergy, SeparableHamiltonian
from hamflow.errors import check_choice, check_positive
from hamflow.systems.oscillators import point_mass
from hamflow.systems.system import System, units_of


class WaveEquation(System, SeparableHamiltonian):
    r"""A string of the line density 1 kg/m, :math:`\phi_{tt} = c^2 \phi_{xx}` with central differences of order 2,

    .. math:: H = \sum_i \frac{p_i^2}{2 h} + \frac{c^2}{2 h} \sum_i (\phi_{i+1} - \phi_i)^2, \qquad
              p_i = h\, \dot\phi_i,

    which tends to :math:`\tfrac12 \int (\phi_t^2 + c^2 \phi_x^2)\, dx` as the spacing h goes to zero. Waves of the wave
    number k have the frequency :math:`(2 c / h) \sin(k h / 2)`.

    Args:
        points: d, the number of points.
        length: of the string, [m].
        speed: c, [m/s].
        boundary: ``"periodic"``, h = length / points; or ``"fixed"``, the ends held at zero and no points themselves,
            h = length / (points + 1).

    Attributes:
        spacing: h, [m].
        places: where the points are, (points,), [m].

    Raises:
        InputError: an argument is out of range.

    Example:
        >>> import hamflow as hf
        >>> string = hf.systems.WaveEquation(points=100, length=1.0)
        >>> data = string.simulate(n_trajectories=2, n_steps=5, dt=0.05)
        >>> data.q.shape, string.spacing
        (torch.Size([2, 6, 100]), 0.01)
    """

    name = "wave_equation"
    units = units_of("m", "s", "kg")

    def __init__(self, points: int = 10, length: float = 1.0, speed: float = 1.0, boundary: str = "periodic") -> None:
        check_positive("points", points, integer=True)
        check_positive("length", length)
        check_positive("speed", speed)
        check_choice("boundary", boundary, BOUNDARIES)
        first = int(boundary == "fixed")
        self.spacing = length / (points + first)
        tension = speed**2 / self.spacing

        def extended(q: Tensor) -> Tensor:
            zero = torch.zeros_like(q[..., :1])
            return torch.cat((zero, q, zero) if first else (q[..., -1:], q, q[..., :1]), dim=-1)

        def value(q: Tensor) -> Tensor:
            # Each link once: a periodic grid has as many as points.
            return 0.5 * tension * (extended(q).diff(dim=-1)[..., 1 - first :] ** 2).sum(-1)

        def gradient(q: Tensor) -> Tensor:
            return -tension * extended(q).diff(dim=-1).diff(dim=-1)

        super().__init__(point_mass(self.spacing), FunctionEnergy(value, gradient))
        self.dim = int(points)
        self.places = self.spacing * (first + torch.arange(points, dtype=torch.float64))
        self.constants = {
            "points": int(points), "length": float(length), "speed": float(speed), "boundary": boundary
        }  # fmt: skip

    def initial_states(
        self, n: int, generator: torch.Generator | None = None, *, modes: int = 3, amplitude: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        r"""Smooth states (q, p), each (n, points), of the lowest Fourier modes,

        .. math:: \phi = \sum_{k=1}^K \tfrac{a}{k} \bigl(A_k \cos \kappa_k x + B_k \sin \kappa_k x\bigr),

        A, B standard normal and the velocity likewise but multiplied by :math:`c\, \kappa_k`, so that both energies are
        alike. The wave numbers are :math:`\kappa_k = 2 \pi k / \text{length}`, or half of it between fixed ends, where
        cosines are absent.

        Args:
            n: the number of states.
            generator: for the draws.
            modes: K.
            amplitude: a, [m].
        """
        check_positive("modes", modes, integer=True)
        check_positive("amplitude", amplitude)
        fixed = self.constants["boundary"] == "fixed"
        order = torch.arange(1, modes + 1, dtype=torch.float64)
        wave = (1 if fixed else 2) * torch.pi / self.constants["length"] * order
        angle = wave.unsqueeze(-1) * self.places
        shapes = angle.sin() if fixed else torch.cat((angle.sin(), angle.cos()))
        size = (amplitude / order).repeat(len(shapes) // modes)
        rate = (self.constants["speed"] * wave).repeat(len(shapes) // modes)
        draws = torch.randn(2, n, len(shapes), generator=generator, dtype=torch.float64) * size
        return draws[0] @ shapes, self.spacing * (draws[1] * rate) @ shapes

    def momentum(self, q: Tensor, v: Tensor) -> Tensor:
        """The momentum h v, (*batch, points)."""
        return self.spacing * v
