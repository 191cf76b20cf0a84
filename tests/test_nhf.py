"""The Neural Hamiltonian Flow: what is exact, what is a bound, where it starts, how it trains."""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from pyro.distributions.transforms import affine_coupling
from scipy import stats
from torch import Tensor

import hamflow as hf
from hamflow.densities import choose_mixture, importance_bound
from hamflow.errors import InputError
from hamflow.models import start
from hamflow.standardize import Whitening
from tests.parts import shaken

SCALES = torch.tensor([[0.01, 0.0], [30.0, 40.0]])  # unequal, and correlated


def rows(n: int = 200, dim: int = 2, seed: int = 0) -> Tensor:
    """Rows around an arc, in columns of very different units."""
    generator = torch.Generator().manual_seed(seed)
    angle = math.pi * torch.rand(n, generator=generator)
    arc = torch.stack((angle.cos(), angle.sin()), -1) + 0.1 * torch.randn(n, 2, generator=generator)
    return (arc @ SCALES.mT + 5)[:, :dim]


def learned(dim: int = 2, *, noise: float = 0.15, whiten: str = "full", **settings: Any) -> hf.NHF:
    """A model in float64 whose every part does something, as after training."""
    model = hf.NHF(dim, **{"n_steps": 3, "width": 6, "components": 2} | settings)
    shaken(model, noise).double().eval()
    with torch.no_grad():
        model.base.log_degrees.fill_(math.log(6.0))
    model.whitening.estimate(rows(dim=dim).double(), whiten)
    return model


def fitted(x: Tensor | None = None, **settings: Any) -> hf.NHF:
    training = {"epochs": 2, "progress": False} | {
        k: settings.pop(k) for k in list(settings) if k in hf.NHF.fit.__kwdefaults__ and k != "seed"
    }
    x = rows() if x is None else x
    return hf.NHF(x.shape[1], **{"n_steps": 3, "width": 6, "particles": 4} | settings).fit(x, **training)


LIFTS: dict[str, Callable[[], Any]] = {
    "pure": lambda: None,
    "spline": lambda: "spline",
    "own": lambda: affine_coupling(2, hidden_dims=[4]),
}


# What is exact.


@pytest.mark.parametrize(("whiten", "lift"), [("full", "pure"), ("diagonal", "spline"), ("full", "own")])
def test_joint_integrates_to_the_marginal(whiten: str, lift: str) -> None:
    """In data coordinates, independently of the quadrature in the certificate, which works in standardised ones."""
    model = learned(whiten=whiten, lift=LIFTS[lift](), lift_layers=2, lift_width=4)
    q = model.sample(3, seed=1)
    exact = model.certificate(q, particles=10, n_model=2).exact
    _, p = model.sample_joint(4000, seed=2)
    # The joint at fixed q, on a grid of momenta in the units of their own spread.
    factor = torch.linalg.cholesky(torch.cov(p.T))
    axis = torch.linspace(-9, 9, 181)
    unit = torch.cartesian_prod(axis, axis).double()
    grid = p.mean(0) + unit @ factor.mT
    log_cell = 2 * math.log(18 / 180) + float(factor.diagonal().log().sum())
    with torch.no_grad():
        found = torch.stack([torch.logsumexp(model.log_joint(row.expand_as(grid), grid), 0) for row in q]) + log_cell
    assert (found - exact).abs().max() < 2e-3


def test_marginal_integrates_to_one() -> None:
    model = learned(1)
    centre, scale = float(model.whitening.loc), float(model.whitening.scale_tril)
    x = centre + scale * torch.linspace(-25, 25, 201).double().reshape(-1, 1)
    exact = model.certificate(x, particles=2, n_model=1).exact
    assert exact is not None
    total = torch.trapezoid(exact.exp(), x.flatten())
    assert abs(float(total) - 1) < 2e-3


def test_samples_follow_the_density() -> None:
    model = learned(1)
    with torch.no_grad():
        model.base.loc.copy_(torch.tensor([[-2.0, 0.0], [2.0, 0.5]]))
    centre, scale = float(model.whitening.loc), float(model.whitening.scale_tril)
    x = centre + scale * torch.linspace(-25, 25, 201).double().reshape(-1, 1)
    density = model.certificate(x, particles=2, n_model=1).exact.exp()
    cdf = torch.cumulative_trapezoid(density, x.flatten())
    drawn = model.sample(2000, seed=0).flatten().numpy()
    result = stats.kstest(drawn, lambda v: np.interp(v, x.flatten()[1:].numpy(), cdf.numpy()))
    assert result.pvalue > 1e-3
    assert stats.kstest(drawn, stats.norm(drawn.mean(), drawn.std()).cdf).pvalue < 1e-3  # and it is no Gaussian


