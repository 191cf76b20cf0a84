"""Any invertible map of positions, made a symplectic map of phase space."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributions import Transform, constraints

from hamflow.energies.hamiltonian import Time
from hamflow.errors import InputError
from hamflow.steps.step import Step


class Lift(Step):
    r"""The cotangent lift of an invertible map f of positions,

    .. math:: (q, p) \mapsto \bigl(f(q),\ J_f(q)^{-\top} p\bigr).

    It is symplectic and preserves volume whatever the log-det of f, so ordinary flows compose with Hamiltonian steps at
    zero joint log-det. The momentum is moved by a vector-Jacobian product of the inverse map; no Jacobian is formed. It
    integrates no equation of motion: ``t`` and ``dt`` have no effect.

    A transform that has its own lift in closed form says so by a method ``lifted(q, p, inverse=...)``.

    Args:
        transform: a bijective torch or Pyro transform on :math:`\mathbb R^d` with an analytic inverse;
            ``hf.interop.nflows.from_nflows`` makes one from an nflows transform.

    Raises:
        InputError: the transform is not a bijective :class:`torch.distributions.Transform` on vectors.

    References:
        Marsden and Ratiu (1999), Introduction to Mechanics and Symmetry, section 6.3.

    Example:
        >>> import torch, hamflow as hf
        >>> from pyro.distributions.transforms import affine_coupling
        >>> lift = hf.Lift(affine_coupling(2))
        >>> q, p = lift(torch.randn(5, 2), torch.randn(5, 2))
        >>> q.shape, p.shape
        (torch.Size([5, 2]), torch.Size([5, 2]))
    """

    def __init__(self, transform: Transform) -> None:
        super().__init__()
        if not isinstance(transform, Transform):
            raise InputError(
                f"transform is a {type(transform).__name__}, expected a torch or Pyro Transform; "
                "hamflow.interop.nflows.from_nflows wraps an nflows one"
            )
        if not (transform.bijective and _is_real(transform.domain) and _is_real(transform.codomain)):
            raise InputError(f"transform {transform} is not a bijection of R^d, expected one")
        # The inverse of a module is no module: keep the module, whose parameters then train and survive a deep copy.
        self.inverted = not isinstance(transform, nn.Module) and isinstance(transform.inv, nn.Module)
        self.transform = transform.inv if self.inverted else transform
        if not isinstance(self.transform, nn.Module):
            self.parts = nn.ModuleList(_modules(self.transform))
        self._warm: set[bool] = set()

    @property
    def map(self) -> Transform:
        """The map f of positions."""
        return self.transform.inv if self.inverted else self.transform

    def forward(self, q: Tensor, p: Tensor, t: Time = 0.0, dt: Time = 0.1) -> tuple[Tensor, Tensor]:
        """The lifted map; q and p of shape (*batch, d)."""
        return self._move(q, p, inverse=self.inverted)

    def inverse(self, q: Tensor, p: Tensor, t: Time = 0.0, dt: Time = 0.1) -> tuple[Tensor, Tensor]:
        """The lift of the inverse map; q and p of shape (*batch, d)."""
        return self._move(q, p, inverse=not self.inverted)

    def _move(self, q: Tensor, p: Tensor, *, inverse: bool) -> tuple[Tensor, Tensor]:
        if hasattr(self.transform, "lifted"):
            moved, moved_p = self.transform.lifted(q, p, inverse=inverse)
            return moved, moved_p
        there, back = (self.transform.inv, self.transform) if inverse else (self.transform, self.transform.inv)
        try:
            moved = there(q)
            if inverse not in self._warm:
                # Pyro makes some constants in the first call: inside the product below they would become dead wrappers.
                with torch.no_grad():
                    back(moved.clone())  # of a clone, whose image is in no cache
                self._warm.add(inverse)
            pullback: Callable[[Tensor], tuple[Tensor]] = torch.func.vjp(lambda x: back(x), moved)[1]
            return moved, pullback(p)[0]
        finally:
            _clear_caches(self.transform)


def _is_real(constraint: constraints.Constraint) -> bool:
    base = getattr(constraint, "base_constraint", constraint)
    return constraint.event_dim <= 1 and isinstance(base, type(constraints.real))


def _transforms(root: Transform) -> list[Transform]:
    # The transform and all that it is made of.
    found: list[Transform] = []
    waiting = [root]
    while waiting:
        transform = waiting.pop()
        if not any(transform is other for other in found):
            found.append(transform)
            parts = transform.children() if isinstance(transform, nn.Module) else ()
            for value in (*vars(transform).values(), *parts):
                items = value if isinstance(value, (list, tuple)) else (value,)
                waiting.extend(item for item in items if isinstance(item, Transform))
    return found


def _modules(root: Transform) -> list[nn.Module]:
    # Every module that a plain transform is made of, so that its parameters train with the flow.
    found: list[nn.Module] = []
    for transform in _transforms(root):
        held = [transform] if isinstance(transform, nn.Module) else list(vars(transform).values())
        found += [module for module in held if isinstance(module, nn.Module)]
    return found


def _clear_caches(root: Transform) -> None:
    # Pyro's transforms keep their last values. Kept from inside a vector-Jacobian product these are dead wrappers that
    # cannot be copied, and after an optimiser step they are stale.
    for transform in _transforms(root):
        for name in vars(transform):
            if name == "_cached_x_y":
                setattr(transform, name, (None, None))
            elif name.startswith("_cache") and name != "_cache_size":
                setattr(transform, name, None)
