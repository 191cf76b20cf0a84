"""Splitting on a lattice: a rollout that goes back to its beginning to the last bit."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hamflow.energies.hamiltonian import SeparableHamiltonian, Time
from hamflow.errors import SolveError, check_positive
from hamflow.roots import named_rows
from hamflow.steps.schemes import LEAPFROG, Scheme
from hamflow.steps.splitting import Splitting


class LatticeSplitting(Splitting):
    r"""A :class:`Splitting` whose states lie on a lattice of floating-point numbers, and whose inverse is exact.

    .. math:: p \leftarrow p - \bigl[b_i\,\Delta t\,\nabla V(q)\bigr], \qquad
              q \leftarrow q + \bigl[a_i\,\Delta t\,\nabla T(p)\bigr], \qquad
              [x] = \delta \,\mathrm{round}(x / \delta)

    A plain kick loses the last bits of a sum, and a chaotic motion makes more of them at every step. Here every
    change is a whole number of :math:`\delta`, of which the numbers of the dtype hold sums exactly up to the span, so
    the inverse subtracts just what was added: 0 units in the last place, after any number of steps. Going back with
    :math:`-\Delta t` does the same where the scheme is symmetric. What it costs is a rounding of
    :math:`\delta / 2` a kick or drift, about the size of that of plain sums of numbers as large as the span.

    Initial states are rounded to the lattice first. Forces must be the same bits when they are computed again, which
    they are on one machine for one shape of a batch.

    Args:
        hamiltonian: a :class:`SeparableHamiltonian`.
        scheme: a :class:`Scheme`.
        span: the largest :math:`|q|` and :math:`|p|`, in their units; :math:`\delta` is the next power of two of it
            times :math:`2^{-24}` in single and :math:`2^{-53}` in double precision.

    Raises:
        InputError: the Hamiltonian is not separable, or an argument is out of range.
        SolveError: when it is called, a state leaves the span.

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
        self.span = float(span)

    def spacing(self, dtype: torch.dtype) -> float:
        r""":math:`\delta` for states of that dtype."""
        return 2.0 ** math.ceil(math.log2(self.span)) * torch.finfo(dtype).eps / 2

    def advanced(self, x: Tensor, change: Tensor) -> Tensor:
        """The coordinates after a change rounded to the lattice, NaN beyond the span; derivatives see no rounding."""
        moved = x + self._rounded(change)
        return torch.where(moved.abs() <= self.span, moved, torch.nan)

    def _run(
        self, q: Tensor, p: Tensor, t: Time, dt: Time, stages: tuple[tuple[bool, float, float], ...]
    ) -> tuple[Tensor, Tensor]:
        q, p = (self.advanced(torch.zeros_like(x), x) for x in (q, p))
        q, p = super()._run(q, p, t, dt, stages)
        # Looked at once a run: on a GPU every look waits for it.
        lost = (q + p).isnan().any(-1)
        if bool(lost.any()):
            raise SolveError(
                f"|q| or |p| exceeds the span of the lattice, {self.span:g}, in {named_rows(lost)}; a larger span is "
                "coarser, and scaled coordinates are better still"
            )
        return q, p

    def _rounded(self, x: Tensor) -> Tensor:
        spacing = self.spacing(x.dtype)
        rounded = (x / spacing).round() * spacing
        # x - x is zero to the last bit, and has the derivative of what was rounded.
        return rounded.detach() + (x - x.detach()) if x.requires_grad else rounded
