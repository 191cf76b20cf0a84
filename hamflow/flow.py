"""PhaseFlow: many steps as one Pyro transform of R^(2d)."""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.distributions.torch_transform import TransformModule
from torch import Tensor
from torch.distributions import constraints

from hamflow.energies import ConditionedEnergy, QuadraticKinetic, RidgePotential, SeparableHamiltonian
from hamflow.errors import InputError, check_choice, check_positive
from hamflow.steps.reversible import MEMORIES, iterate
from hamflow.steps.schemes import LEAPFROG, Scheme
from hamflow.steps.splitting import Splitting
from hamflow.steps.step import Step

#: From so many steps on the memory of a graph counts more than the fifth of the time that it saves.
_MANY = 64


class PhaseFlow(TransformModule):
    r"""``n_steps`` steps as a bijection of :math:`x = (q, p) \in \mathbb R^{2d}`, its log-det known exactly,

    .. math:: \Phi = S_{t_{n-1}} \circ \dots \circ S_{t_0}, \qquad t_k = k\,\Delta t, \qquad
              \log|\det J_\Phi| = -n\,\Delta t \sum_i \gamma_i ,

    which is zero unless the step has friction (:class:`Damped`). It is a Pyro ``TransformModule``: usable in
    ``TransformedDistribution``, ``ComposeTransformModule``, ``pyro.module`` and autoguides. Parameters are shared with
    the step, with :meth:`reversed` and with ``with_cache``.

    Args:
        step: a :class:`Step`.
        n_steps: how often it is applied.
        dt: the time step.
        reverse: whether calling the transform runs the steps backwards.
        memory: how gradients go back. ``"stored"`` keeps a graph of all steps; ``"constant"`` keeps the end alone and
            undoes the steps on the way back, so that memory does not grow with their number, and has no second
            derivatives. By itself it is ``"constant"`` from 64 steps on, if they are explicit and have no friction.
        cache_size: 0 or 1, as in ``torch.distributions.Transform``. Leave it at 0 when training: a cached value is
            stale after an optimiser step.

    Raises:
        InputError: an argument is of the wrong kind, or the step is none of all of phase space, as :class:`Rattle`;
            (when called) the last dimension is odd, or the step has a force and no log-det that is known.

    References:
        Toth et al. (2020), Hamiltonian Generative Networks, arXiv 1909.13789.

    Example:
        >>> import torch, hamflow as hf, pyro.distributions as dist
        >>> H = hf.SeparableHamiltonian(hf.QuadraticKinetic(2), hf.RidgePotential(2, width=16))
        >>> flow = hf.PhaseFlow(hf.Splitting(H, hf.LEAPFROG), n_steps=8, dt=0.1)
        >>> base = dist.Normal(torch.zeros(4), torch.ones(4)).to_event(1)
        >>> dist.TransformedDistribution(base, [flow]).rsample((5,)).shape
        torch.Size([5, 4])
    """

    bijective = True
    domain = constraints.real_vector
    codomain = constraints.real_vector

    def __init__(
        self,
        step: Step,
        n_steps: int = 1,
        dt: float = 0.1,
        *,
        reverse: bool = False,
        memory: str | None = None,
        cache_size: int = 0,
    ) -> None:
        super().__init__(cache_size=cache_size)
        if not isinstance(step, Step):
            raise InputError(f"step is a {type(step).__name__}, expected a hamflow Step such as Splitting(H)")
        partial = next((part for part in step.modules() if isinstance(part, Step) and not part.bijective), None)
        if partial is not None:
            within = "" if partial is step else f" with a {type(partial).__name__} in it"
            raise InputError(
                f"step is a {type(step).__name__}{within}, which maps no other states than those on its constraint; "
                "expected a bijection of phase space"
            )
        check_positive("n_steps", n_steps, integer=True)
        check_positive("dt", dt)
        self.step = step
        self.n_steps = n_steps
        self.dt = float(dt)
        self.reverse = reverse
        # Who asked for no memory mode is not to fail for it.
        self._chosen = memory is None
        if memory is None:
            # Going back, friction magnifies rounding.
            exact = step.tolerance == 0 and isinstance(step.damping, float) and step.damping == 0
            memory = "constant" if n_steps >= _MANY and exact else "stored"
        check_choice("memory", memory, MEMORIES)
        self.memory = memory

    def _call(self, x: Tensor) -> Tensor:
        return self._run(x, backwards=self.reverse)

    def _inverse(self, y: Tensor) -> Tensor:
        return self._run(y, backwards=not self.reverse)

    def _run(self, x: Tensor, *, backwards: bool) -> Tensor:
        if x.ndim == 0 or x.shape[-1] % 2:
            raise InputError(
                f"x has shape {tuple(x.shape)}, expected (*batch, 2 d): positions and momenta side by side"
            )
        q, p = x.chunk(2, dim=-1)
        end = iterate(
            self.step, q, p, 0.0, self.dt, self.n_steps, memory=self.memory, backwards=backwards, forgiving=self._chosen
        )
        return torch.cat(end, dim=-1)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """The log-det that the step declares, of shape ``x.shape[:-1]``: zero unless it has friction."""
        log_det = self.step.log_det(x.chunk(2, dim=-1)[0], self.dt, self.n_steps)
        return -log_det if self.reverse else log_det

    def condition(self, context: Tensor) -> PhaseFlow:
        r"""This flow given a context (*batch, c), where the potential takes d + c columns, the context on the right,

        .. math:: H(q, p; c) = T(p) + V\bigl((q, c)\bigr) .

        The context is a coordinate that acts and does not move, so every step preserves volume. Parameters are shared.

        Raises:
            InputError: the step is none of a separable Hamiltonian; (when called) the batches do not go together.

        References:
            Winkler et al. (2019), Learning Likelihoods with Conditional Normalizing Flows, arXiv 1912.00042.
        """
        if type(self.step) is not Splitting:
            raise InputError(f"step is a {type(self.step).__name__}, expected a Splitting, whose potential is known")
        energy = self.step.hamiltonian
        given = SeparableHamiltonian(energy.kinetic, ConditionedEnergy(energy.potential, context))
        return self._like(step=Splitting(given, self.step.scheme))

    def with_cache(self, cache_size: int = 1) -> PhaseFlow:
        """This flow with another cache size; the parameters are shared."""
        if self._cache_size == cache_size:
            return self
        return self._like(cache_size=cache_size)

    def reversed(self) -> PhaseFlow:
        """The inverse direction as a module of its own, sharing the parameters.

        ``flow.inv`` is no module: an autoguide built on it would train nothing. This is.
        """
        return self._like(reverse=not self.reverse)

    def _like(self, *, step: Step | None = None, **changed: Any) -> PhaseFlow:
        memory = None if self._chosen else self.memory
        kept: dict[str, Any] = {"reverse": self.reverse, "memory": memory, "cache_size": self._cache_size}
        return PhaseFlow(self.step if step is None else step, self.n_steps, self.dt, **kept | changed)


