"""Adapters: the same density through nflows, zuko and Pyro, either way."""

import copy
import subprocess
import sys
from typing import Any

import nflows.distributions
import nflows.flows
import nflows.transforms
import pyro.distributions as dist
import pytest
import torch
from nflows.nn.nets import ResidualNet
from pyro.distributions.transforms import ComposeTransformModule, affine_coupling, spline_coupling
from torch import nn
from torch.distributions.transforms import ComposeTransform

from hamflow import interop
from hamflow.errors import InputError
from hamflow.flow import PhaseFlow, hamiltonian
from hamflow.interop.foreign import inverse_and_log_det, row_log_det
from hamflow.interop.nflows import from_nflows, to_nflows
from hamflow.interop.zuko import from_zuko, to_zuko
from hamflow.models.lifts import coupling_flow
from hamflow.models.linear import LULinear
from hamflow.standardize import Whitening
from hamflow.steps import Lift
from hamflow.testing import check_flow, check_step
from tests.parts import nflows_spline, shaken

import zuko  # isort: skip  # after hamflow.interop.zuko, which leaves torch's argument checks on


def normal(dim: int) -> dist.Independent:
    return dist.Normal(torch.zeros(dim), torch.ones(dim)).to_event(1)


def zuko_flow(base_dim: int, transform: Any) -> Any:
    base = zuko.lazy.UnconditionalDistribution(
        zuko.distributions.DiagNormal, torch.zeros(base_dim), torch.ones(base_dim), buffer=True
    )
    return zuko.lazy.Flow(transform, base)


def linear() -> Any:
    return shaken(nflows.transforms.LULinear(3))


def composite() -> Any:
    net = lambda n_in, n_out: ResidualNet(n_in, n_out, 8, num_blocks=1)  # noqa: E731
    coupling = nflows.transforms.AffineCouplingTransform(torch.tensor([1.0, -1.0, 1.0]), net)
    return nflows.transforms.CompositeTransform([linear(), nflows_spline(3), coupling])


NFLOWS = {
    "linear": linear,
    "spline": lambda: nflows_spline(3),
    "composite": composite,
    "autoregressive": lambda: nflows.transforms.MaskedAffineAutoregressiveTransform(3, 8),
}


@pytest.mark.parametrize("make", NFLOWS.values(), ids=NFLOWS.keys())
def test_from_nflows_is_the_same_density(make: Any, float64: torch.dtype) -> None:
    transform = make()
    theirs = nflows.flows.Flow(transform, nflows.distributions.StandardNormal([3])).double()
    ours = dist.TransformedDistribution(normal(3), [from_nflows(transform)])
    x = torch.randn(2, 5, 3)
    torch.testing.assert_close(ours.log_prob(x).flatten(), theirs.log_prob(x.reshape(-1, 3)))
    assert ours.sample((2, 5)).shape == (2, 5, 3)
    assert ours.log_prob(torch.randn(3)).shape == ()


@pytest.mark.parametrize("make", NFLOWS.values(), ids=NFLOWS.keys())
def test_from_nflows_keeps_the_promises_of_a_flow(make: Any) -> None:
    check_flow(from_nflows(make()), 3)
    check_flow(from_nflows(make()).reversed(), 3)


def test_there_and_back_is_the_same_nflows_transform(float64: torch.dtype) -> None:
    transform = nflows_spline(3)
    again = to_nflows(from_nflows(transform))
    x = torch.randn(6, 3)
    for found, expected in ((again(x), transform(x)), (again.inverse(x), transform.inverse(x))):
        torch.testing.assert_close(found, expected)
    assert {id(p) for p in again.parameters()} == {id(p) for p in transform.parameters()}


def test_reversed_follows_the_direction_of_nflows(float64: torch.dtype) -> None:
    transform, x = nflows_spline(3), torch.randn(6, 3)
    noise, log_det = transform(x)
    back = from_nflows(transform).reversed()
    torch.testing.assert_close(back(x), noise)
    torch.testing.assert_close(back.log_abs_det_jacobian(x, noise), log_det)


CONTEXTS = {"vector": (2,), "rows": (5, 2), "batch": (4, 5, 2), "broadcast": (4, 1, 2)}


