"""Potentials of bodies that act on each other in pairs, along the line between them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hamflow.energies.bodies import BodyMasses, as_body_masses
from hamflow.energies.hamiltonian import Energy, Time, _gradients
from hamflow.energies.networks import MLPPotential
from hamflow.errors import InputError, check_positive, is_number


class PairEnergy(Energy):
    r"""A potential energy of pairs of bodies,

    .. math:: V(q) = \sum_{i<j} m_i m_j\, \varphi(\rho_{ij}), \qquad
              \rho_{ij} = \sqrt{\lVert q_i - q_j \rVert^2 + \varepsilon^2} .

    It does not change when bodies of equal mass are exchanged, nor under translations, rotations and reflections: total
    momentum and angular momentum are conserved. A subclass implements :meth:`profile`, and :meth:`slope` where a closed
    form is at hand.

    Args:
        bodies: the number of bodies, at least 2.
        space: the dimension of the space they move in; q is (*batch, bodies * space), body by body.
        masses: a number or a tensor of shape (bodies,), both fixed, or a :class:`BodyMasses` to learn or to share.
        softening: :math:`\varepsilon \ge 0`, [length]; positive, it keeps forces finite where bodies meet.

    Raises:
        InputError: an argument is out of range; (when called) the last dimension is not bodies * space.
    """

    first: Tensor
    second: Tensor

    def __init__(
        self, bodies: int, space: int, *, masses: float | Tensor | BodyMasses = 1.0, softening: float = 0.0
    ) -> None:
        super().__init__()
        check_positive("bodies", bodies, integer=True)
        check_positive("space", space, integer=True)
        if bodies < 2:
            raise InputError(f"bodies = {bodies}, expected at least 2")
        if not is_number(softening) or not 0 <= softening < math.inf:
            raise InputError(f"softening = {softening!r}, expected a number from 0 on")
        self.bodies = bodies
        self.space = space
        self.softening = float(softening)
        self.masses = as_body_masses(bodies, masses)
        first, second = torch.triu_indices(bodies, bodies, 1)
        self.register_buffer("first", first, persistent=False)
        self.register_buffer("second", second, persistent=False)

    def profile(self, rho: Tensor) -> Tensor:
        r"""The function :math:`\varphi`, elementwise."""
        raise NotImplementedError(f"{type(self).__name__} must implement profile(rho)")

    def slope(self, rho: Tensor) -> Tensor:
        r"""The derivative :math:`\varphi'`, elementwise; by torch.func unless overridden."""
        return _gradients(self.profile, (rho,))[0]

    def forward(self, x: Tensor, t: Time = 0.0) -> Tensor:
        """The energy, (*batch, bodies * space) -> (*batch,)."""
        _, rho = self._separations(x)
        return self.profile(rho) @ self._weights(x)

    def gradient(self, x: Tensor, t: Time = 0.0) -> Tensor:
        """The gradient, (*batch, bodies * space) -> (*batch, bodies * space)."""
        separation, rho = self._separations(x)
        pulls = (self._weights(x) * self.slope(rho) / rho).unsqueeze(-1) * separation
        zero = pulls.new_zeros(*x.shape[:-1], self.bodies, self.space)
        # What one body gains the other loses, to the last bit of each pair: momentum is conserved to rounding.
        return zero.index_add(-2, self.first, pulls).index_add(-2, self.second, pulls, alpha=-1).flatten(-2)

    def _separations(self, x: Tensor) -> tuple[Tensor, Tensor]:
        # The vectors between the bodies of each pair (*batch, pairs, space), and their softened lengths.
        if x.ndim == 0 or x.shape[-1] != self.bodies * self.space:
            raise InputError(
                f"x has shape {tuple(x.shape)}, expected (*batch, {self.bodies * self.space}): {self.bodies} bodies "
                f"of {self.space} coordinates"
            )
        places = x.unflatten(-1, (self.bodies, self.space))
        separation = places.index_select(-2, self.first) - places.index_select(-2, self.second)
        return separation, (separation.square().sum(-1) + self.softening**2).sqrt()

    def _weights(self, x: Tensor) -> Tensor:
        masses = self.masses().to(x)
        return masses[self.first] * masses[self.second]


class PairPotential(PairEnergy):
    r"""A learned force between bodies: :class:`PairEnergy` whose :math:`\varphi` is a network of the distance,

    .. math:: \varphi(\rho) = \mathrm{MLP}\bigl(\log(\rho / \ell),\ \ell / \rho\bigr).

    Power laws are smooth functions of these two inputs, so they are learned easily, but none is built in.

    Args:
        bodies, space, masses: see :class:`PairEnergy`; ``masses=BodyMasses(bodies, learn=True)`` learns the weights.
        widths: the hidden widths of the network.
        scale: :math:`\ell`, a typical distance, [length].
        softening: see :class:`PairEnergy`; by default a hundredth of ``scale``.

    Raises:
        InputError: an argument is out of range.

    References:
        Sanchez-Gonzalez et al. (2019), Hamiltonian Graph Networks with ODE Integrators, arXiv 1909.12790, for learned
        pair energies.

    Example:
        >>> import torch, hamflow as hf
        >>> V = hf.PairPotential(3, 2, widths=(16,))
        >>> q = torch.randn(5, 6)
        >>> V(q).shape, V.gradient(q).shape
        (torch.Size([5]), torch.Size([5, 6]))
    """

    def __init__(
        self,
        bodies: int,
        space: int,
        *,
        widths: Sequence[int] = (64, 64),
        masses: float | Tensor | BodyMasses = 1.0,
        scale: float = 1.0,
        softening: float | None = None,
    ) -> None:
        check_positive("scale", scale)
        super().__init__(bodies, space, masses=masses, softening=0.01 * scale if softening is None else softening)
        self.scale = float(scale)
        self.network = MLPPotential(2, widths)

    def _features(self, rho: Tensor) -> Tensor:
        relative = rho / self.scale
        return torch.stack((relative.log(), relative.reciprocal()), dim=-1)

    def profile(self, rho: Tensor) -> Tensor:
        r"""The network's :math:`\varphi`, elementwise."""
        value: Tensor = self.network(self._features(rho))
        return value

    def slope(self, rho: Tensor) -> Tensor:
        r"""The derivative :math:`\varphi'`, elementwise."""
        by_log, by_inverse = self.network.gradient(self._features(rho)).unbind(-1)
        return (by_log - by_inverse * self.scale / rho) / rho


