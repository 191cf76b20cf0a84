"""Splitting on a lattice: a rollout that goes back to its beginning to the last bit."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hamflow.energies.hamiltonian import SeparableHamiltonian, Time
from hamflow.energies.slope import Slope
from hamflow.errors import InputError, SolveError, check_positive
from hamflow.roots import named_rows
from hamflow.steps.parts import Pair, Part, Shear
from hamflow.steps.schemes import LEAPFROG, Scheme
from hamflow.steps.splitting import Splitting


class LatticeSplitting(Splitting):
    r"""A :class:`Splitting` whose states lie on a lattice of floating-point numbers, and whose inverse is exact.

    .. math:: p \leftarrow p - \bigl[b_i\,\Delta t\,\nabla V(q)\bigr], \qquad
              q \leftarrow q + \bigl[a_i\,\Delta t\,\nabla T(p)\bigr], \qquad
              [x] = \delta \,\mathrm{round}(x / \delta)

    A plain kick loses the last bits of a sum, and an unstable motion makes more of them at every step. Here every
    change is a whole number of :math:`\delta`, of which the numbers of the dtype hold sums exactly within the span, so
    the inverse subtracts just what was added: 0 units in the last place, after any number of steps, however they are
    grouped. Going back with :math:`-\Delta t` does the same where the scheme is symmetric and the energy does not
    depend on time. The price is a rounding of :math:`\delta / 2` a kick or drift: forwards it is less accurate than
    plain sums of numbers well inside the span.

    Initial states are rounded to the lattice first, as :meth:`on_lattice` does. Forces must be the same bits when they
    are computed again, which they are on one machine for one shape of a batch. Whether a state has left the span is
    looked at once a call, which :func:`torch.vmap` refuses.

    Args:
        hamiltonian: a :class:`SeparableHamiltonian`.
        scheme: a :class:`Scheme`.
        span: a bound of :math:`|q|` and :math:`|p|`, in their units, rounded up to a power of two; :math:`\delta` is
            that times :math:`2^{-24}` in single and :math:`2^{-53}` in double precision.

    Raises:
        InputError: the Hamiltonian is not separable, or an argument is out of range; when it is called, the states are
            no floating-point numbers.
        SolveError: when it is called, a state leaves the span, or is not finite.

    References:
        Levesque and Verlet (1993), Journal of Statistical Physics 72, 519; Rein and Tamayo (2018), JANUS, Monthly
        Notices of the Royal Astronomical Society 473, 3351, arXiv 1704.07715.

    Example:
        >>> import torch, hamflow as hf
        >>> H = hf.SeparableHamiltonian(hf.QuadraticKinetic(1), hf.FunctionEnergy(lambda q: q.cos().sum(-1)))
        >>> step = hf.LatticeSplitting(H, span=64)
        >>> there = step.iterate(torch.tensor([[0.5]]), torch.tensor([[-0.25]]), 0.0, 0.1, 10_000)
        >>> step.iterate_inverse(*there, 0.0, 0.1, 10_000)
        (tensor([[0.5000]]), tensor([[-0.2500]]))
    """

    def __init__(self, hamiltonian: SeparableHamiltonian, scheme: Scheme = LEAPFROG, *, span: float = 16.0) -> None:
        super().__init__(hamiltonian, scheme)
        check_positive("span", span)
        mantissa, exponent = math.frexp(span)
        self.span = math.ldexp(1.0, exponent - (mantissa == 0.5))

    def spacing(self, dtype: torch.dtype) -> float:
        r""":math:`\delta` for states of that dtype."""
        if not dtype.is_floating_point:
            raise InputError(f"states have dtype {dtype}, expected a floating-point one")
        limits = torch.finfo(dtype)
        if 0.5 * self.span * limits.eps < limits.tiny:
            raise InputError(f"span = {self.span!r}, expected {2 * limits.tiny / limits.eps:.0e} or more")
        return 0.5 * self.span * limits.eps

    def on_lattice(self, x: Tensor) -> Tensor:
        """Coordinates rounded to the lattice, of the same shape; derivatives see no rounding."""
        return self._rounded(x, self.spacing(x.dtype))

    def _stages(self, n_steps: int) -> tuple[tuple[bool, float, float], ...]:
        # Not merged: a kick of two halves rounded at once would not be undone by two.
        once = self.scheme.stages(1)
        return tuple((kick, fraction, k + time) for k in range(n_steps) for kick, fraction, time in once)

    def _chains(self, spans: Sequence[tuple[Time, Time]], n_steps: int, *, backwards: bool) -> list[list[Part]]:
        chains = super()._chains(spans, n_steps, backwards=backwards)
        return [[_Look(self.entered), *chain, _Look(self.checked)] for chain in chains]

    def _shear(self, slope: Slope, change: Time, kick: bool, time: Time) -> Part:
        return _Rounded(self, slope, change, kick=kick, time=time, energy=self._energy(kick))

    def moved(self, x: Tensor, slope: Tensor, change: Time) -> Tensor:
        """A coordinate and its change, rounded; NaN where that is not within the span."""
        # In lower precision steps as small as the lattice's would overflow.
        return self._within(x + self._rounded((change * slope).to(x.dtype), self.spacing(x.dtype)))

    def entered(self, q: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        """The state on the lattice."""
        return self._within(self.on_lattice(q)), self._within(self.on_lattice(p))

    def checked(self, q: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        """The state, or an error where it has left the span."""
        if torch.compiler.is_compiling():
            return q, p  # NaN, since no error can depend on numbers there
        # Looked at once a call: on a GPU every look waits for it.
        lost = (q + p).isnan().any(-1)
        if bool(lost.any()):
            raise SolveError(
                f"{named_rows(lost)}: |q| or |p| is not within the span of the lattice, {self.span:g}, or not finite; "
                "a larger span is coarser, and scaled coordinates are better still"
            )
        return q, p

    def _within(self, x: Tensor) -> Tensor:
        # Sums that reach the span itself may have been rounded to it.
        return torch.where(x.abs() < self.span, x, torch.nan)

    @staticmethod
    def _rounded(x: Tensor, spacing: float) -> Tensor:
        # Both differences are exact, and what is detached has no derivative, forwards and backwards.
        return x + ((x / spacing).round() * spacing - x).detach()


class _Rounded(Shear):
    def __init__(self, lattice: LatticeSplitting, slope: Slope, change: Time, **kind: Any) -> None:
        super().__init__(slope, change, **kind)
        self.lattice = lattice

    def add(self, x: Tensor, slope: Tensor, sign: int) -> Tensor:
        return self.lattice.moved(x, slope, sign * self.change)


class _Look(Part):
    # Where a state is rounded, or found to be lost; the way back sees nothing of it.
    def __init__(self, look: Callable[[Tensor, Tensor], Pair]) -> None:
        super().__init__()
        self.look = look

    def __call__(self, q: Tensor, p: Tensor) -> Pair:
        return self.look(q, p)

    def undo(
        self, end: Pair, cotangents: Pair, begin: Pair | None = None
    ) -> tuple[Pair, Pair, tuple[Tensor | None, ...]]:
        return begin or end, cotangents, ()