def test_samples_repeat() -> None:
    model = learned()
    assert torch.equal(model.sample(50, seed=3), model.sample(50, seed=3))
    assert not torch.equal(model.sample(50, seed=3), model.sample(50, seed=4))
    assert not torch.equal(model.sample(50), model.sample(50))
    chunks = model.sample(50, seed=3, batch_size=20)
    assert chunks.shape == (50, 2)
    assert len(torch.unique(chunks, dim=0)) == 50
    q, p = model.sample_joint(50, seed=3)
    assert torch.equal(q, model.sample(50, seed=3))
    assert p.shape == (50, 2)
    assert not q.requires_grad


def test_joint_is_a_pyro_distribution() -> None:
    model = learned()
    joint = model.joint()
    x = joint.sample((7,))
    assert x.shape == (7, 4)
    assert torch.allclose(joint.log_prob(x), model.log_joint(x[:, :2], x[:, 2:]))

    def program() -> Tensor:
        pyro.module("nhf", model)
        with pyro.plate("rows", 5):
            return pyro.sample("x", joint)

    trace = pyro.poutine.trace(program).get_trace()
    drawn = trace.nodes["x"]["value"]
    assert drawn.shape == (5, 4)
    assert torch.allclose(trace.log_prob_sum(), model.log_joint(drawn[:, :2], drawn[:, 2:]).sum())
    conditioned = pyro.poutine.trace(pyro.condition(program, {"x": x[:5]})).get_trace()
    assert torch.allclose(conditioned.log_prob_sum(), joint.log_prob(x[:5]).sum())


