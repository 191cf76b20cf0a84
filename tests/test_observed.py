"""A learned density in a Pyro model: as the prior of a latent, and as the law of rows that are observed."""

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal, init_to_sample
from torch import Tensor

import hamflow as hf
from hamflow.inference import ObservedRows
from hamflow.inference.observed import MomentumLaw

NORMAL = dist.Normal(0.0, 1.0)


def curved(dim: int, **settings: Any) -> hf.NHF:
    """A flow in double precision that is far from the identity, without the time of a fit."""
    flow = hf.NHF(dim, n_steps=2, width=6, **settings).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weights in flow.parameters():
            if weights.requires_grad:
                weights.add_(0.2 * torch.randn(weights.shape, dtype=weights.dtype, generator=generator))
        flow.whitening.loc.fill_(0.3)
        flow.whitening.scale_tril.mul_(1.5)
    return flow.eval()


def pair(rows: ObservedRows, x: Tensor) -> tuple[Callable[[], None], Callable[[], None]]:
    def model() -> None:
        with pyro.plate("rows", len(x)):
            rows.model(x)

    def guide() -> None:
        with pyro.plate("rows", len(x)):
            rows.guide(x)

    return model, guide


def noise(*shape: int) -> Tensor:
    """What the guide will draw after the same seed."""
    torch.manual_seed(3)
    e = torch.randn(shape, dtype=torch.float64)
    torch.manual_seed(3)
    return e


@pytest.mark.parametrize("settings", [{}, {"encoder": "flow"}, {"lift": "spline", "base": "gaussian"}], ids=str)
@pytest.mark.parametrize("particles", [1, 4])
@torch.no_grad()
def test_bound_is_that_of_the_flow(particles: int, settings: dict[str, Any]) -> None:
    flow, x = curved(2, **settings), torch.randn(5, 2, dtype=torch.float64)
    model, guide = pair(ObservedRows(flow, particles=particles), x)
    for together in (1, 3):
        e = noise(particles * together, 5, 2)
        weights = flow.log_weights(x, particles=particles * together, noise=lambda _, e=e: e)  # type: ignore[misc]
        by_row = weights.reshape(particles, together, 5).logsumexp(0) - math.log(particles)
        elbo = Trace_ELBO(together, vectorize_particles=together > 1, max_plate_nesting=1)
        assert -elbo.loss(model, guide) == pytest.approx(float(by_row.sum(-1).mean()), rel=1e-10)
        noise()
        weighted = hf.ImportanceWeightedELBO(together, max_plate_nesting=1)
        expected = by_row.sum(-1).logsumexp(0) - math.log(together)
        assert -weighted.loss(model, guide) == pytest.approx(float(expected), rel=1e-10)
        assert expected >= by_row.sum(-1).mean() - 1e-12
    if particles == 1:
        e = noise(1, 5, 2)
        assert -TraceMeanField_ELBO().loss(model, guide) == pytest.approx(
            float(flow.log_weights(x, particles=1, noise=lambda _: e).sum()), rel=1e-10
        )


@pytest.mark.parametrize("particles", [1, 2])
@torch.no_grad()
def test_the_momenta_integrate_to_the_density(particles: int) -> None:
    """So a chain over latents and momenta is exact: on a grid of all momenta, for one and for two of them."""
    flow, x = curved(1), torch.tensor([[0.5], [-1.0]], dtype=torch.float64)
    axis = torch.linspace(-12, 12, 400, dtype=torch.float64)
    grid = torch.cartesian_prod(*[axis] * particles).reshape(-1, 1, particles, 1)
    law = MomentumLaw(flow, x, particles=particles, encoded=False)
    found = law.log_prob(grid).logsumexp(0) + particles * torch.log(axis[1] - axis[0])
    joint = flow.log_joint(x.repeat(400, 1), axis.repeat_interleave(2)[:, None]).reshape(400, 2)
    expected = joint.logsumexp(0) + torch.log(axis[1] - axis[0])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def residuals(rows: ObservedRows, y: Tensor, size: int | None = None) -> tuple[Callable[[], None], Callable[[], None]]:
    def model() -> None:
        m = pyro.sample("m", dist.Normal(torch.zeros(2, dtype=y.dtype), 2.0).to_event(1))
        with pyro.plate("rows", len(y), subsample_size=size) as chosen:
            rows.model(y[chosen] - m)

    rest = AutoNormal(poutine.block(model, hide=[rows.site]))

    def guide() -> None:
        m = rest()["m"]
        with pyro.plate("rows", len(y), subsample_size=size) as chosen:
            rows.guide(y[chosen] - m)

    return model, guide


