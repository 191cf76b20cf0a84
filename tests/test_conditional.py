"""Densities, flows and energies that depend on a context."""

import copy
import math

import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from members import shaken

import hamflow as hf
from hamflow.densities import MixtureNetwork, PhaseMixture
from hamflow.energies.conditional import beside
from hamflow.inference import PhaseMap


def conditional(**settings):
    """A small conditional density with every part away from where it starts."""
    torch.manual_seed(1)
    model = hf.NHF(2, 3, n_steps=3, width=8, context_features=4, **settings).double()
    shaken(model.flow)
    with torch.no_grad():
        model.base.head.weight.normal_(0, 0.3)
        for weight in model.encoder.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return model.eval()


@pytest.fixture
def rows():
    """Positions, contexts and momenta of seven rows."""
    torch.manual_seed(0)
    return torch.randn(7, 2).double(), torch.randn(7, 3).double(), torch.randn(7, 2).double()


def test_gradient_of_a_conditioned_energy_is_that_of_autograd():
    energy = hf.ConditionedEnergy(shaken(hf.RidgePotential(5, width=6)).double(), torch.randn(4, 3).double())
    q = torch.randn(6, 4, 2, dtype=torch.float64, requires_grad=True)
    by_autograd = torch.autograd.grad(energy(q).sum(), q)[0]
    assert torch.allclose(energy.gradient(q), by_autograd, atol=1e-12)


def test_a_conditional_flow_is_symplectic_and_undoes_itself_whatever_the_context():
    torch.manual_seed(0)
    flow = hf.hamiltonian(4, 3, n_steps=5, width=8).double()
    shaken(flow)
    context, x = torch.randn(3).double(), torch.randn(4).double()
    given = flow.condition(context)
    jacobian = torch.autograd.functional.jacobian(given, x)
    unit = torch.eye(2, dtype=torch.float64)
    form = torch.cat((torch.cat((0 * unit, unit), 1), torch.cat((-unit, 0 * unit), 1)))
    assert (jacobian.mT @ form @ jacobian - form).abs().max() < 1e-12
    assert (given.inv(given(x)) - x).abs().max() < 1e-12
    assert (given(x) - flow.condition(context + 1)(x)).abs().max() > 1e-3


def test_a_flow_given_a_context_trains_in_a_transformed_distribution():
    torch.manual_seed(0)
    flow = hf.hamiltonian(2, 1, n_steps=3, width=8)
    base = dist.Normal(torch.zeros(2), torch.ones(2)).to_event(1)
    law = dist.TransformedDistribution(base, [flow.condition(torch.zeros(5, 1))])
    law.log_prob(torch.randn(5, 2)).sum().backward()
    assert flow.step.hamiltonian.potential.amplitude.grad.abs().max() > 0


def test_every_shape_of_rows_and_contexts_gives_the_numbers_of_single_rows(rows):
    model, (x, c, p) = conditional(), rows
    noise = lambda part: torch.ones(2, *part.shape, dtype=part.dtype)  # noqa: E731
    single = torch.cat([model.log_weights(x[i : i + 1], c[i : i + 1], particles=2, noise=noise) for i in range(7)], 1)
    assert torch.allclose(model.log_weights(x, c, particles=2, noise=noise), single, atol=1e-12)
    grid = model.log_weights(x[:, None], c, particles=2, noise=noise)
    assert grid.shape == (2, 7, 7) and torch.allclose(grid.diagonal(dim1=1, dim2=2), single, atol=1e-12)
    assert torch.allclose(model.log_weights(x, c[2], particles=2, noise=noise), grid[:, :, 2], atol=1e-12)
    assert model.log_weights(x[0], c, particles=2, noise=noise).shape == (2, 7)
    joint = model.log_joint(x, p, c)
    assert torch.allclose(joint[3], model.log_joint(x[3], p[3], c[3]), atol=1e-12)
    assert torch.allclose(joint, model.joint(c).log_prob(torch.cat((x, p), -1)), atol=1e-12)


