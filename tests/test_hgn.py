"""Hamiltonian Generative Networks: what they learn, that time runs both ways, and the same loss in Pyro."""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from pyro.infer import SVI, TraceMeanField_ELBO
from torch import Tensor

import hamflow as hf
from hamflow.models import video_objective
from hamflow.models.calibration import whiten
from hamflow.models.refinement import refined
from hamflow.models.video_objective import VideoObjective
from hamflow.videos import film, mean_frame_mse, pixel_mse, skill

SPRING = hf.systems.MassSpring(mass=0.5, stiffness=2.0)
SMALL: dict[str, Any] = {"size": 8, "frames": 6, "dim": 2, "width": 4, "widths": (8,)}


def small(**changes: Any) -> hf.HGN:
    return hf.HGN(**SMALL | changes)


def springs(n: int = 12, n_frames: int = 6, **settings: Any) -> hf.Videos:
    return film(SPRING, n=n, n_frames=n_frames, **{"size": 8} | settings)


def fitted(**changes: Any) -> hf.HGN:
    return small(**changes).fit(springs(), epochs=2, progress=False)


def objective(model: hf.HGN, videos: hf.Videos, **changes: Any) -> VideoObjective:
    settings: dict[str, Any] = {"objective": "elbo", "beta": 1.0, "tolerance": 0.02}
    return VideoObjective(model, videos, **settings | {"frames_per_step": None} | changes)


def test_it_learns_a_spring() -> None:
    train, test = springs(150, 12, size=16), springs(50, 12, size=16, seed=1)[:]
    model = hf.HGN(size=16, frames=12, context=4, dim=1, width=16, widths=(32,))
    model.fit(train, epochs=60, learning_rate=4e-3, frames_per_step=6, progress=False)
    floor = mean_frame_mse(train[:], test)
    assert skill(float(pixel_mse(test, model.reconstruct(test)).mean()), 0.0, floor) > 0.9
    # Four frames without noise say nearly as much as all.
    assert skill(float(pixel_mse(test, model.reconstruct(test[:, :4], 12)).mean()), 0.0, floor) > 0.8
    # The second half from the first, the first from the second, and both from fewer frames than were learned from.
    ahead, behind = model.forecast(test[:, :6], 6), model.forecast(test[:, 6:], 6, backward=True).flip(1)
    for found, truth in ((ahead, test[:, 6:]), (behind, test[:, :6])):
        assert skill(float(pixel_mse(truth, found).mean()), 0.0, floor) > 0.7


@pytest.mark.parametrize(
    "changes",
    [{}, {"hamiltonian": "mechanical"}, {"hamiltonian": "joint"}, {"maps": True}, {"periodic": (1,)}],
)
def test_backwards_is_the_way_back(changes: dict[str, Any]) -> None:
    model = fitted(**changes)
    q, p = model.encode(springs(seed=1)[:])
    there = model.path(q, p, 20, model.dt)[-1].chunk(2, -1)
    back = model.path(*there, 20, -model.dt)[-1]
    torch.testing.assert_close(back, torch.cat((q, p), -1), rtol=0, atol=1e-5)


def test_the_way_back_over_a_saddle() -> None:
    # An energy like -q^2 magnifies what a plain sum rounds away by exp(7.5) there, and again on the way back.
    class Saddle(hf.Energy):
        def forward(self, x: Tensor, t: float | Tensor = 0.0) -> Tensor:
            return -0.5 * x.square().sum(-1)

    model = small(dim=1, hamiltonian=hf.SeparableHamiltonian(hf.QuadraticKinetic(1), Saddle()))
    q = torch.linspace(-0.01, 0.01, 7)[:, None]
    p = -q.flip(0) / 3
    there = model.path(q, p, 150, 0.05, reversible=True)
    assert torch.equal(model.path(*there[-1].chunk(2, -1), 150, -0.05, reversible=True).flip(0), there)
    # All that is lost is the rounding of the start.
    torch.testing.assert_close(there[0], torch.cat((q, p), -1), rtol=0, atol=2.0**-18)
    plain = model.path(q, p, 150, 0.05)
    assert not torch.equal(model.path(*plain[-1].chunk(2, -1), 150, -0.05).flip(0), plain)
    assert torch.equal(model.path(q, p, 0, 0.05, reversible=True)[0], there[0])
    with pytest.raises(hf.RolloutError, match=r"3 of 7 rows.*span of the lattice, 128"):
        model.path(q + torch.tensor([0, 9, 0, 9, 0, 9, 0])[:, None], p, 150, 0.05, reversible=True)
    with pytest.raises(hf.InputError, match="reversible = True, expected a separable"):
        small(hamiltonian="joint").path(q, p, 3, 0.05, reversible=True)


