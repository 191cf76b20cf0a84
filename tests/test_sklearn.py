"""HamiltonianDensity behaves as scikit-learn's own density estimators do."""

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from hamflow.errors import InputError
from hamflow.interop.sklearn import HamiltonianDensity
from tests.parts import shaken

X = np.random.default_rng(0).normal(size=(120, 2)) @ np.array([[1.0, 0.8], [0.0, 0.6]]) + [5.0, -3.0]


def tiny(**changes: Any) -> HamiltonianDensity:
    settings: dict[str, Any] = {"n_steps": 2, "width": 4, "particles": 2, "score_particles": 8, "epochs": 2}
    return HamiltonianDensity(**{**settings, "random_state": 0, **changes})


@parametrize_with_checks([tiny(components=1)])
def test_scikit_learn_accepts_it(estimator: HamiltonianDensity, check: Callable[[HamiltonianDensity], None]) -> None:
    check(estimator)


def test_scores_are_the_log_density_of_the_data() -> None:
    density = tiny(components=1, score_particles=64).fit(X)
    centred = X - X.mean(0)
    covariance = centred.T @ centred / len(X)
    exact = -0.5 * (np.einsum("ni,ij,nj->n", centred, np.linalg.inv(covariance), centred)) - 0.5 * np.log(
        np.linalg.det(2 * np.pi * covariance)
    )
    scores = density.score_samples(X)
    assert scores.dtype == np.float64
    # The data are Gaussian and so is the model at the start of its two epochs.
    assert np.abs(scores - exact).mean() < 0.25
    assert density.score(X) == pytest.approx(scores.mean())


def test_scores_match_the_bound_of_the_model() -> None:
    density = tiny(score_particles=512).fit(X)
    reference = density.model_.log_prob(X, particles=512, seed=1).numpy()
    np.testing.assert_allclose(density.score_samples(X), reference, atol=0.2)
    assert abs(density.score(X) - reference.mean()) < 0.02


def test_every_setting_reaches_the_model() -> None:
    settings = {"base": "gaussian", "encoder": "flow", "max_components": 3, "sleep": 0.1, "lift": "spline"}
    model = tiny(components=None, **settings).fit(X).model_
    assert {name: model.config[name] for name in settings} == settings


def test_noise_of_the_rows_averages_out() -> None:
    density = tiny(score_particles=4).fit(X)
    shaken(density.model_.encoder, 0.03)
    scores = []
    for seed in range(12):
        density._score_seed = seed
        scores.append(density.score_samples(X))
    spread, alone = np.std(np.mean(scores, axis=1)), np.mean(np.std(scores, axis=0))
    # Independent rows: the mean is the steadier by the root of their number.
    assert spread < 3 * alone / np.sqrt(len(X))
    np.testing.assert_allclose(density.score_samples(X[::-1]), scores[-1][::-1])


def test_random_state_decides_everything() -> None:
    before = torch.random.get_rng_state()
    first, again, other = tiny().fit(X), tiny().fit(X), tiny(random_state=1).fit(X)
    assert torch.equal(torch.random.get_rng_state(), before)
    np.testing.assert_array_equal(first.score_samples(X), again.score_samples(X))
    assert not np.array_equal(first.score_samples(X), other.score_samples(X))
    np.testing.assert_array_equal(first.sample(4, random_state=3), again.sample(np.int64(4), random_state=3))
    assert not np.array_equal(first.sample(4), first.sample(4))
    generator = np.random.RandomState(0)
    assert not np.array_equal(first.sample(2, random_state=generator), first.sample(2, random_state=generator))


def test_sample_follows_the_data() -> None:
    drawn = tiny(epochs=5).fit(X).sample(4000, random_state=0)
    assert drawn.shape == (4000, 2)
    np.testing.assert_allclose(drawn.mean(0), X.mean(0), atol=0.3)
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(X.T), atol=0.4)


def test_in_a_pipeline_and_a_grid_search() -> None:
    pipeline = make_pipeline(StandardScaler(), tiny())
    search = GridSearchCV(pipeline, {"hamiltoniandensity__components": [1, 2]}, cv=2).fit(X)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_estimator_.score_samples(X).shape == (len(X),)
    assert search.score(X) == pytest.approx(search.best_estimator_.score_samples(X).mean())


def test_clone_and_pickle() -> None:
    density = tiny().fit(X)
    fresh = clone(density)
    assert fresh.get_params() == density.get_params()
    with pytest.raises(NotFittedError):
        fresh.score_samples(X)
    with pytest.raises(NotFittedError):
        fresh.sample()
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(density)).score_samples(X), density.score_samples(X))


def test_names_of_columns_are_kept_and_checked() -> None:
    frame = pd.DataFrame(X, columns=["height", "weight"])
    density = tiny().fit(frame)
    assert list(density.feature_names_in_) == ["height", "weight"]
    assert density.n_features_in_ == 2
    with pytest.raises(ValueError, match="feature names"):
        density.score_samples(frame.rename(columns={"height": "length"}))


def test_float32_and_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    density = tiny(dtype="float32", lift="spline").fit(X)
    assert density.model_.whitening.loc.dtype == torch.float32
    whole = density.score_samples(X)
    monkeypatch.setattr("hamflow.models.nhf.CHUNK", 56)
    np.testing.assert_allclose(density.score_samples(X), whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "float16"}, "dtype = 'float16'"),
        ({"n_steps": 0}, "n_steps = 0"),
        ({"epochs": -1}, "epochs = -1"),
        ({"score_particles": 0}, "score_particles = 0"),
        ({"whiten": "yes"}, "whiten = 'yes'"),
        ({"validation": 1.5}, "validation = 1.5"),
    ],
)
def test_bad_parameters_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        tiny(**changes).fit(X)


def test_bad_number_of_samples_and_seed() -> None:
    with pytest.raises(ValueError, match="Seed must be between"):
        tiny(random_state=-1).fit(X)
    with pytest.raises(InputError, match="n_samples = 0"):
        tiny().fit(X).sample(0)
