"""How noisy measured trajectories are, from the trajectories themselves."""

from __future__ import annotations

import torch
from torch import Tensor

from hamflow.errors import InputError
from hamflow.systems.trajectories import Trajectories

#: Orders of the differences that are tried; ever higher ones forget motion, and keep noise.
_ORDERS = range(2, 9)


def estimate_noise(data: Trajectories) -> dict[str, Tensor]:
    r"""The standard deviation of the noise on q, p and v, as far as they are there, each (d,).

    Divided differences of order m of neighbouring states cancel a polynomial of degree m - 1, and leave of independent
    noise its variance:

    .. math:: \hat\sigma_m^2 = \operatorname{mean} \Bigl(\sum_{j=0}^m c_j x_{k+j}\Bigr)^2, \qquad
              c_j \propto \prod_{i \ne j} \frac1{t_{k+j} - t_{k+i}}, \quad \sum_j c_j^2 = 1.

    What is left of the motion only adds to it and fades with m, so the smallest of several orders is taken. Of exact
    states it is what the motion leaves, a small share of their spread.

    Args:
        data: the trajectories, of three times at least; times may be uneven. Sampled so rarely that neighbouring
            states have little to do with each other they seem all noise.

    Raises:
        InputError: a trajectory has fewer than three times.

    References:
        Gasser, Sroka and Jennen-Steinmetz (1986), Residual variance and residual pattern in nonlinear regression,
        Biometrika 73, 625.

    Example:
        >>> import hamflow as hf
        >>> data = hf.systems.Pendulum().simulate(n_trajectories=20, n_steps=100, dt=0.05, noise=0.1)
        >>> abs(hf.systems.estimate_noise(data)["q"].item() - 0.1) < 0.01
        True
    """
    if not isinstance(data, Trajectories):
        raise InputError(
            f"data is a {type(data).__name__}, expected Trajectories; a list has an estimate for each part"
        )
    if data.n_times < 3:
        raise InputError(f"data has {data.n_times} times, expected at least 3 to estimate noise from")
    data = data.unwrapped()
    times = data.own_times()
    return {name: noise_of(times, data.need(name)) for name in ("q", "p", "v") if name in data.given}


def noise_of(times: Tensor, values: Tensor) -> Tensor:
    """The same for one array, (n, time) and (n, time, d) -> (d,); three times at least."""
    clock, states, squares = times.double(), values.double(), []
    for order in _ORDERS:
        if order >= clock.shape[-1]:
            break
        weights = _weights(clock.unfold(-1, order + 1, 1))
        windows = states.unfold(1, order + 1, 1)  # (n, windows, d, order + 1)
        squares.append((windows * weights.unsqueeze(-2)).sum(-1).square().mean((0, 1)))
    return torch.stack(squares).amin(0).sqrt().to(values)


def _weights(times: Tensor) -> Tensor:
    # Of windows of times (..., m + 1): divided differences of length one. In units of the window, or they overflow.
    span = times[..., -1:] - times[..., :1]
    gaps = (times.unsqueeze(-1) - times.unsqueeze(-2)) / span.unsqueeze(-1)
    weights = 1 / (gaps + torch.eye(times.shape[-1], dtype=times.dtype, device=times.device)).prod(-1)
    return weights / weights.norm(dim=-1, keepdim=True)
