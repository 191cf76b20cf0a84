"""A pendulum learned from its pictures: an autoencoder whose latent states obey an energy."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pixel_pendulum
import report
import runner
import torch
from overview import write_overview
from torch import Tensor, nn

import hamflow as hf
from hamflow.models.pixel_objective import PixelObjective
from hamflow.training import seeded
from hamflow.videos import mean_frame_mse, pixel_mse, skill, symplectic_match

NAME = "hnn_pixels"
CASES = ("pixel_pendulum",)
# Draws that no trial of any setting has seen.
FIRST_DRAW = 1000
FRAMES, TRAIN, TEST, AHEAD, ROLLOUTS = 102, 160, 40, 200, 20
OURS: dict[str, Any] = {
    "learning_rate": 3e-3,
    "epochs": 1000,
    "schedule": "cosine",
    "difference": "midpoint",
    "dynamics": 1.0,
}
PUBLISHED: dict[str, Any] = {
    "difference": "forward", "relative": False, "dynamics": 0.1, "learning_rate": 1e-3, "epochs": 1250,
    "schedule": "constant",
}  # fmt: skip
MODELS = {"hnn": OURS, "baseline": OURS, "hnn_published": PUBLISHED, "baseline_published": PUBLISHED}
BARS = {"test_loss": 1.85e-4, "energy_mse": 1.53e-4}
REFERENCES = {
    ("hnn_published", "test_loss"): 1.85e-4, ("hnn_published", "energy_mse"): 1.53e-4,
    ("baseline_published", "test_loss"): 1.73e-4, ("baseline_published", "energy_mse"): 9.27e-3,
}  # fmt: skip
SOURCE = "Greydanus et al. (2019), arXiv 1906.01563"
NOTES = """
Videos of a pendulum, 200 of 102 frames of 28 x 28 pixels, of which 160 train: two frames in a row are encoded to (q,
p) and drawn again. Mean and standard error over the seeds; a seed draws videos, weights and batches anew.

The pictures are drawn here, not by the published toolkit, with its geometry and the published steps: a rod of radius
.1 and length 1 on a screen of 1000 x 1000 pixels, red less green, cut out and reduced to 28 x 28 in 8 bits. The
physics are those of Pendulum-v0: g = 10, l = 1, dt = .05 s, its semi-implicit Euler steps, from angles up to pi / 6
and speeds up to 1. They differ in one thing: the old toolkit drew a thin black arrow round the axle, which hides a
little of the rod, and which is not here. (Against the toolkit's picture of today, half as large, an error of 8e-5 a
pixel is left.)

- test_loss: the published sum on the test videos, reconstruction + canonical + 0.1 dynamics, the mean squared errors
  of pixels, of p against the change of q, and of the change of the state against the field at the state, whichever
  loss trained.
- energy_mse: from the first two frames of 20 unseen videos of 200 frames, rolled out, drawn, encoded again, mapped to
  the angle and a quarter of the speed by the linear map that is best on the training videos, and of these the
  published energy 1.9 (1 - cos q) + p^2 against that of the true state at the same time. energy_mse_worst: of the
  worst video. energy_mse_encoded: of the true frames, encoded, without a rollout: the floor of this way of measuring,
  high where states are not the true ones in other canonical coordinates, however well frames are forecast. Published:
  one video, whose angle the paper does not say; the linear map trained by 4000 steps of Adam; time stretched by .985.
- forecast_skill: of the rolled out frames, 1 without an error, 0 for the mean frame; at_the_end: of the last 20.
- symplectic_r2, symplectic_error: whether the encoded test frames are the true states in other canonical
  coordinates.

hnn: PixelHNN, the gradient of a learned H half way between two states, latent errors relative to the variance of q,
dynamics weighted by 1; when it is done, q gets variance one, in which test_loss is measured. baseline: the same with
a network of two outputs for the change of the state. hnn_published, baseline_published: the gradient, or the network,
at the first of two states, weights and constant learning rate as published, rolled out in steps of a quarter of a
frame; encoder, decoder and start are ours, there is no weight decay, and a batch is 20 stretches of 12 frames.

