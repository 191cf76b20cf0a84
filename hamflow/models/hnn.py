"""HNN: a Hamiltonian Neural Network, the energy of a system learned from its trajectories."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hamflow.energies import Hamiltonian, SeparableHamiltonian
from hamflow.energies.hamiltonian import Time
from hamflow.errors import InputError, check_choice, check_positive, check_seed
from hamflow.models.dynamics import Dynamics, check_angles, check_beginnings, check_widths, graph_for
from hamflow.models.mechanics import ENERGIES, named_hamiltonian, set_units
from hamflow.models.units import FRICTION, Units, check_one_a_row, sizes
from hamflow.rollout import rollout
from hamflow.steps import SCHEMES, Damped, ImplicitMidpoint, Splitting, Step
from hamflow.training import History, seeded


class HNN(Dynamics):
    r"""A Hamiltonian Neural Network: the energy H(q, p) that drives trajectories, learned from them.

    .. math:: \dot q = \frac{\partial H}{\partial p}, \qquad \dot p = -\frac{\partial H}{\partial q} - \gamma p

    A rollout takes a symplectic step, so the learned energy does not drift (with friction :math:`\gamma` it decays as
    it should).

    Args:
        dim: d, the number of degrees of freedom.
        energy: ``"separable"``, T(p) + V(q) with a network each; ``"mechanical"``, a learned constant mass and a
            network V(q); ``"joint"``, one network H(q, p), the published form; or a :class:`Hamiltonian` of your own,
            whose parameters are learned.
        widths: the hidden widths of the networks.
        periodic: the coordinates that are angles, [rad]; by default those that the trajectories name when fitting.
        friction: whether :math:`\gamma` is learned too; with it energies may decay.
        scheme: the name of a splitting scheme, a key of ``hf.SCHEMES``; where H is not separable the implicit midpoint
            rule takes its place.
        standardise: whether networks see states, and the loss derivatives, in units of their spread.
        seed: for the weights at the start.

    Raises:
        InputError: an argument is out of range.

    References:
        Greydanus et al. (2019), Hamiltonian Neural Networks, arXiv 1906.01563; Chen et al. (2020), Symplectic Recurrent
        Neural Networks, arXiv 1909.13334, for noisy states; Zhong et al. (2020), Dissipative SymODEN, arXiv 2002.08860.

    Example:
        >>> import torch, hamflow as hf
        >>> data = hf.systems.MassSpring().simulate(n_trajectories=5, n_steps=20, dt=0.1, derivatives=True)
        >>> model = hf.HNN(dim=1, widths=(16,)).fit(data, epochs=5, progress=False)
        >>> model.rollout(torch.ones(3, 1), torch.zeros(3, 1), n_steps=10, dt=0.1).shape
        torch.Size([11, 3, 2])
    """

    def __init__(
        self,
        dim: int,
        *,
        energy: str | Hamiltonian = "separable",
        widths: Sequence[int] = (64, 64),
        periodic: Sequence[int] | None = None,
        friction: bool = False,
        scheme: str = "yoshida4",
        standardise: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_positive("dim", dim, integer=True)
        check_choice("scheme", scheme, tuple(SCHEMES))
        check_seed("seed", seed)
        check_widths(widths)
        if isinstance(energy, str):
            check_choice("energy", energy, ENERGIES)
        elif not isinstance(energy, Hamiltonian):
            raise InputError(f"energy is a {type(energy).__name__}, expected a Hamiltonian or one of {ENERGIES}")
        check_angles(periodic, dim)
        self.config: dict[str, Any] = {
            "dim": dim, "energy": energy, "widths": list(widths),
            "periodic": None if periodic is None else [int(i) for i in periodic],
            "friction": friction, "scheme": scheme, "standardise": standardise, "seed": seed,
        }  # fmt: skip
        self.dim = dim
        self.history = History()
        self.assemble(())

    hamiltonian: Hamiltonian
    second, law = "p", "energy"

    def assemble(self, periodic: Sequence[int]) -> None:
        """Make the networks anew from the seed; ``periodic`` where the model's own setting leaves it open."""
        angles = periodic if self.config["periodic"] is None else self.config["periodic"]
        kind = self.config["energy"]
        with seeded(self.config["seed"]):
            self.hamiltonian = (
                kind
                if isinstance(kind, Hamiltonian)
                else named_hamiltonian(kind, self.dim, self.config["widths"], angles)
            )
        self.angles = tuple(angles)
        inner = self.step_of(self.config["scheme"])
        self.step = Damped(inner, 1.0, learn=True) if self.config["friction"] else inner

    def step_of(self, scheme: str) -> Step:
        """The step without friction: a splitting by that scheme, or the implicit midpoint rule."""
        if isinstance(self.hamiltonian, SeparableHamiltonian):
            return Splitting(self.hamiltonian, SCHEMES[scheme])
        return ImplicitMidpoint(self.hamiltonian)

    @property
    def friction(self) -> Tensor:
        r""":math:`\gamma`, a number of dimension 1 / time; zero without friction."""
        return torch.as_tensor(self.step.damping).detach()

    @property
    def integrator(self) -> str:
        """What the step is called."""
        return self.config["scheme"] if isinstance(self.hamiltonian, SeparableHamiltonian) else "implicit_midpoint"

    def vector_field(self, q: Tensor, p: Tensor, t: Time = 0.0) -> tuple[Tensor, Tensor]:
        r"""The pair :math:`(\dot q, \dot p)` at time t, q and p of shape (*batch, d), each (*batch, d)."""
        dq, dp = self.hamiltonian.gradient(q, p, t)
        return dp, -dq - self.step.damping * p if self.config["friction"] else -dq

    def check_time(self, q: Tensor, t: Tensor) -> None:
        """Raise :class:`InputError` unless times (*batch, 1) give one energy a row."""
        with torch.no_grad():
            check_one_a_row("energy", self.hamiltonian(q, q, t), q, t)

    def set_units(self, rows: Tensor) -> Units:
        """Let the networks see numbers of order one, and tell the units of misfits; rows (q, p, dq, dp, t)."""
        q, p, v, force = rows[:, :-1].chunk(4, dim=-1)
        # About zero, not the mean: a field that is constant in the data still has to be learned in size.
        units = Units(sizes(v, centred=False), sizes(force, centred=False))
        if isinstance(self.step, Damped):
            rate = float((units.force / sizes(p, centred=False)).mean())
            self.step.log_gamma.data.fill_(math.log(FRICTION * rate))
        if not self.config["standardise"]:
            return Units(torch.ones_like(q[0]), torch.ones_like(q[0]))
        if isinstance(self.config["energy"], str):
            set_units(self.hamiltonian, q, p, units.velocity, units.force, self.angles)
        return units

    def energy(self, q: Any, p: Any) -> Tensor:
        """The learned energy up to a constant, q and p of shape (*batch, d) -> (*batch,)."""
        value: Tensor = self.hamiltonian(*self.states(q, p))
        return value

    def rollout(
        self, q: Any, p: Any, *, n_steps: int, dt: float, scheme: str | None = None,
        substeps: int | None = None, t: float = 0.0, progress: bool = False,
    ) -> Tensor:  # fmt: skip
        """Carry initial states forward, all at once; q and p of shape (*batch, d) -> (n_steps + 1, *batch, 2 d).

        It keeps a graph where q or p requires a gradient; :func:`hamflow.rollout` with the model's step always does.

        Args:
            q: positions at the start.
            p: momenta at the start.
            n_steps: the number of states after them.
            dt: the time between two states; negative runs backwards.
            scheme: another splitting scheme than the model's, where H is separable.
            substeps: steps of the integrator between two states; by default as many as in the last fit.
            t: the time at the start, for an energy of your own that depends on it.
            progress: whether to show a progress bar.

        Raises:
            InputError: a shape or a number is wrong, an initial state is not finite, or a scheme is given where H is
                not separable.
            RolloutError: a state is not finite; the error says when and which.
        """
        step = self.step
        if scheme is not None:
            check_choice("scheme", scheme, tuple(SCHEMES))
            if not isinstance(self.hamiltonian, SeparableHamiltonian):
                raise InputError(
                    f"scheme = {scheme!r}, but the energy is not separable and takes the implicit midpoint rule: "
                    "leave scheme out; substeps makes it more accurate"
                )
            step = self.step_of(scheme)
            if isinstance(self.step, Damped):
                step = Damped(step, 1.0)
                step.log_gamma = self.step.log_gamma
        q, p = self.states(q, p)
        check_beginnings(q, p, self.second)
        with graph_for(q, p):
            often = self.substeps if substeps is None else substeps
            return rollout(step, q, p, n_steps=n_steps, dt=dt, substeps=often, t=t, progress=progress)
