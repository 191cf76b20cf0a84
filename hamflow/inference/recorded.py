"""NUTS that keeps what its draws have cost: energies, acceptance, divergences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pyro.infer import MCMC, NUTS
from torch import Tensor

from hamflow.errors import InputError

#: What is kept of every draw, under the names that ArviZ knows, and of what type.
_KEPT = {"energy": torch.double, "lp": torch.double, "acceptance_rate": torch.double, "diverging": torch.bool}


class RecordedNUTS(NUTS):
    r"""Pyro's NUTS, with the energy of every transition, for :func:`sample_stats`,

    .. math:: E_n = -\log \pi(z_{n-1}) + \tfrac12\, r_n^\top M^{-1} r_n , \qquad r_n \sim N(0, M) .

    A transition starts at the last draw, takes a fresh momentum, and moves on the level set of :math:`E_n`, which it
    leaves only by the error of its steps. Energies that change little from draw to draw, beside their spread over all
    draws, tell of tails that the chain reaches slowly. Pyro keeps none of this. Settings are those of
    :class:`pyro.infer.NUTS`; chains in processes of their own report too.

    References:
        Betancourt (2016), Diagnosing Suboptimal Cotangent Disintegrations in Hamiltonian Monte Carlo, arXiv 1604.00695.

    Example:
        >>> import torch, pyro, pyro.distributions as dist, hamflow as hf
        >>> from pyro.infer import MCMC
        >>> def model():
        ...     pyro.sample("m", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        >>> kernel = hf.inference.RecordedNUTS(model)
        >>> chain = MCMC(kernel, num_samples=5, warmup_steps=5, disable_progbar=True)
        >>> chain.run()
        >>> {name: tuple(value.shape) for name, value in hf.inference.sample_stats(chain).items()}
        {'energy': (1, 5), 'lp': (1, 5), 'acceptance_rate': (1, 5), 'diverging': (1, 5)}
    """

    def _reset(self) -> None:
        super()._reset()
        self._kept: dict[str, list[float]] = {name: [] for name in _KEPT}
        self._start_energy = 0.0

    def _sample_r(self, name: str) -> Any:
        # The one place where a momentum is drawn, right before a transition starts with it.
        r, r_unscaled = super()._sample_r(name)
        self._start_energy = float(self._potential_energy_last + self._kinetic_energy(r_unscaled))
        return r, r_unscaled

    def sample(self, params: Any) -> Any:
        """One transition."""
        divergences, mean = len(self._divergences), self._mean_accept_prob
        found = super().sample(params)
        assert self._warmup_steps is not None and self._potential_energy_last is not None
        if (n := self._t - self._warmup_steps) > 0:
            # Pyro keeps the mean over draws, which starts afresh after the warmup.
            acceptance = mean + n * (self._mean_accept_prob - mean) if n > 1 else self._mean_accept_prob
            row = (self._start_energy, -float(self._potential_energy_last), acceptance)
            for name, value in zip(_KEPT, (*row, len(self._divergences) > divergences), strict=True):
                self._kept[name].append(value)
        return found

    def diagnostics(self) -> dict[str, Any]:
        """Pyro's own, and what was kept of every draw."""
        # This is what chains in other processes send home, where a hook's findings would be lost.
        return {**super().diagnostics(), **self._kept}


def sample_stats(mcmc: MCMC) -> dict[str, Tensor]:
    """What a run with :class:`RecordedNUTS` has kept, (chain, draw) each, for :func:`to_arviz`.

    Args:
        mcmc: the run. ``energy`` is that with which a draw's transition started; ``lp`` the log density of the draw in
            the unconstrained coordinates of the chain; ``acceptance_rate`` the mean over its trajectory.

    Raises:
        InputError: the run is not over, or had another kernel.

    Example:
        >>> import pyro, pyro.distributions as dist, hamflow as hf
        >>> from pyro.infer import MCMC
        >>> kernel = hf.inference.RecordedNUTS(lambda: pyro.sample("m", dist.Normal(0.0, 1.0)))
        >>> chain = MCMC(kernel, num_samples=5, warmup_steps=5, disable_progbar=True)
        >>> chain.run()
        >>> draws = chain.get_samples(group_by_chain=True)
        >>> data = hf.inference.to_arviz(draws, sample_stats=hf.inference.sample_stats(chain))
        >>> data.sample_stats["energy"].shape
        (1, 5)
    """
    chains = getattr(mcmc, "_diagnostics", None)
    if not isinstance(chains, list) or not chains or not all(isinstance(chain, Mapping) for chain in chains):
        raise InputError("mcmc has no draws, expected a pyro.infer.MCMC that has run")
    if any(name not in chain for name in _KEPT for chain in chains):
        raise InputError("mcmc had a kernel that keeps no energies, expected a RecordedNUTS")
    return {name: torch.tensor([chain[name] for chain in chains], dtype=dtype) for name, dtype in _KEPT.items()}
