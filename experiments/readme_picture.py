"""The picture of the README: two moons, the fitted density, and samples.

Writes docs/_static/two_moons.png, in a minute or two on one core.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import seaborn as sns
import torch
from matplotlib.axes import Axes
from planar import PLANAR_SETS

import hamflow as hf
from hamflow import plots
from hamflow.io import atomic_path

ROOT = Path(__file__).resolve().parent.parent
SEED = 0
ROWS = 4000
LIMITS = ((-2.4, 2.4), (-2.2, 2.2))


def fit_flow(*, quick: bool) -> hf.NHF:
    """The flow of the picture: the default settings, trained at a larger step."""
    rows = torch.as_tensor(PLANAR_SETS["two_moons"].sample(100 if quick else ROWS, seed=SEED)).float()
    size = {"n_steps": 3, "width": 8, "particles": 2} if quick else {}
    model = hf.NHF(2, seed=SEED, **size)
    return model.fit(rows, epochs=2 if quick else 120, batch_size=256, learning_rate=5e-3, seed=SEED)


def draw(model: hf.NHF, *, grid: int) -> plt.Figure:
    """Three panels: data, density, samples."""
    with sns.axes_style("white"):
        figure, axes = plt.subplots(1, 3, figsize=(9, 3.1), layout="constrained", dpi=100)
    data = PLANAR_SETS["two_moons"].sample(2000, seed=SEED + 1)
    _dots(axes[0], torch.as_tensor(data), "#3d6f9e")
    plots.plot_density_2d(model, grid=grid, particles=128, ax=axes[1], seed=SEED)
    _dots(axes[2], model.sample(2000, seed=SEED), "#d4603b")
    for ax, title in zip(axes, ("data", "fitted density", "samples"), strict=True):
        ax.set(title=title, xlabel="", ylabel="", xticks=[], yticks=[])
        sns.despine(ax=ax, left=True, bottom=True)
        ax.set(xlim=LIMITS[0], ylim=LIMITS[1])
    axes[1].set_facecolor(mpl.colormaps["mako"](0.0))
    return figure


def _dots(ax: Axes, rows: torch.Tensor, colour: str) -> None:
    ax.scatter(rows[:, 0], rows[:, 1], s=3, color=colour, alpha=0.5, linewidth=0)


def main(argv: list[str] | None = None) -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "_static" / "two_moons.png")
    parser.add_argument("--quick", action="store_true", help="a tiny fit, to see that all works")
    given = parser.parse_args(argv)
    model = fit_flow(quick=given.quick)
    test = PLANAR_SETS["two_moons"].sample(2000, seed=SEED + 2)
    print(f"nll on fresh points: {-model.log_prob(test, particles=16 if given.quick else 256).mean():.3f} nats")
    with atomic_path(given.out) as temporary:
        draw(model, grid=20 if given.quick else 120).savefig(temporary)
    print(f"{given.out}: {given.out.stat().st_size / 1024:.0f} KB")


if __name__ == "__main__":
    # Several threads only hinder each other in layers as small as these.
    torch.set_num_threads(1)
    mpl.use("Agg")
    sys.exit(main())
