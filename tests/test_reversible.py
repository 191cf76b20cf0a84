"""Gradients that go back along the steps: those of the stored graph, at no memory for depth, or a clear error."""

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hamflow as hf
from hamflow.energies import FunctionEnergy, MLPPotential, QuadraticKinetic, RidgePotential
from hamflow.steps import TRIPLE_JUMP4, LatticeSplitting, Splitting, Step
from hamflow.steps.reversible import iterate
from hamflow.steps.walk import WayBack, run
from hamflow.testing import peak_bytes
from tests.members import STEPS, Member
from tests.parts import learned, shaken

MEMORIES = ("constant", "stored")


def states(dim: int, dtype: torch.dtype = torch.float64, rows: tuple[int, ...] = (3, 2)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    q, p = 0.5 * torch.randn(2, *rows, dim, generator=generator, dtype=dtype)
    return q.requires_grad_(), p.requires_grad_()


def loss(q: Tensor, p: Tensor) -> Tensor:
    return q.square().sum() + p.sin().sum()


def gradients(step: Step, member: Member, memory: str, dtype: torch.dtype, *, backwards: bool) -> list[Tensor | None]:
    q, p = states(member.dim, dtype)
    end = iterate(step, q, p, 0.0, member.dt, member.n_steps, memory=memory, backwards=backwards)
    wanted = [q, p, *(x for x in step.parameters() if x.requires_grad)]
    return list(torch.autograd.grad(loss(*end), wanted, allow_unused=True))


@pytest.mark.parametrize("backwards", [False, True], ids=["forwards", "backwards"])
@pytest.mark.parametrize("name", STEPS)
def test_every_step_has_the_gradients_of_the_stored_graph(name: str, backwards: bool) -> None:
    member = STEPS[name]
    step = member.make().double()
    constant, stored = (gradients(step, member, memory, torch.float64, backwards=backwards) for memory in MEMORIES)
    assert distance(constant, stored) < 1e-6
    if step.tolerance == 0:  # what a solver leaves in single precision says nothing of the way back
        single = member.make().float()
        single.load_state_dict(step.state_dict())
        own = [gradients(single, member, memory, torch.float32, backwards=backwards) for memory in MEMORIES]
        # Where the motion takes neighbours apart the stored graph has lost digits too.
        assert distance(own[0], own[1]) < 1e-4 + 2 * distance(own[1], stored)


def distance(found: list[Tensor | None], expected: list[Tensor | None]) -> float:
    """The largest relative distance of gradients, none and zero taken as the same."""
    pairs = [(a, b) for a, b in zip(found, expected, strict=True) if a is not None or b is not None]
    far = [(torch.zeros_like(b) if a is None else a, torch.zeros_like(a) if b is None else b) for a, b in pairs]  # type: ignore[arg-type]
    return max(float((a.double() - b.double()).norm() / (b.double().norm() + 1e-3)) for a, b in far)


class Stronger(RidgePotential):
    """An energy of a user's own that changes the gradient of one of ours."""

    def gradient(self, x: Tensor, t: Any = 0.0) -> Tensor:
        return 2 * super().gradient(x, t)


class Deeper(MLPPotential):
    """One that changes the energy alone."""

    def forward(self, x: Tensor, t: Any = 0.0) -> Tensor:
        return 2 * super().forward(x, t)


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("make", [Stronger, Deeper])
def test_who_changes_an_energy_changes_its_steps(
    make: Callable[[int], RidgePotential | MLPPotential], memory: str
) -> None:
    energy = shaken(make(2)).double()
    plain = type(energy).__bases__[0](2).double()
    plain.load_state_dict(energy.state_dict())
    x = states(2)[0]
    torch.testing.assert_close(energy.gradient(x), 2 * plain.gradient(x))
    q, p = states(2)
    step = Splitting(hf.SeparableHamiltonian(QuadraticKinetic(2).double(), energy), hf.SYMPLECTIC_EULER)
    moved = iterate(step, q, p, 0.0, 0.1, 1, memory=memory)[1]
    torch.testing.assert_close(moved, p - 0.2 * plain.gradient(q))
    found = torch.autograd.grad(moved.sum(), [q, *energy.parameters()], allow_unused=True)
    expected = torch.autograd.grad((p - 0.2 * plain.gradient(q)).sum(), [q, *plain.parameters()], allow_unused=True)
    assert distance([*found], [*expected]) < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_state_on_a_lattice_is_found_again_to_the_last_bit(dtype: torch.dtype) -> None:
    step = LatticeSplitting(learned("full").to(dtype), span=256)
    begin = tuple(step.on_lattice(x.detach()) for x in states(2, dtype))
    moves = step.moves(begin[0], 0.0, 0.05, 1000)
    with torch.no_grad():
        end = run(moves, *begin)
        g = (torch.ones_like(end[0]), torch.zeros_like(end[0]))
        state, _ = WayBack(lambda part, grads: None)(moves, None, end, g)
    assert all(torch.equal(one, other) for one, other in zip(state, begin, strict=True))
    # So derivatives are those of the stored graph, but for the order of sums.
    member = Member(lambda: step, dt=0.05, n_steps=1000)
    error = 1e-4 if dtype == torch.float32 else 1e-10
    assert distance(*(gradients(step, member, memory, dtype, backwards=False) for memory in MEMORIES)) < error


@pytest.mark.parametrize("potential", [lambda: RidgePotential(8, 64), lambda: MLPPotential(8)], ids=["ridge", "mlp"])
@pytest.mark.parametrize("kind", ["flow", "rollout"])
@pytest.mark.parametrize(
    "around",
    [
        lambda step: step,
        lambda step: hf.Damped(step, 0.01, learn=True),
        lambda step: hf.Composition(step, TRIPLE_JUMP4),
    ],
    ids=["splitting", "damped", "composition"],
)
def test_memory_does_not_grow_with_depth(
    potential: Callable[[], hf.Energy], kind: str, around: Callable[[Step], Step]
) -> None:
    step = around(Splitting(hf.SeparableHamiltonian(QuadraticKinetic(8, learn=True), shaken(potential()))))
    q, p = states(8, torch.float32, (256,))

    def value(depth: int, memory: str) -> Tensor:
        if kind == "flow":
            flow = hf.PhaseFlow(step, n_steps=depth, dt=1 / depth, memory=memory)
            return flow(torch.cat((q, p), -1)).square().sum()
        path = hf.rollout(step, q, p, n_steps=5, dt=0.2, substeps=depth // 5, memory=memory)
        return path.square().sum()

    shallow, deep, stored = (peak_bytes(lambda d=d, m=m: value(d, m).backward()) for d, m in ((10, MEMORIES[0]), (1000, MEMORIES[0]), (100, MEMORIES[1])))  # type: ignore[misc] # fmt: skip # noqa: E501
    assert deep <= 1.1 * shallow
    assert stored > 5 * deep


def test_a_rollout_has_the_gradients_of_all_its_states() -> None:
    step = Splitting(learned("full").double(), hf.YOSHIDA4)
    found = []
    for memory in MEMORIES:
        q, p = states(2)
        path = hf.rollout(step, q, p, n_steps=12, dt=0.1, substeps=3, memory=memory)
        weights = torch.linspace(0, 1, 13, dtype=q.dtype)
        value = (path.square().sum((1, 2, 3)) * weights).sum()
        found.append((path, *torch.autograd.grad(value, [q, p, *step.parameters()])))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


class Wave(hf.Energy):
    """An energy of a user's own, with a tensor that is no parameter of it."""

    def __init__(self, scale: Tensor) -> None:
        super().__init__()
        self.held = {"scale": scale}

    def forward(self, x: Tensor, t: Any = 0.0) -> Tensor:
        value: Tensor = (x * self.held["scale"]).cos().sum(-1)
        return value


@pytest.mark.parametrize("kind", ["closure", "dictionary", "leaf", "context"])
def test_tensors_from_elsewhere_get_their_gradients(kind: str) -> None:
    network = nn.Linear(3, 2).double()
    start = torch.randn(3, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    ridge = shaken(RidgePotential(4, 8)).double()
    found = []
    for memory in MEMORIES:
        given = torch.tanh(network(start))
        energy: hf.Energy
        if kind == "closure":
            energy = FunctionEnergy(lambda x, given=given: (x * given).cos().sum(-1))
        elif kind == "context":
            energy = hf.ConditionedEnergy(ridge, given)
        else:
            energy = Wave(given if kind == "dictionary" else start[:2])
        step = Splitting(hf.SeparableHamiltonian(QuadraticKinetic(2), energy))
        end = iterate(step, *states(2), 0.0, 0.1, 10, memory=memory)
        found.append(torch.autograd.grad(loss(*end), [start, *network.parameters()], allow_unused=kind == "leaf"))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_what_appears_on_the_way_alone_is_an_error() -> None:
    late = torch.ones(2, dtype=torch.float64, requires_grad=True)

    class Late(hf.Energy):
        def forward(self, x: Tensor, t: Any = 0.0) -> Tensor:
            return ((x * late).cos() if t > 0.25 else x.cos()).sum(-1)

    end = iterate(Splitting(hf.SeparableHamiltonian(QuadraticKinetic(2), Late())), *states(2), 0.0, 0.1, 5, memory="constant")  # fmt: skip # noqa: E501
    with pytest.raises(hf.errors.InputError, match="expected memory = 'stored'"):
        loss(*end).backward()


def test_second_derivatives_name_the_stored_graph() -> None:
    step = Splitting(learned())
    q, p = states(2, torch.float32)
    value = loss(*iterate(step, q, p, 0.0, 0.1, 5, memory="constant"))
    with pytest.raises(hf.errors.InputError, match="memory = 'stored'"):
        torch.autograd.grad(value, q, create_graph=True)
    value = loss(*iterate(step, q, p, 0.0, 0.1, 5, memory="stored"))
    (first,) = torch.autograd.grad(value, q, create_graph=True)
    assert torch.autograd.grad(first.sum(), q)[0].any()


def test_a_parameter_that_was_changed_is_an_error_or_counts_as_it_was() -> None:
    potential = shaken(RidgePotential(2, 8))
    step = Splitting(hf.SeparableHamiltonian(QuadraticKinetic(2, learn=True), potential))
    # Of the weights copies are kept.
    for parameter, kept in ((potential.weight, True), (potential.bias, True), (potential.amplitude, False)):
        wanted = list(step.parameters())
        values = [loss(*iterate(step, *states(2, torch.float32), 0.0, 0.1, 5, memory="constant")) for _ in range(2)]
        before = torch.autograd.grad(values[0], wanted)
        with torch.no_grad():
            parameter.add_(1.0)
        if kept:
            torch.testing.assert_close(torch.autograd.grad(values[1], wanted), before)
        else:
            with pytest.raises(RuntimeError, match="modified"):
                values[1].backward()


def test_gradients_flow_through_layers_on_either_side_and_twice() -> None:
    # Twice through one graph, and the same flow twice in one graph.
    flow = shaken(hf.hamiltonian(4, memory="constant"))
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh())
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
    found = []
    for memory in MEMORIES:
        flow.memory = memory
        value = flow(flow(model(x))).sin().sum() + flow.inv(model(x)).square().sum()
        wanted = [*model.parameters(), *flow.parameters()]
        again = [torch.autograd.grad(value, wanted, retain_graph=True, allow_unused=True) for _ in range(2)]
        assert all(a is b is None or torch.equal(a, b) for a, b in zip(*again, strict=True))
        found.append([g for g in again[0] if g is not None])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_functional_transforms_take_the_stored_graph() -> None:
    flow = shaken(hf.hamiltonian(4, memory="constant"))
    x = torch.randn(5, 4)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda row: flow(row)))(x)
    torch.testing.assert_close(jacobian.det(), torch.ones(5), rtol=1e-4, atol=1e-4)
    tangent = torch.func.jvp(lambda row: flow(row), (x,), (torch.ones_like(x),))[1]
    torch.testing.assert_close(tangent, jacobian.sum(-1), rtol=1e-4, atol=1e-4)


