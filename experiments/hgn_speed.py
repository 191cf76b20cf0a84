"""How fast a model of videos trains: frames decoded at once, and forces as the energies give them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import report
import runner
from overview import write_overview

NAME = "hgn_speed"
SIZES: dict[str, dict[str, Any]] = {
    "published": {"channels": 3, "dim": 16, "code": 16, "maps": True, "width": 64},
    "vector": {"channels": 1, "dim": 4, "width": 32},
}
NOTES = """
A training step of 16 videos of 30 frames of 32 x 32 pixels, one thread: encoder, transformer, rollout, decoder, squared
error, gradient and update. The contenders take turns; figures are medians over rounds, of process time.

- published: RGB, q and p maps of 16 x 4 x 4, all networks convolutional. vector: grey, four positions.
- frame_by_frame_step: what is common in published code: a leapfrog whose forces are torch.autograd.grad of the whole
  energy with create_graph, and a call of the decoder for every frame. at_once_step: hamflow's, all frames decoded in
  one batch and forces as the energies give them; ten_frames_step, five_frames_step: so many of the 30 frames, drawn at
  random in each step, as frames_per_step does. The table of videos says what a model learns from steps of five.
- speedup_*: frame_by_frame_step over the others. at_once and frame_by_frame compute the same: in double precision their
  parameter gradients agree to 1e-10, and a run fails where they do not. The other two decode less of each video. On one
  core a batch of frames costs what its frames cost, and decoding takes decoding_share of the step at once.
"""


def work(run: runner.Run) -> list[report.Row]:
    """Let the kinds of training steps take turns."""
    import torch
    from torch import Tensor

    import hamflow as hf

    rounds, batch, times = (run.configuration[name] for name in ("rounds", "batch", "frames"))
    generator = torch.Generator().manual_seed(run.seed)
    size = run.configuration["size"]
    frames = torch.rand(batch, times, size["channels"], 32, 32, generator=generator)

    def network() -> hf.HGN:
        model = hf.HGN(frames=times, seed=run.seed, **size)
        model.dt = 0.125
        return model

    def at_once(model: hf.HGN, frames: Tensor, shown: Tensor | None = None) -> Tensor:
        q, p = model.initial_state(model.posterior(frames)[0])
        path = model.path(q, p, times - 1, model.dt)[..., : model.dim]
        chosen = slice(None) if shown is None else shown
        return (model.decode(path[chosen]).movedim(0, 1) - frames[:, chosen]).square().mean()

    def some(share: int) -> Callable[[hf.HGN, Tensor], Tensor]:
        return lambda model, frames: at_once(model, frames, torch.randperm(times)[: max(1, times // share)])

    def frame_by_frame(model: hf.HGN, frames: Tensor) -> Tensor:
        q, p = model.initial_state(model.posterior(frames)[0])

        def slope(number: int) -> Tensor:
            # Of their own, so that a gradient in q does not run through what p was made from.
            leaves = q.view_as(q), p.view_as(p)
            return torch.autograd.grad(model.energy(*leaves).sum(), leaves, create_graph=True)[number]

        error = (model.decode(q) - frames[:, 0]).square().mean()
        for k in range(1, times):
            p = p - model.dt / 2 * slope(0)
            q = q + model.dt * slope(1)
            p = p - model.dt / 2 * slope(0)
            error = error + (model.decode(q) - frames[:, k]).square().mean()
        return error / times

    exact = network().double()
    parameters = [parameter for name, parameter in exact.named_parameters() if name != "log_scale"]
    few = frames[:2].double()
    gradients = []
    for way in (at_once, frame_by_frame):
        found = torch.autograd.grad(way(exact, few), parameters, allow_unused=True)
        gradients.append(torch.cat([x.flatten() for x in found if x is not None]))
    difference = float((gradients[0] - gradients[1]).abs().max() / gradients[1].abs().max())
    if not difference <= 1e-10:
        raise AssertionError(f"the parameter gradients differ by {difference:.1e}, expected <= 1e-10")

    def trainer(way: Callable[[hf.HGN, Tensor], Tensor]) -> Callable[[], None]:
        model = network()
        optimiser = torch.optim.Adam(model.parameters(), 1.5e-4)

        def step() -> None:
            optimiser.zero_grad()
            way(model, frames).backward()
            optimiser.step()

        return step

    names = ("at_once", "ten_frames", "five_frames", "frame_by_frame")
    contenders = [trainer(way) for way in (at_once, some(3), some(6), frame_by_frame)]
    spent: list[list[float]] = []
    for number in range(rounds + 1):
        row = []
        for contender in contenders:
            start = time.process_time()
            contender()
            row.append(1000 * (time.process_time() - start))
        # The first round pays for what every process loads and allocates once.
        spent += [row] if number else []
    columns = list(zip(*spent, strict=True))
    params = sum(parameter.numel() for parameter in network().parameters())
    rows: list[report.Row] = [
        {"metric": f"{name}_step", "value": statistics.median(column), "unit": "ms", "params": params}
        for name, column in zip(names, columns, strict=True)
    ]
    for name, column in zip(names[:-1], columns[:-1], strict=True):
        ratios = [slow / fast for slow, fast in zip(columns[-1], column, strict=True)]
        bar = {"bar": 3.0} if run.case == "published" and name == "at_once" else {}
        rows.append({"metric": f"speedup_{name}", "value": statistics.median(ratios), "unit": "times", **bar})
    whole, ten = (statistics.median(columns[names.index(name)]) for name in ("at_once", "ten_frames"))
    share = (whole - ten) / (times - max(1, times // 3)) * times / whole
    return [*rows, {"metric": "decoding_share", "value": share, "unit": "1"}]


def main() -> None:
    """Run what the command line asks for, then write the table and the overview."""
    options = runner.parse_options(NAME, __doc__ or "", list(SIZES), ["hgn"], quick=(["vector"], ["hgn"]))
    seeds = options.seeds or ([0] if options.quick else [0, 1, 2])
    decides = {"rounds": 2, "batch": 2, "frames": 4} if options.quick else {"rounds": 8, "batch": 16, "frames": 30}
    runs = [runner.Run(case, "hgn", seed, decides | {"size": SIZES[case]}) for case in options.cases for seed in seeds]
    store = report.ResultStore(options.out, quick=options.quick)
    store.drop_stale({(run.case, run.model): run.configuration for run in runs})
    runner.execute(work, runs, store, options.jobs)
    report.write_table(store, "Speed of training on videos", NOTES, SIZES)
    write_overview(options.out.parent)


if __name__ == "__main__":
    main()
