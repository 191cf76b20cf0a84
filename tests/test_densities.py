"""Base mixture, encoders, bounds and quadrature against SciPy and closed forms."""

import copy
import math
from collections.abc import Callable

import numpy as np
import pyro
import pytest
import torch
from scipy import stats
from torch import Tensor

from hamflow.densities import (
    FlowEncoder,
    GaussianEncoder,
    Peaks,
    PhaseMixture,
    effective_sample_size,
    importance_bound,
    integrate_momentum,
    pareto_k,
    reparameterised_loss,
)
from hamflow.errors import InputError
from tests.parts import shaken

pytestmark = pytest.mark.usefixtures("float64")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mixture(dim: int, degrees: list[float], covariance: str = "full") -> PhaseMixture:
    made = shaken(PhaseMixture(dim, len(degrees), covariance=covariance))
    with torch.no_grad():
        made.log_degrees.copy_((torch.tensor(degrees) - 1).log())
    return made


# The base mixture.


@pytest.mark.parametrize("covariance", ["full", "block"])
@pytest.mark.parametrize("dim", [1, 3])
def test_mixture_is_student_t_times_conditional_normal(dim: int, covariance: str) -> None:
    base = mixture(dim, [2.5, 30.0], covariance)
    x = 3 * torch.randn(20, 2 * dim)
    q, p = x[:, :dim].numpy(), x[:, dim:].numpy()
    factors, locs = base.precision_factor().detach().numpy(), base.loc.detach().numpy()
    expected = []
    for k, nu in enumerate([2.5, 30.0]):
        p_qq, p_pq, p_pp = factors[k][:dim, :dim], factors[k][dim:, :dim], factors[k][dim:, dim:]
        centred = q - locs[k, :dim]
        mean = locs[k, dim:] - centred @ (np.linalg.inv(p_pp) @ p_pq).T
        spread = np.linalg.inv(p_pp.T @ p_pp)
        shape = np.linalg.inv(p_qq.T @ p_qq)
        normal = [stats.multivariate_normal.logpdf(b, a, spread) for a, b in zip(mean, p, strict=True)]
        expected.append(stats.multivariate_t.logpdf(q, locs[k, :dim], shape, df=nu).reshape(-1) + np.array(normal))
    weights = base.logits.softmax(-1).detach().numpy()
    total = np.logaddexp.reduce(np.array(expected) + np.log(weights)[:, None])
    assert np.abs(base.log_prob(x).detach().numpy() - total).max() < 1e-10
    assert not np.allclose(total, np.array(expected[0]))  # both components count


def test_mixture_integrates_to_one() -> None:
    base = mixture(1, [6.0, 1e4])
    axis = torch.linspace(-60, 60, 1801)
    total = 0.0
    with torch.no_grad():
        for part in axis.split(300):
            total += float(base.log_prob(torch.cartesian_prod(part, axis)).exp().sum())
    assert abs(total * float(axis[1] - axis[0]) ** 2 - 1) < 1e-5


@pytest.mark.parametrize("covariance", ["full", "block"])
def test_mixture_samples_follow_the_density(covariance: str) -> None:
    base = mixture(2, [3.0, 8.0], covariance)
    with torch.no_grad():
        base.loc[0] -= 1000
        base.loc[1] += 1000
    draws = base.sample(8000, generator())
    second = draws[:, 0] > 0
    share = float(base.logits.softmax(-1)[1].detach())
    assert stats.binomtest(int(second.sum()), len(draws), share).pvalue > 1e-3
    for k, rows in enumerate((draws[~second], draws[second])):
        y = ((rows - base.loc[k]) @ base.precision_factor()[k].mT).detach().numpy()
        nu = float(base.degrees()[k].detach())
        # Every coordinate of a multivariate t is a t, its squared radius over d is F; the momentum is normal.
        assert stats.kstest(y[:, 1], stats.t(nu).cdf).pvalue > 1e-3
        assert stats.kstest((y[:, :2] ** 2).sum(1) / 2, stats.f(2, nu).cdf).pvalue > 1e-3
        assert stats.kstest(y[:, 3], stats.norm.cdf).pvalue > 1e-3
        assert abs(np.corrcoef(y[:, 2], y[:, 3])[0, 1]) < 0.06


