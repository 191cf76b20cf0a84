"""What the adapters share: a transform of another library, data to noise, as a Pyro transform, noise to data."""

from __future__ import annotations

from typing import Any

from pyro.distributions.torch_transform import TransformModule
from torch import Tensor, nn
from torch.distributions import Transform, constraints

from hamflow.errors import InputError


class ForeignTransform(TransformModule):
    """The base of the adapters' transforms: a subclass says how its library maps one way and the other.

    Args:
        transform: the other library's object, registered so that its parameters train.
        context: None, or the tensor (*batch, c) that conditions it; it moves with ``.to`` and is left out of the state.
        reverse: whether calling maps data to noise.
        cache_size: 0 or 1, as in ``torch.distributions.Transform``.
    """

    bijective = True
    domain = constraints.real_vector
    codomain = constraints.real_vector
    context: Tensor | None

    def __init__(
        self, transform: Any, *, context: Tensor | None = None, reverse: bool = False, cache_size: int = 0
    ) -> None:
        super().__init__(cache_size=cache_size)
        if context is not None and (not isinstance(context, Tensor) or context.ndim == 0):
            raise InputError(f"context = {context!r}, expected None or a tensor of shape (*batch, c)")
        self.transform = transform
        self.register_buffer("context", context, persistent=False)
        self.reverse = reverse

    def to_noise(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Noise (*batch, d) of data ``x`` and the log-det of this map, (*batch,)."""
        raise NotImplementedError(f"{type(self).__name__} must implement to_noise(x)")

    def to_data(self, z: Tensor) -> Tensor:
        """Data (*batch, d) of noise ``z``."""
        raise NotImplementedError(f"{type(self).__name__} must implement to_data(z)")

    def _call(self, x: Tensor) -> Tensor:
        return self.to_noise(x)[0] if self.reverse else self.to_data(x)

    def _inverse(self, y: Tensor) -> Tensor:
        return self.to_data(y) if self.reverse else self.to_noise(y)[0]

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """The log-det, of shape ``x.shape[:-1]``, taken from data to noise: the cheap direction of these libraries."""
        return self.to_noise(x)[1] if self.reverse else -self.to_noise(y)[1]

    def inverse_and_log_det(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """The inverse of ``y`` and the log-det of the inverse map, (*batch,); from data to noise in one pass."""
        if not self.reverse:
            return self.to_noise(y)
        x = self.to_data(y)
        return x, -self.to_noise(x)[1]

    def with_cache(self, cache_size: int = 1) -> ForeignTransform:
        """This transform with another cache size; the parameters are shared."""
        if self._cache_size == cache_size:
            return self
        return type(self)(self.transform, context=self.context, reverse=self.reverse, cache_size=cache_size)

    def reversed(self) -> ForeignTransform:
        """The direction from data to noise (or back) as a module of its own, sharing the parameters."""
        return type(self)(self.transform, context=self.context, reverse=not self.reverse, cache_size=self._cache_size)

    def _expanded_context(self, batch: tuple[int, ...]) -> Tensor | None:
        if self.context is None:
            return None
        try:
            return self.context.expand(*batch, self.context.shape[-1])
        except RuntimeError as error:
            raise InputError(
                f"context has shape {tuple(self.context.shape)}, expected one that broadcasts to {(*batch, 'c')}"
            ) from error


def check_flow_module(flow: Any) -> None:
    """Raise :class:`InputError` unless ``flow`` is a module and a bijective transform of vectors, as Pyro's are."""
    if not (isinstance(flow, Transform) and isinstance(flow, nn.Module)):
        raise InputError(
            f"flow is a {type(flow).__name__}, expected a Pyro TransformModule such as PhaseFlow; of its inverse "
            "take flow.reversed(), and of a list of flows a ComposeTransformModule"
        )
    if not flow.bijective or flow.domain.event_dim > 1 or flow.codomain.event_dim > 1:
        raise InputError(f"flow is {type(flow).__name__}, which is no bijection of vectors")


def row_log_det(transform: Transform, x: Tensor, y: Tensor) -> Tensor:
    """The log-det of each row, (*batch,): a transform of single numbers has one an entry, and they are summed."""
    log_det: Tensor = transform.log_abs_det_jacobian(x, y)
    return log_det.sum(-1) if transform.domain.event_dim == 0 else log_det


def inverse_and_log_det(transform: Transform, y: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse of the rows ``y`` and the log-det of the inverse map, (*batch,), in one pass where there is one."""
    together = getattr(transform, "inverse_and_log_det", None)
    if together is not None:
        x, log_det = together(y)
        return x, log_det
    x = transform.inv(y)
    return x, -row_log_det(transform, x, y)