def test_forecasts_go_on_where_reconstructions_end() -> None:
    model, frames = fitted(), springs(seed=1)[:]
    whole = model.reconstruct(frames, 10)
    torch.testing.assert_close(model.forecast(frames, 4), whole[:, 6:], rtol=0, atol=1e-6)
    # Of more than it learned from, the last ones tell what comes, and the first ones what was.
    many = springs(n_frames=9, seed=1)[:]
    torch.testing.assert_close(model.forecast(many, 4), model.forecast(many[:, 3:], 4))
    torch.testing.assert_close(model.forecast(many, 4, backward=True), model.forecast(many[:, :6], 4, backward=True))
    assert torch.equal(model.forecast(many, 4, refine=3), model.forecast(many[:, 3:], 4, refine=3))
    last = model.path(*model.encode(frames), 5, model.dt)[-1].chunk(2, -1)
    for way, backward in ((1, False), (-1, True)):
        start = model.encode(frames) if backward else last
        slow = model.decode(model.path(*start, 8, way * 0.5 * model.dt)[1:, :, : model.dim]).movedim(0, 1)
        torch.testing.assert_close(model.forecast(frames, 8, dt_scale=0.5, backward=backward), slow)
    assert not torch.equal(model.forecast(frames, 4, backward=True), model.forecast(frames, 4))


def test_pictures_do_not_tell_turns_apart() -> None:
    model = fitted(periodic=(1,))
    q, p = model.encode(springs(seed=1)[:])
    turned = q + torch.tensor([0.0, 2 * torch.pi])
    torch.testing.assert_close(model.decode(turned), model.decode(q), rtol=0, atol=1e-5)
    torch.testing.assert_close(model.energy(turned, p), model.energy(q, p), rtol=0, atol=1e-5)
    assert float((model.decode(q + torch.tensor([0.0, 1.0])) - model.decode(q)).detach().abs().max()) > 1e-3


def test_it_starts_from_components() -> None:
    # Before any step of training, positions order the pictures: they explain more than the mean frame does.
    train = springs(100, size=16)
    model = hf.HGN(size=16, frames=6, dim=1, width=8).fit(train, epochs=1, learning_rate=1e-12, progress=False)
    first, again = train[:][:, :1], model.reconstruct(train[:], 1)
    assert skill(float(pixel_mse(first, again).mean()), 0.0, mean_frame_mse(first, first)) > 0.2
    # Momenta start as velocities: those of a spring show in its next frames.
    assert train.states is not None
    p, true = model.encode(train[:])[1][:, 0], train.states.need("p")[:, 0, 0].float()
    assert abs(float(torch.corrcoef(torch.stack((p, true)))[0, 1])) > 0.6


