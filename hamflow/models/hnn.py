"""HNN: a Hamiltonian Neural Network, the energy of a system learned from its trajectories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from hamflow.energies import Hamiltonian, SeparableHamiltonian
from hamflow.energies.hamiltonian import Time
from hamflow.errors import (
    InputError,
    check_choice,
    check_device,
    check_dtype,
    check_positive,
    check_seed,
    is_number,
)
from hamflow.models.learning import checked_sets, converted, learn, plan
from hamflow.models.mechanics import ENERGIES, named_hamiltonian
from hamflow.models.refusal import unchanged_if_refused
from hamflow.models.storage import SavedModel, of_this_version, saved_history, write_model
from hamflow.rollout import rollout
from hamflow.steps import SCHEMES, Damped, ImplicitMidpoint, Splitting, Step
from hamflow.systems import Trajectories
from hamflow.training import History, check_settings, seeded


class HNN(nn.Module):
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
        for width in widths:
            check_positive("widths", width, integer=True)
        if isinstance(energy, str):
            check_choice("energy", energy, ENERGIES)
        elif not isinstance(energy, Hamiltonian):
            raise InputError(f"energy is a {type(energy).__name__}, expected a Hamiltonian or one of {ENERGIES}")
        bad = [i for i in periodic or () if not is_number(i, integer=True) or not 0 <= i < dim]
        if bad:
            raise InputError(f"periodic = {tuple(periodic or ())!r}, expected indices of the {dim} coordinates")
        self.config: dict[str, Any] = {
            "dim": dim, "energy": energy, "widths": list(widths),
            "periodic": None if periodic is None else [int(i) for i in periodic],
            "friction": friction, "scheme": scheme, "standardise": standardise, "seed": seed,
        }  # fmt: skip
        self.dim = dim
        self.history = History()
        self.assemble(())

    hamiltonian: Hamiltonian
    step: Step

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

    def vector_field(self, q: Tensor, p: Tensor, t: Time = 0.0) -> tuple[Tensor, Tensor]:
        r"""The pair :math:`(\dot q, \dot p)` at time t, q and p of shape (*batch, d), each (*batch, d)."""
        dq, dp = self.hamiltonian.gradient(q, p, t)
        return dp, -dq - self.step.damping * p if self.config["friction"] else -dq

    def energy(self, q: Any, p: Any) -> Tensor:
        """The learned energy up to a constant, q and p of shape (*batch, d) -> (*batch,)."""
        value: Tensor = self.hamiltonian(*self._states(q, p))
        return value

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

        Every call starts afresh from the model's seed; only a Hamiltonian of your own keeps its state. Where momenta
        are missing and velocities are there, these stand for them: right up to a factor where the mass matrix is a
        number times the identity. Where both are missing they are inferred. Times count from the first state of each
        trajectory: an energy of your own that depends on time gets them as a tensor (*batch, 1).

        Args:
            data: the trajectories, or a list of them where their lengths differ.
            learn_from: ``"derivatives"`` at the states; ``"states"`` alone, whatever else is given, carried by the
                step through windows; or ``"auto"``: derivatives where they are given.
            noise: the standard deviation of the measured states: one number, one for positions and one for momenta, or
                one for each of the 2 d; ``"estimate"`` takes :func:`hamflow.systems.estimate_noise`; by default what
                the metadata says, else 0. With noise the true states are inferred: where the path of each trajectory
                begins (derivatives), or the first state of each window (states).
            window: the number of steps in a window of states, at most those of the shortest trajectory.
            substeps: steps of the integrator between two measured states.
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
            CheckpointError: the checkpoint cannot be used.
        """
        settings = check_settings(
            epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, weight_decay=weight_decay, clip=clip,
            schedule=schedule, patience=patience, seed=seed,
        )  # fmt: skip
        check_choice("learn_from", learn_from, ("auto", "derivatives", "states"))
        check_positive("window", window, integer=True)
        check_positive("substeps", substeps, integer=True)
        if not is_number(polish, integer=True) or polish < 0:
            raise InputError(f"polish = {polish!r}, expected a whole number of iterations, 0 for none")
        if validation is not None and (not is_number(validation) or not 0 < validation < 1):
            raise InputError(f"validation = {validation!r}, expected a share between 0 and 1, or None")
        check_dtype(dtype)
        sets = checked_sets(data, dim=self.dim)
        way = plan(sets, learn_from=learn_from, noise=noise)
        target = check_device(sets[0].q.device if device is None else device)
        dtype = sets[0].q.dtype if dtype is None else dtype
        if self.config["periodic"] is not None:
            # Angles are counted on past half a turn, whoever says that they are angles.
            angles = {"periodic": self.config["periodic"]}
            sets = [part.replace(metadata=dict(part.metadata) | angles) for part in sets]
        sets = [converted(part, device=target, dtype=dtype) for part in sets]
        with unchanged_if_refused(self):
            self.assemble(sets[0].periodic)
            self.to(device=target, dtype=dtype)
            self.history = learn(
                self, sets, plan=way, window=window, substeps=substeps, polishing=polish, validation=validation,
                progress=progress, checkpoint=checkpoint, settings=settings,
            )  # fmt: skip
        return self.eval()

    @torch.no_grad()
    def rollout(
        self, q: Any, p: Any, *, n_steps: int, dt: float, scheme: str | None = None, substeps: int = 1,
        progress: bool = False,
    ) -> Tensor:  # fmt: skip
        """Carry initial states forward, all at once; q and p of shape (*batch, d) -> (n_steps + 1, *batch, 2 d).

        Args:
            q: positions at time 0.
            p: momenta at time 0.
            n_steps: the number of states after them.
            dt: the time between two states; negative runs backwards.
            scheme: another splitting scheme than the model's, where H is separable.
            substeps: steps of the integrator between two states.
            progress: whether to show a progress bar.

        Raises:
            InputError: a shape or a number is wrong, or a scheme is given where H is not separable.
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
        return rollout(step, *self._states(q, p), n_steps=n_steps, dt=dt, substeps=substeps, progress=progress)

    def _states(self, q: Any, p: Any) -> tuple[Tensor, Tensor]:
        a, b = (torch.as_tensor(x) for x in (q, p))
        like = next((x for x in [*self.parameters(), *self.buffers()] if x.is_floating_point()), None)
        if like is not None:
            a, b = a.to(like), b.to(like)
        if a.shape != b.shape or a.ndim == 0 or a.shape[-1] != self.dim:
            raise InputError(
                f"q has shape {tuple(a.shape)} and p {tuple(b.shape)}, expected (*batch, {self.dim}) for both"
            )
        return a, b

    def _own_state(self) -> dict[str, Tensor]:
        # The step holds the same Hamiltonian once more, and each number is written once.
        return {name: value for name, value in self.state_dict().items() if ".hamiltonian." not in name}

    def save(self, path: str | Path) -> None:
        """Write the model to a folder: weights as safetensors, the rest as JSON; see :func:`hamflow.load`."""
        if not isinstance(self.config["energy"], str):
            raise InputError(
                "energy is a Hamiltonian of your own, expected a named one; torch.save its state_dict instead"
            )
        dtype = str(next(self.parameters()).dtype).removeprefix("torch.")
        facts = {"dtype": dtype, "angles": list(self.angles), "history": asdict(self.history)}
        write_model(path, SavedModel("HNN", self.config, self._own_state(), facts))

    @classmethod
    def from_saved(cls, saved: SavedModel) -> Self:
        """The model that :meth:`save` described; :func:`hamflow.load` calls this."""
        with of_this_version("HNN"):
            model = cls(**saved.config)
            model.assemble(saved.facts["angles"])
            model.to(dtype=getattr(torch, saved.facts["dtype"]))
            if model._own_state().keys() != saved.state.keys():
                raise KeyError(f"weights {', '.join(sorted(model._own_state().keys() ^ saved.state.keys()))}")
            model.load_state_dict(saved.state, strict=False)
            model.history = saved_history(saved)
        return model.eval()
