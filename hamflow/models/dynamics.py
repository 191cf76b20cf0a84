"""What all models of dynamics share: how they are fitted, saved and loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from hamflow.energies.hamiltonian import Time
from hamflow.errors import InputError, check_choice, check_device, check_dtype, check_positive, is_number
from hamflow.models.doubts import warn_of_doubts, warn_of_unused
from hamflow.models.learning import checked_sets, converted, learn, plan
from hamflow.models.refusal import unchanged_if_refused
from hamflow.models.storage import (
    SavedModel,
    load_own_state,
    name_parts,
    of_this_version,
    own_state,
    saved_history,
    write_model,
)
from hamflow.models.units import Units
from hamflow.steps import Step
from hamflow.systems import Trajectories
from hamflow.training import History, check_settings


class Dynamics(nn.Module):
    r"""A model of dynamics: a vector field on states (q, x), learned from trajectories, and a step that carries them.

    x is the momentum of a Hamiltonian model and the velocity of a Lagrangian one. A subclass implements what raises
    :class:`NotImplementedError` here.

    Attributes:
        dim: d, the number of degrees of freedom.
        config: the arguments of the constructor.
        step: the step, in (q, p).
        angles: the coordinates that are angles.
        history: of the last fit.
        second: the name of x among the arrays of trajectories.
        sources: what ``learn_from`` may be.
        law: the name of the argument that is learned, a name or an object of the caller's own.
        substeps: how many steps the last fit took between two states; a rollout takes as many.
    """

    second: ClassVar[str]
    law: ClassVar[str]
    sources: ClassVar[tuple[str, ...]] = ("auto", "derivatives", "states")

    dim: int
    config: dict[str, Any]
    angles: tuple[int, ...]
    history: History
    step: Step
    substeps: int = 1

    def assemble(self, periodic: Sequence[int]) -> None:
        """Make all parts anew from the seed; ``periodic`` where the model's own setting leaves it open."""
        raise NotImplementedError(f"{type(self).__name__} must implement assemble(periodic)")

    def set_units(self, rows: Tensor) -> Units:
        """Let the networks see numbers of order one, and tell the units of misfits; rows (q, x, dq, dx, t)."""
        raise NotImplementedError(f"{type(self).__name__} must implement set_units(rows)")

    def vector_field(self, q: Tensor, x: Tensor, t: Time = 0.0) -> tuple[Tensor, Tensor]:
        """The pair (dq/dt, dx/dt) at time t, q and x of shape (*batch, d), each (*batch, d)."""
        raise NotImplementedError(f"{type(self).__name__} must implement vector_field(q, x, t)")

    def check_time(self, q: Tensor, t: Tensor) -> None:
        """Raise :class:`InputError` unless times (*batch, 1) give one energy a row."""
        raise NotImplementedError(f"{type(self).__name__} must implement check_time(q, t)")

    def misfit(self, q: Tensor, x: Tensor, dq: Tensor, dx: Tensor, t: Tensor, units: Units) -> Tensor:
        """The squared misfit of the vector field in given units, (*batch, d) each and t (*batch, 1) -> (*batch,)."""
        found = self.vector_field(q, x, t)
        return 0.5 * (((found[0] - dq) / units.velocity) ** 2 + ((found[1] - dx) / units.force) ** 2).mean(-1)

    @property
    def integrator(self) -> str:
        """What the step is called."""
        raise NotImplementedError(f"{type(self).__name__} must implement integrator")

    def energy(self, q: Any, x: Any) -> Tensor:
        """The learned energy, q and x of shape (*batch, d) -> (*batch,)."""
        raise NotImplementedError(f"{type(self).__name__} must implement energy(q, x)")

    def rollout(
        self, q: Any, x: Any, *, n_steps: int, dt: float, substeps: int | None = None, t: float = 0.0,
        progress: bool = False,
    ) -> Tensor:  # fmt: skip
        """Carry initial states forward, all at once; q and x of shape (*batch, d) -> (n_steps + 1, *batch, 2 d)."""
        raise NotImplementedError(f"{type(self).__name__} must implement rollout(q, x)")

    def residual(self, q: Tensor, x: Tensor, dq: Tensor, dx: Tensor, t: Tensor, units: Units) -> Tensor:
        """The residual of the equations of motion in place of the misfit; for models of ``"residual"`` only."""
        raise NotImplementedError(f"{type(self).__name__} must implement residual(q, x, dq, dx, t, units)")

    def relevant(self, data: Trajectories) -> Trajectories:
        """The trajectories without what the model does not learn from."""
        return data

    def doubt(self, sets: list[Trajectories], noise: Tensor) -> None:
        """Warn of trajectories that contradict what the model knows; ``noise`` is that of (q, x), (2 d,)."""

    def canonical(self, q: Tensor, x: Tensor, t: Time = 0.0) -> tuple[Tensor, Tensor]:
        """The state (q, x) as the step carries it, (q, p)."""
        return q, x

    def measured(self, q: Tensor, p: Tensor, t: Time = 0.0) -> Tensor:
        """A state (q, p) of the step as trajectories have it, (q, x) side by side, (*batch, 2 d)."""
        return torch.cat((q, p), dim=-1)

    def fit(
        self,
        data: Trajectories | Sequence[Trajectories],
        *,
        learn_from: str = "auto",
        noise: float | Sequence[float] | str | None = None,
        window: int = 10,
        substeps: int = 1,
        epochs: int = 1000,
        batch_size: int = 512,
        learning_rate: float = 5e-3,
        weight_decay: float = 0.0,
        schedule: str = "cosine",
        validation: float | None = 0.1,
        patience: int | None = None,
        polish: int = 0,
        clip: float = 10.0,
        seed: int = 0,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        progress: bool = True,
        checkpoint: str | Path | None = None,
    ) -> Self:
        """Learn the energy from trajectories and return the model, with its best weights and its ``history``.

        Every call starts afresh from the model's seed; only an energy or a Lagrangian of your own keeps its state. A
        Hamiltonian model learns from q and p: where momenta are missing and velocities are there, these stand for them,
        right up to a factor where the mass matrix is a number times the identity. A Lagrangian model learns from q and
        v. Where both are missing they are inferred. An energy of your own that depends on time gets the
        times of the data, as a tensor (*batch, 1).

        Args:
            data: the trajectories, or a list of them where their lengths differ.
            learn_from: ``"derivatives"`` at the states, which are accelerations for a Lagrangian model; ``"states"``
                alone, whatever else is given, carried by the step through windows; ``"auto"``: derivatives where they
                are given; or, for a Lagrangian model, ``"residual"``: derivatives again, by the residual of the
                equations of motion, for which no mass matrix is solved.
            noise: the standard deviation of the measured states: one number, one for positions and one for momenta, or
                one for each of the 2 d; ``"estimate"`` takes :func:`hamflow.systems.estimate_noise`; by default what
                the metadata says, else 0. With noise the true states are inferred: where the path of each trajectory
                begins (derivatives), or the first state of each window (states).
            window: the number of steps in a window of states, at most those of the shortest trajectory.
            substeps: steps of the integrator between two measured states, and later between two of a rollout.
            epochs: passes over the data; from states, a third of them goes to a start from estimated derivatives.
            batch_size: states, trajectories or windows a step.
            learning_rate: the largest learning rate.
            weight_decay: decoupled weight decay.
            schedule: of the learning rate: ``"cosine"``, ``"plateau"`` or ``"constant"``.
            patience: epochs without a better validation loss before training stops; None never stops early.
            clip: the largest gradient norm.
            seed: for the held-out states, the batches and the noise; the weights at the start are the model's own.
            progress: whether to show a progress bar.
            checkpoint: a file to write the state of the run to; if it exists the run goes on from there. From states,
                a second one beside it ends in ``.start``.
            validation: the share of the states that do not train, but choose the best weights; None trains on all and
                keeps the last.
            polish: iterations of L-BFGS on all training states at the end, the best on held-out ones kept; 0 is none.
            dtype: float32 or float64; by default that of the data.
            device: where to train; by default where the data are.

        Raises:
            InputError: the data or a setting is not what fitting needs.
            FitError: the loss is not finite at the start, or again and again.
            SolveError: a mass matrix of a Lagrangian of your own is singular at the start.
            CheckpointError: the checkpoint cannot be used.
        """
        settings = check_settings(
            epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, weight_decay=weight_decay, clip=clip,
            schedule=schedule, patience=patience, seed=seed,
        )  # fmt: skip
        check_choice("learn_from", learn_from, self.sources)
        check_positive("window", window, integer=True)
        check_positive("substeps", substeps, integer=True)
        if not is_number(polish, integer=True) or polish < 0:
            raise InputError(f"polish = {polish!r}, expected a whole number of iterations, 0 for none")
        if validation is not None and (not is_number(validation) or not 0 < validation < 1):
            raise InputError(f"validation = {validation!r}, expected a share between 0 and 1, or None")
        check_dtype(dtype)
        sets = [self.relevant(part) for part in checked_sets(data, dim=self.dim)]
        way = plan(sets, learn_from=learn_from, noise=noise, second=self.second)
        target = check_device(sets[0].q.device if device is None else device)
        dtype = sets[0].q.dtype if dtype is None else dtype
        if self.config["periodic"] is not None:
            # Angles are counted on past half a turn, whoever says that they are angles.
            angles = {"periodic": self.config["periodic"]}
            sets = [part.replace(metadata=dict(part.metadata) | angles) for part in sets]
        warn_of_doubts(sets, self.second, way.noise)
        if learn_from == "auto" and way.source == "states":
            warn_of_unused(sets[0].given)
        own = not isinstance(self.config[self.law], str)
        sets = [converted(part, device=target, dtype=dtype, clock=own) for part in sets]
        with unchanged_if_refused(self):
            self.assemble(sets[0].periodic)
            self.to(device=target, dtype=dtype)
            self.doubt(sets, way.noise)
            self.history = learn(
                self, sets, plan=way, window=window, substeps=substeps, polishing=polish, validation=validation,
                progress=progress, checkpoint=checkpoint, settings=settings,
            )  # fmt: skip
            self.substeps = substeps
        return self.eval()

    def __repr__(self) -> str:
        # The step holds the law again, under names of its own.
        law, count = self.config[self.law], sum(p.numel() for p in self.parameters())
        law = repr(law) if isinstance(law, str) else type(law).__name__
        what = f"dim={self.dim}, {self.law}={law}, integrator={self.integrator!r}"
        return f"{type(self).__name__}({what}, parameters={count})"

    def saved_config(self) -> dict[str, Any]:
        """The configuration as JSON can hold it."""
        return name_parts(self.config)

    def save(self, path: str | Path) -> None:
        """Write the model to a folder: weights as safetensors, the rest as JSON; see :func:`hamflow.load`."""
        config = self.saved_config()
        dtype = str(next(self.parameters()).dtype).removeprefix("torch.")
        facts: dict[str, Any] = {"dtype": dtype, "angles": list(self.angles), "substeps": self.substeps}
        facts["history"] = asdict(self.history)
        write_model(path, SavedModel(type(self).__name__, config, own_state(self), facts))

    @classmethod
    def from_saved(cls, saved: SavedModel) -> Self:
        """The model that :meth:`save` described; :func:`hamflow.load` calls this."""
        with of_this_version(cls.__name__):
            model = cls(**saved.config)
            model.assemble(saved.facts["angles"])
            model.to(dtype=getattr(torch, saved.facts["dtype"]))
            load_own_state(model, saved.state)
            model.history, model.substeps = saved_history(saved), int(saved.facts["substeps"])
        return model.eval()

    def states(self, q: Any, x: Any) -> tuple[Tensor, Tensor]:
        """Two arrays (*batch, d) as tensors of the model's dtype and device.

        Raises:
            InputError: their shapes differ, or are not those of states.
        """
        try:
            a, b = (torch.as_tensor(value) for value in (q, x))
        except (TypeError, ValueError, RuntimeError) as error:
            kinds = f"{type(q).__name__} and {type(x).__name__}"
            raise InputError(f"q and {self.second} are {kinds}, expected arrays (*batch, {self.dim})") from error
        like = next((y for y in [*self.parameters(), *self.buffers()] if y.is_floating_point()), None)
        if like is not None:
            a, b = a.to(like), b.to(like)
        if a.shape != b.shape or a.ndim == 0 or a.shape[-1] != self.dim:
            raise InputError(
                f"q has shape {tuple(a.shape)} and {self.second} {tuple(b.shape)}, "
                f"expected (*batch, {self.dim}) for both"
            )
        return a, b


