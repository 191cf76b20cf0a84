"""Steps of systems with friction."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from hamflow.energies.hamiltonian import Hamiltonian, Time
from hamflow.errors import InputError
from hamflow.steps.parts import Part, Scale
from hamflow.steps.step import Step
from hamflow.steps.walk import in_lots, run


class Damped(Step):
    r"""A step with friction that is linear in the momentum, :math:`\dot p = -\partial H / \partial q - \gamma p`.

    .. math:: p \leftarrow e^{-\gamma \Delta t / 2} p, \qquad (q, p) \leftarrow S(q, p), \qquad
              p \leftarrow e^{-\gamma \Delta t / 2} p

    Friction alone is solved exactly, so the inverse is exact where that of S is, and the log-determinant is the
    constant :math:`-\Delta t \sum_i \gamma_i`. For one :math:`\gamma` the step is conformally symplectic,
    :math:`J^\top \Omega J = e^{-\gamma \Delta t} \Omega`. The order is 2, or that of S where it is lower. Over many
    steps neighbouring halves of the friction are merged.

    Args:
        step: S, the step of the system without friction.
        gamma: the friction, a positive number or tensor of shape () or (d,), [1 / time]. A tensor that is not learned
            is kept with its graph, and may be (*batch, d) or (*batch, 1), one friction a row: a latent of a model.
        learn: whether it is a parameter.

    Raises:
        InputError: ``step`` is not a :class:`Step`, or ``gamma`` has the wrong shape or sign.

    References:
        McLachlan and Perlmutter (2001), Conformal Hamiltonian systems, Journal of Geometry and Physics 39, 276;
        Bhatt, Floyd and Moore (2016), Second order conformal symplectic schemes for damped Hamiltonian systems,
        Journal of Scientific Computing 66, 1234.

    Example:
        >>> import torch, hamflow as hf
        >>> H = hf.SeparableHamiltonian(hf.QuadraticKinetic(1), hf.FunctionEnergy(lambda q: 0.5 * (q**2).sum(-1)))
        >>> step = hf.Damped(hf.Splitting(H), gamma=0.5)
        >>> q, p = step.iterate(torch.tensor([1.0]), torch.tensor([0.0]), 0.0, 0.1, 200)
        >>> bool(H(q, p) < 1e-4), step.log_det(q, 0.1, 200).item()
        (True, -10.0)
    """

    no_weight_decay = True
    log_gamma: Tensor

    def __init__(self, step: Step, gamma: float | Tensor, *, learn: bool = False) -> None:
        super().__init__()
        if not isinstance(step, Step):
            raise InputError(f"step is a {type(step).__name__}, expected a hamflow Step such as Splitting(H)")
        kept = isinstance(gamma, Tensor) and gamma.is_floating_point() and not learn
        start = torch.as_tensor(gamma, dtype=None if kept else torch.get_default_dtype())
        # What a sampler proposes may overflow, and is its own to reject.
        fine = start.requires_grad or bool(((start > 0) & start.isfinite()).all())
        if not fine or (start.ndim > 1 and not kept):
            raise InputError(f"gamma = {gamma!r}, expected a positive number or a positive tensor of shape () or (d,)")
        self.step = step
        if kept:
            self.register_buffer("log_gamma", start.log())
        else:
            self.log_gamma = nn.Parameter(start.log(), requires_grad=learn)
        self.order = None if step.order is None else min(2, step.order)
        self.tolerance = step.tolerance

    @property
    def damping(self) -> Tensor:  # type: ignore[override]
        """The friction of this step and of the one within, () or (d,)."""
        return self.log_gamma.exp() + self.step.damping

    @property
    def hamiltonian(self) -> Hamiltonian | None:
        """What the step within integrates, where it says so."""
        return getattr(self.step, "hamiltonian", None)

    def forward(self, q: Tensor, p: Tensor, t: Time = 0.0, dt: Time = 0.1) -> tuple[Tensor, Tensor]:
        """One step; q and p of shape (*batch, d)."""
        return self.iterate(q, p, t, dt, 1)

    def inverse(self, q: Tensor, p: Tensor, t: Time = 0.0, dt: Time = 0.1) -> tuple[Tensor, Tensor]:
        """Undoes one step that began at time t; q and p of shape (*batch, d)."""
        return self.iterate_inverse(q, p, t, dt, 1)

    def iterate(self, q: Tensor, p: Tensor, t: Time = 0.0, dt: Time = 0.1, n_steps: int = 1) -> tuple[Tensor, Tensor]:
        """``n_steps`` steps with neighbouring halves of the friction merged."""
        return run(in_lots(partial(Damped.moves, self), p, t, dt, n_steps), q, p)

    def iterate_inverse(
        self, q: Tensor, p: Tensor, t: Time = 0.0, dt: Time = 0.1, n_steps: int = 1
    ) -> tuple[Tensor, Tensor]:
        """Undoes ``n_steps`` steps, neighbouring halves of the friction merged."""
        return run(in_lots(partial(Damped.moves, self), p, t, dt, n_steps, backwards=True), q, p)

    def moves(
        self, q: Tensor, t: Time = 0.0, dt: Time = 0.1, n_steps: int = 1, *, backwards: bool = False
    ) -> list[Part]:
        """The parts of the step within, and the friction between them."""
        return Damped.chains(self, q, [(t, dt)], n_steps, backwards=backwards)[0]

    def chains(
        self, q: Tensor, spans: Sequence[tuple[Time, Time]], n_steps: int = 1, *, backwards: bool = False
    ) -> list[list[Part]]:
        """The same from each span (t, dt)."""
        order = range(n_steps)[::-1] if backwards else range(n_steps)
        within = [(t + k * dt, dt) for t, dt in spans for k in order]
        inner = iter(self.step.chains(q, within, backwards=backwards))
        factors: dict[int, tuple[Tensor, Tensor]] = {}
        found: list[list[Part]] = []
        for _, dt in spans:
            # As few as there are time steps: each is kept until the way back.
            half, whole = factors.setdefault(id(dt), self._factors(q, dt if backwards else -dt))
            found.append([])
            for k in range(n_steps):
                found[-1] += [Scale(whole if k else half), *next(inner)]
            found[-1] += [Scale(half)] if n_steps else []
        return found

    def log_det(self, q: Tensor, dt: Time = 0.1, n_steps: int = 1) -> Tensor:
        """That of the step within less the friction of this one, (*batch, d) -> (*batch,).

        Raises:
            InputError: the step within has a force, and the change of volume depends on the path.
        """
        rates = (self.damping - self.step.damping).to(q) * dt
        return self.step.log_det(q, dt, n_steps) - n_steps * rates.expand(q.shape).sum(-1)

    def _factors(self, p: Tensor, dt: Time) -> tuple[Tensor, Tensor]:
        if self.log_gamma.ndim and self.log_gamma.shape[-1] not in (1, p.shape[-1]):
            raise InputError(
                f"p has shape {tuple(p.shape)}, expected (*batch, {self.log_gamma.shape[-1]}) as gamma has"
            )
        half = (self.log_gamma.to(p).exp() * dt / 2).exp()
        return half, half * half
