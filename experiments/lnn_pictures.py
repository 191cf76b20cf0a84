"""The figures of learned Lagrangians: motions, errors against time, mass matrices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

LABELS = {"double_pendulum": "energy error [%]", "real_double_pendulum": "angle RMSE [rad]"}


def draw(out: Path, pictures: Path) -> None:
    """Draw every case that has left arrays in ``pictures``."""
    import matplotlib

    matplotlib.use("Agg")
    import seaborn as sns

    sns.set_theme(style="whitegrid", font_scale=0.8)
    held: dict[str, dict[str, Any]] = {}
    for path in sorted(pictures.glob("*.npz")):
        case, _, name = path.stem.partition("-")
        held.setdefault(case, {})[name] = np.load(path)
    for case, contenders in held.items():
        if case == "relativistic":
            _accelerations(out / f"{case}.png", contenders)
        else:
            _motions(out / f"{case}.png", case, contenders)
    arms = {name: arrays for name, arrays in held.get("double_pendulum", {}).items() if "mass" in arrays}
    if arms:
        _masses(out / "mass_matrix.png", arms)


def _motions(path: Path, case: str, contenders: dict[str, Any]) -> None:
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    first = next(iter(contenders.values()))
    if "true_path" in first:
        left.plot(first["times"], first["true_path"][:, 0], color="grey", linewidth=2.5, alpha=0.5, label="true")
    for name, arrays in contenders.items():
        left.plot(arrays["times"], arrays["path"][:, 0], linewidth=0.9, label=name)
        error = np.median(arrays["energy_error"], axis=1) if "energy_error" in arrays else arrays["error"]
        right.semilogy(arrays["times"][1:], error[1:], linewidth=0.9, label=name)
    left.set(xlabel="time [s]", ylabel="first coordinate")
    right.set(xlabel="time [s]", ylabel=LABELS.get(case, "relative error"))
    left.legend(fontsize=7)
    figure.suptitle(f"{case}: one unseen motion, and the error over all of them")
    figure.savefig(path, dpi=80)
    plt.close(figure)


def _accelerations(path: Path, contenders: dict[str, Any]) -> None:
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(5, 3.4), layout="constrained")
    first = next(iter(contenders.values()))
    axis.plot(first["v"], first["true"], color="grey", linewidth=3, alpha=0.5, label="true")
    for name, arrays in contenders.items():
        axis.plot(arrays["v"], arrays["found"], linewidth=0.9, label=name)
    axis.set(xlabel="velocity", ylabel="acceleration", title="a particle near the speed of light")
    axis.legend(fontsize=7)
    figure.savefig(path, dpi=80)
    plt.close(figure)


def _masses(path: Path, arms: dict[str, Any]) -> None:
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(9, 2.8), sharex=True, layout="constrained")
    for axis, (i, j) in zip(axes, ((0, 0), (0, 1), (1, 1)), strict=True):
        first = next(iter(arms.values()))
        axis.plot(first["angle"], first["true_mass"][:, i, j], color="grey", linewidth=3, alpha=0.5, label="true")
        for name, arrays in arms.items():
            axis.plot(arrays["angle"], arrays["mass"][:, i, j], linewidth=0.9, label=name)
        axis.set(xlabel="angle between the arms [rad]", title=f"M[{i}, {j}] [kg m^2]")
    axes[0].legend(fontsize=7)
    figure.savefig(path, dpi=80)
    plt.close(figure)
