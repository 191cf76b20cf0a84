"""The mixture that a flow starts from: expectation maximisation, and its choice by validation."""

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.mixture import GaussianMixture
from torch import Tensor

from hamflow.densities import choose_mixture, warm_start
from hamflow.densities.mixture import GAUSSIAN
from hamflow.errors import FitError


def clusters(n: int, seed: int) -> Tensor:
    """Three correlated Gaussian clusters in two columns."""
    generator = torch.Generator().manual_seed(seed)
    which = torch.randint(3, (n,), generator=generator)
    centres = torch.tensor([[-2.0, 0.0], [2.0, 1.0], [0.0, -2.0]]).double()
    shape = torch.tensor([[0.5, 0.3], [0.0, 0.4]]).double()
    return centres[which] + torch.randn(n, 2, generator=generator, dtype=torch.float64) @ shape


def heavy(n: int, seed: int) -> Tensor:
    """A multivariate t with 3 degrees of freedom."""
    return torch.as_tensor(stats.multivariate_t([0, 0], [[1, 0.5], [0.5, 1]], df=3, seed=seed).rvs(n))


@pytest.mark.parametrize("degrees", [2.5, 8.0, GAUSSIAN])
def test_likelihood_never_decreases(degrees: float, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.cat((clusters(200, 0), heavy(100, 1)))
    start = torch.rand(300, 3, generator=torch.Generator().manual_seed(2)).double().softmax(1)
    likelihoods = []
    for n in range(1, 25):
        monkeypatch.setattr(warm_start, "_MAX_ITERATIONS", n)
        found = warm_start._expectation_maximisation(rows, rows, start, degrees, 1e-9)
        assert found is not None
        likelihoods.append(float(found.scores.mean()))
    steps = np.diff(likelihoods)
    assert steps.min() > -1e-8
    assert likelihoods[-1] > likelihoods[0] + 0.1


def test_gaussian_limit_agrees_with_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, held_out = clusters(600, 0), clusters(300, 1)
    monkeypatch.setattr(warm_start, "_LEAST_GAIN", 1e-9)
    start = warm_start._responsibilities(rows, 3, seed=0)
    found = warm_start._expectation_maximisation(rows, held_out, start, GAUSSIAN, 1e-6)
    assert found is not None
    peer = GaussianMixture(3, tol=1e-9, random_state=0, n_init=3).fit(rows.numpy())
    assert abs(float(found.scores.mean()) - peer.score(held_out.numpy())) < 1e-3
    order, peer_order = found.means[:, 0].argsort(), peer.means_[:, 0].argsort()
    assert np.abs(found.means[order].numpy() - peer.means_[peer_order]).max() < 1e-2
    assert np.abs(found.scales[order].numpy() - peer.covariances_[peer_order]).max() < 1e-2
    assert np.abs(found.weights[order].numpy() - peer.weights_[peer_order]).max() < 1e-3


def test_tails_are_recovered() -> None:
    rows, held_out = heavy(3000, 0), heavy(3000, 1)
    found = choose_mixture(rows, [(rows, held_out)])
    assert found.degrees in (2.5, 4.0)
    truth = stats.multivariate_t([0, 0], [[1, 0.5], [0.5, 1]], df=3).logpdf(held_out.numpy()).mean()
    assert abs(float(found.scores.mean()) - truth) < 0.02
    best_gaussian = max(
        GaussianMixture(k, random_state=0).fit(rows.numpy()).score(held_out.numpy()) for k in range(1, 7)
    )
    assert float(found.scores.mean()) > best_gaussian + 0.01


def test_scores_are_the_log_density_of_the_held_out_rows() -> None:
    held_out = clusters(40, 1)
    rows = clusters(200, 0)
    found = choose_mixture(rows, [(rows, held_out)], components=2)
    parts = [
        np.log(float(w)) + stats.multivariate_t.logpdf(held_out.numpy(), m.numpy(), s.numpy(), df=found.degrees)
        for w, m, s in zip(found.weights, found.means, found.scales, strict=True)
    ]
    assert np.abs(found.scores.numpy() - np.logaddexp.reduce(parts)).max() < 1e-9


def test_components_are_chosen_or_given() -> None:
    rows, held_out = clusters(400, 0), clusters(400, 1)
    chosen = choose_mixture(rows, [(rows, held_out)])
    assert len(chosen.weights) == 3
    assert float(chosen.weights.sum()) == pytest.approx(1)
    single = choose_mixture(rows, [(rows, held_out)], components=1)
    assert len(single.weights) == 1
    assert chosen.scores.mean() > single.scores.mean() + 0.3


def test_choice_repeats() -> None:
    rows, held_out = clusters(200, 0), clusters(100, 1)
    first, again = (choose_mixture(rows, [(rows, held_out)], components=4, seed=3) for _ in range(2))
    assert torch.equal(first.means, again.means)
    assert torch.equal(first.scores, again.scores)


def test_regularisation_keeps_few_rows_from_overfitting() -> None:
    generator = torch.Generator().manual_seed(0)
    rows, held_out = (torch.randn(n, 10, generator=generator).double() for n in (14, 200))
    found = choose_mixture(rows, [(rows, held_out)])
    bare = GaussianMixture(1, reg_covar=1e-6).fit(rows.numpy()).score(held_out.numpy())
    assert float(found.scores.mean()) > bare + 1


def test_float32_rows_on_any_scale_of_counts() -> None:
    rows = clusters(6, 0).float()
    found = choose_mixture(rows, [(rows, clusters(3, 1).float())])
    assert found.scores.shape == (3,)
    assert torch.isfinite(found.scores).all()


def test_more_components_than_rows() -> None:
    with pytest.raises(FitError, match="no mixture of 5 components could be fitted to 3 rows"):
        choose_mixture(clusters(3, 0), [(clusters(3, 0), clusters(3, 1))], components=5)


def test_folds_choose_and_all_rows_are_fitted() -> None:
    rows = clusters(150, 0)
    folds = [(rows[50:], rows[:50]), (torch.cat((rows[:50], rows[100:])), rows[50:100]), (rows[:100], rows[100:])]
    found = choose_mixture(rows, folds, components=3)
    assert found.scores.shape == (150,)
    # Each score is that of the mixture that has not seen the row, so they are worse than those of the final mixture.
    alone = choose_mixture(rows, [(rows, rows)], components=3)
    assert found.scores.mean() < alone.scores.mean()
    assert found.means[:, 0].sort().values.sub(alone.means[:, 0].sort().values).abs().max() < 0.3
