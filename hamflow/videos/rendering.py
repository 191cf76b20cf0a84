"""Pictures of bodies: soft discs, drawn as one batch, differentiable and the same on every machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hamflow.errors import InputError, check_positive, is_number

#: Of the pictures of several bodies, one colour a body; the first is that of a single one. RGB in [0, 1].
COLOURS = ((0.97, 0.85, 0.35), (0.90, 0.42, 0.38), (0.42, 0.78, 0.90), (0.55, 0.86, 0.50))
#: What lies behind them.
BACKGROUND = (81 / 255, 88 / 255, 93 / 255)


def render_discs(
    centres: Tensor,
    *,
    radius: float | Sequence[float] = 0.25,
    extent: float = 1.5,
    size: int = 32,
    channels: int = 3,
    colours: Any = None,
    background: Any = None,
    softness: float = 1.0,
) -> Tensor:
    r"""Draw soft discs on a square picture of the plane, (*batch, bodies, 2) -> (*batch, channels, size, size).

    The picture shows :math:`[-e, e]^2` with y upwards. A disc of radius r covers a pixel at the distance D from its
    centre by

    .. math:: \alpha = \operatorname{clip}\Bigl(\tfrac12 + \frac{r - D}{s h},\, 0,\, 1\Bigr), \qquad h = 2 e / n,

    which is the area it has of the pixel, about, for softness s = 1; later bodies cover earlier ones.

    Args:
        centres: places (x, y), (*batch, bodies, 2), [length].
        radius: of the discs, a number or one a body, [length].
        extent: e, half the width of the picture, [length].
        size: n, the number of pixels a side.
        channels: 1 for grey, 3 for RGB.
        colours: one number (grey) or three (RGB) in [0, 1] a body; by default white discs, or those of ``COLOURS``.
        background: one number or three in [0, 1]; by default black, or that of ``BACKGROUND``.
        softness: s, the width of the rim, [pixels].

    Returns:
        Frames with values in [0, 1], in the dtype of the centres; differentiable in the centres.

    Raises:
        InputError: an argument is out of range or has the wrong shape.

    Example:
        >>> import torch, hamflow as hf
        >>> frame = hf.videos.render_discs(torch.zeros(1, 2), radius=0.5, extent=1.0, size=64, channels=1)
        >>> frame.shape, round(frame.mean().item(), 2)  # pi / 16 of the picture
        (torch.Size([1, 64, 64]), 0.2)
    """
    if not isinstance(centres, Tensor) or centres.ndim < 2 or centres.shape[-1] != 2:
        shape = tuple(centres.shape) if isinstance(centres, Tensor) else type(centres).__name__
        raise InputError(f"centres is {shape}, expected a tensor (*batch, bodies, 2)")
    if not centres.is_floating_point():
        raise InputError(f"centres has dtype {centres.dtype}, expected a floating dtype")
    for name, number in (("extent", extent), ("softness", softness)):
        check_positive(name, number)
    check_positive("size", size, integer=True)
    if channels not in (1, 3):
        raise InputError(f"channels = {channels!r}, expected 1 for grey or 3 for RGB")
    bodies = centres.shape[-2]
    given: list[Any] = [radius] * bodies if is_number(radius) else list(radius)  # type: ignore[arg-type]
    if len(given) != bodies:
        raise InputError(f"radius has {len(given)} numbers, expected one, or {bodies} of them, one a body")
    for one in given:
        check_positive("radius", one)
    usual: Any = 1.0 if channels == 1 else [COLOURS[i % len(COLOURS)] for i in range(bodies)]
    paint = _paint("colours", usual if colours is None else colours, (bodies, channels), centres)
    usual = 0.0 if channels == 1 else BACKGROUND
    frame = _paint("background", usual if background is None else background, (channels,), centres)[..., None, None]
    pixel = 2 * extent / size
    axis = (torch.arange(size, dtype=centres.dtype, device=centres.device) + 0.5) * pixel - extent
    radii = centres.new_tensor(given)[:, None, None]
    # (*batch, bodies, rows, columns): the first row of a picture is its top.
    across = (axis - centres[..., 0, None, None]) ** 2
    along = (axis.flip(0).unsqueeze(-1) - centres[..., 1, None, None]) ** 2
    # At the centre itself the square root has no slope.
    cover = (0.5 + (radii - (across + along).clamp_min(1e-20).sqrt()) / (softness * pixel)).clamp(0, 1)
    for i in range(bodies):
        alpha = cover[..., i, None, :, :]
        frame = frame + alpha * (paint[i][:, None, None] - frame)
    return frame


def _paint(name: str, value: Any, shape: tuple[int, ...], like: Tensor) -> Tensor:
    try:
        found = torch.as_tensor(value, dtype=like.dtype, device=like.device)
        found = found.unsqueeze(-1) if found.ndim == len(shape) - 1 and found.ndim else found
        found = found.expand(shape)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} = {value!r}, expected numbers that fit the shape {shape}") from error
    if not bool(((found >= 0) & (found <= 1)).all()):
        raise InputError(f"{name} = {value!r}, expected numbers in [0, 1]")
    return found