def test_the_slope_in_the_context_is_that_of_differences(rows):
    model, (x, c, _) = conditional(), rows
    context = c[0].clone().requires_grad_()
    slope = torch.autograd.grad(model.log_prob(x[0], context, particles=4), context)[0]
    for i, step in enumerate(1e-6 * torch.eye(3, dtype=torch.float64)):
        up, down = (model.log_prob(x[0], c[0] + sign * step, particles=4) for sign in (1, -1))
        assert float(slope[i]) == pytest.approx(float(up - down) / 2e-6, abs=1e-6)


@pytest.mark.parametrize("batch", [(), (4,), (2, 3)])
def test_draws_have_the_batch_of_the_context_and_repeat(batch):
    model, context = conditional(), torch.randn(*batch, 3)
    one, other = (model.sample(5, context, seed=3, batch_size=4) for _ in range(2))
    assert one.shape == (5, *batch, 2) and torch.equal(one, other)


@pytest.mark.parametrize("encoder", ["gaussian", "flow"])
def test_the_density_given_a_context_has_mass_one_and_is_that_of_its_draws(encoder):
    torch.manual_seed(0)
    model = conditional(encoder=encoder)
    context = torch.tensor([0.3, -1.0, 0.5], dtype=torch.float64)
    edges = torch.linspace(-8, 8, 81, dtype=torch.float64)
    grid = torch.cartesian_prod(edges, edges)
    density = model.log_prob(grid, context, particles=64, seed=0).exp()
    assert density.sum() * 0.2**2 == pytest.approx(1.0, abs=0.01)
    mean = (density[:, None] * grid).sum(0) * 0.2**2
    draws = model.sample(20_000, context, seed=0)
    assert torch.allclose(draws.mean(0), mean, atol=4 * float(draws.std()) / 20_000**0.5 + 0.02)


def test_the_mixture_given_features_is_pyros_own():
    torch.manual_seed(0)
    base = MixtureNetwork(2, features=3, components=4, gaussian=True).double()
    torch.nn.init.normal_(base.head.weight)
    features, x = torch.randn(5, 3).double(), torch.randn(6, 5, 4).double()
    given = base.condition(features)
    spread = torch.linalg.inv(torch.diag_embed(given.log_diagonal.exp()) + given.lower()).tril()
    by_pyro = dist.MixtureSameFamily(
        dist.Categorical(logits=given.logits), dist.MultivariateNormal(given.loc, scale_tril=spread)
    )
    momentum = dist.Normal(torch.zeros(2).double(), 1.0).to_event(1)
    assert torch.allclose(given.log_prob(x), by_pyro.log_prob(x[..., :2]) + momentum.log_prob(x[..., 2:]), atol=1e-10)
    draws = given.sample((20_000,))
    error = draws[..., :2].mean(0) - by_pyro.mean
    assert (error.abs() < 5 * draws[..., :2].std(0) / 20_000**0.5).all()


def test_a_fresh_mixture_is_the_one_it_was_set_to_whatever_the_features():
    torch.manual_seed(0)
    numbers = (torch.tensor([0.3, 0.7]), torch.randn(2, 2), 0.5 * torch.eye(2).expand(2, 2, 2) + 0.1, 4.0)
    plain, told = PhaseMixture(2, 2), MixtureNetwork(2, 3, 2)
    for mixture in (plain, told):
        mixture.set_positions(*(x.double() if isinstance(x, torch.Tensor) else x for x in numbers))
    x = torch.randn(5, 4)
    assert torch.allclose(told.condition(torch.randn(5, 3)).log_prob(x), plain.log_prob(x), atol=1e-5)