@pytest.mark.parametrize("shape", CONTEXTS.values(), ids=CONTEXTS.keys())
@pytest.mark.parametrize("library", ["nflows", "zuko"])
def test_context_is_broadcast_to_the_batch(library: str, shape: tuple[int, ...], float64: torch.dtype) -> None:
    context = torch.randn(shape)
    x = torch.randn(4, 5, 3)
    full = context.expand(4, 5, 2)
    if library == "nflows":
        transform = nflows_spline(3, context=2)
        flow = from_nflows(transform, context=context)
        noise, log_det = transform(x.reshape(-1, 3), full.reshape(-1, 2))
    else:
        lazy = zuko.flows.NSF(3, 2, transforms=2, bins=4, hidden_features=(8,)).transform
        flow = from_zuko(lazy, context=context)
        noise, log_det = lazy(full).call_and_ladj(x)
    torch.testing.assert_close(flow.inv(x), noise.view_as(x))
    torch.testing.assert_close(flow.log_abs_det_jacobian(noise.view_as(x), x), -log_det.view(4, 5))
    torch.testing.assert_close(flow(flow.inv(x)), x)
    assert not any(name == "context" for name in flow.state_dict())
    with pytest.raises(InputError, match=r"context has shape .*expected one that broadcasts to \(7, 'c'\)"):
        type(flow)(flow.transform, context=torch.randn(3, 2))(torch.randn(7, 3))


ZUKO = {
    "nsf": lambda: zuko.flows.NSF(3, transforms=2, bins=4, hidden_features=(8,)),
    "maf": lambda: zuko.flows.MAF(3, transforms=2, hidden_features=(8,)),
    "coupling": lambda: zuko.flows.RealNVP(3, transforms=2, hidden_features=(8,)),
}


@pytest.mark.parametrize("make", ZUKO.values(), ids=ZUKO.keys())
def test_from_zuko_is_the_same_density(make: Any, float64: torch.dtype) -> None:
    theirs = make()
    x = torch.randn(2, 5, 3)
    for transform in (theirs.transform, theirs.transform()):
        ours = dist.TransformedDistribution(normal(3), [from_zuko(transform)])
        torch.testing.assert_close(ours.log_prob(x), theirs().log_prob(x))
        assert ours.sample((2, 5)).shape == (2, 5, 3)


@pytest.mark.parametrize("make", ZUKO.values(), ids=ZUKO.keys())
def test_from_zuko_keeps_the_promises_of_a_flow(make: Any) -> None:
    check_flow(from_zuko(make().transform), 3)


def test_from_zuko_sums_the_log_det_of_single_numbers() -> None:
    scale = torch.tensor([1.0, 2.0, 3.0])
    flow = from_zuko(zuko.transforms.AffineTransform(0.0, scale))
    x = torch.randn(5, 3)
    torch.testing.assert_close(flow.log_abs_det_jacobian(flow.inv(x), x), -scale.log().sum().expand(5))


def flows() -> dict[str, Any]:
    return {
        "phase": shaken(hamiltonian(4, n_steps=3, width=8)),
        "mixed": ComposeTransformModule([affine_coupling(4), shaken(hamiltonian(4, n_steps=2, width=8))]),
    }


@pytest.mark.parametrize("name", flows())
@pytest.mark.parametrize("library", ["nflows", "zuko"])
def test_our_flow_inside_theirs(library: str, name: str, float64: torch.dtype) -> None:
    flow = flows()[name].double()
    ours = dist.TransformedDistribution(normal(4), [flow])
    x = torch.randn(7, 4)
    if library == "nflows":
        theirs = nflows.flows.Flow(to_nflows(flow), nflows.distributions.StandardNormal([4])).double()
        log_prob, sample = theirs.log_prob(x), theirs.sample(2000)
        drawn, their_log_prob = theirs.sample_and_log_prob(6)
    else:
        theirs = zuko_flow(4, to_zuko(flow))
        log_prob, sample = theirs().log_prob(x), theirs().sample((2000,))
        drawn, their_log_prob = theirs().rsample_and_log_prob((6,))
        assert theirs().log_prob(torch.randn(2, 3, 4)).shape == (2, 3)
    torch.testing.assert_close(log_prob, ours.log_prob(x))
    torch.testing.assert_close(their_log_prob, ours.log_prob(drawn))
    torch.testing.assert_close(sample.mean(0), ours.sample((2000,)).mean(0), rtol=0, atol=0.3)