def test_refined_states_explain_frames_better() -> None:
    model, frames = fitted(), springs(n=60, seed=1)[:]
    mean = model.posterior(frames)[0].detach()

    def cost(z: Tensor) -> Tensor:
        error = (model.pictures(z, 6) - frames).square().sum((1, 2, 3, 4))
        return (0.5 * error * (-2 * model.log_scale).exp() + 0.5 * z.square().sum(1)).detach()

    for steps in (1, 40):
        assert bool((cost(refined(model, frames, mean, steps)) <= cost(mean)).all())
    assert bool((cost(refined(model, frames, mean, 40)) < cost(mean)).all())
    # A thousand times the noise, and what frames tell weighs nothing beside the prior, whose mode is zero.
    loud = copy.deepcopy(model)
    loud.log_scale.data += math.log(1000)
    assert float(refined(loud, frames, 0.1 * mean, 200).abs().max()) < 1e-2
    assert all(parameter.grad is None for parameter in loud.parameters())
    # All of the frames that are given are explained, also more than the encoder reads.
    many = springs(n_frames=9, seed=1)[:]
    plain, better = (pixel_mse(many, model.reconstruct(many, refine=steps)).mean() for steps in (0, 40))
    assert better < plain
    p = model.encode(many, refine=40)[1]
    torch.testing.assert_close(p, model.encode(many, refine=40)[1], rtol=0, atol=0)
    assert model.forecast(many, 3, refine=2).shape == (12, 3, 1, 8, 8)


def test_clips_grow_when_what_they_show_is_explained() -> None:
    model, videos = fitted(), springs()
    stages = []
    for least, spread in ((1e9, 0.0), (1e-9, 1e9), (1e-9, 0.0)):
        goal = objective(model, videos, growth=0.8, showings=600).train()
        goal.spread = spread
        goal.shown.fill_(0.2)
        goal.least.fill_(least)
        goal.loss(torch.arange(12))
        stages.append(float(goal.stage))
    # At their pace; and where the error has been far smaller, only as the end of the time they have asks for.
    assert stages == pytest.approx([2 * 12 / 480, 2 * 12 / 480, (0.2 + 12 / 480) ** 3])
    assert float(objective(model, videos).stage) == 1.0


def test_clips_are_whole_in_the_end() -> None:
    # Whatever is held out, and however far the error is from small.
    model = small(context=3)
    with pytest.MonkeyPatch.context() as patch:
        stages: list[float] = []
        follow = VideoObjective._follow

        def spy(self: VideoObjective, error: Tensor, videos: int) -> None:
            self.least.zero_()
            follow(self, error * 0 + 1.0, videos)
            stages.append(float(self.stage))

        patch.setattr(VideoObjective, "_follow", spy)
        model.fit(springs(), epochs=6, growth=1.0, validation=0.5, batch_size=2, progress=False)
    assert stages[-1] == pytest.approx(1.0, abs=1e-3) and stages[-4] < 0.9


def test_the_unit_of_time_changes_nothing() -> None:
    videos = springs(noise=0.1)
    for changes in ({}, {"hamiltonian": "joint"}, {"periodic": (0,)}):
        histories = []
        for dt in (0.125, 128.0):
            model = small(**changes).fit(hf.Videos(videos[:], dt=dt), epochs=3, progress=False, dtype=torch.float64)
            histories.append(model.history.train)
        assert histories[0] == pytest.approx(histories[1], rel=1e-6)


def test_a_motion_that_is_lost_is_an_error_and_in_training_a_way_back(monkeypatch: pytest.MonkeyPatch) -> None:
    model = fitted(hamiltonian="joint")
    with torch.no_grad():
        model.transformer[-1].bias.fill_(math.inf)
    for call in (
        lambda: model.forecast(springs()[:], 3),
        lambda: model.reconstruct(springs()[:]),
        lambda: model.sample(2, 3),
    ):
        with pytest.raises(hf.RolloutError):
            call()
    parts, calls = VideoObjective._parts, []

    def lost(self: VideoObjective, frames: Tensor) -> Any:
        calls.append(frames)
        if len(calls) == 4:
            raise hf.RolloutError("lost", time=1.0)
        return parts(self, frames)

    monkeypatch.setattr(VideoObjective, "_parts", lost)
    model = small().fit(springs(), epochs=3, progress=False)
    assert len(model.history.train) == 3 and "not finite" in model.history.notes[0]


