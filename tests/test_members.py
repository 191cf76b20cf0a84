"""Every member keeps the promises of its family, and no concrete class of the package is left out."""

import importlib
import inspect
import pkgutil

import pytest
import torch
from torch.distributions import Transform

import hamflow
from hamflow.energies import Energy, Hamiltonian, Lagrangian
from hamflow.steps import Splitting, Step
from hamflow.testing import check_constrained_step, check_energy, check_flow, check_lagrangian, check_step
from tests.members import ABSTRACT, CONSTRAINED, ENERGIES, FLOWS, HAMILTONIANS, LAGRANGIANS, STEPS, Member

FAMILIES = {
    Energy: ENERGIES,
    Hamiltonian: HAMILTONIANS,
    Lagrangian: LAGRANGIANS,
    Step: STEPS | CONSTRAINED,
    Transform: FLOWS,
}


def parametrised(members: dict[str, Member]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("member", members.values(), ids=members.keys())


@parametrised(ENERGIES | {f"hamiltonian_{name}": member for name, member in HAMILTONIANS.items()})
def test_energy(member: Member) -> None:
    assert check_energy(member.make(), member.dim).gradient <= 1e-12


@parametrised(STEPS)
def test_step(member: Member) -> None:
    step = member.make()
    report = check_step(step, member.dim, dt=member.dt, n_steps=member.n_steps)
    assert (report.symplecticity is None) == (torch.as_tensor(step.damping).ndim == 1)
    assert report.symplecticity is None or report.symplecticity <= 1e-12
    assert report.log_det <= 1e-12
    layered = member.n_steps == 8
    assert (report.order is None) == (step.order is None or layered)


@parametrised(LAGRANGIANS)
def test_lagrangian(member: Member) -> None:
    report = check_lagrangian(member.make(), member.dim)
    assert report.terms <= 1e-11
    assert report.legendre <= 1e-9


@parametrised(CONSTRAINED)
def test_constrained_step(member: Member) -> None:
    report = check_constrained_step(member.make(), member.dim, dt=0.05, n_steps=member.n_steps)
    assert report.constraint <= 1e-10
    assert report.symplecticity <= 1e-12


@parametrised(FLOWS)
def test_flow(member: Member) -> None:
    assert check_flow(member.make(), member.dim).round_trip <= 1e-10


def package_classes() -> set[type]:
    classes: set[type] = set()
    for info in pkgutil.walk_packages(hamflow.__path__, "hamflow."):
        module = importlib.import_module(info.name)
        classes |= {c for _, c in inspect.getmembers(module, inspect.isclass) if c.__module__ == info.name}
    return classes


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_no_class_is_left_out(family: type) -> None:
    found = {c for c in package_classes() if issubclass(c, family)} - ABSTRACT
    listed = {type(member.make()) for member in FAMILIES[family].values()}
    missing = {c.__name__ for c in found - listed}
    assert not missing, f"tests/members.py lists no {sorted(missing)}"
    assert listed <= found, "members of another package or family"


def test_every_scheme_is_a_step() -> None:
    names = {
        member.make().scheme.name
        for name, member in STEPS.items()
        if name.endswith("_pendulums") and isinstance(member.make(), Splitting)
    }
    assert names == set(hamflow.SCHEMES)
