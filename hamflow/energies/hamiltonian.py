"""Energies: scalar functions of one variable, and Hamiltonians on phase space, with their gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from hamflow.energies.slope import Slope, learned
from hamflow.errors import InputError, check_positive
from hamflow.overrides import height

#: Times and time steps are numbers, or tensors that broadcast against (*batch, d).
Time = float | Tensor


def _gradients(function: Callable[..., Tensor], arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    # torch.func.grad works under no_grad, inference_mode, vmap and compile, where autograd.grad does not: this is the
    # one place that decides how an energy without a closed form is differentiated. Rows of a batch do not interact, so
    # the gradient of the sum is the gradient of each row.
    argnums = tuple(range(len(arguments)))
    return torch.func.grad(lambda *xs: function(*xs).sum(), argnums=argnums)(*arguments)


def directional(
    function: Callable[..., Tensor], at: tuple[Tensor, ...], along: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """The value of a function and its derivative along a direction, by ``torch.func``."""
    # Tangents take the strides of the point, and are written to: of an expanded point all entries would be one.
    found = torch.func.jvp(function, tuple(x.contiguous() for x in at), along)
    return found[0], found[1]


def time_of_rows(t: Time, q: Tensor) -> Tensor:
    """One time for each row of q (*batch, d), as a tensor (*batch, 1) of its dtype and device.

    Raises:
        InputError: t is neither a number nor an array that broadcasts to (*batch, 1).
    """
    wanted = (*q.shape[:-1], 1)
    try:
        time = torch.as_tensor(t, dtype=q.dtype, device=q.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"t is a {type(t).__name__}, expected a number or an array of shape {wanted}") from error
    if time.ndim > len(wanted) or any(n not in (1, m) for n, m in zip(time.shape[::-1], wanted[::-1], strict=False)):
        raise InputError(
            f"t has shape {tuple(time.shape)} for states of shape {tuple(q.shape)}, expected a number or shape {wanted}"
        )
    return time.expand(wanted)


#: So that a time halfway between two layers falls on the same side however rounding made it.
_FUZZ = 1e-9


class Energy(nn.Module):
    r"""A scalar function of one variable, such as a potential :math:`V(q, t)` or a kinetic energy :math:`T(p, t)`.

    A subclass implements :meth:`forward`, and :meth:`gradient` and :meth:`slopes` where closed forms are at hand. One
    that changes an energy changes these too: what it leaves out is found from what it gives. With ``layers > 1`` it
    keeps one set of parameters for each layer and is piecewise constant in time: layer
    :math:`\lfloor t / \text{spacing} + \tfrac12 \rfloor` acts at time t.

    Args:
        layers: the number of parameter sets; 1 is an autonomous energy.
        spacing: the time between two layers, usually the ``dt`` of the flow.

    Raises:
        InputError: ``layers`` or ``spacing`` is not positive.
    """

    def __init__(self, *, layers: int = 1, spacing: float = 1.0) -> None:
        super().__init__()
        check_positive("layers", layers, integer=True)
        check_positive("spacing", spacing)
        self.layers = layers
        self.spacing = float(spacing)

    def __init_subclass__(cls, **settings: Any) -> None:
        super().__init_subclass__(**settings)
        # Closed forms that a class inherits are those of another energy once it has one of its own.
        if height(cls, "gradient") > height(cls, "forward"):
            cls.gradient = Energy.gradient  # type: ignore[method-assign]
        if height(cls, "slopes") > min(height(cls, "gradient"), height(cls, "forward")):
            cls.slopes = Energy.slopes  # type: ignore[method-assign]

    def layer(self, t: Time) -> int:
        """The index of the parameter set that acts at time ``t``.

        Raises:
            InputError: ``t`` lies outside the layers, or is a tensor where there are several.
        """
        if self.layers == 1:
            return 0
        if isinstance(t, Tensor):
            raise InputError(
                f"t is a tensor of shape {tuple(t.shape)}, expected a number: one of the {self.layers} layers acts"
            )
        index = math.floor(t / self.spacing + 0.5 + _FUZZ)
        if not 0 <= index < self.layers:
            raise InputError(
                f"t = {t} falls in layer {index}, expected one of the {self.layers} layers of spacing {self.spacing}"
            )
        return index

    def forward(self, x: Tensor, t: Time = 0.0) -> Tensor:
        """The energy, (*batch, d) -> (*batch,)."""
        raise NotImplementedError(f"{type(self).__name__} must implement forward(x, t)")

    def gradient(self, x: Tensor, t: Time = 0.0) -> Tensor:
        """The gradient with respect to ``x``, (*batch, d) -> (*batch, d); by torch.func unless overridden."""
        return _gradients(lambda y: self(y, t), (x,))[0]

    def slopes(self, times: Sequence[Time]) -> list[Slope]:
        """The gradients at many times, as functions of all that they depend on; what they share is computed once.

        A subclass overrides it where its layers can be told apart, or derivatives of its gradient have closed forms.

        Args:
            times: where the gradients are wanted.

        Returns:
            one :class:`hamflow.energies.Slope` a time.
        """
        tensors = learned(self)
        return [Slope(lambda x, *_, t=t: (self.gradient(x, t),), tensors) for t in times]

    def __add__(self, other: Energy) -> SumEnergy:
        return SumEnergy(self, other)


class FunctionEnergy(Energy):
    r"""Any differentiable function of the last dimension as an energy, its gradient taken by ``torch.func`` or given.

    Args:
        function: a callable or module (*batch, d) -> (*batch,), written in torch; a module's parameters are learned.
        gradient: its gradient in closed form, (*batch, d) -> (*batch, d), where one is known; it costs less.

    Raises:
        InputError: the function returns anything but one number a row.

    Example:
        >>> import torch, hamflow as hf
        >>> double_well = hf.FunctionEnergy(lambda q: ((q**2 - 1) ** 2).sum(-1))
        >>> double_well.gradient(torch.tensor([[2.0]]))
        tensor([[24.]])
    """

    def __init__(
        self, function: Callable[[Tensor], Tensor], gradient: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        super().__init__()
        self.function = function
        self.closed_form = gradient

    def forward(self, x: Tensor, t: Time = 0.0) -> Tensor:
        """The energy, (*batch, d) -> (*batch,)."""
        value = self.function(x)
        if value.shape != x.shape[:-1]:
            raise InputError(
                f"function returned shape {tuple(value.shape)} for an input of shape {tuple(x.shape)}, "
                f"expected {tuple(x.shape[:-1])}: sum over the last dimension"
            )
        return value

    def gradient(self, x: Tensor, t: Time = 0.0) -> Tensor:
        """The gradient, (*batch, d) -> (*batch, d)."""
        return super().gradient(x, t) if self.closed_form is None else self.closed_form(x)


class SumEnergy(Energy):
    r"""The sum of energies of the same variable, :math:`V(x, t) = \sum_i V_i(x, t)`; ``a + b`` makes one.

    Example:
        >>> import torch, hamflow as hf
        >>> both = hf.QuadraticKinetic(2) + hf.QuadraticKinetic(2)
        >>> both(torch.tensor([1.0, 2.0])).item()
        5.0
    """

    def __init__(self, *terms: Energy) -> None:
        super().__init__()
        if not terms:
            raise InputError("terms is empty, expected at least one Energy")
        self.terms = nn.ModuleList(terms)

    def forward(self, x: Tensor, t: Time = 0.0) -> Tensor:
        """The energy, (*batch, d) -> (*batch,)."""
        return torch.stack([term(x, t) for term in self.terms]).sum(0)

    def gradient(self, x: Tensor, t: Time = 0.0) -> Tensor:
        """The gradient, (*batch, d) -> (*batch, d)."""
        return torch.stack([term.gradient(x, t) for term in self.terms]).sum(0)  # type: ignore[operator]

    def slopes(self, times: Sequence[Time]) -> list[Slope]:
        """The gradients at many times, as functions of what those of the terms are functions of."""
        return [_summed(of_terms) for of_terms in zip(*(term.slopes(times) for term in self.terms), strict=True)]  # type: ignore[operator]


def _summed(slopes: tuple[Slope, ...]) -> Slope:
    def value(x: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        rest = iter(tensors)
        return (torch.stack([slope.value(x, *islice(rest, len(slope.tensors)))[0] for slope in slopes]).sum(0),)

    together = tuple(tensor for slope in slopes for tensor in slope.tensors)
    return Slope(value, together, complete=all(slope.complete for slope in slopes))


class Hamiltonian(nn.Module):
    r"""An energy on phase space, :math:`H(q, p, t)`, whose flow is
    :math:`\dot q = \partial H / \partial p,\ \dot p = -\partial H / \partial q`.

    A subclass implements :meth:`forward`, and :meth:`gradient` where a closed form is at hand.

    Attributes:
        implicit: whether equations are solved to evaluate it; ``torch.vmap``, which knows no such end, then refuses.
    """

    implicit: bool = False

    def forward(self, q: Tensor, p: Tensor, t: Time = 0.0) -> Tensor:
        """The energy, q and p of shape (*batch, d) -> (*batch,)."""
        raise NotImplementedError(f"{type(self).__name__} must implement forward(q, p, t)")

    def gradient(self, q: Tensor, p: Tensor, t: Time = 0.0) -> tuple[Tensor, Tensor]:
        """The pair (dH/dq, dH/dp), each (*batch, d); by torch.func unless overridden."""
        dq, dp = _gradients(lambda a, b: self(a, b, t), (q, p))
        return dq, dp


class FunctionHamiltonian(Hamiltonian):
    r"""Any differentiable function of (q, p) as a Hamiltonian, separable or not, its gradient by ``torch.func``.

    Args:
        function: a callable or module taking q and p of shape (*batch, d) to (*batch,).

    Example:
        >>> import torch, hamflow as hf
        >>> H = hf.FunctionHamiltonian(lambda q, p: 0.5 * ((1 + q**2) * p**2).sum(-1))
        >>> H.gradient(torch.tensor([1.0]), torch.tensor([2.0]))
        (tensor([4.]), tensor([4.]))
    """

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, q: Tensor, p: Tensor, t: Time = 0.0) -> Tensor:
        """The energy, q and p of shape (*batch, d) -> (*batch,)."""
        value = self.function(q, p)
        if value.shape != q.shape[:-1]:
            raise InputError(
                f"function returned shape {tuple(value.shape)} for q of shape {tuple(q.shape)}, "
                f"expected {tuple(q.shape[:-1])}: sum over the last dimension"
            )
        return value


class SeparableHamiltonian(Hamiltonian):
    r"""The sum of a kinetic and a potential energy, :math:`H(q, p, t) = T(p, t) + V(q, t)`.

    Splitting schemes (:class:`hamflow.Splitting`) integrate it explicitly.

    Args:
        kinetic: T, an :class:`Energy` of the momentum.
        potential: V, an :class:`Energy` of the position.

    Raises:
        InputError: one of the two is not an :class:`Energy`; wrap a function in :class:`FunctionEnergy`.

    Example:
        >>> import torch, hamflow as hf
        >>> H = hf.SeparableHamiltonian(hf.QuadraticKinetic(2), hf.RidgePotential(2, width=16))
        >>> H(torch.zeros(5, 2), torch.ones(5, 2)).shape
        torch.Size([5])
    """

    def __init__(self, kinetic: Energy, potential: Energy) -> None:
        super().__init__()
        for name, part in (("kinetic", kinetic), ("potential", potential)):
            if not isinstance(part, Energy):
                raise InputError(f"{name} is a {type(part).__name__}, expected an Energy (FunctionEnergy wraps one)")
        self.kinetic = kinetic
        self.potential = potential

    def forward(self, q: Tensor, p: Tensor, t: Time = 0.0) -> Tensor:
        """The energy, q and p of shape (*batch, d) -> (*batch,)."""
        return self.kinetic(p, t) + self.potential(q, t)

    def gradient(self, q: Tensor, p: Tensor, t: Time = 0.0) -> tuple[Tensor, Tensor]:
        """The pair (dV/dq, dT/dp), each (*batch, d)."""
        return self.potential.gradient(q, t), self.kinetic.gradient(p, t)
