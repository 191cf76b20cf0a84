"""Trajectories: positions, momenta, velocities and their derivatives against time, with units."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hamflow.errors import InputError, check_positive, is_number
from hamflow.systems.storage import read_trajectories, write_trajectories

#: The metadata that decide what is learned; a misspelt one would be missed without a word.
_READ = ("units", "periodic", "noise", "noise_on")
_DEGREES = ("deg", "degs", "degree", "degrees", "°")
#: Of half a turn: a longer step may have gone the other way round.
_DOUBTFUL = 0.8
#: The arrays of a set of trajectories beside its times, each (n, time, d).
ARRAYS = ("q", "p", "v", "p_dot", "v_dot")


@dataclass(frozen=True, eq=False)
class Trajectories:
    r"""A set of n trajectories of equal length, simulated or measured.

    Only ``times`` and ``q`` must be there. What is known beside them decides what can be learned: p and q for a
    Hamiltonian, q and v for a Lagrangian; the derivatives where they are given, else the states alone.

    Args:
        times: (time,), or (n, time) where the trajectories have times of their own; strictly increasing, [time].
        q: positions, (n, time, d).
        p: canonical momenta, (n, time, d).
        v: velocities :math:`\dot q`, (n, time, d), [q / time].
        p_dot: :math:`\dot p`, (n, time, d), [p / time].
        v_dot: accelerations :math:`\ddot q`, (n, time, d).
        metadata: what JSON can hold. ``"units"`` maps names of arrays and ``"time"`` to units;
            ``"periodic"`` lists the indices of the coordinates that are angles, [rad], counted on or within one turn
            (:meth:`unwrapped`); ``"noise"`` is a standard deviation, and ``"noise_on"`` says of what: ``"states"``, by
            default, are q and p, or q and v where there is no p; ``"positions"`` and ``"velocities"`` are alone;
            ``"system"``, ``"parameters"``, ``"seed"`` say where simulated data came from.

    Raises:
        InputError: an array has the wrong shape or holds NaN, times do not increase, or the metadata is not understood.

    Example:
        >>> import torch, hamflow as hf
        >>> t = torch.linspace(0, 1, 11)
        >>> data = hf.systems.Trajectories(times=t, q=t.sin().reshape(1, 11, 1), v=t.cos().reshape(1, 11, 1))
        >>> data.n, data.n_times, data.dim, data.given
        (1, 11, 1, ('q', 'v'))
    """

    times: Tensor
    q: Tensor
    p: Tensor | None = None
    v: Tensor | None = None
    p_dot: Tensor | None = None
    v_dot: Tensor | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("q", "times", *ARRAYS[1:]):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, _array(name, value, None if name == "q" else self.q.device))
        _check_arrays(self)
        _check_metadata(self)

    @property
    def n(self) -> int:
        """The number of trajectories."""
        return self.q.shape[0]

    @property
    def n_times(self) -> int:
        """The number of times."""
        return self.q.shape[1]

    @property
    def dim(self) -> int:
        """d, the number of coordinates."""
        return self.q.shape[2]

    @property
    def given(self) -> tuple[str, ...]:
        """The names of the arrays that are there."""
        return tuple(name for name in ARRAYS if getattr(self, name) is not None)

    @property
    def periodic(self) -> tuple[int, ...]:
        """The indices of the coordinates that are angles."""
        return tuple(self.metadata.get("periodic", ()))

    @property
    def dt(self) -> float:
        """The time between two states.

        Raises:
            InputError: the times are not evenly spaced, or there is one only.
        """
        gaps = self.times.double().diff(dim=-1)
        if gaps.numel() == 0:
            raise InputError("there is one time only, expected two or more for a dt")
        if (gaps - gaps.mean()).abs().max() > 1e-4 * gaps.mean():
            raise InputError(f"times are not evenly spaced: gaps from {float(gaps.min()):g} to {float(gaps.max()):g}")
        return float(gaps.mean())

    @property
    def states(self) -> Tensor:
        """(q, p) side by side, (n, time, 2 d).

        Raises:
            InputError: there are no momenta.
        """
        return torch.cat((self.q, self.need("p")), dim=-1)

    def need(self, name: str) -> Tensor:
        """The array of that name, (n, time, d).

        Raises:
            InputError: it is not given.
        """
        value: Tensor | None = getattr(self, name)
        if value is None:
            raise InputError(f"{name} is missing: the trajectories have {', '.join(self.given)}")
        return value

    def own_times(self) -> Tensor:
        """The times of each trajectory, (n, time)."""
        return self.times.expand(self.n, self.n_times)

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int | slice | Tensor) -> Self:
        """Some of the trajectories; an index, a slice, or a tensor of indices or of booleans."""
        if isinstance(index, (slice, Tensor)):
            rows: slice | Tensor = index
        else:
            # A list would raise the same: a loop over the trajectories ends by it.
            first = range(self.n)[index]
            rows = slice(first, first + 1)
        return self._map(lambda x: x[rows], own_times=True)

    def between(self, first: int, last: int | None) -> Self:
        """The states ``first`` to before ``last`` of every trajectory, as a slice takes them."""
        return self._map(lambda x: x[:, first:last], own_times=True)

    def windows(self, length: int, stride: int = 1) -> Self:
        """Cut into overlapping pieces of ``length`` states that begin every ``stride`` states.

        Raises:
            InputError: a trajectory is shorter than a window.

        Example:
            >>> import torch, hamflow as hf
            >>> t = torch.linspace(0, 1, 11)
            >>> hf.systems.Trajectories(times=t, q=torch.zeros(3, 11, 1)).windows(5, stride=3).n
            9
        """
        check_positive("length", length, integer=True)
        check_positive("stride", stride, integer=True)
        if length > self.n_times:
            raise InputError(f"length = {length}, expected at most the {self.n_times} states of a trajectory")

        def cut(x: Tensor) -> Tensor:
            return x.unfold(1, length, stride).movedim(-1, 2).flatten(0, 1)

        return self._map(cut, own_times=True)

    def unwrapped(self) -> Self:
        r"""Angles that a file keeps within one turn, counted on along time: each step goes the near way round.

        Of the coordinates in :attr:`periodic` whole turns are added, so that no step is further than half a turn from
        the one that the velocities foretell, :math:`\tfrac{1}{2} (v_k + v_{k+1}) \Delta t`, or from none where they are
        not given. Angles that are counted on already stay as they are; without velocities only where their steps are
        shorter than half a turn.

        Raises:
            InputError: turns are missing, and a step is so near to half a turn that nobody can tell which way it went,
                or velocities foretell turns where positions make none.

        Example:
            >>> import torch, hamflow as hf
            >>> q = torch.tensor([2.0, 3.0, -2.3, -1.3]).reshape(1, 4, 1)
            >>> data = hf.systems.Trajectories(times=torch.arange(4.0), q=q, metadata={"periodic": [0]})
            >>> data.unwrapped().q.flatten()
            tensor([2.0000, 3.0000, 3.9832, 4.9832])
        """
        angles = list(self.periodic)
        steps = self.q[..., angles].double().diff(dim=1)
        moved, foretold = steps, torch.zeros_like(steps)
        if self.v is not None:
            v = self.v[..., angles].double()
            foretold = (v[:, 1:] + v[:, :-1]) / 2 * self.own_times().double().diff(dim=1).unsqueeze(-1)
            steps = moved - foretold
        turns = -(steps / (2 * math.pi)).round()
        turning = (turns != 0).any(1, keepdim=True)
        if not turning.any():
            return self
        doubtful = (turning & ((steps + 2 * math.pi * turns).abs() > _DOUBTFUL * math.pi)).nonzero()
        if len(doubtful):
            row, time, angle = doubtful[0].tolist()
            step, expected = (float(x[row, time, angle]) for x in (moved, foretold))
            if self.v is not None and float(moved[row, :, angle].abs().max()) < _DOUBTFUL * math.pi:
                raise InputError(
                    f"v contradicts q: in trajectory {row} coordinate {angles[angle]} moves by {step:.3g} from index "
                    f"{time} to {time + 1}, and (v[k] + v[k + 1]) / 2 * dt foretells {expected:.3g}; look for a wrong "
                    "sign, a wrong unit of v or of time, or swapped columns, or else sample faster"
                )
            raise InputError(
                f"q has angles within one turn, and in trajectory {row} coordinate {angles[angle]} moves by nearly "
                f"half a turn from index {time} to {time + 1}, which may be either way: count turns or sample faster"
                + (f", or mend v, which foretells {expected:.3g} and not {step:.3g}" if self.v is not None else "")
            )
        q = self.q.clone()
        q[:, 1:, angles] += (2 * math.pi * turns.cumsum(1)).to(q)
        return self.replace(q=q)

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """All arrays on another device or in another dtype, as ``Tensor.to`` takes them."""
        return self._map(lambda x: x.to(*args, **kwargs), own_times=False)

    def replace(self, **changes: Any) -> Self:
        """A copy with other arrays or metadata."""
        return replace(self, **changes)

    def save(self, path: str | Path) -> None:
        """Write to ``path``, as NPZ, HDF5 (.h5, .hdf5) or CSV by its suffix; atomically, over what is there.

        NPZ and HDF5 hold the arrays under their names and the metadata as JSON, in an array ``metadata`` or in an
        attribute of the file. CSV has a line a state: ``trajectory`` (may be left out), ``time``, ``q0``, ``q1``, ...,
        ``p0``, ..., ``v0``, ..., ``p_dot0``, ...; a first line behind a # holds the metadata.

        Raises:
            InputError: the suffix is unknown or the file cannot be written.
        """
        arrays = {name: getattr(self, name) for name in ("times", *self.given)}
        write_trajectories(path, {name: a.detach().cpu().numpy() for name, a in arrays.items()}, dict(self.metadata))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what :meth:`save` wrote, or a file of the same layout that something else wrote.

        Raises:
            InputError: the file is missing, not whole, does not hold trajectories, or holds arrays that none of these
                is called by: one of another name would be missed without a word.
        """
        arrays, metadata = read_trajectories(path)
        try:
            return cls(**{name: _array(name, array, None) for name, array in arrays.items()}, metadata=metadata)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error

    def _map(self, function: Callable[[Tensor], Tensor], *, own_times: bool) -> Self:
        changes: dict[str, Any] = {name: function(getattr(self, name)) for name in self.given}
        times = self.own_times() if own_times else self.times
        times = function(times)
        if own_times and self.times.ndim == 1 and bool((times == times[:1]).all()):
            times = times[0] if len(times) else self.times
        return replace(self, times=times, **changes)


