"""Figures of what speaks for and against posterior draws: ranks of chains, energies of NUTS, calibration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from numpy.typing import NDArray
from torch import Tensor

from hamflow.errors import InputError, check_positive
from hamflow.plots.canvas import DATA, MODEL, STYLE, pick_axes

#: The share of bars, or of points of a curve, that lie in the band where all is well.
BAND = 0.95
#: Central intervals at which a coverage curve is drawn.
LEVELS = np.linspace(0.05, 0.95, 19)


class Ranked(Protocol):
    """What :func:`plot_calibration` needs of a :class:`hamflow.inference.Calibration`."""

    @property
    def ranks(self) -> dict[str, Tensor]:
        """By parameter, (simulations, *shape)."""
        ...

    @property
    def draws(self) -> int:
        """How many draws each truth was ranked among."""
        ...

    def coverage(self, level: float = 0.9) -> Mapping[str, Tensor]:
        """How often the central interval of that level holds the truth."""
        ...


def plot_ranks(draws: Any, *, bins: int = 20, ax: Axes | None = None) -> Axes:
    """How the draws of each chain rank among those of all chains: flat, where the chains agree.

    The band holds 95 bars of 100 of independent draws; draws of a chain that depend on each other leave it more often.

    Args:
        draws: of one number, (chain, draw), as a site of ``mcmc.get_samples(group_by_chain=True)``; two or more chains.
        bins: bars a chain.
        ax: where to draw; a new figure without.

    Returns:
        The axes, with the bars of the first chain at the bottom.

    Raises:
        InputError: the draws are no such table.

    References:
        Vehtari et al. (2021), Rank-normalization, folding, and localization: an improved R-hat, arXiv 1903.08008.

    Example:
        >>> import torch
        >>> from hamflow.plots import plot_ranks
        >>> plot_ranks(torch.randn(4, 500)).get_xlabel()
        'rank among all draws'
    """
    from scipy.stats import rankdata

    table = _chains(draws, "draws")
    check_positive("bins", bins, integer=True)
    n_chains, n = table.shape
    if n_chains < 2:
        raise InputError("draws has 1 chain, expected two or more to compare")
    # Ties share their mean rank, so that a discrete site does not favour the first chain.
    ranks = rankdata(table).reshape(table.shape)
    edges = np.linspace(0.5, table.size + 0.5, bins + 1)
    # A rank falls into a bin as the whole ranks do, of which a bin may hold one more than another.
    chance = np.histogram(np.arange(1, table.size + 1), edges)[0] / table.size
    low, high = _band(n, chance)
    ax = pick_axes(ax, (6.0, 1.0 + 0.8 * n_chains))
    step = 1.15 * max(float(high.max()), max(float(np.histogram(row, edges)[0].max()) for row in ranks))
    for chain, row in enumerate(ranks):
        base = chain * step
        counts = np.histogram(row, edges)[0]
        ax.bar(edges[:-1], counts, np.diff(edges), bottom=base, align="edge", color=DATA, edgecolor="white", lw=0.5)
        ax.stairs(base + high, edges, baseline=base + low, fill=True, color="black", alpha=0.15, linewidth=0)
        ax.axhline(base + n / bins, color="black", linewidth=0.8, linestyle=":")
    ax.set(xlabel="rank among all draws", ylabel="chain", xlim=(edges[0], edges[-1]), ylim=(0, n_chains * step))
    ax.set_yticks(step * np.arange(n_chains) + n / bins, [str(chain) for chain in range(n_chains)])
    sns.despine(ax=ax)
    return ax


def bfmi(energy: Any) -> NDArray[np.float64]:
    r"""The Bayesian fraction of missing information of every chain, (chain, draw) -> (chain,); below .3 is a warning,

    .. math:: \sum_n (E_n - E_{n-1})^2 \Big/ \sum_n (E_n - \bar E)^2 .

    Args:
        energy: of every draw, as :func:`hamflow.inference.sample_stats` gives it.

    Raises:
        InputError: the energies are no such table, or one chain's are all equal.

    References:
        Betancourt (2016), Diagnosing Suboptimal Cotangent Disintegrations in Hamiltonian Monte Carlo, arXiv 1604.00695.

    Example:
        >>> from hamflow.plots.inference import bfmi
        >>> bfmi([[0.0, 1.0, 0.0, 1.0]])
        array([3.])
    """
    table = _chains(energy, "energy")
    spread = ((table - table.mean(1, keepdims=True)) ** 2).sum(1)
    if not spread.all():
        raise InputError("energy is the same at every draw of a chain, expected those of a chain that moves")
    found: NDArray[np.float64] = (np.diff(table) ** 2).sum(1) / spread
    return found


def plot_transitions(energy: Any, *, bins: int = 30, ax: Axes | None = None) -> Axes:
    """The energies of a chain about their mean, and by how much they change from one draw to the next.

    Where a change is much narrower than the spread of the energies, the chain needs many draws to get into the tails.

    Args:
        energy: of every draw, (chain, draw), as :func:`hamflow.inference.sample_stats` gives it.
        bins: bars of both histograms.
        ax: where to draw; a new figure without.

    Returns:
        The axes, with the fraction of missing information of every chain in the legend.

    Raises:
        InputError: the energies are no such table.

    Example:
        >>> import torch
        >>> from hamflow.plots import plot_transitions
        >>> plot_transitions(torch.randn(2, 500)).get_xlabel()
        'energy'
    """
    table = _chains(energy, "energy")
    check_positive("bins", bins, integer=True)
    fractions = ", ".join(f"{fraction:.2f}" for fraction in bfmi(table))
    marginal, change = (table - table.mean(1, keepdims=True)).ravel(), np.diff(table).ravel()
    both = np.concatenate((marginal, change))
    edges = np.linspace(both.min(), both.max(), bins + 1)
    ax = pick_axes(ax)
    for values, colour, label in ((marginal, DATA, "about its mean"), (change, MODEL, "from draw to draw")):
        ax.hist(values, bins=list(edges), density=True, histtype="stepfilled", color=colour, alpha=0.45, label=label)
    ax.set(xlabel="energy", ylabel="density")
    ax.legend(frameon=False, title=f"BFMI {fractions}")
    sns.despine(ax=ax)
    return ax


def plot_calibration(
    calibration: Ranked, *, bins: int = 20, axes: tuple[Axes, Axes] | None = None
) -> tuple[Axes, Axes]:
    """Ranks of truths among posterior draws, and how often intervals hold them, each with a band where all is well.

    Ranks that pile up at both ends, and a curve below the diagonal, tell of posteriors that are too narrow; a hump and
    a curve above it of too wide ones; a slope of ranks of shifted ones.

    Args:
        calibration: a :class:`hamflow.inference.Calibration`; every number of a parameter is drawn by itself.
        bins: bars of the histograms.
        axes: where to draw ranks and coverage; a new figure without.

    Returns:
        The two axes. The bands hold 95 bars, or points of a curve, of 100.

    Raises:
        InputError: there are no ranks, or more bars than ranks can fall into.

    References:
        Talts et al. (2018), Validating Bayesian Inference Algorithms with Simulation-Based Calibration, arXiv
        1804.06788.

    Example:
        >>> import torch, hamflow as hf
        >>> from hamflow.plots import plot_calibration
        >>> found = hf.inference.Calibration({"m": torch.arange(100)}, draws=99)
        >>> [ax.get_xlabel() for ax in plot_calibration(found)]
        ['rank of the truth', 'level of the interval']
    """
    check_positive("bins", bins, integer=True)
    if bins > calibration.draws + 1:
        raise InputError(f"bins = {bins}, expected no more than the {calibration.draws + 1} ranks that there are")
    if not calibration.ranks:
        raise InputError("calibration has no ranks, expected those of one parameter or more")
    ranks: dict[str, NDArray[Any]] = {}
    covered: dict[str, NDArray[Any]] = {}
    curves = [calibration.coverage(float(level)) for level in LEVELS]
    for name, values in calibration.ranks.items():
        columns = values.reshape(len(values), -1).cpu().numpy().T
        shares = np.stack([curve[name].reshape(-1).cpu().numpy() for curve in curves], -1)
        for i, (column, share) in enumerate(zip(columns, shares, strict=True)):
            label = name if len(columns) == 1 else f"{name}[{i}]"
            ranks[label], covered[label] = column, share
    n = len(next(iter(ranks.values())))
    # The same bins as the test of uniform ranks has: a bin may hold one rank more than another.
    owner = np.arange(calibration.draws + 1) * bins // (calibration.draws + 1)
    edges = np.append(np.searchsorted(owner, np.arange(bins)), calibration.draws + 1) - 0.5
    low, high = _band(n, np.diff(edges) / (calibration.draws + 1))
    left, right = axes or _two_axes()
    left.stairs(high, edges, baseline=low, fill=True, color="black", alpha=0.12, linewidth=0)
    colours = sns.color_palette("mako", len(ranks) + 1)[:-1] if len(ranks) > 1 else [DATA]
    for (label, column), colour in zip(ranks.items(), colours, strict=True):
        left.stairs(np.histogram(column, edges)[0], edges, color=colour, label=label)
        right.plot(LEVELS, covered[label], color=colour, label=label, marker=".")
    left.set(xlabel="rank of the truth", ylabel="data sets", ylim=(0, None), xlim=(edges[0], edges[-1]))
    # Few ranks cannot fill an interval of every level: the band is around the chance that they have.
    places = (np.arange(calibration.draws + 1) + 0.5) / (calibration.draws + 1)
    chance = np.array([(np.abs(places - 0.5) < level / 2).mean() for level in LEVELS])
    low, high = _band(n, chance)
    right.fill_between(LEVELS, low / n, high / n, color="black", alpha=0.12, linewidth=0)
    right.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle=":")
    right.set(xlabel="level of the interval", ylabel="share that holds the truth", xlim=(0, 1), ylim=(0, 1))
    right.legend(frameon=False)
    for ax in (left, right):
        sns.despine(ax=ax)
    return left, right


def _chains(values: Any, name: str) -> NDArray[np.float64]:
    table = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values, dtype=np.float64)
    if table.ndim != 2 or min(table.shape) < 1 or table.shape[1] < 2:
        raise InputError(f"{name} has shape {table.shape}, expected (chain, draw) with two draws or more")
    if not np.isfinite(table).all():
        raise InputError(f"{name} holds numbers that are not finite, expected finite ones")
    return table


def _band(n: int, chance: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    # Counts among n between which nearly all lie, each of its chance.
    from scipy.stats import binom

    low, high = binom.ppf([[0.5 - BAND / 2], [0.5 + BAND / 2]], n, chance)
    return low, high


def _two_axes() -> tuple[Axes, Axes]:
    with sns.axes_style(STYLE):
        left, right = plt.subplots(1, 2, figsize=(9.0, 3.8), layout="constrained")[1]
    return left, right