def test_more_epochs_than_planned(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"schedule": "constant", "checkpoint": tmp_path / "run", "progress": False}
    small().fit(springs(), epochs=2, **settings)
    model = small().fit(springs(), epochs=4, **settings)
    assert len(model.history.train) == 4
    with pytest.raises(hf.CheckpointError, match="growth"):
        small().fit(springs(), epochs=5, growth=0.3, **settings)


def test_context_of_all_frames_asks_for_no_second_encoder() -> None:
    assert small(context=6).few is None and small(context=5).few is not None


def test_what_follows_missed_frames_counts_less_until_clips_are_whole() -> None:
    goal = objective(fitted(), springs(), growth=0.8, showings=600).train()
    goal.spread = 1.0
    errors = torch.tensor([[0.1, 0.2, 0.1], [0.1, 1.3, 0.1]])
    torch.testing.assert_close(goal._causal(errors), torch.tensor([[1, 1, 1], [1, 1, math.exp(-1.0)]]))
    goal.stage.fill_(1.0)
    torch.testing.assert_close(goal._causal(errors), torch.ones(2, 3))


@pytest.mark.parametrize("changes", [{}, {"periodic": (0,)}, {"maps": True}])
def test_codes_end_as_the_prior_has_them(changes: dict[str, Any]) -> None:
    videos = springs(100, noise=0.1)[:]
    model = small(**changes).fit(videos, epochs=1, progress=False)
    with torch.no_grad():
        # As if training had let the codes drift.
        codes = model.encoder.last.weight.shape[0] // 2
        model.encoder.last.weight[:codes] *= 7
        model.encoder.last.bias[:codes] += 3 * torch.arange(1, codes + 1)
    state = torch.cat(model.encode(videos), 1)
    goal = objective(model, hf.Videos(videos)).eval()
    torch.manual_seed(0)
    before = float(goal.loss(torch.arange(100)).detach())
    whiten(model, videos)
    after = torch.cat(model.encode(videos), 1)
    torch.testing.assert_close(after, state, rtol=1e-3, atol=1e-3 * float(state.std()))
    mean, scale = (x.detach() for x in model.posterior(videos))
    if "maps" in changes:
        size = (mean**2 + scale**2).unflatten(1, (codes, -1)).mean((0, 2))
        torch.testing.assert_close(size, torch.ones(codes), rtol=1e-3, atol=0)
    else:
        moments = torch.cov(mean.mT, correction=0) + (scale**2).mean(0).diag()
        assert mean.mean(0).abs().max() < 1e-3
        torch.testing.assert_close(moments, torch.eye(codes), rtol=0, atol=0.02)
    assert float(goal.loss(torch.arange(100))) < before


def test_samples_have_a_seed() -> None:
    model = fitted()
    assert torch.equal(model.sample(3, 4, seed=1), model.sample(3, 4, seed=1))
    assert not torch.equal(model.sample(3, 4, seed=1), model.sample(3, 4, seed=2))
    assert model.sample(2, 1).shape == (2, 1, 1, 8, 8)


def test_pyro_sees_the_same_loss() -> None:
    """With an encoder that is sure of itself both take the same code."""
    videos, model = springs(), fitted()
    with torch.no_grad():
        last = model.encoder.last
        last.bias[model.code :] -= 100.0
    pyro.clear_param_store()
    bound = TraceMeanField_ELBO().loss(model.model, model.guide, videos[:])
    mine = objective(model, videos).eval().loss(torch.arange(len(videos)))
    assert bound / videos[:].numel() == pytest.approx(float(mine), rel=1e-3)


def test_pyro_trains_it() -> None:
    videos, model = springs(), small()
    pyro.clear_param_store()
    svi = SVI(model.model, model.guide, pyro.optim.Adam({"lr": 1e-2}), TraceMeanField_ELBO())
    losses = [svi.step(videos[:]) for _ in range(30)]
    assert losses[-1] < losses[0] - 100


