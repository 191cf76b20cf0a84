"""LNN: a Lagrangian Neural Network, the Lagrangian of a system learned from positions and velocities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor

from hamflow.energies import (
    Constraint,
    Lagrangian,
    LegendreHamiltonian,
    LegendreLagrangian,
    RayleighFriction,
    RigidLinks,
    constrained_acceleration,
)
from hamflow.energies.hamiltonian import Time, time_of_rows
from hamflow.errors import InputError, SolveError, check_choice, check_positive, check_seed, is_number
from hamflow.models.constraint import begin_on, checked_constraint, warn_off
from hamflow.models.dynamics import Dynamics, check_angles, check_beginnings, check_widths, graph_for
from hamflow.models.hnn import HNN
from hamflow.models.lagrangians import LAGRANGIANS, AddedMass, named_lagrangian, set_lagrangian_units, set_masses
from hamflow.models.momenta import check_momenta
from hamflow.models.residual import guarded_residual
from hamflow.models.units import Units, check_one_a_row, sizes
from hamflow.rollout import rollout
from hamflow.steps import COMPOSITIONS, RULES, Composition, Rattle, VariationalStep
from hamflow.systems import Trajectories
from hamflow.training import History, seeded


class LNN(Dynamics):
    r"""A Lagrangian Neural Network: L(q, v) learned from positions and velocities, momenta not needed,

    .. math:: \frac{d}{dt} \frac{\partial L}{\partial v} = \frac{\partial L}{\partial q} - C v - G(q)^\top \lambda .

    A rollout takes a variational step, which is symplectic in (q, p) with :math:`p = \partial L / \partial v`, so the
    learned energy :math:`p \cdot v - L` does not drift. The motions do not determine L: at best masses, momenta and
    energies are known up to a factor, one for each group of coordinates that do not act on the others.

    Args:
        dim: d, the number of coordinates.
        lagrangian: ``"mechanical"``, :math:`\tfrac12 v^\top M(q) v - V(q)` with a network each; ``"constant_mass"``,
            the same with one learned M, for Cartesian coordinates; ``"general"``, one network L(q, v); or a
            :class:`Lagrangian` of your own, a sum of known and learned terms say, whose parameters are learned.
        widths: the hidden widths of the networks.
        periodic: the coordinates that are angles, [rad]; by default those that the trajectories name when fitting.
        friction: whether C, a constant positive matrix, is learned too; with it energies may decay.
        constraint: what positions must satisfy, g(q) = 0, a :class:`Constraint` such as :class:`RigidLinks`, of fewer
            than d conditions.
        rule: of the variational step, ``"midpoint"`` or ``"trapezoidal"``.
        composition: the name of the fractions that make a step of higher order of it, a key of
            ``hamflow.steps.COMPOSITIONS``; None leaves it at order 2.
        regulariser: :math:`\lambda`, 0 for none: L gets the kinetic energy :math:`\tfrac{\lambda}{2} \sum_i e_i v_i^2`
            besides, :math:`e_i` the mass that each coordinate would have if all had equal kinetic energies in the data,
            and one before a fit. Where M is singular accelerations stay finite, and the law is the same everywhere: in
            accelerations, momenta, the mass matrix, energies, rollouts and learning.
        standardise: whether networks see states, and the loss accelerations, in units of their size.
        seed: for the weights at the start.

    Raises:
        InputError: an argument is out of range.

    References:
        Cranmer et al. (2020), Lagrangian Neural Networks, arXiv 2003.04630; Lutter, Ritter and Peters (2019), Deep
        Lagrangian Networks, arXiv 1907.04490; Finzi, Wang and Wilson (2020), Simplifying Hamiltonian and Lagrangian
        Neural Networks via Explicit Constraints, arXiv 2010.13581.

    Example:
        >>> import torch, hamflow as hf
        >>> arm = hf.systems.DoublePendulum()
        >>> data = arm.simulate(n_trajectories=5, n_steps=20, dt=0.05, derivatives=True)
        >>> model = hf.LNN(dim=2, widths=(16,)).fit(data, epochs=5, progress=False)
        >>> model.rollout(torch.zeros(3, 2), torch.ones(3, 2), n_steps=10, dt=0.05).shape
        torch.Size([11, 3, 4])
    """

    second, law = "v", "lagrangian"
    sources = ("auto", "derivatives", "residual", "states")
    #: The law, the regulariser's part included; and without it, what is learned.
    lagrangian: Lagrangian
    learned: Lagrangian

    def __init__(
        self,
        dim: int,
        *,
        lagrangian: str | Lagrangian = "mechanical",
        widths: Sequence[int] = (64, 64),
        periodic: Sequence[int] | None = None,
        friction: bool = False,
        constraint: Constraint | None = None,
        rule: str = "midpoint",
        composition: str | None = "triple_jump4",
        regulariser: float = 0.0,
        standardise: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_positive("dim", dim, integer=True)
        check_choice("rule", rule, RULES)
        if composition is not None:
            check_choice("composition", composition, tuple(COMPOSITIONS))
        if not is_number(regulariser) or not 0 <= regulariser < 1:
            raise InputError(f"regulariser = {regulariser!r}, expected a number from 0 to 1")
        check_seed("seed", seed)
        check_widths(widths)
        if isinstance(lagrangian, str):
            check_choice("lagrangian", lagrangian, LAGRANGIANS)
        elif not isinstance(lagrangian, Lagrangian):
            raise InputError(
                f"lagrangian is a {type(lagrangian).__name__}, expected a Lagrangian or one of {LAGRANGIANS}"
            )
        check_angles(periodic, dim)
        constraint = checked_constraint(constraint, dim)
        self.config = {
            "dim": dim, "lagrangian": lagrangian, "widths": list(widths),
            "periodic": None if periodic is None else [int(i) for i in periodic],
            "friction": friction, "constraint": constraint, "rule": rule, "composition": composition,
            "regulariser": regulariser, "standardise": standardise, "seed": seed,
        }  # fmt: skip
        self.dim = dim
        self.history = History()
        self.constraint = constraint
        self.assemble(())

    def assemble(self, periodic: Sequence[int]) -> None:
        """Make all parts anew from the seed; ``periodic`` where the model's own setting leaves it open."""
        angles = periodic if self.config["periodic"] is None else self.config["periodic"]
        kind = self.config["lagrangian"]
        with seeded(self.config["seed"]):
            widths = self.config["widths"]
            self.learned = kind if isinstance(kind, Lagrangian) else named_lagrangian(kind, self.dim, widths, angles)
        regulariser = self.config["regulariser"]
        self.added = AddedMass(torch.full((self.dim,), float(regulariser))) if regulariser else None
        self.lagrangian = self.learned if self.added is None else self.learned + self.added
        self.angles = tuple(angles)
        self.force = RayleighFriction(self.dim, learn=True) if self.config["friction"] else None
        rule = self.config["rule"]
        self.plain: VariationalStep | Rattle = (
            VariationalStep(self.lagrangian, rule, force=self.force)
            if self.constraint is None
            else Rattle(self.lagrangian, self.constraint, rule, force=self.force)
        )
        name = self.config["composition"]
        self.step = self.plain if name is None else Composition(self.plain, COMPOSITIONS[name])

    @property
    def friction(self) -> Tensor:
        """C, (d, d), [force / velocity]; zero without friction."""
        if self.force is not None:
            return self.force.matrix().detach()
        return torch.diag_embed(self.states(*torch.zeros(2, self.dim))[0])

    def vector_field(self, q: Tensor, x: Tensor, t: Time = 0.0) -> tuple[Tensor, Tensor]:
        """The pair (v, dv/dt) at time t, q and v of shape (*batch, d), each (*batch, d)."""
        applied = None if self.force is None else self.force(q, x, t)
        if self.constraint is not None:
            terms = self.lagrangian.terms(q, x, t)
            return x, constrained_acceleration(terms, self.constraint, q, x, applied=applied)
        return x, self.lagrangian.acceleration(q, x, t, applied=applied)

    def residual(self, q: Tensor, x: Tensor, dq: Tensor, dx: Tensor, t: Tensor, units: Units) -> Tensor:
        r"""The residual of the equations of motion in place of the misfit, (*batch, d) each -> (*batch,),

        .. math:: r = M \ddot q + (\partial_q \partial_v L)\, v - \partial_q L + C v,

        relative to the smallest mass: see :func:`hamflow.models.residual.guarded_residual`.
        """
        terms = self.lagrangian.terms(q, x, t)
        r = (terms.mass @ dx.unsqueeze(-1)).squeeze(-1) + terms.transport - terms.force
        if self.force is not None:
            r = r - self.force(q, x, t)
        normal = None if self.constraint is None else self.constraint.jacobian(q)
        return guarded_residual(r, terms.mass, units.force, normal)

    def misfit(self, q: Tensor, x: Tensor, dq: Tensor, dx: Tensor, t: Tensor, units: Units) -> Tensor:
        """The squared misfit of the accelerations, (*batch, d) each and t (*batch, 1) -> (*batch,)."""
        try:
            return super().misfit(q, x, dq, dx, t, units)
        except SolveError:
            # As a loss that is not finite: the loop goes back to better weights, and says so.
            return torch.stack([parameter.sum() for parameter in self.parameters()]).sum() * q.new_full((1,), torch.nan)

    def check_time(self, q: Tensor, t: Tensor) -> None:
        """Raise :class:`InputError` unless times (*batch, 1) give one Lagrangian a row."""
        with torch.no_grad():
            check_one_a_row("lagrangian", self.learned(q, torch.ones_like(q), t), q, t)

    def set_units(self, rows: Tensor) -> Units:
        """Let the networks see numbers of order one, and tell the units of misfits; rows (q, v, dq, dv, t)."""
        q, v, _, change = rows[:, :-1].chunk(4, dim=-1)
        units = Units(sizes(v, centred=False), sizes(change, centred=False))
        if self.config["standardise"] and isinstance(self.config["lagrangian"], str):
            set_lagrangian_units(self.learned, q, units.velocity, units.force, self.angles)
        if self.added is not None or self.force is not None:
            share = self.config["regulariser"]
            set_masses(self.learned, self.added, share, self.force, q[:256], v[:256], units)
        return units if self.config["standardise"] else Units(torch.ones_like(q[0]), torch.ones_like(q[0]))

    def relevant(self, data: Trajectories) -> Trajectories:
        """The trajectories without momenta, which depend on an L that is not known yet."""
        if data.p is not None and data.v is not None and data.metadata.get("noise_on", "states") == "states":
            # The noise of (q, p) is none of velocities given beside them.
            data = data.replace(metadata=dict(data.metadata) | {"noise_on": "positions"})
        return data.replace(p=None, p_dot=None)

    def doubt(self, sets: list[Trajectories], noise: Tensor) -> None:
        """Warn of trajectories off the constraint; ``noise`` is that of (q, v), (2 d,)."""
        if self.constraint is not None:
            warn_off(self.constraint, sets, noise)

    def canonical(self, q: Tensor, x: Tensor, t: Time = 0.0) -> tuple[Tensor, Tensor]:
        """The state (q, v) as the step carries it, (q, p), on the constraint where there is one."""
        p = self.lagrangian.momentum(q, x, t)
        return self.plain.project(q, p, t) if isinstance(self.plain, Rattle) else (q, p)

    def measured(self, q: Tensor, p: Tensor, t: Time = 0.0) -> Tensor:
        """A state (q, p) of the step as (q, v) side by side, (*batch, 2 d)."""
        return torch.cat((q, self.lagrangian.velocity(q, p, t)), dim=-1)

    def energy(self, q: Any, v: Any, t: Time = 0.0) -> Tensor:
        """The learned energy p · v - L, q and v of shape (*batch, d), t a number or (*batch, 1) -> (*batch,)."""
        return self.lagrangian.energy(*self._at(q, v, t))

    def acceleration(self, q: Any, v: Any, t: Time = 0.0) -> Tensor:
        """The acceleration, friction and constraint included, q and v of shape (*batch, d) -> (*batch, d).

        At states that do not satisfy the constraint its value means nothing.
        """
        return self.vector_field(*self._at(q, v, t))[1]

    def momentum(self, q: Any, v: Any, t: Time = 0.0) -> Tensor:
        """The canonical momentum dL/dv, q and v of shape (*batch, d) -> (*batch, d)."""
        return self.lagrangian.momentum(*self._at(q, v, t))

    def velocity(self, q: Any, p: Any, t: Time = 0.0) -> Tensor:
        """The velocity of a momentum, q and p of shape (*batch, d) -> (*batch, d); of several, one found from rest."""
        return self.lagrangian.velocity(*self._at(q, p, t))

    @property
    def integrator(self) -> str:
        """What the step is called."""
        name = self.config["composition"]
        return self.config["rule"] if name is None else f"{name} of {self.config['rule']}"

    def mass_matrix(self, q: Any, v: Any | None = None, t: Time = 0.0) -> Tensor:
        """The mass matrix d2L/dv2 at (q, v), at rest by default, (*batch, d) -> (*batch, d, d)."""
        rest = torch.zeros_like(torch.as_tensor(q)) if v is None else v
        return self.lagrangian.mass_matrix(*self._at(q, rest, t))

    def _at(self, q: Any, x: Any, t: Any) -> tuple[Tensor, Tensor, Time]:
        q, x = self.states(q, x)
        return q, x, float(t) if is_number(t) else time_of_rows(t, q)

    def rollout(
        self, q: Any, v: Any, *, n_steps: int, dt: float, substeps: int | None = None, t: float = 0.0,
        progress: bool = False,
    ) -> Tensor:  # fmt: skip
        """Carry initial states forward, all at once; q and v of shape (*batch, d) -> (n_steps + 1, *batch, 2 d).

        With a constraint the initial states are first moved onto it, and a warning says so where that is far. A graph
        is kept where q or v requires a gradient.

        Args:
            q: positions at the start.
            v: velocities at the start.
            n_steps: the number of states after them.
            dt: the time between two states; negative runs backwards.
            substeps: steps of the integrator between two states; by default as many as in the last fit.
            t: the time at the start, for a Lagrangian of your own that depends on it.
            progress: whether to show a progress bar.

        Raises:
            InputError: a shape or a number is wrong, or an initial state is not finite.
            RolloutError: a state is not finite, or a step does not settle; the error says when and which.
            SolveError: an initial state is too far from the constraint, or its momentum is that of another velocity.
        """
        q, v = self.states(q, v)
        check_beginnings(q, v, self.second)
        if q.numel():
            self.check_time(q.reshape(-1, self.dim)[:1].expand(2, -1), q.new_full((2, 1), t))
        check_momenta(self.lagrangian, q, v, t)
        often = self.substeps if substeps is None else substeps
        with graph_for(q, v):
            start = begin_on(self.plain, q, v, t, dt) if isinstance(self.plain, Rattle) else self.canonical(q, v, t)
            path = rollout(self.step, *start, n_steps=n_steps, dt=dt, substeps=often, t=t, progress=progress)
            times = t + dt * torch.arange(n_steps + 1).to(q).reshape(-1, *[1] * q.ndim)
            return self.measured(path[..., : self.dim], path[..., self.dim :], times)

    @classmethod
    def from_hnn(cls, model: HNN, **settings: Any) -> Self:
        """The Lagrangian model of a Hamiltonian one, by the Legendre transform; both share their parameters.

        Args:
            model: a fitted :class:`HNN` without friction, regular in p.
            settings: rule, composition and regulariser, as for the class.

        Raises:
            InputError: the model has friction, which is another law in velocities.

        Example:
            >>> import torch, hamflow as hf
            >>> lnn = hf.LNN.from_hnn(hf.HNN(1, energy=hf.systems.Pendulum(mass=2.0)))
            >>> lnn.mass_matrix(torch.zeros(1)).item()
            2.0
        """
        if not isinstance(model, HNN):
            raise InputError(f"model is a {type(model).__name__}, expected an HNN")
        if model.config["friction"]:
            raise InputError("model has friction, expected one without: damping of momenta is none of velocities")
        found = cls(model.dim, lagrangian=LegendreLagrangian(model.hamiltonian), periodic=model.angles, **settings)
        found.history = model.history
        return found.eval()

    def to_hnn(self, **settings: Any) -> HNN:
        """The Hamiltonian model of this one, by the Legendre transform; both share their parameters.

        Its step is the implicit midpoint rule, of order 2 where the default of this model has 4; more ``substeps`` in
        its rollouts make up for that. What is kept on disk is this model: convert after loading.

        Args:
            settings: standardise and seed, as for :class:`HNN`, for another fit.

        Raises:
            InputError: the model has friction or a constraint.
        """
        if self.force is not None or self.constraint is not None:
            raise InputError("the model has friction or a constraint, expected one without: an HNN has neither")
        found = HNN(self.dim, energy=LegendreHamiltonian(self.lagrangian), periodic=self.angles, **settings)
        found.history = self.history
        return found.eval()

    def saved_config(self) -> dict[str, Any]:
        """The configuration as JSON can hold it."""
        if isinstance(self.constraint, RigidLinks):
            return super().saved_config() | {"constraint": self.constraint.arguments()}
        return super().saved_config()
