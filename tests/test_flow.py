"""PhaseFlow as Pyro, PyTorch and torch.func use it."""

import copy
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions.transforms import AffineTransform, ComposeTransformModule, affine_coupling, iterated
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoNormalizingFlow
from torch import Tensor, nn

from hamflow.energies import FunctionEnergy, MLPPotential, QuadraticKinetic, RidgePotential, SeparableHamiltonian
from hamflow.errors import InputError
from hamflow.flow import PhaseFlow, hamiltonian, layered_hamiltonian
from hamflow.steps import SYMPLECTIC_EULER, YOSHIDA4, ImplicitMidpoint, Splitting
from hamflow.steps.fused import ridge_flow
from hamflow.testing import check_flow
from tests.parts import pendulums, shaken


def make_flow(dtype: torch.dtype = torch.float32) -> PhaseFlow:
    return shaken(hamiltonian(4, n_steps=3, width=8)).to(dtype)


def normal(dim: int = 4, dtype: torch.dtype = torch.float32) -> dist.Independent:
    return dist.Normal(torch.zeros(dim, dtype=dtype), torch.ones(dim, dtype=dtype)).to_event(1)


def test_positions_come_first(float64: torch.dtype) -> None:
    step = Splitting(pendulums().double())
    q, p = torch.randn(5, 2), torch.randn(5, 2)
    moved = PhaseFlow(step, n_steps=4, dt=0.2)(torch.cat((q, p), -1))
    torch.testing.assert_close(moved, torch.cat(step.iterate(q, p, 0.0, 0.2, 4), -1))


def test_implicit_steps_through_layers_come_back(float64: torch.dtype) -> None:
    """The midpoint of a step lies halfway between two layers: both directions must take the same one."""
    energy = shaken(layered_hamiltonian(2, n_steps=8, width=8, dt=0.1))
    flow = PhaseFlow(ImplicitMidpoint(energy), n_steps=8, dt=0.1)
    x = torch.randn(50, 4)
    assert (flow(x) - x).abs().max() > 0.1
    assert (flow.inv(flow(x)) - x).abs().max() <= 1e-9
    assert (flow(flow.inv(x)) - x).abs().max() <= 1e-9
    (used,) = torch.autograd.grad(flow(x).square().sum(), energy.potential.amplitude)
    assert used.any(-1).tolist() == [False] + 8 * [True]  # each step has a layer of its own, the later of the two


def test_density_of_a_transformed_distribution(float64: torch.dtype) -> None:
    flow = make_flow(torch.float64)
    target = dist.TransformedDistribution(normal(dtype=torch.float64), [flow])
    x = target.rsample((7,))
    torch.testing.assert_close(target.log_prob(x), normal(dtype=torch.float64).log_prob(flow.inv(x)))
    assert target.rsample().shape == (4,)
    assert target.expand((3,)).rsample((2,)).shape == (2, 3, 4)
    assert target.log_prob(target.rsample((2, 3))).shape == (2, 3)


