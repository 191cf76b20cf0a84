"""Rows observed under a learned density: its momentum as a latent site, and its encoder as the guide of that site."""

from __future__ import annotations

import copy
import math
from typing import Any, ClassVar

import pyro
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from hamflow.densities import importance_bound
from hamflow.errors import InputError, check_positive
from hamflow.models import NHF

_NO_BATCH = torch.Size()


class ObservedRows:
    r"""Rows q observed under a fitted :class:`hamflow.NHF`, for the model and for the guide of a Pyro program,

    .. math:: \mathrm{ELBO} = \mathbb E_{p_k \sim f(\cdot \mid q)} \log \frac1K \sum_{k=1}^K
              \frac{p(q, p_k)}{f(p_k \mid q)} \le \log p(q) .

    The density of q by itself is an integral over the momentum p. So the momentum becomes a latent site: in the model
    its density is the exact joint :math:`p(q, p)`, in the guide it is drawn from the encoder :math:`f(p \mid q)`, and
    what Pyro makes of the two is the bound of the flow. With K > 1 the site holds K momenta, of which the model takes
    any one as the true one and the others as draws of f: a density whose integral over all of them is :math:`p(q)`
    too. So a Markov chain over the model's latents and the momenta, which needs no guide, is exact for every K.

    Rows may depend on latents, as residuals do: the guide must hand over what the model makes of its own draws. Both
    calls stand under the plate of the rows, also where that draws minibatches.

    Args:
        flow: a fitted density.
        particles: K.
        learn: whether SVI goes on learning the weights of ``flow``, under the name of the rows in Pyro's parameter
            store; otherwise a frozen copy is used. The standardisation stays as it was fitted.
        name: of the rows; the site is called ``site``, this name with ``_momentum``.

    Raises:
        InputError: an argument is out of range; (when called) rows are no tensor (*batch, d).

    References:
        Toth et al. (2020), Hamiltonian Generative Networks, arXiv 1909.13789, for the bound; Burda et al. (2016),
        Importance Weighted Autoencoders, arXiv 1509.00519, for K > 1.

    Example:
        >>> import torch, pyro, pyro.distributions as dist, hamflow as hf
        >>> from pyro.infer import SVI, Trace_ELBO
        >>> from pyro.infer.autoguide import AutoNormal
        >>> noise = hf.NHF(1, n_steps=2, width=4)                   # and fit it
        >>> rows, y = hf.inference.ObservedRows(noise), torch.randn(20, 1) + 3
        >>> def model():
        ...     m = pyro.sample("m", dist.Normal(0.0, 10.0))
        ...     with pyro.plate("rows", 20):
        ...         rows.model(y - m.unsqueeze(-1))
        >>> pyro.clear_param_store()
        >>> rest = AutoNormal(pyro.poutine.block(model, hide=[rows.site]))
        >>> def guide():
        ...     m = rest()["m"]
        ...     with pyro.plate("rows", 20):
        ...         rows.guide(y - m.unsqueeze(-1))
        >>> isinstance(SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO()).step(), float)
        True
    """

    def __init__(self, flow: NHF, *, particles: int = 1, learn: bool = False, name: str = "rows") -> None:
        if not isinstance(flow, NHF):
            raise InputError(f"flow is a {type(flow).__name__}, expected an NHF")
        if flow.features is not None:
            raise InputError("flow depends on a context, expected a density without one")
        if not isinstance(name, str) or not name:
            raise InputError(f"name = {name!r}, expected a word")
        check_positive("particles", particles, integer=True)
        # A copy, so that neither gradients nor a later fit of the caller's flow reach a posterior that was found.
        self.flow = flow.eval() if learn else copy.deepcopy(flow).eval().requires_grad_(False)
        self.particles, self.learn, self.name = int(particles), learn, name

    @property
    def site(self) -> str:
        """The name of the momenta's site, of event shape (K, d)."""
        return f"{self.name}_momentum"

    def model(self, q: Tensor) -> Tensor:
        """Observe rows in a model, (*batch, d); the momenta that go with them, (*batch, K, d)."""
        return self._momenta(q, encoded=False)

    def guide(self, q: Tensor) -> Tensor:
        """Draw the momenta of the same rows in its guide, (*batch, d) -> (*batch, K, d)."""
        return self._momenta(q, encoded=True)

    def _momenta(self, q: Tensor, *, encoded: bool) -> Tensor:
        dim = self.flow.dim
        if not isinstance(q, Tensor) or q.shape[-1:] != (dim,):
            shape = tuple(q.shape) if isinstance(q, Tensor) else type(q).__name__
            raise InputError(f"q is {shape}, expected a tensor (*batch, {dim}), one row of {dim} for every place")
        if self.learn:
            pyro.module(self.name, self.flow)
        law = MomentumLaw(self.flow, q.to(self.flow.whitening.loc), particles=self.particles, encoded=encoded)
        momenta: Tensor = pyro.sample(self.site, law)
        return momenta


