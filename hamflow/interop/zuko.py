"""Transforms to and from zuko."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.distributions import Distribution, Transform

from hamflow.errors import InputError
from hamflow.interop.foreign import ForeignTransform, check_flow_module, row_log_det

# Importing zuko switches off the argument checks of every torch distribution in the process: switch them back.
_checks = Distribution._validate_args
try:
    from zuko.lazy import LazyTransform
except ImportError as error:
    raise ImportError("hamflow.interop.zuko needs zuko, expected it to be installed: pip install zuko") from error
finally:
    Distribution.set_default_validate_args(_checks)


class FromZuko(ForeignTransform):
    """A zuko transform as a Pyro transform; :func:`from_zuko` makes one."""

    def to_noise(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Noise (*batch, d) of data ``x`` and the log-det of this map, (*batch,)."""
        transform = self._built(x)
        noise = transform(x)
        return noise, row_log_det(transform, x, noise)

    def to_data(self, z: Tensor) -> Tensor:
        """Data (*batch, d) of noise ``z``."""
        data: Tensor = self._built(z).inv(z)
        return data

    def _built(self, x: Tensor) -> Transform:
        if not isinstance(self.transform, LazyTransform):
            return self.transform
        return self.transform(self._expanded_context(x.shape[:-1]))


class ToZuko(LazyTransform):
    """A Pyro transform as a zuko lazy transform; :func:`to_zuko` makes one."""

    def __init__(self, flow: Any) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, c: Tensor | None = None) -> Transform:
        """The transform from data to noise; the context has no effect."""
        return self.flow.inv


def from_zuko(transform: Any, *, context: Tensor | None = None) -> FromZuko:
    r"""A zuko transform as a Pyro ``TransformModule``, its parameters shared.

    zuko maps data to noise and Pyro noise to data, so calling the result is the **inverse** of ``transform``, and

    .. math:: \texttt{TransformedDistribution(base, [from\_zuko(flow.transform)])} \quad\text{is the density of}\quad
              \texttt{flow()}.

    ``.reversed()`` is the direction of ``transform`` itself.

    Args:
        transform: a zuko lazy transform, such as ``zuko.flows.NSF(3).transform``, whose parameters train; or a torch
            transform that one has built, which has none of its own.
        context: None, or a tensor (*batch, c) that conditions it, broadcast against the input's batch shape.

    Raises:
        InputError: neither a lazy nor a torch transform, or a context for a transform that takes none.

    References:
        Rozet et al. (2022), Zuko: normalizing flows in PyTorch, Zenodo 7625672.

    Example:
        >>> import torch, hamflow as hf
        >>> from zuko.flows import MAF
        >>> flow = hf.interop.zuko.from_zuko(MAF(3, transforms=1, hidden_features=(8,)).transform)
        >>> flow(torch.randn(4, 5, 3)).shape
        torch.Size([4, 5, 3])
    """
    if not isinstance(transform, (LazyTransform, Transform)):
        hint = (
            "; of a zuko Flow pass its .transform"
            if isinstance(getattr(transform, "transform", None), nn.Module)
            else ""
        )
        raise InputError(
            f"transform is a {type(transform).__name__}, expected a zuko LazyTransform or a torch Transform{hint}"
        )
    if context is not None and not isinstance(transform, LazyTransform):
        raise InputError(f"context has shape {tuple(context.shape)}, expected None: only a lazy transform takes one")
    return FromZuko(transform, context=context)


def to_zuko(flow: Any) -> ToZuko:
    r"""A :class:`hamflow.PhaseFlow`, or any Pyro ``TransformModule``, as a zuko lazy transform, its parameters shared.

    zuko maps data to noise, so the transform it builds is the inverse of ``flow``, and ``zuko.flows.Flow(to_zuko(flow),
    base)`` is the density of ``TransformedDistribution(base, [flow])``.

    Args:
        flow: a bijective transform of vectors that is a module.

    Raises:
        InputError: not such a module.

    Example:
        >>> import torch, hamflow as hf, zuko
        >>> base = zuko.lazy.UnconditionalDistribution(zuko.distributions.DiagNormal, torch.zeros(4), torch.ones(4))
        >>> flow = zuko.lazy.Flow(hf.interop.zuko.to_zuko(hf.hamiltonian(4)), base)
        >>> flow().log_prob(flow().sample((3,))).shape
        torch.Size([3])
    """
    check_flow_module(flow)
    return ToZuko(flow)