def test_a_fit_finds_a_conditional_density_that_is_known():
    torch.manual_seed(0)
    c = torch.rand(2000, 1) * 4 - 2
    x = torch.sin(c) + 0.1 * (c / 2).exp() * torch.randn(2000, 1)
    model = hf.NHF(1, 1, n_steps=3, width=16).fit(x, c, epochs=40, progress=False, seed=0)
    at = torch.tensor([[-1.5], [0.0], [1.5]])
    draws = model.sample(4000, at, seed=0)[..., 0]
    assert torch.allclose(draws.mean(0), torch.sin(at[:, 0]), atol=0.05)
    assert torch.allclose(draws.std(0), 0.1 * (at[:, 0] / 2).exp(), rtol=0.15)
    exact = -0.5 - math.log(0.1) - 0.5 * math.log(2 * math.pi) - c.mean() / 2
    assert model.log_prob(x, c).mean() == pytest.approx(float(exact), abs=0.05)


@pytest.mark.parametrize("settings", [{}, {"base": "gaussian"}, {"dim": 3, "context_features": 2}, {"dim": 20}])
def test_it_starts_from_a_linear_regression(settings):
    torch.manual_seed(0)
    dim = settings.pop("dim", 2)
    c = torch.tensor([1e3, 1e-3, 1.0]) * torch.randn(3000, 3) + torch.tensor([5e3, 0.0, 0.0])
    mean = 2 + (c / torch.tensor([1e3, 1e-3, 1.0])) @ torch.randn(3, dim)
    x = mean + 0.1 * torch.randn(3000, dim)
    model = hf.NHF(dim, 3, n_steps=2, width=4, max_components=2, **settings)
    model.fit(x[:2000], c[:2000], epochs=1, learning_rate=1e-7, progress=False)
    exact = dist.Normal(mean, 0.1).log_prob(x).sum(-1)[2000:]
    found = model.log_prob(x[2000:], c[2000:], particles=16).mean()
    if settings.get("context_features", dim) >= dim:
        assert found == pytest.approx(float(exact.mean()), abs=0.01 * dim + 0.05)
    else:
        # As many columns follow as there are features, and the mixture is that of what these leave.
        alone = hf.NHF(dim, n_steps=2, width=4, max_components=2, whiten="diagonal")
        alone.fit(x[:2000], epochs=1, learning_rate=1e-7, progress=False)
        assert found > alone.log_prob(x[2000:], particles=16).mean() + 2
        spread = (model.sample(500, c[:50], seed=0).mean(0) - mean[:50]).std(0)
        assert (spread[:2] < 0.05).all() and spread[2] > 0.1


def test_a_conditional_density_is_saved_and_resumed(tmp_path, rows):
    x, c = (torch.randn(60, n) for n in (2, 3))
    whole, parts = (hf.NHF(2, 3, n_steps=2, width=4, max_components=2) for _ in range(2))
    whole.fit(x, c, epochs=4, schedule="constant", progress=False)
    for epochs in (2, 4):
        parts.fit(x, c, epochs=epochs, schedule="constant", progress=False, checkpoint=tmp_path / "run")
    assert torch.equal(parts.log_prob(x, c), whole.log_prob(x, c))
    whole.save(tmp_path / "model")
    assert torch.equal(hf.load(tmp_path / "model").log_prob(x, c), whole.log_prob(x, c))


def test_names_of_a_context_are_kept_and_its_precision_too(tmp_path):
    table = pd.DataFrame(torch.randn(60, 3, dtype=torch.float64).numpy() + 1e9, columns=["a", "b", "c"])
    x = torch.randn(60, 2, dtype=torch.float64)
    model = hf.NHF(2, 3, n_steps=2, width=4, max_components=2).fit(x, table, epochs=1, progress=False)
    # In single precision numbers around 1e9 differ by 64 at least.
    assert torch.allclose(model.features.scale, torch.ones(3, dtype=torch.float64), rtol=0.5)
    model.save(tmp_path / "model")
    for density in (model, hf.load(tmp_path / "model")):
        with pytest.raises(hf.InputError, match=r"context has the columns \['b', 'a', 'c'\]"):
            density.log_prob(x, table[["b", "a", "c"]])
    # Another fit may have others.
    model.fit(x, table.rename(columns={"a": "z"}), epochs=1, progress=False)
    assert model.context_columns == ("z", "b", "c")


