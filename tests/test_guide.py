"""AutoHamiltonianFlow: exact cases, all the ways in which Pyro uses a guide, chains in its noise, bad input."""

import copy
import math
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.contrib.autoname import scope
from pyro.infer import MCMC, NUTS, SVI, Predictive, RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from pyro.optim import Adam, ClippedAdam
from torch import Tensor

import hamflow as hf
from hamflow.inference import PhaseMap
from hamflow.inference.packed import Packed

OBSERVED = torch.tensor([1.0, 2.0, -1.0])
ROWS = torch.randn(200, generator=torch.Generator().manual_seed(0)) + 1


def conjugate() -> None:
    m = pyro.sample("m", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    pyro.sample("x", dist.Normal(m, 0.5).to_event(1), obs=OBSERVED)


def several() -> None:
    """Five sites of all kinds of support, seven numbers."""
    scale = pyro.sample("scale", dist.HalfCauchy(5.0))
    share = pyro.sample("share", dist.Beta(2.0, 3.0))
    pyro.sample("parts", dist.Dirichlet(torch.ones(3)))
    with pyro.plate("groups", 2):
        theta = pyro.sample("theta", dist.Normal(share, scale))
        pyro.sample("y", dist.Normal(theta, 1.0), obs=torch.tensor([1.0, -1.0]))
    pyro.sample("shift", dist.Uniform(-1.0, 3.0))


def one(size: int | None = None) -> None:
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", 200, subsample_size=size) as rows:
        pyro.sample("x", dist.Normal(m, 1.0), obs=ROWS[rows])


def train(
    model: Callable[..., Any], guide: Any, steps: int, *, rate: float = 0.02, loss: Any = None, args: Any = ()
) -> Any:
    optimiser = ClippedAdam({"lr": rate, "lrd": 0.05 ** (1 / max(steps, 1))})
    svi = SVI(model, guide, optimiser, loss or Trace_ELBO(num_particles=16, vectorize_particles=True))
    for _ in range(steps):
        svi.step(*args)
    return guide


@torch.no_grad()
def bound(model: Callable[..., Any], guide: Any, n: int = 4000) -> float:
    return -float(Trace_ELBO(num_particles=n, vectorize_particles=True).loss(model, guide))


@pytest.mark.parametrize(("start", "steps"), [("median", 3000), ("prior", 3000), ("laplace", 0), ("best", 0)])
def test_a_conjugate_posterior_is_found_to_a_hundredth_of_a_nat(start: str, steps: int) -> None:
    guide = hf.AutoHamiltonianFlow(conjugate, start=start)
    guide()
    # The documented training.
    train(conjugate, guide, steps, rate=0.01)
    evidence = float(dist.Normal(torch.zeros(3), math.sqrt(1.25)).log_prob(OBSERVED).sum())
    assert evidence - 0.01 <= bound(conjugate, guide) <= evidence + 0.001
    draws = guide.sample_posterior(20_000, seed=1)["m"]
    torch.testing.assert_close(draws.mean(0), OBSERVED / 1.25, atol=0.02, rtol=0)
    torch.testing.assert_close(draws.std(0), torch.full((3,), math.sqrt(0.2)), atol=0.02, rtol=0)


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_the_map_has_the_density_that_it_says(dim: int, float64: torch.dtype) -> None:
    phase = PhaseMap(dim, n_steps=2, width=6).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in phase.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    noise = torch.randn(4, 2 * dim, generator=generator, dtype=torch.float64)

    def to_phase(row: Tensor) -> Tensor:
        q, _ = phase(row)
        inner = phase.inner[0] + phase.inner[1].exp() * torch.cat((row[:dim] - row[dim:], row[dim:]))
        return torch.cat((q, phase.flow(inner)[dim:]))

    q, weight = phase(noise)
    for k, row in enumerate(noise):
        log_det = torch.linalg.slogdet(torch.autograd.functional.jacobian(to_phase, row))[1]
        p = to_phase(row)[dim:]
        y = phase.flow(phase.inner[0] + phase.inner[1].exp() * torch.cat((row[:dim] - row[dim:], row[dim:])))[:dim]
        torch.testing.assert_close(weight[k] - phase.encoder(p[None], y[None])[0], log_det)
        torch.testing.assert_close(phase(row)[0], q[k])


def test_the_marginal_density_integrates_to_one(float64: torch.dtype) -> None:
    # Fresh, r is exact and the bound is the density; trained away from that, its mean of weights still integrates.
    phase = PhaseMap(1, n_steps=2, width=6).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in phase.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    grid = torch.linspace(-15, 15, 3001)[:, None]
    with torch.no_grad():
        density = phase.log_density(grid, 400).exp().mean(0)
        draws = phase(torch.randn(20_000, 2, generator=generator, dtype=torch.float64))[0]
    assert abs(float(density.sum() * 0.01) - 1) < 0.01
    mean = (density * grid[:, 0]).sum() * 0.01
    assert abs(float(draws.mean() - mean)) < 0.03


def test_a_laplace_start_is_the_mode_with_its_curvature() -> None:
    def model() -> None:
        rate = pyro.sample("rate", dist.Gamma(3.0, 2.0))
        with pyro.plate("rows", 5):
            pyro.sample("x", dist.Exponential(rate), obs=torch.ones(5))

    guide = hf.AutoHamiltonianFlow(model, start="laplace")
    guide()
    # In the logarithm of the rate: 8 log r - 7 r, which is largest at r = 8 / 7, with the curvature -8.
    found = guide.sample_posterior(20_000, seed=0)["rate"].log()
    assert abs(float(found.mean()) - math.log(8 / 7)) < 0.01
    assert abs(float(found.std()) - 8**-0.5) < 0.01


def test_a_start_from_the_prior_is_as_wide_as_the_prior() -> None:
    guide = hf.AutoHamiltonianFlow(several, start="prior")
    guide()
    shift = guide.sample_posterior(4000, seed=0)["shift"]
    assert shift.min() < -0.7
    assert shift.max() > 2.7


def test_the_best_start_is_not_always_the_mode() -> None:
    def funnel() -> None:
        v = pyro.sample("v", dist.Normal(0.0, 3.0))
        with pyro.plate("x", 9):
            pyro.sample("z", dist.Normal(0.0, (v / 2).exp()))

    # Its mode is at v = -40.5, where there is next to no probability.
    guide = hf.AutoHamiltonianFlow(funnel)
    guide()
    assert abs(float(guide.median()["v"])) < 3


def test_no_mode_is_an_error() -> None:
    def unbounded() -> None:
        scale = pyro.sample("scale", dist.LogNormal(0.0, 10.0))
        pyro.sample("z", dist.Normal(torch.zeros(200), scale).to_event(1))

    with pytest.raises(hf.InputError, match="found no maximum"):
        hf.AutoHamiltonianFlow(unbounded, start="laplace")()


def test_it_is_a_guide_for_all_losses() -> None:
    losses = [
        Trace_ELBO(),
        Trace_ELBO(num_particles=3),
        Trace_ELBO(num_particles=3, vectorize_particles=True),
        TraceMeanField_ELBO(num_particles=3, vectorize_particles=True),
        RenyiELBO(num_particles=3, vectorize_particles=True),
        hf.ImportanceWeightedELBO(3),
        hf.ImportanceWeightedELBO(3, vectorize_particles=False),
    ]
    for loss in losses:
        pyro.clear_param_store()
        guide = train(several, hf.AutoHamiltonianFlow(several), 2, loss=loss)
        before = guide.values.detach().clone()
        SVI(several, guide, Adam({"lr": 0.1}), loss).step()
        assert not torch.equal(before, guide.values)


def test_sites_keep_their_supports_and_shapes() -> None:
    guide = train(several, hf.AutoHamiltonianFlow(several), 3)
    draws = guide.sample_posterior(50, seed=3)
    shapes = {"scale": (), "share": (), "parts": (3,), "theta": (2,), "shift": ()}
    assert {name: tuple(value.shape[1:]) for name, value in draws.items()} == shapes
    assert draws["scale"].min() > 0
    assert draws["shift"].min() > -1
    assert draws["shift"].max() < 3
    torch.testing.assert_close(draws["parts"].sum(-1), torch.ones(50))
    again = guide.sample_posterior(50, seed=3)
    assert all(torch.equal(draws[name], again[name]) for name in draws)
    assert {name: tuple(value.shape) for name, value in guide.median().items()} == shapes
    low, high = guide.quantiles([0.05, 0.95])["theta"]
    assert bool((low < high).all())


def test_predictive_in_both_modes() -> None:
    guide = train(several, hf.AutoHamiltonianFlow(several), 3)
    for parallel in (False, True):
        found = Predictive(several, guide=guide, num_samples=20, parallel=parallel)()
        assert {"scale", "theta", "parts"} <= set(found)
        assert found["theta"].reshape(20, 2).std(0).min() > 0


def test_minibatches() -> None:
    guide = train(one, hf.AutoHamiltonianFlow(one), 1000, args=(50,))
    draws = guide.sample_posterior(4000, seed=0)["m"]
    assert abs(float(draws.mean()) - float(ROWS.sum() / 201)) < 0.05
    assert abs(float(draws.std()) - 201**-0.5) < 0.02


def test_copies_stores_and_pickles(tmp_path: Path) -> None:
    guide = train(several, hf.AutoHamiltonianFlow(several), 3)
    twin = copy.deepcopy(guide)
    drawn = guide.sample_posterior(5, seed=0)["theta"]
    assert torch.equal(twin.sample_posterior(5, seed=0)["theta"], drawn)
    # The twin trains by itself, given a store of its own, and the original still has its model.
    pyro.clear_param_store()
    train(several, twin, 2)
    assert not torch.equal(twin.values, guide.values)
    pyro.clear_param_store()
    train(several, guide, 1)
    drawn = guide.sample_posterior(5, seed=0)["theta"]
    pyro.get_param_store().save(tmp_path / "store.pt")
    pyro.clear_param_store()
    pyro.get_param_store().load(tmp_path / "store.pt")
    fresh = hf.AutoHamiltonianFlow(several, seed=5)
    fresh()
    assert torch.equal(fresh.sample_posterior(5, seed=0)["theta"], drawn)
    other = hf.AutoHamiltonianFlow(several, seed=6)
    with pytest.raises(hf.InputError, match="has not seen its model"):
        other.load_state_dict(guide.state_dict())
    other()
    other.load_state_dict(guide.state_dict())
    assert torch.equal(other.sample_posterior(5, seed=0)["theta"], drawn)
    transform = guide.get_transform()
    assert torch.equal(pickle.loads(pickle.dumps(transform))(torch.ones(14)), transform(torch.ones(14)))


def test_a_store_that_is_loaded_is_read_by_whatever_comes_first(tmp_path: Path) -> None:
    guide = train(conjugate, hf.AutoHamiltonianFlow(conjugate, start="median"), 20)
    learned = guide.median()["m"]
    pyro.get_param_store().save(str(tmp_path / "store"))
    for ask in (lambda g: g.median(), lambda g: g.sample_posterior(2000, seed=0), lambda g: g.quantiles([0.5])):
        pyro.clear_param_store()
        pyro.get_param_store().load(str(tmp_path / "store"))
        fresh = hf.AutoHamiltonianFlow(conjugate, start="median")
        ask(fresh)
        torch.testing.assert_close(fresh.median()["m"], learned)
    with pytest.raises(hf.InputError, match=r"values has shape .* in Pyro's parameter store"):
        hf.AutoHamiltonianFlow(several).median()


def test_a_guide_in_a_file(tmp_path: Path) -> None:
    guide = train(conjugate, hf.AutoHamiltonianFlow(conjugate), 3)
    torch.save(guide, tmp_path / "guide.pt")
    again = torch.load(tmp_path / "guide.pt", weights_only=False)
    assert torch.equal(again.sample_posterior(5, seed=0)["m"], guide.sample_posterior(5, seed=0)["m"])
    # Training goes on with the one that was saved.
    SVI(conjugate, guide, Adam({"lr": 0.05}), Trace_ELBO()).step()
    torch.save(hf.AutoHamiltonianFlow(conjugate), tmp_path / "early.pt")
    with pytest.raises(hf.InputError, match="saved before it had seen its model"):
        torch.load(tmp_path / "early.pt", weights_only=False)()


def test_another_model_is_refused_in_its_coordinates() -> None:
    guide = train(conjugate, hf.AutoHamiltonianFlow(conjugate), 1)

    def other() -> None:
        pyro.sample("else", dist.Normal(0.0, 1.0))

    with pytest.raises(hf.InputError, match=r"latent site else, expected those of the guide: \['m'\]"):
        hf.HamiltonianReparam(guide).reparam(other)()


def test_double_precision(float64: torch.dtype) -> None:
    guide = train(several, hf.AutoHamiltonianFlow(several), 2)
    assert guide.sample_posterior(3)["theta"].dtype == torch.float64
    assert all(value.dtype == torch.float64 for value in guide.parameters())


def test_a_guide_of_a_scoped_model() -> None:
    def scoped() -> None:
        scope(conjugate, prefix="a")()

    guide = train(scoped, hf.AutoHamiltonianFlow(scoped), 2)
    assert set(guide.sample_posterior(3)) == {"a/m"}


def test_two_guides_of_two_names_share_a_store() -> None:
    pyro.clear_param_store()
    guides = {name: hf.AutoHamiltonianFlow(conjugate, seed=i, name=name) for i, name in enumerate("ab")}
    losses = {name: SVI(conjugate, guide, Adam({"lr": 0.05}), Trace_ELBO()) for name, guide in guides.items()}
    for _ in range(2):
        for svi in losses.values():
            svi.step()
    assert set(pyro.get_param_store()) == {"a.values", "b.values"}
    values = {name: guide.values.detach().clone() for name, guide in guides.items()}
    losses["b"].step()
    assert torch.equal(guides["a"].values, values["a"]) and not torch.equal(guides["b"].values, values["b"])


def test_functional_transforms_take_the_map_apart(float64: torch.dtype) -> None:
    phase, noise = PhaseMap(3), torch.randn(4, 6)
    torch.nn.init.normal_(phase.tails.shape, std=0.3)
    expected = torch.stack([torch.autograd.functional.jacobian(lambda x: phase(x)[0], row) for row in noise])
    torch.testing.assert_close(torch.func.vmap(torch.func.jacrev(lambda x: phase(x)[0]))(noise), expected)
    torch.testing.assert_close(torch.func.vmap(lambda x: phase(x)[1])(noise), phase(noise)[1])


def test_a_factorisation_that_fails_far_out_does_not_stop_the_start() -> None:
    x = torch.linspace(0, 1, 12)

    def process() -> None:
        scale = pyro.sample("scale", dist.LogNormal(0.0, 3.0))
        noise = pyro.sample("noise", dist.LogNormal(-3.0, 5.0))
        covariance = (-0.5 * ((x[:, None] - x) / scale) ** 2).exp() + noise**2 * torch.eye(12)
        root = torch.linalg.cholesky(covariance)
        pyro.sample("y", dist.MultivariateNormal(torch.zeros(12), scale_tril=root), obs=(6 * x).sin())

    guide = hf.AutoHamiltonianFlow(process)
    guide()
    assert guide.median()["scale"] > 0


CHAINS = """
import pyro, pyro.distributions as dist, torch, hamflow as hf
from pyro.infer import MCMC

def model():
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    pyro.sample("x", dist.Normal(m, 1.0), obs=torch.tensor(1.0))

if __name__ == "__main__":
    guide = hf.AutoHamiltonianFlow(model)
    guide()
    neutra = hf.HamiltonianReparam(guide)
    chain = MCMC(hf.inference.RecordedNUTS(neutra.reparam(model)), num_samples=6, warmup_steps=4, num_chains=2,
                 mp_context="spawn", disable_progbar=True)
    chain.run()
    draws = neutra.transform_sample(chain.get_samples(group_by_chain=True)["m_shared_latent"])
    print(tuple(draws["m"].shape), bool((draws["m"][0] != draws["m"][1]).any()))
"""


def test_chains_in_parallel_processes(tmp_path: Path) -> None:
    (tmp_path / "chains.py").write_text(CHAINS)
    found = subprocess.run([sys.executable, "chains.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert found.stdout.splitlines()[-1:] == ["(2, 6) True"], found.stderr


def test_no_inner_graph_is_left() -> None:
    guide = train(conjugate, hf.AutoHamiltonianFlow(conjugate), 1)
    assert all(buffer.numel() == 0 or not buffer.requires_grad for buffer in guide.phase.module.buffers())


def test_packing_changes_no_value() -> None:
    phase, noise = PhaseMap(3), torch.randn(4, 6)
    expected = phase(noise)
    packed, values = Packed.of(copy.deepcopy(phase))
    for found, value in zip(packed(values, "forward", noise), expected, strict=True):
        assert torch.equal(found, value)
    assert values.shape == (sum(p.numel() for p in phase.parameters()),)


def test_chains_in_its_noise_find_the_posterior() -> None:
    guide = train(conjugate, hf.AutoHamiltonianFlow(conjugate), 50)  # a poor guide costs speed, not truth
    neutra = hf.HamiltonianReparam(guide)
    chain = MCMC(NUTS(neutra.reparam(conjugate)), num_samples=400, warmup_steps=100, disable_progbar=True)
    chain.run()
    noise = chain.get_samples()["m_shared_latent"]
    assert noise.shape == (400, 6)
    draws = neutra.transform_sample(noise)["m"]
    torch.testing.assert_close(draws.mean(0), OBSERVED / 1.25, atol=0.1, rtol=0)
    torch.testing.assert_close(draws.std(0), torch.full((3,), math.sqrt(0.2)), atol=0.08, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize(("size", "least"), [(None, 0.2), (100, 2.5), (20, 5.0)])
def test_the_importance_weighted_bound_stays_one(size: int | None, least: float) -> None:
    evidence = float(dist.MultivariateNormal(torch.zeros(200), torch.eye(200) + 1).log_prob(ROWS))
    guide = pyro.infer.autoguide.AutoNormal(one)
    guide(20)
    guide.locs.m.fill_(float(ROWS.sum() / 201))
    guide.scales.m = torch.tensor(0.2)  # too wide

    def mean(loss: Any) -> tuple[float, float]:
        values = torch.tensor([-loss.loss(one, guide, size) for _ in range(600)])
        return float(values.mean()), float(values.std() / 600**0.5)

    ours, error = mean(hf.ImportanceWeightedELBO(8, max_plate_nesting=1))
    plain, _ = mean(Trace_ELBO(num_particles=8, vectorize_particles=True, max_plate_nesting=1))
    assert evidence - least < ours < evidence + 3 * error
    assert ours > plain - 3 * error
    if size is not None:
        theirs, spread = mean(RenyiELBO(alpha=0, num_particles=8, vectorize_particles=True, max_plate_nesting=1))
        assert theirs > ours + 2 * spread


def test_particles_one_after_the_other_have_one_minibatch() -> None:
    seen = []

    def by_rows() -> None:
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        assert m.ndim == 0  # as a model that knows nothing of dimensions on the left
        with pyro.plate("rows", len(ROWS), 20) as rows:
            seen.append(rows)
            pyro.sample("x", dist.Normal(m, 1.0), obs=ROWS[rows])

    guide = pyro.infer.autoguide.AutoNormal(by_rows)
    guide()
    seen.clear()
    bound = hf.ImportanceWeightedELBO(8, vectorize_particles=False)
    for _ in range(2):
        bound.loss(by_rows, guide)
    assert len(seen) == 16
    assert all(torch.equal(rows, seen[k - k % 8]) for k, rows in enumerate(seen))
    assert not torch.equal(seen[0], seen[8])
    with torch.no_grad(), pytest.raises(AssertionError):
        hf.ImportanceWeightedELBO(8, max_plate_nesting=1).loss(by_rows, guide)
    # Together and one after the other they are the same bound.
    together = hf.ImportanceWeightedELBO(8, max_plate_nesting=1)
    with torch.no_grad():
        guide = pyro.infer.autoguide.AutoNormal(one)
        guide(20)
        serial = hf.ImportanceWeightedELBO(8, vectorize_particles=False)
        pairs = [[loss.loss(one, guide, None) for _ in range(400)] for loss in (together, serial)]
    first, second = (torch.tensor(values) for values in pairs)
    error = float((first.var() / 400 + second.var() / 400).sqrt())
    assert abs(float(first.mean() - second.mean())) < 4 * error


def test_parameters_of_another_guide_are_refused() -> None:
    train(several, hf.AutoHamiltonianFlow(several), 1)
    with pytest.raises(hf.InputError, match="those of another guide of the same name"):
        hf.AutoHamiltonianFlow(conjugate)()


def discrete() -> None:
    pyro.sample("k", dist.Categorical(torch.ones(3)))


def within() -> None:
    top = pyro.sample("top", dist.LogNormal(0.0, 1.0))
    pyro.sample("u", dist.Uniform(0.0, top))


def coming() -> None:
    if pyro.sample("first", dist.Normal(0.0, 1.0)) > torch.randn(()) * 0 + coming.__dict__.setdefault("edge", 0.0):
        coming.__dict__["edge"] = 9.0
        pyro.sample("second", dist.Normal(0.0, 1.0))


def nothing() -> None:
    pyro.sample("x", dist.Normal(0.0, 1.0), obs=torch.tensor(0.0))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: hf.AutoHamiltonianFlow(conjugate, n_steps=0), "n_steps = 0"),
        (lambda: hf.AutoHamiltonianFlow(conjugate, width=2.5), "width = 2.5"),
        (lambda: hf.AutoHamiltonianFlow(conjugate, init_scale=0.0), "init_scale = 0.0"),
        (lambda: hf.AutoHamiltonianFlow(conjugate, seed=-1), "seed = -1"),
        (lambda: hf.AutoHamiltonianFlow(conjugate, start="mode"), "start = 'mode'"),
        (lambda: hf.AutoHamiltonianFlow(within)(), "site u has a support that changes"),
        (lambda: hf.AutoHamiltonianFlow(coming)(), "sites that come and go"),
        (lambda: hf.AutoHamiltonianFlow(conjugate).sample_posterior(0), "n = 0"),
        (lambda: hf.HamiltonianReparam(pyro.infer.autoguide.AutoNormal(conjugate)), "guide is a AutoNormal"),
        (lambda: hf.HamiltonianReparam(hf.AutoHamiltonianFlow(conjugate)), "has not seen its model"),
        (lambda: hf.ImportanceWeightedELBO(0), "num_particles = 0"),
        (lambda: hf.AutoHamiltonianFlow(discrete)(), "discrete sample site 'k'"),
        (lambda: hf.AutoHamiltonianFlow(nothing)(), "no latent variables"),
    ],
)
def test_bad_input_is_named(call: Callable[[], Any], message: str) -> None:
    with pytest.raises((ValueError, RuntimeError), match=message):
        call()