@pytest.mark.parametrize("library", ["nflows", "zuko"])
def test_our_flow_trains_inside_theirs(library: str) -> None:
    flow = shaken(hamiltonian(4, n_steps=2, width=8))
    x = torch.randn(100, 4) @ torch.randn(4, 4)
    if library == "nflows":
        theirs = nflows.flows.Flow(to_nflows(flow), nflows.distributions.StandardNormal([4]))
        log_prob = theirs.log_prob
    else:
        theirs = zuko_flow(4, to_zuko(flow))
        log_prob = lambda rows: theirs().log_prob(rows)  # noqa: E731
    assert {id(p) for p in flow.parameters()} <= {id(p) for p in theirs.parameters()}
    assert_trains(theirs, log_prob, x)


@pytest.mark.parametrize("library", ["nflows", "zuko"])
def test_their_transform_trains_inside_pyro(library: str) -> None:
    flow = from_nflows(nflows_spline(3)) if library == "nflows" else from_zuko(ZUKO["nsf"]().transform)
    target = dist.TransformedDistribution(normal(3), [flow])
    assert_trains(flow, target.log_prob, torch.randn(100, 3) ** 2)


def assert_trains(module: nn.Module, log_prob: Any, x: torch.Tensor) -> None:
    optimiser = torch.optim.Adam([p for p in module.parameters() if p.requires_grad], 0.01)
    losses = []
    for _ in range(15):
        optimiser.zero_grad()
        loss = -log_prob(x).mean()
        loss.backward()
        assert all(p.grad is not None for p in module.parameters() if p.requires_grad)
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.02


def test_lifted_nflows_spline_is_symplectic_and_trains() -> None:
    lift = Lift(from_nflows(nflows_spline(3)))
    report = check_step(lift, 3, n_steps=1)
    assert report.round_trip <= 1e-12
    assert report.log_det <= 1e-12
    flow = PhaseFlow(lift)
    x = torch.randn(20, 6)
    flow(x).square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in flow.parameters())
    twin = copy.deepcopy(flow)
    assert torch.equal(twin(x), flow(x))
    with torch.inference_mode():
        torch.testing.assert_close(flow.inv(flow(x)), x, rtol=1e-3, atol=1e-3)


def test_lifted_zuko_and_pyro_splines_compose_with_a_hamiltonian_flow(float64: torch.dtype) -> None:
    torch.manual_seed(0)
    parts = [Lift(from_zuko(ZUKO["nsf"]().transform)), Lift(spline_coupling(3)), Lift(from_nflows(nflows_spline(3)))]
    flow = ComposeTransformModule([*(PhaseFlow(part) for part in parts), shaken(hamiltonian(6, n_steps=3, width=8))])
    flow = flow.double()
    x = torch.randn(6)
    jacobian = torch.autograd.functional.jacobian(flow, x)
    assert torch.linalg.slogdet(jacobian).logabsdet.abs() < 1e-11
    torch.testing.assert_close(flow.inv(flow(x).clone()), x, rtol=1e-9, atol=1e-9)


def test_layers_that_wait_for_data_are_refused() -> None:
    layer = nflows.transforms.ActNorm(3)
    stack = nflows.transforms.CompositeTransform([linear(), layer])
    with pytest.raises(InputError, match="ActNorm that waits for data"):
        from_nflows(stack)
    stack(torch.randn(50, 3))
    check_flow(from_nflows(stack), 3)


REFUSALS = {
    "nflows": (lambda: from_nflows(nn.Linear(2, 2)), "transform is a Linear, expected an nflows Transform"),
    "zuko": (lambda: from_zuko(nn.Linear(2, 2)), "transform is a Linear, expected a zuko LazyTransform"),
    "zuko_flow": (lambda: from_zuko(ZUKO["nsf"]()), r"transform is a NSF.*pass its \.transform"),
    "zuko_context": (
        lambda: from_zuko(zuko.transforms.IdentityTransform(), context=torch.ones(2)),
        r"context has shape \(2,\), expected None",
    ),
    "context": (lambda: from_nflows(linear(), context=3.0), "context = 3.0, expected None or a tensor"),  # type: ignore[arg-type]
    "to_nflows": (lambda: to_nflows(hamiltonian(4).inv), r"expected a Pyro TransformModule.*flow\.reversed\(\)"),
    "to_zuko": (lambda: to_zuko(nn.Linear(2, 2)), "flow is a Linear"),
}