@pytest.mark.parametrize("size", [None, 4])
def test_rows_that_depend_on_latents_and_minibatches(size: int | None) -> None:
    flow, y = curved(2), torch.randn(6, 2, dtype=torch.float64)
    rows = ObservedRows(flow)
    model, guide = residuals(rows, y, size)
    guide()

    def several(program: Callable[[], None]) -> Callable[[], None]:
        def together() -> None:
            with pyro.plate("particles", 3, dim=-2):
                program()

        return together

    drawn = poutine.trace(several(guide)).get_trace()
    replayed = poutine.trace(poutine.replay(several(model), drawn)).get_trace()
    for trace in (drawn, replayed):
        trace.compute_log_prob()
    m, p = (drawn.nodes[name]["value"] for name in ("m", rows.site))
    assert p.shape == (3, size or 6, 1, 2)
    chosen = drawn.nodes["rows"]["value"]
    z, log_det = flow.standardise((y[chosen] - m).reshape(-1, 2))
    flat, share = p.reshape(1, -1, 2), 6 / (size or 6)
    log_joint = (flow.log_joint_standardised(z, flat)[0] + log_det).reshape(3, -1)
    torch.testing.assert_close(replayed.nodes[rows.site]["log_prob"], share * log_joint)
    log_f = flow.encoder(flat, z).reshape(3, -1)
    torch.testing.assert_close(drawn.nodes[rows.site]["log_prob"], share * log_f)


def test_a_location_is_found_in_the_noise_of_the_flow() -> None:
    # A fresh flow is a standard normal, and so the posterior is known.
    y = torch.randn(50, 2) + torch.tensor([1.0, -2.0])
    model, guide = residuals(ObservedRows(hf.NHF(2, n_steps=2, width=4, base="gaussian")), y)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO(8, vectorize_particles=True, max_plate_nesting=1))
    for _ in range(200):
        svi.step()
    scale = (50 + 0.25) ** -0.5
    store = {name.split(".")[-2]: value for name, value in pyro.get_param_store().items()}
    torch.testing.assert_close(store["locs"].detach(), y.sum(0) * scale**2, rtol=0, atol=0.05)
    torch.testing.assert_close(store["scales"].detach(), torch.full((2,), scale), rtol=0.2, atol=0)


def test_weights_are_frozen_or_learned() -> None:
    x = 2 + 0.5 * torch.randn(64, 1)
    flow = hf.NHF(1, n_steps=2, width=4, base="gaussian")
    before = {name: value.clone() for name, value in flow.state_dict().items()}
    for learn in (False, True):
        pyro.clear_param_store()
        model, guide = pair(ObservedRows(flow, learn=learn), x)
        loss = Trace_ELBO()
        svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), loss)
        first = svi.evaluate_loss()
        for _ in range(100 if learn else 1):
            svi.step()
        if not learn:
            assert not pyro.get_param_store() and all(weights.grad is None for weights in flow.parameters())
            assert all(torch.equal(value, before[name]) for name, value in flow.state_dict().items())
        else:
            assert svi.evaluate_loss() < first - 64
            assert any(not torch.equal(value, before[name]) for name, value in flow.state_dict().items())


def test_chain_over_latents_and_momenta() -> None:
    y = torch.tensor([[1.2], [0.4], [0.8]])
    model, _ = residuals_of_one(ObservedRows(hf.NHF(1, n_steps=1, width=4, base="gaussian"), particles=2), y)
    chain = MCMC(NUTS(model), num_samples=80, warmup_steps=40, disable_progbar=True)
    chain.run()
    draws = chain.get_samples()
    assert draws["rows_momentum"].shape == (80, 3, 2, 1)
    # The posterior of a standard normal's location under a prior of scale 2.
    assert draws["m"].mean() == pytest.approx(float(y.sum()) / 3.25, abs=0.35)
    assert draws["m"].std() == pytest.approx(3.25**-0.5, rel=0.4)


