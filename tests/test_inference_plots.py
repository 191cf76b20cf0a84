"""What NUTS has cost, draw by draw, and the figures of chains and calibrations: bars, bands and curves are right."""

from collections.abc import Callable, Iterator
from typing import Any

import arviz
import matplotlib.pyplot as plt
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from matplotlib.axes import Axes
from pyro.infer import MCMC, NUTS
from scipy.stats import binom

import hamflow as hf
from hamflow.inference import Calibration, RecordedNUTS, sample_stats, to_arviz
from hamflow.plots import bfmi, plot_calibration, plot_ranks, plot_transitions


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    pyro.set_rng_seed(0)
    yield
    plt.close("all")


def model() -> None:
    pyro.sample("m", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    pyro.sample("s", dist.Exponential(2.0))


class Watched(RecordedNUTS):
    """Keeps the momenta too."""

    def _sample_r(self, name: str) -> Any:
        found = super()._sample_r(name)
        momenta.append(float(sum(r.double().square().sum() for r in found[1].values())))
        return found


momenta: list[float] = []


@pytest.fixture(scope="module")
def chain() -> MCMC:
    """A run of two chains."""
    pyro.set_rng_seed(0)
    mcmc = MCMC(Watched(model), num_samples=120, warmup_steps=60, num_chains=2, disable_progbar=True)
    mcmc.run()
    return mcmc


def test_energies_are_those_of_the_model(chain: MCMC) -> None:
    stats, draws = sample_stats(chain), chain.get_samples(group_by_chain=True)
    assert {name: (value.shape, value.dtype) for name, value in stats.items()} == {
        "energy": ((2, 120), torch.double),
        "lp": ((2, 120), torch.double),
        "acceptance_rate": ((2, 120), torch.double),
        "diverging": ((2, 120), torch.bool),
    }
    # The chain walks in log s, whose Jacobian is s.
    log_joint = dist.Normal(0.0, 1.0).log_prob(draws["m"]).sum(-1) + dist.Exponential(2.0).log_prob(draws["s"])
    torch.testing.assert_close(stats["lp"].float(), log_joint + draws["s"].log(), rtol=0, atol=1e-4)
    kinetic = 0.5 * torch.tensor(momenta[-119:]).double()
    torch.testing.assert_close(stats["energy"][1, 1:], kinetic - stats["lp"][1, :-1], rtol=0, atol=1e-4)


def test_acceptance_and_divergences_are_pyros(chain: MCMC) -> None:
    stats, kept = sample_stats(chain), chain.diagnostics()
    assert (stats["acceptance_rate"] > 0).all() and (stats["acceptance_rate"] <= 1 + 1e-9).all()
    assert stats["acceptance_rate"].mean() == pytest.approx(0.8, abs=0.15)
    for i, row in enumerate(stats["diverging"]):
        assert row.nonzero().flatten().tolist() == kept["divergences"][f"chain {i}"]


def funnel() -> None:
    depth = pyro.sample("depth", dist.Normal(0.0, 3.0))
    pyro.sample("x", dist.Normal(torch.zeros(4), (depth / 2).exp()).to_event(1))


def test_divergences_are_marked_where_they_were() -> None:
    mcmc = MCMC(
        RecordedNUTS(funnel, step_size=8.0, adapt_step_size=False, max_tree_depth=4), 40, 5, disable_progbar=True
    )
    mcmc.run()
    found = sample_stats(mcmc)["diverging"][0].nonzero().flatten().tolist()
    assert found == sorted(set(mcmc.diagnostics()["divergences"]["chain 0"])) and found


def test_arviz_takes_them(chain: MCMC) -> None:
    stats = sample_stats(chain)
    data = to_arviz(chain.get_samples(group_by_chain=True), sample_stats=stats)
    assert data.sample_stats["diverging"].shape == (2, 120)
    # ArviZ divides a mean of 119 changes by a variance of 120 energies.
    theirs: Any = arviz.bfmi(data)
    if hasattr(theirs, "data_vars"):  # a tree of tables from version 1 on
        theirs = theirs["energy"]
    np.testing.assert_allclose(np.asarray(theirs), bfmi(stats["energy"]), rtol=0.02)


def test_transitions_are_drawn() -> None:
    energy = np.cumsum(np.random.default_rng(0).normal(size=(2, 300)), 1)
    ax = plot_transitions(energy, bins=13)
    marginal, change = (patch.get_xy() for patch in ax.patches)
    centred, steps = (energy - energy.mean(1, keepdims=True)).ravel(), np.diff(energy).ravel()
    edges = np.linspace(min(centred.min(), steps.min()), max(centred.max(), steps.max()), 14)
    for outline, values in ((marginal, centred), (change, steps)):
        heights = np.histogram(values, edges, density=True)[0]
        np.testing.assert_allclose(outline[1:27:2, 1], heights)
    slow = bfmi(energy)
    assert slow.max() < 0.3
    assert ax.get_legend().get_title().get_text() == f"BFMI {slow[0]:.2f}, {slow[1]:.2f}"


def test_ranks_of_chains_are_counted() -> None:
    draws = torch.stack((torch.arange(0.0, 100.0, 2), torch.arange(1.0, 101.0, 2), torch.arange(200.0, 250.0)))
    ax = plot_ranks(draws, bins=6)
    bars = np.array([bar.get_height() for bar in ax.patches if hasattr(bar, "get_height")]).reshape(3, 6)
    # Two chains share the lower two thirds of the ranks, and the third has the rest alone.
    # Bars stand on those below, which costs a rounding.
    np.testing.assert_allclose(bars, [[13, 12, 13, 12, 0, 0], [12, 13, 12, 13, 0, 0], [0, 0, 0, 0, 25, 25]], atol=1e-9)
    bases = [bar.get_y() for bar in ax.patches if hasattr(bar, "get_height")][::6]
    band = bands(ax)
    assert len(band) == 3
    for base, (low, high) in zip(bases, band, strict=True):
        np.testing.assert_allclose(low - base, binom.ppf(0.025, 50, 1 / 6))
        np.testing.assert_allclose(high - base, binom.ppf(0.975, 50, 1 / 6))


def bands(ax: Axes) -> list[tuple[Any, Any]]:
    steps = [patch.get_data() for patch in ax.patches if type(patch).__name__ == "StepPatch"]
    return [(data.baseline, data.values) for data in steps if data.baseline is not None and np.any(data.baseline)]


def test_calibration_is_drawn_with_its_bands() -> None:
    generator = torch.Generator().manual_seed(0)
    ranks = {"m": torch.randint(0, 50, (200, 2), generator=generator), "s": torch.full((200,), 49)}
    found = Calibration(ranks, draws=49)
    left, right = plot_calibration(found, bins=8)
    ((low, high),) = bands(left)
    edges = left.patches[0].get_data().edges
    sizes = np.diff(edges)
    # Fifty ranks in eight bins: six or seven each, as in the test of uniform ranks.
    assert sizes.sum() == 50 and set(sizes) == {6, 7}
    np.testing.assert_array_equal(low, binom.ppf(0.025, 200, sizes / 50))
    np.testing.assert_array_equal(high, binom.ppf(0.975, 200, sizes / 50))
    curves = [patch.get_data().values for patch in left.patches[1:]]
    owner = torch.arange(50) * 8 // 50
    for drawn, values in zip(curves, (ranks["m"][:, 0], ranks["m"][:, 1], ranks["s"]), strict=True):
        np.testing.assert_array_equal(drawn, torch.bincount(owner[values], minlength=8))
    assert [text.get_text() for text in right.get_legend().get_texts()] == ["m[0]", "m[1]", "s"]
    levels, share = right.lines[0].get_data()
    np.testing.assert_allclose(share, [found.coverage(float(level))["m"][0] for level in levels])
    np.testing.assert_array_equal(right.lines[2].get_ydata(), 0)
    # An interval of level .5 holds a whole number of the 50 ranks, 24 or 26, never 25.
    path = right.collections[0].get_paths()[0].vertices
    middle = path[np.isclose(path[:, 0], 0.5)]
    chance = float(((torch.arange(50) + 0.5) / 50 - 0.5).abs().lt(0.25).double().mean())
    np.testing.assert_allclose(sorted(set(middle[:, 1])), binom.ppf([0.025, 0.975], 200, chance) / 200)


def test_axes_that_are_given_are_used() -> None:
    figure, axes = plt.subplots(1, 4)
    assert plot_ranks(torch.randn(2, 50), ax=axes[0]) is axes[0]
    assert plot_transitions(torch.randn(2, 50), ax=axes[1]) is axes[1]
    assert plot_calibration(Calibration({"m": torch.arange(20)}, 19), axes=(axes[2], axes[3])) == (axes[2], axes[3])
    assert plt.get_fignums() == [figure.number]


def other() -> MCMC:
    mcmc = MCMC(NUTS(lambda: pyro.sample("m", dist.Normal(0.0, 1.0))), 3, 2, disable_progbar=True)
    mcmc.run()
    return mcmc


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plot_ranks(torch.zeros(5)), r"draws has shape \(5,\)"),
        (lambda: plot_ranks(torch.zeros(1, 5)), "draws has 1 chain"),
        (lambda: plot_ranks(torch.zeros(2, 5), bins=0), "bins = 0"),
        (lambda: plot_ranks(torch.tensor([[0.0, torch.nan]] * 2)), "not finite"),
        (lambda: plot_transitions(torch.zeros(2, 1)), r"energy has shape \(2, 1\)"),
        (lambda: plot_transitions(torch.zeros(2, 5)), "energy is the same"),
        (
            lambda: plot_calibration(Calibration({"m": torch.arange(5)}, draws=9), bins=11),
            "bins = 11, expected no more",
        ),
        (lambda: plot_calibration(Calibration({}, draws=99)), "calibration has no ranks"),
        (lambda: sample_stats(MCMC(RecordedNUTS(model), 3, disable_progbar=True)), "mcmc has no draws"),
        (lambda: sample_stats(None), "mcmc has no draws"),  # type: ignore[arg-type]
        (lambda: sample_stats(other()), "keeps no energies, expected a RecordedNUTS"),
    ],
)
def test_bad_input_is_named(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(hf.InputError, match=message):
        call()
