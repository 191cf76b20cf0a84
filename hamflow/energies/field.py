"""Fields on a grid: the Lagrangian as a sum of one density over all points and their neighbours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import pad

from hamflow.energies.banded import banded_jacobian, banded_solver, dense_matrix, solve_banded, without_ends
from hamflow.energies.hamiltonian import Time
from hamflow.energies.lagrangian import Lagrangian, Terms
from hamflow.energies.network_lagrangian import NetworkLagrangian
from hamflow.errors import InputError, check_choice, check_positive
from hamflow.roots import root

#: What a field meets at the ends of its grid: itself, or zeros.
BOUNDARIES = ("periodic", "fixed")
#: Diagonals of the mass matrix beside the main one: two points share a stencil if they are at most so far apart.
_WIDTH = 2


class FieldLagrangian(Lagrangian):
    r"""The Lagrangian of a field on a line, one density :math:`\ell` summed over a grid of spacing h,

    .. math:: L(\phi, \dot\phi) = h \sum_i \ell(u_i, \dot u_i), \qquad
              u_i = \Bigl(\phi_i,\; \frac{\phi_i - \phi_{i-1}}{h},\; \frac{\phi_{i+1} - \phi_i}{h}\Bigr).

    The density sees a point and its two neighbours as the value and the slopes to the left and to the right, which keep
    their size when the grid gets finer, and L tends to an integral. Positions and velocities are (*batch, points), with
    any number of points; the density and its parameters do not depend on it. The mass matrix has five diagonals (and
    corners where the field is periodic), and so has the Jacobian of a :class:`VariationalStep`. Accelerations,
    velocities and steps are found from these diagonals, by :func:`hamflow.energies.solve_banded` and its kind, in time
    linear in the points. Only :meth:`terms` and ``mass_matrix`` write matrices (points, points) out; and steps with
    friction or constraints invert one.

    A density learned on 10 points can be used on 100 in two ways. With the same spacing, on a line ten times as long,
    the law of motion is the same to the last digit; the fields to learn from should hold all waves that the grid can
    carry, mean included, since the density is known at no others. With a smaller spacing, on the same line and by
    :meth:`on`, it is read as the density of a continuum, such as
    :math:`\tfrac12 \dot\phi^2 - \tfrac{c^2}{2} \phi_x^2`, to the order of the differences. But the motions on one grid
    leave that density open: with the slopes a and b to the left and to the right,

    .. math:: \sum_i \phi_i\, (b_i - a_i) = -\frac{h}{2} \sum_i (a_i^2 + b_i^2),

    so on one grid, and on no other, a learned density may have the one term for the other, in positions and velocities
    alike. In velocities that makes masses negative on finer grids: where the spacing is to change, ``local`` rules it
    out.

    Args:
        spacing: h, [length].
        boundary: ``"periodic"``, the last point beside the first; or ``"fixed"``, a field that is zero at all places
            beyond the grid, the first of them a wall at the distance h from the last point, and summed there too.
        density: :math:`\ell`, a Lagrangian of three coordinates, a sum of a known one and a network, say; by default a
            :class:`NetworkLagrangian` with the kinetic energy of the value alone. It may be shared.
        local: whether the default density sees only the velocity of the point itself, as the common densities of
            physics do; the mass matrix is then diagonal.
        widths: the hidden widths of the default density.

    Raises:
        InputError: an argument is out of range; (when called) a periodic field has fewer than five points.

    References:
        Cranmer et al. (2020), Lagrangian Neural Networks, arXiv 2003.04630, for the density on three points.

    Example:
        >>> import torch, hamflow as hf
        >>> wave = hf.FunctionLagrangian(lambda u, v: 0.5 * v[..., 0]**2 - 0.25 * (u[..., 1:]**2).sum(-1))
        >>> L = hf.FieldLagrangian(0.5, "fixed", density=wave)
        >>> L.acceleration(torch.tensor([0.0, 1.0, 0.0, 0.0]), torch.zeros(4))
        tensor([ 4., -8.,  4.,  0.])
    """

    def __init__(
        self,
        spacing: float = 1.0,
        boundary: str = "periodic",
        *,
        density: Lagrangian | None = None,
        local: bool = False,
        widths: Sequence[int] = (64, 64),
    ) -> None:
        super().__init__()
        check_positive("spacing", spacing)
        check_choice("boundary", boundary, BOUNDARIES)
        if density is not None and not isinstance(density, Lagrangian):
            raise InputError(f"density is a {type(density).__name__}, expected a Lagrangian of three coordinates")
        self.spacing = float(spacing)
        self.boundary = boundary
        velocities = (0,) if local else (0, 1, 2)
        self.density = NetworkLagrangian(3, widths, velocities=velocities, kinetic=(0,)) if density is None else density

    def on(self, spacing: float | None = None, boundary: str | None = None) -> FieldLagrangian:
        """The Lagrangian of the same density, shared, on another grid; what is None stays as it is here."""
        return FieldLagrangian(
            self.spacing if spacing is None else spacing,
            self.boundary if boundary is None else boundary,
            density=self.density,
        )

    @torch.no_grad()
    def set_units(self, phi: Tensor, phi_dot: Tensor) -> FieldLagrangian:
        """Let the network see numbers of order one, and return the Lagrangian; best before it is fitted.

        Args:
            phi: fields such as those to be learned, (*batch, points).
            phi_dot: their velocities, (*batch, points).

        Raises:
            InputError: the density is not a :class:`NetworkLagrangian`, or the fields do not vary.
        """
        if not isinstance(self.density, NetworkLagrangian):
            raise InputError(f"density is a {type(self.density).__name__}, expected a NetworkLagrangian")
        # The walls are no part of the data.
        inside = slice(None) if self.boundary == "periodic" else slice(1, -1)
        seen, moving = (self._stencils(x.double())[..., inside, :].flatten(0, -2) for x in (phi, phi_dot))
        centre = torch.stack((seen[:, 0].mean(), *seen.new_zeros(2)))
        scale, speed = ((x.square().mean(0)).sqrt() for x in (seen - centre, moving))
        # A slope to the left is like one to the right.
        scale[1:], speed[1:] = scale[1:].mean(), speed[1:].mean()
        for name, size in (("phi", scale), ("phi_dot", speed)):
            if not ((size > 0) & size.isfinite()).all():
                raise InputError(f"{name} has values and slopes of the sizes {size.tolist()}, expected positive ones")
        self.density.set_units(centre, scale, speed, speed[0] ** 2)
        return self

    def forward(self, q: Tensor, v: Tensor, t: Time = 0.0) -> Tensor:
        """The Lagrangian, q and v of shape (*batch, points) -> (*batch,)."""
        value: Tensor = self.spacing * self.density(self._stencils(q), self._stencils(v), _each(t)).sum(-1)
        return value

    def gradient(self, q: Tensor, v: Tensor, t: Time = 0.0) -> tuple[Tensor, Tensor]:
        """The pair (dL/dq, dL/dv), each (*batch, points)."""
        dq, dv = self.density.gradient(self._stencils(q), self._stencils(v), _each(t))
        return self._gathered(dq), self._gathered(dv)

    def terms(self, q: Tensor, v: Tensor, t: Time = 0.0) -> Terms:
        """What the equations of motion are made of, with the mass matrix written out, (*batch, points, points)."""
        each = self._density_terms(q, v, t)
        force, momentum, transport = (self._gathered(x) for x in (each.force, each.momentum, each.transport))
        mass = dense_matrix(self._bands(each.mass), cyclic=self.boundary == "periodic")
        return Terms(force, momentum, mass, transport)

    def mass_bands(self, q: Tensor, v: Tensor, t: Time = 0.0) -> Tensor:
        """The mass matrix as the banded solve takes it, its entries (i, i + k) in row k, (*batch, 3, points)."""
        return self._bands(self._density_terms(q, v, t).mass)

    def acceleration(
        self, q: Tensor, v: Tensor, t: Time = 0.0, *, applied: Tensor | None = None, regulariser: float = 0.0
    ) -> Tensor:
        """The acceleration, in time linear in the points; see :meth:`hamflow.Lagrangian.acceleration`.

        Raises:
            SolveError: a mass matrix is singular.
        """
        each = self._density_terms(q, v, t)
        force = self._gathered(each.force - each.transport)
        return self._solve(
            self._bands(each.mass), force if applied is None else force + applied, regulariser=regulariser
        )

    def velocity(self, q: Tensor, p: Tensor, t: Time = 0.0, *, guess: Tensor | None = None) -> Tensor:
        """The velocity of a momentum, the root v of dL/dv(q, v) = p, (*batch, points).

        Raises:
            SolveError: the momentum is that of no velocity nearby.
        """
        return root(
            lambda v: self.momentum(q, v, t) - p,
            torch.zeros_like(p) if guess is None else guess,
            what="the velocity of a momentum of FieldLagrangian",
            linearise=lambda v: partial(self._solve, self.mass_bands(q, v, t)),
        ).value

    def linearise(self, equations: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Callable[[Tensor], Tensor]]:
        """How equations that couple velocities as the gradient of L does are solved: by their five diagonals."""
        cyclic = self.boundary == "periodic"
        return lambda x: banded_solver(
            banded_jacobian(equations, x, width=_WIDTH, cyclic=cyclic), cyclic=cyclic, what="Jacobian of a step"
        )

    def extra_repr(self) -> str:
        """The grid, for ``repr``."""
        return f"spacing={self.spacing}, boundary={self.boundary!r}"

    def _density_terms(self, q: Tensor, v: Tensor, t: Time) -> Terms:
        return self.density.terms(self._stencils(q), self._stencils(v), _each(t))

    def _solve(self, bands: Tensor, force: Tensor, *, regulariser: float = 0.0) -> Tensor:
        return solve_banded(bands, force, cyclic=self.boundary == "periodic", regulariser=regulariser)

    def _stencils(self, x: Tensor) -> Tensor:
        # (*batch, points) -> (*batch, points, 3), and of fixed fields also the stencils around the two walls.
        if self.boundary == "fixed":
            x = pad(x, (2, 2))
        elif x.shape[-1] > 2 * _WIDTH:
            x = torch.cat((x[..., -1:], x, x[..., :1]), dim=-1)
        else:
            raise InputError(f"q has {x.shape[-1]} points, expected at least {2 * _WIDTH + 1} of a periodic field")
        slopes = x.diff(dim=-1) / self.spacing
        return torch.stack((x[..., 1:-1], slopes[..., :-1], slopes[..., 1:]), dim=-1)

    def _shifted(self, x: Tensor, k: int) -> Tensor:
        # At point i what stencil i + k has.
        return x.roll(-k, -1) if self.boundary == "periodic" else x[..., 1 + k : x.shape[-1] - 1 + k]

    def _gathered(self, slopes: Tensor) -> Tensor:
        # The transpose of _stencils, as the slopes of a sum: (*batch, stencils, 3) -> (*batch, points).
        value, left, right = slopes.unbind(-1)
        left, right = left / self.spacing, right / self.spacing
        found = self._shifted(value + left - right, 0) - self._shifted(left, 1) + self._shifted(right, -1)
        return self.spacing * found

    def _bands(self, blocks: Tensor) -> Tensor:
        # Blocks in value and slopes, (*batch, stencils, 3, 3), first in the three points themselves.
        h = self.spacing
        points = torch.tensor([[0.0, h, 0.0], [-1.0, 1.0, 0.0], [0.0, -1.0, 1.0]], dtype=blocks.dtype)
        points = points.to(blocks.device)
        m = points.mT @ blocks @ points / h
        at = self._shifted
        diagonal = at(m[..., 1, 1], 0) + at(m[..., 0, 0], 1) + at(m[..., 2, 2], -1)
        bands = torch.stack((diagonal, at(m[..., 1, 2], 0) + at(m[..., 0, 1], 1), at(m[..., 0, 2], 1)), dim=-2)
        return bands if self.boundary == "periodic" else without_ends(bands)


def _each(t: Time) -> Time:
    # Times of states, (*batch, 1), for all of their stencils.
    return t.unsqueeze(-1) if isinstance(t, Tensor) and t.ndim else t
