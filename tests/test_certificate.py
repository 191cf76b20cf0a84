"""The certificate where it is hard: narrow momenta, rows that nothing is known of, seeds at the edge."""

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

import hamflow as hf
from hamflow.densities import Quadrature, integrate_momentum
from hamflow.models import certificate
from hamflow.models.certificate import exact_log_prob


def narrowed(dim: int, narrow: float) -> tuple[hf.NHF, Tensor, Tensor]:
    """A model whose momentum given q is half N(0, 1) and half N(0.1, narrow^2), rows, and log p there."""
    model = hf.NHF(dim, n_steps=2, width=4, components=2).double().eval()
    with torch.no_grad():
        model.base.log_diagonal[1, dim:] = -math.log(narrow)
        model.base.loc[1, dim:] = 0.1
    x = torch.randn(4, dim, generator=torch.Generator().manual_seed(0)).double()
    expected = stats.multivariate_t([0] * dim, df=model.base.degrees()[0].item()).logpdf(x.numpy())
    return model, x, torch.as_tensor(expected).reshape(-1)


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("narrow", [0.3, 0.1, 0.06, 0.03, 0.018, 0.01, 0.005])
def test_quadrature_sees_narrow_momenta(dim: int, narrow: float) -> None:
    model, x, expected = narrowed(dim, narrow)
    assert (exact_log_prob(model, x).log_prob - expected).abs().max() < 1e-6


@pytest.mark.parametrize("dim", [1, 2])
def test_mass_that_the_quadrature_missed_is_not_exact(dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def blind(*args: Tensor, peaks: object) -> Quadrature:
        return integrate_momentum(*args)

    monkeypatch.setattr(certificate, "integrate_momentum", blind)
    model, x, expected = narrowed(dim, 0.005)
    found = exact_log_prob(model, x)
    assert found.error.max() < 1e-4  # it settled, on half of the mass
    assert found.log_prob.isnan().all()
    model, x, expected = narrowed(dim, 0.3)
    assert (exact_log_prob(model, x).log_prob - expected).abs().max() < 1e-4


def test_means_are_over_the_same_points() -> None:
    values = torch.tensor([-1.0, -2.0, torch.nan])
    exact = torch.tensor([-1.5, torch.nan, -100.0])
    found = hf.Certificate(*[values] * 5, exact, *[values] * 5, exact.flip(0)[1:].repeat(2)[:3])
    text = str(found)
    assert "lower bound -1.0000 nats (ELBO -1.0000)" in text
    assert "exact, by quadrature -1.5000" in text
    assert text.count("without 2 of 3") == 2
    settled = torch.tensor([-1.0, -2.0])
    assert "without" not in str(hf.Certificate(*[settled] * 12))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_far_row_is_left_out_aloud(dtype: torch.dtype) -> None:
    model = hf.NHF(2, n_steps=2, width=4).to(dtype).eval()
    found = model.certificate(torch.tensor([[0.3, 0.1], [1e25, 0.0]], dtype=dtype), particles=50, n_model=20)
    assert found.exact is not None
    assert abs(float(found.lower[0] - found.exact[0])) < 1e-3
    both = torch.stack([found.lower, found.elbo, found.exact]).isfinite().all(0)
    assert ("without 1 of 2" in str(found)) == (not both[1])


def test_seeds_are_deterministic_to_the_last() -> None:
    model = hf.NHF(1, n_steps=2, width=4, components=2).eval()
    x = torch.zeros(2, 1)
    last = [model.certificate(x, particles=20, n_model=10, exact=False, seed=2**32 - 1) for _ in range(2)]
    assert torch.equal(last[0].model_upper, last[1].model_upper)
    other = model.certificate(x, particles=20, n_model=10, exact=False, seed=0)
    assert not torch.equal(last[0].model_upper, other.model_upper)
    with pytest.raises(hf.InputError, match="seed = -1, expected"):
        model.certificate(x, particles=20, n_model=10, seed=-1)


def test_the_error_by_the_particles_is_that_of_repetitions() -> None:
    torch.manual_seed(0)
    model = hf.NHF(2, n_steps=3, width=8, base="gaussian").eval()
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    x = torch.randn(20, 2)
    found = [model.certificate(x, particles=100, n_model=5, exact=False, seed=seed) for seed in range(60)]
    spread = float(torch.stack([one.lower.mean() for one in found]).std())
    error = float(torch.stack([(one.standard_error**2).sum().sqrt() / len(x) for one in found]).mean())
    assert spread > 1e-3
    # 60 repetitions know their spread to a tenth.
    assert error == pytest.approx(spread, rel=0.3)
    assert f"+- {(found[0].standard_error ** 2).sum().sqrt() / len(x):.4f} by the particles" in str(found[0])
    upper = found[0].model_standard_error
    assert upper.shape == (5,)
    assert bool((upper > 0).all())
