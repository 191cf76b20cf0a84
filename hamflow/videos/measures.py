"""Figures that tell how good predicted frames and latent states are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hamflow.errors import InputError, check_positive, is_number
from hamflow.videos.rendering import render_discs
from hamflow.videos.scenes import Scene
from hamflow.videos.videos import Videos, in_unit_range


def pixel_mse(truth: Tensor, predicted: Tensor) -> Tensor:
    """The squared error a pixel, of each video, (n, time, channel, height, width) twice -> (n,).

    Raises:
        InputError: the shapes differ.

    Example:
        >>> import torch, hamflow as hf
        >>> hf.videos.pixel_mse(torch.zeros(2, 3, 1, 4, 4), torch.full((2, 3, 1, 4, 4), 0.5))
        tensor([0.2500, 0.2500])
    """
    truth, predicted = _alike(truth, predicted)
    return (truth - predicted).square().flatten(1).mean(1)


def mean_frame_mse(train: Tensor, truth: Tensor) -> float:
    """The squared error a pixel of the mean frame of ``train`` as the prediction of every frame of ``truth``.

    What knows nothing of the motion scores this. Both are (n, time, channel, height, width).

    Example:
        >>> import torch, hamflow as hf
        >>> hf.videos.mean_frame_mse(torch.tensor([0.0, 1.0]).reshape(1, 2, 1, 1, 1), torch.ones(1, 2, 1, 1, 1))
        0.25
    """
    train, truth = _frames("train", train), _frames("truth", truth)
    if train.shape[2:] != truth.shape[2:]:
        raise InputError(
            f"train has shape {tuple(train.shape)} and truth {tuple(truth.shape)}, expected frames of one size"
        )
    return float((truth - train.mean((0, 1))).square().mean())


def noise_floor(scene: Scene, q: Tensor, noise: float, *, draws: int = 64, seed: int = 0, **drawing: object) -> float:
    r"""The squared error a pixel that no prediction can beat, where positions were shaken before they were drawn:

    .. math:: \mathbb{E}_q \operatorname{Var}\bigl[x(q + \sigma \epsilon) \mid q\bigr].

    Args:
        scene: where bodies are drawn.
        q: exact positions, (n, d) or (n, time, d).
        noise: :math:`\sigma`.
        draws: pictures a position; the variance among them is unbiased.
        seed: of the noise.
        drawing: the settings of :func:`render_discs` that the videos have: size, channels.

    Raises:
        InputError: ``draws`` is below two, or a setting is out of range.

    Example:
        >>> import torch, hamflow as hf
        >>> spring = hf.systems.MassSpring()
        >>> hf.videos.noise_floor(hf.videos.scene_of(spring), torch.zeros(3, 1), noise=0.0, channels=1)
        0.0
    """
    check_positive("draws", draws, integer=True)
    if not is_number(noise) or noise < 0:
        raise InputError(f"noise = {noise!r}, expected a standard deviation, 0 or more")
    q = torch.as_tensor(q).cpu()
    if draws < 2:
        raise InputError(f"draws = {draws}, expected two or more for a variance")
    generator = torch.Generator().manual_seed(seed)
    look = {"radius": scene.radius, "extent": scene.extent} | drawing
    total, count = 0.0, 0
    for part in q.reshape(-1, q.shape[-1]).split(64):
        shaken = part + noise * torch.randn(draws, *part.shape, generator=generator, dtype=part.dtype)
        frames = render_discs(scene.places(shaken), **look)  # type: ignore[arg-type]
        total += float(frames.var(0).mean()) * len(part)
        count += len(part)
    return total / count


def skill(mse: float, floor: float, mean_frame: float) -> float:
    r"""What share of what can be explained is explained: 1 - (MSE - floor) / (mean frame - floor).

    One is perfect, zero no better than the mean frame.

    Raises:
        InputError: the mean frame scores no worse than the floor, so there is nothing to explain.

    Example:
        >>> import hamflow as hf
        >>> hf.videos.skill(mse=2.0, floor=1.0, mean_frame=5.0)
        0.75
    """
    if not mean_frame > floor:
        raise InputError(f"mean_frame = {mean_frame:g} and floor = {floor:g}, expected a mean frame above the floor")
    return 1 - (mse - floor) / (mean_frame - floor)


def valid_prediction_time(truth: Tensor, predicted: Tensor, *, threshold: float = 0.025) -> Tensor:
    r"""The number of frames before the first whose relative error passes a threshold, of each video, (n,).

    .. math:: \operatorname{VPT} = \min\Bigl\{t : \frac{\operatorname{mean} (\hat x_t - x_t)^2}
              {\operatorname{mean} x_t^2} > \epsilon\Bigr\},

    and the number of frames where none does. Where pictures change little the mean frame passes it too: look at the
    skill beside it. For a rollout backwards, give both in the order of that rollout.

    Args:
        truth: (n, time, channel, height, width).
        predicted: of the same shape.
        threshold: :math:`\epsilon`.

    References:
        Botev et al. (2021), Which priors matter? Benchmarking models for learning latent dynamics, arXiv 2111.05458.

    Example:
        >>> import torch, hamflow as hf
        >>> truth = torch.ones(1, 4, 1, 2, 2)
        >>> hf.videos.valid_prediction_time(truth, truth * torch.tensor([1, 1.1, 1.5, 1]).reshape(1, 4, 1, 1, 1))
        tensor([2])
    """
    truth, predicted = _alike(truth, predicted)
    check_positive("threshold", threshold)
    error = (truth - predicted).square().flatten(2).mean(2)
    # What is no number is no prediction.
    bad = ~(error <= threshold * truth.square().flatten(2).mean(2))
    first: Tensor = torch.where(bad.any(1), bad.int().argmax(1), bad.shape[1])
    return first


def energy_spread(energy: Tensor) -> float:
    """How much an energy changes along rollouts, relative to how much it differs between them, (time, n) -> number.

    The standard deviation along time, the mean over rollouts, over the standard deviation of the rollouts' means. What
    is constant everywhere would score a change of nothing relative to nothing: that is NaN.

    Raises:
        InputError: the energy has another shape.

    Example:
        >>> import torch, hamflow as hf
        >>> hf.videos.energy_spread(torch.tensor([[1.0, 5.0], [1.0, 5.0], [1.0, 5.0]]))
        0.0
    """
    if energy.ndim != 2 or energy.shape[1] < 2:
        raise InputError(f"energy has shape {tuple(energy.shape)}, expected (time, n) with two rollouts or more")
    return float(energy.std(0).mean() / energy.mean(0).std())


def symplectic_match(
    latent: Tensor, states: Tensor, *, degree: int = 3, held_out: float = 0.25, seed: int = 0
) -> tuple[float, float]:
    r"""Whether latent states are the true ones in other canonical coordinates: R squared and the symplecticity error.

    A polynomial g of the latent state is fitted to the true state s = (q, p) by ridge regression; a canonical map has
    :math:`J \Omega J^\top = c\, \Omega` with its Jacobian J, where c is the free unit of the latent energy. Returned
    are the share of the variance of held-out states that g explains, and

    .. math:: \frac{\mathbb{E} \lVert J \Omega_z J^\top - c\, \Omega_s \rVert^2}{\lVert c\, \Omega_s \rVert^2},

    with the c that makes the numerator smallest. A match has R squared above .9 and an error below .05.

    Args:
        latent: (q, p) of the model side by side, (n, 2 m).
        states: the true (q, p), angles as angles, (n, 2 d).
        degree: of the polynomial.
        held_out: the share of the rows that judge.
        seed: of the split.

    Raises:
        InputError: the shapes are not those of states.

    References:
        Higgins et al. (2021), SyMetric: Measuring the quality of learnt Hamiltonian dynamics inferred from vision,
        arXiv 2111.05986, for the idea; the regression here is a ridge of fixed degree.

    Example:
        >>> import torch, hamflow as hf
        >>> z = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
        >>> explained, error = hf.videos.symplectic_match(z, torch.stack((z[:, 1] * 2, -z[:, 0]), -1))
        >>> round(explained, 3), error < 1e-3
        (1.0, True)
    """
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures, StandardScaler

    if latent.ndim != 2 or states.ndim != 2 or len(latent) != len(states) or latent.shape[1] % 2 or states.shape[1] % 2:
        shapes = f"{tuple(latent.shape)} and {tuple(states.shape)}"
        raise InputError(f"latent and states have shapes {shapes}, expected (n, 2 m) and (n, 2 d)")
    order = torch.randperm(len(latent), generator=torch.Generator().manual_seed(seed))
    cut = max(1, int(held_out * len(order)))
    test, train = order[:cut], order[cut:]
    z, s = latent.detach().double().cpu().numpy(), states.detach().double().cpu().numpy()
    model = make_pipeline(StandardScaler(), PolynomialFeatures(degree, include_bias=False), Ridge(1e-4))
    model.fit(z[train], s[train])
    explained = float(model.score(z[test], s[test]))
    jacobian = _jacobian(lambda x: torch.from_numpy(model.predict(x.numpy())), torch.from_numpy(z[test]))
    change = jacobian @ _omega(z.shape[1] // 2) @ jacobian.mT
    omega = _omega(s.shape[1] // 2)
    scale = (change * omega).sum((1, 2)).mean() / omega.square().sum()
    error = (change - scale * omega).square().sum((1, 2)).mean() / (scale * omega).square().sum()
    return explained, float(error)


def _jacobian(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    # Central differences of a polynomial: the regression is not written in torch.
    step = 1e-5 * x.std(0)
    columns = []
    for i in range(x.shape[1]):
        move = torch.zeros_like(x)
        move[:, i] = step[i]
        columns.append((function(x + move) - function(x - move)) / (2 * step[i]))
    return torch.stack(columns, -1)


def _omega(d: int) -> Tensor:
    zero, one = torch.zeros(d, d, dtype=torch.float64), torch.eye(d, dtype=torch.float64)
    return torch.cat((torch.cat((zero, one), 1), torch.cat((-one, zero), 1)), 0)


def _frames(name: str, frames: Any) -> Tensor:
    found = frames[:] if isinstance(frames, Videos) else torch.as_tensor(frames)
    if found.ndim != 5:
        raise InputError(f"{name} has shape {tuple(found.shape)}, expected (n, time, channel, height, width)")
    if found.dtype == torch.bool:
        return found.float()
    return in_unit_range(found)


def _alike(truth: Any, predicted: Any) -> tuple[Tensor, Tensor]:
    truth, predicted = _frames("truth", truth), _frames("predicted", predicted)
    if truth.shape != predicted.shape:
        raise InputError(
            f"truth has shape {tuple(truth.shape)} and predicted {tuple(predicted.shape)}, expected one shape "
            "(n, time, channel, height, width)"
        )
    return truth, predicted