def test_density_sums_to_one() -> None:
    flow = shaken(hamiltonian(2, n_steps=4, width=8)).double()
    target = dist.TransformedDistribution(normal(2, torch.float64), [flow])
    axis = torch.linspace(-12, 12, 401, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    total = target.log_prob(grid).exp().sum() * (axis[1] - axis[0]) ** 2
    torch.testing.assert_close(total.item(), 1.0, rtol=0, atol=1e-6)


@pytest.mark.parametrize("cache_size", [0, 1])
def test_training_twice_on_one_tensor(cache_size: int) -> None:
    flow, x = make_flow(), torch.randn(20, 4)
    target = dist.TransformedDistribution(normal(), [flow.with_cache(cache_size)])
    optimiser = torch.optim.Adam(flow.parameters(), 0.01)
    losses = []
    for _ in range(3):
        optimiser.zero_grad()
        batch = x if cache_size == 0 else x.clone()
        loss = -target.log_prob(batch).mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[2] < losses[1] < losses[0]


def test_cache_is_off_by_default_and_shares_parameters() -> None:
    flow = make_flow()
    assert flow._cache_size == 0
    cached = flow.with_cache()
    assert cached.with_cache(1) is cached
    assert cached.step is flow.step
    x = torch.randn(3, 4)
    assert cached.inv(cached(x)) is x
    assert flow.inv(flow(x)) is not x


def test_composes_with_other_transforms_and_their_caches() -> None:
    composed = ComposeTransformModule([make_flow(), affine_coupling(4), make_flow()])
    assert len(list(composed.parameters())) == 2 * 4 + 4
    x = torch.randn(5, 4)
    y = composed(x)
    torch.testing.assert_close(
        composed.log_abs_det_jacobian(x, y),
        composed[1].log_abs_det_jacobian(composed[0](x), composed[1](composed[0](x))),
    )
    torch.testing.assert_close(composed.with_cache(1).inv(y), x, rtol=1e-4, atol=1e-4)
    independent = torch.distributions.IndependentTransform(make_flow(), 1)
    assert independent.with_cache(1)(torch.randn(2, 5, 4)).shape == (2, 5, 4)
    assert independent.log_abs_det_jacobian(torch.randn(2, 5, 4), torch.randn(2, 5, 4)).shape == (2,)


def test_reversed_is_the_inverse_and_trains() -> None:
    flow = make_flow(torch.float64)
    back = flow.reversed()
    x = torch.randn(5, 4, dtype=torch.float64)
    assert torch.equal(back(x), flow.inv(x))
    assert torch.equal(back.inv(x), flow(x))
    assert torch.equal(back.reversed()(x), flow(x))
    assert {id(p) for p in back.parameters()} == {id(p) for p in flow.parameters()}
    back(x).square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in flow.parameters())


def test_pyro_module_registers_every_parameter() -> None:
    flow = make_flow()
    trace = poutine.trace(lambda: pyro.module("flow", flow)).get_trace()
    sites = {name for name, site in trace.nodes.items() if site["type"] == "param"}
    assert sites == {f"flow$$${name}" for name, p in flow.named_parameters() if p.requires_grad}


def conjugate(x: Tensor) -> None:
    """z ~ N(0, I) of dimension 4, x | z ~ N(z, I)."""
    z = pyro.sample("z", normal())
    with pyro.plate("rows", len(x)):
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def with_scale(dim: int) -> ComposeTransformModule:
    """Affine couplings on either side: alone, a flow that preserves volume has the entropy of its base."""
    return ComposeTransformModule([affine_coupling(dim), hamiltonian(dim, n_steps=2, width=8)])


@pytest.mark.parametrize("make", [partial(iterated, 1, hamiltonian), with_scale], ids=["iterated", "composed"])
def test_autoguide_trains(make: Callable[[int], nn.Module]) -> None:
    x = torch.tensor([[2.0, -1.0, 0.5, 1.0]]).expand(4, 4)
    guide = AutoNormalizingFlow(conjugate, make)
    svi = SVI(conjugate, guide, pyro.optim.Adam({"lr": 0.02}), Trace_ELBO(num_particles=4, vectorize_particles=True))
    losses = [svi.step(x) for _ in range(100)]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    trained = [p for p in guide.parameters() if p.requires_grad]
    assert len(trained) >= 4
    drawn = Predictive(conjugate, guide=guide, num_samples=5, parallel=False)(x)["z"]
    assert drawn.reshape(5, 4).std(0).min() > 0


def test_iterated_helper_makes_separate_flows() -> None:
    layers = iterated(2, hamiltonian, 4)
    assert len(list(layers.parameters())) == 2 * len(list(hamiltonian(4).parameters()))


def test_nuts_through_the_flow() -> None:
    flow = make_flow().requires_grad_(False)

    def model() -> None:
        pyro.sample("x", dist.TransformedDistribution(normal(), [flow]))

    mcmc = MCMC(NUTS(model, max_tree_depth=3), num_samples=10, warmup_steps=5, disable_progbar=True)
    mcmc.run()
    draws = mcmc.get_samples()["x"]
    assert draws.shape == (10, 4)
    assert torch.isfinite(draws).all()
    assert draws.std() > 0


