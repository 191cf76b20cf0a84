"""The double pendulum."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hamflow.energies.hamiltonian import Time
from hamflow.errors import check_positive
from hamflow.systems.oscillators import Pendulum
from hamflow.systems.sampling import Range, uniform
from hamflow.systems.system import System, numbers


class DoublePendulum(System):
    r"""A pendulum that hangs from a pendulum, its angles :math:`q_1, q_2` both taken from the vertical,

    .. math:: H &= \tfrac12\, p^\top M^{-1} p + (m_1 + m_2)\, g\, l_1 (1 - \cos q_1) + m_2\, g\, l_2 (1 - \cos q_2),\\
              M &= \begin{pmatrix} (m_1 + m_2)\, l_1^2 & m_2 l_1 l_2 \cos(q_1 - q_2) \\
                   m_2 l_1 l_2 \cos(q_1 - q_2) & m_2 l_2^2 \end{pmatrix}, \qquad p = M v.

    It is not separable, and chaotic but for small swings.

    Args:
        masses: of the two bobs, [kg].
        lengths: of the two rods, [m].
        gravity: g, [m/s^2].

    Raises:
        InputError: an argument is not positive, or not a pair.

    Example:
        >>> import torch, hamflow as hf
        >>> hf.systems.DoublePendulum(gravity=9.8)(torch.tensor([torch.pi, 0.0]), torch.zeros(2)).item()
        39.2...
    """

    name = "double_pendulum"
    dim = 2
    periodic = (0, 1)
    units = Pendulum.units

    def __init__(
        self, masses: Sequence[float] = (1.0, 1.0), lengths: Sequence[float] = (1.0, 1.0), gravity: float = 9.81
    ) -> None:
        super().__init__()
        (m1, m2), (l1, l2) = numbers("masses", masses, 2), numbers("lengths", lengths, 2)
        check_positive("gravity", gravity)
        self.constants = {"masses": [m1, m2], "lengths": [l1, l2], "gravity": float(gravity)}
        self._diagonal = (m1 + m2) * l1**2, m2 * l2**2
        self._coupling = m2 * l1 * l2
        self._torques = (m1 + m2) * gravity * l1, m2 * gravity * l2

    def mass_matrix(self, q: Tensor) -> Tensor:
        """M(q), (*batch, 2, 2), [kg m^2]."""
        off = self._coupling * (q[..., 0] - q[..., 1]).cos()
        a, b = (torch.full_like(off, entry) for entry in self._diagonal)
        return torch.stack((a, off, off, b), -1).unflatten(-1, (2, 2))

    def forward(self, q: Tensor, p: Tensor, t: Time = 0.0) -> Tensor:
        """The energy, q and p of shape (*batch, 2) -> (*batch,), [J]."""
        heights = 1 - q.cos()
        potential = self._torques[0] * heights[..., 0] + self._torques[1] * heights[..., 1]
        return 0.5 * (p * self.velocity(q, p)).sum(-1) + potential

    def gradient(self, q: Tensor, p: Tensor, t: Time = 0.0) -> tuple[Tensor, Tensor]:
        """The pair (dH/dq, dH/dp), each (*batch, 2)."""
        v = self.velocity(q, p)
        # The derivative of the kinetic energy at fixed p is minus that at fixed v, and q enters by the coupling only.
        pull = self._coupling * (q[..., 0] - q[..., 1]).sin() * v[..., 0] * v[..., 1]
        sine = q.sin()
        dq = torch.stack((self._torques[0] * sine[..., 0] + pull, self._torques[1] * sine[..., 1] - pull), -1)
        return dq, v

    def velocity(self, q: Tensor, p: Tensor) -> Tensor:
        """The velocity M(q)^-1 p, (*batch, 2)."""
        a, b = self._diagonal
        off = self._coupling * (q[..., 0] - q[..., 1]).cos()
        first, second = p[..., 0], p[..., 1]
        return torch.stack((b * first - off * second, a * second - off * first), -1) / (a * b - off**2).unsqueeze(-1)

    def momentum(self, q: Tensor, v: Tensor) -> Tensor:
        """The canonical momentum M(q) v, (*batch, 2)."""
        return (self.mass_matrix(q) @ v.unsqueeze(-1)).squeeze(-1)

    def initial_states(
        self,
        n: int,
        generator: torch.Generator | None = None,
        *,
        angle: Range = (-1.5, 1.5),
        velocity: Range = (-1.0, 1.0),
    ) -> tuple[Tensor, Tensor]:
        """States (q, p), both angles [rad] and both angular velocities [rad/s] uniform in a range; each (n, 2)."""
        q = uniform("angle", angle, (n, 2), generator)
        return q, self.momentum(q, uniform("velocity", velocity, (n, 2), generator))
