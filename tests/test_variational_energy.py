"""Variational steps over ten thousand steps: the energy of a bounded system oscillates and does not drift."""

from typing import Any

import torch
from torch import Tensor

import hamflow as hf
from hamflow.energies import Lagrangian
from hamflow.testing import check_drift


class Geared(Lagrangian):
    """(2 + cos q) v^2 / 2 - q^2 / 2 - q^4 / 8, all of it written out, so that many steps take little time."""

    def forward(self, q: Tensor, v: Tensor, t: Any = 0.0) -> Tensor:
        return (0.5 * (2 + q.cos()) * v**2 - 0.5 * q**2 - q**4 / 8).sum(-1)

    def gradient(self, q: Tensor, v: Tensor, t: Any = 0.0) -> tuple[Tensor, Tensor]:
        return -0.5 * q.sin() * v**2 - q - 0.5 * q**3, (2 + q.cos()) * v

    def momentum(self, q: Tensor, v: Tensor, t: Any = 0.0) -> Tensor:
        return (2 + q.cos()) * v

    def velocity(self, q: Tensor, p: Tensor, t: Any = 0.0, *, guess: Tensor | None = None) -> Tensor:
        return p / (2 + q.cos())


def test_energies_do_not_drift_over_ten_thousand_steps(float64: torch.dtype) -> None:
    q = torch.tensor([[0.5], [1.0], [2.0]])
    trend = check_drift(hf.VariationalStep(Geared()), q, 0 * q, dt=0.1, n_steps=10_000)
    assert 1e-5 < trend.largest < 0.1