def test_nuts_with_a_users_potential_under_no_grad() -> None:
    energy = SeparableHamiltonian(QuadraticKinetic(2), FunctionEnergy(lambda q: (q**2).sum(-1).cosh().log()))
    flow = PhaseFlow(Splitting(energy), n_steps=2)

    def model() -> None:
        pyro.sample("x", dist.TransformedDistribution(normal(), [flow]))

    mcmc = MCMC(NUTS(model, max_tree_depth=2), num_samples=3, warmup_steps=2, disable_progbar=True)
    mcmc.run()
    assert torch.isfinite(mcmc.get_samples()["x"]).all()
    assert Predictive(model, num_samples=4, parallel=True)()["x"].shape == (4, 4)


@pytest.mark.parametrize("potential", ["ridge", "function"])
def test_torch_func(potential: str) -> None:
    if potential == "ridge":
        flow = make_flow(torch.float64)
    else:
        mlp = MLPPotential(2, widths=(8,))
        energy = SeparableHamiltonian(QuadraticKinetic(2), FunctionEnergy(lambda q: mlp(q)))
        flow = PhaseFlow(Splitting(energy, YOSHIDA4), n_steps=2)
        mlp.double()
        flow.double()
    x = torch.randn(6, 4, dtype=torch.float64)
    torch.testing.assert_close(torch.vmap(flow)(x), flow(x))
    reverse = torch.vmap(torch.func.jacrev(flow))(x)
    torch.testing.assert_close(torch.vmap(torch.func.jacfwd(flow))(x), reverse)
    torch.testing.assert_close(torch.linalg.slogdet(reverse).logabsdet.abs().max().item(), 0.0, rtol=0, atol=1e-12)
    plain = torch.autograd.functional.jacobian(flow, x[0])
    torch.testing.assert_close(reverse[0], plain)
    hessian = torch.func.hessian(lambda z: flow(z).square().sum())(x[0])
    torch.testing.assert_close(hessian, hessian.mT)


class Called(nn.Module):
    """A transform is called through __call__; functional_call wants a forward."""

    def __init__(self, flow: PhaseFlow) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, x: Tensor) -> Tensor:
        return self.flow(x)


