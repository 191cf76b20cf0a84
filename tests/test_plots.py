"""Figures show what they promise, on the axes they were given, and leave the world as it was."""

from collections.abc import Iterator
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

import hamflow as hf
from hamflow.plots import (
    plot_density_2d,
    plot_energy,
    plot_history,
    plot_phase_portrait,
    plot_samples,
    plot_trajectories,
    plot_trajectories_against,
    positions,
)
from hamflow.training import History

X = np.random.default_rng(0).normal(size=(60, 2)) * [1.0, 3.0] + [0.0, 50.0]


@pytest.fixture(scope="module")
def model() -> hf.NHF:
    """A small fitted model."""
    return hf.NHF(2, n_steps=3, width=4, particles=2).fit(X, epochs=2, progress=False)


@pytest.fixture(autouse=True)
def no_trace(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No window, no global style; figures are closed, also those of tests that ran before."""
    plt.close("all")
    monkeypatch.setattr(plt, "show", lambda *a, **k: pytest.fail("a figure was shown"))
    before = dict(mpl.rcParams)
    yield
    assert dict(mpl.rcParams) == before
    plt.close("all")


def test_density_is_the_bound_on_a_grid(model: hf.NHF) -> None:
    ax = plot_density_2d(model, X, columns=["a", "b"], grid=12, particles=4, seed=1)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("a", "b")
    mesh = ax.collections[0]
    corners = mesh.get_coordinates().reshape(-1, 2)
    expected = model.log_prob(corners, particles=4, seed=1).exp().numpy()
    np.testing.assert_allclose(np.asarray(mesh.get_array()).ravel(), expected, rtol=1e-4)
    # The frame holds the data.
    inside = (corners.min(0) <= X) & (corners.max(0) >= X)
    assert inside.mean() > 0.98
    assert len(ax.collections[1].get_offsets()) == len(X)


def test_density_without_data(model: hf.NHF) -> None:
    ax = plot_density_2d(model, grid=5, particles=2)
    assert len(ax.collections) == 1
    assert ax.get_ylim()[0] < 50 < ax.get_ylim()[1]


def test_given_axes_are_used(model: hf.NHF) -> None:
    figure, axes = plt.subplots(1, 3)
    assert plot_density_2d(model, grid=4, particles=2, ax=axes[0]) is axes[0]
    assert plot_history(model.history, ax=axes[1]) is axes[1]
    assert plot_trajectories(model, n=3, ax=axes[2]) is axes[2]
    assert plt.get_fignums() == [figure.number]


@pytest.mark.parametrize("source", ["model", "array", "tensor"])
def test_samples_of_model_array_and_tensor(source: str, model: hf.NHF) -> None:
    samples: Any = {"model": model, "array": X + 1, "tensor": torch.as_tensor(X)}[source]
    figure = plot_samples(samples, X, n=30, columns=["a", "b"])
    scatter = [ax for ax in figure.axes if ax.get_xlabel() == "a" and ax.get_ylabel() == "b"]
    assert len(scatter) == 1
    points = scatter[0].collections[0].get_offsets()
    assert len(points) == len(X) + (30 if source == "model" else len(X))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["data", "model"]


def test_samples_of_one_and_of_many_columns() -> None:
    rows = np.random.default_rng(1).normal(size=(30, 8))
    assert {ax.get_xlabel() for ax in plot_samples(rows[:, :1]).axes} - {""} == {"x0"}
    figure = plot_samples(rows, max_columns=3)
    assert {ax.get_xlabel() for ax in figure.axes} - {""} == {"x0", "x1", "x2"}
    assert figure.legends[0].get_title().get_text() == "the first 3 of 8 columns"


def test_history_marks_the_epoch_that_was_kept() -> None:
    ax = plot_history(History(start=4.0, train=[3.0, 2.0, 1.5], validation=[3.5, 2.5, 2.6], best_epoch=2))
    train, validation, kept = ax.lines
    assert list(train.get_ydata()) == [3.0, 2.0, 1.5]
    assert list(train.get_xdata()) == [1, 2, 3]
    assert list(validation.get_ydata()) == [4.0, 3.5, 2.5, 2.6]
    assert list(validation.get_xdata()) == [0, 1, 2, 3]
    assert kept.get_xdata()[0] == 2


def test_history_without_validation_or_with_one_epoch() -> None:
    ax = plot_history(History(train=[3.0], best_epoch=1))
    assert ax.get_legend_handles_labels()[1] == ["training", "kept"]
    assert ax.lines[0].get_marker() == "o"


def test_positions_end_where_samples_are(model: hf.NHF) -> None:
    path = positions(model, 20, seed=4)
    assert path.shape == (4, 20, 2)
    torch.testing.assert_close(path[-1], model.sample(20, seed=4), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(path[1], path[-1])
    base = model.base.sample(20, torch.Generator().manual_seed(4))
    torch.testing.assert_close(path[0], model.whitening(base[:, :2]))


@pytest.mark.parametrize("dim", [1, 3])
@pytest.mark.parametrize("lift", [None, "spline"])
def test_trajectories_in_other_dimensions(dim: int, lift: str | None) -> None:
    lift = lift if dim > 1 else None
    ax = plot_trajectories(hf.NHF(dim, n_steps=2, width=4, lift=lift), n=5, pair=(2, 0))
    assert len(ax.lines) == 5
    assert (ax.get_xlabel(), ax.get_ylabel()) == (("step", "x0") if dim == 1 else ("x2", "x0"))
    assert len(ax.lines[0].get_xdata()) == 3


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda m: plot_density_2d(hf.NHF(3, n_steps=1, width=2)), "dim = 3, expected 2"),
        (lambda m: plot_density_2d(m, X[:, :1]), r"x has shape \(60, 1\)"),
        (lambda m: plot_density_2d(m, grid=0), "grid = 0"),
        (lambda m: plot_density_2d(m, columns=["a"]), "columns has 1 names, expected 2"),
        (lambda m: plot_samples(m, X[:, :1]), r"x has shape \(60, 1\)"),
        (lambda m: plot_samples(X[0]), r"samples has shape \(2,\)"),
        (lambda m: plot_samples(X, max_columns=0), "max_columns = 0"),
        (lambda m: plot_history(History()), "history has no epoch"),
        (lambda m: plot_trajectories(m, pair=(0, 2)), r"pair = \(0, 2\)"),
        (lambda m: plot_trajectories(m, n=0), "n = 0"),
    ],
)
def test_bad_input_is_named(draw: Any, message: str, model: hf.NHF) -> None:
    with pytest.raises(hf.InputError, match=message):
        draw(model)
    assert not plt.get_fignums()


def test_phase_portrait_is_the_energy_with_motions_on_top() -> None:
    spring = hf.systems.MassSpring(mass=0.5, stiffness=2.0)
    data = spring.simulate(n_trajectories=4, n_steps=30)
    ax = plot_phase_portrait(spring, data, grid=60, levels=5, n=3)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("q [m]", "p [kg m/s]")
    assert len(ax.lines) == 3
    np.testing.assert_array_equal(ax.lines[1].get_xydata(), data.states[1])
    # Level sets of q^2 + p^2 are circles.
    contour = ax.collections[0]
    for level, path in zip(contour.levels, contour.get_paths(), strict=True):
        radius = (path.vertices**2).sum(1)
        inside = path.vertices[np.isclose(radius, level, rtol=0.05)]
        assert len(inside) == len(path.vertices)
    low, high = np.array([ax.get_xlim(), ax.get_ylim()]).T
    assert (low < data.states.reshape(-1, 2).min(0).values.numpy()).all()
    assert (high > data.states.reshape(-1, 2).max(0).values.numpy()).all()


def test_phase_portrait_in_a_frame_and_with_velocities() -> None:
    pendulum = hf.systems.Pendulum()
    ax = plot_phase_portrait(hf.HNN(1, widths=(4,)), limits=((-3, 3), (-1, 2)), grid=5)
    assert (ax.get_xlim(), ax.get_ylim(), len(ax.lines)) == ((-3, 3), (-1, 2), 0)
    data = pendulum.simulate(n_steps=20).replace(p=None)
    assert plot_phase_portrait(pendulum, data).get_ylabel() == "v [rad/s]"


def test_energy_is_drawn_from_its_first_value() -> None:
    spring = hf.systems.MassSpring()
    data = spring.simulate(n_trajectories=3, n_steps=10, noise=0.1)
    ax = plot_energy({"noisy": data, "other": (data.times, torch.arange(11.0))}, spring, unit="J")
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("time [s]", "$H(t) - H(0)$ [J]")
    *noisy, other, zero = ax.lines
    energy = spring(data.q, data.need("p")).numpy()
    assert len(noisy) == 3
    np.testing.assert_allclose([line.get_ydata() for line in noisy], energy - energy[:, :1], atol=1e-12)
    np.testing.assert_array_equal(other.get_ydata(), np.arange(11.0))
    np.testing.assert_array_equal(noisy[0].get_xdata(), data.times)
    assert zero.get_ydata()[0] == 0
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["noisy", "other"]
    assert plot_energy(data, hf.HNN(1, widths=(4,))).get_legend() is None


def test_prediction_stands_against_the_measurement() -> None:
    data = hf.systems.HenonHeiles().simulate(n_trajectories=5, n_steps=10)
    predicted = data.replace(times=data.times + 0.5, q=data.q + 1)
    ax = plot_trajectories_against(data, predicted, coordinate=1, n=2)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("time", "q1")
    assert len(ax.lines) == 4
    dots, line = ax.lines[2:]
    assert (dots.get_linestyle(), dots.get_marker(), line.get_marker()) == ("None", ".", "None")
    np.testing.assert_array_equal(dots.get_ydata(), data.q[1, :, 1])
    np.testing.assert_array_equal(line.get_ydata(), predicted.q[1, :, 1])
    np.testing.assert_array_equal(line.get_xdata(), predicted.times)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["measured", "predicted"]


def test_motions_use_given_axes() -> None:
    pendulum = hf.systems.Pendulum()
    data = pendulum.simulate(n_steps=5)
    figure, axes = plt.subplots(1, 3)
    assert plot_phase_portrait(pendulum, data, grid=4, ax=axes[0]) is axes[0]
    assert plot_energy(data, pendulum, ax=axes[1]) is axes[1]
    assert plot_trajectories_against(data, data, ax=axes[2]) is axes[2]
    assert plt.get_fignums() == [figure.number]


def test_history_of_losses_that_fall_far() -> None:
    ax = plot_history(History(train=[3.0, 1e-4], best_epoch=2), quantity="loss", log=True)
    assert (ax.get_ylabel(), ax.get_yscale()) == ("loss", "log")
    assert ax.get_ylim()[0] < 1e-4


SPRING, STARS = hf.systems.MassSpring(), hf.systems.HenonHeiles()


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plot_phase_portrait(STARS, limits=((0, 1), (0, 1))), "2 coordinates, expected 1"),
        (lambda: plot_phase_portrait(SPRING, STARS.simulate(n_steps=1)), "2 coordinates, expected 1"),
        (lambda: plot_phase_portrait(SPRING), "trajectories and limits are both missing"),
        (lambda: plot_phase_portrait(SPRING, limits=((0, 1), (0, 1)), grid=0), "grid = 0"),
        (lambda: plot_energy({}), "paths is empty"),
        (lambda: plot_energy(SPRING.simulate(n_steps=1)), "model is missing"),
        (lambda: plot_energy((torch.arange(3), torch.zeros(4, 2))), r"times have shape \(3,\)"),
        (lambda: plot_trajectories_against(SPRING.simulate(2, 1), SPRING.simulate(1, 1)), "predicted 1 of 1"),
        (lambda: plot_trajectories_against(*[SPRING.simulate(1, 1)] * 2, coordinate=1), "coordinate = 1"),
    ],
)
def test_bad_motions_are_named(draw: Any, message: str) -> None:
    with pytest.raises(hf.InputError, match=message):
        draw()
    assert not plt.get_fignums()
