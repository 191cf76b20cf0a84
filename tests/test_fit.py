"""The training loop: best weights, patience, schedules, bad losses, checkpoints."""

import importlib
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hamflow.errors import CheckpointError, FitError, InputError
from hamflow.training import History, fit

# The name of the module is also that of the function in it.
LOOP = importlib.import_module("hamflow.training.fit")


class Centre(nn.Module):
    """The mean of the rows by least squares; ``spoil(call, training, loss)`` may change what a call returns."""

    def __init__(self, spoil: Callable[[int, bool, Tensor], Tensor] | None = None, *, noise: float = 0.0) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(2))
        self.spoil = spoil
        self.noise = noise
        self.calls = 0

    def loss(self, batch: Tensor) -> Tensor:
        self.calls += self.training
        loss = ((batch - self.shift - self.noise * torch.randn(2)) ** 2).sum(-1).mean()
        return loss if self.spoil is None else self.spoil(self.calls, self.training, loss)


def rows(n: int = 64, centre: float = 3.0) -> Tensor:
    return centre + 0.1 * torch.randn(n, 2, generator=torch.Generator().manual_seed(0))


def run(model: nn.Module, x: Tensor | None = None, **settings: Any) -> History:
    chosen = {"epochs": 30, "batch_size": 16, "learning_rate": 0.1, "progress": False} | settings
    return fit(model, rows() if x is None else x, **chosen)


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The learning rate of every step that the optimiser takes."""
    seen: list[float] = []
    step = torch.optim.AdamW.step

    def spy(self: torch.optim.AdamW, *args: Any, **kwargs: Any) -> Any:
        seen.append(self.param_groups[0]["lr"])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    return seen


# What is learned, and which weights are kept.


@pytest.mark.parametrize("validation", [0.2, None, rows(10)])
def test_learns(validation: float | Tensor | None) -> None:
    model = Centre()
    history = run(model, epochs=60, validation=validation)
    assert (model.shift - 3).abs().max() < 0.1
    assert len(history.train) == 60
    assert history.train[-1] < 0.1 < history.train[0]
    assert len(history.validation) == (0 if validation is None else 60)
    assert math.isnan(history.start) == (validation is None)
    assert not model.training


def test_best_weights_are_restored() -> None:
    # On the way from 0 to 3 the weights pass the centre of the held-out rows.
    model = Centre()
    history = run(model, validation=rows(20, centre=1.0))
    assert (model.shift - 1).abs().max() < 0.2
    assert history.train[-1] < 0.5
    assert 0 < history.best_epoch < 30
    assert history.validation[history.best_epoch - 1] == min(history.validation) < history.start
    model.eval()
    assert model.loss(rows(20, centre=1.0)).item() == pytest.approx(min(history.validation))


def test_weights_of_the_start_are_kept_where_nothing_is_better() -> None:
    model = Centre()
    history = run(model, validation=rows(20, centre=-3.0))
    assert history.best_epoch == 0
    assert torch.equal(model.shift, torch.zeros(2))
    assert min(history.validation) > history.start


def test_patience() -> None:
    history = run(Centre(), validation=rows(20, centre=-3.0), patience=4)
    assert len(history.train) == 4
    history = run(Centre(), validation=rows(20, centre=1.0), patience=3)
    assert len(history.train) == history.best_epoch + 3


def test_patience_waits_for_a_model_that_asks_for_it(rates: list[float]) -> None:
    class Slow(Centre):
        @property
        def patient(self) -> bool:
            return len(rates) < 5

    history = run(Slow(), validation=rows(20, centre=-3.0), patience=3, schedule="plateau", batch_size=64, epochs=30)
    # Four epochs are not counted, and the rate, which warms up, falls after the fifth and the sixth.
    assert len(history.train) == 7
    assert rates == pytest.approx([0.1 * (k + 1) / 30 * (1, 0.5, 0.25)[max(0, k - 4)] for k in range(7)])


def test_shares_are_split_by_the_seed() -> None:
    seen: list[int] = []

    class Watch(Centre):
        def loss(self, batch: Tensor) -> Tensor:
            if not self.training:
                seen.append(len(batch))
            return super().loss(batch)

    same = [run(Watch(), epochs=3, validation=0.25, seed=s) for s in (1, 1, 2)]
    assert set(seen) == {16}
    assert same[0].train == same[1].train != same[2].train
    assert same[0].start != same[2].start


def test_random_state_of_the_caller_is_untouched() -> None:
    before = torch.get_rng_state()
    first = run(Centre(noise=0.5), epochs=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    assert run(Centre(noise=0.5), epochs=3).train == first.train


def test_validation_noise_is_the_same_every_time() -> None:
    model = Centre(noise=1.0)
    history = run(model, epochs=5, learning_rate=1e-12)
    assert history.validation == pytest.approx([history.start] * 5, abs=1e-6)


# Learning rates.


def test_cosine_schedule(rates: list[float]) -> None:
    run(Centre(), validation=None, epochs=50)
    assert len(rates) == 200
    assert rates[0] == pytest.approx(0.1 / 50)
    assert rates[:50] == sorted(rates[:50])
    assert rates[50:] == sorted(rates[50:], reverse=True)
    assert rates[100] == pytest.approx(0.1 * 0.5)
    assert rates[-1] < 1e-4


def test_constant_schedule(rates: list[float]) -> None:
    run(Centre(), validation=None, epochs=20, schedule="constant")
    assert rates[:50] == sorted(rates[:50])
    assert set(rates[50:]) == {0.1}


@pytest.mark.parametrize(("patience", "wait"), [(None, 10), (12, 4)])
def test_plateau_schedule(rates: list[float], patience: int | None, wait: int) -> None:
    run(Centre(), validation=rows(20, centre=-3.0), epochs=30, schedule="plateau", patience=patience, batch_size=64)
    # One step an epoch: after the warm-up of 30 steps the rate would be 0.1.
    halvings = [0.1 * 0.5 ** (k // wait) * min(1, (k + 1) / 30) for k in range(len(rates))]
    assert len(rates) == (30 if patience is None else 12)
    assert rates == pytest.approx(halvings)


def test_clip_bounds_the_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    norms = []
    step = torch.optim.AdamW.step

    def spy(self: torch.optim.AdamW, *args: Any, **kwargs: Any) -> Any:
        norms.append(float(self.param_groups[0]["params"][0].grad.norm()))
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    run(Centre(), epochs=2, clip=0.5)
    assert norms == pytest.approx([0.5] * len(norms), rel=1e-4)


# Losses that are not finite.


def at_call(*bad: int) -> Callable[[int, bool, Tensor], Tensor]:
    return lambda call, training, loss: loss * math.nan if training and call in bad else loss


def nan_gradient(call: int, training: bool, loss: Tensor) -> Tensor:
    # The value is finite, the gradient is not.
    return loss + (loss * 0).sqrt() if training and call == 9 else loss


@pytest.mark.parametrize("spoil", [at_call(9), nan_gradient], ids=["loss", "gradient"])
def test_returns_to_good_weights_with_half_the_rate(
    spoil: Callable[[int, bool, Tensor], Tensor], rates: list[float]
) -> None:
    model = Centre(spoil)
    history = run(model, validation=None, epochs=40, schedule="constant")
    assert len(history.train) == 40
    assert all(math.isfinite(loss) for loss in history.train)
    assert (model.shift - 3).abs().max() < 0.1
    assert history.notes == ["epoch 3: the loss was not finite; back to the last good weights, learning rate halved"]
    assert rates[7] == pytest.approx(0.1 * 8 / 50)
    # Calls 1 to 8 are good, the ninth is thrown away, and the third epoch begins again at half the rate.
    assert rates[8] == pytest.approx(0.05 * 9 / 50)
    assert rates[-1] == pytest.approx(0.05)


def test_weights_after_a_return_are_those_of_the_last_good_epoch() -> None:
    seen = []

    def spoil(call: int, training: bool, loss: Tensor) -> Tensor:
        if training and call in (9, 12, 13):
            seen.append(model.shift.detach().clone())
        return loss * math.nan if training and call == 12 else loss

    model = Centre(spoil)
    run(model, validation=None, epochs=5)
    start_of_epoch, spoiled, after = seen
    assert torch.equal(start_of_epoch, after)
    assert not torch.equal(start_of_epoch, spoiled)


def test_gives_up_after_five_returns() -> None:
    model = Centre(lambda call, training, loss: loss * math.nan if training and call > 8 else loss)
    with pytest.raises(FitError, match=r"not finite 6 times, the last in epoch 3; the model keeps its best weights"):
        run(model, validation=rows(20))
    assert model.calls == 8 + 6
    assert torch.isfinite(model.shift).all()
    assert (model.shift > 0).all()  # not those of the start


def test_infinite_validation_loss_is_no_improvement() -> None:
    evaluations = []

    def spoil(call: int, training: bool, loss: Tensor) -> Tensor:
        if not training:
            evaluations.append(call)
        # Minus infinity would be the best loss of all.
        return loss * 0 - math.inf if not training and len(evaluations) == 4 else loss

    model = Centre(spoil)
    history = run(model, validation=rows(20), epochs=10)
    assert len(history.notes) == 1
    assert all(math.isfinite(loss) for loss in history.validation)
    assert history.validation[history.best_epoch - 1] == min(history.validation)


def test_bad_start() -> None:
    with pytest.raises(FitError, match="validation loss of the untrained model is nan"):
        run(Centre(lambda call, training, loss: loss * math.nan))


def test_is_silent_without_progress(capsys: pytest.CaptureFixture[str]) -> None:
    run(Centre(at_call(3)), epochs=3)
    assert capsys.readouterr() == ("", "")


def test_progress_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    run(Centre(at_call(3)), epochs=3, progress=True)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "the loss was not finite" in printed.err
    assert "best=" in printed.err


# Checkpoints.


class Killed(Exception):
    """The process ends here."""


def dies_at(last: int) -> Callable[[int, bool, Tensor], Tensor]:
    def spoil(call: int, training: bool, loss: Tensor) -> Tensor:
        if training and call == last:
            raise Killed
        return loss

    return spoil


@pytest.mark.parametrize(
    "settings",
    [{"schedule": "cosine"}, {"schedule": "plateau", "patience": 9, "validation": rows(20, 1.0)}, {"validation": None}],
    ids=["share", "rows", "none"],
)
def test_resumed_run_is_the_same_run(settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LOOP, "_CHECKPOINT_SECONDS", 0.0)
    path = tmp_path / "training"
    whole = Centre(noise=0.5)
    expected = run(whole, epochs=12, **settings)
    for last in (9, 17):  # twice, in the middle of an epoch
        with pytest.raises(Killed):
            run(Centre(dies_at(last), noise=0.5), epochs=12, checkpoint=path, **settings)
    model = Centre(noise=0.5)
    torch.rand(7)
    found = run(model, epochs=12, checkpoint=path, **settings)
    assert found.train == expected.train
    assert found.validation == expected.validation
    assert found.best_epoch == expected.best_epoch
    assert torch.equal(model.shift, whole.shift)
    assert 0 < model.calls < whole.calls
    assert [file.name for file in tmp_path.iterdir()] == ["training"]


@pytest.mark.parametrize("schedule", ["plateau", "constant"])
def test_finished_run_goes_on_to_more_epochs(schedule: str, tmp_path: Path) -> None:
    whole, part = Centre(noise=0.5), Centre(noise=0.5)
    expected = run(whole, epochs=20, batch_size=4, schedule=schedule)
    run(part, epochs=15, batch_size=4, schedule=schedule, checkpoint=tmp_path / "training")
    again = Centre(noise=0.5)
    found = run(again, epochs=20, batch_size=4, schedule=schedule, checkpoint=tmp_path / "training")
    assert found.train == expected.train
    assert torch.equal(again.shift, whole.shift)
    assert 0 < again.calls < whole.calls


@pytest.mark.parametrize("call", range(14, 28))
def test_interrupt_leaves_a_state_to_go_on_from(call: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the loop is doing: an interrupt that falls between two lines of it is as good as any."""
    lines = []

    def interrupt(frame: Any, event: str, _: Any) -> Any:
        if frame.f_code.co_filename != LOOP.__file__:
            return None
        if event == "line" and frame.f_code.co_name in ("train", "_one_epoch", "_judge", "_mark_good", "_take_down"):
            lines.append(frame.f_lineno)
            if len(lines) == 8 * call:
                raise KeyboardInterrupt
        return interrupt

    path, settings = tmp_path / "training", {"epochs": 12, "schedule": "plateau", "patience": 20}
    expected = run(Centre(noise=0.5), **settings)
    sys.settrace(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(Centre(noise=0.5), checkpoint=path, **settings)
    finally:
        sys.settrace(None)
    found = run(Centre(noise=0.5), checkpoint=path, **settings)
    assert found.train == expected.train
    assert found.validation == expected.validation


def test_finished_run_is_only_read(tmp_path: Path) -> None:
    first, again = Centre(), Centre()
    expected = run(first, epochs=3, checkpoint=tmp_path / "training")
    assert run(again, epochs=3, checkpoint=tmp_path / "training") == expected
    assert again.calls == 0
    assert torch.equal(first.shift, again.shift)


def test_checkpoint_remembers_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LOOP, "_CHECKPOINT_SECONDS", 0.0)

    def spoil(call: int, training: bool, loss: Tensor) -> Tensor:
        if training and call == 8:
            raise Killed
        return at_call(3, 4)(call, training, loss)

    with pytest.raises(Killed):
        run(Centre(spoil), batch_size=64, checkpoint=tmp_path / "training")
    with pytest.raises(FitError, match="not finite 6 times"):
        run(
            Centre(lambda c, training, loss: loss * math.nan if training else loss),
            batch_size=64,
            checkpoint=tmp_path / "training",
        )