def test_whole_transform_preserves_volume() -> None:
    model = learned(lift="spline", lift_layers=1, lift_width=4)
    x = torch.randn(4, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(model.transform, x)
    assert abs(float(torch.linalg.slogdet(jacobian)[1])) < 1e-8
    assert float(model.transform.log_abs_det_jacobian(x, model.transform(x))) == 0


# What is a bound.


def below(a: Tensor, b: Tensor) -> bool:
    """Whether a is below b in expectation, give or take three standard errors of the paired difference."""
    difference = b - a
    return float(difference.mean() + 3 * difference.std() / len(difference) ** 0.5) >= -1e-4


@pytest.mark.parametrize(
    ("whiten", "lift", "encoder"),
    [
        ("full", "pure", "gaussian"),
        ("diagonal", "pure", "flow"),
        ("none", "pure", "gaussian"),
        ("full", "spline", "gaussian"),
        ("full", "own", "flow"),
    ],
)
def test_certificate_brackets_the_truth(whiten: str, lift: str, encoder: str) -> None:
    model = learned(
        whiten=whiten, encoder=encoder, encoder_width=6, lift=LIFTS[lift](), lift_layers=2, lift_width=4, noise=0.1
    )
    x = model.sample(15, seed=9)
    found = model.certificate(x, particles=400, n_model=100)
    assert found.exact is not None
    assert found.model_exact is not None
    # On the rows: below the truth give or take four of its errors, and close to it with this many particles.
    assert ((found.lower - found.exact) < 4 * found.standard_error + 1e-3).all()
    noise = 4 * float(found.standard_error.square().mean().sqrt()) / 15**0.5
    assert abs(float((found.lower - found.exact).mean())) < 0.03 + noise < 0.3
    assert (found.elbo <= found.lower + 1e-9).all()

    assert below(found.model_elbo, found.model_lower)
    assert below(found.model_lower, found.model_exact)
    assert below(found.model_exact, found.model_upper)
    assert below(found.model_upper, found.model_eubo)
    assert float(found.model_eubo.mean() - found.model_elbo.mean()) > 0.01
    assert 0 <= found.gap < 0.1
    assert ((found.effective_sample_size >= 1) & (found.effective_sample_size <= 400 + 1e-6)).all()
    assert found.pareto_k.shape == (15,)
    for part in ("rows:", "exact, by quadrature", "model samples:"):
        assert part in str(found)


def test_bound_tightens_with_particles() -> None:
    model, x = learned(), rows(30).double()
    exact = model.certificate(x, particles=2, n_model=1).exact
    gaps = [float((exact - model.log_prob(x, particles=k)).mean()) for k in (1, 10, 1000)]
    assert gaps[0] > gaps[1] + 0.05 > gaps[2] + 0.05
    assert abs(gaps[2]) < 0.06
    assert abs(gaps[0] - float((exact - model.elbo(x, particles=200)).mean())) < 1.0
    assert torch.equal(model.log_prob(x, particles=10), model.log_prob(x, particles=10))
    assert not torch.equal(model.log_prob(x, particles=10), model.log_prob(x, particles=10, seed=1))


def test_log_prob_is_the_bound_of_the_weights() -> None:
    model, x = learned(), rows(5).double()
    weights = model.log_weights(x, particles=7, seed=0)
    assert weights.shape == (7, 5)
    assert torch.equal(model.log_prob(x, particles=7), importance_bound(weights))
    assert torch.equal(model.elbo(x, particles=7), weights.mean(0))


def test_certificate_beyond_two_columns_has_no_quadrature() -> None:
    # Few particles and an encoder far from p(p | q): a bracket many standard errors wide, and so in a certain order.
    model = shaken(hf.NHF(3, n_steps=3, width=6, components=2), 0.1).double().eval()
    found = model.certificate(model.sample(5, seed=1), particles=25, n_model=2000)
    assert found.exact is None
    assert found.model_exact is None
    bounds = [found.model_elbo, found.model_lower, found.model_upper, found.model_eubo]
    assert all(below(a, b) and not below(b, a) for a, b in pairwise(bounds))
    assert found.gap > 0.02
    assert "quadrature" not in str(found)


# Where it starts.


@pytest.mark.parametrize(("dim", "lift"), [(1, None), (2, None), (2, "spline")])
def test_start_is_the_mixture(dim: int, lift: str | None) -> None:
    x, held_out = rows(dim=dim).double(), rows(120, dim=dim, seed=1).double()
    # So small a learning rate leaves the weights where they start.
    model = fitted(x, validation=held_out, epochs=1, learning_rate=1e-14, whiten="diagonal", components=2, lift=lift)
    loc, scale = x.mean(0), x.std(0, correction=0)
    z, z_held = (x - loc) / scale, (held_out - loc) / scale
    found = choose_mixture(z, [(z, z_held)], components=2)
    parts = [
        np.log(float(w)) + stats.multivariate_t.logpdf(z_held.numpy(), m.numpy(), s.numpy(), df=found.degrees)
        for w, m, s in zip(found.weights, found.means, found.scales, strict=True)
    ]
    expected = torch.as_tensor(np.logaddexp.reduce(parts)) - scale.log().sum()
    # The momentum is independent of the position and its encoder exact, so a single particle is enough.
    assert (model.log_prob(held_out, particles=1) - expected).abs().max() < 1e-6
    assert model.history.start == pytest.approx(-float(expected.mean()), abs=1e-6)


def test_whitening_is_chosen_by_validation() -> None:
    generator = torch.Generator().manual_seed(0)
    correlated = torch.randn(300, 2, generator=generator) @ torch.tensor([[1.0, 5.0], [0.0, 0.2]])
    full = fitted(correlated, epochs=1).whitening.scale_tril
    assert abs(float(full[1, 0])) > 1
    assert torch.equal(fitted(correlated, epochs=1, whiten="none").whitening.scale_tril, torch.eye(2))
    diagonal = fitted(correlated, epochs=1, whiten="diagonal").whitening.scale_tril
    assert float(diagonal[1, 0]) == 0
    assert torch.allclose(diagonal.diagonal(), correlated.std(0), rtol=0.1)


@pytest.mark.parametrize(("gain", "kind"), [(0.5, "diagonal"), (0.0, "full"), (-0.5, "full")])
def test_plain_standardisation_has_to_be_clearly_better(
    gain: float, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = 0.1 * torch.randn(120, generator=torch.Generator().manual_seed(0)).double()
    calls = []

    def stub(z: Tensor, folds: Any, **_: Any) -> Any:
        calls.append(z)
        found = choose_mixture(z, folds, components=1)
        # What the second way brings over the first, whatever the log-dets are.
        log_det = -x.std(0, correction=0).log().sum() if len(calls) == 2 else model_log_det()
        return replace(found, scores=(gain + noise if len(calls) == 2 else 0 * noise) - log_det)

    def model_log_det() -> Tensor:
        return -Whitening(2).double().estimate(x, "full").scale_tril.diagonal().log().sum()

    x = (torch.randn(200, 2) @ torch.tensor([[1.0, 0.5], [0.0, 1.0]])).double()
    monkeypatch.setattr(start, "choose_mixture", stub)
    model = fitted(x, validation=x[:120], epochs=1)
    assert len(calls) == 2
    assert (float(model.whitening.scale_tril[1, 0]) == 0) == (kind == "diagonal")


def test_few_rows_are_no_worse_than_a_gaussian() -> None:
    losses = []
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        x, test = torch.randn(30, 2, generator=generator), torch.randn(2000, 2, generator=generator)
        normal = torch.distributions.MultivariateNormal(x.mean(0), x.T.cov(correction=0))
        model = fitted(x, seed=seed, epochs=1, learning_rate=1e-14)
        losses.append(float((normal.log_prob(test) - model.log_prob(test, particles=4)).mean()))
    assert np.mean(losses) < 0.05
    assert max(losses) < 0.3


@pytest.mark.parametrize("encoder", ["gaussian", "flow"])
def test_encoder_is_exact_at_the_start(encoder: str) -> None:
    model = fitted(rows().double(), epochs=1, learning_rate=1e-14, encoder=encoder)
    weights = model.log_weights(rows(20, seed=3).double(), particles=8)
    assert weights.std(0).max() < 1e-5


def test_no_layer_is_without_effect_on_the_density() -> None:
    # A last kick would move p alone, so the marginal of q would not see it.
    def exact(model: hf.NHF) -> Tensor:
        return model.certificate(x, particles=16, n_model=2).exact

    x, model = rows(5, seed=3).double(), fitted(rows().double(), epochs=1, n_steps=3)
    assert model.flow.step.hamiltonian.potential.layers == 3
    before, changes = exact(model), []
    for k in range(3):
        twin = copy.deepcopy(model)
        with torch.no_grad():
            twin.flow.step.hamiltonian.potential.amplitude[k] += 1.0
        changes.append(float((exact(twin) - before).abs().max()))
    assert min(changes) > 1e-2


def test_components_are_limited() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[-9.0, 0.0], [9.0, 0.0], [0.0, 9.0], [0.0, -9.0]])
    x = centres[torch.randint(4, (300,), generator=generator)] + torch.randn(300, 2, generator=generator)
    assert 4 <= fitted(x, epochs=1).base.components <= 6
    assert fitted(x, epochs=1, max_components=2).base.components <= 2
    assert fitted(x, epochs=1, components=3).base.components == 3