def test_gradients_by_functional_call() -> None:
    flow, x = make_flow(), torch.randn(6, 4)
    parameters = dict(flow.named_parameters())

    def loss(values: dict[str, Tensor], row: Tensor) -> Tensor:
        moved = torch.func.functional_call(Called(flow), {f"flow.{name}": v for name, v in values.items()}, (row,))
        return moved.square().sum()

    per_row = torch.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
    together = torch.func.grad(lambda values: loss(values, x))(parameters)
    for name, gradient in together.items():
        torch.testing.assert_close(per_row[name].sum(0), gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_sampling_without_gradients(mode: Any) -> None:
    flow = make_flow()
    with mode():
        x = dist.TransformedDistribution(normal(), [flow]).sample((5,))
        assert not x.requires_grad
        assert not flow(x).requires_grad
    assert flow(torch.randn(5, 4)).requires_grad


def test_frozen_flow_leaks_no_graph() -> None:
    assert not make_flow().requires_grad_(False)(torch.randn(3, 4)).requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_follows(dtype: torch.dtype) -> None:
    flow = make_flow(dtype)
    x = torch.randn(3, 4, dtype=dtype)
    assert flow(x).dtype == flow.inv(x).dtype == flow.log_abs_det_jacobian(x, x).dtype == dtype
    torch.testing.assert_close(flow.inv(flow(x)), x)


def test_copies_and_pickles_after_use(float64: torch.dtype) -> None:
    flow = make_flow(torch.float64)
    x = torch.randn(3, 4)
    flow.inv(flow(x)).sum().backward()
    for twin in (copy.deepcopy(flow), pickle.loads(pickle.dumps(flow))):
        torch.testing.assert_close(twin(x), flow(x))
        torch.testing.assert_close(twin.inv(x), flow.inv(x))
        with torch.no_grad():
            next(iter(twin.parameters())).add_(1.0)
        assert not torch.equal(twin(x), flow(x))


def test_state_holds_parameters_only() -> None:
    flow = make_flow()
    assert set(flow.state_dict()) == {name for name, _ in flow.named_parameters()}
    fresh = hamiltonian(4, n_steps=3, width=8)
    fresh.load_state_dict(flow.state_dict())
    x = torch.randn(3, 4)
    assert torch.equal(fresh(x), flow(x))


def test_helper_layers() -> None:
    assert hamiltonian(4, n_steps=6).step.hamiltonian.potential.layers == 7
    assert hamiltonian(4, n_steps=6, layerwise=False).step.hamiltonian.potential.layers == 1
    euler = layered_hamiltonian(2, n_steps=6, width=4, dt=0.1, scheme=SYMPLECTIC_EULER)
    assert euler.potential.layers == 6  # its last kick comes before the end: a seventh layer would never act


REFUSALS = {
    "step": (lambda: PhaseFlow(pendulums()), "step is a SeparableHamiltonian, expected a hamflow Step"),  # type: ignore[arg-type]
    "n_steps": (lambda: PhaseFlow(Splitting(pendulums()), n_steps=0), "n_steps = 0, expected a positive integer"),
    "n_steps_float": (lambda: PhaseFlow(Splitting(pendulums()), n_steps=2.0), "n_steps = 2.0"),  # type: ignore[arg-type]
    "dt": (lambda: PhaseFlow(Splitting(pendulums()), dt=float("nan")), "dt = nan, expected a positive finite number"),
    "odd": (lambda: make_flow()(torch.ones(5, 3)), r"x has shape \(5, 3\), expected \(\*batch, 2 d\)"),
    "scalar": (lambda: make_flow()(torch.ones(())), r"x has shape \(\)"),
    "input_dim": (lambda: hamiltonian(3), "input_dim = 3, expected an even number"),
    "input_dim_sign": (lambda: hamiltonian(-2), "input_dim = -2, expected a positive integer"),
}


@pytest.mark.parametrize(("call", "message"), REFUSALS.values(), ids=REFUSALS.keys())
def test_bad_arguments_are_named(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


class Stretching(PhaseFlow):
    """It claims to preserve volume and does not."""

    def _call(self, x: Tensor) -> Tensor:
        return 1.01 * super()._call(x)

    def _inverse(self, y: Tensor) -> Tensor:
        return super()._inverse(y / 1.01)


class Forgetful(PhaseFlow):
    """Its cached version has parameters of its own."""

    def with_cache(self, cache_size: int = 1) -> PhaseFlow:
        return PhaseFlow(copy.deepcopy(self.step), self.n_steps, self.dt, cache_size=cache_size)


@pytest.mark.parametrize(
    ("make", "message"),
    [(Stretching, r"log_abs_det_jacobian against the Jacobian: 3.98e-02"), (Forgetful, "parameters of its own")],
)
def test_check_flow_finds(make: type[PhaseFlow], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_flow(make(make_flow().step, n_steps=3, dt=0.25), 4)


def test_check_flow_finds_a_cache_that_is_on() -> None:
    with pytest.raises(AssertionError, match="training twice on one tensor"):
        check_flow(affine_coupling(4), 4)


def test_check_flow_takes_plain_transforms() -> None:
    loc, scale = torch.zeros(3).double(), torch.tensor([1.0, 2.0, 3.0]).double()
    check_flow(AffineTransform(loc, scale, event_dim=1), 3)
    with pytest.raises(AssertionError, match="expected a bijection of real vectors"):
        check_flow(AffineTransform(loc, scale), 3)


@pytest.mark.parametrize("batch", [(), (7,), (3, 5)])
def test_a_ridge_flow_as_one_node_is_the_flow_of_its_steps(batch: tuple[int, ...], float64: torch.dtype) -> None:
    potential = shaken(RidgePotential(4, width=6, layers=3, spacing=0.2))
    energy = SeparableHamiltonian(QuadraticKinetic(4, mass=torch.tensor(0.7)), potential)
    flow = PhaseFlow(Splitting(energy, SYMPLECTIC_EULER), n_steps=3, dt=0.2)
    x, along = torch.randn(*batch, 8, requires_grad=True), torch.randn(*batch, 8)
    found = []
    for y in (flow(x), torch.cat(ridge_flow(x, potential, dt=0.2, mass=0.7), -1)):
        found.append((y, *torch.autograd.grad((y * along).sum(), [x, *potential.parameters()])))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=0)
    with pytest.raises(InputError, match="potential has ridges 'sine'"):
        ridge_flow(x, RidgePotential(4, activation="sine"), dt=0.2, mass=1.0)
