"""Simulation-based calibration: do intervals hold the truth as often as they say?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from hamflow.errors import InputError, check_positive
from hamflow.training import seeded


@dataclass(frozen=True)
class Calibration:
    """Ranks of true parameters among posterior draws, uniform where the posterior is right.

    Attributes:
        ranks: by parameter, (simulations, *shape), from 0 to ``draws``.
        draws: how many posterior draws each truth was ranked among.

    Example:
        >>> import torch, hamflow as hf
        >>> found = hf.inference.Calibration({"m": torch.arange(100)}, draws=99)
        >>> found.p_values()["m"].item(), found.coverage(0.9)["m"].item()
        (1.0, 0.9)
        >>> hf.inference.Calibration({}, draws=10).attainable(0.9)
        0.8181818181818182
    """

    ranks: dict[str, Tensor]
    draws: int

    def p_values(self, bins: int = 20) -> dict[str, Tensor]:
        """Of a chi-square test of uniform ranks, by parameter, of its shape.

        Raises:
            InputError: there are fewer than two bins, or more than the ``draws + 1`` ranks.
        """
        check_positive("bins", bins, integer=True)
        if not 2 <= bins <= self.draws + 1:
            raise InputError(f"bins = {bins}, expected 2 to {self.draws + 1}, the number of ranks")
        found = {}
        for name, ranks in self.ranks.items():
            # The chance of a bin is its share of the ranks, which need not divide evenly.
            edges = (torch.arange(self.draws + 1) * bins) // (self.draws + 1)
            chance = torch.bincount(edges, minlength=bins).double() / (self.draws + 1)
            counts = torch.nn.functional.one_hot(edges[ranks], bins).double().sum(0)
            expected = len(ranks) * chance
            statistic = ((counts - expected) ** 2 / expected).sum(-1)
            # The upper tail of a chi-square distribution.
            found[name] = torch.special.gammaincc(torch.tensor(0.5 * (bins - 1)).to(statistic), 0.5 * statistic)
        return found

    def coverage(self, level: float = 0.9) -> dict[str, Tensor]:
        """How often the central interval of that level holds the truth, by parameter, of its shape.

        Intervals end at draws, so of few draws no interval has just that level: compare with :meth:`attainable`.
        """
        return {name: self._inside(ranks, level).double().mean(0) for name, ranks in self.ranks.items()}

    def attainable(self, level: float = 0.9) -> float:
        """The coverage of that level that uniform ranks have, which is what an exact posterior has in the mean."""
        return float(self._inside(torch.arange(self.draws + 1), level).double().mean())

    def _inside(self, ranks: Tensor, level: float) -> Tensor:
        if not 0 < level < 1:
            raise InputError(f"level = {level!r}, expected a number between 0 and 1")
        tail = 0.5 * (1 - level)
        share = (ranks.double() + 0.5) / (self.draws + 1)
        return (share > tail) & (share < 1 - tail)


def simulation_based_calibration(
    simulate: Callable[[], tuple[Mapping[str, Tensor], Any]],
    infer: Callable[[Any], Mapping[str, Tensor]],
    *,
    n: int = 200,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> Calibration:
    r"""Rank parameters drawn from the prior among draws from the posterior of the data that they make.

    .. math:: \theta \sim p(\theta), \quad x \sim p(x \mid \theta), \quad \theta_k \sim q(\theta \mid x)
              \quad\Rightarrow\quad \#\{k : \theta_k < \theta\} \text{ uniform, if } q = p(\theta \mid x) .

    Neighbouring draws of a Markov chain agree, which makes ranks pile up at the ends: thin them.

    Args:
        simulate: draws parameters by name and the data that they make.
        infer: draws from the posterior given such data, (draws, *shape) by name, each time as many.
        n: how many data sets.
        seed: of it all. Give what was trained on simulations another one, or it has seen what it is tried on.
        device: on which the two functions draw.
        progress: whether to show a progress bar.

    Raises:
        InputError: a parameter is missing from what ``infer`` gives, has another shape, or is NaN.

    References:
        Talts et al. (2018), Validating Bayesian Inference Algorithms with Simulation-Based Calibration, arXiv
        1804.06788.

    Example:
        >>> import torch, hamflow as hf
        >>> def simulate():
        ...     m = torch.randn(())
        ...     return {"m": m}, m + torch.randn(())
        >>> def infer(x):
        ...     return {"m": x / 2 + 0.5**0.5 * torch.randn(99)}
        >>> found = hf.inference.simulation_based_calibration(simulate, infer, progress=False)
        >>> found.p_values()["m"].item() > 0.01, found.ranks["m"].shape
        (True, torch.Size([200]))
    """
    check_positive("n", n, integer=True)
    ranks: dict[str, list[Tensor]] = {}
    count: int | None = None
    with seeded(seed, device):
        for _ in tqdm(range(n), disable=not progress, desc="calibration", unit="data set", dynamic_ncols=True):
            simulated = simulate()
            if not isinstance(simulated, tuple) or len(simulated) != 2 or not isinstance(simulated[0], Mapping):
                raise InputError(f"simulate gives a {type(simulated).__name__}, expected parameters by name and data")
            truth, data = simulated
            draws = infer(data)
            if not isinstance(draws, Mapping):
                raise InputError(f"infer gives a {type(draws).__name__}, expected draws by the names of parameters")
            for name, value in truth.items():
                if name not in draws:
                    raise InputError(f"infer gives {sorted(draws)}, expected {name!r} among them")
                value, several = torch.as_tensor(value), torch.as_tensor(draws[name])
                count = len(several) if count is None else count
                if several.shape != (count, *value.shape):
                    raise InputError(
                        f"infer gives {name!r} of shape {tuple(several.shape)}, expected {(count, *value.shape)}"
                    )
                if bool(several.isnan().any()) or bool(value.isnan().any()):
                    raise InputError(f"infer or simulate gives NaN for {name!r}, which has no rank; expected numbers")
                ranks.setdefault(name, []).append((several < value).sum(0).cpu())
    assert count is not None
    return Calibration({name: torch.stack(found) for name, found in ranks.items()}, count)