def test_the_bound_is_below_the_evidence_of_a_wider_one() -> None:
    """Beta weighs the divergence: a bound with beta above one is lower."""
    videos, model = springs(), fitted()
    losses = []
    for beta in (1.0, 2.0):
        goal = objective(model, videos, beta=beta).eval()
        torch.manual_seed(0)
        losses.append(float(goal.loss(torch.arange(len(videos)))))
    assert losses[1] > losses[0]


def test_the_constraint_has_its_multiplier() -> None:
    videos, model = springs(), fitted()
    for tolerance, grows in ((1e-6, True), (1e3, False)):
        goal = objective(model, videos, objective="geco", tolerance=tolerance).train()
        start = float(goal.multiplier)
        for _ in range(50):
            goal.loss(torch.arange(len(videos)))
        assert (float(goal.multiplier) > start) is grows
    model = small().fit(videos, objective="geco", epochs=3, progress=False)
    assert model.reconstruct(videos[:]).isfinite().all()


def test_videos_on_disk_teach_the_same(tmp_path: Path) -> None:
    videos = springs(noise=0.1)
    videos.save(tmp_path / "film.h5")
    settings: dict[str, Any] = {"epochs": 2, "progress": False, "frames_per_step": 4}
    one, two = (small().fit(v, **settings) for v in (videos, hf.Videos.load(tmp_path / "film.h5")))
    assert one.history.train == two.history.train


