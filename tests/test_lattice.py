"""Splitting on a lattice: the way back is exact, the motion is the plain one's, and the span is kept."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

import hamflow as hf
from hamflow.steps import LEAPFROG, YOSHIDA4, LatticeSplitting, Scheme, Splitting
from tests.parts import learned, pendulums

DTYPES = (torch.float32, torch.float64)


def states(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    q, p = torch.randn(2, 100, 2, generator=generator, dtype=dtype)
    return q, p


def energy(kind: str, dtype: torch.dtype) -> hf.SeparableHamiltonian:
    return (pendulums() if kind == "pendulums" else learned("full")).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["pendulums", "learned"])
@torch.no_grad()
def test_ten_thousand_steps_and_back_lose_no_bit(kind: str, dtype: torch.dtype) -> None:
    step = LatticeSplitting(energy(kind, dtype), span=16384)
    spacing = step.spacing(dtype)
    q, p = (spacing * (x / spacing).round() for x in states(dtype))
    there = step.iterate(q, p, 0.0, 0.1, 10_000)
    back = step.iterate_inverse(*there, 0.0, 0.1, 10_000)
    assert torch.equal(back[0], q)
    assert torch.equal(back[1], p)
    # A state rounded in single steps lies on the lattice all the same.
    assert all(torch.equal(x, spacing * (x / spacing).round()) for x in there)


@pytest.mark.parametrize("scheme", [LEAPFROG, YOSHIDA4], ids=lambda scheme: scheme.name)
@torch.no_grad()
def test_symmetric_schemes_go_back_by_the_other_sign_of_time(scheme: Scheme) -> None:
    step = LatticeSplitting(energy("pendulums", torch.float32), scheme, span=128)
    q, p = step.iterate(*states(torch.float32), 0.0, 0.1, 0)
    path = hf.rollout(step, q, p, n_steps=150, dt=0.1, substeps=2)
    back = hf.rollout(step, *path[-1].chunk(2, -1), n_steps=150, dt=-0.1, substeps=2)
    assert torch.equal(back.flip(0), path)
    plain = Splitting(step.hamiltonian, scheme)
    plainly = hf.rollout(plain, q, p, n_steps=150, dt=0.1, substeps=2)
    lost = hf.rollout(plain, *plainly[-1].chunk(2, -1), n_steps=150, dt=-0.1, substeps=2)
    assert not torch.equal(lost.flip(0), plainly)
    # Over few steps it is the same motion, to what rounding leaves.
    torch.testing.assert_close(path[:20], plainly[:20], atol=40 * 2 * step.spacing(q.dtype), rtol=1e-5)


def test_derivatives_are_those_of_the_plain_step() -> None:
    plain = Splitting(energy("learned", torch.float64))
    lattice = LatticeSplitting(copy.deepcopy(plain.hamiltonian))
    found = []
    for step in (plain, lattice):
        q, p = (x.requires_grad_() for x in states(torch.float64))
        end = torch.cat(step.iterate(q, p, 0.0, 0.1, 20), -1)
        found.append(torch.autograd.grad(end.square().sum(), [q, p, *step.parameters()]))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


def test_steps_may_be_grouped_in_any_way() -> None:
    step = LatticeSplitting(energy("pendulums", torch.float32), YOSHIDA4, span=256)
    q, p = (step.on_lattice(x) for x in states(torch.float32))
    there = step.iterate(q, p, 0.0, 0.05, 100)
    path = hf.rollout(step, q, p, n_steps=50, dt=0.1, substeps=2)
    assert torch.equal(path[-1], torch.cat(there, -1))
    one, other = there
    for k in reversed(range(100)):
        one, other = step.inverse(one, other, k * 0.05, 0.05)
    assert torch.equal(one, q)
    assert torch.equal(other, p)


class Shaken(hf.Energy):
    def forward(self, x: Tensor, t: float | Tensor = 0.0) -> Tensor:
        return -x.cos().sum(-1) * (1 + 0.5 * torch.as_tensor(3.1 * t).sin())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scheme", hf.SCHEMES.values(), ids=lambda scheme: scheme.name)
@torch.no_grad()
def test_the_inverse_is_exact_for_energies_of_time(scheme: Scheme, dtype: torch.dtype) -> None:
    step = LatticeSplitting(hf.SeparableHamiltonian(hf.QuadraticKinetic(2), Shaken()), scheme, span=256)
    q, p = (step.on_lattice(x) for x in states(dtype))
    for dt in (0.1, torch.tensor(0.1, dtype=dtype)):
        back = step.iterate_inverse(*step.iterate(q, p, 0.3, dt, 300), 0.3, dt, 300)
        assert torch.equal(back[0], q)
        assert torch.equal(back[1], p)


def test_forward_derivatives_see_no_rounding_either() -> None:
    plain = Splitting(energy("pendulums", torch.float64))
    lattice = LatticeSplitting(plain.hamiltonian)
    q, p = (x[0] for x in states(torch.float64))
    ours, theirs = (torch.func.jvp(lambda x, s=step: s(x, p, 0.0, 0.1)[0], (q,), (q,))[1] for step in (lattice, plain))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


def test_sums_that_are_rounded_to_the_span_are_beyond_it() -> None:
    # From just below the span a drift of twice the spacing ends between two numbers, and the sum is the span itself.
    zero = hf.FunctionEnergy(lambda q: 0 * q.sum(-1))
    step = LatticeSplitting(hf.SeparableHamiltonian(hf.QuadraticKinetic(1), zero), hf.SYMPLECTIC_EULER, span=16)
    spacing = step.spacing(torch.float32)
    with pytest.raises(hf.SolveError, match="not within the span"):
        step(torch.tensor([16 - spacing]), torch.tensor([2 * spacing]), 0.0, 1.0)
    assert LatticeSplitting(pendulums(), span=16.5).span == 32


@pytest.mark.parametrize("inverse", [False, True])
def test_a_state_beyond_the_span_is_an_error(inverse: bool) -> None:
    step = LatticeSplitting(hf.SeparableHamiltonian(hf.QuadraticKinetic(1), hf.FunctionEnergy(lambda q: q.sum(-1))))
    q, p = torch.zeros(3, 1), torch.tensor([[0.0], [20.0], [0.1]])
    run: Any = step.iterate_inverse if inverse else step.iterate
    with pytest.raises(hf.SolveError, match=r"1 of 3 rows, at \(1,\): .* span of the lattice, 16"):
        run(q, p, 0.0, 0.1, 5)
    # On its way there, too: it falls from rest to -p beyond the span, and a rollout says when.
    with pytest.raises(hf.RolloutError, match="span of the lattice"):
        hf.rollout(step, q[:1], p[:1], n_steps=100, dt=0.1)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_is_an_error(value: float) -> None:
    with pytest.raises(hf.SolveError, match=r"1 of 3 rows.*or not finite"):
        LatticeSplitting(pendulums())(torch.tensor([[0.0, 1.0], [0.0, value], [0.0, 1.0]]), torch.zeros(3, 2), 0.0, 0.1)


@pytest.mark.parametrize(
    ("span", "state", "message"),
    [
        (1e-38, torch.zeros(2), "span = .*expected 2e-31 or more"),
        (16.0, torch.zeros(2, dtype=torch.long), "states have dtype torch.int64, expected a floating-point one"),
    ],
)
def test_states_that_no_lattice_holds(span: float, state: Tensor, message: str) -> None:
    with pytest.raises(hf.InputError, match=message):
        LatticeSplitting(pendulums(), span=span)(state, state, 0.0, 0.1)


@pytest.mark.parametrize("span", [0, -1.0, float("inf"), "wide"])
def test_a_wrong_span_is_named(span: Any) -> None:
    with pytest.raises(hf.InputError, match=r"span = .*expected a positive finite number"):
        LatticeSplitting(pendulums(), span=span)
