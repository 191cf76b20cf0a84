"""What the tests of learned Lagrangians share: known systems, short fits, motions to fit."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor, nn

import hamflow as hf
from hamflow.systems import DoublePendulum, MassSpring, Pendulum, Trajectories

F64 = torch.float64
NAMED = pytest.mark.parametrize("lagrangian", ["mechanical", "constant_mass", "general"])
SOURCES = pytest.mark.parametrize("learn_from", ["derivatives", "residual", "states"])
SPRING = MassSpring(mass=0.5, stiffness=3.0)  # q'' = -6 q
PENDULUM = Pendulum(mass=0.5, gravity=6.0)  # q'' = -6 sin q
ARM = DoublePendulum((1.0, 1.0), (1.0, 1.0), gravity=5.0)
EXACT = {"derivatives": True, "n_trajectories": 6, "n_steps": 20, "dt": 0.1}


class Known(hf.Lagrangian):
    """(v^2 - k q^2) / 2 with k learned."""

    def __init__(self, k: float = 1.0) -> None:
        super().__init__()
        self.k = nn.Parameter(torch.tensor(k))

    def forward(self, q: Tensor, v: Tensor, t: Any = 0.0) -> Tensor:
        return 0.5 * (v**2 - self.k * q**2).sum(-1)

    def gradient(self, q: Tensor, v: Tensor, t: Any = 0.0) -> tuple[Tensor, Tensor]:
        return -self.k * q, v


def fit(data: Any, lagrangian: Any = "mechanical", **settings: Any) -> hf.LNN:
    own = {
        name: settings.pop(name)
        for name in ("friction", "constraint", "rule", "composition", "periodic", "regulariser", "seed", "standardise")
        if name in settings
    }
    dim = (data if isinstance(data, Trajectories) else data[0]).dim
    model = hf.LNN(dim, lagrangian=lagrangian, widths=settings.pop("widths", (16,)), **own)
    return model.fit(data, **{"epochs": 20, "learning_rate": 0.02, "window": 5, "progress": False} | settings)


def only(data: Trajectories, *names: str) -> Trajectories:
    return data.replace(**{name: None for name in data.given if name not in names})


def grid(width: float = 1.0) -> tuple[Tensor, Tensor]:
    axis = torch.linspace(-width, width, 7, dtype=F64)
    q, v = (x.reshape(-1, 1) for x in torch.meshgrid(axis, axis, indexing="ij"))
    return q, v


def damped(gamma: float = 0.3) -> Trajectories:
    """A damped pendulum, q'' = -6 sin q - gamma q', by DOP853."""
    times = np.linspace(0, 4, 41)
    paths = []
    for start in ([1.5, 0.0], [-2.0, 1.0], [0.5, -2.0]):

        def slope(_: float, z: Any) -> list[float]:
            return [z[1], -6 * math.sin(z[0]) - gamma * z[1]]

        paths.append(solve_ivp(slope, (0, 4), start, "DOP853", times, rtol=1e-11, atol=1e-11).y.T)
    z = torch.tensor(np.stack(paths))
    acceleration = -6 * z[..., :1].sin() - gamma * z[..., 1:]
    return Trajectories(times=times, q=z[..., :1], v=z[..., 1:], v_dot=acceleration, metadata={"periodic": [0]})


def hung(n: int, steps: int) -> Trajectories:
    """Motions of a pendulum of length 0.7 in the plane: places, not angles."""
    length = 0.7
    data = Pendulum(length=length).simulate(n, steps, dt=0.05, derivatives=True)
    a, w, w_dot = data.q, data.need("v"), data.need("v_dot")
    out, along = (torch.cat(x, -1) for x in ((a.sin(), -a.cos()), (a.cos(), a.sin())))
    return Trajectories(
        times=data.times, q=length * out, v=length * w * along, v_dot=length * (w_dot * along - w**2 * out)
    )


def tiny(**changes: Any) -> Trajectories:
    return SPRING.simulate(2, 6, dt=0.1, derivatives=True).replace(**changes)


def in_other_units(data: Trajectories) -> Trajectories:
    """Two coordinates in units of their own, and another unit of time."""
    size, time = torch.tensor([1e3, 1e-2], dtype=F64), 20.0
    return data.replace(
        times=time * data.times, q=size * data.q, v=size / time * data.need("v"),
        v_dot=size / time**2 * data.need("v_dot"),
    )  # fmt: skip