# How it trains.


def test_training_improves_on_the_mixture() -> None:
    x, held_out = rows(600), rows(300, seed=1)
    model = fitted(
        x, validation=held_out, epochs=20, learning_rate=1e-2, batch_size=100, n_steps=6, width=16, components=1
    )
    assert min(model.history.validation) < model.history.start - 0.1
    held = float(-model.log_prob(rows(2000, seed=2), particles=64).mean())
    assert held < model.history.start - 0.1


@pytest.mark.parametrize("lift", [None, "spline"])
def test_gradient_of_the_loss_is_that_of_the_bound(lift: str | None) -> None:
    """The doubly reparameterised gradient has other noise than the plain one and must have the same mean."""
    sizes = {"n_steps": 2, "width": 4, "encoder_width": 4, "lift_layers": 2, "lift_width": 4}
    model = learned(noise=0.3, particles=4, lift=lift, **sizes).train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    x = rows(10).double().repeat(50, 1)

    def plain(batch: Tensor) -> Tensor:
        z, log_det = model.standardise(batch)
        p = model.encoder.rsample(z, 4)
        return -importance_bound(model.log_joint_standardised(z, p) + log_det - model.encoder(p, z)).mean()

    def gradient(loss: Callable[[Tensor], Tensor], seed: int) -> Tensor:
        torch.manual_seed(seed)
        parts = torch.autograd.grad(loss(x), parameters, allow_unused=True, materialize_grads=True)
        return torch.cat([part.flatten() for part in parts])

    # On the same noise, so that what the two have in common does not hide what differs.
    difference = torch.stack([gradient(model.loss, k) - gradient(plain, k) for k in range(40)])
    error = difference.std(0) / 40**0.5
    assert (difference.mean(0).abs() < 5 * error + 1e-9).all()
    assert 0 < error.max() < 0.05