@pytest.mark.parametrize(("call", "message"), REFUSALS.values(), ids=REFUSALS.keys())
def test_bad_arguments_are_named(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


def test_adapters_are_listed_and_others_refused() -> None:
    assert {"nflows", "sklearn", "zuko"} <= set(dir(interop))
    assert interop.nflows.from_nflows is from_nflows
    with pytest.raises(AttributeError, match="no attribute 'normflows', expected one of nflows, sklearn, zuko"):
        _ = interop.normflows


def test_zuko_leaves_the_argument_checks_of_torch_on() -> None:
    code = (
        "import hamflow; hamflow.interop.zuko; from torch.distributions import Distribution;"
        "assert Distribution._validate_args, 'off'"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.filterwarnings("error")
def test_our_linear_map_is_that_of_nflows(float64: torch.dtype) -> None:
    theirs, ours = shaken(nflows.transforms.LULinear(4)), LULinear(4)
    x = torch.randn(7, 4)
    for found, expected in zip(ours(x), (x, torch.zeros(7)), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-15)
    ours.load_state_dict(theirs.state_dict())
    for found, expected in zip(ours(x), theirs(x), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)
    back, log_det = ours.inverse(x)
    torch.testing.assert_close(theirs(back)[0], x, rtol=1e-12, atol=1e-12)
    jacobian = torch.autograd.functional.jacobian(lambda z: ours.inverse(z[None])[0][0], x[0])
    torch.testing.assert_close(torch.linalg.slogdet(jacobian).logabsdet, log_det[0], rtol=1e-12, atol=1e-12)
    check_flow(from_nflows(ours), 4)


@pytest.mark.filterwarnings("error:.*triangular_solve")
def test_a_lift_in_closed_form_is_the_lift(float64: torch.dtype) -> None:
    rows = torch.randn(50, 3) @ torch.tensor([[1.0, 2.0, 0.0], [0.0, 5.0, 1.0], [0.0, 0.0, 0.1]])
    whitening = Whitening(3).estimate(rows, "full")
    q, p = torch.randn(2, 4, 3), torch.randn(2, 4, 3)
    # A composition knows nothing of its part's own lift.
    for transform in (whitening, whitening.inv):
        closed, general = Lift(transform), Lift(ComposeTransform([transform]))
        for way in ("forward", "inverse"):
            for ours, theirs in zip(getattr(closed, way)(q, p), getattr(general, way)(q, p), strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_the_lift_of_a_hybrid_calls_nothing_deprecated() -> None:
    flow = coupling_flow("spline", 2, layers=1, width=4)
    torch.testing.assert_close(flow.inv(flow(torch.ones(3, 2))), torch.ones(3, 2))
    assert not [module for module in flow.modules() if isinstance(module, nflows.transforms.LULinear)]


@pytest.mark.parametrize("reverse", [False, True], ids=["to_data", "to_noise"])
def test_inverse_and_log_det_together(reverse: bool, float64: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    flow = from_nflows(nflows_spline(3))
    transform, y, calls = flow.reversed() if reverse else flow, torch.randn(5, 3), []
    expected = transform.inv(y)
    expected_log_det = -row_log_det(transform, expected, y)
    forward = nflows.transforms.PiecewiseRationalQuadraticCouplingTransform.forward
    monkeypatch.setattr(type(flow.transform), "forward", lambda self, *a: calls.append(1) or forward(self, *a))
    torch.testing.assert_close(inverse_and_log_det(transform, y), (expected, expected_log_det))
    assert len(calls) == 1
    single = affine_coupling(3)
    found, log_det = inverse_and_log_det(single, y)
    torch.testing.assert_close(single(found), y)
    torch.testing.assert_close(log_det, -single.log_abs_det_jacobian(found, y))
