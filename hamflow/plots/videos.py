"""Figures of videos: strips of frames, and moving pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from hamflow.errors import InputError, check_positive
from hamflow.io import atomic_path
from hamflow.videos import check_frames


def plot_frames(
    videos: Mapping[str, Any], *, every: int = 1, start: Mapping[str, int] | None = None, size: float = 0.6
) -> Figure:
    """Strips of frames below each other, one a video, with their names.

    Args:
        videos: names and videos, (time, channel, height, width) each; a shorter one leaves the rest empty.
        every: only every so many frames are shown.
        start: the frame below which a video begins, by its name; 0 for those that are not named.
        size: of a frame, [inches].

    Returns:
        The figure.

    Raises:
        InputError: there is no video, one is none, or one begins before the first frame.

    Example:
        >>> import torch
        >>> from hamflow.plots import plot_frames
        >>> strips = {"truth": torch.rand(6, 1, 8, 8), "forecast": torch.rand(6, 1, 8, 8)}
        >>> len(plot_frames(strips, every=2).axes)
        6
    """
    check_positive("every", every, integer=True)
    if not videos:
        raise InputError("videos is empty, expected at least one video with its name")
    begin = {name: (start or {}).get(name, 0) for name in videos}
    if wrong := [name for name, first in (start or {}).items() if name not in videos or first < 0]:
        raise InputError(f"start has {wrong[0]!r}, expected names of videos and frames from 0 on")
    shown = {name: _pictures(video, name)[-begin[name] % every :: every] for name, video in videos.items()}
    # The first column that a video fills, and the one after its last.
    spans = {name: (-(-begin[name] // every), -(-begin[name] // every) + len(shown[name])) for name in videos}
    columns = max(end for _, end in spans.values())
    figure, axes = plt.subplots(
        len(shown), columns, figsize=(size * columns + 1.2, size * len(shown)), squeeze=False, layout="constrained"
    )
    for row, (name, pictures) in zip(axes, shown.items(), strict=True):
        first, end = spans[name]
        row[0].set_ylabel(name, rotation=0, ha="right", va="center")
        for ax, picture in zip(row[first:end], pictures, strict=True):
            ax.imshow(picture, vmin=0, vmax=255, cmap="gray", interpolation="nearest")
        for k, ax in enumerate(row):
            ax.set(xticks=[], yticks=[])
            ax.set_frame_on(False)
            # The first one carries the name.
            ax.set_visible(k == 0 or first <= k < end)
    return figure


def write_gif(path: str | Path, videos: Any, *, frames_per_second: float = 15.0, enlarge: int = 4) -> None:
    """Write videos beside each other as one GIF that repeats; atomically.

    Args:
        path: the file, .gif.
        videos: (time, channel, height, width), or (n, time, channel, height, width) for n beside each other.
        frames_per_second: how fast it plays.
        enlarge: the side of a pixel, [pixels].

    Raises:
        InputError: the suffix is another, or the videos are none.

    Example:
        >>> import tempfile, pathlib, torch
        >>> from hamflow.plots import write_gif
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "film.gif"
        >>> write_gif(path, torch.rand(2, 6, 1, 8, 8))
        >>> path.read_bytes()[:3]
        b'GIF'
    """
    from PIL import Image

    path = Path(path)
    if path.suffix.lower() != ".gif":
        raise InputError(f"path = {path}, expected a name that ends in .gif")
    check_positive("frames_per_second", frames_per_second)
    check_positive("enlarge", enlarge, integer=True)
    several = videos if getattr(videos, "ndim", 5) == 5 else videos[None]
    beside = np.concatenate([_pictures(video, "videos") for video in several], axis=2)
    images = [Image.fromarray(picture.repeat(enlarge, 0).repeat(enlarge, 1)) for picture in beside]
    with atomic_path(path) as temporary:
        images[0].save(
            temporary, save_all=True, append_images=images[1:], duration=1000 / frames_per_second, loop=0, optimize=True
        )


def _pictures(video: Any, name: str) -> NDArray[np.uint8]:
    """A video as pictures for the eye, (time, height, width) in grey or (time, height, width, 3)."""
    try:
        found = check_frames(video[None], name)[0]
    except (TypeError, IndexError) as error:
        raise InputError(
            f"{name} is a {type(video).__name__}, expected a video (time, channel, height, width)"
        ) from error
    levels = found if not found.is_floating_point() else (255 * found).round()
    array: NDArray[np.uint8] = levels.detach().cpu().numpy().astype(np.uint8)
    return array[:, 0] if array.shape[1] == 1 else array.transpose(0, 2, 3, 1)
