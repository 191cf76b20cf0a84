"""Two-dimensional sets with a known density, so that the best possible likelihood is known on any test set.

Every set is standardised by a fixed affine map, built from the mean and standard deviation of its generator and never
from a sample: the density of the standardised variable is then known exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ive, logsumexp

Array = NDArray[np.float64]


@dataclass(frozen=True)
class PlanarSet:
    """A density on the plane: how to draw from it, its logarithm, and the affine map that standardises it."""

    draw: Callable[[int, np.random.Generator], Array]
    log_density_raw: Callable[[Array], Array]
    mean: Array
    scale: Array

    def sample(self, n: int, seed: int) -> Array:
        """Draw n standardised points, shape (n, 2)."""
        return (self.draw(n, np.random.default_rng(seed)) - self.mean) / self.scale

    def log_density(self, z: Array) -> Array:
        """Log density at standardised points of shape (n, 2), shape (n,)."""
        return self.log_density_raw(z * self.scale + self.mean) + float(np.log(self.scale).sum())

    def entropy(self, n: int = 200_000, seed: int = 0) -> float:
        """Monte-Carlo entropy in nats: the negative log-likelihood that no model can beat."""
        return float(-self.log_density(self.sample(n, seed)).mean())


def _isotropic_mixture(centres: Array, sigma: float) -> PlanarSet:
    def draw(n: int, rng: np.random.Generator) -> Array:
        return centres[rng.integers(len(centres), size=n)] + sigma * rng.standard_normal((n, 2))

    def log_density(x: Array) -> Array:
        squares = ((x[:, None, :] - centres) ** 2).sum(-1)
        return logsumexp(-0.5 * squares / sigma**2, axis=1) - np.log(2 * np.pi * sigma**2 * len(centres))

    return PlanarSet(draw, log_density, centres.mean(0), np.sqrt(centres.var(0) + sigma**2))


def _concentric(radii: Array, sigma: float) -> PlanarSet:
    def draw(n: int, rng: np.random.Generator) -> Array:
        angle = rng.uniform(0, 2 * np.pi, n)
        ring = radii[rng.integers(len(radii), size=n), None] * np.stack([np.cos(angle), np.sin(angle)], 1)
        return ring + sigma * rng.standard_normal((n, 2))

    def log_density(x: Array) -> Array:
        # The angle integrates to a Bessel function; its scaled form ive keeps the exponent finite.
        r = np.linalg.norm(x, axis=1)[:, None]
        terms = -0.5 * ((r - radii) / sigma) ** 2 + np.log(ive(0, r * radii / sigma**2))
        return logsumexp(terms, axis=1) - np.log(2 * np.pi * sigma**2 * len(radii))

    return PlanarSet(draw, log_density, np.zeros(2), np.full(2, np.sqrt((radii**2).mean() / 2 + sigma**2)))


def _two_moons(sigma: float, nodes: int = 200) -> PlanarSet:
    def arcs(angle: Array) -> tuple[Array, Array]:
        outer = np.stack([np.cos(angle), np.sin(angle)], -1)
        return outer, np.stack([1 - np.cos(angle), 0.5 - np.sin(angle)], -1)

    points, weights = np.polynomial.legendre.leggauss(nodes)
    curve = np.concatenate(arcs((points + 1) * np.pi / 2))
    log_weights = np.log(np.concatenate([weights, weights]) / 4)

    def draw(n: int, rng: np.random.Generator) -> Array:
        outer, inner = arcs(rng.uniform(0, np.pi, n))
        return np.where(rng.random((n, 1)) < 0.5, outer, inner) + sigma * rng.standard_normal((n, 2))

    def log_density(x: Array) -> Array:
        chunks = [((part[:, None, :] - curve) ** 2).sum(-1) for part in np.array_split(x, len(x) // 2000 + 1)]
        terms = [logsumexp(log_weights - 0.5 * squares / sigma**2, axis=1) for squares in chunks]
        return np.concatenate(terms) - np.log(2 * np.pi * sigma**2)

    # Moments of the two arcs: E cos^2 = E sin^2 = 1/2, E sin = 2/pi, and the arcs are mirrored about (1/2, 1/4).
    offset = 2 / np.pi - 0.25
    variance_y = 0.5 - (2 / np.pi) ** 2 + offset**2
    return PlanarSet(draw, log_density, np.array([0.5, 0.25]), np.sqrt(np.array([0.75, variance_y]) + sigma**2))


def _checkerboard() -> PlanarSet:
    def draw(n: int, rng: np.random.Generator) -> Array:
        x = rng.uniform(-2, 2, n)
        return np.stack([x, rng.random(n) - 2.0 * rng.integers(2, size=n) + np.floor(x) % 2], 1)

    def log_density(x: Array) -> Array:
        inside = (np.abs(x) <= 2).all(1) & (np.floor(x).sum(1) % 2 == 0)
        return np.where(inside, -np.log(8.0), -np.inf)

    return PlanarSet(draw, log_density, np.zeros(2), np.full(2, np.sqrt(4 / 3)))


_EIGHTHS = 2 * np.pi * np.arange(8) / 8
_GRID = np.stack(np.meshgrid([-1.0, 0.0, 1.0], [-1.0, 0.0, 1.0]), -1).reshape(-1, 2)

PLANAR_SETS: dict[str, PlanarSet] = {
    "two_moons": _two_moons(sigma=0.06),
    "circles": _concentric(np.array([1.0, 0.4]), sigma=0.06),
    "eight_gaussians": _isotropic_mixture(4 * np.stack([np.cos(_EIGHTHS), np.sin(_EIGHTHS)], 1), sigma=0.5),
    "rings": _concentric(np.array([0.75, 1.5, 2.25, 3.0]), sigma=0.08),
    "checkerboard": _checkerboard(),
    "gaussian_grid": _isotropic_mixture(_GRID, sigma=0.15),
}
