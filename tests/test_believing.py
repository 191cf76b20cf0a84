"""Whether a posterior is to be believed: weights and verdicts, calibration, and draws handed to ArviZ."""

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoDelta, AutoGuideList, AutoMultivariateNormal, AutoNormal
from torch import Tensor

import hamflow as hf
from hamflow.inference import diagnose, log_weights, simulation_based_calibration, to_arviz

OBSERVED = torch.tensor([1.0, 2.0, -1.0])
EVIDENCE = float(dist.Normal(torch.zeros(3), math.sqrt(1.25)).log_prob(OBSERVED).sum())


def conjugate() -> None:
    with pyro.plate("rows", 3):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(m, 0.5), obs=OBSERVED)


def gaussian(scale: float) -> AutoNormal:
    """The posterior's means, and scales that many times its own."""
    guide = AutoNormal(conjugate)
    guide()
    guide.locs.m.copy_(OBSERVED / 1.25)
    guide.scales.m = torch.full((3,), scale * math.sqrt(0.2))
    return guide


@pytest.mark.parametrize("vectorize", [True, False])
@torch.no_grad()
def test_weights_of_the_exact_posterior_are_the_evidence(vectorize: bool) -> None:
    weights = log_weights(gaussian(1.0), conjugate, draws=50, vectorize=vectorize)
    torch.testing.assert_close(weights, torch.full((50,), EVIDENCE), rtol=0, atol=1e-4)


@torch.no_grad()
def test_verdicts() -> None:
    exact = diagnose(gaussian(1.0), conjugate)
    assert exact.elbo == pytest.approx(EVIDENCE, abs=1e-4) and exact.effective_draws == pytest.approx(1000, rel=1e-3)
    assert exact.pareto_k < 0 and "good" in str(exact)
    # Draws whose scale is s of the posterior's have weights with the tail index 1 - s^2.
    narrow = diagnose(gaussian(0.4), conjugate, draws=4000)
    assert narrow.pareto_k > 0.7 and "do not trust it" in str(narrow)
    assert narrow.elbo < narrow.evidence < EVIDENCE + 0.05 and narrow.effective_draws < 400
    middle = diagnose(gaussian(0.64), conjugate, draws=20_000)
    assert middle.pareto_k == pytest.approx(1 - 0.64**2, abs=0.12) and "usable" in str(middle)


def test_a_mode_that_is_never_drawn_is_not_vouched_for() -> None:
    def two() -> None:
        m = pyro.sample("m", dist.Normal(0.0, 20.0))
        pyro.sample("x", dist.Normal(m.abs(), 1.0), obs=torch.tensor(10.0))

    guide = AutoNormal(two)
    guide()
    with torch.no_grad():
        guide.locs.m.copy_(torch.tensor(10.0))
        guide.scales.m = torch.tensor(1.0)
    verdict = str(diagnose(guide, two))
    assert "good" in verdict and "no mode that was never drawn" in verdict


