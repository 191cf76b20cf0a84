"""NHF: a Neural Hamiltonian Flow as a density model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import torch
from pyro import distributions as dist
from pyro.distributions.torch_transform import ComposeTransformModule
from torch import Tensor, nn
from torch.distributions import Transform

from hamflow.densities import (
    ContextNetwork,
    FlowEncoder,
    GaussianEncoder,
    PhaseMixture,
    draw_noise,
    importance_bound,
)
from hamflow.errors import InputError, check_positive
from hamflow.flow import PhaseFlow
from hamflow.interop.foreign import inverse_and_log_det
from hamflow.models.certificate import Certificate, certify
from hamflow.models.conditional import bound_loss, check_context, check_pair, check_positions, draw, features_of, weigh
from hamflow.models.fitting import fit_density
from hamflow.models.parts import complete_config, fresh_base, fresh_parts
from hamflow.models.storage import SavedModel, name_parts, of_this_version, saved_history, write_model
from hamflow.standardize import Whitening
from hamflow.steps import Lift
from hamflow.training import History, check_settings, random_generator

#: Rows of (q, p) moved at once when sampling and scoring, to bound the memory; the noise a row meets depends on it.
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
        context_dim, context_features: columns of a context c of a density p(x | c), and of what its parts see of it;
            by default 16 features, or one for each column of x where these are more.
        n_steps: the number of Hamiltonian steps.
        width: the number of ridges of each potential.
        dt: the time step.
        scheme: the name of a splitting scheme, a key of ``hf.SCHEMES``; None is leapfrog for one autonomous potential,
            and with one a layer symplectic Euler, which is leapfrog without its last kick: that one moves only p, and
            so cannot change the density of q.
        layerwise: one potential a layer (best for densities); False is the fixed-kinetic mode of one autonomous
            potential V, readable through :meth:`potential`.
        base: ``"mixture"``, of Student t components fitted to the data before training, or ``"gaussian"``, one diagonal
            Gaussian that leaves everything to the flow.
        components, max_components: those of the base mixture over (q, p), by default chosen by validation; the most.
        encoder, encoder_width: ``"gaussian"`` or ``"flow"`` (a conditional spline flow), and its hidden width.
        whiten: ``"auto"`` (by validation), ``"full"``, ``"diagonal"`` or ``"none"``.
        lift: the hybrid: None, ``"spline"`` (spline couplings, the identity when fresh) or a bijection of R^d.
        lift_layers, lift_width: the size of a named lift.
        memory: ``"stored"``, ``"constant"`` or None, by depth: how gradients go back, see :class:`PhaseFlow`.
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
        context_dim: int = 0,
        *,
        context_features: int | None = None,
        n_steps: int = 8,
        width: int = 64,
        dt: float = 0.1,
        scheme: str | None = None,
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
        memory: str | None = None,
        particles: int = 8,
        sleep: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            name: value for name, value in locals().items() if name not in ("self", "__class__")
        }
        complete_config(self.config)
        self.dim, self.particles, self.sleep = dim, particles, sleep
        self.history, self.columns, self.context_columns = History(), None, None
        self.assemble()

    #: The names of the columns where a data frame was fitted; frames with other names are then refused.
    columns: tuple[str, ...] | None
    context_columns: tuple[str, ...] | None
    whitening: Whitening
    lifting: Lift | None
    features: ContextNetwork | None
    flow: PhaseFlow
    base: PhaseMixture
    drift: PhaseFlow
    encoder: GaussianEncoder | FlowEncoder

    def assemble(self) -> None:
        """Make every part anew from the settings and the seed; only a lift of the caller's own keeps its state."""
        for name, part in fresh_parts(self.config).items():
            setattr(self, name, part)

    def lifts(self) -> list[PhaseFlow]:
        """What takes (q, p) from the coordinates of the Hamiltonian steps to those of the data."""
        return [PhaseFlow(step) for step in (self.lifting, Lift(self.whitening)) if step is not None]

    @property
    def transform(self) -> ComposeTransformModule:
        """The whole map from the base to (q, p) in data coordinates, a Pyro transform of R^(2d) with log-det zero."""
        return self.joint().transforms[0]

    def joint(self, context: Any = None) -> dist.TransformedDistribution:
        """The exact joint density of (q, p) as a Pyro distribution with event shape (2d,), and the batch of a context.

        ``context`` is that of a conditional density, (*batch, context_dim).
        """
        flow, base = self.given(features_of(self, check_context(self, context)))
        return dist.TransformedDistribution(base, [ComposeTransformModule([self.drift, flow, *self.lifts()])])

    def given(self, features: Tensor | None) -> tuple[PhaseFlow, dist.TorchDistribution]:
        """The steps and the base density of (q, p), given features of a context where there is one."""
        if features is None:
            return self.flow, self.base.distribution()
        return self.flow.condition(features), self.base.condition(features)  # type: ignore[operator]

    def standardise(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The coordinates of the steps and the log-det of the map to them, x of shape (n, dim) -> (n, dim), (n,)."""
        z = self.whitening.inv(x)
        log_det = -self.whitening.log_abs_det_jacobian(z, x)
        if self.lifting is None:
            return z, log_det
        inner, lift_log_det = inverse_and_log_det(self.lifting.map, z)
        return inner, log_det + lift_log_det

    def log_joint_standardised(self, z: Tensor, p: Tensor, features: Tensor | None = None) -> Tensor:
        """Log p(z, p) in the coordinates of the steps, z (n, dim) and p (*particles, n, dim) -> (*particles, n)."""
        flow, base = self.given(features)
        log_prob: Tensor = base.log_prob(self.drift.inv(flow.inv(torch.cat((z.expand_as(p), p), dim=-1))))
        return log_prob

    def loss(self, batch: Tensor) -> Tensor:
        """Minus the importance-weighted bound, the mean over rows (n, dim + context_dim); see :func:`bound_loss`."""
        return bound_loss(self, batch)

    def fit(
        self,
        x: Any,
        context: Any = None,
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

        Every call starts afresh from the model's seed; only a lift of your own keeps its state. The standardisation and
        the base are chosen first, by held-out likelihood (of the validation rows, or of a cross-validation where they
        are few); on top of them the flow starts as the identity. A fit that is refused leaves the model as it was.

        Args:
            x: the table, (n, dim): array, tensor or data frame of finite numbers.
            context: of a conditional density, its rows beside those of the table, (n, context_dim).
            epochs: passes over the training rows.
            batch_size: rows a step.
            learning_rate: the largest learning rate.
            weight_decay: decoupled weight decay.
            schedule: of the learning rate: ``"cosine"``, ``"plateau"`` or ``"constant"``.
            validation: the share of rows held out, the held-out rows themselves (of a conditional density with their
                context on the right), or None.
            patience: epochs without a better validation loss before training stops; None never stops early.
            clip: the largest gradient norm.
            seed: for the split, the mixtures, the batches and the noise; the weights at the start are the model's own.
            dtype: float32 or float64; by default that of a tensor ``x``, else the model's.
            device: where to train; by default that of a tensor ``x``, else the model's.
            progress: whether to show a progress bar.
            checkpoint: a file to write the state of the run to; if it exists the run goes on from there, also to more
                epochs, unless the schedule is the cosine.

        Raises:
            InputError: the table or a setting is not what fitting needs.
            FitError: the loss is not finite at the start, or again and again.
            CheckpointError: the checkpoint cannot be used.
        """
        settings = check_settings(
            epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, weight_decay=weight_decay, clip=clip,
            schedule=schedule, patience=patience, seed=seed,
        )  # fmt: skip
        fit_density(
            self, x, context, validation=validation, dtype=dtype, device=device, progress=progress,
            checkpoint=checkpoint, settings=settings,
        )  # fmt: skip
        return self

    def sample(self, n: int, context: Any = None, *, seed: int | None = None, batch_size: int = CHUNK) -> Tensor:
        """``n`` exact draws of q, (n, dim); given a context (*batch, context_dim), (n, *batch, dim)."""
        return self.sample_joint(n, context, seed=seed, batch_size=batch_size)[0]

    @torch.no_grad()
    def sample_joint(
        self, n: int, context: Any = None, *, seed: int | None = None, batch_size: int = CHUNK
    ) -> tuple[Tensor, Tensor]:
        """``n`` exact draws of (q, p), each (n, *batch, dim): p is an exact draw of the momentum given q.

        The same seed and batch size give the same draws.
        """
        check_positive("n", n, integer=True)
        check_positive("batch_size", batch_size, integer=True)
        x = draw(self, n, check_context(self, context), random_generator(seed, self.whitening.loc.device), batch_size)
        return x[..., : self.dim], x[..., self.dim :]

    def log_joint(self, q: Any, p: Any, context: Any = None) -> Tensor:
        """The exact log p(q, p) in data coordinates, q and p (n, dim) -> (n,); contexts as in :meth:`log_prob`."""
        given = check_positions(self, p, "p")
        rows, contexts, batch = check_pair(self, q, context, "q")
        if tuple(given.shape) != tuple(check_positions(self, q, "q").shape):
            raise InputError(f"p has shape {tuple(given.shape)}, expected that of q")
        law = self.joint(contexts)
        x = torch.cat((rows, given.expand(*batch, self.dim).reshape(-1, self.dim)), dim=-1)
        return law.base_dist.log_prob(law.transforms[0].inv(x)).reshape(batch)

    def log_prob(self, x: Any, context: Any = None, *, particles: int = 256, seed: int | None = 0) -> Tensor:
        """The importance-weighted lower bound on log p(x) with K = ``particles``, x of shape (n, dim) -> (n,).

        Of a conditional density, x (*batch, dim) and the context (*batch, context_dim) broadcast, one context for all
        rows included. Like :meth:`elbo` and :meth:`log_weights` it keeps a graph where one of them requires a gradient.
        """
        return importance_bound(self.log_weights(x, context, particles=particles, seed=seed))

    def elbo(self, x: Any, context: Any = None, *, particles: int = 256, seed: int | None = 0) -> Tensor:
        """The single-sample bound, averaged over ``particles`` draws, x of shape (n, dim) -> (n,)."""
        return self.log_weights(x, context, particles=particles, seed=seed).mean(0)

    def log_weights(
        self,
        x: Any,
        context: Any = None,
        *,
        particles: int,
        seed: int | None = 0,
        noise: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Log p(x, p_k) - log f(p_k | x) for ``particles`` draws of the encoder, x of shape (n, dim) -> (K, n).

        ``noise`` takes the place of the seed: a function from rows (m, dim) to standard normals (K, m, dim).
        """
        check_positive("particles", particles, integer=True)
        rows, contexts, batch = check_pair(self, x, context)
        generator = random_generator(seed, rows.device)
        drawn = noise or (lambda part: draw_noise(part, particles, generator))
        wanted = rows.requires_grad or (contexts is not None and contexts.requires_grad)
        with torch.set_grad_enabled(torch.is_grad_enabled() and wanted):
            weights = weigh(self, rows, contexts, drawn, max(1, CHUNK // particles))
        return weights.reshape(-1, *batch)

    def certificate(
        self, x: Any, *, particles: int = 1000, n_model: int = 200, exact: bool = True, seed: int = 0
    ) -> Certificate:
        """How tight the bound is, on rows x (n, dim) and on ``n_model`` draws of the model; see :class:`Certificate`.

        ``exact`` adds the quadrature over the momentum of one or two columns. A conditional density has none.
        """
        return certify(
            self, check_positions(self, x, "x"), particles=particles, n_model=n_model, exact=exact, seed=seed
        )

    def potential(self, q: Any) -> Tensor:
        """V(q) of the fixed-kinetic mode in standardised coordinates, q of shape (n, dim) -> (n,).

        Raises:
            InputError: the model has a potential for each layer.
        """
        if self.config["layerwise"]:
            raise InputError("layerwise = True, expected False: one autonomous potential is needed to read it")
        z = self.standardise(check_positions(self, q, "q"))[0]
        return self.flow.step.hamiltonian.potential(z)  # type: ignore[union-attr, operator]

    def save(self, path: str | Path) -> None:
        """Write the model to a folder, over one that is there: safetensors and JSON; see :func:`hamflow.load`."""
        facts = {
            "components": self.base.components,
            "dtype": str(self.whitening.loc.dtype).removeprefix("torch."),
            "history": asdict(self.history),
            "columns": self.columns,
            "context_columns": self.context_columns,
        }
        write_model(path, SavedModel("NHF", name_parts(self.config), self.state_dict(), facts))

    @classmethod
    def from_saved(cls, saved: SavedModel) -> Self:
        """The model that :meth:`save` described; :func:`hamflow.load` calls this."""
        with of_this_version("NHF"):
            model = cls(**saved.config)
            model.base = fresh_base(model.config, saved.facts["components"])  # type: ignore[assignment]
            model.to(dtype=getattr(torch, saved.facts["dtype"]))
            model.load_state_dict(saved.state)
            model.history = saved_history(saved)
            for name in ("columns", "context_columns"):
                setattr(model, name, tuple(saved.facts.get(name) or ()) or None)
        return model.eval()
