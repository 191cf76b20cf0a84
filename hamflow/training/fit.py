"""One training loop for every model: validation, patience, best weights, recovery from bad steps, resuming."""

from __future__ import annotations

import copy
import math
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from hamflow.errors import CheckpointError, FitError, InputError
from hamflow.io import check_writable
from hamflow.training.checkpoint import read_checkpoint, write_checkpoint
from hamflow.training.history import History
from hamflow.training.rows import fingerprint, split_rows
from hamflow.training.seeding import seeded
from hamflow.training.settings import check_settings, decay_groups

_MAX_RETURNS = 5
_CHECKPOINT_SECONDS = 10.0
_WARM_UP_STEPS = 50
#: The same weights give the same loss but for rounding, which another device does otherwise.
_SAME_LOSS = 1e-3


def fit(
    model: nn.Module,
    x: Tensor,
    *,
    epochs: int = 200,
    batch_size: int = 256,
    learning_rate: float = 5e-3,
    weight_decay: float = 0.0,
    schedule: str = "cosine",
    validation: float | Tensor | None = 0.1,
    patience: int | None = None,
    clip: float = 10.0,
    seed: int = 0,
    progress: bool = True,
    checkpoint: str | Path | None = None,
) -> History:
    r"""Minimise ``model.loss(batch)`` over the rows of ``x`` by AdamW, restore the best weights and return the history.

    Where a loss or a gradient is not finite, the loop returns to the weights at the end of the last good epoch with
    half the learning rate, notes it, and gives up with an error after five returns; such a loss never counts as an
    improvement. A run is reproducible from its seed; the caller's random state is left as it was.

    Args:
        model: a module with ``loss(batch) -> scalar``, the mean over the batch.
        x: the training rows, (n, ...), on the model's device.
        epochs: passes over the training rows.
        batch_size: rows a step.
        learning_rate: the largest learning rate.
        weight_decay: decoupled weight decay; it leaves alone the own parameters of modules with a true attribute
            ``no_weight_decay``, such as means, masses and friction, for which zero is no better than another value.
        schedule: ``"cosine"`` (to zero over the epochs), ``"plateau"`` (halved whenever a third of the patience, 10
            epochs without one, brings no better loss, of training where there are no validation rows) or
            ``"constant"``; all warm up over 50 steps.
        validation: the share of rows held out, the held-out rows themselves, or None.
        patience: epochs without a better validation loss before the loop stops; None never stops early. Epochs after
            which ``model.patient`` is true count neither here nor for a plateau.
        clip: the largest gradient norm.
        seed: for the split, the batches and the model's own noise.
        progress: whether to show a progress bar.
        checkpoint: a file for the state of the run, which goes on from there: with these settings, rows and ``config``,
            but for ``epochs``, of which there may be more now unless the schedule is the cosine.

    Raises:
        InputError: an argument is out of range.
        FitError: the loss is not finite at the start, or again and again.
        CheckpointError: the checkpoint cannot be used.

    References:
        Loshchilov and Hutter (2019), Decoupled Weight Decay Regularization, arXiv 1711.05101.

    Example:
        >>> import torch, hamflow as hf
        >>> len(fit(hf.NHF(2, n_steps=2, width=4), torch.randn(50, 2), epochs=3, progress=False).validation)
        3
    """
    settings = check_settings(
        epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, weight_decay=weight_decay, clip=clip,
        schedule=schedule, patience=patience, seed=seed,
    )  # fmt: skip
    if checkpoint is not None:
        check_writable(checkpoint)
    with seeded(seed, x.device):
        rows, held_out = split_rows(x, validation, seed)
        settings |= {"rows": fingerprint(rows), "held_out": None if held_out is None else fingerprint(held_out)}
        settings |= {f"model {name}": str(value) for name, value in getattr(model, "config", {}).items()}
        run = _Run(model, rows, held_out, settings, None if checkpoint is None else Path(checkpoint))
        return run.train(progress)


