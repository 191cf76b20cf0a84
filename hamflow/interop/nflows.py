"""Transforms to and from nflows."""

from __future__ import annotations

from typing import Any

from nflows.transforms.base import Transform as NflowsTransform
from torch import Tensor

from hamflow.errors import InputError
from hamflow.interop.foreign import ForeignTransform, check_flow_module, inverse_and_log_det, row_log_det


class FromNflows(ForeignTransform):
    """An nflows transform as a Pyro transform; :func:`from_nflows` makes one."""

    def to_noise(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Noise (*batch, d) of data ``x`` and the log-det of this map, (*batch,)."""
        return self._flat(self.transform.forward, x)

    def to_data(self, z: Tensor) -> Tensor:
        """Data (*batch, d) of noise ``z``."""
        return self._flat(self.transform.inverse, z)[0]

    def _flat(self, function: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        # nflows knows one batch dimension only.
        batch = x.shape[:-1]
        context = self._expanded_context(batch)
        if context is not None:
            context = context.reshape(-1, context.shape[-1])
        y, log_det = function(x.reshape(-1, x.shape[-1]), context)
        return y.reshape(*batch, -1), log_det.reshape(batch)


class ToNflows(NflowsTransform):
    """A Pyro transform as an nflows transform; :func:`to_nflows` makes one."""

    def __init__(self, flow: Any) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Noise (n, d) of data, and the log-det of this map, (n,); the context has no effect."""
        return inverse_and_log_det(self.flow, inputs)

    def inverse(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Data (n, d) of noise, and the log-det of this map, (n,); the context has no effect."""
        data = self.flow(inputs)
        return data, row_log_det(self.flow, inputs, data)


def from_nflows(transform: NflowsTransform, *, context: Tensor | None = None) -> FromNflows:
    r"""An nflows transform as a Pyro ``TransformModule``, its parameters shared.

    nflows maps data to noise and Pyro noise to data, so calling the result is the **inverse** of ``transform``, and

    .. math:: \texttt{TransformedDistribution(base, [from_nflows(f)])} \quad\text{is the density of}\quad
              \texttt{nflows.flows.Flow(f, base)}.

    ``.reversed()`` is the direction of ``transform`` itself. Any batch shape is taken.

    Args:
        transform: an nflows transform of vectors.
        context: None, or a tensor (*batch, c) that conditions it, broadcast against the input's batch shape.

    Raises:
        InputError: not an nflows transform; or a layer of it (ActNorm) still waits for data to start from.

    References:
        Durkan et al. (2020), nflows: normalizing flows in PyTorch, Zenodo 4296287.

    Example:
        >>> import torch, hamflow as hf
        >>> from nflows.transforms import LULinear
        >>> flow = hf.interop.nflows.from_nflows(LULinear(3))
        >>> x = torch.randn(4, 5, 3)
        >>> flow(x).shape, flow.log_abs_det_jacobian(x, flow(x)).shape
        (torch.Size([4, 5, 3]), torch.Size([4, 5]))
    """
    if not isinstance(transform, NflowsTransform):
        raise InputError(f"transform is a {type(transform).__name__}, expected an nflows Transform")
    for module in transform.modules():
        # Such a layer sets its parameters in its first call. Inside a differentiated function that corrupts memory.
        ready = getattr(module, "initialized", None)
        if isinstance(ready, Tensor) and not ready.all():
            raise InputError(
                f"transform has a {type(module).__name__} that waits for data, expected a ready transform: "
                "call transform(rows) once, or module.initialized.fill_(True) to start at the identity"
            )
    return FromNflows(transform, context=context)


def to_nflows(flow: Any) -> ToNflows:
    r"""A :class:`hamflow.PhaseFlow`, or any Pyro ``TransformModule``, as an nflows transform, its parameters shared.

    nflows maps data to noise, so its ``forward`` is the inverse of ``flow`` and ``nflows.flows.Flow(to_nflows(flow),
    base)`` is the density of ``TransformedDistribution(base, [flow])``.

    Args:
        flow: a bijective transform of vectors that is a module.

    Raises:
        InputError: not such a module.

    Example:
        >>> import hamflow as hf
        >>> from nflows.distributions import StandardNormal
        >>> from nflows.flows import Flow
        >>> flow = Flow(hf.interop.nflows.to_nflows(hf.hamiltonian(4)), StandardNormal([4]))
        >>> flow.log_prob(flow.sample(3)).shape
        torch.Size([3])
    """
    check_flow_module(flow)
    return ToNflows(flow)
