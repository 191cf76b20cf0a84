"""Systems: Hamiltonians with units and parameters that can be simulated to the accuracy of rounding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from hamflow.energies.hamiltonian import Hamiltonian, directional
from hamflow.errors import InputError, check_choice, check_device, check_positive, check_seed, is_number
from hamflow.steps.gauss import GaussLegendre
from hamflow.steps.step import Step
from hamflow.systems.refinement import integrate
from hamflow.systems.sampling import apart
from hamflow.systems.trajectories import Trajectories

#: The arrays that noise is added to.
NOISY = {"states": ("q", "p"), "velocities": ("v",)}


class System(Hamiltonian):
    r"""A physical system: a Hamiltonian that knows its units and its usual states and can be simulated.

    A subclass is also a :class:`hamflow.SeparableHamiltonian` where its energy is separable. It implements
    :meth:`initial_states` and :meth:`momentum`, and the energy with a closed-form gradient.

    Attributes:
        name: a short name.
        dim: d, the number of coordinates.
        units: the units of time, q, p, v, p_dot and v_dot; "1" where they are natural.
        constants: the parameters of the formula, as JSON can hold them.
        periodic: the indices of the coordinates that are angles.
    """

    name: ClassVar[str]
    dim: int
    units: Mapping[str, str]
    constants: Mapping[str, Any]
    periodic: tuple[int, ...] = ()

    def initial_states(self, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Random states (q, p) of the usual kind, each (n, d), float64."""
        raise NotImplementedError(f"{type(self).__name__} must implement initial_states(n, generator)")

    def momentum(self, q: Tensor, v: Tensor) -> Tensor:
        r"""The canonical momentum :math:`\partial L / \partial v`, (*batch, d)."""
        raise NotImplementedError(f"{type(self).__name__} must implement momentum(q, v)")

    def velocity(self, q: Tensor, p: Tensor) -> Tensor:
        r"""The velocity :math:`\dot q = \partial H / \partial p`, (*batch, d)."""
        return self.gradient(q, p)[1]

    def acceleration(self, q: Tensor, p: Tensor) -> Tensor:
        r"""The acceleration :math:`\ddot q = H_{pq}\, \dot q + H_{pp}\, \dot p`, exact, (*batch, d)."""
        dq, dp = self.gradient(q, p)
        return directional(self.velocity, (q, p), (dp, -dq))[1]

    def lagrangian(self, q: Tensor, v: Tensor) -> Tensor:
        r"""The Legendre transform of H, :math:`L(q, v) = p \cdot v - H(q, p)` at the p of v, (*batch,)."""
        p = self.momentum(q, v)
        value: Tensor = (p * v).sum(-1) - self(q, p)
        return value

    def step(self) -> Step:
        """The step that :meth:`simulate` refines: of order 16, which needs fewer gradients than any splitting here."""
        return GaussLegendre(self, stages=8)

    def simulate(
        self,
        n_trajectories: int = 1,
        n_steps: int = 100,
        dt: float = 0.1,
        *,
        initial: tuple[Any, Any] | None = None,
        noise: float = 0.0,
        noise_on: str = "states",
        derivatives: bool = False,
        seed: int = 0,
        tolerance: float = 1e-12,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str | None = None,
        progress: bool = False,
    ) -> Trajectories:
        """Simulate trajectories of ``n_steps`` steps, that is ``n_steps + 1`` states, in float64 and as one batch.

        Between two states the step is cut in halves, again and again, until two successive refinements agree to
        ``tolerance``, so dt says how often the motion is written down and not how accurate it is. Where the motion is
        chaotic errors grow from state to state, as they do for every method.

        Args:
            n_trajectories: their number.
            n_steps: the number of steps.
            dt: the time between two states, [time].
            initial: positions and momenta to start from, each (n, d) or (d,); by default :meth:`initial_states`.
            noise: the standard deviation of the Gaussian noise that is added afterwards.
            noise_on: ``"states"`` adds it to q and p, ``"velocities"`` to v; all other arrays stay exact.
            derivatives: whether to add p_dot and v_dot, exact and without noise.
            seed: of the initial states, and apart from them of the noise: states that ``initial`` draws from a
                generator of the same seed have nothing to do with it.
            tolerance: how closely two refinements of a step agree, relative to the size of positions and momenta.
            dtype: of the result.
            device: where to compute.
            progress: whether to show a bar.

        Raises:
            InputError: an argument is out of range or has the wrong shape.
            SolveError: a trajectory does not settle at the tolerance, near a collision say.

        Example:
            >>> import hamflow as hf
            >>> data = hf.systems.Pendulum(gravity=3.0).simulate(n_trajectories=25, n_steps=45, noise=0.1)
            >>> data.q.shape, data.given, data.metadata["units"]["q"]
            (torch.Size([25, 46, 1]), ('q', 'p', 'v'), 'rad')
        """
        for name, value in (("n_trajectories", n_trajectories), ("n_steps", n_steps)):
            check_positive(name, value, integer=True)
        check_positive("dt", dt)
        check_positive("tolerance", tolerance)
        check_seed("seed", seed)
        check_choice("noise_on", noise_on, tuple(NOISY))
        if not is_number(noise) or not 0 <= noise < float("inf"):
            raise InputError(f"noise = {noise!r}, expected a standard deviation, 0 or more")
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise InputError(f"dtype = {dtype!r}, expected a floating dtype")
        target = check_device("cpu" if device is None else device)
        if initial is None:
            start = self.initial_states(n_trajectories, torch.Generator().manual_seed(seed))
        else:
            start = self._check_initial(initial, n_trajectories)
        with torch.no_grad():
            q, p = (x.to(target, torch.float64) for x in start)
            q, p = integrate(
                self.step(), q, p, dt=float(dt), n_steps=n_steps, tolerance=float(tolerance), progress=progress
            )
            arrays = {"q": q, "p": p, "v": self.velocity(q, p)}
            if derivatives:
                arrays |= {"p_dot": -self.gradient(q, p)[0], "v_dot": self.acceleration(q, p)}
            if noise:
                generator = apart(seed)
                for name in NOISY[noise_on]:
                    shake = torch.randn(q.shape, generator=generator, dtype=torch.float64)
                    arrays[name] = arrays[name] + noise * shake.to(target)
        times = float(dt) * torch.arange(n_steps + 1, dtype=torch.float64, device=target)
        metadata = {
            "system": self.name,
            "parameters": dict(self.constants),
            "units": dict(self.units),
            "periodic": list(self.periodic),
            "noise": float(noise),
            "noise_on": noise_on,
            "seed": int(seed),
            "dt": float(dt),
        }
        return Trajectories(
            times=times.to(dtype), metadata=metadata, **{name: array.to(dtype) for name, array in arrays.items()}
        )

    def extra_repr(self) -> str:
        """The parameters, for ``repr``."""
        return ", ".join(f"{name}={value}" for name, value in self.constants.items())

    def _check_initial(self, initial: Any, n_trajectories: int) -> tuple[Tensor, Tensor]:
        if not isinstance(initial, (tuple, list)) or len(initial) != 2:
            raise InputError(f"initial is a {type(initial).__name__}, expected a pair (q, p)")
        try:
            q, p = (torch.as_tensor(x, dtype=torch.float64) for x in initial)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"initial does not hold numbers: {error}") from error
        q, p = (x.unsqueeze(0) if x.ndim == 1 else x for x in (q, p))
        n = q.shape[0] if q.ndim else 0
        if q.shape != p.shape or q.shape != (n, self.dim) or n == 0:
            raise InputError(
                f"initial has q of shape {tuple(q.shape)} and p of {tuple(p.shape)}, expected (n, {self.dim}) for both"
            )
        if n_trajectories not in (1, n):
            raise InputError(f"n_trajectories = {n_trajectories}, expected the {n} rows of initial, or leave it out")
        if not (q.isfinite().all() and p.isfinite().all()):
            raise InputError("initial holds NaN or infinite values, expected finite numbers")
        return q, p


def units_of(length: str, time: str, mass: str) -> dict[str, str]:
    """The units of the arrays of particles, from those of length, time and mass."""
    if {length, time, mass} == {"1"}:
        return dict.fromkeys(("time", "q", "p", "v", "p_dot", "v_dot"), "1")
    return {
        "time": time,
        "q": length,
        "p": f"{mass} {length}/{time}",
        "v": f"{length}/{time}",
        "p_dot": f"{mass} {length}/{time}^2",
        "v_dot": f"{length}/{time}^2",
    }


def numbers(name: str, values: Any, count: int | None = None) -> tuple[float, ...]:
    """A tuple of positive floats.

    Raises:
        InputError: ``values`` is no sequence of positive numbers, or not of that many.
    """
    values = values.tolist() if hasattr(values, "tolist") else values
    if not isinstance(values, (tuple, list)) or count not in (None, len(values)):
        expected = "a sequence" if count is None else f"a sequence of {count}"
        raise InputError(f"{name} = {values!r}, expected {expected} positive numbers")
    for value in values:
        check_positive(name, value)
    return tuple(map(float, values))
