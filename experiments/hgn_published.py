"""Dynamics learned from videos in the published size: RGB, 50,000 videos a system, maps as states; made for a GPU."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import report
import runner
import torch
from hgn_tasks import CASES
from overview import write_overview
from peers import count_parameters

import hamflow as hf

NAME = "hgn_published"
PUBLISHED: dict[str, dict[str, Any]] = {
    "full": {
        "train": 50_000, "test": 10_000, "frames": 30,
        "model": {"channels": 3, "dim": 16, "code": 16, "maps": True, "width": 64, "context": 5},
        "fit": {
            "epochs": 5, "batch_size": 16, "learning_rate": 1.5e-4, "schedule": "constant",
            "validation": 0.02, "growth": 0.2,
        },
    },
    "quick": {
        "train": 24, "test": 4, "frames": 8,
        "model": {"channels": 3, "dim": 2, "code": 2, "maps": True, "width": 4, "context": 5},
        "fit": {"epochs": 1, "batch_size": 8, "learning_rate": 1.5e-4, "schedule": "constant"},
    },
}  # fmt: skip
CONTEXT = 5
#: A rim with which the noise of positions costs about as much as on the published pictures.
LOOK: dict[str, Any] = {"channels": 3, "softness": 2.0}
BARS = {
    "autoencode_mse": {"mass_spring": 7.1, "pendulum": 14.1, "two_body": 3.36},
    "inference_mse": {"mass_spring": 12.2, "pendulum": 44.1, "two_body": 6.33},
}
#: By the re-implementation with its best integrator; the bars are these figures, cut short.
REFERENCES = {
    "autoencode_mse": {"mass_spring": 7.10, "pendulum": 14.14, "two_body": 3.36},
    "inference_mse": {"mass_spring": 12.21, "pendulum": 44.12, "two_body": 6.33},
    "noise_floor": {"mass_spring": 6.9, "pendulum": 7.3, "two_body": 2.4},
    "mean_frame": {"mass_spring": 49.4, "pendulum": 82.7, "two_body": 26.6},
    "autoencode_above_floor": {"mass_spring": 0.2, "pendulum": 6.8, "two_body": 1.0},
    "inference_above_floor": {"mass_spring": 5.3, "pendulum": 36.8, "two_body": 3.9},
}
SOURCE = "Balsells Rodas et al. (2021), Re-Hamiltonian Generative Networks"
NOTES = """
Videos of 30 frames of 32 x 32 RGB pixels, dt = .125, with the published systems and their noise of positions: 50,000 to
learn from and 10,000 others to be judged on, in files that are read piece by piece. Mean and standard error over the
seeds; a seed draws videos, weights and batches anew.

- autoencode_mse: squared error a pixel, in units of 1e-4, of 30 frames from themselves; inference_mse: from the first
  five of them, by the same model. noise_floor: of who knows the exact states. mean_frame: of who knows nothing.
  *_above_floor: what of an error is not that of the noise. The renderer is not the published one, so the floors differ
  from the published ones, and figures above them are what to compare.

hgn: q, p and codes are maps of 16 x 4 x 4, all networks convolutional, Adam at 1.5e-4, batches of 16, five epochs, as
published. Ours are the encoder, a second one for five frames, the decoder, the start from data, clips that grow, the
noise of pixels in closed form, a warm-up, clipped gradients, the best weights by 2 % of the videos held out, and codes
whitened in the end. One model serves both ways of asking; the published figures are those of one trained for each.
"""


def work(run: runner.Run, videos: Path) -> list[report.Row]:
    """Draw the videos if they are not there, fit, from a checkpoint if there is one, and judge."""
    chosen = run.configuration["settings"]
    case, frames = CASES[run.case], chosen["frames"]
    train, test = (
        film(run.case, n, frames, seed, videos)
        for n, seed in ((chosen["train"], run.seed), (chosen["test"], 1000 + run.seed))
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = hf.HGN(frames=frames, seed=run.seed, **chosen["model"])
    state = videos / f"{run.case}-{run.seed}.checkpoint"
    model.fit(train, device=device, checkpoint=state, seed=run.seed, progress=False, **chosen["fit"])
    model.save(videos / f"{run.case}-{run.seed}")

    sums = torch.zeros(2, dtype=torch.float64)
    for rows in torch.arange(len(test)).split(100):
        some = test[rows].to(model.like)
        for k, seen in enumerate((frames, CONTEXT)):
            sums[k] += hf.videos.pixel_mse(some, model.reconstruct(some[:, :seen], frames)).double().sum().cpu()
    assert test.states is not None
    q = test.states.q[:200, ::3]
    figures = dict(zip(("autoencode_mse", "inference_mse"), (sums / len(test)).tolist(), strict=True))
    figures["noise_floor"] = hf.videos.noise_floor(hf.videos.scene_of(case.system), q, case.noise, draws=32, **LOOK)
    for name in ("autoencode", "inference"):
        figures[f"{name}_above_floor"] = figures[f"{name}_mse"] - figures["noise_floor"]
    figures["mean_frame"] = hf.videos.mean_frame_mse(train[:1000], test[:1000])
    cost = {"params": count_parameters(model), "train_seconds": round(model.history.seconds, 1), "unit": "1e-4"}
    rows_: list[report.Row] = []
    for name, value in figures.items():
        row: report.Row = {"metric": name, "value": 1e4 * value, **cost}
        if name in BARS:
            row |= {"bar": BARS[name][run.case]}
        if name in REFERENCES:
            row |= {"reference": REFERENCES[name][run.case], "reference_source": SOURCE}
        rows_.append(row)
    return rows_


def film(name: str, n: int, n_frames: int, seed: int, folder: Path) -> hf.Videos:
    """The videos of a case from their file, which is drawn if there is none."""
    case = CASES[name]
    path = folder / f"{name}-{n}x{n_frames}-noise{case.noise:g}-rim{LOOK['softness']:g}-{seed}.h5"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        hf.videos.film(
            case.system, n=n, n_frames=n_frames, noise=case.noise, path=path, dtype=torch.uint8, seed=seed, **LOOK
        )
    return hf.Videos.load(path)


def main() -> None:
    """Run what the command line asks for, then write the table and the overview."""
    options = runner.parse_options(NAME, __doc__ or "", list(CASES), ["hgn"], quick=(["mass_spring"], ["hgn"]))
    seeds = options.seeds or ([0] if options.quick else [0, 1, 2])
    size = PUBLISHED["quick" if options.quick else "full"]
    runs, decides = runner.plan(options, seeds, ["hgn"], lambda model, case: size, lambda model, case: True, {})
    store = report.ResultStore(options.out, quick=options.quick)
    store.drop_stale(decides)
    runner.execute(partial(work, videos=options.out / "videos"), runs, store, options.jobs)
    report.write_table(store, "Dynamics from videos, published size", NOTES, CASES)
    write_overview(options.out.parent)


if __name__ == "__main__":
    main()
