"""NHF: a Neural Hamiltonian Flow as a density model."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import torch
from pyro import distributions as dist
from pyro.distributions.torch_transform import ComposeTransformModule
from torch import Tensor, nn
from torch.distributions import Transform

from hamflow.densities import FlowEncoder, GaussianEncoder, importance_bound, reparameterised_loss
from hamflow.energies import QuadraticKinetic
from hamflow.errors import (
    CheckpointError,
    InputError,
    check_choice,
    check_positive,
    check_rows,
    check_seed,
    check_training_table,
)
from hamflow.flow import PhaseFlow, layered_hamiltonian
from hamflow.models.certificate import Certificate, certify
from hamflow.models.lifts import coupling_flow
from hamflow.models.start import FEW, fresh_base, warm_start
from hamflow.models.storage import SavedModel, write_model
from hamflow.standardize import Whitening
from hamflow.steps import SCHEMES, Drift, Lift, Splitting
from hamflow.training import History, check_settings, fit, seeded, split_rows

#: Rows of (q, p) moved at once when sampling and scoring: it bounds the memory, not the result.
CHUNK = 1 << 17


class NHF(nn.Module):
    r"""A Neural Hamiltonian Flow: a density of q whose momentum p is integrated out by importance sampling.

    A base density of :math:`z_0 = (q_0, p_0)` is carried by learned Hamiltonian steps :math:`\Phi`, then by the
    cotangent lift of an affine standardisation (and, in a hybrid, of an ordinary flow), to :math:`(q, p)`. All of it
    preserves volume, so the joint density is exact, and an encoder f(p | q) bounds the marginal:

    .. math:: \log p(q, p) = \log p_0\bigl(\Phi^{-1}(q, p)\bigr), \qquad
              \log p(q) \ge \mathbb E_{p_k \sim f(\cdot \mid q)}
              \log \frac1K \sum_{k=1}^K \frac{p(q, p_k)}{f(p_k \mid q)}.

    **What is exact and what is a bound.** :meth:`log_joint` and :meth:`sample` are exact. :meth:`elbo` (K = 1) and
    :meth:`log_prob` (K = ``particles``) are stochastic lower bounds in expectation; they tighten as K grows.
    :meth:`certificate` says how tight they are.

    Args:
        dim: d, the number of columns.
        n_steps: the number of Hamiltonian steps.
        width: the number of ridges of each potential.
        dt: the time step.
        scheme: the name of a splitting scheme, a key of ``hf.SCHEMES``.
        layerwise: one potential a layer (best for densities); False is the fixed-kinetic mode of one autonomous
            potential V, readable through :meth:`potential`.
        base: ``"mixture"``, of Student t components fitted to the data before training, or ``"gaussian"``, one diagonal
            Gaussian that leaves everything to the flow.
        components: the number of components of the base mixture over (q, p); None chooses it by validation.
        max_components: the most components that may be chosen.
        encoder: ``"gaussian"`` or ``"flow"`` (a conditional spline flow).
        encoder_width: the width of the encoder's hidden layers.
        whiten: ``"auto"`` (by validation), ``"full"``, ``"diagonal"`` or ``"none"``.
        lift: the hybrid: None, ``"spline"`` (spline couplings, the identity when fresh), or any bijective transform.
        lift_layers, lift_width: the size of a named lift.
        particles: K of the training bound; 1 trains by the ELBO.
        sleep: the weight of the sleep phase, in which the encoder learns from the model's own samples.
        seed: for the weights at the start.

    Raises:
        InputError: an argument is out of range.

    References:
        Toth et al. (2020), Hamiltonian Generative Networks, arXiv 1909.13789; Souveton et al. (2024), Fixed-kinetic
        Neural Hamiltonian Flows, arXiv 2302.01955.

    Example:
        >>> import torch, hamflow as hf
        >>> x = torch.randn(200, 2)
        >>> flow = hf.NHF(dim=2, n_steps=4, width=8).fit(x, epochs=2, progress=False)
        >>> flow.sample(5, seed=0).shape, flow.log_prob(x[:3], particles=16).shape
        (torch.Size([5, 2]), torch.Size([3]))
    """

    def __init__(
        self,
        dim: int,
        *,
        n_steps: int = 8,
        width: int = 64,
        dt: float = 0.1,
        scheme: str = "leapfrog",
        layerwise: bool = True,
        base: str = "mixture",
        components: int | None = None,
        max_components: int = 24,
        encoder: str = "gaussian",
        encoder_width: int = 32,
        whiten: str = "auto",
        lift: str | Transform | None = None,
        lift_layers: int = 4,
        lift_width: int = 32,
        particles: int = 8,
        sleep: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            name: value for name, value in locals().items() if name not in ("self", "__class__")
        }
        for name in ("dim", "n_steps", "particles", "max_components"):
            check_positive(name, self.config[name], integer=True)
        check_seed("seed", seed)
        if components is not None:
            check_positive("components", components, integer=True)
        check_choice("scheme", scheme, tuple(SCHEMES))
        check_choice("base", base, ("mixture", "gaussian"))
        check_choice("encoder", encoder, ("gaussian", "flow"))
        check_choice("whiten", whiten, ("auto", "full", "diagonal", "none"))
        if not sleep >= 0:
            raise InputError(f"sleep = {sleep!r}, expected a weight >= 0")
        self.dim, self.particles, self.sleep = dim, particles, sleep
        with seeded(seed):
            self.whitening = Whitening(dim)
            if isinstance(lift, str):
                lift = coupling_flow(lift, dim, layers=lift_layers, width=lift_width)
            self.lift = lift
            energy = layered_hamiltonian(dim, n_steps=n_steps, width=width, dt=dt, layerwise=layerwise)
            self.flow = PhaseFlow(Splitting(energy, SCHEMES[scheme]), n_steps=n_steps, dt=dt)
            self.base = fresh_base(base, dim, 1 if components is None else components)
            # With fresh potentials the steps are free motion; this takes it back first, so the whole is the identity.
            self.drift = PhaseFlow(Drift(QuadraticKinetic(dim)), dt=n_steps * dt, reverse=True)
            build = FlowEncoder if encoder == "flow" else GaussianEncoder
            self.encoder = build(dim, width=encoder_width, covariance="full" if dim <= FEW else "shared")
        self.history = History()

    # Coordinates

    @property
    def transform(self) -> ComposeTransformModule:
        """The whole map from the base to (q, p) in data coordinates, a Pyro transform of R^(2d) with log-det zero."""
        return ComposeTransformModule([self.drift, self.flow, *self.lifts()])

    def lifts(self) -> list[PhaseFlow]:
        """What takes (q, p) from the coordinates of the Hamiltonian steps to those of the data."""
        return [PhaseFlow(Lift(f)) for f in (self.lift, self.whitening) if f is not None]

    def joint(self) -> dist.TransformedDistribution:
        """The exact joint density of (q, p) as a Pyro distribution with event shape (2d,)."""
        return dist.TransformedDistribution(self.base.distribution(), [self.transform])

    def standardise(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The coordinates of the steps and the log-det of the map to them, x of shape (n, dim) -> (n, dim), (n,)."""
        z = self.whitening.inv(x)
        log_det = -self.whitening.log_abs_det_jacobian(z, x)
        if self.lift is None:
            return z, log_det
        inner = self.lift.inv(z)
        return inner, log_det - self.lift.log_abs_det_jacobian(inner, z).reshape(log_det.shape)

    def log_joint_standardised(self, z: Tensor, p: Tensor) -> Tensor:
        """Log p(z, p) in the coordinates of the steps, z (n, dim) and p (*particles, n, dim) -> (*particles, n)."""
        log_prob: Tensor = self.base.log_prob(self.drift.inv(self.flow.inv(torch.cat((z.expand_as(p), p), dim=-1))))
        return log_prob

    # Training

    def loss(self, batch: Tensor) -> Tensor:
        """Minus the importance-weighted bound, the mean over rows (n, dim); four times the particles in evaluation."""
        z, log_det = self.standardise(batch)
        p = self.encoder.rsample(z, self.particles if self.training else 4 * self.particles)
        frozen = {name: value.detach() for name, value in self.encoder.named_parameters()}
        log_f = torch.func.functional_call(self.encoder, frozen, (p, z.detach()))
        log_weights = self.log_joint_standardised(z, p) + log_det - log_f
        loss = reparameterised_loss(log_weights, p)
        if self.training and self.sleep > 0:
            sleep = self.sleep * self._sleep_loss(len(batch))
            # The gradient is added, not the value: the loss that is shown remains the bound.
            loss = loss + sleep - sleep.detach()
        return loss

    def _sleep_loss(self, n: int) -> Tensor:
        with torch.no_grad():
            q, p = self.flow(self.drift(self.base.sample(n))).chunk(2, dim=-1)
        return -self.encoder(p, q).mean()

    def fit(
        self,
        x: Any,
        *,
        epochs: int = 200,
        batch_size: int = 256,
        learning_rate: float = 2e-3,
        weight_decay: float = 0.0,
        schedule: str = "plateau",
        validation: float | Tensor | None = 0.1,
        patience: int | None = 30,
        clip: float = 10.0,
        seed: int = 0,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        progress: bool = True,
        checkpoint: str | Path | None = None,
    ) -> Self:
        """Fit the density to the rows of a table and return the model, with its best weights and its ``history``.

        The standardisation and the base mixture are set first, by held-out likelihood; the flow starts as the identity
        on top of them, so training starts where the mixture ends.

        Args:
            x: the table, (n, dim): array, tensor or data frame of finite numbers.
            epochs: passes over the training rows.
            batch_size: rows a step.
            learning_rate: the largest learning rate.
            weight_decay: decoupled weight decay.
            schedule: of the learning rate: ``"cosine"``, ``"plateau"`` or ``"constant"``.
            validation: the share of rows held out, the held-out rows themselves, or None.
            patience: epochs without a better validation loss before training stops; None never stops early.
            clip: the largest gradient norm.
            seed: for the split, the mixtures, the batches and the noise; the weights at the start are the model's own.
            dtype: float32 or float64; by default that of a tensor ``x``, else the model's.
            device: where to train; by default that of a tensor ``x``, else the model's.
            progress: whether to show a progress bar.
            checkpoint: a file to write the state of the run to; if it exists the run goes on from there.

        Raises:
            InputError: the table or a setting is not what fitting needs.
            FitError: the loss is not finite at the start, or again and again.
            CheckpointError: the checkpoint cannot be used.
        """
        settings = check_settings(
            epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, weight_decay=weight_decay, clip=clip,
            schedule=schedule, patience=patience, seed=seed,
        )  # fmt: skip
        rows = check_training_table(x, dim=self.dim)
        follows = rows if isinstance(x, Tensor) and x.is_floating_point() else self.whitening.loc
        if dtype not in (None, torch.float32, torch.float64):
            raise InputError(f"dtype = {dtype}, expected torch.float32 or torch.float64")
        self.to(device=device or follows.device, dtype=dtype or follows.dtype)
        rows = check_training_table(rows.to(self.whitening.loc))
        if isinstance(validation, Tensor) or hasattr(validation, "shape"):
            validation = check_rows(validation, "validation", dim=self.dim).to(rows)
        train, held_out = split_rows(rows, validation, seed)
        with seeded(seed, rows.device):
            warm_start(self, train, train if held_out is None else held_out, seed)
        self.history = fit(self, train, validation=held_out, progress=progress, checkpoint=checkpoint, **settings)
        return self

    # Use

    def sample(self, n: int, *, seed: int | None = None, batch_size: int = CHUNK) -> Tensor:
        """``n`` exact draws of q, (n, dim); the same seed and batch size give the same draws."""
        return self.sample_joint(n, seed=seed, batch_size=batch_size)[0]

    @torch.no_grad()
    def sample_joint(self, n: int, *, seed: int | None = None, batch_size: int = CHUNK) -> tuple[Tensor, Tensor]:
        """``n`` exact draws of (q, p), each (n, dim): p is an exact draw of the momentum given q."""
        check_positive("n", n, integer=True)
        check_positive("batch_size", batch_size, integer=True)
        generator = _generator(seed, self.whitening.loc.device)
        sizes = [min(batch_size, n - start) for start in range(0, n, batch_size)]
        transform = self.transform
        q, p = torch.cat([transform(self.base.sample(size, generator)) for size in sizes]).chunk(2, dim=-1)
        return q, p

    def log_joint(self, q: Any, p: Any) -> Tensor:
        """The exact log p(q, p) in data coordinates, q and p of shape (n, dim) -> (n,)."""
        q, p = self._rows(q, "q"), self._rows(p, "p")
        if q.shape != p.shape:
            raise InputError(f"p has shape {tuple(p.shape)}, expected that of q, {tuple(q.shape)}")
        log_prob: Tensor = self.base.log_prob(self.transform.inv(torch.cat((q, p), dim=-1)))
        return log_prob

    @torch.no_grad()
    def log_prob(self, x: Any, *, particles: int = 256, seed: int | None = 0) -> Tensor:
        """The importance-weighted lower bound on log p(x) with K = ``particles``, x of shape (n, dim) -> (n,)."""
        return importance_bound(self.log_weights(x, particles=particles, seed=seed))

    @torch.no_grad()
    def elbo(self, x: Any, *, particles: int = 256, seed: int | None = 0) -> Tensor:
        """The single-sample bound, averaged over ``particles`` draws, x of shape (n, dim) -> (n,)."""
        return self.log_weights(x, particles=particles, seed=seed).mean(0)

    @torch.no_grad()
    def log_weights(self, x: Any, *, particles: int, seed: int | None = 0) -> Tensor:
        """Log p(x, p_k) - log f(p_k | x) for ``particles`` draws of the encoder, x of shape (n, dim) -> (K, n)."""
        check_positive("particles", particles, integer=True)
        rows = self._rows(x, "x")
        generator = _generator(seed, rows.device)
        parts = []
        for part in rows.split(max(1, CHUNK // particles)):
            z, log_det = self.standardise(part)
            p = self.encoder.rsample(z, particles, generator)
            parts.append(self.log_joint_standardised(z, p) + log_det - self.encoder(p, z))
        return torch.cat(parts, dim=1)

    def certificate(self, x: Any, *, particles: int = 1000, n_model: int = 1000, seed: int = 0) -> Certificate:
        """How tight the bound is, on rows x (n, dim) and on the model's own samples; see :class:`Certificate`."""
        return certify(self, self._rows(x, "x"), particles=particles, n_model=n_model, seed=seed)

    def potential(self, q: Any) -> Tensor:
        """V(q) of the fixed-kinetic mode in standardised coordinates, q of shape (n, dim) -> (n,).

        Raises:
            InputError: the model has a potential for each layer.
        """
        if self.config["layerwise"]:
            raise InputError("layerwise = True, expected False: one autonomous potential is needed to read it")
        z, _ = self.standardise(self._rows(q, "q"))
        value: Tensor = self.flow.step.hamiltonian.potential(z)  # type: ignore[union-attr, operator]
        return value

    def save(self, path: str | Path) -> None:
        """Write the model to a folder: weights as safetensors, the rest as JSON; see :func:`hamflow.load`."""
        if not isinstance(self.config["lift"], str | None):
            raise InputError("lift is a transform of your own, expected a named one; torch.save its state_dict instead")
        config = self.config | {"components": self.base.components}
        facts = {"dtype": str(self.whitening.loc.dtype).removeprefix("torch."), "history": asdict(self.history)}
        write_model(path, SavedModel("NHF", config, self.state_dict(), facts))

    @classmethod
    def from_saved(cls, saved: SavedModel) -> Self:
        """The model that :meth:`save` described; :func:`hamflow.load` calls this."""
        try:
            model = cls(**saved.config).to(dtype=getattr(torch, saved.facts["dtype"]))
            model.load_state_dict(saved.state)
            history = saved.facts["history"]
            model.history = History(**history | {"start": math.nan if history["start"] is None else history["start"]})
        except (TypeError, KeyError, AttributeError, RuntimeError, InputError) as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(f"the saved NHF does not fit this version: {reason}") from error
        return model.eval()

    def _rows(self, x: Any, name: str) -> Tensor:
        return check_rows(x, name, dim=self.dim).to(self.whitening.loc)


def _generator(seed: int | None, device: torch.device) -> torch.Generator | None:
    return None if seed is None else torch.Generator(device=device).manual_seed(seed)
