"""The networks of a Hamiltonian Generative Network: from frames to codes, to states, and to frames again."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hamflow.energies import Hamiltonian, SeparableHamiltonian
from hamflow.energies.features import AngleFeatures
from hamflow.models.filmed import VideoModel, check_enough
from hamflow.models.latent import oscillating, transformer
from hamflow.models.pictures import SIDE, FrameDecoder, MapEncoder, VectorEncoder
from hamflow.steps import SCHEMES, ImplicitMidpoint, Splitting
from hamflow.training import seeded


class VideoGenerator(VideoModel):
    r"""Codes, states and pictures: :math:`r(z \mid x)`, :math:`(q_0, p_0) = f(z)`, :math:`x_t \approx g(q_t)`.

    Attributes:
        encoder: of all frames; ``few``: of fewer, if there is one.
        transformer: f.
        decoder: g.
        log_scale: the logarithm of the standard deviation of a pixel.
        shake: the variance of frames in the directions in which states move pictures, 0 before a fit.
        most: how many frames the encoder learned from.
    """

    most: Tensor
    shake: Tensor

    def assemble(self, rate: float = 1.0) -> None:
        """Make all parts anew from the seed; a named Hamiltonian starts near oscillators of that rate, [1 / time]."""
        config = self.config
        maps, dim, width, angles = config["maps"], config["dim"], config["width"], config["periodic"]
        self.dim = dim * SIDE**2 if maps else dim
        codes = 2 * dim + len(angles) if config["code"] is None else config["code"]
        self.code = codes * SIDE**2 if maps else codes
        self.features = AngleFeatures(angles, self.dim)
        drawn = dim + len(angles)
        kind = config["hamiltonian"]
        with seeded(config["seed"]):
            shape = (config["frames"], config["channels"], config["size"], 2 * codes, width)
            encoder = MapEncoder if maps else VectorEncoder
            self.encoder = encoder(*shape)
            self.few = None if config["context"] in (None, config["frames"]) else encoder(*shape)
            self.decoder = FrameDecoder(drawn, config["channels"], config["size"], width, maps=maps)
            self.transformer = transformer(codes, drawn + dim, config["widths"], width, maps=maps)
            self.hamiltonian = (
                kind
                if isinstance(kind, Hamiltonian)
                else oscillating(kind, dim, angles, config["widths"], width, rate, maps=maps)
            )
        self.log_scale = nn.Parameter(torch.tensor(-1.5))
        self.register_buffer("most", torch.tensor(config["frames"]))
        self.register_buffer("shake", torch.tensor(0.0))
        self.step = (
            Splitting(self.hamiltonian, SCHEMES[config["scheme"]])
            if isinstance(self.hamiltonian, SeparableHamiltonian)
            else ImplicitMidpoint(self.hamiltonian)
        )

    def posterior(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of r(z | frames), each (n, code), of frames (n, k, channel, height, width).

        Of more frames than were learned from the first ones are read.
        """
        most = int(self.most)
        check_enough(frames, most if self.few is None else self.config["context"])
        return self.moments(self.encoder if self.few is None or frames.shape[1] >= most else self.few, frames[:, :most])

    def moments(self, encoder: nn.Module, frames: Tensor) -> tuple[Tensor, Tensor]:
        """The same by one of the two encoders."""
        mean, log_scale = encoder(frames).chunk(2, dim=1)
        # It starts sure of itself: of a code that is mostly noise a decoder would learn the mean frame alone.
        return mean.flatten(1), (log_scale.flatten(1) - 4).clamp(-8, 4).exp()

    def rows(self, z: Tensor) -> Tensor:
        """Codes (n, code) as the transformer takes them, as maps where they are maps."""
        return z.unflatten(-1, (-1, SIDE, SIDE)) if self.config["maps"] else z

    def initial_state(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The state (q, p) at the first frame, z of shape (n, code) -> (n, d) each."""
        return self.split(self.transformer(self.rows(z)))

    def split(self, found: Tensor) -> tuple[Tensor, Tensor]:
        """The state (q, p) of the outputs of the transformer."""
        found = found.flatten(1)
        drawn, p = found.split((found.shape[1] - self.dim, self.dim), dim=1)
        return self.features.inverse(drawn), p

    def decode(self, q: Tensor) -> Tensor:
        """Frames of positions, (*batch, d) -> (*batch, channel, height, width)."""
        found: Tensor = self.decoder(self.features(q))
        return found

    def pictures(self, z: Tensor, n_frames: int) -> Tensor:
        """The videos of codes, (n, code) -> (n, n_frames, channel, height, width), without the noise of pixels."""
        path = self.path(*self.initial_state(z), n_frames - 1, self.dt)
        return self.decode(path[..., : self.dim]).movedim(0, 1)