def residuals_of_one(rows: ObservedRows, y: Tensor) -> tuple[Callable[[], None], None]:
    def model() -> None:
        m = pyro.sample("m", dist.Normal(0.0, 2.0))
        with pyro.plate("rows", len(y)):
            rows.model(y - m.unsqueeze(-1))

    return model, None


# The joint density as a prior

MEASURED = torch.tensor([1.0, -0.5])


def prior_model(flow: hf.NHF) -> Callable[[], None]:
    def model() -> None:
        z = pyro.sample("z", flow.joint())
        pyro.sample("y", dist.Normal(z[..., :2], 0.5).to_event(1), obs=MEASURED)

    return model


def test_prior_with_a_guide() -> None:
    # A fresh flow is a standard normal, and with a Gaussian measurement the guide's family holds the posterior.
    model = prior_model(hf.NHF(2, n_steps=2, width=4, base="gaussian").requires_grad_(False))
    guide = AutoNormal(model)
    loss = Trace_ELBO(16, vectorize_particles=True, max_plate_nesting=0)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), loss)
    for _ in range(250):
        svi.step()
    evidence = float(dist.Normal(0.0, math.sqrt(1.25)).log_prob(MEASURED).sum())
    assert -svi.evaluate_loss() == pytest.approx(evidence, abs=0.1)
    torch.testing.assert_close(guide.median()["z"][:2], MEASURED / 1.25, rtol=0, atol=0.12)
    assert {name: value.shape for name, value in Predictive(model, guide=guide, num_samples=5)().items()}["z"] == (5, 4)


def test_prior_under_a_plate_with_the_guide_of_this_package() -> None:
    flow = curved(2).requires_grad_(False)

    def model() -> None:
        with pyro.plate("groups", 3):
            z = pyro.sample("z", flow.joint())
            pyro.sample("y", dist.Normal(z[..., :2], 0.5).to_event(1), obs=torch.ones(3, 2, dtype=torch.float64))

    prior = poutine.trace(model).get_trace()
    prior.compute_log_prob()
    q, p = prior.nodes["z"]["value"].chunk(2, -1)
    torch.testing.assert_close(prior.nodes["z"]["log_prob"], flow.log_joint(q, p))
    guide = hf.AutoHamiltonianFlow(model, start="prior")
    loss = Trace_ELBO(4, vectorize_particles=True, max_plate_nesting=1)
    assert math.isfinite(SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), loss).step())
    assert guide.sample_posterior(7)["z"].shape == (7, 3, 4)


def test_prior_with_a_chain() -> None:
    model = prior_model(hf.NHF(2, n_steps=1, width=4, base="gaussian"))
    # The start is drawn from the prior, which cannot be differentiated through, and need not be.
    kernel = NUTS(model, init_strategy=init_to_sample)
    chain = MCMC(kernel, num_samples=50, warmup_steps=30, disable_progbar=True)
    chain.run()
    q = chain.get_samples()["z"][:, :2]
    torch.testing.assert_close(q.mean(0), MEASURED / 1.25, rtol=0, atol=0.4)


ROWS = ObservedRows(hf.NHF(2, n_steps=1, width=2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ObservedRows(NORMAL), "flow is a Normal, expected an NHF"),  # type: ignore[arg-type]
        (lambda: ObservedRows(hf.NHF(1, 2)), "flow depends on a context"),
        (lambda: ObservedRows(ROWS.flow, particles=0), "particles = 0"),
        (lambda: ObservedRows(ROWS.flow, name=""), "name = ''"),
        (lambda: ROWS.model(torch.zeros(5)), r"q is \(5,\), expected a tensor \(\*batch, 2\)"),
        (lambda: ROWS.guide([1.0]), "q is list"),  # type: ignore[arg-type]
    ],
)
def test_bad_input_is_named(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(hf.InputError, match=message):
        call()