How the settings were chosen: by hand, on other draws than those of this table, whose draws no trial has seen.
"""


class Baseline(hf.PixelHNN):
    """The same autoencoder with a network for the change of the state, which knows no energy."""

    def assemble(self) -> None:
        """Make all parts anew; the network has as many layers and units as the energy of the other contender."""
        super().assemble()
        sizes = [2 * self.config["dim"], *self.config["widths"]]
        layers: list[nn.Module] = []
        with seeded(self.config["seed"]):
            for before, after in pairwise(sizes):
                layers += [nn.Linear(before, after), nn.Tanh()]
            self.field = nn.Sequential(*layers, nn.Linear(sizes[-1], sizes[0]))
            for layer in self.field:
                if isinstance(layer, nn.Linear):
                    nn.init.orthogonal_(layer.weight)
        self.unit = 1.0

    def velocity(self, z: Tensor) -> Tensor:
        """What a state changes by in a frame."""
        found: Tensor = self.field(z * self.unit) / self.unit
        return found

    def rescale(self, size: float) -> None:
        """Measure states in units of ``size``."""
        super().rescale(size)
        self.unit *= size

    @torch.no_grad()
    def path(self, q: Tensor, p: Tensor, n_steps: int, dt: float) -> Tensor:
        """The states by the implicit midpoint rule, as that of the other contender."""
        states = [torch.cat((q, p), -1)]
        small = dt / self.config["substeps"]
        for _ in range(n_steps):
            z = states[-1]
            for _ in range(self.config["substeps"]):
                change = small * self.velocity(z)
                for _ in range(30):
                    change = small * self.velocity(z + change / 2)
                z = z + change
            states.append(z)
        return torch.stack(states)


def work(run: runner.Run, pictures: Path) -> list[report.Row]:
    """Fit one contender and judge it."""
    quick = run.configuration["quick"]
    task = load_task(run.seed, quick)
    model = fit(run.model, task, run.seed, quick)
    figures, picture = judge(model, task)
    if run.seed == 0:
        pictures.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(pictures / f"{run.model}.npz", **picture)
    parts = [model.encoder, model.decoder, model.field if isinstance(model, Baseline) else model.hamiltonian]
    params = sum(x.numel() for part in parts for x in part.parameters())
    cost = {"unit": "1", "params": params, "train_seconds": round(model.history.seconds, 1)}
    rows: list[report.Row] = [{"metric": name, "value": value, **cost} for name, value in figures.items()]
    for row in rows:
        name = str(row["metric"])
        if run.model == "hnn" and name in BARS:
            row["bar"] = BARS[name]
        if (run.model, name) in REFERENCES:
            row |= {"reference": REFERENCES[run.model, name], "reference_source": SOURCE}
    return rows


def load_task(seed: int, quick: bool) -> tuple[hf.Videos, hf.Videos, hf.Videos]:
    """Videos that train, videos that test, and longer ones whose first frames start a forecast."""
    film = pixel_pendulum.film
    n = (8, 4, 12) if quick else (TRAIN, TEST, FRAMES)
    ahead = film(3 if quick else ROLLOUTS, 30 if quick else AHEAD, FIRST_DRAW + 2 * seed + 1)
    both = film(n[0] + n[1], n[2], FIRST_DRAW + 2 * seed)
    assert both.states is not None
    held, rest = (hf.Videos(both.frames[rows], both.dt, both.states[rows]) for rows in (slice(n[1]), slice(n[1], None)))
    return rest, held, ahead


def fit(name: str, task: tuple[hf.Videos, hf.Videos, hf.Videos], seed: int, quick: bool) -> hf.PixelHNN:
    """Fit a contender."""
    chosen = dict(MODELS[name])
    forward = chosen["difference"] == "forward"
    build = {"difference": chosen.pop("difference"), "substeps": 4 if forward else 1, "seed": seed}
    epochs = 2 if quick else chosen.pop("epochs")
    model = (Baseline if name.startswith("baseline") else hf.PixelHNN)(**build)
    settings = {name: value for name, value in chosen.items() if name != "epochs"}
    return model.fit(task[0], epochs=epochs, validation=None, seed=seed, progress=False, **settings)


@torch.no_grad()
def judge(model: hf.PixelHNN, task: tuple[hf.Videos, hf.Videos, hf.Videos]) -> tuple[dict[str, float], dict[str, Any]]:
    """The figures, and what the pictures show."""
    train, test, ahead = task
    goal = PixelObjective(model, test, canonical=1.0, dynamics=0.1, relative=False, frames_per_step=None).eval()
    parts = [float(part) for part in goal.parts(test[:], "forward")]
    figures = {"test_loss": parts[0] + parts[1] + 0.1 * parts[2]}
    figures |= dict(zip(("reconstruction", "canonical", "dynamics"), parts, strict=True))

    # From latent to canonical coordinates by a linear map, as published.
    z = model.states(train[:]).flatten(0, 1).double()
    truth = canonical(train).flatten(0, 1)
    linear = torch.linalg.lstsq(_affine(z), truth).solution
    frames, along = ahead[:], canonical(ahead)
    path = model.path(*model.encode(frames), ahead.n_frames - 2, model.dt).movedim(0, 1)
    drawn = model.draw(path)
    found = _affine(model.states(drawn)[:, :, 0].double()) @ linear
    error = (energy(found) - energy(along)).square().mean(1)
    figures |= {"energy_mse": float(error.mean()), "energy_mse_worst": float(error.max())}
    seen = _affine(model.states(frames).double()) @ linear
    figures["energy_mse_encoded"] = float((energy(seen) - energy(along)).square().mean())

    shown = model.forecast(frames[:, :2], ahead.n_frames - 2)
    floor = mean_frame_mse(train[:], frames)
    figures["forecast_skill"] = skill(float(pixel_mse(frames[:, 2:], shown).mean()), 0.0, floor)
    figures["forecast_skill_at_the_end"] = skill(float(pixel_mse(frames[:, -20:], shown[:, -20:]).mean()), 0.0, floor)
    explained, area = symplectic_match(model.states(test[:]).flatten(0, 1), canonical(test).flatten(0, 1))
    figures |= {"symplectic_r2": explained, "symplectic_error": area}
    picture = {
        "truth": frames[0, 2:, 0].numpy(), "found": shown[0, :, 0].numpy(),
        "true_energy": energy(along).numpy(), "energy": energy(found).numpy(),
    }  # fmt: skip
    return figures, picture


def canonical(videos: hf.Videos) -> Tensor:
    """Angle and a quarter of the speed when the second frame of a pair is taken, (n, time - 1, 2), as published."""
    assert videos.states is not None
    return torch.cat((videos.states.q, 0.25 * videos.states.need("v")), -1)[:, 1:]


def energy(z: Tensor) -> Tensor:
    """The published energy of these coordinates, about an eighth of the true one, (*batch, 2) -> (*batch,)."""
    q, p = z.unbind(-1)
    return 1.9 * (1 - q.cos()) + p**2


def _affine(z: Tensor) -> Tensor:
    return torch.cat((z, torch.ones_like(z[..., :1])), -1)


def draw(out: Path, pictures: Path) -> None:
    """Draw true and forecast frames, and the energies along the forecasts."""
    import matplotlib

    matplotlib.use("Agg")
    import seaborn as sns
    from matplotlib import pyplot as plt

    held = {name: np.load(pictures / f"{name}.npz") for name in MODELS if (pictures / f"{name}.npz").is_file()}
    if not held:
        return
    sns.set_theme(style="white", font_scale=0.8)
    first = next(iter(held.values()))
    strips = {"truth": first["truth"]} | {name: arrays["found"] for name, arrays in held.items()}
    figure = plt.figure(figsize=(10, 0.6 * len(strips) + 2.6), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(0.6 * len(strips), 2.4))
    axes = top.subplots(len(strips), 1, squeeze=False)[:, 0]
    every = max(1, len(first["truth"]) // 20)
    for axis, (name, frames) in zip(axes, strips.items(), strict=True):
        axis.imshow(np.concatenate(list(frames[::every][:, :, 5:-5]), 1), cmap="gray", vmin=0, vmax=0.6)
        axis.set_ylabel(name, rotation=0, ha="right", va="center")
        axis.set(xticks=[], yticks=[])
        sns.despine(ax=axis, left=True, bottom=True)
    panels = bottom.subplots(1, len(held), sharey=True, squeeze=False)[0]
    for axis, (name, arrays) in zip(panels, held.items(), strict=True):
        axis.plot(arrays["true_energy"][:5].T, color="grey", linewidth=1.5, alpha=0.5)
        axis.set_prop_cycle(color=sns.color_palette("colorblind"))
        axis.plot(arrays["energy"][:5].T, linewidth=0.8)
        axis.set(title=name, xlabel="frame")
    panels[0].set_ylabel("energy, true ones in grey")
    figure.savefig(out / "pixel_pendulum.png", dpi=80)
    plt.close(figure)


def main() -> None:
    """Run what the command line asks for, then write the table, the figure and the overview."""
    options = runner.parse_options(NAME, __doc__ or "", CASES, [*MODELS], quick=(CASES, ["hnn", "baseline"]))
    seeds = options.seeds or ([0] if options.quick else [0, 1, 2])
    runs, decides = runner.plan(
        options, seeds, [*MODELS], lambda model, case: MODELS[model], lambda model, case: True, {}
    )
    store = report.ResultStore(options.out, quick=options.quick)
    store.drop_stale(decides)
    pictures = options.out / "pictures"
    runner.execute(partial(work, pictures=pictures), runs, store, options.jobs)
    report.write_table(store, "A pendulum learned from pictures", NOTES, CASES)
    draw(options.out, pictures)
    write_overview(options.out.parent)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
