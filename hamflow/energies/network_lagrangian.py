"""A Lagrangian that is one network, its second derivatives in closed form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from hamflow.energies.features import AngleFeatures
from hamflow.energies.hamiltonian import Time
from hamflow.energies.lagrangian import Lagrangian, Terms
from hamflow.energies.perceptron import check_widths
from hamflow.errors import InputError, is_number


class _Pass(NamedTuple):
    # One way through the network: the features, the slopes of each layer's activations, and the slopes of L in the
    # activations and in the features.
    features: Tensor
    sigmoids: list[Tensor]
    slopes: list[Tensor]
    by_features: Tensor


class NetworkLagrangian(Lagrangian):
    r"""The general Lagrangian: a network of position and velocity, beside a kinetic energy to start from,

    .. math:: L(q, v) = c \left( \tfrac12 \lvert v / s_v \rvert^2
              + N\bigl(f((q - \mu) / s),\, v / s_v\bigr) \right),

    with softplus activations :math:`\phi`, angles by their cosine and sine. The network starts small, the smaller the
    deeper it is, so that in its units, which :meth:`set_units` sets, the mass matrix starts positive and accelerations
    near zero; no search for initial scales is needed. Second derivatives are written out: with :math:`z_l` the inputs
    of layer l, :math:`J_l` their Jacobian, and :math:`\delta_l = \partial N / \partial h_l` the slopes in its outputs,

    .. math:: \partial^2 N = \sum_l J_l^\top \operatorname{diag}\bigl(\delta_l\, \phi''(z_l)\bigr)\, J_l ,

    so M and the product :math:`(\partial_q \partial_v L)\, v` cost d + 1 tangents through the layers and one gradient,
    all of them plain matrix products that are differentiated once.

    Args:
        dim: d, the number of coordinates.
        widths: the hidden widths.
        periodic: the coordinates that are angles, [rad].
        velocities: the coordinates whose velocities L depends on; by default all.
        kinetic: those of them that have the kinetic energy beside the network; by default all.

    Attributes:
        loc, scale: :math:`\mu` and s, (d,); zero and one for angles and while fresh.
        speed: :math:`s_v`, (d,), one while fresh.
        factor: c, one while fresh.

    Raises:
        InputError: an argument is out of range.

    References:
        Cranmer et al. (2020), Lagrangian Neural Networks, arXiv 2003.04630, for the model and softplus.

    Example:
        >>> import torch, hamflow as hf
        >>> L = hf.NetworkLagrangian(2, widths=(16, 16), periodic=(0, 1))
        >>> q, v = torch.zeros(5, 2), torch.ones(5, 2)
        >>> L.acceleration(q, v).shape, L.mass_matrix(q, v).shape
        (torch.Size([5, 2]), torch.Size([5, 2, 2]))
    """

    loc: Tensor
    scale: Tensor
    speed: Tensor
    factor: Tensor
    rest: Tensor
    moving: Tensor

    def __init__(
        self,
        dim: int,
        widths: Sequence[int] = (128, 128),
        *,
        periodic: Sequence[int] = (),
        velocities: Sequence[int] | None = None,
        kinetic: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        check_widths(widths)
        moving = _chosen("velocities", velocities, range(dim))
        carriers = _chosen("kinetic", kinetic, moving)
        self.dim = dim
        self.features = AngleFeatures(periodic, dim, pairs=True)
        shapes = list(pairwise([self.features.size + dim, *widths]))
        # Slopes of softplus are one half at zero: twice the usual size keeps those of deep networks.
        self.weights = nn.ParameterList(
            torch.randn(after, before) * (2 / math.sqrt(before)) for before, after in shapes
        )
        self.biases = nn.ParameterList(torch.randn(after) for _, after in shapes)
        # Second derivatives double from layer to layer, about.
        start = 0.1 * 0.5 ** max(0, len(widths) - 3)
        self.readout = nn.Parameter(torch.randn(widths[-1]) * (start / math.sqrt(widths[-1])))
        for name, value in (("loc", torch.zeros(dim)), ("scale", torch.ones(dim)), ("speed", torch.ones(dim))):
            self.register_buffer(name, value)
        self.register_buffer("factor", torch.ones(()))
        for name, chosen in (("moving", moving), ("rest", carriers)):
            self.register_buffer(name, torch.tensor([float(i in chosen) for i in range(dim)]), persistent=False)

    def set_units(self, loc: Tensor, scale: Tensor, speed: Tensor, factor: Tensor | float) -> NetworkLagrangian:
        """Set the shift, the scale and the size of the velocities, (d,), and the factor; return the Lagrangian."""
        for buffer, value in ((self.loc, loc), (self.scale, scale), (self.speed, speed)):
            buffer.copy_(value)
        self.factor.copy_(torch.as_tensor(factor))
        return self

    def forward(self, q: Tensor, v: Tensor, t: Time = 0.0) -> Tensor:
        """The Lagrangian, q and v of shape (*batch, d) -> (*batch,)."""
        features, u = self._seen(q, v)
        x = torch.cat((features, u), dim=-1)
        for weight, bias in zip(self.weights, self.biases, strict=True):
            x = functional.softplus(functional.linear(x, weight, bias))
        value: Tensor = self.factor * (0.5 * u**2 @ self.rest + x @ self.readout)
        return value

    def gradient(self, q: Tensor, v: Tensor, t: Time = 0.0) -> tuple[Tensor, Tensor]:
        """The pair (dL/dq, dL/dv), each (*batch, d)."""
        return self._slopes(self._pass(q, v), v)

    def terms(self, q: Tensor, v: Tensor, t: Time = 0.0) -> Terms:
        """What the equations of motion are made of; q and v of shape (*batch, d)."""
        way = self._pass(q, v)
        force, momentum = self._slopes(way, v)
        n = self.features.size
        first: Tensor = self.weights[0]
        # Tangents of the first layer: along each velocity, the same for all rows, and along the motion of q.
        along_v = (first[:, n:] * (self.moving / self.speed)).mT
        moved = self.features.tangent(way.features, v / self.scale)
        along_q = moved @ first[:, :n].mT
        tangents = torch.cat((along_v.expand(*v.shape[:-1], *along_v.shape), along_q.unsqueeze(-2)), dim=-2)
        blocks = torch.zeros_like(v[..., None] * v.new_ones(self.dim + 1))
        for layer, (sigmoid, slope) in enumerate(zip(way.sigmoids, way.slopes, strict=True)):
            if layer:
                tangents = tangents @ self.weights[layer].mT
            bend = (slope * sigmoid * (1 - sigmoid)).unsqueeze(-2)
            blocks = blocks + (tangents[..., : self.dim, :] * bend) @ tangents.mT
            tangents = tangents * sigmoid.unsqueeze(-2)
        rest = torch.diag(self.rest * self.speed**-2)
        return Terms(force, momentum, self.factor * (rest + blocks[..., :-1]), self.factor * blocks[..., -1])

    def _seen(self, q: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        self.features.check("q", q)
        self.features.check("v", v)
        return self.features((q - self.loc) / self.scale), self.moving * v / self.speed

    def _pass(self, q: Tensor, v: Tensor) -> _Pass:
        features, u = self._seen(q, v)
        x = torch.cat((features, u), dim=-1)
        sigmoids = []
        for weight, bias in zip(self.weights, self.biases, strict=True):
            z = functional.linear(x, weight, bias)
            sigmoids.append(torch.sigmoid(z))
            x = functional.softplus(z)
        slopes = [self.readout.expand_as(x)]
        for layer in range(len(sigmoids) - 1, 0, -1):
            slopes.append((slopes[-1] * sigmoids[layer]) @ self.weights[layer])
        by_features = (slopes[-1] * sigmoids[0]) @ self.weights[0]
        return _Pass(features, sigmoids, slopes[::-1], by_features)

    def _slopes(self, way: _Pass, v: Tensor) -> tuple[Tensor, Tensor]:
        by_q, by_v = way.by_features.split((self.features.size, self.dim), dim=-1)
        force = self.factor * self.features.pullback(way.features, by_q) / self.scale
        return force, self.factor * (self.rest * v / self.speed + self.moving * by_v) / self.speed


def _chosen(name: str, given: Sequence[int] | None, among: Sequence[int]) -> tuple[int, ...]:
    if given is not None and any(not is_number(i, integer=True) or i not in among for i in given):
        raise InputError(f"{name} = {tuple(given)!r}, expected some of the coordinates {tuple(among)}")
    return tuple(among if given is None else given)
