"""Films of simulated systems: states, drawn."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from hamflow.errors import InputError, check_positive, check_seed, is_number
from hamflow.steps import Damped
from hamflow.systems import System, Trajectories
from hamflow.systems.refinement import integrate
from hamflow.systems.sampling import apart
from hamflow.videos.rendering import render_discs
from hamflow.videos.scenes import Scene, scene_of
from hamflow.videos.storage import check_suffix, write_videos
from hamflow.videos.videos import Videos

#: Videos that are drawn at a time.
_CHUNK = 200


def film(
    system: System,
    n: int = 100,
    n_frames: int = 30,
    dt: float = 0.125,
    *,
    size: int = 32,
    channels: int = 1,
    noise: float = 0.0,
    friction: float = 0.0,
    initial: tuple[Any, Any] | None = None,
    scene: Scene | None = None,
    path: str | Path | None = None,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    progress: bool = False,
    **drawing: Any,
) -> Videos:
    r"""Simulate a system and draw every state: the videos that a model learns from or is measured on.

    The motion is :math:`\dot q = \partial H / \partial p`, :math:`\dot p = -\partial H / \partial q - \gamma p`, exact
    to rounding (to 1e-6 with friction); a picture shows q plus noise, as published data do.

    Args:
        system: what moves, from :mod:`hamflow.systems`.
        n: the number of videos, where ``initial`` does not say it.
        n_frames: the number of frames of each.
        dt: the time between two frames, [time].
        size: pixels a side.
        channels: 1 for grey, 3 for RGB.
        noise: the standard deviation that is added to each position before it is drawn; the states stay exact.
        friction: :math:`\gamma`, [1 / time].
        initial: positions and momenta to start from, each (n, d); by default ``system.initial_states``.
        scene: where bodies are drawn; by default :func:`scene_of` the system.
        path: an HDF5 file to draw into piece by piece; the frames of the result are then read from it.
        dtype: of the frames, floating or uint8.
        seed: of the initial states, and apart from them of the noise.
        progress: whether to show bars.
        drawing: further settings of :func:`render_discs`, colours say.

    Raises:
        InputError: an argument is out of range.

    References:
        Toth et al. (2020), Hamiltonian Generative Networks, arXiv 1909.13789, for dt and the number of frames.

    Example:
        >>> import hamflow as hf
        >>> videos = hf.videos.film(hf.systems.Pendulum(mass=0.5, gravity=3.0), n=4, n_frames=6, size=16)
        >>> videos.frames.shape, videos.states.q.shape
        (torch.Size([4, 6, 1, 16, 16]), torch.Size([4, 6, 1]))
    """
    if not isinstance(system, System):
        raise InputError(f"system is a {type(system).__name__}, expected one of hamflow.systems")
    for name, count in (("n", n), ("n_frames", n_frames)):
        check_positive(name, count, integer=True)
    if n_frames < 2:
        raise InputError(f"n_frames = {n_frames}, expected two or more: one frame does not show a motion")
    for name, number in (("noise", noise), ("friction", friction)):
        if not is_number(number) or not 0 <= number < float("inf"):
            raise InputError(f"{name} = {number!r}, expected a number, 0 or more")
    check_seed("seed", seed)
    if dtype not in (torch.uint8, torch.float16, torch.float32, torch.float64):
        raise InputError(f"dtype = {dtype!r}, expected torch.uint8, float16, float32 or float64")
    if path is not None:
        check_suffix(path)
    scene = scene_of(system) if scene is None else scene
    look = {"radius": scene.radius, "extent": scene.extent, "size": size, "channels": channels} | drawing
    # What cannot be drawn is refused before it is simulated.
    render_discs(scene.places(torch.zeros(1, system.dim)), **look)
    states = _states(system, n, n_frames, dt, friction, initial, seed, progress)
    shown = states.q
    if noise:
        shown = shown + noise * torch.randn(shown.shape, generator=apart(seed), dtype=shown.dtype)

    def parts() -> Iterator[Tensor]:
        for part in tqdm(shown.split(_CHUNK), desc="film", disable=not progress):
            drawn = part if dtype == torch.float64 else part.float()
            frames = render_discs(scene.places(drawn), **look)
            yield (255 * frames).round().to(torch.uint8) if dtype == torch.uint8 else frames.to(dtype)

    metadata = {"noise": float(noise), "friction": float(friction), "seed": int(seed)}
    if path is None:
        return Videos(torch.cat(list(parts())), float(dt), states, metadata)
    write_videos(path, parts(), (n_frames, channels, size, size), dtype, float(dt), states, metadata)
    return Videos.load(path)


def _states(
    system: System, n: int, n_frames: int, dt: float, friction: float, initial: Any, seed: int, progress: bool
) -> Trajectories:
    if not friction:
        return system.simulate(1 if initial else n, n_frames - 1, dt, initial=initial, seed=seed, progress=progress)
    check_positive("dt", dt)
    start = system.initial_states(n, torch.Generator().manual_seed(seed)) if initial is None else initial
    q, p = (torch.as_tensor(x, dtype=torch.float64) for x in start)
    with torch.no_grad():
        step = Damped(system.step(), float(friction)).double()
        q, p = integrate(step, q, p, dt=float(dt), n_steps=n_frames - 1, tolerance=1e-6, progress=progress)
    metadata = {"system": system.name, "parameters": dict(system.constants), "periodic": list(system.periodic)}
    times = float(dt) * torch.arange(n_frames, dtype=torch.float64)
    return Trajectories(times=times, q=q, p=p, v=system.velocity(q, p), metadata=metadata)
