"""Measured motion: the pendulums and the spring of Schmidt and Lipson, and the swings of an experimental pendulum."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hamflow.errors import InputError, check_choice, check_positive
from hamflow.systems.trajectories import Trajectories

#: The environment variable that names the folder of measured data.
VARIABLE = "HAMFLOW_DATA"
_LIPSON = "supplement of Schmidt and Lipson (2009), Science 324, 81, https://doi.org/10.1126/science.1165893"
_MULTIARM = (
    "https://github.com/dynamicslab/MultiArm-Pendulum, ParameterEstimation/*/*DataForParameterEstimation.mat, "
    "kept as the arrays train and val (time, angles then velocities) and dt"
)
#: The parts of an experimental recording, and the arrays that hold them.
_SEGMENTS = {"identification": "train", "validation": "val"}


def load_pendulum(path: str | Path | None = None) -> Trajectories:
    r"""The real pendulum of Schmidt and Lipson: angle and angular velocity of one swing, with some friction.

    The motion follows :math:`\ddot q \approx -1.28 \sin q` in the time of the file. Frames are missing here and there,
    so the times are not evenly spaced. Momenta and derivatives were not measured and stay missing.

    Args:
        path: ``real_pend_h_1.txt``, or a folder that holds it; by default the folder that ``HAMFLOW_DATA`` names.

    Returns:
        q (1, 556, 1) [rad], 0 hanging down, v [rad / s] and times [s].

    Raises:
        InputError: the file is missing, or is not a table of trial, time, angle and velocity.

    References:
        Schmidt and Lipson (2009), Distilling Free-Form Natural Laws from Experimental Data, Science 324, 81.
    """
    file = _find(path, "pendulum_lipson/real_pend_h_1.txt", _LIPSON)
    units = {"time": "s", "q": "rad", "v": "rad / s"}
    return _only(file, _read_trials(file, 1, "real_pendulum", units, {"periodic": [0]}))


def load_spring(path: str | Path | None = None) -> Trajectories:
    r"""The real spring of Schmidt and Lipson: an air-track oscillator, position and velocity.

    The motion follows :math:`\ddot q \approx -6.1\, q`. Positions are whole numbers; the file does not say of which
    length, so their unit is called ``count``.

    Args:
        path: ``real_linear_h_1.txt``, or a folder that holds it; by default the folder that ``HAMFLOW_DATA`` names.

    Returns:
        q (1, 870, 1) [count], v [count / s] and times [s].

    Raises:
        InputError: the file is missing, or is not a table of trial, time, position and velocity.

    References:
        Schmidt and Lipson (2009), Distilling Free-Form Natural Laws from Experimental Data, Science 324, 81.
    """
    file = _find(path, "pendulum_lipson/real_linear_h_1.txt", _LIPSON)
    units = {"time": "s", "q": "count", "v": "count / s"}
    return _only(file, _read_trials(file, 1, "real_spring", units, {}))


def load_double_pendulum(path: str | Path | None = None) -> list[Trajectories]:
    r"""The real double pendulum of Schmidt and Lipson, a trajectory a trial: angles, velocities and accelerations.

    Both angles are measured from the vertical, 0 hanging down, and are not wrapped. The two trials have 819 and 701
    states, so they come as a list. Times have gaps of up to 0.2 s where frames are missing.

    Args:
        path: ``real_double_pend_h_1.txt``, or a folder that holds it; by default that of ``HAMFLOW_DATA``.

    Returns:
        for each trial q (1, time, 2) [rad], v [rad / s], v_dot [rad / s^2] and times [s].

    Raises:
        InputError: the file is missing, or is not a table of trial, time, two angles, two velocities, the velocities
            once more and two accelerations.

    References:
        Schmidt and Lipson (2009), Distilling Free-Form Natural Laws from Experimental Data, Science 324, 81.
    """
    file = _find(path, "pendulum_lipson/real_double_pend_h_1.txt", _LIPSON)
    units = {"time": "s", "q": "rad", "v": "rad / s", "v_dot": "rad / s^2"}
    return _read_trials(file, 2, "real_double_pendulum", units, {"periodic": [0, 1]})


def load_experimental_pendulum(
    path: str | Path | None = None, segment: str = "identification", *, arms: int = 1, every: int = 1
) -> Trajectories:
    r"""A free swing of the experimental single or double pendulum of Kaheman et al., sampled at 1 kHz, with friction.

    Angles are those of each arm against the vertical, 0 hanging down, counted on without wrapping. The files count from
    the upright position, where hanging is :math:`\pi`: that :math:`\pi` is taken off. The validation segment begins
    where the identification segment ends, 1 ms after its last state; each has its own clock from 0.

    Args:
        path: ``single_id_vad.npz`` or ``double_id_vad.npz``, or a folder that holds it; by default the folder that
            ``HAMFLOW_DATA`` names.
        segment: ``"identification"`` or ``"validation"``.
        arms: 1 or 2.
        every: keep every so many states; neighbours 1 ms apart differ by little more than the noise.

    Returns:
        q (1, time, arms) [rad], v [rad / s] and times [s].

    Raises:
        InputError: the file is missing or has another layout, or an argument is out of range.

    References:
        Kaheman et al. (2022), The Experimental Multi-Arm Pendulum on a Cart, arXiv 2205.06231.
    """
    check_choice("segment", segment, tuple(_SEGMENTS))
    check_positive("every", every, integer=True)
    if arms not in (1, 2):
        raise InputError(f"arms = {arms!r}, expected 1 or 2")
    name = {1: "single", 2: "double"}[arms]
    file = _find(path, f"pendulum_multiarm/{name}_id_vad.npz", _MULTIARM)
    try:
        with np.load(file, allow_pickle=False) as archive:
            states = np.asarray(archive[_SEGMENTS[segment]], dtype=np.float64)
            dt = float(archive["dt"])
    except (KeyError, ValueError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{file} is not an NPZ file of train, val and dt: {str(error).splitlines()[0]}") from error
    if states.ndim != 2 or states.shape[1] != 2 * arms:
        raise InputError(f"{file}: {_SEGMENTS[segment]} has shape {states.shape}, expected (time, {2 * arms})")
    units = {"time": "s", "q": "rad", "v": "rad / s"}
    times = dt * np.arange(len(states), dtype=np.float64)
    arrays = {"q": states[:, :arms] - np.pi, "v": states[:, arms:]}
    notes = {"system": f"experimental_{name}_pendulum", "segment": segment, "periodic": list(range(arms))}
    return _build(file, times[::every], {k: x[::every] for k, x in arrays.items()}, {**notes, "units": units})


def _find(path: str | Path | None, relative: str, source: str) -> Path:
    root = os.environ.get(VARIABLE) if path is None else path
    if not root:
        raise InputError(f"path is missing and {VARIABLE} is not set: expected {relative} ({source})")
    given = Path(root)
    choices = [given / relative, given / Path(relative).name] if given.is_dir() else [given]
    for file in choices:
        if file.is_file():
            return file
    raise InputError(f"{given} {'holds no' if given.is_dir() else 'does not exist, expected'} {relative} ({source})")


def _read_trials(
    file: Path, dim: int, system: str, units: Mapping[str, str], notes: Mapping[str, Any]
) -> list[Trajectories]:
    # Columns: trial, time, positions, velocities; with two coordinates the velocities again, then accelerations.
    names = ("q", "v") if dim == 1 else ("q", "v", "v", "v_dot")
    width = 2 + dim * len(names)
    try:
        table = np.loadtxt(file, comments="%", dtype=np.float64, ndmin=2)
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is not a table of numbers: {str(error).splitlines()[0]}") from error
    if table.shape[1] != width or not len(table):
        raise InputError(f"{file} has shape {table.shape}, expected rows of {width} columns")
    trials = []
    for trial in np.unique(table[:, 0]):
        rows = table[table[:, 0] == trial]
        arrays = {name: rows[:, 2 + dim * k : 2 + dim * (k + 1)] for k, name in enumerate(names)}
        metadata = {"system": system, "trial": int(trial), "units": dict(units), **notes}
        trials.append(_build(file, rows[:, 1], arrays, metadata))
    return trials


def _build(
    file: Path, times: NDArray[np.float64], arrays: Mapping[str, NDArray[np.float64]], metadata: dict[str, Any]
) -> Trajectories:
    states: dict[str, Any] = {name: torch.from_numpy(x[None].copy()) for name, x in arrays.items()}
    try:
        return Trajectories(times=torch.from_numpy(times.copy()), metadata=metadata, **states)
    except InputError as error:
        raise InputError(f"{file}: {error}") from error


def _only(file: Path, trials: list[Trajectories]) -> Trajectories:
    if len(trials) != 1:
        raise InputError(f"{file} holds {len(trials)} trials, expected one")
    return trials[0]