def junk(path: Path) -> None:
    path.write_bytes(b"junk")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def other_format(path: Path) -> None:
    torch.save({"format": "hamflow-training-0"}, path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (junk, "cannot be read"),
        (truncate, "cannot be read"),
        (other_format, "is not of the format"),
        (folder, "cannot be read"),
    ],
)
def test_damaged_checkpoint(damage: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    path = tmp_path / "training"
    run(Centre(), epochs=1, checkpoint=path)
    damage(path)
    model = Centre()
    with pytest.raises(CheckpointError, match=message):
        run(model, epochs=1, checkpoint=path)
    assert torch.equal(model.shift, torch.zeros(2))


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"epochs": 2}, "epochs = 1"),
        ({"learning_rate": 0.2}, "learning_rate = 0.1"),
        ({"seed": 1}, "seed = 0"),
        ({"x": rows(63)}, "rows"),
        ({"x": rows(64, 2.0)}, "rows"),
        ({"validation": rows(9)}, "rows"),
        ({"validation": None}, "rows"),
    ],
)
def test_checkpoint_of_another_run(changed: dict[str, Any], name: str, tmp_path: Path) -> None:
    run(Centre(), epochs=1, checkpoint=tmp_path / "training")
    with pytest.raises(CheckpointError, match=f"was written with {name}"):
        run(Centre(), **({"epochs": 1, "checkpoint": tmp_path / "training"} | changed))