class MomentumLaw(TorchDistribution):
    r"""Momenta of rows q, (K, d): in a guide :math:`\prod_k f(p_k \mid q)`, in a model

    .. math:: \frac1K \sum_k p(q, p_k) \prod_{j \ne k} f(p_j \mid q),

    which integrates to :math:`p(q)`, not to one: it is the observation of q as well. Momenta are those of the
    coordinates of the steps, where the encoder lives; both kinds of draws come from it.

    Args:
        flow: the density.
        q: rows, (*batch, d).
        particles: K.
        encoded: whether it is the guide's.
        batch_shape: the shape of a batch that q broadcasts to; without, that of q.

    Example:
        >>> import torch, hamflow as hf
        >>> from hamflow.inference.observed import MomentumLaw
        >>> law = MomentumLaw(hf.NHF(2, n_steps=2, width=4), torch.zeros(5, 2), particles=3, encoded=False)
        >>> law.log_prob(law.sample()).shape, law.event_shape
        (torch.Size([5]), torch.Size([3, 2]))
    """

    support = constraints.independent(constraints.real, 2)
    has_rsample = True
    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(
        self, flow: NHF, q: Tensor, *, particles: int, encoded: bool, batch_shape: torch.Size | None = None
    ) -> None:
        self.flow, self.q, self.encoded = flow, q, encoded
        self.z, self.log_det = _standardised(flow, q)
        self._last: tuple[Tensor, Tensor] | None = None
        shape = q.shape[:-1] if batch_shape is None else batch_shape
        super().__init__(shape, torch.Size((particles, flow.dim)), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> MomentumLaw:
        """The same law in a larger batch; rows are not copied."""
        wider: MomentumLaw = self.__class__.__new__(self.__class__)
        wider.flow, wider.q, wider.encoded = self.flow, self.q, self.encoded
        wider.z, wider.log_det, wider._last = self.z, self.log_det, None
        TorchDistribution.__init__(wider, torch.Size(batch_shape), self.event_shape, validate_args=False)
        return wider

    def rsample(self, sample_shape: Any = _NO_BATCH) -> Tensor:
        """Draws of the encoder, (*sample_shape, *batch, K, d)."""
        shape = torch.Size(sample_shape) + self.batch_shape
        rows, copies = self._rows(shape)
        particles, d = self.event_shape
        noise = torch.randn(particles * copies, len(rows), d, dtype=rows.dtype, device=rows.device)
        p, log_f = self.flow.encoder.colour(noise, rows)
        p = p.reshape(particles, *shape, d).movedim(0, -2)
        # Pyro asks for the density of what was just drawn, and of that the noise knows more than the momentum.
        self._last = p, log_f.reshape(particles, *shape)
        return p

    def log_prob(self, value: Tensor) -> Tensor:
        """The log density, (*shape, K, d) -> (*shape,)."""
        shape = torch.broadcast_shapes(value.shape[:-2], self.batch_shape)
        particles, d = self.event_shape
        rows, copies = self._rows(shape)
        p = value.expand(*shape, particles, d).movedim(-2, 0).reshape(particles * copies, len(rows), d)
        if self.encoded:
            if self._last is not None and self._last[0] is value:
                return self._last[1].sum(0)
            return self.flow.encoder(p, rows).reshape(particles, *shape).sum(0)
        log_joint = self.flow.log_joint_standardised(rows, p).reshape(particles, *shape) + self.log_det
        if particles == 1:
            return log_joint[0]
        log_f = self.flow.encoder(p, rows).reshape(particles, *shape)
        return importance_bound(log_joint - log_f) + log_f.sum(0)

    def _rows(self, shape: torch.Size) -> tuple[Tensor, int]:
        # Rows (m, d), and how many times they are repeated on the left to fill the shape: the encoder sees a row once.
        z, d = self.z, self.flow.dim
        if shape[len(shape) - (z.ndim - 1) :] != z.shape[:-1]:
            z = z.expand(*shape, d)
        rows = z.reshape(-1, d)
        return rows, math.prod(shape) // max(1, len(rows))


def _standardised(flow: NHF, q: Tensor) -> tuple[Tensor, Tensor]:
    # The encoder and the lifts take a table.
    z, log_det = flow.standardise(q.reshape(-1, flow.dim))
    return z.reshape(q.shape), log_det.reshape(q.shape[:-1])