def check_beginnings(q: Tensor, x: Tensor, second: str) -> None:
    """Raise :class:`InputError` unless initial states (*batch, d) are finite: a smaller dt would not mend them."""
    for name, value in (("q", q), (second, x)):
        bad = (~value.isfinite()).nonzero()
        if len(bad):
            *index, coordinate = bad[0].tolist()
            where = f" at index {tuple(index)}" if index else ""
            raise InputError(
                f"{name} is not finite in coordinate {coordinate} of the initial state{where}, expected finite numbers"
            )


def graph_for(*states: Tensor) -> torch.set_grad_enabled:
    """A context that keeps a graph where one of the states requires a gradient, and else none."""
    return torch.set_grad_enabled(torch.is_grad_enabled() and any(x.requires_grad for x in states))


def check_widths(widths: Any) -> None:
    """Raise :class:`InputError` unless ``widths`` is a sequence of positive whole numbers."""
    if isinstance(widths, str) or not isinstance(widths, Sequence):
        raise InputError(f"widths = {widths!r}, expected a sequence of whole numbers such as (64, 64)")
    for width in widths:
        check_positive("widths", width, integer=True)


def check_angles(periodic: Sequence[int] | None, dim: int) -> None:
    """Raise :class:`InputError` unless ``periodic`` is None or lists coordinates."""
    if is_number(periodic):
        raise InputError(f"periodic = {periodic!r}, expected a list of coordinates, [{periodic!r}] for one")
    if any(not is_number(i, integer=True) or not 0 <= i < dim for i in periodic or ()):
        raise InputError(f"periodic = {tuple(periodic or ())!r}, expected indices of the {dim} coordinates")