@contextmanager
def interrupted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The eighth loss of what is inside is never computed."""
    loss, calls = VideoObjective.loss, []

    def stopped(self: VideoObjective, index: Tensor) -> Tensor:
        calls.append(index)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return loss(self, index)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(VideoObjective, "loss", stopped)
        yield


@pytest.mark.parametrize("objective", ["elbo", "geco"])
def test_an_interrupted_fit_goes_on(objective: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: dict[str, Any] = {"epochs": 6, "progress": False, "objective": objective}
    whole = small(context=3).fit(springs(), **settings)
    with interrupted(monkeypatch):
        small(context=3).fit(springs(), checkpoint=tmp_path / "run", **settings)
    again = small(context=3).fit(springs(), checkpoint=tmp_path / "run", **settings)
    assert again.history.train == whole.history.train
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))


def test_a_misspelt_setting_leaves_the_model_as_it_was() -> None:
    model = fitted()
    before = model.sample(2, 4, seed=0)
    with pytest.raises(TypeError, match="lr"):
        model.fit(springs(), progress=False, lr=1e-3)
    assert torch.equal(model.sample(2, 4, seed=0), before)


def test_one_video_and_batches_of_one_are_learned_from() -> None:
    for videos, settings in ((springs(1), {"validation": None}), (springs(3), {"batch_size": 1})):
        model = small(context=3).fit(videos, epochs=2, progress=False, **settings)
        assert model.reconstruct(videos[:]).isfinite().all()
    with pytest.raises(hf.InputError, match="of 1 rows leaves none to train on"):
        small().fit(springs(1), epochs=2, progress=False)


@pytest.mark.parametrize("changes", [{}, {"maps": True}, {"hamiltonian": "joint", "code": 3}])
def test_saved_and_loaded_bit_for_bit(changes: dict[str, Any], tmp_path: Path) -> None:
    model = fitted(**changes)
    model.save(tmp_path / "model")
    twin = hf.load(tmp_path / "model")
    assert isinstance(twin, hf.HGN) and twin.dt == model.dt and twin.history == model.history
    assert torch.equal(twin.sample(3, 5, seed=0), model.sample(3, 5, seed=0))
    assert torch.equal(copy.deepcopy(model).sample(3, 5, seed=0), model.sample(3, 5, seed=0))


def test_an_energy_of_ones_own(tmp_path: Path) -> None:
    model = fitted(dim=1, hamiltonian=hf.systems.MassSpring(mass=0.5, stiffness=2.0))
    model.save(tmp_path / "model")
    twin = hf.load(tmp_path / "model", hamiltonian=hf.systems.MassSpring(mass=0.5, stiffness=2.0))
    assert torch.equal(twin.sample(3, 5, seed=0), model.sample(3, 5, seed=0))


def test_it_says_when_it_learned_little() -> None:
    videos = springs(40, size=16)
    settings: dict[str, Any] = {"size": 16, "frames": 6, "dim": 1, "width": 8}
    poor = hf.HGN(**settings).fit(videos, epochs=1, learning_rate=1e-12, progress=False)
    assert "little of the motion was learned" in poor.history.notes[-1]
    good = hf.HGN(**settings).fit(videos, epochs=60, learning_rate=4e-3, progress=False)
    assert not good.history.notes
    # Of what is held out: a model that knows its two videos by heart has learned little.
    model = hf.HGN(**settings | {"width": 32}).fit(videos[:4], epochs=150, learning_rate=4e-3, validation=0.5)
    assert "little of the motion was learned" in model.history.notes[-1]


def test_an_interrupted_fit_keeps_a_whole_model(monkeypatch: pytest.MonkeyPatch) -> None:
    model = fitted()
    with interrupted(monkeypatch):
        model.fit(springs(seed=3), epochs=9, progress=False)
    assert not model.training and "interrupted" in model.history.notes[0] and float(model.shake) > 0
    mean, scale = model.posterior(springs(seed=3)[:])
    moments = torch.cov(mean.mT, correction=0) + (scale**2).mean(0).diag()
    torch.testing.assert_close(moments.detach(), torch.eye(model.code), rtol=0, atol=0.05)


def test_a_fit_ends_well_where_its_noise_cannot_be_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: Any) -> Tensor:
        raise hf.RolloutError("lost", time=1.0)

    monkeypatch.setattr("hamflow.models.hgn.measured_noise", lost)
    model = fitted()
    assert "could not be measured: lost" in model.history.notes[-1]
    assert model.reconstruct(springs()[:], draws=2, seed=0).isfinite().all()


def test_codes_that_depend_on_each_other_are_whitened_all_the_same() -> None:
    model, videos = fitted(), springs()[:]
    with torch.no_grad():
        last = model.encoder.last
        last.weight[1], last.bias[1] = last.weight[0], last.bias[0]
        last.bias[model.code :] = -100.0
    whiten(model, videos)
    assert model.reconstruct(videos).isfinite().all()


def test_a_checkpoint_knows_its_run_whatever_the_rounding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Another number of threads adds pixels in another order.
    settings: dict[str, Any] = {"progress": False, "checkpoint": tmp_path / "run", "schedule": "constant"}
    small().fit(springs(), epochs=1, **settings)
    spread = video_objective.spread
    monkeypatch.setattr(video_objective, "spread", lambda videos: spread(videos) * (1 + 1e-7))
    assert len(small().fit(springs(), epochs=2, **settings).history.train) == 2


def test_refinement_in_inference_mode() -> None:
    model, videos = fitted(), springs(seed=1)[:]
    with torch.inference_mode():
        found = model.forecast(videos, 3, refine=3)
    torch.testing.assert_close(found, model.forecast(videos, 3, refine=3))


def test_whole_videos_that_fail_while_clips_grow_end_no_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = VideoObjective._parts

    def lost(self: VideoObjective, frames: Tensor) -> Any:
        if not self.training and self.patient:
            raise hf.RolloutError("lost", time=1.0)
        return parts(self, frames)

    monkeypatch.setattr(VideoObjective, "_parts", lost)
    settings: dict[str, Any] = {"progress": False, "schedule": "constant"}
    model = small().fit(springs(), epochs=5, growth=0.6, **settings)
    whole = [math.isfinite(loss) for loss in model.history.validation]
    assert not whole[0] and all(whole[3:])
    for epochs in (1, 2):
        small().fit(springs(), epochs=epochs, growth=1.0, validation=None, checkpoint=tmp_path / "run", **settings)


def test_videos_are_frames_too() -> None:
    model, videos = fitted(), springs(seed=1)
    assert torch.equal(model.forecast(videos, 3), model.forecast(videos[:], 3))
    with pytest.raises(hf.InputError, match=r"frames are 0\.25 apart, expected 0\.125"):
        model.forecast(springs(seed=1, dt=0.25), 3)


def frames(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


REFUSED = {
    "size": (lambda: small().fit(frames(4, 6, 1, 16, 16)), "1 channels of 16 x 16 pixels, expected 1 of 8 x 8"),
    "channels": (lambda: small().fit(frames(4, 6, 3, 8, 8)), "3 channels of 8 x 8 pixels, expected 1"),
    "rank": (lambda: small().fit(frames(6, 1, 8, 8)), r"expected \(n, time, channel"),
    "still": (lambda: small().fit(torch.zeros(4, 6, 1, 8, 8)), "all alike"),
    "objective": (lambda: small().fit(springs(), objective="mse"), "objective = 'mse'"),
    "context": (lambda: small(context=7), "context = 7, expected 2 to the 6 frames"),
    "one_of_context": (lambda: small(context=1), "context = 1, expected 2 to the 6 frames"),
    "frames": (lambda: small(frames=1), "frames = 1, expected 2 or more"),
    "float_size": (lambda: small(size=8.0), "size = 8.0, expected one of"),
    "refine_kind": (lambda: small().encode(springs()[:], refine=None), "refine = None, expected a number of steps"),
    "few": (lambda: fitted().encode(springs()[:, :3]), "frames has 3 frames a video, expected 6 or more"),
    "below_context": (
        lambda: fitted(context=4).reconstruct(springs()[:, :3], 6),
        "frames has 3 frames a video, expected 4 or more",
    ),
    "guide": (lambda: fitted().guide(springs()[:, :3]), "expected 6 or more"),
    "model": (lambda: fitted().model(255 * springs()[:]), "expected .0, 1."),
    "own_dim": (
        lambda: small(dim=3, hamiltonian=hf.systems.DoublePendulum()),
        "hamiltonian takes no states of 3 positions",
    ),
    "grey": (lambda: small().fit(torch.full((4, 6, 1, 8, 8), 0.3)), "all alike"),
    "refine": (lambda: small().encode(springs()[:], refine=-1), "refine = -1, expected a number of steps, 0 or more"),
    "still_videos": (lambda: small().fit(frames(9, 1, 1, 8, 8).expand(-1, 6, -1, -1, -1)), "alike in every video"),
    "seed": (lambda: small().fit(springs(), seed="a"), "seed = 'a'"),  # type: ignore[arg-type]
    "growth": (lambda: small().fit(springs(), growth=1.5), "growth = 1.5, expected a share"),
    "frames_per_step": (
        lambda: small().fit(springs(), frames_per_step=7),
        "frames_per_step = 7, expected at most the 6",
    ),
    "one_angle": (lambda: small(periodic=0), r"periodic = 0, expected a list of coordinates, \[0\] for one"),
    "periodic": (lambda: small(periodic=(2,)), "periodic = .2,., expected indices of the 2 coordinates"),
    "maps": (lambda: small(periodic=(0,), maps=True), "maps hold no angles"),
    "one_frame": (lambda: small().encode(frames(2, 1, 1, 8, 8)), "one frame a video"),
    "encode_size": (lambda: small().encode(frames(2, 3, 1, 16, 16)), "expected 1 of 8 x 8"),
    "n_frames": (lambda: small().forecast(frames(2, 3, 1, 8, 8), 0), "n_frames = 0"),
    "dt_scale": (lambda: small().forecast(frames(2, 3, 1, 8, 8), 2, dt_scale=-1.0), "dt_scale = -1.0"),
    "build_size": (lambda: hf.HGN(size=20), "size = 20"),
    "hamiltonian": (lambda: hf.HGN(hamiltonian=3), "hamiltonian is a int"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case: str) -> None:
    call, message = REFUSED[case]
    with pytest.raises(hf.InputError, match=message):
        call()
