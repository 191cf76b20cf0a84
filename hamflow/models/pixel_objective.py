"""What a Hamiltonian Neural Network of pictures minimises."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from hamflow.errors import InputError, check_positive
from hamflow.models.filmed import spread
from hamflow.videos import Videos
from hamflow.videos.videos import in_unit_range

if TYPE_CHECKING:
    from hamflow.models.pixel_hnn import PixelHNN

#: Two frames make a state, a third one its change.
_FEWEST = 3


class PixelObjective(nn.Module):
    """The loss of a model on videos that are fetched by number, so that they need not fit into memory.

    Args:
        model: the networks.
        videos: what they learn from.
        canonical, dynamics, relative, frames_per_step: see :meth:`hamflow.PixelHNN.fit`.

    Raises:
        InputError: a setting is out of range.
    """

    def __init__(
        self,
        model: PixelHNN,
        videos: Videos,
        *,
        canonical: float,
        dynamics: float,
        relative: bool,
        frames_per_step: int | None,
    ) -> None:
        super().__init__()
        for name, number in (("canonical", canonical), ("dynamics", dynamics)):
            check_positive(name, number)
        shown = videos.n_frames if frames_per_step is None else frames_per_step
        check_positive("frames_per_step", shown, integer=True)
        for name, count in (("videos", videos.n_frames), ("frames_per_step", shown)):
            if count < _FEWEST:
                raise InputError(
                    f"{name} = {count} frames, expected {_FEWEST} or more: two make a state, a third one its change"
                )
        self.config = {
            **{f"model {name}": value for name, value in model.config.items()},
            "canonical": canonical, "dynamics": dynamics, "relative": relative, "frames_per_step": frames_per_step,
            "spread": f"{spread(videos):.5g}", "videos": tuple(videos.frames.shape),
        }  # fmt: skip
        self.model, self.videos = model, videos
        self.shown = min(shown, videos.n_frames)

    def loss(self, index: Tensor) -> Tensor:
        """The loss of the videos with these numbers, of a stretch of each while training."""
        # As they are kept: most of them are left out before they become floats.
        frames = self.videos.frames[index.cpu()]
        if self.training and self.shown < frames.shape[1]:
            first = torch.randint(frames.shape[1] - self.shown + 1, (len(frames), 1))
            frames = frames[torch.arange(len(frames))[:, None], first + torch.arange(self.shown)]
        picture, canonical, dynamics = self.parts(
            in_unit_range(frames).to(self.model.like), self.model.config["difference"]
        )
        return picture + self.config["canonical"] * canonical + self.config["dynamics"] * dynamics

    def parts(self, frames: Tensor, difference: str) -> tuple[Tensor, Tensor, Tensor]:
        """The mean squared errors of pixels, of p against the change of q, and of the change of the state."""
        model = self.model
        z = model.states(frames)
        pairs = torch.stack((frames[:, :-1], frames[:, 1:]), 2)
        change = z[:, 1:] - z[:, :-1]
        at = z[:, :-1] if difference == "forward" else 0.5 * (z[:, :-1] + z[:, 1:])
        (q, p), moved = z.chunk(2, -1), change.chunk(2, -1)[0]
        unit = q.flatten(0, 1).var(0).mean() if self.config["relative"] else 1.0
        return (
            (model.draw(z) - pairs).square().mean(),
            (p[:, :-1] - moved).square().mean() / unit,
            (change - model.velocity(at)).square().mean() / unit,
        )
