"""PixelHNN: a Hamiltonian Neural Network of the latent states of an autoencoder that sees two frames at a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from hamflow.energies import Hamiltonian, JointHamiltonian, ScaledEnergy, SeparableHamiltonian
from hamflow.errors import InputError, check_choice, check_positive, check_seed
from hamflow.models.dynamics import check_widths
from hamflow.models.filmed import HAMILTONIANS, VideoModel, check_hamiltonian, finite
from hamflow.models.latent import oscillating
from hamflow.models.pixel_objective import PixelObjective
from hamflow.models.pixel_units import finish, start
from hamflow.steps import ImplicitMidpoint
from hamflow.training import seeded
from hamflow.videos import Videos

#: Where the energy's gradient explains a difference of states: half way between them, or at the first, as published.
DIFFERENCES = ("midpoint", "forward")
#: Videos from which the size of states is taken.
_SOME = 200


class PixelHNN(VideoModel):
    r"""A Hamiltonian Neural Network of pictures: an autoencoder of two frames, and an energy of its latent states,

    .. math:: z_t = (q_t, p_t) = f(x_t, x_{t+1}), \qquad (x_t, x_{t+1}) \approx g(z_t), \qquad
              z_{t+1} - z_t \approx \Omega\, \nabla H\!\left(\tfrac12 (z_t + z_{t+1})\right), \qquad
              p_t \approx q_{t+1} - q_t.

    A frame is one unit of latent time, and a momentum is the change of the position by the next frame: so the unit of
    mass is about one. The third relation is the implicit midpoint rule, so a forecast, which takes a step of that rule
    a frame, is what was learned. Published is the gradient at :math:`z_t`, ``difference="forward"``: a forward
    difference makes an oscillation of angle :math:`\varphi` a frame too slow by the share :math:`\varphi^2 / 6`, and
    teaches a network without an energy a friction that is not there.

    One frame does not do: it shows q, and not whether things move to the left or to the right. Pictures that are equal
    there have different futures, which no function of one picture can tell apart.

    Args:
        size: n, the side of a frame, [pixels].
        channels: 1 for grey, 3 for RGB.
        dim: d, the number of positions.
        hamiltonian: ``"joint"``, ``"separable"`` or ``"mechanical"``, as for :class:`hamflow.HNN`, or a
            :class:`Hamiltonian` of your own of d positions, whose parameters are learned.
        widths: the hidden widths of the Hamiltonian, beside which it has a learned quadratic part.
        width: of the hidden layers of encoder and decoder, three each, the second and the third around a shortcut.
        difference: ``"midpoint"`` or ``"forward"``, where the gradient is taken in training.
        substeps: steps between two frames in forecasts; with ``"midpoint"`` one is what was learned, with ``"forward"``
            more of them come nearer to the continuous motion.
        seed: for the weights at the start.

    Raises:
        InputError: an argument is out of range.

    References:
        Greydanus et al. (2019), Hamiltonian Neural Networks, arXiv 1906.01563, section 5.

    Example:
        >>> import hamflow as hf
        >>> videos = hf.videos.film(hf.systems.Pendulum(), n=8, n_frames=6, size=10)
        >>> model = hf.PixelHNN(size=10, width=16, widths=(8,)).fit(videos, epochs=2, progress=False)
        >>> q, p = model.encode(videos[:2])
        >>> q.shape, model.energy(q, p).shape, model.forecast(videos[:2], n_frames=7).shape
        (torch.Size([2, 1]), torch.Size([2]), torch.Size([2, 7, 1, 10, 10]))
    """

    loc: Tensor
    scale: Tensor

    def __init__(
        self,
        *,
        size: int = 28,
        channels: int = 1,
        dim: int = 1,
        hamiltonian: str | Hamiltonian = "joint",
        widths: Sequence[int] = (64, 64),
        width: int = 200,
        difference: str = "midpoint",
        substeps: int = 1,
        seed: int = 0,
    ) -> None:
        for name, number in (("size", size), ("dim", dim), ("width", width), ("substeps", substeps)):
            check_positive(name, number, integer=True)
        if channels not in (1, 3):
            raise InputError(f"channels = {channels!r}, expected one of (1, 3)")
        check_hamiltonian(hamiltonian, HAMILTONIANS, dim)
        check_widths(widths)
        check_choice("difference", difference, DIFFERENCES)
        check_seed("seed", seed)
        super().__init__({
            "size": size, "channels": channels, "dim": dim, "hamiltonian": hamiltonian, "widths": list(widths),
            "width": width, "difference": difference, "substeps": substeps, "seed": seed,
        })  # fmt: skip
        self.assemble()

    def assemble(self) -> None:
        """Make all parts anew from the seed."""
        config = self.config
        dim, width, kind = config["dim"], config["width"], config["hamiltonian"]
        shape = (config["channels"], config["size"], config["size"])
        pixels = 2 * config["channels"] * config["size"] ** 2
        with seeded(config["seed"]):
            self.encoder = _perceptron(pixels, width, 2 * dim)
            self.decoder = _perceptron(2 * dim, width, pixels)
            self.hamiltonian = (
                kind
                if isinstance(kind, Hamiltonian)
                else _scaled(oscillating(kind, dim, (), config["widths"], width, rate=1.0, maps=False), dim)
            )
        # Networks see and draw what differs from the mean frame, in units of its spread.
        self.register_buffer("loc", torch.zeros(shape))
        self.register_buffer("scale", torch.ones(()))
        self.step = ImplicitMidpoint(self.hamiltonian)

    def states(self, frames: Tensor) -> Tensor:
        """The states of all pairs of neighbours, (*batch, k, channel, n, n) -> (*batch, k - 1, 2 d); with gradients."""
        found: Tensor = self.encoder(self.pairs(frames))
        return found

    def pairs(self, frames: Tensor) -> Tensor:
        """What the encoder sees: neighbours side by side, (*batch, k, channel, n, n) -> (*batch, k - 1, pixels)."""
        x = ((frames - self.loc) / self.scale).flatten(-3)
        return torch.cat((x[..., :-1, :], x[..., 1:, :]), -1)

    def draw(self, z: Tensor) -> Tensor:
        """The two frames of a state (q, p), (*batch, 2 d) -> (*batch, 2, channel, n, n); with gradients, unbounded."""
        found: Tensor = self.loc + self.scale * self.decoder(z).unflatten(-1, (2, *self.loc.shape))
        return found

    def velocity(self, z: Tensor) -> Tensor:
        r"""What a state changes by in a frame, :math:`\Omega \nabla H(z)`, (*batch, 2 d) -> (*batch, 2 d)."""
        dq, dp = self.hamiltonian.gradient(*z.chunk(2, -1))
        return torch.cat((dp, -dq), -1)

    def rescale(self, size: float) -> None:
        r"""Measure states in units of ``size``: z becomes z / s, and the energy :math:`H(s z) / s^2`.

        Pictures, and how they go on, stay as they are. Of a Hamiltonian of the caller's own the unit is its own.

        Raises:
            InputError: ``size`` is not positive, or the Hamiltonian is the caller's own.
        """
        check_positive("size", size)
        if not isinstance(self.config["hamiltonian"], str):
            raise InputError("the Hamiltonian is your own and has its unit, expected a model with a named one")
        last, first = cast("nn.Linear", self.encoder[-1]), cast("nn.Linear", self.decoder[0])
        with torch.no_grad():
            for part in (last.weight, last.bias):
                part.div_(size)
            first.weight.mul_(size)
            for energy in self.hamiltonian.children():
                if isinstance(energy, ScaledEnergy):
                    energy.set_units(energy.loc / size, energy.scale / size, energy.factor / size**2)

    def fit(
        self,
        videos: Any,
        *,
        canonical: float = 1.0,
        dynamics: float = 1.0,
        relative: bool = True,
        frames_per_step: int | None = 12,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        epochs: int = 1000,
        batch_size: int = 20,
        learning_rate: float = 3e-3,
        validation: float | None = 0.1,
        progress: bool = True,
        checkpoint: str | Path | None = None,
        seed: int = 0,
        **settings: Any,
    ) -> Self:
        r"""Learn from videos by the mean of

        .. math:: (x - \hat x)^2 + \frac{a}{s^2} (p_t - (q_{t+1} - q_t))^2
                  + \frac{b}{s^2} (z_{t+1} - z_t - \Omega \nabla H)^2

        over pixels, latent coordinates and frames, where :math:`s^2` is the variance of q. Every call starts afresh
        from the model's seed. Published is b = 0.1, and s = 1: then the smaller the latent states, the smaller the
        loss, and they shrink until pictures suffer. Here their size is free, and in the end q has the variance one.

        Args:
            videos: :class:`hamflow.Videos` of three frames or more, in memory or on disk, or an array (n, time,
                channel, height, width).
            canonical: a, the weight of what makes p the change of q.
            dynamics: b, the weight of what makes the energy explain the motion.
            relative: whether latent errors count relative to s; otherwise s is one, as published.
            frames_per_step: how many successive frames of each video a step sees, from a random one on; None for all.
            dtype: of the weights.
            device: where to train and stay.
            epochs: passes over the videos, a stretch of each at a time.
            batch_size: videos a step.
            learning_rate: the largest learning rate.
            validation: the share of videos held out, by which the best weights are chosen.
            progress: whether to show a progress bar.
            checkpoint: a file for the state of the run, which goes on from there.
            seed: for the held-out videos and the batches; the weights at the start are the model's own.
            settings: further ones of :func:`hamflow.training.fit`.

        Raises:
            InputError: the videos are none, too short, or have another size; a setting is out of range.
            FitError: the loss is not finite, again and again.
            CheckpointError: the checkpoint cannot be used.
        """

        def goal(films: Videos) -> PixelObjective:
            found = PixelObjective(
                self, films, canonical=canonical, dynamics=dynamics, relative=relative, frames_per_step=frames_per_step
            )
            start(self, some(films))
            return found

        def some(films: Videos) -> Tensor:
            return films.some(_SOME).to(self.scale)

        def end(films: Videos) -> None:
            if relative and isinstance(self.config["hamiltonian"], str):
                finish(self, some(films))

        return self._learn(
            videos, lambda films: self.assemble(), goal, end, dtype=dtype, device=device, checkpoint=checkpoint,
            epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, validation=validation,
            progress=progress, seed=seed, **settings,
        )  # fmt: skip

    @torch.no_grad()
    def encode(self, frames: Any) -> tuple[Tensor, Tensor]:
        """The state (q, p) at the first frame, (n, d) each, from the first two of the frames given."""
        q, p = self.states(self._seen(frames)[:, :2])[:, 0].chunk(2, -1)
        return q, p

    @torch.no_grad()
    def decode(self, q: Tensor, p: Tensor) -> Tensor:
        """The frame of a state and the next one, (*batch, d) twice -> (*batch, 2, channel, height, width)."""
        return self.draw(torch.cat((q, p), -1)).clamp(0, 1)

    @torch.no_grad()
    def reconstruct(self, frames: Any, n_frames: int | None = None) -> Tensor:
        """The ``n_frames`` frames from the first of those given on, as many as given by default.

        Frames (n, k, channel, height, width) -> (n, n_frames, channel, height, width), from the state at the first.
        """
        count = int(self._seen(frames).shape[1]) if n_frames is None else n_frames
        check_positive("n_frames", count, integer=True)
        return self._pictures(self.path(*self.encode(frames), count - 1, self.dt))

    @torch.no_grad()
    def forecast(self, frames: Any, n_frames: int, *, dt_scale: float = 1.0, backward: bool = False) -> Tensor:
        """The ``n_frames`` frames after the last one given, or before the first, in the order in which they are met.

        Args:
            frames: (n, k, channel, height, width); the last two or, backwards, the first two are read.
            n_frames: how many.
            dt_scale: the time between two of them, in units of that between two frames of the training videos.
            backward: whether time runs backwards from the first frame.

        Returns:
            (n, n_frames, channel, height, width).

        Raises:
            InputError: the frames are none, or have another size; a number is out of range.
            RolloutError: the motion leaves the finite numbers.
        """
        check_positive("n_frames", n_frames, integer=True)
        check_positive("dt_scale", dt_scale)
        seen = self._seen(frames)
        if backward:
            q, p = self.encode(seen)
        else:
            # The state of the last two frames is that of the last but one.
            q, p = self.path(*self.encode(seen[:, -2:]), 1, self.dt)[-1].chunk(2, -1)
        path = self.path(q, p, n_frames, -dt_scale * self.dt if backward else dt_scale * self.dt)
        return self._pictures(path[1:])

    def _pictures(self, path: Tensor) -> Tensor:
        # The first frame of each state, (time, n, 2 d) -> (n, time, channel, height, width).
        return finite(self.decode(*path.chunk(2, -1))[:, :, 0].movedim(0, 1), self.dt)


def _scaled(hamiltonian: Hamiltonian, dim: int) -> Hamiltonian:
    """The same Hamiltonian in units that can be set."""
    if isinstance(hamiltonian, SeparableHamiltonian):
        return SeparableHamiltonian(ScaledEnergy(hamiltonian.kinetic, dim), ScaledEnergy(hamiltonian.potential, dim))
    assert isinstance(hamiltonian, JointHamiltonian)
    return JointHamiltonian(ScaledEnergy(hamiltonian.energy, 2 * dim))


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + functional.silu(self.layer(x))


def _perceptron(inputs: int, width: int, outputs: int) -> nn.Sequential:
    layers = (nn.Linear(inputs, width), nn.SiLU(), _Residual(width), _Residual(width), nn.Linear(width, outputs))
    network = nn.Sequential(*layers)
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            nn.init.orthogonal_(layer.weight)
    return network
