"""What a Hamiltonian Generative Network minimises."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.func import functional_call

from hamflow.errors import InputError, RolloutError, check_choice, check_positive, is_number
from hamflow.models.filmed import spread
from hamflow.videos import Videos

if TYPE_CHECKING:
    from hamflow.models.generator import VideoGenerator

#: Clips wait at two frames for such a share of the time they have, and grow at such a pace while their error is at most
#: so many times the least so far or such a share of the variance; in the end as fast as they must, by this power of the
#: share of the time.
_WAIT, _PACE, _SETTLED, _SMALL, _DEADLINE = 0.05, 2.0, 2.5, 0.1, 3
#: Lengths are a power of the stage: every frame more is a larger part of a short clip.
_SHAPE = 1.5
#: What follows frames that are missed by more than a share of the variance counts less, at such a rate.
_MISSED, _CAUSE = 0.3, 1.0
#: How fast the error, and the size of states, are followed.
_SOON = 0.05
#: The weight of what few frames miss. Their encoder learns nothing else, so it only keeps out of the others' clipping.
_FEW = 0.01
#: How fast the multiplier of the constraint follows, and how long its error is remembered.
_RATE, _MEMORY = 0.02, 0.99


class VideoObjective(nn.Module):
    """The loss of a model on videos that are fetched by number, so that they need not fit into memory.

    Args:
        model: the network.
        videos: what it learns from.
        objective, beta, tolerance, frames_per_step: see :meth:`hamflow.HGN.fit`.
        growth: the share of the training in which the clips that are to be explained grow from two frames to whole
            videos, at most: they wait while their error is large. Fast motions whose clips grow too soon are missed in
            the middle and never found again. Within a clip, too, what follows missed frames counts less meanwhile.
        showings: how many videos are shown in the whole training, each time one is.

    Raises:
        InputError: a setting is out of range.
    """

    multiplier: Tensor
    excess: Tensor
    shown: Tensor
    stage: Tensor
    recent: Tensor
    least: Tensor
    centre: Tensor
    square: Tensor

    def __init__(
        self,
        model: VideoGenerator,
        videos: Videos,
        *,
        objective: str,
        beta: float,
        tolerance: float,
        frames_per_step: int | None,
        growth: float = 0.0,
        showings: int = 0,
    ) -> None:
        super().__init__()
        check_choice("objective", objective, ("elbo", "geco"))
        for name, number in (("beta", beta), ("tolerance", tolerance)):
            check_positive(name, number)
        if not is_number(growth) or not 0 <= growth <= 1:
            raise InputError(f"growth = {growth!r}, expected a share from 0 to 1")
        decoded = videos.n_frames if frames_per_step is None else frames_per_step
        check_positive("frames_per_step", decoded, integer=True)
        if decoded > videos.n_frames:
            raise InputError(f"frames_per_step = {decoded}, expected at most the {videos.n_frames} frames of a video")
        context = model.config["context"]
        if context is not None and context > videos.n_frames:
            raise InputError(f"videos has {videos.n_frames} frames, expected at least context = {context} of them")
        size = spread(videos)
        self.config = {
            **{f"hgn {name}": value for name, value in model.config.items()},
            "objective": objective, "beta": beta, "tolerance": tolerance,
            "frames_per_step": frames_per_step, "growth": growth, "spread": f"{size:.5g}",
            "videos": tuple(videos.frames.shape),
        }  # fmt: skip
        self.model, self.videos = model, videos
        self.decoded = decoded
        self.growing = round(growth * showings)
        self.spread = size
        self.bound = tolerance * size
        self.register_buffer("multiplier", torch.tensor(1 / self.bound))
        self.register_buffer("excess", torch.tensor(0.0))
        self.register_buffer("shown", torch.tensor(0.0))
        self.register_buffer("stage", torch.tensor(0.0 if self.growing else 1.0))
        for name in ("recent", "least"):
            self.register_buffer(name, torch.tensor(size))
        # Of states, which start with about mean zero and variance one.
        width = model.features.size + model.dim
        self.register_buffer("centre", torch.zeros(width))
        self.register_buffer("square", torch.ones(width))

    @property
    def patient(self) -> bool:
        """Whether clips still grow, so that a loss of whole videos says nothing yet."""
        return float(self.stage) < 1

    def loss(self, index: Tensor) -> Tensor:
        """The loss a pixel, of the videos with these numbers."""
        frames = self.videos[index.cpu()].to(self.multiplier)
        try:
            error, counted, divergence, missed = self._parts(frames)
        except RolloutError:
            # As for a motion that is lost in numbers that are not finite: the loop goes back.
            return math.nan * self.model.log_scale
        pixels = frames[0].numel()
        share = self.config["beta"] * divergence / pixels + _FEW * missed
        if self.training:
            self._follow(error.detach(), len(frames))
        if self.config["objective"] == "elbo":
            log_scale = self.model.log_scale.detach()
            return 0.5 * counted * (-2 * log_scale).exp() + log_scale + 0.5 * math.log(2 * math.pi) + share
        if not self.training:
            return error / self.bound + share
        with torch.no_grad():
            # In logarithms, so that the multiplier stays positive and follows alike for every size of the error.
            self.excess.lerp_(error.detach() / self.bound - 1, 1 - _MEMORY)
            self.multiplier.mul_((_RATE * self.excess.clamp(-1, 1)).exp()).clamp_(1e-3 / self.bound, 1e3 / self.bound)
        return self.multiplier.detach() * counted + share

    @torch.no_grad()
    def _follow(self, error: Tensor, videos: int) -> None:
        # The variance of a pixel at which the bound is largest is its squared error. Descent would follow too slowly.
        self.recent.lerp_(error, _SOON)
        self.model.log_scale.copy_(0.5 * self.recent.log())
        if not self.growing:
            return
        self.shown.add_(videos / self.growing)
        torch.minimum(self.least, self.recent, out=self.least)
        if self.shown > _WAIT and float(self.recent) < max(_SETTLED * float(self.least), _SMALL * self.spread):
            self.stage.add_(_PACE * videos / self.growing)
        torch.maximum(self.stage, self.shown**_DEADLINE, out=self.stage).clamp_(max=1.0)

    def _parts(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Errors a pixel: squared and as they count; the divergence of r from the prior; what few frames miss."""
        model, times = self.model, frames.shape[1]
        shown = torch.arange(times)
        if self.training:
            length = 2 + round(float(self.stage) ** _SHAPE * (times - 2))
            shown = torch.randperm(length)[: self.decoded].sort().values
        # All frames are read: what few of them do not tell would be learned as a blur of pictures.
        seen = frames[:, : int(model.most)]
        mean, scale = model.moments(model.encoder, seen)
        z = mean + scale * torch.randn_like(mean)
        path = model.path(*model.initial_state(z), int(shown[-1]), model.dt)
        shown = shown.to(frames.device)
        found = model.decode(path[shown][..., : model.dim]).movedim(0, 1)
        errors = (found - frames[:, shown]).square().mean((2, 3, 4))
        divergence = _divergence(mean, scale, torch.zeros_like(mean), torch.ones_like(scale))
        missed = mean.new_zeros(())
        if self.training and model.few is not None and model.config["context"] < seen.shape[1]:
            missed = self._missed(seen, mean.detach(), scale.detach())
        return errors.mean(), (self._causal(errors) * errors).mean(), divergence.mean(), missed

    @torch.no_grad()
    def _causal(self, errors: Tensor) -> Tensor:
        """Weights of the frames of clips, (n, time) -> (n, time), while clips grow."""
        if not self.training or self.stage == 1:
            return torch.ones_like(errors)
        missed = (errors / self.spread - _MISSED).clamp_min(0)
        return (_CAUSE * (missed - missed.cumsum(1))).exp()

    def _missed(self, seen: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
        model, fewest = self.model, self.model.config["context"]
        # As often from five to ten as from ten to twenty: the fewer there are, the more each one tells.
        count = int(fewest * (seen.shape[1] / fewest) ** torch.rand(()).item())
        assert model.few is not None
        other, width = model.moments(model.few, seen[:, :count])
        frozen = {name: weight.detach() for name, weight in model.transformer.named_parameters()}
        states = []
        for z in (mean, other):
            q, p = model.split(functional_call(model.transformer, frozen, (model.rows(z),)))
            states.append(torch.cat((model.features(q), p), -1))
        with torch.no_grad():
            self.centre.lerp_(states[0].mean(0), _SOON)
            self.square.lerp_(states[0].square().mean(0), _SOON)
            size = (self.square - self.centre**2).clamp_min(1e-6)
        # Of states, whose mean is the best guess, as that of codes need not be; and the spread of codes about it.
        error = ((states[1] - states[0]).square() / size).sum(-1)
        return (error + _divergence(mean, scale, other.detach(), width).log1p()).mean()


def _divergence(mean: Tensor, scale: Tensor, other: Tensor, width: Tensor) -> Tensor:
    # Of N(mean, scale) from N(other, width), summed over the last dimension.
    return ((width / scale).log() + (scale**2 + (mean - other) ** 2) / (2 * width**2) - 0.5).sum(-1)
