"""The masses of bodies, and the kinetic energy of bodies that have them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hamflow.energies.hamiltonian import Energy, Time
from hamflow.errors import InputError, check_positive


class BodyMasses(nn.Module):
    r"""The positive masses of some bodies, :math:`m_i = e^{s_i}`, one parameter that several energies may share.

    Give the same object to a :class:`BodyKinetic` and to a pair energy, and both have the one parameter: it stays one
    through a deep copy of what holds both, and saving and loading a state.

    Args:
        bodies: the number of bodies.
        masses: the initial masses, a number or a tensor of shape (bodies,), whose dtype is kept, [mass].
        learn: whether the masses are a parameter.

    Raises:
        InputError: an argument has the wrong shape or sign.

    Example:
        >>> import torch, hamflow as hf
        >>> masses = hf.BodyMasses(3, torch.tensor([1.0, 2.0, 3.0]), learn=True)
        >>> V, T = hf.NewtonPotential(3, 2, masses=masses), hf.BodyKinetic(3, 2, masses=masses)
        >>> len(list(hf.SeparableHamiltonian(T, V).parameters()))
        1
    """

    no_weight_decay = True

    def __init__(self, bodies: int, masses: float | Tensor = 1.0, *, learn: bool = False) -> None:
        super().__init__()
        check_positive("bodies", bodies, integer=True)
        precise = isinstance(masses, Tensor) and masses.is_floating_point()
        start = torch.as_tensor(masses, dtype=None if precise else torch.get_default_dtype())
        if start.shape not in ((), (bodies,)) or not ((start > 0) & start.isfinite()).all():
            raise InputError(
                f"masses = {masses!r}, expected a positive number or a positive tensor of shape ({bodies},)"
            )
        self.bodies = bodies
        self.log_masses = nn.Parameter(start.log().expand(bodies).clone(), requires_grad=learn)

    def forward(self) -> Tensor:
        """The masses, (bodies,)."""
        return self.log_masses.exp()


def as_body_masses(bodies: int, masses: float | Tensor | BodyMasses) -> BodyMasses:
    """The object itself, to be shared, or fixed masses of the given size.

    Raises:
        InputError: the masses are of another number of bodies, or not positive.
    """
    if not isinstance(masses, BodyMasses):
        return BodyMasses(bodies, masses)
    if masses.bodies != bodies:
        raise InputError(f"masses are of {masses.bodies} bodies, expected {bodies}")
    return masses


class BodyKinetic(Energy):
    r"""The kinetic energy of bodies, :math:`T(p) = \sum_i \lVert p_i \rVert^2 / 2 m_i`.

    Args:
        bodies: the number of bodies.
        space: the dimension of the space they move in; p is (*batch, bodies * space), body by body.
        masses: a number or a tensor of shape (bodies,), both fixed, or a :class:`BodyMasses` to share.

    Raises:
        InputError: an argument is out of range.

    Example:
        >>> import torch, hamflow as hf
        >>> T = hf.BodyKinetic(2, 2, masses=torch.tensor([1.0, 4.0]))
        >>> T.gradient(torch.tensor([1.0, 0.0, 0.0, 2.0]))
        tensor([1.0000, 0.0000, 0.0000, 0.5000])
    """

    def __init__(self, bodies: int, space: int, *, masses: float | Tensor | BodyMasses = 1.0) -> None:
        super().__init__()
        check_positive("bodies", bodies, integer=True)
        check_positive("space", space, integer=True)
        self.bodies = bodies
        self.space = space
        self.masses = as_body_masses(bodies, masses)

    def mass(self, t: Time = 0.0) -> Tensor:
        """The diagonal mass matrix M of shape (d, d), d = bodies * space."""
        return self.masses().repeat_interleave(self.space).diag()

    def forward(self, x: Tensor, t: Time = 0.0) -> Tensor:
        """The energy, (*batch, bodies * space) -> (*batch,)."""
        return 0.5 * (x * self.gradient(x, t)).sum(-1)

    def gradient(self, x: Tensor, t: Time = 0.0) -> Tensor:
        """The velocities p_i / m_i, (*batch, bodies * space) -> (*batch, bodies * space)."""
        return x / self.masses().to(x).repeat_interleave(self.space)
