"""Dynamics learned from videos: a learned energy beside plain networks, judged far beyond the length they saw."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import hgn_contenders
import hgn_limits
import hgn_pictures
import report
import runner
import torch
from hgn_contenders import MODELS, settings
from hgn_tasks import CASES, JUDGED, TRAINED, Task, load_task
from overview import write_overview
from peers import count_parameters
from torch import Tensor

import hamflow as hf
from hamflow.io import atomic_path

NAME = "hgn"
NOTES = f"""
Mean and standard error over the seeds; a seed draws videos, weights and batches anew. Videos of 32 x 32 grey pixels,
dt = .125, with the published systems, sizes of discs and noise of positions (.1; .05 for two bodies, of which one is
drawn white and one grey): 5000 of {TRAINED} frames to learn from, 100 others of {JUDGED} frames to be judged on.

- mse: a pixel, of {TRAINED} frames reconstructed from themselves. noise_floor: of who knows the exact states.
  mean_frame: of who knows nothing. reconstruction_skill: 1 - (mse - floor) / (mean_frame - floor); inference_skill:
  the same of {TRAINED} frames from the first five of them. The floor has an error of its own, and who fits the noise of
  frames that are given can score above one. Predictions are means over 32 draws from the posterior of the state
  (draws=32); encoder_skill, encoder_inference_skill: the same by what the encoder says alone.
- forecast_mse: of the {JUDGED - TRAINED} frames after the {TRAINED} given, to five times the length of the training
  videos; forecast_skill: the same as a skill. times_better_than_latent_mlp: forecast_mse of the plain network over
  hgn's, of the same seed; times_less_above_floor: the same of what both have above the noise floor.
- vpt_forward, vpt_backward: how many of {JUDGED - TRAINED} frames after the first, or before the last {TRAINED} given,
  stay within a relative error of .025 of the video without noise; the median (backwards from the mode of the posterior,
  40 steps by refine=40, as are the figures of latent states). vpt_mean_frame: what the mean frame
  scores there.
- h_drift: standard deviation of the learned energy along {JUDGED} frames over that between videos.
- backward_error: largest difference of a latent state after {JUDGED} frames forward and as many back, in single
  precision, by path(reversible=True), which rounds the start to its lattice and loses nothing else, whatever was
  learned; backward_error_plain: by the plain sums of all predictions.
- accepted_samples: of 64 videos made up from the prior, the share with a skill of .8 or more against the nearest of
  6000 true motions (each the mean over eight draws of the noise), half of which, but for two bodies, start nearer to
  rest than those of the videos: small swings are true motions too.
- symplectic_r2, symplectic_error: how well a cubic polynomial maps latent states of the training videos, as the encoder
  says them, to true ones (of two bodies relative to their centre; of the pendulum less than 2.5 from where it hangs,
  beyond which angles jump), and how far it is from canonical. Orbits of two bodies are nearly circular, so
  states lie near a surface of three dimensions, and slopes across it are a guess: there the second figure says nothing.

hgn: p^2 / 2m + V(q) by leapfrog, m and a network V learned. hgn_few_frames: the same, trained on five random frames of
each video in a step in place of ten, as the fastest step in the table of speed; not for two bodies. latent_mlp: a plain
network f, z' = z + dt f(z), in place of the energy. latent_ode: a neural ODE of a state of the same size, all of which
is drawn, by a code and a decoder of twice as many numbers; what of it is a velocity nobody knows, so it starts nearly
at rest. Otherwise all have the same encoder, decoder, start from data, and training, and the dynamics about equal
parameters. The pendulum's position is told to be an angle: about a third of its motions go over the top.

true_law: no network, but an estimate of what the noise allows. It knows the law, the prior of initial states and the
noise, sees the noisy positions themselves, weighs true motions drawn from the prior by how well they fit, and predicts
the mean of their pictures. draws_from_all, draws_from_five: how many draws from the posterior these weights are worth,
the median over videos; where they are few it can be beaten.

