"""Learning an energy of bodies from windows of their motion: roll each window forward, mend what misses its end."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

import hamflow as hf
from hamflow.systems.solar_system import BODIES


@dataclass(frozen=True)
class Stage:
    """Windows of some days, one every so many days, rolled in steps of dt days; so many Gauss-Newton steps at most."""

    window: float
    dt: float
    every: float
    iterations: int


class PowerNetwork(hf.PairEnergy):
    """Pairs of an unknown law: phi(r) = -exp(a + b s + ridges(s)), s = log r; neither b nor the form is given."""

    def __init__(self, masses: hf.BodyMasses, width: int, *, scale: float, exponent: float) -> None:
        super().__init__(len(BODIES), 3, masses=masses)
        self.line = nn.Parameter(torch.tensor([scale, exponent]))
        self.ridges = hf.RidgePotential(1, width)
        # Not zero, as a fresh potential has it: the search should begin from a crooked law.
        nn.init.normal_(self.ridges.amplitude, std=0.3 / width**0.5)

    def profile(self, rho: Tensor) -> Tensor:
        """The law, elementwise."""
        s = rho.log()
        return -(self.line[0] + self.line[1] * s + self.ridges(s.unsqueeze(-1))).exp()

    def slope(self, rho: Tensor) -> Tensor:
        """Its derivative, elementwise."""
        rise = self.line[1] + self.ridges.gradient(rho.log().unsqueeze(-1)).squeeze(-1)
        return self.profile(rho) * rise / rho


class SunPull(hf.Energy):
    """Each planet with the Sun alone, V(r) = -GM / r; the batch is the planets, each with a strength of its own."""

    def __init__(self, strengths: Tensor) -> None:
        super().__init__()
        self.strengths = strengths

    def forward(self, x: Tensor, t: float | Tensor = 0.0) -> Tensor:
        """The energy, (planets, 3) -> (planets,)."""
        return -self.strengths / x.norm(dim=-1)

    def gradient(self, x: Tensor, t: float | Tensor = 0.0) -> Tensor:
        """The gradient, (planets, 3)."""
        return (self.strengths / x.norm(dim=-1) ** 3).unsqueeze(-1) * x


class BodyRoll(nn.Module):
    """Positions and velocities rolled forward: momenta come and go inside, by the learned masses."""

    def __init__(self, kinetic: hf.BodyKinetic, potential: hf.PairEnergy) -> None:
        super().__init__()
        self.step = hf.Splitting(hf.SeparableHamiltonian(kinetic, potential), hf.YOSHIDA6)
        self.masses = kinetic.masses

    def forward(self, q: Tensor, v: Tensor, dt: float, n_steps: int) -> tuple[Tensor, Tensor]:
        """The state after some steps; q and v of shape (*batch, 3 bodies)."""
        masses = self.masses().repeat_interleave(3)
        q, p = self.step.iterate(q, v * masses, 0.0, dt, n_steps)
        return q, p / masses

    def ratios(self) -> dict[str, float]:
        """The mass of each planet over the Sun's."""
        masses = self.masses().detach()
        return dict(zip(BODIES[1:], (masses[1:] / masses[0]).tolist(), strict=True))


def newton() -> BodyRoll:
    """Newton's law with G = 1: the masses, in AU^3 / day^2, are learned from 3e-4 for the Sun and 3e-9 for planets."""
    masses = hf.BodyMasses(len(BODIES), torch.tensor([3e-4] + [3e-9] * 8), learn=True)
    potential = hf.NewtonPotential(len(BODIES), 3, masses=masses)
    return BodyRoll(hf.BodyKinetic(len(BODIES), 3, masses=masses), potential).double()


def pairs(width: int) -> BodyRoll:
    """A law of pairs learned with the masses: it begins near the exponent -1/2, with masses of 1 and 1e-5."""
    masses = hf.BodyMasses(len(BODIES), torch.tensor([1.0] + [1e-5] * 8), learn=True)
    potential = PowerNetwork(masses, width, scale=-8.0, exponent=-0.5)
    return BodyRoll(hf.BodyKinetic(len(BODIES), 3, masses=masses), potential).double()


def fit(roll: BodyRoll, data: hf.systems.Trajectories, stages: list[Stage]) -> None:
    """Fit all parameters to windows of the data, stage after stage, in place.

    What a model leaves out (relativity, say) misses the window's end by 100 km at Mercury and by metres at Neptune. So
    the loss is the likelihood of Gaussian misses with one unknown spread a body, sum_b log rms_b, minimised by damped
    Gauss-Newton steps at the present spreads.
    """
    parameters = dict(roll.named_parameters())
    sizes = [p.numel() for p in parameters.values()]
    theta = torch.cat([p.detach().flatten() for p in parameters.values()])
    for stage in stages:
        theta = _minimise(roll, parameters, sizes, theta, data, stage)
    with torch.no_grad():
        for parameter, values in zip(parameters.values(), theta.split(sizes), strict=True):
            parameter.copy_(values.view_as(parameter))


def _minimise(
    roll: BodyRoll,
    parameters: dict[str, nn.Parameter],
    sizes: list[int],
    theta: Tensor,
    data: hf.systems.Trajectories,
    stage: Stage,
) -> Tensor:
    gap, stride = round(stage.window / data.dt), round(stage.every / data.dt)
    ends = data.q[0, gap::stride]
    q, v = (x[0, :-gap:stride] for x in (data.q, data.need("v")))
    n_steps = round(stage.window / stage.dt)

    def misses(theta: Tensor) -> Tensor:
        parts = zip(parameters.items(), theta.split(sizes), strict=True)
        values = {name: part.view_as(p) for (name, p), part in parts}
        # Kinetic and potential energy hold the same module of masses. Told to tie weights, functional_call would swap
        # its parameter twice and put the wrong tensor back.
        rolled = torch.func.functional_call(roll, values, (q, v, stage.dt, n_steps), tie_weights=False)[0]
        return (rolled - ends).unflatten(-1, (-1, 3)).movedim(-2, 0).flatten(1)

    def push(direction: Tensor) -> Tensor:
        change: Tensor = torch.func.jvp(misses, (theta,), (direction,))[1]
        return change

    damping, gain = 1e-3, 1.0
    with torch.no_grad():
        for _ in range(stage.iterations):
            missed = misses(theta)
            spread = missed.square().mean(1).sqrt()
            jacobian = torch.func.vmap(push, out_dims=-1)(torch.eye(len(theta), dtype=theta.dtype))
            tall = (jacobian / spread[:, None, None]).flatten(0, 1)
            matrix, slope = tall.mT @ tall, tall.mT @ (missed / spread[:, None]).flatten()
            scale = matrix.diagonal().clamp_min(1e-12 * float(matrix.diagonal().max()))
            while damping < 1e6:
                # Logarithms of masses that start a hundredfold off would overshoot: a factor e a step is enough.
                change = torch.linalg.solve(matrix + damping * scale.diag(), -slope).clamp(-1, 1)
                after = misses(theta + change).square().mean(1).sqrt()
                gain = float((spread / after).log().sum())
                if gain > 0:
                    theta, damping = theta + change, max(damping / 5, 1e-12)
                    break
                damping *= 5
            if not gain > 1e-3:
                break
    return theta
