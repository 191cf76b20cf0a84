"""Free motion: the exact flow of a kinetic energy."""

from __future__ import annotations

from torch import Tensor

from hamflow.energies.hamiltonian import Energy, Time
from hamflow.errors import InputError
from hamflow.steps.step import Step


class Drift(Step):
    r"""Free motion under a kinetic energy, :math:`q \leftarrow q + \Delta t\,\nabla T(p)`, exact for every dt.

    Put before learned steps whose forces start at zero, backwards and for as long as they take, it makes the whole the
    identity at the start of training. It has no error in dt, so it declares no order.

    Args:
        kinetic: T, an :class:`Energy` of the momentum.

    Raises:
        InputError: ``kinetic`` is not an :class:`Energy`.

    Example:
        >>> import torch, hamflow as hf
        >>> q, p = hf.Drift(hf.QuadraticKinetic(1))(torch.tensor([1.0]), torch.tensor([2.0]), 0.0, 0.5)
        >>> q.item()
        2.0
    """

    def __init__(self, kinetic: Energy) -> None:
        super().__init__()
        if not isinstance(kinetic, Energy):
            raise InputError(f"kinetic is a {type(kinetic).__name__}, expected an Energy (FunctionEnergy wraps one)")
        self.kinetic = kinetic

    def forward(self, q: Tensor, p: Tensor, t: Time = 0.0, dt: Time = 0.1) -> tuple[Tensor, Tensor]:
        """The state after dt of free motion; q and p of shape (*batch, d)."""
        return q + dt * self.kinetic.gradient(p, t), p

    def inverse(self, q: Tensor, p: Tensor, t: Time = 0.0, dt: Time = 0.1) -> tuple[Tensor, Tensor]:
        """The state before dt of free motion; q and p of shape (*batch, d)."""
        return q - dt * self.kinetic.gradient(p, t), p