ROWS, CONTEXT = torch.randn(30, 2), torch.randn(30, 3)
REFUSED = {
    "missing": (lambda m: m.log_prob(ROWS), r"context is None, expected one of shape \(\*batch, 3\)"),
    "missing in fit": (lambda m: m.fit(ROWS, epochs=1), "context is None"),
    "not needed": (lambda m: hf.NHF(2).sample(3, CONTEXT), "context is a Tensor, expected None"),
    "width": (lambda m: m.sample(3, CONTEXT[:, :2]), r"context has shape \(30, 2\), expected \(\*batch, 3\)"),
    "number": (lambda m: m.sample(3, 1.0), r"context has shape \(\), expected \(\*batch, 3\)"),
    "rows": (lambda m: m.log_prob(ROWS, CONTEXT[:7]), r"context has shape \(7, 3\) for x of shape \(30, 2\)"),
    "rows in fit": (lambda m: m.fit(ROWS, CONTEXT[:7], epochs=1), r"context has shape \(7, 3\), expected \(30, 3\)"),
    "nan": (lambda m: m.sample(3, CONTEXT * torch.nan), "context has 90 NaN or infinite entries"),
    "context_dim": (lambda m: hf.NHF(2, -1), "context_dim = -1, expected a whole number >= 0"),
    "certificate": (lambda m: m.certificate(ROWS), "context is None"),
    "trajectories": (lambda m: hf.plots.plot_trajectories(m), "model is a conditional density"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_by_name(name):
    call, message = REFUSED[name]
    with pytest.raises(hf.InputError, match=message):
        call(conditional())


def test_only_a_splitting_takes_a_context():
    step = hf.ImplicitMidpoint(hf.SeparableHamiltonian(hf.QuadraticKinetic(1), hf.RidgePotential(2)))
    with pytest.raises(hf.InputError, match="step is a ImplicitMidpoint, expected a Splitting"):
        hf.PhaseFlow(step).condition(torch.zeros(1))


def test_rows_and_context_of_other_batches_are_refused():
    with pytest.raises(hf.InputError, match=r"context has shape \(4, 3\) beside rows of shape \(5, 2\)"):
        beside(torch.zeros(5, 2), torch.zeros(4, 3))


# The guide


def amortised():
    """A model of data with a known posterior, and a guide that sees their mean."""

    def model(x):
        m = pyro.sample("m", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(m, 1.0).to_event(1), obs=x)

    return model, hf.AutoHamiltonianFlow(model, n_steps=2, width=8, context=lambda x: x.mean(0))


@pytest.mark.parametrize("dim", [1, 3])
def test_the_map_of_a_guide_given_a_context_has_the_density_it_says(dim):
    torch.manual_seed(0)
    phase = PhaseMap(dim, n_steps=2, width=6, context_dim=2).double()
    with torch.no_grad():
        for values in phase.parameters():
            values.add_(0.3 * torch.randn_like(values))
    context, noise = torch.randn(2).double(), torch.randn(2 * dim).double()
    features, flow, start, log_scale = phase._given(context)

    def inner(e):
        return flow(start + log_scale.exp() * torch.cat((e[:dim] - e[dim:], e[dim:])))

    def to_phase(e):
        return torch.cat((phase(e, context)[0], inner(e)[dim:]))

    log_det = torch.linalg.slogdet(torch.autograd.functional.jacobian(to_phase, noise))[1]
    y, p = inner(noise)[None].chunk(2, -1)
    log_r = phase.encoder(p, beside(y, features))[0]
    torch.testing.assert_close(phase(noise, context)[1], log_r + log_det)
    assert (phase(noise, context + 1)[0] - phase(noise, context)[0]).abs().max() > 1e-3


def test_the_density_of_a_guide_given_a_context_integrates_to_one():
    torch.manual_seed(0)
    phase = PhaseMap(1, n_steps=2, width=6, context_dim=2).double()
    with torch.no_grad():
        for values in phase.parameters():
            values.add_(0.2 * torch.randn_like(values))
        context, grid = torch.randn(2).double(), torch.linspace(-15, 15, 3001).double()[:, None]
        density = phase.log_density(grid, 400, context).exp().mean(0)
        draws = phase(torch.randn(20_000, 2).double(), context)[0]
    assert float(density.sum()) * 0.01 == pytest.approx(1, abs=0.01)
    assert float(draws.mean()) == pytest.approx(float((density * grid[:, 0]).sum() * 0.01), abs=0.03)


def test_an_amortised_guide_knows_posteriors_of_data_that_it_never_saw():
    model, guide = amortised()
    loss = pyro.infer.Trace_ELBO(num_particles=8, vectorize_particles=True, max_plate_nesting=1)
    svi = pyro.infer.SVI(model, guide, pyro.optim.ClippedAdam({"lr": 0.02, "lrd": 0.05 ** (1 / 400)}), loss)
    for _ in range(400):
        svi.step(torch.randn(2) + torch.randn(5, 2))
    for shift in (-1.0, 0.5):
        x = shift + torch.randn(5, 2)
        draws = guide.sample_posterior(4000, x, seed=0)["m"]
        # Conjugate: mean sum(x) / 6, variance 1 / 6.
        assert torch.allclose(draws.mean(0), x.sum(0) / 6, atol=0.15)
        assert torch.allclose(draws.std(0), torch.full((2,), 6**-0.5), rtol=0.25)


def test_a_guide_with_a_context_is_copied_saved_and_loaded():
    guide = amortised()[1]
    x = torch.randn(5, 2)
    guide(x)
    twin = copy.deepcopy(guide)
    assert torch.equal(twin.sample_posterior(3, x, seed=1)["m"], guide.sample_posterior(3, x, seed=1)["m"])
    fresh = amortised()[1]
    fresh(x + 1)
    with torch.no_grad():
        guide.values.add_(0.1)
    fresh.load_state_dict(guide.state_dict())
    assert torch.equal(fresh.sample_posterior(3, x, seed=1)["m"], guide.sample_posterior(3, x, seed=1)["m"])


def test_contexts_that_a_guide_cannot_take_are_refused():
    model, guide = amortised()
    with pytest.raises(hf.InputError, match="context is a Tensor, expected a function"):
        hf.AutoHamiltonianFlow(model, context=torch.zeros(2))
    guide(torch.zeros(5, 2))
    with pytest.raises(hf.InputError, match="guide has a context"):
        hf.HamiltonianReparam(guide)
    pyro.clear_param_store()
    scalar = hf.AutoHamiltonianFlow(model, context=lambda x: x.mean())
    with pytest.raises(hf.InputError, match=r"context gives shape \(\), expected a vector"):
        scalar(torch.zeros(5, 2))
    pyro.clear_param_store()
    growing = hf.AutoHamiltonianFlow(model, context=lambda x: x[:, 0])
    growing(torch.zeros(5, 2))
    with pytest.raises(hf.InputError, match=r"context gives shape \(6,\), expected that of before, \(5,\)"):
        growing(torch.zeros(6, 2))


@pytest.mark.parametrize(("q", "c"), [((2,), (5, 3)), ((7, 1, 2), (5, 3)), ((4, 2), (3,)), ((2,), (3,))])
def test_a_joint_density_broadcasts_as_the_marginal_one_does(q, c):
    model = hf.NHF(2, 3, n_steps=2, width=4).double().eval()
    torch.manual_seed(0)
    q, p, c = (torch.randn(shape, dtype=torch.float64) for shape in (q, q, c))
    found = model.log_joint(q, p, context=c)
    assert found.shape == model.log_prob(q, context=c, particles=4).shape
    both = [x.expand(*found.shape, x.shape[-1]).reshape(-1, x.shape[-1]) for x in (q, p, c)]
    assert torch.allclose(found.flatten(), model.log_joint(*both[:2], context=both[2]))
    with pytest.raises(hf.InputError, match="p has shape"):
        model.log_joint(q, p[..., None, :], context=c)
