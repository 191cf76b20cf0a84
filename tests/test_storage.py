"""Saved models: the same model comes back, or one clear error; nothing is left half-written."""

import json
import math
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from pyro.distributions.transforms import affine_coupling

import hamflow as hf
from tests.parts import shaken

ROWS = torch.randn(60, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 50.0])
SIZE: dict[str, Any] = {"n_steps": 2, "width": 4, "particles": 2}


def fitted(**settings: Any) -> hf.NHF:
    return hf.NHF(2, **SIZE | settings).fit(ROWS, epochs=1, progress=False)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"components": 2, "scheme": "yoshida4", "dt": 0.1},
        {"encoder": "flow", "encoder_width": 8},
        {"lift": "spline", "lift_layers": 2, "lift_width": 4},
        {"layerwise": False, "whiten": "none"},
    ],
    ids=["default", "scheme", "flow_encoder", "hybrid", "fixed_kinetic"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_round_trip(settings: dict[str, Any], dtype: torch.dtype, tmp_path: Path) -> None:
    model = shaken(fitted(**settings), 0.1).to(dtype)
    model.save(tmp_path / "run")
    again = hf.load(tmp_path / "run")
    assert again.whitening.loc.dtype == dtype
    assert torch.equal(again.log_prob(ROWS, particles=4), model.log_prob(ROWS, particles=4))
    assert torch.equal(again.sample(5, seed=1), model.sample(5, seed=1))
    assert torch.equal(again.log_joint(ROWS, ROWS), model.log_joint(ROWS, ROWS))
    assert asdict(again.history) == asdict(model.history)
    assert not again.training
    assert {"model.json", "weights.safetensors"} == set(content(tmp_path / "run"))


def test_history_without_validation(tmp_path: Path) -> None:
    model = hf.NHF(2, **SIZE).fit(ROWS, epochs=1, validation=None, progress=False)
    model.save(tmp_path)
    assert "NaN" not in (tmp_path / "model.json").read_text()
    history = hf.load(tmp_path).history
    assert math.isnan(history.start)
    assert history.train == model.history.train


def test_loaded_model_trains_on(tmp_path: Path) -> None:
    fitted(components=2).save(tmp_path)
    again = hf.load(tmp_path).fit(ROWS, epochs=2, progress=False)
    assert len(again.history.train) == 2
    assert again.base.components == 2


def test_new_model_replaces_the_old_one(tmp_path: Path) -> None:
    fitted().save(tmp_path)
    second = fitted(components=3)
    second.save(tmp_path)
    assert hf.load(tmp_path).base.components == 3
    assert torch.equal(hf.load(tmp_path).sample(3, seed=0), second.sample(3, seed=0))


def truncated(name: str, share: float) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / name
        path.write_bytes(path.read_bytes()[: int(share * len(path.read_bytes()))])

    return damage


def described(**changes: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "model.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return damage


def flipped(folder: Path) -> None:
    path = folder / "weights.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def swapped(folder: Path) -> None:
    # Of the same shapes, so only the hash can tell.
    weights = safetensors.torch.load_file(folder / "weights.safetensors")
    safetensors.torch.save_file({name: value + 1 for name, value in weights.items()}, folder / "weights.safetensors")


def of_another_size(folder: Path) -> None:
    path = folder / "model.json"
    description = json.loads(path.read_text())
    description["config"]["width"] = 5
    path.write_text(json.dumps(description))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncated("weights.safetensors", 0.9), "damaged"),
        (truncated("weights.safetensors", 0.0), "damaged"),
        (truncated("model.json", 0.5), "damaged"),
        (flipped, "damaged or belongs to another"),
        (swapped, "damaged or belongs to another"),
        (described(format=2), "has format 2, expected 1: another version wrote it"),
        (described(format=None), "has format None"),
        (described(model="PCA"), "kind 'PCA', expected one of"),
        (described(facts={}), "does not fit this version"),
        (described(facts={"dtype": "red", "history": {"start": None}}), "does not fit this version"),
        (described(config=[1]), "does not fit this version"),
        (lambda folder: (folder / "model.json").write_text("[1, 2]"), "damaged"),
        (lambda folder: (folder / "model.json").write_bytes(b"\xff\xfe"), "damaged"),
        (of_another_size, "does not fit this version"),
        (lambda folder: (folder / "weights.safetensors").unlink(), "cannot be read"),
        (lambda folder: (folder / "model.json").unlink(), "holds no model.json"),
    ],
)
def test_damage_is_found(damage: Callable[[Path], Any], message: str, tmp_path: Path) -> None:
    fitted().save(tmp_path)
    damage(tmp_path)
    with pytest.raises(hf.CheckpointError, match=message) as caught:
        hf.load(tmp_path)
    assert "\n" not in str(caught.value)


def failing(*_: Any, **__: Any) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("where", ["replace", "fsync"])
@pytest.mark.parametrize("first", [True, False], ids=["first", "again"])
def test_failed_writing_leaves_nothing_behind(
    where: str, first: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = fitted()
    if not first:
        model.save(tmp_path / "run")
    before = content(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, where, failing)
        with pytest.raises(OSError, match="No space left"):
            shaken(model).save(tmp_path / "run")
    assert content(tmp_path) == before


def test_crash_between_the_two_files_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = fitted()
    model.save(tmp_path)
    replace = os.replace

    def second_fails(source: Any, target: Any) -> None:
        if str(target).endswith("model.json"):
            failing()
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", second_fails)
        with pytest.raises(OSError, match="No space left"):
            shaken(model).save(tmp_path)
    with pytest.raises(hf.CheckpointError, match="belongs to another"):
        hf.load(tmp_path)


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(hf.InputError, match="is a file, expected a folder"):
        fitted().save(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_transform_of_your_own_comes_back_with_its_weights(tmp_path: Path) -> None:
    model = hf.NHF(2, **SIZE, lift=affine_coupling(2, hidden_dims=[4]))
    model.save(tmp_path / "run")
    twin = hf.load(tmp_path / "run", lift=affine_coupling(2, hidden_dims=[4]))
    assert isinstance(twin, hf.NHF) and torch.equal(twin.sample(5, seed=0), model.sample(5, seed=0))
    with pytest.raises(hf.InputError, match="lift is missing"):
        hf.load(tmp_path / "run")


def test_load_to_a_device(tmp_path: Path) -> None:
    hf.NHF(2, n_steps=2, width=4).save(tmp_path)
    assert hf.load(tmp_path, device="cpu").whitening.loc.device == torch.device("cpu")
    with pytest.raises(hf.InputError, match="device = 'nowhere'"):
        hf.load(tmp_path, device="nowhere")
