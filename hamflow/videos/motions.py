"""Whether made-up videos show motions that exist."""

from __future__ import annotations

import torch
from torch import Tensor

from hamflow.errors import InputError

#: Videos that are compared at a time.
_CHUNK = 64


def nearest_motion(videos: Tensor, truths: Tensor) -> tuple[Tensor, Tensor]:
    r"""The squared error a pixel of each video to the nearest of many true ones, and the number of that one, (n,) each.

    True videos from many initial states are a net over the manifold of all true motions, which has as many dimensions
    as a state: a made-up video far from all of them shows no motion of the system, however sharp its frames are.
    Where pictures are noisy let each true one be a mean over draws of the noise, as a decoder learns them.

    Args:
        videos: (n, time, channel, height, width).
        truths: (m, time, channel, height, width), all other sizes as those of the videos.

    Raises:
        InputError: a shape is another.

    Example:
        >>> import hamflow as hf
        >>> truths = hf.videos.film(hf.systems.MassSpring(), n=8, n_frames=5, size=8)[:]
        >>> distance, index = hf.videos.nearest_motion(truths[2:4] + 0.01, truths)
        >>> [round(d, 6) for d in distance.tolist()], index.tolist()
        ([0.0001, 0.0001], [2, 3])
    """
    for name, frames in (("videos", videos), ("truths", truths)):
        if not isinstance(frames, Tensor) or frames.ndim != 5 or not frames.is_floating_point():
            found = f"shape {tuple(frames.shape)}" if isinstance(frames, Tensor) else f"type {type(frames).__name__}"
            raise InputError(f"{name} has {found}, expected floating frames (n, time, channel, height, width)")
    if videos.shape[1:] != truths.shape[1:]:
        raise InputError(
            f"videos has shape {tuple(videos.shape)} and truths {tuple(truths.shape)}, expected the same but for n"
        )
    known = truths.flatten(1)
    pixels = known.shape[1]
    nearest, index = zip(
        *(torch.cdist(part.to(known), known).min(1) for part in videos.flatten(1).split(_CHUNK)), strict=True
    )
    return torch.cat(nearest) ** 2 / pixels, torch.cat(index)