def _array(name: str, value: Any, device: torch.device | None) -> Tensor:
    try:
        array = value if isinstance(value, Tensor) else torch.from_numpy(_native(np.asarray(value)))
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} is a {type(value).__name__}, expected an array of numbers") from error
    if array.is_complex() or array.dtype == torch.bool:
        raise InputError(f"{name} has dtype {array.dtype}, expected real numbers")
    if not array.is_floating_point():
        array = array.double()
    return array.to(device)


def _native(array: NDArray[Any]) -> NDArray[Any]:
    # torch knows neither foreign byte orders nor long double nor steps backwards through memory.
    if array.dtype.kind in "iu" or (array.dtype.kind == "f" and array.dtype.itemsize > 8):
        return np.require(array, np.float64, ["C", "W"])
    return np.require(array, array.dtype.newbyteorder("="), ["C", "W"])


def _check_arrays(data: Trajectories) -> None:
    shape = tuple(data.q.shape)
    if len(shape) != 3 or 0 in shape:
        raise InputError(f"q has shape {shape}, expected (n, time, d) with at least one of each")
    if data.times.shape not in (shape[1:2], shape[:2]):
        expected = f"({shape[1]},) or {shape[:2]}"
        raise InputError(f"times has shape {tuple(data.times.shape)}, expected {expected} beside q of shape {shape}")
    for name in data.given:
        array = getattr(data, name)
        if tuple(array.shape) != shape:
            raise InputError(f"{name} has shape {tuple(array.shape)}, expected that of q, {shape}")
        bad = (~array.isfinite()).any(-1).nonzero()
        if len(bad):
            row, time = bad[0].tolist()
            raise InputError(
                f"{name} is not finite at {len(bad)} of {shape[0] * shape[1]} states, the first in trajectory {row} at "
                f"index {time}: cut the gap out, or split the trajectory there"
            )
    if not data.times.isfinite().all():
        raise InputError("times hold values that are not finite")
    gaps = data.times.diff(dim=-1)
    if (gaps <= 0).any():
        at = (gaps <= 0).nonzero()[0].tolist()
        what = "a time twice" if bool(gaps[tuple(at)] == 0) else "a time before the one in front of it"
        raise InputError(f"times hold {what} at index {at[-1] + 1}, expected strictly increasing times")