def test_checkpoint_of_other_held_out_rows(tmp_path: Path) -> None:
    run(Centre(), epochs=1, validation=rows(9), checkpoint=tmp_path / "training")
    with pytest.raises(CheckpointError, match="was written with held_out"):
        run(Centre(), epochs=1, validation=rows(9, 1.0), checkpoint=tmp_path / "training")


def test_checkpoint_of_another_model(tmp_path: Path) -> None:
    class Wide(Centre):
        def __init__(self) -> None:
            super().__init__()
            self.extra = nn.Parameter(torch.zeros(3))

    run(Centre(), epochs=1, checkpoint=tmp_path / "training")
    with pytest.raises(CheckpointError, match="belongs to another model"):
        run(Wide(), epochs=1, checkpoint=tmp_path / "training")


# Arguments.


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs = 0"),
        ({"epochs": 2.0}, "epochs = 2.0"),
        ({"batch_size": -1}, "batch_size = -1"),
        ({"learning_rate": math.inf}, "learning_rate = inf"),
        ({"weight_decay": -0.1}, "weight_decay = -0.1"),
        ({"clip": 0}, "clip = 0"),
        ({"schedule": "linear"}, "schedule = 'linear'"),
        ({"patience": 0}, "patience = 0"),
        ({"seed": -1}, "seed = -1"),
        ({"seed": 2**32}, "seed = 4294967296"),
        ({"seed": 0.5}, "seed = 0.5"),
        ({"seed": None}, "seed = None"),
        ({"seed": True}, "seed = True"),
        ({"validation": 0.0}, "validation = 0.0"),
        ({"validation": 1.5}, "validation = 1.5"),
        ({"validation": True}, "validation = True"),
        ({"validation": "some"}, "validation = 'some'"),
        ({"validation": torch.zeros(0, 2)}, r"validation has shape \(0, 2\)"),
        ({"validation": torch.zeros(5, 3)}, r"validation has shape \(5, 3\)"),
        ({"x": rows(1)}, "validation = 0.1 of 1 rows leaves none to train on"),
        ({"x": rows(0), "validation": None}, r"x has shape \(0, 2\), expected at least one row"),
    ],
)
def test_bad_arguments(settings: dict[str, Any], message: str) -> None:
    model = Centre()
    with pytest.raises(InputError, match=message):
        run(model, **settings)
    assert model.calls == 0


def test_weight_decay_spares_what_asks_for_it() -> None:
    class Pair(Centre):
        def __init__(self, spare: bool) -> None:
            super().__init__()
            self.no_weight_decay = spare

    found = {(decay, spare): Pair(spare) for decay in (0.0, 1.0) for spare in (True, False)}
    for (decay, _), model in found.items():
        run(model, weight_decay=decay, schedule="constant", epochs=60)
    centres = {key: float(model.shift.detach().mean()) for key, model in found.items()}
    assert centres[1.0, True] == centres[0.0, True] == centres[0.0, False]
    assert centres[1.0, False] < 0.9 * centres[0.0, False]


def test_checkpoint_that_cannot_be_written_is_found_first(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    model = Centre()
    with pytest.raises(InputError, match="cannot be written"):
        run(model, checkpoint=tmp_path / "file" / "run.pt")
    assert model.calls == 0


def test_nothing_to_train() -> None:
    model = Centre()
    model.shift.requires_grad_(False)
    with pytest.raises(InputError, match="no parameter to train"):
        fit(model, rows(), progress=False)
