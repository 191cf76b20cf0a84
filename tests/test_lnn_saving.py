"""Learned Lagrangians on disk."""

from pathlib import Path
from typing import Any

import pytest
import torch

import hamflow as hf
from tests.lagrangian_fits import F64, NAMED, Known, fit, hung, tiny


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


def circle() -> hf.FunctionConstraint:
    return hf.FunctionConstraint(lambda q: (q**2).sum(-1, keepdim=True) - 1)


def field() -> hf.FieldLagrangian:
    return hf.FieldLagrangian(0.1, widths=(8,))


def own(dim: int) -> dict[str, Any]:
    """Objects of one's own for a model of that dim, made anew."""
    return {1: {"lagrangian": Known()}, 2: {"constraint": circle()}, 10: {"lagrangian": field()}}[dim]


@pytest.mark.parametrize("dim", [1, 2, 10])
def test_what_is_ones_own_comes_back_with_its_weights(dim: int, tmp_path: Path) -> None:
    model = hf.LNN(dim, widths=(8,), **own(dim)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.25)
    model.save(tmp_path / "model")
    twin = hf.load(tmp_path / "model", **own(dim))
    assert isinstance(twin, hf.LNN)
    q, v = torch.randn(2, 3, dim, dtype=F64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(twin.acceleration(q, v), model.acceleration(q, v))
    twin.save(tmp_path / "again")
    assert (tmp_path / "again" / "model.json").read_text() == (tmp_path / "model" / "model.json").read_text()


def test_what_is_ones_own_is_asked_for(tmp_path: Path) -> None:
    hf.LNN(1, lagrangian=Known()).save(tmp_path / "model")
    for parts, message in (
        ({}, r"lagrangian is missing: .* expected load\(path, lagrangian=...\) with a Known"),
        ({"lagrangian": field()}, "lagrangian is a FieldLagrangian, expected the Known that was saved"),
        ({"lagrangian": Known(), "energy": None}, "energy was given, but .* expected lagrangian only"),
    ):
        with pytest.raises(hf.InputError, match=message):
            hf.load(tmp_path / "model", **parts)
    hf.LNN(1).save(tmp_path / "named")
    with pytest.raises(hf.InputError, match=r"lagrangian was given, .* expected none"):
        hf.load(tmp_path / "named", lagrangian=Known())


def test_a_fit_of_ones_own_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"learn_from": "derivatives", "epochs": 4, "checkpoint": tmp_path / "run"}
    first, again = (fit(tiny(), Known(), **settings) for _ in range(2))
    assert again.history.train == first.history.train
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), first.parameters(), strict=True))
    assert not torch.equal(first.learned.k, Known().k)


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


@pytest.mark.parametrize("validation", [0.2, None])
@pytest.mark.parametrize(
    "how", [{"learn_from": "derivatives"}, {"learn_from": "derivatives", "noise": 0.05}, {"learn_from": "states"}]
)
def test_a_checkpoint_belongs_to_its_law(how: dict[str, Any], validation: float | None, tmp_path: Path) -> None:
    """Two laws that differ inside a function alone have the same settings and the same weights."""

    def falling(g: float) -> hf.Lagrangian:
        return hf.NetworkLagrangian(1, widths=(4,)) + hf.FunctionLagrangian(lambda q, v: (g * q.cos()).sum(-1))

    settings: dict[str, Any] = {"epochs": 3, "validation": validation, "checkpoint": tmp_path / "run"} | how
    torch.manual_seed(0)
    earth, again, moon = falling(9.81), falling(9.81), falling(1.62)
    again.load_state_dict(earth.state_dict())
    moon.load_state_dict(earth.state_dict())
    first = fit(tiny(), earth, **settings).history
    assert fit(tiny(), again, **settings).history.train == first.train
    with pytest.raises(hf.CheckpointError, match=r"another model or law: .* loss of .* when it was written, and give"):
        fit(tiny(), moon, **settings)
