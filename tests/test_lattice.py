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


@pytest.mark.parametrize("inverse", [False, True])
def test_a_state_beyond_the_span_is_an_error(inverse: bool) -> None:
    step = LatticeSplitting(hf.SeparableHamiltonian(hf.QuadraticKinetic(1), hf.FunctionEnergy(lambda q: q.sum(-1))))
    q, p = torch.zeros(3, 1), torch.tensor([[0.0], [20.0], [0.1]])
    run: Any = step.iterate_inverse if inverse else step.iterate
    with pytest.raises(hf.SolveError, match=r"span of the lattice, 16, in 1 of 3 rows, at \(1,\)"):
        run(q, p, 0.0, 0.1, 5)
    # On its way there, too: it falls from rest to -p beyond the span, and a rollout says when.
    with pytest.raises(hf.RolloutError, match="span of the lattice"):
        hf.rollout(step, q[:1], p[:1], n_steps=100, dt=0.1)


@pytest.mark.parametrize("span", [0, -1.0, float("inf"), "wide"])
def test_a_wrong_span_is_named(span: Any) -> None:
    with pytest.raises(hf.InputError, match=r"span = .*expected a positive finite number"):
        LatticeSplitting(pendulums(), span=span)