class Spread(nn.Module):
    """A loss of a flow, as one process of several has it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.flow = shaken(hf.hamiltonian(4, memory="constant"))

    def forward(self, x: Tensor) -> Tensor:
        return self.flow(x).square().mean()


def share(rank: int, folder: str, x: Tensor) -> None:
    """What one of two processes does: two gradients of its half of the rows, averaged by DistributedDataParallel."""
    import torch.distributed as distributed

    torch.set_num_threads(1)
    store = distributed.FileStore(f"{folder}/store", 2)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    model = Spread()
    together = nn.parallel.DistributedDataParallel(model)
    # Twice: a second pass is refused where the hooks of the first have not fired for all parameters.
    for _ in range(2):
        together(x.chunk(2)[rank]).backward()
    if rank == 0:
        torch.save([parameter.grad for parameter in model.parameters()], f"{folder}/gradients")
    distributed.barrier()
    # Threads of the group may outlive it, and wait for the interpreter that waits for them.
    os._exit(0)


def test_gradients_are_averaged_over_processes(tmp_path: Path) -> None:
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=share, args=(rank, str(tmp_path), x)) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=120)
        assert worker.exitcode == 0
    alone = Spread()
    alone.flow.memory = "stored"
    for _ in range(2):
        alone(x).backward()
    averaged = torch.load(tmp_path / "gradients")
    for one, other in zip(averaged, alone.parameters(), strict=True):
        torch.testing.assert_close(one, other.grad, rtol=1e-4, atol=1e-5)


def test_mixed_precision_is_the_same_on_the_way_back() -> None:
    # Of many steps, whose products are to be summed in the precision of the parameters.
    step = Splitting(hf.SeparableHamiltonian(QuadraticKinetic(2, learn=True), shaken(RidgePotential(2, 16))))
    q, p = states(2, torch.float32, (64,))
    found = []
    for memory in (*MEMORIES, "exact"):
        with torch.autocast("cpu", torch.bfloat16, enabled=memory != "exact"):
            end = iterate(step, q, p, 0.0, 0.004, 500, memory="stored" if memory == "exact" else memory)
        found.append([*torch.autograd.grad(loss(*end), [q, p, *step.parameters()])])
    constant, stored, exact = found
    assert distance(constant, exact) < 1.5 * distance(stored, exact) + 1e-3


def test_the_default_is_that_of_depth() -> None:
    step = Splitting(learned())
    assert [hf.PhaseFlow(step, n_steps=n).memory for n in (63, 64)] == ["stored", "constant"]
    assert hf.PhaseFlow(hf.ImplicitMidpoint(learned()), n_steps=64).memory == "stored"
    assert hf.PhaseFlow(hf.Damped(step, 0.1), n_steps=64).memory == "stored"
    deep = hf.PhaseFlow(step, n_steps=64, memory="stored")
    assert deep.reversed().memory == deep.with_cache(1).memory == "stored"
    assert hf.hamiltonian(4, memory="constant").memory == "constant"
    for make in (lambda: hf.PhaseFlow(step, memory="none"), lambda: hf.rollout(step, *states(2), n_steps=1, dt=0.1, memory="none")):  # fmt: skip # noqa: E501
        with pytest.raises(hf.errors.InputError, match="memory = 'none', expected"):
            make()
