"""What all models of videos share: how they are fitted, what frames they take, saving and loading."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from hamflow.energies import Hamiltonian
from hamflow.errors import FitError, InputError, RolloutError, check_choice, check_device, check_dtype
from hamflow.io import check_writable
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
from hamflow.rollout import rollout
from hamflow.steps import LatticeSplitting, Splitting, Step
from hamflow.steps.reversible import MEMORIES
from hamflow.training import History, fit
from hamflow.videos import Videos

#: separable: T(p) + V(q), a network each. mechanical: a learned mass and V(q). joint: one network H(q, p).
HAMILTONIANS = ("separable", "mechanical", "joint")
#: Videos whose variance stands for that of all.
_SOME = 500
#: The largest coordinate of a reversible path: angles of many turns have room.
_SPAN = 128.0


class VideoModel(nn.Module):
    """A model of videos: abstract states (q, p) that a learned energy moves by a symplectic step.

    Attributes:
        config: the arguments of the constructor, ``size``, ``channels`` and ``hamiltonian`` among them.
        hamiltonian: the learned energy.
        step: its step.
        history: of the last fit.
        dt: the time between two frames, in the unit in which states move.
    """

    config: dict[str, Any]
    hamiltonian: Hamiltonian
    step: Step

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.config = config
        self.memory: str = config.get("memory", "stored")
        check_choice("memory", self.memory, MEMORIES)
        self.history = History()
        self.dt = 1.0

    @property
    def like(self) -> Tensor:
        """A parameter, for its dtype and device."""
        return next(self.parameters())

    def energy(self, q: Tensor, p: Tensor) -> Tensor:
        """The learned energy, q and p of shape (*batch, d) -> (*batch,)."""
        return self.hamiltonian(q, p)

    def path(self, q: Tensor, p: Tensor, n_steps: int, dt: float, *, reversible: bool = False) -> Tensor:
        """The states at 0, dt, ..., n_steps dt, q and p of shape (n, d) -> (n_steps + 1, n, 2 d).

        Args:
            q: positions at the start.
            p: momenta at the start.
            n_steps: how many states follow.
            dt: the time between two of them; negative runs backwards.
            reversible: whether on the lattice of a :class:`hamflow.LatticeSplitting` of span 128, to which the start is
                rounded: the path from the last state with -dt is then the same, bit by bit, where plain sums lose the
                way near a saddle; on the way there they are more accurate.

        Raises:
            InputError: ``reversible`` and the energy is not separable.
            RolloutError: ``reversible`` and a coordinate exceeds the span.
        """
        step = self.step
        if reversible:
            if not isinstance(step, Splitting):
                raise InputError("reversible = True, expected a separable or a mechanical Hamiltonian")
            step = LatticeSplitting(step.hamiltonian, step.scheme, span=_SPAN)
            q, p = step.on_lattice(q), step.on_lattice(p)
        if n_steps == 0:
            return torch.cat((q, p), -1).unsqueeze(0)
        often = self.config["substeps"]
        return rollout(step, q, p, n_steps=n_steps, dt=dt, substeps=often, check=False, memory=self.memory)

    def save(self, path: str | Path) -> None:
        """Write the model to a folder: weights as safetensors, the rest as JSON; see :func:`hamflow.load`."""
        dtype = str(self.like.dtype).removeprefix("torch.")
        facts = {"dtype": dtype, "dt": self.dt, "history": asdict(self.history)}
        write_model(path, SavedModel(type(self).__name__, name_parts(self.config), own_state(self), facts))

    @classmethod
    def from_saved(cls, saved: SavedModel) -> Self:
        """The model that :meth:`save` described; :func:`hamflow.load` calls this."""
        with of_this_version(cls.__name__):
            model = cls(**saved.config).to(dtype=getattr(torch, saved.facts["dtype"]))
            load_own_state(model, saved.state)
            model.history, model.dt = saved_history(saved), float(saved.facts["dt"])
        return model.eval()

    def _learn(
        self,
        videos: Any,
        prepare: Callable[[Videos], None],
        objective: Callable[[Videos], nn.Module],
        finish: Callable[[Videos], None],
        *,
        dtype: torch.dtype,
        device: torch.device | str,
        checkpoint: str | Path | None,
        **settings: Any,
    ) -> Self:
        """Minimise an objective over the numbers of the videos, after ``prepare`` and before ``finish``.

        What is interrupted or fails keeps its good weights, so it is finished too.
        """
        films = self._checked(videos)
        check_dtype(dtype)
        target = check_device(device)
        if checkpoint is not None:
            check_writable(checkpoint)
        with unchanged_if_refused(self):
            prepare(films)
            self.to(device=target, dtype=dtype)
            goal = objective(films).to(device=target, dtype=dtype)
            rows = torch.arange(len(films), device=target)
            try:
                self.history = fit(goal, rows, checkpoint=checkpoint, **settings)
            except FitError as error:
                self.history = error.history or History(
                    notes=["training had not begun: the weights are those of the start"]
                )
                if error.history is not None:
                    self._end(films, finish)
                raise
            except KeyboardInterrupt:
                self.history = History(notes=["interrupted: the weights are those of the last whole epoch"])
                self._end(films, finish)
                raise
            self._end(films, finish)
        return self

    def _end(self, films: Videos, finish: Callable[[Videos], None]) -> None:
        self.eval()
        finish(films)

    def _checked(self, videos: Any) -> Videos:
        films = videos if isinstance(videos, Videos) else Videos(videos)
        size = self.config["size"]
        if films.channels != self.config["channels"] or films.size != (size, size):
            found = f"{films.channels} channels of {films.size[0]} x {films.size[1]} pixels"
            raise InputError(f"videos has {found}, expected {self.config['channels']} of {size} x {size}")
        return films

    def _seen(self, frames: Any) -> Tensor:
        if isinstance(frames, Videos) and not math.isclose(frames.dt, self.dt, rel_tol=1e-6):
            raise InputError(
                f"frames are {frames.dt:g} apart, expected {self.dt:g} as in training; frames[:] has no time"
            )
        return self._checked(frames)[:].to(self.like)


def finite(frames: Tensor, dt: float) -> Tensor:
    """The frames, dt apart, or :class:`RolloutError` where a motion behind them has left the finite numbers."""
    bad = ~frames.isfinite().flatten(2).all(-1)
    if bad.any():
        videos = bad.any(1).nonzero()[:, 0].tolist()
        first = int(bad.any(0).nonzero()[0])
        which = ", ".join(map(str, videos[:5])) + (", ..." if len(videos) > 5 else "")
        raise RolloutError(
            f"the motion of {len(videos)} of {len(frames)} videos ({which}) left the finite numbers, the first at "
            f"frame {first} of {frames.shape[1]}",
            time=first * dt,
        )
    return frames


def check_enough(frames: Tensor, fewest: int) -> None:
    """Raise :class:`InputError` unless videos have so many frames."""
    if frames.shape[1] < fewest:
        raise InputError(
            f"frames has {frames.shape[1]} frames a video, expected {fewest} or more: from so many this model learned "
            "to infer a state; one that is made with context=3, and fitted, can do with 3"
        )


def check_hamiltonian(hamiltonian: Any, names: Sequence[str], dim: int) -> None:
    """Raise :class:`InputError` unless it is one of these names, or a :class:`Hamiltonian` of so many positions."""
    if isinstance(hamiltonian, str):
        check_choice("hamiltonian", hamiltonian, names)
        return
    if not isinstance(hamiltonian, Hamiltonian):
        raise InputError(f"hamiltonian is a {type(hamiltonian).__name__}, expected a Hamiltonian or one of {names}")
    like = next(hamiltonian.parameters(), torch.zeros(()))
    try:
        with torch.no_grad():
            shape = tuple(hamiltonian(*like.new_zeros(2, 1, dim)).shape)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"hamiltonian takes no states of {dim} positions, expected one that does: {reason}") from error
    if shape != (1,):
        raise InputError(f"hamiltonian gives shape {shape} for a state of {dim} positions, expected (1,)")


def spread(videos: Videos) -> float:
    """The variance of the pixels of some videos about their mean frame.

    Raises:
        InputError: nothing moves.
    """
    some = videos.some(_SOME)
    # Not by the variance, which of greys is a rounding error.
    if bool((some == some[:, :1]).all()):
        raise InputError("frames are all alike in every video, expected some that move")
    # In double precision the number of threads does not show in what a checkpoint remembers.
    return float((some - some.mean((0, 1))).square().mean(dtype=torch.float64))