def test_mixture_draws_repeat_and_carry_no_graph() -> None:
    base = mixture(2, [3.0, 8.0])
    first, again, other = base.sample(5, generator(1)), base.sample(5, generator(1)), base.sample(5, generator(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not first.requires_grad


@pytest.mark.parametrize("covariance", ["full", "block"])
def test_set_positions(covariance: str) -> None:
    base = mixture(3, [3.0, 5.0], covariance)
    weights, means = torch.tensor([0.3, 0.7]), torch.randn(2, 3)
    root = torch.randn(2, 3, 3)
    scales = root @ root.mT + 0.1 * torch.eye(3)
    base.set_positions(weights, means, scales, degrees=4.0)
    x = 2 * torch.randn(10, 6)
    parts = [
        np.log(float(w)) + stats.multivariate_t.logpdf(x[:, :3].numpy(), m.numpy(), s.numpy(), df=4.0)
        for w, m, s in zip(weights, means, scales, strict=True)
    ]
    expected = np.logaddexp.reduce(parts) + stats.norm.logpdf(x[:, 3:].numpy()).sum(1)
    assert np.abs(base.log_prob(x).detach().numpy() - expected).max() < 1e-10


def test_mixture_as_a_pyro_distribution() -> None:
    base = mixture(2, [3.0, 8.0])
    distribution = base.distribution()
    assert distribution.event_shape == (4,)
    x = distribution.sample((5, 3))
    assert x.shape == (5, 3, 4)
    assert distribution.sample().shape == (4,)
    assert torch.equal(distribution.log_prob(x), base.log_prob(x))

    def model() -> Tensor:
        with pyro.plate("rows", 6):
            return pyro.sample("x", distribution)

    trace = pyro.poutine.trace(model).get_trace()
    drawn = trace.nodes["x"]["value"]
    assert drawn.shape == (6, 4)
    assert len(torch.unique(drawn, dim=0)) == 6
    assert torch.allclose(trace.log_prob_sum(), base.log_prob(drawn).sum())
    with pytest.raises(ValueError):
        pyro.distributions.TransformedDistribution(distribution, []).log_prob(torch.full((4,), math.nan))


# Encoders.

ENCODERS: dict[str, Callable[[int], GaussianEncoder]] = {
    "gaussian_full": lambda dim: GaussianEncoder(dim, width=6),
    "gaussian_shared": lambda dim: GaussianEncoder(dim, width=6, covariance="shared"),
    "gaussian_diagonal": lambda dim: GaussianEncoder(dim, width=6, covariance="diagonal", gain=0.3),
    "flow_full": lambda dim: FlowEncoder(dim, width=6),
    "flow_shared": lambda dim: FlowEncoder(dim, width=6, covariance="shared"),
}


def encoder(name: str, dim: int) -> GaussianEncoder:
    torch.manual_seed(1)
    return shaken(ENCODERS[name](dim), 0.15)


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("name", ENCODERS)
def test_encoder_integrates_to_one(name: str, dim: int) -> None:
    made, q = encoder(name, dim), torch.randn(2, dim)
    axis = torch.linspace(-12, 12, 20001 if dim == 1 else 501)
    p = torch.cartesian_prod(*[axis] * dim).reshape(-1, 1, dim).expand(-1, 2, -1)
    with torch.no_grad():
        totals = made(p, q).exp().sum(0) * (axis[1] - axis[0]) ** dim
    # Knots of a spline slow the rule down; the change of variables below is checked to rounding.
    assert (totals - 1).abs().max() < (2e-5 if dim == 1 else 1e-2)


@pytest.mark.parametrize("dim", [1, 3])
@pytest.mark.parametrize("name", ENCODERS)
def test_encoder_is_a_change_of_variables(name: str, dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made, q, noise = encoder(name, dim), torch.randn(4, dim), torch.randn(2, 4, dim)

    def draw(eps: Tensor) -> Tensor:
        with monkeypatch.context() as patch:
            patch.setattr(torch, "randn", lambda *_, **__: eps)
            return made.rsample(q, 2)

    jacobian = torch.autograd.functional.jacobian(draw, noise)
    log_det = torch.stack(
        [torch.linalg.slogdet(jacobian[k, i, :, k, i])[1] for k in range(2) for i in range(4)]
    ).reshape(2, 4)
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(noise).sum(-1) - log_det
    assert (made(draw(noise), q) - expected).abs().max() < 1e-9
    assert log_det.abs().min() > 1e-3


@pytest.mark.parametrize("dim", [1, 3])
@pytest.mark.parametrize("name", ENCODERS)
def test_scored_draws_have_derivatives_through_the_draws_alone(name: str, dim: int) -> None:
    made, q = encoder(name, dim), torch.randn(4, dim, requires_grad=True)
    wanted = [q, *made.parameters()]
    torch.manual_seed(2)
    p, log_f = made.rsample_scored(q, 5)
    torch.manual_seed(2)
    drawn = made.rsample(q, 5)
    held = copy.deepcopy(made).requires_grad_(False)(drawn, q.detach())
    torch.testing.assert_close(p, drawn)
    torch.testing.assert_close(log_f, held, rtol=1e-9, atol=1e-9)
    weight = torch.randn(5, 4)
    found, expected = (
        torch.autograd.grad((weight * value).sum(), wanted, allow_unused=True) for value in (log_f, held)
    )
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ENCODERS)
def test_encoder_draws(name: str) -> None:
    made, q = encoder(name, 2), torch.randn(5, 2)
    p = made.rsample(q, 3, generator(1))
    assert p.shape == (3, 5, 2)
    assert made(p, q).shape == (3, 5)
    assert made(p[0], q).shape == (5,)
    assert torch.equal(p, made.rsample(q, 3, generator(1)))
    # Every parameter is reached both through the draw and through the density.
    for value in (p.square().sum(), made(p.detach(), q).sum()):
        gradients = torch.autograd.grad(value, list(made.parameters()), allow_unused=True)
        assert all(g is not None and g.abs().max() > 0 for g in gradients)


@pytest.mark.parametrize("dim", [1, 3])
@pytest.mark.parametrize("name", ENCODERS)
def test_fresh_encoder_is_standard_normal(name: str, dim: int) -> None:
    made, q, p = ENCODERS[name](dim).double(), torch.randn(5, dim).double(), torch.randn(4, 5, dim).double()
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(p).sum(-1)
    assert torch.allclose(made(p, q), expected, rtol=1e-6)


# Bounds, in a model whose marginal is known: p ~ N(0, 1), q | p ~ N(c p, 1), so q ~ N(0, 1 + c^2).

POINT = 2.0


def log_model(p: Tensor, c: Tensor) -> Tensor:
    return -0.5 * p**2 - 0.5 * (POINT - c * p) ** 2 - math.log(2 * math.pi)


def log_f(p: Tensor, loc: Tensor, log_scale: Tensor) -> Tensor:
    return -0.5 * ((p - loc) / log_scale.exp()) ** 2 - log_scale - 0.5 * math.log(2 * math.pi)


def exact_elbo(c: Tensor, loc: Tensor, log_scale: Tensor) -> Tensor:
    variance = (2 * log_scale).exp()
    fit = (POINT - c * loc) ** 2 + c**2 * variance
    return -0.5 * (loc**2 + variance + fit) - 0.5 * math.log(2 * math.pi) + log_scale + 0.5


def parameters(loc: float = 0.2, log_scale: float = -0.2) -> list[Tensor]:
    return [torch.tensor(v, requires_grad=True) for v in (0.8, loc, log_scale)]


def log_weights(leaves: list[Tensor], particles: int, n: int, *, frozen: bool) -> tuple[Tensor, Tensor]:
    c, loc, log_scale = leaves
    p = loc + log_scale.exp() * torch.randn(particles, n, generator=generator(3))
    inner = [loc.detach(), log_scale.detach()] if frozen else [loc, log_scale]
    draws = p.unsqueeze(-1)
    return log_model(draws.squeeze(-1), c) - log_f(draws.squeeze(-1), *inner), draws


def mean_gradients(particles: int, *, naive: bool, blocks: int = 40, n: int = 4000) -> tuple[Tensor, Tensor]:
    """The mean gradient of minus the bound over blocks of draws, (3,), and its standard error."""
    leaves = parameters()
    weights, draws = log_weights(leaves, particles, blocks * n, frozen=not naive)
    found = []
    for k in range(blocks):
        part = slice(k * n, (k + 1) * n)
        if naive:
            loss = -importance_bound(weights[:, part]).mean()
        else:
            piece = draws[:, part]
            c, loc, log_scale = leaves
            p = piece.squeeze(-1)
            loss = reparameterised_loss(log_model(p, c) - log_f(p, loc.detach(), log_scale.detach()), piece)
        found.append(torch.stack(torch.autograd.grad(loss, leaves, retain_graph=True)))
    stacked = torch.stack(found)
    return stacked.mean(0), stacked.std(0) / blocks**0.5


def test_importance_bound_tightens_towards_the_marginal() -> None:
    leaves = parameters()
    truth = stats.norm(0, math.sqrt(1 + 0.8**2)).logpdf(POINT)
    bounds = [importance_bound(log_weights(leaves, k, 20_000, frozen=True)[0]).detach() for k in (1, 4, 64)]
    means = [float(b.mean()) for b in bounds]
    errors = [float(b.std()) / 20_000**0.5 for b in bounds]
    assert abs(means[0] - float(exact_elbo(*leaves).detach())) < 4 * errors[0]
    assert means[0] + 0.01 < means[1] < means[2] < truth + 4 * errors[2]
    assert truth - means[2] < 0.01
    known = torch.tensor([[1.0, 2.0], [3.0, 2.0]]).log()
    assert torch.allclose(importance_bound(known), torch.tensor([2.0, 2.0]).log())


def test_loss_has_the_value_of_the_bound() -> None:
    weights, draws = log_weights(parameters(), 5, 30, frozen=True)
    assert torch.isclose(reparameterised_loss(weights, draws), -importance_bound(weights).mean())


def test_gradient_of_one_particle_is_that_of_the_elbo() -> None:
    mean, error = mean_gradients(1, naive=False)
    leaves = parameters()
    exact = torch.stack(torch.autograd.grad(-exact_elbo(*leaves), leaves))
    assert ((mean - exact).abs() < 4 * error).all()
    assert (exact.abs() > 20 * error).all()


def test_gradient_of_many_particles_is_unbiased() -> None:
    mean, error = mean_gradients(8, naive=False)
    naive, naive_error = mean_gradients(8, naive=True)
    spread = (error**2 + naive_error**2).sqrt()
    assert ((mean - naive).abs() < 4 * spread).all()
    assert (naive.abs() > 8 * spread).all()
    assert (error[1:] < naive_error[1:]).all()  # less noise for the encoder is what it is for


def test_gradient_vanishes_at_the_posterior() -> None:
    posterior = [0.8 * POINT / (1 + 0.8**2), -0.5 * math.log(1 + 0.8**2)]
    leaves = parameters(*posterior)
    weights, draws = log_weights(leaves, 8, 50, frozen=True)
    gradients = torch.autograd.grad(reparameterised_loss(weights, draws), leaves[1:])
    assert max(float(g.abs()) for g in gradients) < 1e-12


def test_effective_sample_size() -> None:
    even, single = torch.zeros(10), torch.tensor([0.0] + [-100.0] * 9)
    halves = torch.tensor([0.0] * 5 + [-100.0] * 5)
    found = effective_sample_size(torch.stack([even, single, halves], dim=1) + 7)
    assert torch.allclose(found, torch.tensor([10.0, 1.0, 5.0]))


def test_pareto_k_finds_the_tail() -> None:
    # w = U^-k has a Pareto tail of index k; a bounded weight has none.
    uniform = torch.rand(20_000, generator=generator())
    tails = torch.stack([-k * uniform.log() for k in (0.3, 0.7, 1.2)] + [uniform], dim=1)
    found = pareto_k(tails.float())
    assert found.dtype == torch.float32
    assert (found[:3] - torch.tensor([0.3, 0.7, 1.2])).abs().max() < 0.1
    assert found[3] < 0.1


def test_level_weights_have_no_tail() -> None:
    rounding = 1e-6 * torch.randn(1000, generator=generator())
    saturated = torch.cat((-5 * torch.rand(500, generator=generator()), torch.zeros(500)))
    lost = torch.cat((torch.tensor([torch.nan]), torch.randn(999, generator=generator())))
    nothing = torch.full((1000,), -torch.inf)
    weights = torch.stack([torch.full((1000,), -70.0), rounding - 7, saturated, lost, nothing], dim=1)
    found = pareto_k(weights.float())
    assert (found[:3] == -torch.inf).all()
    assert (found[3:] == torch.inf).all()
    assert pareto_k(1e4 * rounding.unsqueeze(-1)).isfinite().all()
    few = torch.randn(30, 3, generator=generator())
    assert pareto_k(few[:29]).isposinf().all()
    assert not pareto_k(few).isposinf().any()


# Quadrature.


@pytest.mark.parametrize("dim", [1, 2])
def test_quadrature_of_a_known_marginal(dim: int) -> None:
    base = mixture(dim, [1e4, 1e4])
    q = torch.randn(4, dim)
    box = torch.full((dim,), 40.0)
    with torch.no_grad():
        found = integrate_momentum(lambda a, b: base.log_prob(torch.cat((a, b), -1)), q, -box, box, tolerance=1e-8)
        # The position of a component has the precision factor's leading block, whatever the momentum does.
        leading = base.precision_factor()[:, :dim, :dim]
        y = torch.einsum("kij,nkj->nki", leading, q.unsqueeze(1) - base.loc[:, :dim])
    logs = stats.multivariate_t.logpdf(y.reshape(-1, dim).numpy(), np.zeros(dim), np.eye(dim), df=1e4)
    log_det = leading.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    expected = torch.logsumexp(
        torch.as_tensor(logs).reshape(4, 2) + log_det + base.logits.log_softmax(-1).detach(), dim=1
    )
    assert (found.log_prob - expected).abs().max() < 1e-7
    assert found.error.max() <= 1e-8


def test_quadrature_finds_separate_peaks() -> None:
    def log_joint(q: Tensor, p: Tensor) -> Tensor:
        humps = torch.stack([-0.5 * ((p - m) / 0.2) ** 2 for m in (-3.0, 4.0)]).sum(-1)
        return torch.logsumexp(humps, 0) - 0.5 * (q**2).sum(-1)

    found = integrate_momentum(log_joint, torch.zeros(1, 1), -10 * torch.ones(1), 10 * torch.ones(1))
    assert abs(float(found.log_prob.exp()) - 2 * 0.2 * math.sqrt(2 * math.pi)) < 1e-6


def test_quadrature_says_when_it_cannot() -> None:
    box = torch.ones(1) * 3
    with pytest.raises(InputError, match="3 columns, expected 1 or 2"):
        integrate_momentum(lambda q, p: q.sum(-1), torch.zeros(1, 3), -box, box)

    def noise(q: Tensor, p: Tensor) -> Tensor:
        return (1e9 * p).sin().sum(-1)

    unsettled = integrate_momentum(noise, torch.zeros(1, 1), -box, box, tolerance=1e-9)
    assert unsettled.log_prob.isnan().all()
    assert (unsettled.error > 1e-9).all()


@pytest.mark.parametrize("narrow", [0.1, 0.01])
def test_quadrature_follows_a_bent_ridge(narrow: float) -> None:
    """The mass of p_2 ~ N(p_1^2 / 5, narrow^2) is one; its one peak shows no more than the middle of the bend."""

    def log_joint(q: Tensor, p: Tensor) -> Tensor:
        across = (p[:, 1] - q[:, 0] - 0.2 * p[:, 0] ** 2) / narrow
        return -0.5 * (p[:, 0] ** 2 + across**2) - math.log(2 * math.pi * narrow)

    q = torch.linspace(-1, 1, 3).unsqueeze(-1).expand(3, 2)
    loc = torch.stack((torch.zeros(3), q[:, 0]), -1).unsqueeze(1)
    factor = torch.diag(torch.tensor([1, 1 / narrow])).expand(3, 1, 2, 2)
    box = torch.tensor([16.0, 17.0])
    found = integrate_momentum(log_joint, q, -box, box - 0.3, peaks=Peaks(loc, factor, torch.zeros(3, 1)))
    assert found.log_prob.abs().max() < 1e-4


def test_peaks_sample_their_density() -> None:
    factor = torch.tensor([[[[2.0, 1.0], [0.0, 3.0]], [[1.0, 0.0], [0.0, 1.0]]]])
    peaks = Peaks(torch.tensor([[[1.0, -1.0], [-3.0, 2.0]]]), factor, torch.tensor([[0.5, 0.0]]))
    p = peaks.sample(40_000, generator())[:, 0].numpy()
    covariances = torch.linalg.inv(factor[0].mT @ factor[0]).numpy()
    weights = peaks.log_mass.softmax(-1)[0].numpy()
    parts = [stats.multivariate_normal(m, c) for m, c in zip(peaks.loc[0].numpy(), covariances, strict=True)]
    density = sum(w * part.pdf(p) for w, part in zip(weights, parts, strict=True))
    found = peaks.log_prob(torch.as_tensor(p).unsqueeze(1)).exp().flatten().numpy()
    assert np.abs(found / density - 1).max() < 1e-10
    assert np.abs(p.mean(0) - weights @ peaks.loc[0].numpy()).max() < 0.05
