"""Where motions begin: the first states of trajectories, and how long these went on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from hamflow.errors import InputError, check_positive
from hamflow.models import HNN
from hamflow.models.dynamics import Dynamics
from hamflow.models.learning import plan, states_alone
from hamflow.systems import Trajectories

_MOST = 100  # initial states that a run remembers: its JSON stays small


@dataclass(frozen=True)
class Beginnings:
    """The first states of trajectories.

    Attributes:
        q: positions, (n, d).
        x: momenta, (n, d), or velocities.
        second: which of the two, "p" or "v".
        n_steps: the number of steps that the trajectories went on for.
        dt: the time between two states, in the mean; None where there was a single one.
        units: of time, q and p, where they are known.
        origin: what stood for momenta in the data: "p", "v", or "q" where velocities were estimated.
        periodic: the coordinates that are angles.
    """

    q: Tensor
    x: Tensor
    second: str
    n_steps: int
    dt: float | None
    units: Mapping[str, str]
    periodic: tuple[int, ...]
    origin: str

    @classmethod
    def of(cls, data: Trajectories, second: str, noise: float | Sequence[float] | str | None = None) -> Self:
        """The beginnings of trajectories; momenta or velocities that are missing are filled in as ``fit`` does.

        Raises:
            InputError: momenta and velocities are missing, and a single state says nothing of them.
        """
        exact = False
        if second == "v":
            data = data.replace(p=None, p_dot=None)
        if data.p is None and data.v is None:
            if data.n_times < 2:
                lacking = "v is missing, expected it" if second == "v" else "p and v are missing, expected one of them"
                raise InputError(f"{lacking}, or at least two states to see velocities")
            known = plan([data], learn_from="states", noise=noise)
            exact = known.known and not bool(known.noise.any())
        states = states_alone(data, exact=exact)
        units = dict(data.metadata.get("units", {}))
        momentum = units.get("p" if data.p is not None else "v")
        units = {name: units[name] for name in ("time", "q") if name in units} | (
            {second: momentum} if momentum else {}
        )
        times = data.own_times().double()
        steps = data.n_times - 1
        dt = float((times[:, -1] - times[:, 0]).mean()) / steps if steps else None
        origin = next(name for name in ("p", "v", "q") if name in data.given)
        return cls(states.q[:, 0], states.need("p")[:, 0], second, steps, dt, units, data.periodic, origin)

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Those of several files, which go on for as long as the longest."""
        longest = max(parts, key=lambda part: part.n_steps)
        q, x = (torch.cat([getattr(part, name) for part in parts]) for name in ("q", "x"))
        return replace(longest, q=q, x=x)

    def check_like(self, other: Self, name: str) -> None:
        """Raise :class:`InputError` where the file ``name``, whose beginnings these are, speaks another language.

        Args:
            other: the beginnings of the motions that the model was fitted to.
            name: the file, for the error.
        """
        # Momenta are no velocities, whatever the energy; estimated velocities are.
        if self.second == "p" and (self.origin == "p") != (other.origin == "p"):
            told = {"p": "momenta", "v": "velocities", "q": "positions alone"}
            raise InputError(f"{name} has {told[self.origin]}, and the model was fitted to {told[other.origin]}")
        for quantity in self.units.keys() & other.units.keys():
            if self.units[quantity] != other.units[quantity]:
                raise InputError(
                    f"{name} has {quantity} in {self.units[quantity]}, and the model was fitted to "
                    f"{other.units[quantity]}: convert it"
                )

    def as_json(self) -> dict[str, Any]:
        """What JSON can hold, at most a hundred states."""
        return {
            "n_steps": self.n_steps,
            "dt": self.dt,
            "units": dict(self.units),
            "periodic": list(self.periodic),
            "origin": self.origin,
            "q": self.q[:_MOST].tolist(),
            self.second: self.x[:_MOST].tolist(),
        }

    @classmethod
    def from_json(cls, facts: Any) -> Self:
        """What :meth:`as_json` gave."""
        second = "v" if "v" in facts else "p"
        q, x = (torch.tensor(facts[name], dtype=torch.float64) for name in ("q", second))
        if q.ndim != 2 or q.shape != x.shape:
            raise ValueError("expected states (n, d)")
        rest = dict(facts["units"]), tuple(facts["periodic"]), str(facts["origin"])
        return cls(q, x, second, int(facts["n_steps"]), facts["dt"], *rest)

    def carried_by(
        self,
        model: Dynamics,
        *,
        n_steps: int | None = None,
        dt: float | None = None,
        scheme: str | None = None,
        substeps: int | None = None,
        progress: bool = False,
    ) -> Trajectories:
        """The motions as the model carries them on, by default for as long as they went on before.

        Raises:
            InputError: the states are not of the model's dimension, or nothing says how long to go on.
            RolloutError: a state is not finite.
        """
        n_steps, dt = n_steps or self.n_steps, self.dt if dt is None else dt
        if not n_steps or dt is None:
            raise InputError("the initial states come without times, expected --steps and --dt")
        check_positive("dt", dt)
        if scheme is not None and not isinstance(model, HNN):
            raise InputError(f"scheme = {scheme!r} is for splittings, and a Lagrangian model takes variational steps")
        chosen: dict[str, Any] = {} if scheme is None else {"scheme": scheme}
        path = model.rollout(self.q, self.x, n_steps=n_steps, dt=dt, substeps=substeps, progress=progress, **chosen)
        q, x = path.movedim(0, 1).chunk(2, dim=-1)
        metadata = {
            "system": type(model).__name__.lower(),
            "units": dict(self.units),
            "periodic": list(self.periodic),
            "scheme": scheme or model.integrator,
            "substeps": model.substeps if substeps is None else substeps,
            "dt": dt,
        }
        times = dt * torch.arange(n_steps + 1, dtype=torch.float64, device=q.device)
        return Trajectories(times=times, q=q, metadata=metadata, **{self.second: x})
