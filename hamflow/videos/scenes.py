"""What a film of a system shows: where its bodies are in the plane, how large they are, and how far one sees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hamflow.errors import InputError
from hamflow.systems import DoublePendulum, MassSpring, NBody, Pendulum, System


@dataclass(frozen=True)
class Scene:
    """Where bodies are drawn.

    Attributes:
        places: positions q, (*batch, d), to places in the plane, (*batch, bodies, 2), [length].
        radius: of the discs, [length].
        extent: half the width of the picture, [length].

    Example:
        >>> import torch, hamflow as hf
        >>> scene = hf.videos.scene_of(hf.systems.Pendulum(length=2.0))
        >>> scene.places(torch.zeros(1)), scene.extent  # it hangs
        (tensor([[ 0., -2.]]), 4.0)
    """

    places: Callable[[Tensor], Tensor]
    radius: float
    extent: float


def scene_of(system: System) -> Scene:
    """The usual scene of a system: a mass on a spring moves up and down, angles are taken from where things hang.

    Sizes are those of published videos, but for the double pendulum, which has none.

    Args:
        system: a :class:`hamflow.systems.MassSpring`, ``Pendulum``, ``DoublePendulum`` or bodies in the plane.

    Raises:
        InputError: nobody knows how to draw the system.

    References:
        Balsells Rodas et al. (2021), Re-Hamiltonian Generative Networks, for the sizes.

    Example:
        >>> import torch, hamflow as hf
        >>> hf.videos.scene_of(hf.systems.TwoBody()).places(torch.arange(4.0))
        tensor([[0., 1.],
                [2., 3.]])
    """
    if isinstance(system, MassSpring):
        return Scene(lambda q: torch.stack((torch.zeros_like(q), q), -1), radius=0.5, extent=2.0)
    if isinstance(system, Pendulum):
        length = system.constants["length"]
        return Scene(lambda q: length * torch.stack((q.sin(), -q.cos()), -1), radius=0.5 * length, extent=2 * length)
    if isinstance(system, DoublePendulum):
        lengths = system.constants["lengths"]

        def places(q: Tensor) -> Tensor:
            arms = torch.stack((q.sin(), -q.cos()), -1) * q.new_tensor(lengths).unsqueeze(-1)
            return arms.cumsum(-2)

        return Scene(places, radius=0.15 * sum(lengths), extent=1.25 * sum(lengths))
    if isinstance(system, NBody) and system.space == 2:
        return Scene(lambda q: q.unflatten(-1, (-1, 2)), radius=0.4, extent=3.0)
    raise InputError(f"system is a {type(system).__name__}, expected one that has a scene, or a scene of your own")