How the settings were chosen: by hand, on videos of another seed than those of the table.
"""
BARS = {
    "reconstruction_skill": {"mass_spring": 0.9, "pendulum": 0.9, "two_body": 0.8},
    "inference_skill": {"mass_spring": 0.8, "pendulum": 0.7, "two_body": 0.6},
    "h_drift": dict.fromkeys(CASES, 0.02),
    "backward_error": dict.fromkeys(CASES, 1e-5),
    "accepted_samples": {"mass_spring": 0.8, "pendulum": 0.8},
}


def work(run: runner.Run, out: Path) -> list[report.Row]:
    """Fit one contender on the videos of one case and judge it."""
    quick = run.configuration["quick"]
    task = load_task(run.case, run.seed, quick)
    chosen = run.configuration["settings"]
    if run.model == "true_law":
        answers, worth = hgn_limits.predictions(task)
        known = errors(answers, task) | worth
        return [{"metric": metric, "value": value, "unit": "1"} for metric, value in known.items()]
    model, seconds = trained(run, task, out / "models")
    cost = {"params": count_parameters(model), "train_seconds": round(seconds, 1), "unit": "1"}
    found, pictures = judge(model, task, chosen["refine"], chosen["draws"])
    if run.model == "hgn":
        found |= latent_figures(model, task, chosen["refine"])
    if run.seed == 0:
        hgn_pictures.keep(out / "pictures", run.case, run.model, pictures)
    rows: list[report.Row] = []
    for metric, value in found.items():
        bar = BARS.get(metric, {}).get(run.case) if run.model == "hgn" else None
        rows.append({"metric": metric, "value": value, **cost} | ({} if bar is None else {"bar": bar}))
    return rows


def trained(run: runner.Run, task: Task, folder: Path) -> tuple[hf.HGN, float]:
    """The contender of a run and its seconds of training, from its file if it was fitted before."""
    quick, chosen = run.configuration["quick"], run.configuration["settings"]
    model = hgn_contenders.build(run.model, task.case, chosen, run.seed)
    decides = {"quick": quick, "widths": chosen["widths"], "fit": chosen["fit"]}
    path = folder / f"{run.case}-{run.model}-{run.seed}-{report.fingerprint(decides)}.pt"
    if path.is_file():
        known = torch.load(path, weights_only=True)
        model.load_state_dict(known["weights"])
        model.dt = known["dt"]
        return model.eval(), known["seconds"]
    start = time.process_time()
    model.fit(task.train, seed=run.seed, progress=False, **chosen["fit"] | ({"epochs": 2} if quick else {}))
    seconds = time.process_time() - start
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        torch.save({"weights": model.state_dict(), "dt": model.dt, "seconds": seconds}, temporary)
    return model, seconds


def judge(model: hf.HGN, task: Task, refine: int, draws: int) -> tuple[dict[str, float], dict[str, Tensor]]:
    """What its pictures are worth, and some of them."""
    frames = task.frames
    seen = frames[:, :TRAINED]
    whole = model.reconstruct(seen, JUDGED, draws=draws, seed=0)
    answers = {
        "again": whole[:, :TRAINED],
        "inferred": model.reconstruct(seen[:, :5], TRAINED, draws=draws, seed=0),
        "ahead": whole[:, TRAINED:],
    }
    alone = {
        name: float(hf.videos.pixel_mse(seen, model.reconstruct(seen[:, :known], TRAINED)).mean())
        for name, known in (("encoder_skill", TRAINED), ("encoder_inference_skill", 5))
    }
    # From the last frames back to the first, in that order.
    past = model.forecast(frames[:, -TRAINED:], JUDGED - TRAINED, backward=True, refine=refine)
    samples = model.sample(64, TRAINED, seed=0)
    distance, _ = hf.videos.nearest_motion(samples, task.motions(TRAINED))
    mean = seen.mean((0, 1)).expand_as(past)

    def vpt(truth: Tensor, predicted: Tensor) -> float:
        return float(hf.videos.valid_prediction_time(truth, predicted).double().median())

    figures = errors(answers, task) | {
        **{name: hf.videos.skill(error, task.floor, task.mean_frame) for name, error in alone.items()},
        "vpt_forward": vpt(task.quiet[:, TRAINED:], answers["ahead"]),
        "vpt_backward": vpt(task.quiet[:, :-TRAINED].flip(1), past),
        "vpt_mean_frame": vpt(task.quiet[:, TRAINED:], mean),
        # Without the noise of single frames there is no floor to what a sample's distance can be.
        "accepted_samples": float((distance <= 0.2 * (task.mean_frame - task.floor)).double().mean()),
    }
    # For the eye one motion, not the mean of many.
    one = model.reconstruct(seen[:1], JUDGED, refine=refine)
    return figures, {"truth": frames[0], "prediction": one[0], "samples": samples[:6]}


def errors(answers: dict[str, Tensor], task: Task) -> dict[str, float]:
    """Errors and skills of the videos again, inferred from five frames, and ahead."""
    seen, after = task.frames[:, :TRAINED], task.frames[:, TRAINED:]
    mse = {
        name: float(hf.videos.pixel_mse(truth, answers[name]).mean())
        for name, truth in (("again", seen), ("inferred", seen), ("ahead", after))
    }
    skill = {name: hf.videos.skill(error, task.floor, task.mean_frame) for name, error in mse.items()}
    return {
        "mse": mse["again"],
        "noise_floor": task.floor,
        "mean_frame": task.mean_frame,
        "reconstruction_skill": skill["again"],
        "inference_skill": skill["inferred"],
        "forecast_mse": mse["ahead"],
        "forecast_skill": skill["ahead"],
    }


@torch.no_grad()
def latent_figures(model: hf.HGN, task: Task, refine: int) -> dict[str, float]:
    """What its latent states are worth: energy along rollouts, the way back, and the match with true states."""
    start = torch.cat(model.encode(task.frames[:, :TRAINED], refine=refine), -1)

    def there_and_back(reversible: bool) -> tuple[Tensor, float]:
        path = model.path(*start.chunk(2, -1), JUDGED - 1, model.dt, reversible=reversible)
        back = model.path(*path[-1].chunk(2, -1), JUDGED - 1, -model.dt, reversible=reversible)[-1]
        return path, float((back - start).abs().max())

    path, plainly = there_and_back(False)
    lost = there_and_back(True)[1]
    assert task.train.states is not None
    codes = torch.cat(model.encode(task.train[:]), -1)
    states = task.train.states
    q, p = (x[:, 0] for x in (states.q, states.need("p")))
    if q.shape[-1] == 4:
        q, p = (x[:, 2:] - x[:, :2] for x in (q, p))
    if task.case.periodic:
        codes, q, p = hanging(codes, q, p)
    explained, error = hf.videos.symplectic_match(codes, torch.cat((q, p), -1))
    return {
        "h_drift": hf.videos.energy_spread(model.energy(*path.chunk(2, -1))),
        "backward_error": lost,
        "backward_error_plain": plainly,
        "symplectic_r2": explained,
        "symplectic_error": error,
    }


def hanging(codes: Tensor, q: Tensor, p: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Latent states with their angle counted from where the true one is zero, where neither is about to jump."""
    angle = codes[:, :1].to(q)
    turns = [torch.complex((angle - way * q).cos().mean(), (angle - way * q).sin().mean()) for way in (1, -1)]
    angle = torch.remainder(angle - max(turns, key=abs).angle() + torch.pi, 2 * torch.pi) - torch.pi
    near = (torch.maximum(q.abs(), angle.abs()) < 2.5).squeeze(-1)
    return torch.cat((angle, codes[:, 1:].to(q)), -1)[near], q[near], p[near]