def hamiltonian(
    input_dim: int,
    context_dim: int = 0,
    *,
    n_steps: int = 8,
    width: int = 64,
    dt: float = 0.25,
    scheme: Scheme = LEAPFROG,
    layerwise: bool = True,
    memory: str | None = None,
) -> PhaseFlow:
    r"""A :class:`PhaseFlow` of learned ridge potentials, in the manner of Pyro's transform helpers.

    Args:
        input_dim: 2d, the even number of dimensions that positions and momenta share.
        context_dim: c, columns of a context; the flow is then :meth:`PhaseFlow.condition` of one.
        n_steps: the number of steps.
        width: the number of ridges of each potential.
        dt: the time step.
        scheme: the splitting scheme.
        layerwise: one set of parameters a layer (best for densities), or one autonomous Hamiltonian.
        memory: of the flow, ``"stored"``, ``"constant"`` or by itself, see :class:`PhaseFlow`.

    Raises:
        InputError: ``input_dim`` is odd or an argument is out of range.

    Note:
        The map preserves volume: on a fixed base it has constant entropy. In a guide put trainable affine maps, or
        other flows, on either side of it.

    Example:
        >>> import torch, hamflow as hf
        >>> flow = hf.hamiltonian(input_dim=4)
        >>> flow.n_steps
        8
        >>> given = hf.hamiltonian(input_dim=4, context_dim=3).condition(torch.randn(5, 3))
        >>> given(torch.randn(5, 4)).shape
        torch.Size([5, 4])
    """
    check_positive("input_dim", input_dim, integer=True)
    if input_dim % 2:
        raise InputError(f"input_dim = {input_dim}, expected an even number: positions and momenta share it")
    if context_dim != 0:
        check_positive("context_dim", context_dim, integer=True)
    energy = layered_hamiltonian(
        input_dim // 2, n_steps=n_steps, width=width, dt=dt, scheme=scheme, layerwise=layerwise, context_dim=context_dim
    )
    return PhaseFlow(Splitting(energy, scheme), n_steps=n_steps, dt=dt, memory=memory)


def layered_hamiltonian(
    dim: int,
    *,
    n_steps: int,
    width: int,
    dt: float,
    scheme: Scheme = LEAPFROG,
    layerwise: bool = True,
    context_dim: int = 0,
) -> SeparableHamiltonian:
    """A separable Hamiltonian of ridge potentials and a learned mass for ``n_steps`` steps of ``dt``.

    Args:
        dim: d, the number of degrees of freedom.
        n_steps: the number of steps that the layers must cover.
        width: the number of ridges of each potential.
        dt: the time step.
        scheme: the scheme that will step it; where its last kick comes at the end of a step, one layer more is needed.
        layerwise: one potential a layer, or one autonomous potential.
        context_dim: further columns that the potential takes.
    """
    last_kick = max(time for is_kick, _, time in scheme.stages(n_steps) if is_kick)
    layers = math.floor(last_kick + 0.5) + 1 if layerwise else 1
    return SeparableHamiltonian(
        QuadraticKinetic(dim, learn=True), RidgePotential(dim + context_dim, width, layers=layers, spacing=dt)
    )