def _check_metadata(data: Trajectories) -> None:
    try:
        json.dumps(dict(data.metadata))
    except (TypeError, ValueError) as error:
        raise InputError(f"metadata cannot be written as JSON: {error}") from error
    units = data.metadata.get("units", {})
    known = {"time", *(f.name for f in fields(data))}
    if not isinstance(units, Mapping) or not all(isinstance(u, str) for u in units.values()):
        raise InputError(f"metadata['units'] = {units!r}, expected a mapping from names of arrays to units")
    if unknown := sorted(set(units) - known):
        raise InputError(f"metadata['units'] names {', '.join(unknown)}, expected some of time, {', '.join(ARRAYS)}")
    for key in data.metadata:
        meant = [] if key in _READ else get_close_matches(str(key), _READ, 1, 0.8)
        if meant:
            raise InputError(f"metadata has {key!r}, which nothing reads, expected {meant[0]!r}")
    noise = data.metadata.get("noise", 0.0)
    if not is_number(noise) or not 0 <= noise < math.inf:
        raise InputError(f"metadata['noise'] = {noise!r}, expected a standard deviation, 0 or more")
    periodic = data.metadata.get("periodic", ())
    if not isinstance(periodic, (list, tuple)) or not all(isinstance(i, int) and 0 <= i < data.dim for i in periodic):
        raise InputError(f"metadata['periodic'] = {periodic!r}, expected indices of the {data.dim} coordinates")
    if periodic and units.get("q", "").lower() in _DEGREES:
        raise InputError(f"metadata['units']['q'] = {units['q']!r}, but angles (periodic) count in rad: convert them")