def derived(store: report.ResultStore) -> list[report.Row]:
    """How many times better the energy forecasts than the plain network, seed by seed, and beyond the noise floor."""
    rows: list[report.Row] = []
    for case in CASES:
        own, other, floor = (
            store.values(case, model, metric)
            for model, metric in (("hgn", "forecast_mse"), ("latent_mlp", "forecast_mse"), ("hgn", "noise_floor"))
        )
        for metric, known in (("times_better_than_latent_mlp", 0.0), ("times_less_above_floor", 1.0)):
            ratios = [
                (other[seed] - known * floor[seed]) / (own[seed] - known * floor[seed])
                for seed in own.keys() & other.keys()
            ]
            if ratios:
                mean, error = report.mean_and_error(ratios)
                row: report.Row = {"case": case, "model": "hgn", "metric": metric, "unit": "times"}
                row |= {"value": mean, "standard_error": error, "n": len(ratios)}
                barred = not known and case != "two_body"
                rows.append(row | ({"bar": 2.0} if barred else {}))
    return rows


def main() -> None:
    """Run what the command line asks for, then write the table, the figures and the overview."""
    options = runner.parse_options(NAME, __doc__ or "", list(CASES), MODELS, quick=(["mass_spring"], MODELS))
    seeds = options.seeds or ([0] if options.quick else [0, 1, 2])
    runs, decides = runner.plan(
        options, seeds, MODELS, settings, lambda model, case: model != "hgn_few_frames" or case != "two_body", {}
    )
    store = report.ResultStore(options.out, quick=options.quick)
    store.drop_stale(decides)
    runner.execute(partial(work, out=options.out), runs, store, options.jobs)
    store.set_derived(derived(store))
    report.write_table(store, "Dynamics from videos", NOTES, CASES)
    hgn_pictures.draw(options.out)
    write_overview(options.out.parent)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