class NewtonPotential(PairEnergy):
    r"""Newton's gravity, softened,

    .. math:: V(q) = -\sum_{i<j} \frac{G\, m_i m_j}{\sqrt{\lVert q_i - q_j \rVert^2 + \varepsilon^2}} .

    Args:
        bodies, space, masses: see :class:`PairEnergy`; learned masses, shared with the kinetic energy, are one
            :class:`BodyMasses` given to both.
        gravity: G, [length^3 / mass / time^2].
        softening: :math:`\varepsilon`, [length]; 0 is the law itself, singular where two bodies meet.

    Raises:
        InputError: an argument is out of range.

    References:
        Plummer (1911), Monthly Notices of the Royal Astronomical Society 71, 460, for the softening.

    Example:
        >>> import torch, hamflow as hf
        >>> V = hf.NewtonPotential(2, 2, masses=torch.tensor([3.0, 1.0]))
        >>> V(torch.tensor([0.0, 0.0, 2.0, 0.0])).item()
        -1.5
    """

    def __init__(
        self,
        bodies: int,
        space: int,
        *,
        gravity: float = 1.0,
        masses: float | Tensor | BodyMasses = 1.0,
        softening: float = 0.0,
    ) -> None:
        super().__init__(bodies, space, masses=masses, softening=softening)
        check_positive("gravity", gravity)
        self.gravity = float(gravity)

    def profile(self, rho: Tensor) -> Tensor:
        """Minus G over the distance, elementwise."""
        return -self.gravity / rho

    def slope(self, rho: Tensor) -> Tensor:
        """G over the distance squared, elementwise."""
        return self.gravity / rho.square()