@pytest.mark.parametrize("vectorize", [True, False])
def test_a_point_has_no_density_to_weigh(vectorize: bool) -> None:
    def model() -> None:
        m = pyro.sample("m", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        s = pyro.sample("s", dist.LogNormal(0.0, 1.0))
        pyro.sample("x", dist.Normal(m, s[..., None]).to_event(1), obs=torch.ones(2))

    with pytest.raises(hf.InputError, match="guide site m is a point"):
        diagnose(AutoDelta(model), model, vectorize=vectorize)
    mixed = AutoGuideList(model)
    mixed.append(AutoDelta(poutine.block(model, expose=["m"])))
    mixed.append(AutoNormal(poutine.block(model, expose=["s"])))
    with pytest.raises(hf.InputError, match="guide site m is a point"):
        diagnose(mixed, model)
    # Pyro's continuous guides map a draw to their sites by Deltas, which are none.
    for guide in (AutoMultivariateNormal(model), hf.AutoHamiltonianFlow(model), AutoNormal(model)):
        assert log_weights(guide, model, draws=4, vectorize=vectorize).isfinite().all()


def test_a_site_of_one_side_alone_has_no_weight() -> None:
    def model() -> None:
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        pyro.sample("b", dist.Normal(0.0, 0.001))
        pyro.sample("x", dist.Normal(a, 1.0), obs=torch.tensor(1.0))

    guide = AutoNormal(poutine.block(model, hide=["b"]))
    for job in (lambda: diagnose(guide, model), lambda: hf.ImportanceWeightedELBO(4).loss(model, guide)):
        with pytest.raises(hf.InputError, match=r"model has the latent sites \['a', 'b'\] and guide \['a'\]"):
            job()


def test_a_model_that_takes_no_dimensions_on_the_left_is_found_out() -> None:
    table, y = torch.randn(6, 2), torch.randn(6)

    def sums(kind: str) -> Callable[[], None]:
        def model() -> None:
            b = pyro.sample("b", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            mean = table @ b if kind == "product" else (table * b[..., None, :]).sum(-1)
            with pyro.plate("rows", 6):
                pyro.sample("y", dist.Normal(mean, 1.0), obs=y)

        return model

    for kind, message in (("product", "model fails with many draws at once"), ("sum", "model has a log density of")):
        model = sums(kind)
        guide = AutoNormal(model)
        with pytest.raises(hf.InputError, match=message + ".*vectorize=False"):
            diagnose(guide, model)
        assert log_weights(guide, model, draws=3, vectorize=False).isfinite().all()


def test_a_minibatch_that_is_gone_through_row_by_row_is_refused() -> None:
    def model() -> None:
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        for i in pyro.plate("rows", 3, subsample_size=2):
            pyro.sample(f"x_{i}", dist.Normal(m, 0.5), obs=OBSERVED[i])

    guide = AutoNormal(model)
    for job in (
        lambda: log_weights(guide, model, draws=4),
        lambda: hf.ImportanceWeightedELBO(4, max_plate_nesting=1).loss(model, guide),
    ):
        with pytest.raises(hf.InputError, match="plate rows goes through its minibatch row by row"):
            job()


def test_the_gradient_of_the_bound_is_its_gradient_with_minibatches_too(float64: torch.dtype) -> None:
    data = torch.linspace(-1, 2, 40)

    def model() -> None:
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", 40, subsample_size=10) as rows:
            pyro.sample("x", dist.Normal(m, 1.0), obs=data[rows])

    loc = torch.tensor(0.3, requires_grad=True)

    def guide() -> None:
        pyro.sample("m", dist.Normal(loc, 0.4))

    def value(at: float) -> Tensor:
        pyro.set_rng_seed(3)
        bound = hf.ImportanceWeightedELBO(8, max_plate_nesting=1)
        bound._product, bound._square = 0.6, 1.0
        with torch.no_grad():
            loc.fill_(at)
        return bound.differentiable_loss(model, guide)

    step = 1e-5
    differences = (value(0.3 + step) - value(0.3 - step)) / (2 * step)
    (gradient,) = torch.autograd.grad(value(0.3), loc)
    assert float(gradient) == pytest.approx(float(differences), rel=1e-5)


def subsampled() -> None:
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", 3, subsample_size=2) as rows:
        pyro.sample("x", dist.Normal(m, 0.5), obs=OBSERVED[rows])


def ranks_of(scale: float, shift: float = 0.0) -> hf.inference.Calibration:
    def simulate() -> tuple[dict[str, Tensor], Tensor]:
        m = torch.randn(2)
        return {"m": m}, m + 0.5 * torch.randn(2)

    def infer(x: Tensor) -> dict[str, Tensor]:
        return {"m": x / 1.25 + shift + scale * math.sqrt(0.2) * torch.randn(99, 2)}

    return simulation_based_calibration(simulate, infer, n=300, progress=False)


def test_calibration_of_a_right_and_of_wrong_posteriors() -> None:
    right = ranks_of(1.0)
    assert right.ranks["m"].shape == (300, 2) and right.p_values()["m"].min() > 0.01
    torch.testing.assert_close(right.coverage(0.9)["m"], torch.full((2,), 0.9).double(), atol=0.06, rtol=0)
    for wrong in (ranks_of(0.5), ranks_of(2.0), ranks_of(1.0, shift=0.3)):
        assert wrong.p_values()["m"].max() < 1e-4
    assert ranks_of(0.5).coverage(0.9)["m"].max() < 0.75
    # Bins that do not divide the ranks evenly are no deviation.
    assert right.p_values(bins=7)["m"].min() > 0.01


def test_a_guide_is_calibrated() -> None:
    def simulate() -> tuple[dict[str, Tensor], Tensor]:
        m = torch.randn(())
        return {"m": m}, m + torch.randn(5)

    def infer(x: Tensor) -> dict[str, Tensor]:
        def model() -> None:
            m = pyro.sample("m", dist.Normal(0.0, 1.0))
            with pyro.plate("rows", 5):
                pyro.sample("x", dist.Normal(m, 1.0), obs=x)

        pyro.clear_param_store()
        return hf.AutoHamiltonianFlow(model, start="laplace").sample_posterior(99)

    found = simulation_based_calibration(simulate, infer, n=200, progress=False)
    assert found.p_values()["m"] > 0.01


def test_draws_for_arviz() -> None:
    draws = {"theta": torch.randn(4, 100, 8), "mu": torch.randn(4, 100)}
    data = to_arviz(draws, sample_stats={"diverging": torch.zeros(4, 100, dtype=torch.bool)})
    assert data.posterior["theta"].shape == (4, 100, 8) and data.sample_stats["diverging"].shape == (4, 100)
    single = to_arviz({"mu": torch.randn(50)}, chains=False, observed_data={"x": OBSERVED})
    assert single.posterior["mu"].shape == (1, 50) and single.observed_data["x"].shape == (3,)


def test_few_draws_have_few_levels() -> None:
    ranks = torch.arange(11).repeat(50)
    few = hf.inference.Calibration({"m": ranks}, draws=10)
    assert float(few.coverage(0.9)["m"]) == pytest.approx(few.attainable(0.9)) == pytest.approx(9 / 11)
    for bins in (1, 12, 20):
        with pytest.raises(hf.InputError, match=f"bins = {bins}, expected 2 to 11"):
            few.p_values(bins)
    assert float(few.p_values(11)["m"]) == pytest.approx(1.0)


def missing(_: Any) -> dict[str, Tensor]:
    return {"other": torch.zeros(9)}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: diagnose(AutoNormal(conjugate), conjugate, draws=20), "draws = 20, expected 100 or more"),
        (lambda: log_weights(AutoNormal(conjugate), conjugate, draws=0), "draws = 0"),
        (lambda: log_weights(AutoNormal(subsampled), subsampled, draws=4), "model draws minibatches"),
        (lambda: to_arviz({"mu": torch.zeros(5)}), r"posterior\['mu'\] has shape \(5,\)"),
        (lambda: to_arviz({"a": torch.zeros(2, 5), "b": torch.zeros(2, 4)}), "2 chains of 4 draws, expected"),
        (
            lambda: to_arviz({"a": torch.zeros(2, 5)}, sample_stats={"lp": torch.zeros(3, 5)}),
            r"sample_stats\['lp'\] has 3 chains of 5 draws, expected those of 'a', 2 of 5",
        ),
        (lambda: to_arviz({"a": torch.zeros(2, 5)}, sample_stat={"lp": torch.zeros(2, 5)}), r"has \['sample_stat'\]"),
        (lambda: to_arviz(torch.zeros(2, 5)), "posterior is a Tensor, expected draws by site"),
        (lambda: log_weights("guide", conjugate), "guide is a str, expected a function"),
        (lambda: ranks_of(1.0).coverage(1.0), "level = 1.0"),
        (
            lambda: simulation_based_calibration(lambda: OBSERVED, missing, progress=False),
            "simulate gives a Tensor, expected parameters by name",
        ),
        (
            lambda: simulation_based_calibration(
                lambda: ({"m": 1.0}, None), lambda _: {"m": torch.full((9,), torch.nan)}, progress=False
            ),
            "gives NaN for 'm'",
        ),
        (
            lambda: simulation_based_calibration(lambda: ({"m": OBSERVED}, None), missing, progress=False),
            "expected 'm' among them",
        ),
        (
            lambda: simulation_based_calibration(
                lambda: ({"m": OBSERVED}, None), lambda _: {"m": torch.zeros(9)}, progress=False
            ),
            r"'m' of shape \(9,\), expected \(9, 3\)",
        ),
    ],
)
def test_bad_input_is_named(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(hf.InputError, match=message):
        call()
