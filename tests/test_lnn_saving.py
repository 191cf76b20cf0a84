"""Learned Lagrangians on disk."""

from pathlib import Path
from typing import Any

import pytest
import torch

import hamflow as hf
from tests.lagrangian_fits import NAMED, Known, fit, hung


@NAMED
@pytest.mark.parametrize("constrained", [False, True])
def test_saved_and_loaded_bit_for_bit(lagrangian: str, constrained: bool, tmp_path: Path) -> None:
    rod = hf.RigidLinks([(-1, 0)], 0.7, points=1, space=2) if constrained else None
    model = fit(hung(3, 10), lagrangian, friction=not constrained, constraint=rod, regulariser=1e-3, epochs=2)
    model.save(tmp_path / "model")
    twin = hf.load(tmp_path / "model")
    assert isinstance(twin, hf.LNN) and not twin.training and twin.history == model.history
    mine, other = model.state_dict(), twin.state_dict()
    assert mine.keys() == other.keys() and all(torch.equal(mine[name], other[name]) for name in mine)
    q, v = hung(2, 3).q[:, 0], hung(2, 3).need("v")[:, 0]
    assert torch.equal(model.rollout(q, v, n_steps=3, dt=0.05), twin.rollout(q, v, n_steps=3, dt=0.05))
    assert torch.equal(model.friction, twin.friction)
    assert {k: x for k, x in twin.config.items() if k != "constraint"} == {
        k: x for k, x in model.config.items() if k != "constraint"
    }
    if constrained:
        assert isinstance(twin.constraint, hf.RigidLinks) and twin.constraint.arguments() == rod.arguments()  # type: ignore[union-attr]
        twin.save(tmp_path / "again")
        assert (tmp_path / "again" / "model.json").read_text() == (tmp_path / "model" / "model.json").read_text()


def test_what_is_ones_own_is_not_saved(tmp_path: Path) -> None:
    circle = hf.FunctionConstraint(lambda q: (q**2).sum(-1, keepdim=True) - 1)
    for model, message in (
        (hf.LNN(1, lagrangian=Known()), "lagrangian is one of your own"),
        (hf.LNN(2, constraint=circle), "constraint is one of your own, expected RigidLinks"),
    ):
        with pytest.raises(hf.InputError, match=message):
            model.save(tmp_path / "model")
        assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_a_checkpoint_belongs_to_its_objective(noise: float, tmp_path: Path) -> None:
    """Of states and accelerations, or of paths through noisy ones."""
    data = hung(3, 10)
    for before in ("derivatives", "residual"):
        after = {"derivatives": "residual", "residual": "derivatives"}[before]
        settings: dict[str, Any] = {"noise": noise, "epochs": 2, "checkpoint": tmp_path / before}
        first = fit(data, learn_from=before, **settings).history
        assert fit(data, learn_from=before, **settings).history.train == first.train
        with pytest.raises(hf.CheckpointError, match=r"model misfit = '\w+', expected '\w+'"):
            fit(data, learn_from=after, **settings)