class _Run:
    def __init__(
        self, model: nn.Module, rows: Tensor, held_out: Tensor | None, settings: dict[str, Any], path: Path | None
    ) -> None:
        self.model, self.rows, self.held_out, self.settings, self.path = model, rows, held_out, settings, path
        self.n_batches = math.ceil(len(rows) / settings["batch_size"])
        parameters = [p for p in model.parameters() if p.requires_grad]
        if not parameters:
            raise InputError("model has no parameter to train, expected at least one with requires_grad")
        self.optimizer = torch.optim.AdamW(decay_groups(model, settings["weight_decay"]), lr=settings["learning_rate"])
        self.parameters = parameters
        self.history = History()
        self.epoch = 0
        self.scale = 1.0  # halved by a plateau or a bad step
        self.returns = 0
        self.since_halving = 0
        self.counted_from = 0
        self.best_loss = math.inf
        self.saved_at = time.monotonic()

    def train(self, progress: bool) -> History:
        # Only the cosine schedule depends on where it is to end.
        free = () if self.settings["schedule"] == "cosine" else ("epochs",)
        state = None if self.path is None else read_checkpoint(self.path, self.settings, free)
        if state is None:
            self._start()
        else:
            self._restore(state)
        started = time.process_time() - self.history.seconds
        bar = tqdm(
            total=self.settings["epochs"], initial=self.epoch, disable=not progress, desc="fit", unit="epoch",
            dynamic_ncols=True,
        )  # fmt: skip
        with bar:
            try:
                while self.epoch < self.settings["epochs"] and not self._out_of_patience():
                    self._one_epoch(bar)
                    self.history.seconds = time.process_time() - started
                    if self.path is not None and time.monotonic() - self.saved_at > _CHECKPOINT_SECONDS:
                        self._save()
            except KeyboardInterrupt:
                # The epoch is lost, not the run.
                self._go_back()
                if self.path is not None:
                    self._save()
                raise
        if self.path is not None:
            self._save()
        if self.held_out is not None:
            self.model.load_state_dict(self.best)
        self.model.eval()
        return self.history

    @property
    def _patient(self) -> bool:
        return getattr(self.model, "patient", False)

    def _start(self) -> None:
        self.history.start = self._validation_loss()
        self.best_loss = math.inf if self.held_out is None else self.history.start
        if self._patient and math.isnan(self.best_loss):
            self.best_loss = math.inf
        elif self.held_out is not None and not math.isfinite(self.best_loss):
            raise FitError(f"the validation loss of the untrained model is {self.best_loss}, expected a finite number")
        self.best = copy.deepcopy(self.model.state_dict())
        self._mark_good()

    def _one_epoch(self, bar: tqdm[Any]) -> None:
        loss = self._train_epoch()
        held = self._validation_loss() if math.isfinite(loss) else math.nan
        if not math.isfinite(held) and math.isfinite(loss) and self._patient:
            held = math.inf  # of what the model is not yet trained for
        elif not math.isfinite(loss) or (self.held_out is not None and not math.isfinite(held)):
            self._return_to_good(bar)
            return
        self.epoch += 1
        self.history.train.append(loss)
        shown = {"loss": f"{loss:.4g}"}
        if self.held_out is not None:
            self.history.validation.append(held)
            self._judge(held)
            shown |= {"validation": f"{held:.4g}", "best": f"{self.best_loss:.4g}"}
        else:
            self.history.best_epoch = self.epoch
            self._wait_on_plateau(loss)
        self._mark_good()
        bar.set_postfix(shown)
        bar.update()

    def _train_epoch(self) -> float:
        self.model.train()
        total = 0.0
        order = torch.randperm(len(self.rows)).to(self.rows.device)
        # Batches of nearly equal size: a last batch of one row would be all noise.
        for i, index in enumerate(order.tensor_split(self.n_batches)):
            for group in self.optimizer.param_groups:
                group["lr"] = self._learning_rate(self.epoch * self.n_batches + i)
            self.optimizer.zero_grad(set_to_none=True)
            loss = self.model.loss(self.rows[index])  # type: ignore[operator]
            loss.backward()
            norm = nn.utils.clip_grad_norm_(self.parameters, self.settings["clip"])
            if not math.isfinite(value := float(loss.detach() + 0 * norm)):
                return math.nan
            self.optimizer.step()
            total += value * len(index)
        return total / len(self.rows)

    def _learning_rate(self, step: int) -> float:
        total = self.settings["epochs"] * self.n_batches
        warm = min(1.0, (step + 1) / min(_WARM_UP_STEPS, total))
        fade = 0.5 * (1 + math.cos(math.pi * step / total)) if self.settings["schedule"] == "cosine" else 1.0
        return float(self.settings["learning_rate"]) * self.scale * warm * fade

    def _validation_loss(self) -> float:
        return math.nan if self.held_out is None else self._judged(self.held_out)

    def _judged(self, rows: Tensor) -> float:
        self.model.eval()
        total = 0.0
        # The same noise every time, so that epochs are compared on equal terms.
        with torch.no_grad(), seeded(self.settings["seed"], self.rows.device):
            for batch in rows.split(4 * self.settings["batch_size"]):
                total += float(self.model.loss(batch)) * len(batch)  # type: ignore[operator]
        return total / len(rows)

    def _probe(self) -> float:
        # Of the good weights, where nothing is held out that would tell: by this a checkpoint knows its model.
        return self._judged(self.rows[: self.settings["batch_size"]])

    def _judge(self, loss: float) -> None:
        if loss < self.best_loss:
            self.history.best_epoch = self.epoch
            self.best = copy.deepcopy(self.model.state_dict())
        self._wait_on_plateau(loss)

    def _wait_on_plateau(self, loss: float) -> None:
        if loss < self.best_loss:
            self.best_loss, self.since_halving = loss, 0
            return
        if self._patient:
            self.counted_from, self.since_halving = self.epoch, 0
            return
        self.since_halving += 1
        wait = max(1, self.settings["patience"] // 3) if self.settings["patience"] else 10
        if self.settings["schedule"] == "plateau" and self.since_halving >= wait:
            self.scale /= 2
            self.since_halving = 0

    def _out_of_patience(self) -> bool:
        patience = self.settings["patience"]
        since = max(self.history.best_epoch, self.counted_from)
        return self.held_out is not None and patience is not None and self.epoch - since >= patience

    def _mark_good(self) -> None:
        self.good = copy.deepcopy((self.model.state_dict(), self.optimizer.state_dict()))
        device = self.rows.device
        self.random = torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        self._take_down()

    def _take_down(self) -> None:
        # In one assignment: an interrupt finds the state of one epoch or of the next, never of both.
        self.state: dict[str, Any] = {
            "good": self.good, "best": self.best, "best_loss": self.best_loss, "history": asdict(self.history),
            "epoch": self.epoch, "scale": self.scale, "returns": self.returns, "since_halving": self.since_halving,
            "counted_from": self.counted_from, "random": self.random[0], "random_cuda": self.random[1],
        }  # fmt: skip

    def _go_back(self) -> None:
        model_state, optimizer_state = self.good
        self.model.load_state_dict(model_state)
        self.optimizer.load_state_dict(copy.deepcopy(optimizer_state))

    def _return_to_good(self, bar: tqdm[Any]) -> None:
        self.returns += 1
        self.scale /= 2
        self._go_back()
        note = f"epoch {self.epoch + 1}: the loss was not finite; back to the last good weights, learning rate halved"
        self.history.notes.append(note)
        self._take_down()
        if not bar.disable:
            bar.write(note, file=sys.stderr)
        if self.returns > _MAX_RETURNS:
            if self.held_out is not None:
                self.model.load_state_dict(self.best)
            self.model.eval()
            error = FitError(
                f"the loss was not finite {self.returns} times, the last in epoch {self.epoch + 1}; the model keeps "
                "its best weights. A smaller learning_rate or clip, float64, or a look at the data's outliers may help"
            )
            error.history = self.history
            raise error

    def _save(self) -> None:
        assert self.path is not None
        self.state["history"]["seconds"] = self.history.seconds
        if self.held_out is None:
            self.state["probe"] = self._probe()
        write_checkpoint(self.path, self.state, self.settings)
        self.saved_at = time.monotonic()

    def _restore(self, state: dict[str, Any]) -> None:
        if state["epoch"] > self.settings["epochs"]:
            done = f"checkpoint {self.path} has done {state['epoch']} epochs"
            raise CheckpointError(f"{done}, and epochs = {self.settings['epochs']}: expected at least as many")
        self.good, self.best, self.best_loss = state["good"], state["best"], state["best_loss"]
        try:
            self.model.load_state_dict(self.good[0])
            self.optimizer.load_state_dict(copy.deepcopy(self.good[1]))
        except (RuntimeError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(f"checkpoint {self.path} belongs to another model: {reason}") from error
        self.history = History(**state["history"])
        self._check_law(state)
        self.epoch, self.scale = state["epoch"], state["scale"]
        self.returns, self.since_halving = state["returns"], state["since_halving"]
        self.counted_from = state.get("counted_from", 0)
        self.random = state["random"], state["random_cuda"]
        self._take_down()
        torch.set_rng_state(state["random"])
        if state["random_cuda"] is not None:
            torch.cuda.set_rng_state(state["random_cuda"], self.rows.device)

    def _check_law(self, state: dict[str, Any]) -> None:
        # What a model is made of may differ where neither its settings nor its weights show it: inside a function.
        if self.held_out is None:
            name, now = "loss", self._probe()
            before = state.get("probe", now)
        else:
            name, now = "validation loss", self._validation_loss()
            before = [self.history.start, *self.history.validation][-1]
        size = max(map(abs, (before, *self.history.train[:1])))
        rounding = 10 * torch.finfo(self.parameters[0].dtype).eps * size
        lost = math.isnan(before) and math.isnan(now)
        if not lost and not math.isclose(before, now, rel_tol=_SAME_LOSS, abs_tol=rounding):
            raise CheckpointError(
                f"checkpoint {self.path} belongs to another model or law: its weights gave a {name} of {before:.6g} "
                f"when it was written, and give {now:.6g} here"
            )
