"""HGN: a Hamiltonian Generative Network, the dynamics behind videos."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from hamflow.energies import Hamiltonian
from hamflow.errors import InputError, RolloutError, check_choice, check_positive, check_seed, is_number
from hamflow.models.calibration import calibrate, unlearned, usual_rate, whiten
from hamflow.models.draws import drawn, measured_noise
from hamflow.models.dynamics import check_angles, check_widths
from hamflow.models.filmed import HAMILTONIANS, check_hamiltonian, finite
from hamflow.models.generator import VideoGenerator
from hamflow.models.pictures import SIDE, check_shape
from hamflow.models.refinement import refined
from hamflow.models.video_objective import VideoObjective
from hamflow.steps import SCHEMES
from hamflow.training import random_generator, seeded, split_rows
from hamflow.videos import Videos

#: Videos from which training starts, all at once, and those whose codes stand for those of all.
_FEW, _SOME = 256, 1000


class HGN(VideoGenerator):
    r"""A Hamiltonian Generative Network: videos as pictures of positions that a learned energy moves,

    .. math:: z \sim N(0, I), \qquad (q_0, p_0) = f(z), \qquad (q_t, p_t) = \Phi_H^t(q_0, p_0), \qquad
              x_t \sim N\bigl(g(q_t), \sigma^2\bigr),

    where :math:`\Phi` is a symplectic step of the learned H, and an encoder :math:`r(z \mid x_1, \dots, x_k)` reads
    stacked frames. Time runs backwards, faster or slower as one likes.

    Args:
        size, channels: n, the side of a frame, 8, 16, 32 or 64 [pixels]; 1 channel for grey, 3 for RGB.
        frames: the largest number of frames that the encoder reads.
        context: the fewest frames from which states are to be inferred, by a second encoder that learns what the first
            one says of all; by default as many as the videos have that it learns from, and no second encoder.
        dim: d, the number of positions; with ``maps`` the number of maps of 4 x 4 positions.
        code: the number of entries of z; by default 2 d, one more for each angle; with ``maps`` of maps.
        hamiltonian: ``"separable"``, ``"mechanical"`` or ``"joint"``, as for :class:`hamflow.HNN`, or a
            :class:`Hamiltonian` of your own of d positions, whose parameters are learned.
        periodic: the positions that are angles, which pendulums that go over the top need: f draws them as points of a
            circle, of which the decoder sees cosines and sines.
        widths, width: the hidden widths of the Hamiltonian and of f, and that of the encoder and the decoder.
        maps: whether q, p and z are maps and all networks convolutional, as in the published model.
        scheme: of a separable Hamiltonian, a key of ``hamflow.SCHEMES``; a joint one takes the implicit midpoint.
        substeps: steps between two frames.
        memory: ``"stored"`` or ``"constant"``: how gradients go back along the steps, see :func:`hamflow.rollout`.
        seed: for the weights at the start.

    Raises:
        InputError: an argument is out of range.

    References:
        Toth et al. (2020), Hamiltonian Generative Networks, arXiv 1909.13789; Balsells Rodas et al. (2021),
        Re-Hamiltonian Generative Networks, for protocols.

    Example:
        >>> import hamflow as hf
        >>> videos = hf.videos.film(hf.systems.MassSpring(), n=8, n_frames=5, size=8)
        >>> model = hf.HGN(size=8, frames=5, dim=1, width=4).fit(videos, epochs=2, progress=False)
        >>> model.forecast(videos[:2], n_frames=7).shape, model.sample(3, n_frames=4).shape
        (torch.Size([2, 7, 1, 8, 8]), torch.Size([3, 4, 1, 8, 8]))
    """

    def __init__(
        self,
        *,
        size: int = 32,
        channels: int = 1,
        frames: int = 30,
        context: int | None = None,
        dim: int = 2,
        code: int | None = None,
        hamiltonian: str | Hamiltonian = "separable",
        periodic: Sequence[int] = (),
        widths: Sequence[int] = (64, 64),
        width: int = 32,
        maps: bool = False,
        scheme: str = "leapfrog",
        substeps: int = 1,
        memory: str = "stored",
        seed: int = 0,
    ) -> None:
        check_shape(size, channels)
        for name, number in (("frames", frames), ("dim", dim), ("width", width), ("substeps", substeps)):
            check_positive(name, number, integer=True)
        for name, count in (("code", code), ("context", context)):
            if count is not None:
                check_positive(name, count, integer=True)
        if frames < 2:
            raise InputError(f"frames = {frames}, expected 2 or more: one frame does not show a motion")
        if context is not None and not 2 <= context <= frames:
            raise InputError(f"context = {context}, expected 2 to the {frames} frames that the encoder can read")
        check_hamiltonian(hamiltonian, HAMILTONIANS, dim * SIDE**2 if maps else dim)
        check_widths(widths)
        check_angles(periodic, dim)
        if maps and periodic:
            raise InputError(f"periodic = {list(periodic)} with maps = True, expected none: maps hold no angles")
        check_choice("scheme", scheme, tuple(SCHEMES))
        check_seed("seed", seed)
        super().__init__({
            "size": size, "channels": channels, "frames": frames, "context": context, "dim": dim, "code": code,
            "hamiltonian": hamiltonian, "periodic": [int(i) for i in periodic], "widths": list(widths), "width": width,
            "maps": maps, "scheme": scheme, "substeps": substeps, "memory": memory, "seed": seed,
        })  # fmt: skip
        self.assemble()

    def model(self, frames: Tensor) -> None:
        """The Pyro model of frames (n, time, channel, height, width)."""
        frames = self._seen(frames)
        pyro.module("hgn", self)
        with pyro.plate("videos", len(frames)):
            z = pyro.sample("z", dist.Normal(frames.new_zeros(self.code), 1.0).to_event(1))
            pyro.sample(
                "frames", dist.Normal(self.pictures(z, frames.shape[1]), self.log_scale.exp()).to_event(4), obs=frames
            )

    def guide(self, frames: Tensor) -> None:
        """The Pyro guide of :meth:`model`: the encoder."""
        frames = self._seen(frames)
        pyro.module("hgn", self)
        with pyro.plate("videos", len(frames)):
            pyro.sample("z", dist.Normal(*self.posterior(frames)).to_event(1))

    def fit(
        self,
        videos: Any,
        *,
        objective: str = "elbo",
        beta: float = 1.0,
        tolerance: float = 0.02,
        frames_per_step: int | None = None,
        growth: float = 0.8,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        epochs: int = 100,
        batch_size: int = 32,
        learning_rate: float = 5e-4,
        validation: float | None = 0.1,
        progress: bool = True,
        checkpoint: str | Path | None = None,
        seed: int = 0,
        **settings: Any,
    ) -> Self:
        r"""Learn from videos by the loss

        .. math:: \frac{1}{N} \Bigl( -\mathbb{E}_r \log p(x \mid z) + \beta\, \mathrm{KL}(r \,\|\, p) \Bigr)

        where N is the number of pixels of a video and :math:`\sigma^2` the squared error, where the bound is largest.
        Where fewer frames are to be read, the second encoder learns the states that the first one infers, and
        :math:`\log(1 + \mathrm{KL})` of its code. Every call starts afresh from the model's seed; only an energy of
        your own keeps its state.

        Args:
            videos: :class:`hamflow.Videos`, in memory or on disk, or an array (n, time, channel, height, width).
            objective: ``"elbo"``, with :math:`\sigma` learned; or ``"geco"``, the KL divergence under the constraint
                that the squared error a pixel stays below ``tolerance`` times the variance of the videos.
            beta: :math:`\beta`, 1 for the bound on the evidence.
            tolerance: of ``"geco"``.
            frames_per_step: how many frames of each video are decoded in a step, drawn at random; all by default.
            growth: the share of the training, at most, in which clips grow from two frames to whole videos, as errors
                settle; frames after missed ones count less meanwhile. 0 asks for whole videos from the start.
            dtype: of the weights.
            device: where to train and stay.
            epochs: passes over the videos.
            batch_size: videos a step.
            learning_rate: the largest learning rate.
            validation: the share held out, by which the best weights are chosen.
            progress: whether to show a progress bar.
            checkpoint: a file for the state of the run, which goes on from there.
            seed: for the held-out videos, the batches and the noise; the weights at the start are the model's own.
            settings: further ones of :func:`hamflow.training.fit`.

        Raises:
            InputError: the videos are none, or have another size; a setting is out of range.
            FitError: the loss is not finite, again and again.
            CheckpointError: the checkpoint cannot be used.

        References:
            Rezende and Viola (2018), Taming VAEs, arXiv 1810.00597, for the constraint; Wang, Sankaran and Perdikaris
            (2022), Respecting causality is all you need for training physics-informed neural networks, arXiv
            2203.07404, for weights that let later times wait.
        """
        check_positive("epochs", epochs, integer=True)
        check_seed("seed", seed)

        def prepare(films: Videos) -> None:
            self.assemble(usual_rate(films))
            self.dt = films.dt
            self.most.fill_(min(self.config["frames"], films.n_frames))

        def goal(films: Videos) -> VideoObjective:
            # Principal components are found by random projections.
            with seeded(self.config["seed"], self.log_scale.device):
                calibrate(self, films.some(_FEW).to(self.log_scale), usual_rate(films))
            shown, _ = split_rows(torch.arange(len(films)), validation, seed)
            return VideoObjective(
                self, films, objective=objective, beta=beta, tolerance=tolerance,
                frames_per_step=frames_per_step, growth=growth, showings=epochs * len(shown),
            )  # fmt: skip

        def finish(films: Videos) -> None:
            some = films.some(_SOME).to(self.log_scale)
            whiten(self, some)
            shown, held_out = split_rows(torch.arange(len(films)), validation, seed)
            judges = shown if held_out is None else held_out
            self.history.notes += unlearned(self, films[judges[:_FEW].cpu()].to(self.log_scale))
            try:
                if not self.config["maps"]:
                    self.shake.copy_(measured_noise(self, some))
            except RolloutError as error:
                self.history.notes.append(f"the noise of the videos could not be measured: {error}")

        return self._learn(
            videos, prepare, goal, finish, dtype=dtype, device=device, checkpoint=checkpoint, epochs=epochs,
            batch_size=batch_size, learning_rate=learning_rate, validation=validation, progress=progress, seed=seed,
            **settings,
        )  # fmt: skip

    @torch.no_grad()
    def encode(self, frames: Any, *, refine: int = 0) -> tuple[Tensor, Tensor]:
        """The state (q, p) at the first frame, (n, d) each, by the mean of r, which reads at most ``frames`` of them.

        ``refine`` steps of :func:`hamflow.models.refinement.refined` then let it explain all frames better.
        """
        return self.initial_state(self._codes(self._seen(frames), refine, 0, None)[0])

    @torch.no_grad()
    def draw_states(self, frames: Any, draws: int = 64, *, seed: int | None = None) -> tuple[Tensor, Tensor]:
        r"""Draws of the state (q, p) at the first frame from its posterior, (draws, n, d) each.

        The likelihood has the noise that the training videos show in the directions in which states move pictures, so
        the draws are as far apart as the frames leave open; see :func:`hamflow.models.draws.drawn`.

        Args:
            frames: (n, k, channel, height, width), all of which are explained, two or more.
            draws: how many of each video.
            seed: of the draws.

        Raises:
            InputError: states are maps, of which there are too many for this; the frames or a number are wrong.

        Example:
            >>> import hamflow as hf
            >>> videos = hf.videos.film(hf.systems.MassSpring(), n=8, n_frames=5, size=8)
            >>> model = hf.HGN(size=8, frames=5, dim=1, width=4).fit(videos, epochs=2, progress=False)
            >>> q, p = model.draw_states(videos[:2, :3], 16, seed=0)
            >>> q.shape, model.energy(q, p).std(0).shape
            (torch.Size([16, 2, 1]), torch.Size([2]))
        """
        check_positive("draws", draws, integer=True)
        z = self._codes(self._seen(frames), 0, draws, seed)
        q, p = self.initial_state(z.flatten(0, 1))
        return q.unflatten(0, z.shape[:2]), p.unflatten(0, z.shape[:2])

    @torch.no_grad()
    def reconstruct(
        self, frames: Any, n_frames: int | None = None, *, refine: int = 0, draws: int = 0, seed: int | None = None
    ) -> Tensor:
        """The ``n_frames`` frames from the first of those given on, as many as given by default.

        Of shape (n, n_frames, channel, height, width); ``refine`` as for :meth:`encode`; with ``draws`` the mean of the
        frames of so many draws of :meth:`draw_states`, which is blurred where the frames given leave much open, and has
        the least squared error.
        """
        seen = self._seen(frames)
        count = seen.shape[1] if n_frames is None else n_frames
        check_positive("n_frames", count, integer=True)
        return self._mean(self._codes(seen, refine, draws, seed), lambda z: self.pictures(z, count))

    @torch.no_grad()
    def forecast(
        self,
        frames: Any,
        n_frames: int,
        *,
        dt_scale: float = 1.0,
        backward: bool = False,
        refine: int = 0,
        draws: int = 0,
        seed: int | None = None,
    ) -> Tensor:
        """The ``n_frames`` frames after the last one given, or before the first, in the order in which they are met.

        Args:
            frames: (n, k, channel, height, width), of which the last ones count or, backwards, the first, at most as
                many as were learned from.
            n_frames: how many.
            dt_scale: the time between two of them, in units of that between two frames of the training videos.
            backward: whether time runs backwards from the first frame.
            refine: steps of descent on the state, as for :meth:`encode`; what is far ahead hangs on it.
            draws: of the state, over whose frames the mean is taken, as for :meth:`reconstruct`.
            seed: of the draws.

        Returns:
            (n, n_frames, channel, height, width).

        Raises:
            InputError: the frames are too few, or have another size; a number is out of range.
            RolloutError: the motion leaves the finite numbers.
        """
        check_positive("n_frames", n_frames, integer=True)
        check_positive("dt_scale", dt_scale)
        seen = self._seen(frames)
        seen = seen[:, : int(self.most)] if backward else seen[:, -int(self.most) :]

        def on(z: Tensor) -> Tensor:
            q, p = self.initial_state(z)
            if not backward:
                q, p = self.path(q, p, seen.shape[1] - 1, self.dt)[-1].chunk(2, -1)
            path = self.path(q, p, n_frames, -self.dt * dt_scale if backward else self.dt * dt_scale)
            return self.decode(path[1:, ..., : self.dim]).movedim(0, 1)

        return self._mean(self._codes(seen, refine, draws, seed), on)

    @torch.no_grad()
    def sample(self, n: int, n_frames: int, *, seed: int | None = None) -> Tensor:
        """Videos of the model, (n, n_frames, channel, height, width), without the noise of pixels."""
        for name, count in (("n", n), ("n_frames", n_frames)):
            check_positive(name, count, integer=True)
        z = self.log_scale.new_empty(n, self.code).normal_(generator=random_generator(seed, self.log_scale.device))
        return finite(self.pictures(z, n_frames), self.dt)

    def _codes(self, frames: Tensor, refine: int, draws: int, seed: int | None) -> Tensor:
        # One code a video by the encoder, or many by chance, (draws, n, code).
        if not is_number(draws, integer=True) or draws < 0:
            raise InputError(f"draws = {draws!r}, expected a number of draws, 0 or more")
        if draws and refine:
            raise InputError(f"refine = {refine} and draws = {draws}, expected one of them: draws are no modes")
        if draws and self.config["maps"]:
            raise InputError(f"draws = {draws} with maps = True, expected a model whose states are vectors")
        if draws:
            return drawn(self, frames, draws, random_generator(seed, frames.device))
        return refined(self, frames, self.posterior(frames)[0], refine).unsqueeze(0)

    def _mean(self, codes: Tensor, show: Callable[[Tensor], Tensor]) -> Tensor:
        # One draw at a time, for memory.
        total = show(codes[0])
        for z in codes[1:]:
            total += show(z)
        return finite(total / len(codes), self.dt)