def test_fit_repeats_and_leaves_the_random_state_alone() -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = fitted()
    torch.rand(3)
    again = fitted()
    assert torch.equal(first.sample(5, seed=0), again.sample(5, seed=0))
    assert first.history.train == again.history.train
    torch.set_rng_state(before[0])
    fitted()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert fitted(seed=1).history.train != first.history.train


@pytest.mark.parametrize("validation", [None, 0.3, rows(20, seed=1), rows(20, seed=1).numpy()], ids=type)
def test_kinds_of_validation(validation: Any) -> None:
    history = fitted(validation=validation).history
    assert len(history.validation) == (0 if validation is None else 2)
    assert math.isnan(history.start) == (validation is None)


def test_interrupted_fit_goes_on(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = fitted(epochs=3)
    monkeypatch.setattr("time.monotonic", iter(range(0, 10**6, 100)).__next__)  # a checkpoint every epoch
    losses = hf.NHF.loss
    calls = []

    def killed(self: hf.NHF, batch: Tensor) -> Tensor:
        calls.append(batch)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return losses(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(hf.NHF, "loss", killed)
        with pytest.raises(KeyboardInterrupt):
            fitted(epochs=3, checkpoint=tmp_path / "training.pt")
    assert (tmp_path / "training.pt").exists()
    found = fitted(epochs=3, checkpoint=tmp_path / "training.pt")
    assert found.history.train == expected.history.train
    assert torch.equal(found.sample(5, seed=0), expected.sample(5, seed=0))


def test_sleep_phase_fits_the_encoder_to_the_model() -> None:
    model = learned(noise=0.3, whiten="none", sleep=100.0, particles=2).train()
    x = torch.randn(100, 2, dtype=torch.float64)

    def looseness() -> float:
        """How far the encoder is from p(p | q) on the model's own samples, in nats, plus a constant."""
        q, p = model.sample_joint(4000, seed=5)
        return -float(model.encoder(p, q).detach().mean())

    torch.manual_seed(0)
    value = model.loss(x)
    model.sleep = 0.0
    torch.manual_seed(0)
    assert torch.isclose(value, model.loss(x))  # what is shown remains the bound
    model.sleep = 100.0
    before = looseness()
    optimizer = torch.optim.Adam(model.encoder.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        model.loss(x).backward()
        optimizer.step()
    assert looseness() < before - 0.1


@pytest.mark.parametrize("lift", ["spline", "own"])
def test_hybrid_trains_its_lift(lift: str) -> None:
    model = hf.NHF(2, n_steps=2, width=4, particles=2, lift=LIFTS[lift](), lift_layers=1, lift_width=4)
    before = {name: value.clone() for name, value in model.lifting.named_parameters()}
    model.fit(rows(), epochs=3, validation=None, progress=False)
    moved = [name for name, value in model.lifting.named_parameters() if not torch.equal(value, before[name])]
    assert moved
    assert torch.isfinite(model.log_prob(rows(5), particles=8)).all()


def test_fixed_kinetic_potential_is_the_force_that_acts() -> None:
    model = learned(layerwise=False, whiten="diagonal")
    q = rows(5).double()
    z, _ = model.standardise(q)
    # The derivative is taken with respect to q = loc + scale z.
    slope = torch.autograd.functional.jacobian(lambda x: model.potential(x).sum(), q)
    slope = slope * model.whitening.scale_tril.diagonal()
    hamiltonian = model.flow.step.hamiltonian
    assert torch.allclose(slope, hamiltonian.potential.gradient(z), atol=1e-10)
    assert float(slope.abs().detach().min()) > 1e-4
    # One and the same kick at every step: exchanging the potential for none leaves free motion.
    assert torch.equal(hamiltonian.potential.gradient(z, 0.0), hamiltonian.potential.gradient(z, 0.5))
    with pytest.raises(hf.InputError, match="layerwise = True, expected False"):
        learned().potential(q)


# Types and devices.

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("settings", [{}, {"encoder": "flow"}, {"lift": "spline"}], ids=str)
def test_model_follows_the_tensor(dtype: torch.dtype, device: str, settings: dict[str, Any]) -> None:
    x = rows().to(device, dtype)
    model = fitted(x, **settings)
    found = model.certificate(x[:3], particles=4, n_model=5)
    outputs = [model.sample(3, seed=0), model.log_prob(x[:3], particles=4), found.lower, found.model_upper]
    assert {(out.dtype, out.device.type) for out in outputs} == {(dtype, device)}
    assert found.exact is not None
    assert found.exact.dtype == torch.float64  # quadrature is worth its precision
    assert {p.dtype for p in model.parameters()} == {dtype}


@pytest.mark.parametrize(
    ("x", "dtype", "expected"),
    [
        (rows().numpy().astype(np.float64), None, torch.float32),
        (rows().numpy(), torch.float64, torch.float64),
        (rows().double(), torch.float32, torch.float32),
        (rows().half(), None, torch.float32),
        ((10 * rows()).long(), None, torch.float32),
        (rows().tolist(), None, torch.float32),
    ],
    ids=["numpy", "numpy_to_64", "tensor_to_32", "half", "integers", "list"],
)
def test_dtype(x: Any, dtype: torch.dtype | None, expected: torch.dtype) -> None:
    model = hf.NHF(2, n_steps=2, width=4, particles=2, components=1)
    model.fit(x, epochs=1, dtype=dtype, progress=False)
    assert model.whitening.loc.dtype == expected
    assert model.log_prob(rows(3).numpy(), particles=2).dtype == expected


@pytest.mark.filterwarnings("error")
def test_read_only_array() -> None:
    x = rows().numpy().copy()
    x.flags.writeable = False
    before = x.copy()
    model = hf.NHF(2, n_steps=2, width=4, particles=2, components=1).fit(x, epochs=1, progress=False)
    assert torch.isfinite(model.log_prob(x[::-1, ::1], particles=2)).all()
    assert np.array_equal(x, before)


@pytest.mark.parametrize("seed", [-1, 1.5, "0", None, 2**32, True])
def test_seed(seed: Any) -> None:
    model = hf.NHF(2, n_steps=2, width=4)
    before = model.whitening.loc.clone()
    with pytest.raises(hf.InputError, match="expected a whole number from 0"):
        model.fit(rows(), seed=seed, progress=False)
    with pytest.raises(hf.InputError, match="expected a whole number from 0"):
        hf.NHF(2, seed=seed)
    assert torch.equal(model.whitening.loc, before)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clip": 0}, "clip = 0"),
        ({"validation": 1.5}, r"validation = 1.5"),
        ({"validation": torch.randn(9, 3)}, "validation has shape"),
        ({"validation": [[1.0, math.nan]]}, "validation has 1 NaN"),
        ({"checkpoint": "{tmp}/other.pt"}, "was written with"),
        ({"checkpoint": "{tmp}/other.pt/run.pt"}, "cannot be written"),
        ({"device": "nowhere"}, "device = 'nowhere'"),
        ({"dtype": torch.float16}, "dtype = torch.float16"),
    ],
)
def test_a_refused_fit_leaves_the_model_as_it_was(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    model = fitted(rows(), epochs=2, checkpoint=tmp_path / "other.pt")
    draws, history = model.sample(20, seed=0), model.history
    settings = {name: x.format(tmp=tmp_path) if isinstance(x, str) else x for name, x in settings.items()}
    with pytest.raises((hf.InputError, hf.CheckpointError), match=message):
        model.fit(rows(seed=5), **{"epochs": 3, "progress": False} | settings)
    assert torch.equal(model.sample(20, seed=0), draws)
    assert model.history is history


def test_validation_rows_may_be_a_list() -> None:
    assert len(fitted(rows(), epochs=2, validation=rows(20, seed=1).tolist()).history.validation) == 2


def test_sparse_columns_can_choose_their_own_mixture() -> None:
    x = torch.zeros(20, 2)
    x[:, 0], x[7, 1] = torch.randn(20, generator=torch.Generator().manual_seed(0)), 1.0
    for seed in range(5):
        assert torch.isfinite(fitted(x, epochs=1, validation=None, seed=seed).log_prob(x)).all()


@pytest.mark.parametrize("base", ["gaussian", "mixture"])
@pytest.mark.parametrize("encoder", ["gaussian", "flow"])
def test_rows_far_away_are_unlikely(base: str, encoder: str) -> None:
    x = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    model = fitted(x, epochs=4, learning_rate=1e-2, base=base, encoder=encoder)
    far = torch.tensor([[s, 0.0, 0.0] for s in (0.0, 1e2, 1e4, 1e5, 1e6, 1e10, 1e15, 1e30)])
    scores = model.log_prob(far, particles=64)
    assert scores[0] > -10
    assert (scores[1:] < -10).all()
    assert scores[1:3].diff() < 0


def test_log_f_of_draws_is_that_of_the_noise() -> None:
    for encoder in ("gaussian", "flow"):
        model = shaken(hf.NHF(2, n_steps=2, width=4, encoder=encoder), 0.2).double()
        z, noise = torch.randn(5, 2).double(), torch.randn(3, 5, 2).double()
        p, log_f = model.encoder.colour(noise, z)
        assert (log_f - model.encoder(p, z)).abs().max() < 1e-9


@pytest.mark.parametrize(("columns", "named"), [((0, 1, 0), "0, 2"), ((0, 1, (0, 1)), "0, 1, 2")])
def test_dependent_columns_are_told(columns: Any, named: str) -> None:
    x = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    table = torch.stack([x[:, list(c)].sum(-1) if isinstance(c, tuple) else x[:, c] for c in columns], -1)
    with pytest.warns(UserWarning, match=rf"columns depend on each other linearly \({named}\)"):
        fitted(table, epochs=1)


def test_numbers_beyond_the_dtype() -> None:
    with pytest.raises(InputError, match=r"beyond the range of torch\.float32"):
        fitted(rows().double().numpy() * 1e200)


def test_more_components_than_rows() -> None:
    with pytest.raises(InputError, match="components = 1000, expected at most the 180 training rows"):
        fitted(rows(), components=1000)


def test_rows_out_of_range_have_no_density() -> None:
    model = fitted(rows(), epochs=1)
    x = torch.tensor([[1e25, 0.0], [0.0, 0.0]])
    scores = model.log_prob(x)
    assert scores[0] == -math.inf
    assert torch.isfinite(scores[1])


def test_scores_carry_a_graph_where_rows_do() -> None:
    model = fitted(rows().double(), epochs=2)
    assert not model.log_prob(rows(3).double()).requires_grad
    assert torch.autograd.gradcheck(lambda x: model.log_prob(x, particles=4), rows(3, seed=1).double().requires_grad_())


def test_seconds_count_the_start_too() -> None:
    x = rows(400)
    before = time.process_time()
    model = fitted(x, epochs=1)
    assert model.history.seconds > 0.5 * (time.process_time() - before)


def test_validation_draws_four_times_the_particles(monkeypatch: pytest.MonkeyPatch) -> None:
    model, asked = fitted(rows(), epochs=1, particles=3), []
    draw = model.encoder.rsample_scored
    monkeypatch.setattr(model.encoder, "rsample_scored", lambda z, k: asked.append(k) or draw(z, k))
    for train in (True, False):
        model.train(train).loss(rows(5))
    assert asked == [3, 12]


def test_data_frames_are_told_by_the_names_of_their_columns(tmp_path: Path) -> None:
    table = pd.DataFrame(torch.randn(60, 2).numpy(), columns=["height", "weight"])
    flow = hf.NHF(dim=2, n_steps=2, width=4, components=1).fit(
        table, epochs=1, validation=np.float64(0.2), progress=False
    )
    flow.save(tmp_path / "run")
    for model in (flow, hf.load(tmp_path / "run")):
        assert model.columns == ("height", "weight")
        torch.testing.assert_close(model.log_prob(table), model.log_prob(table.to_numpy()))
        with pytest.raises(InputError, match=r"'weight', 'height'\], expected \['height', 'weight'\]"):
            model.log_prob(table[["weight", "height"]])
    assert flow.fit(table.to_numpy(), epochs=1, progress=False).columns is None
