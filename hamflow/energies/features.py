"""What a network sees of coordinates: angles by their cosine and sine, the others as they are."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor, nn

from hamflow.errors import InputError, check_positive, is_number


class AngleFeatures(nn.Module):
    r"""The features :math:`f(x) = (\cos W x_A, \sin W x_A, x_B)`, their tangents and their pullbacks.

    A lists the angles and B the other coordinates, each in the order of their indices. W is the identity, so that there
    are ``dim`` + angles features; with ``pairs`` its rows also make the difference and the sum of every two angles, by
    which an arm's mass matrix depends on where its joints are.

    Args:
        periodic: the indices of the angles, [rad]; none leaves x as it is.
        dim: the number of coordinates.
        pairs: whether differences and sums of two angles are features too.

    Attributes:
        size: the number of features.

    Raises:
        InputError: an index is out of range or given twice; (when called) the last dimension is not ``dim``.
    """

    order: Tensor
    back: Tensor
    turns: Tensor

    def __init__(self, periodic: Sequence[int], dim: int, *, pairs: bool = False) -> None:
        super().__init__()
        check_positive("dim", dim, integer=True)
        angles = sorted(periodic)
        in_range = all(is_number(i, integer=True) and 0 <= i < dim for i in angles)
        if not in_range or len(set(angles)) < len(angles):
            raise InputError(f"periodic = {tuple(periodic)!r}, expected different indices from 0 to {dim - 1}")
        self.dim = dim
        self.periodic = tuple(int(i) for i in angles)
        unit = torch.eye(len(angles))
        two = [unit[j] + sign * unit[i] for i, j in combinations(range(len(angles)), 2) for sign in (-1, 1) if pairs]
        self.register_buffer("turns", torch.stack([*unit, *two]) if angles else unit, persistent=False)
        self.size = dim - len(angles) + 2 * len(self.turns)
        # Angles first, then the rest; and the way back.
        order = torch.tensor([*angles, *(i for i in range(dim) if i not in angles)])
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("back", order.argsort(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """The features, (*batch, dim) -> (*batch, size)."""
        self.check("x", x)
        if not self.periodic:
            return x
        angles, others = self._split(x.index_select(-1, self.order))
        return torch.cat((angles.cos(), angles.sin(), others), dim=-1)

    def inverse(self, features: Tensor) -> Tensor:
        r"""The point with these features, angles in :math:`[-\pi, \pi]`, (*batch, size) -> (*batch, dim).

        Cosines and sines need not be of one circle: what counts is the direction.
        """
        if not self.periodic:
            return features
        cos, sin, others = self.parts(features)
        n = len(self.periodic)
        return torch.cat((torch.atan2(sin[..., :n], cos[..., :n]), others), dim=-1).index_select(-1, self.back)

    def check(self, name: str, x: Tensor) -> None:
        """Raise :class:`InputError` unless x is (*batch, dim); before a shift or a scale broadcasts."""
        if x.ndim == 0 or x.shape[-1] != self.dim:
            raise InputError(f"{name} has shape {tuple(x.shape)}, expected (*batch, {self.dim})")

    def tangent(self, features: Tensor, direction: Tensor) -> Tensor:
        """The change of the features along a direction, (*batch, dim) -> (*batch, size)."""
        if not self.periodic:
            return direction
        cos, sin, _ = self.parts(features)
        turn, others = self._split(direction.index_select(-1, self.order))
        return torch.cat((-sin * turn, cos * turn, others), dim=-1)

    def pullback(self, features: Tensor, slopes: Tensor) -> Tensor:
        """The slopes in x of what has these slopes in the features, (*batch, size) -> (*batch, dim)."""
        if not self.periodic:
            return slopes
        cos, sin, _ = self.parts(features)
        by_cos, by_sin, by_others = self.parts(slopes)
        by_angles = (cos * by_sin - sin * by_cos) @ self.turns.to(cos)
        return torch.cat((by_angles, by_others), dim=-1).index_select(-1, self.back)

    def parts(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features, or slopes in them, as those of cosines, of sines and of the rest."""
        n = len(self.turns)
        cos, sin, others = features.split((n, n, self.size - 2 * n), dim=-1)
        return cos, sin, others

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        # Angles with what they are combined to, and the other coordinates.
        n = len(self.periodic)
        angles, others = x.split((n, self.dim - n), dim=-1)
        return angles @ self.turns.mT.to(x), others
