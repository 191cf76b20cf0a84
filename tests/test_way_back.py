"""What the way back asks of energies and steps that users write: every derivative once, the same map, or an error."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import hamflow as hf
from hamflow.energies import FunctionEnergy, QuadraticKinetic, RidgePotential, Slope
from hamflow.steps import Splitting, Step
from hamflow.steps.parts import Part
from hamflow.steps.reversible import iterate
from tests.parts import learned, shaken
from tests.test_reversible import MEMORIES, distance, loss, states


def leapfrog(potential: hf.Energy, kinetic: hf.Energy | None = None) -> Splitting:
    return Splitting(hf.SeparableHamiltonian(kinetic or QuadraticKinetic(2), potential)).double()


class Cached(hf.Energy):
    """An energy that keeps what it computed of its parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.tensor([0.1, 0.2], dtype=torch.float64))
        self.scale = self.log.exp()

    def forward(self, x: Tensor, t: Any = 0.0) -> Tensor:
        return (x * self.scale).cos().sum(-1)


class Heavy(hf.Energy):
    """One that holds an energy made of its parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.tensor([0.1, 0.2], dtype=torch.float64))
        self.kinetic = QuadraticKinetic(2, mass=self.log.exp())

    def forward(self, x: Tensor, t: Any = 0.0) -> Tensor:
        value: Tensor = self.kinetic(x)
        return value


class Squared(hf.Energy):
    """One that holds another, which may act beside it."""

    def __init__(self, energy: hf.Energy) -> None:
        super().__init__()
        self.energy = energy

    def forward(self, x: Tensor, t: Any = 0.0) -> Tensor:
        value: Tensor = 0.1 * self.energy(x, t) ** 2
        return value


class Halves(hf.Energy):
    """One that holds two results of one operation, one of them out of sight."""

    def __init__(self, one: Tensor, other: Tensor) -> None:
        super().__init__()
        self.one = one
        self.held = {"other": other}

    def forward(self, x: Tensor, t: Any = 0.0) -> Tensor:
        value: Tensor = ((x - self.held["other"]) * self.one).cos().sum(-1)
        return value


class Told(hf.Energy):
    """One with slopes of its own, that do not name all tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))
        self.held = [torch.tensor(0.5, dtype=torch.float64, requires_grad=True)]

    def forward(self, x: Tensor, t: Any = 0.0) -> Tensor:
        return (self.weight * x**2).sum(-1) * self.held[0]

    def slopes(self, times: Any) -> list[Slope]:
        return [Slope(lambda x, weight: (2 * weight * x * self.held[0],), (self.weight,)) for _ in times]


def ridge() -> RidgePotential:
    torch.manual_seed(2)
    return shaken(RidgePotential(2, 8)).double()


def cached() -> tuple[Step, list[Tensor]]:
    energy = Cached()
    return leapfrog(energy), [energy.log]


def heavy() -> tuple[Step, list[Tensor]]:
    energy = Heavy()
    return leapfrog(ridge(), energy), [energy.log]


def implicit() -> tuple[Step, list[Tensor]]:
    log = nn.Parameter(torch.tensor([0.1, 0.2], dtype=torch.float64))
    return hf.ImplicitMidpoint(hf.SeparableHamiltonian(QuadraticKinetic(2, mass=log.exp()), ridge())), [log]


def beside_a_function() -> tuple[Step, list[Tensor]]:
    energy = ridge()
    return leapfrog(energy + FunctionEnergy(lambda x: 0.1 * energy(x) ** 2)), list(energy.parameters())


def beside_itself() -> tuple[Step, list[Tensor]]:
    energy = ridge()
    return leapfrog(energy + Squared(energy)), list(energy.parameters())


def siblings() -> tuple[Step, list[Tensor]]:
    torch.manual_seed(3)
    network = nn.Linear(3, 4).double()
    return leapfrog(Halves(*network(torch.ones(3).double()).chunk(2, -1))), list(network.parameters())


def told() -> tuple[Step, list[Tensor]]:
    energy = Told()
    return leapfrog(energy), [energy.weight, *energy.held]


def units() -> tuple[Step, list[Tensor]]:
    inner = ridge()
    return leapfrog(hf.ScaledEnergy(inner, 2).set_units(torch.zeros(2), torch.tensor([1.0, 2.0]), 1.5)), [
        *inner.parameters()
    ]


def network() -> nn.Module:
    torch.manual_seed(4)
    return nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1), nn.Flatten(-2, -1)).double()


def twice() -> tuple[Step, list[Tensor]]:
    energy = FunctionEnergy(network())
    return leapfrog(energy + energy), list(energy.parameters())[:3]


def two_of_one() -> tuple[Step, list[Tensor]]:
    function = network()
    return leapfrog(FunctionEnergy(function) + FunctionEnergy(function)), list(function.parameters())[:3]


CASES: list[Callable[[], tuple[Step, list[Tensor]]]] = [
    cached, heavy, implicit, beside_a_function, beside_itself, siblings, told, units, twice, two_of_one,
]  # fmt: skip


@pytest.mark.parametrize("make", CASES)
def test_every_derivative_counts_once(make: Callable[[], tuple[Step, list[Tensor]]]) -> None:
    found = []
    for memory in MEMORIES:
        step, wanted = make()
        q, p = states(2)
        end = iterate(step, q, p, 0.0, 0.1, 10, memory=memory)
        found.append([*torch.autograd.grad(loss(*end), [q, p, *wanted])])
    assert distance(*found) < 1e-9


def test_a_way_back_that_leads_elsewhere_is_an_error() -> None:
    dropping = nn.Sequential(
        nn.Linear(2, 16), nn.Dropout(0.5), nn.Tanh(), nn.Linear(16, 1), nn.Flatten(-2, -1)
    ).double()
    frozen = ridge().requires_grad_(False)
    scaled = hf.ScaledEnergy(ridge(), 2).double()
    changes: list[tuple[Step, Callable[[], object]]] = [
        (leapfrog(FunctionEnergy(lambda x: dropping(x.reshape(-1, 2)).view(x.shape[:-1]))), lambda: None),
        (leapfrog(Squared(frozen)), lambda: frozen.weight.add_(1.0)),
        (leapfrog(scaled), lambda: scaled.set_units(torch.ones(2), torch.ones(2), 2.0)),
        # Friction is undone by growth.
        (hf.Damped(leapfrog(ridge()), 5.0).double(), lambda: None),
    ]
    for step, change in changes:
        q, p = states(2)
        end = iterate(step, q, p, 0.0, 0.1, 60, memory="constant")
        change()
        with pytest.raises(hf.errors.SolveError, match=r"the way back misses .* memory = 'stored'"):
            loss(*end).backward()


def damped(gamma: float, n: int) -> Callable[[Tensor], Tensor]:
    step = hf.Damped(Splitting(hf.SeparableHamiltonian(QuadraticKinetic(2), ridge().float())), gamma)

    def run(x: Tensor) -> Tensor:
        q, p = x.chunk(2, -1)
        return torch.cat(iterate(step, q, p, 0.0, 0.1, n, memory="constant"), -1)

    return run


@pytest.mark.parametrize("row", [1e3, torch.nan])
def test_one_row_hides_no_other(row: float) -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 4)
    run = damped(2.0, 80)
    for first in (1.0, row):
        y = torch.cat((first * x[:1], x[1:])).requires_grad_()
        with pytest.raises(hf.SolveError, match="misses a state"):
            run(y)[1:].square().sum().backward()


def test_small_units_hide_nothing() -> None:
    energy = FunctionEnergy(lambda q: 0.5 * (q**2).sum(-1) * (1 + 0.2 * torch.rand(())))
    for size in (1.0, 1e-3):
        q = torch.full((3, 2), size, dtype=torch.float64, requires_grad=True)
        with pytest.raises(hf.SolveError, match="random"):
            iterate(leapfrog(energy), q, 0 * q, 0.0, 0.1, 10, memory="constant")[0].sum().backward()


def test_a_state_at_rest_is_met() -> None:
    step = leapfrog(ridge()).float()
    q = torch.zeros(3, 2, requires_grad=True)
    iterate(step, q, 0 * q, 0.0, 0.01, 10, memory="constant")[0].sum().backward()
    assert q.grad is not None


def test_who_asked_for_nothing_gets_the_gradient_with_a_warning() -> None:
    torch.manual_seed(1)
    potential = RidgePotential(2, 32)
    nn.init.normal_(potential.amplitude)
    x = torch.randn(16, 4)
    found = []
    for memory in (None, "stored", "constant"):
        flow = hf.PhaseFlow(Splitting(hf.SeparableHamiltonian(QuadraticKinetic(2), potential)), 400, 0.1, memory=memory)
        y = x.clone().requires_grad_()
        out = flow(y).square().mean()
        if memory == "constant":
            with pytest.raises(hf.SolveError, match="misses a state"):
                out.backward()
            continue
        with pytest.warns(UserWarning, match="states are kept") if memory is None else nullcontext():
            found.append(torch.autograd.grad(out, [y, potential.weight, potential.amplitude, potential.bias]))
    assert distance(*found) < 1e-5
    assert hf.PhaseFlow(flow.step, 400).with_cache()._chosen and not flow.with_cache()._chosen


def test_with_a_warning_random_energies_are_an_error() -> None:
    energy = FunctionEnergy(lambda q: 0.5 * (q**2).sum(-1) * (1 + 0.2 * torch.rand(())))
    flow = hf.PhaseFlow(leapfrog(energy), 64, 0.1)
    x = torch.ones(3, 4, dtype=torch.float64, requires_grad=True)
    with pytest.warns(UserWarning, match="states are kept"), pytest.raises(hf.SolveError, match="random"):
        flow(x).sum().backward()


@pytest.mark.parametrize("kind", ["function", "implicit", "ridge"])
def test_hooks_see_the_whole_gradient_once(kind: str) -> None:
    potential = ridge() if kind == "ridge" else FunctionEnergy(network())
    step: Step = leapfrog(potential)
    if kind == "implicit":
        step = hf.ImplicitMidpoint(hf.SeparableHamiltonian(QuadraticKinetic(2), ridge())).double()
    leaves = [leaf for leaf in step.parameters() if leaf.requires_grad]
    called = []
    for leaf in leaves:
        leaf.register_hook(lambda grad: called.append(grad.shape) or 0.5 * grad)
    found = []
    for memory in MEMORIES:
        step.zero_grad()
        q, p = states(2)
        loss(*iterate(step, q, p, 0.0, 0.1, 6, memory=memory)).backward()
        found.append([torch.zeros_like(leaf) if leaf.grad is None else leaf.grad.clone() for leaf in leaves])
    assert distance(*found) < 1e-9 and called


def test_a_call_with_other_parameters_is_no_silent_loss() -> None:
    class Adapted(hf.Energy):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2, dtype=torch.float64), requires_grad=False)

        def forward(self, x: Tensor, t: Any = 0.0) -> Tensor:
            return (self.weight * x**2).sum(-1)

    step = leapfrog(Adapted())
    flow = hf.PhaseFlow(step, 10, 0.1, memory="constant")
    adapter = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    name = next(name for name, _ in flow.named_parameters() if name.endswith("weight"))
    x = torch.randn(3, 4, dtype=torch.float64)
    end = torch.func.functional_call(flow, {name: 1 + adapter}, (x,))
    with pytest.raises(hf.InputError, match="functional_call"):
        end.sum().backward()


def test_an_energy_may_make_a_leaf_of_its_own() -> None:
    class Checkpointed(hf.Energy):
        def __init__(self) -> None:
            super().__init__()
            self.network = network()

        def forward(self, x: Tensor, t: Any = 0.0) -> Tensor:
            value: Tensor = checkpoint(self.network, x, use_reentrant=False)  # type: ignore[no-untyped-call]
            return value

        def gradient(self, x: Tensor, t: Any = 0.0) -> Tensor:
            with torch.enable_grad():
                at = x if x.requires_grad else x.detach().requires_grad_()
                return torch.autograd.grad(self(at).sum(), at, create_graph=True)[0]

    energy, found = Checkpointed(), []
    for memory in MEMORIES:
        q, p = states(2)
        end = iterate(leapfrog(energy), q, p, 0.0, 0.1, 5, memory=memory)
        found.append([*end, *torch.autograd.grad(loss(*end), [q, p, *list(energy.parameters())[:3]])])
    assert distance(*found) < 1e-12


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_flow_within_a_checkpoint(reentrant: bool) -> None:
    layer, potential, found = nn.Linear(4, 4).double(), ridge(), []
    x = torch.ones(3, 4, dtype=torch.float64, requires_grad=True)
    for memory in MEMORIES:
        flow = hf.PhaseFlow(leapfrog(potential), 10, 0.1, memory=memory)
        end = checkpoint(lambda z: flow(layer(z).tanh()), x, use_reentrant=reentrant)  # noqa: B023
        for leaf in (x, *layer.parameters(), *potential.parameters()):
            leaf.grad = None
        end.square().sum().backward()
        found.append([leaf.grad for leaf in (x, *layer.parameters(), *potential.parameters())])
    assert distance(*found) < 1e-12


def test_many_cotangents_at_once() -> None:
    flow = shaken(hf.hamiltonian(4, n_steps=64)).double()
    x = torch.randn(3, 4, dtype=torch.float64)
    ours = torch.autograd.functional.jacobian(flow, x, vectorize=True)
    torch.testing.assert_close(ours, torch.autograd.functional.jacobian(flow, x))


def test_ends_are_whole_tensors_of_one_shape() -> None:
    q = torch.randn(3, 2, dtype=torch.float64)
    p = torch.randn(1, 2, dtype=torch.float64, requires_grad=True)
    found = []
    for memory in MEMORIES:
        end = iterate(leapfrog(ridge()), q, p, 0.0, 0.1, 5, memory=memory)
        if memory == "constant":
            end[0].mul_(1)  # a view could not be changed
        found.append([*end, *torch.autograd.grad(loss(*end), [p])])
    assert distance(*found) < 1e-12


def test_a_pullback_that_forgets_a_tensor_is_named() -> None:
    class Short(hf.Energy):
        def __init__(self) -> None:
            super().__init__()
            self.stiffness = nn.Parameter(torch.ones(2))

        def forward(self, x: Tensor, t: Any = 0.0) -> Tensor:
            return 0.5 * (self.stiffness * x**2).sum(-1)

        def slopes(self, times: Any) -> list[Slope]:
            pull = lambda x, u, kept, stiffness: (stiffness * u,)  # noqa: E731
            return [Slope(lambda x, k: (k * x,), (self.stiffness,), pull, complete=True) for _ in times]

    q = torch.ones(3, 2, requires_grad=True)
    step = Splitting(hf.SeparableHamiltonian(QuadraticKinetic(2), Short()))
    with pytest.raises(hf.InputError, match="pullback of a Slope gave 1 results, expected a tuple of 2"):
        iterate(step, q, q, 0.0, 0.1, 3, memory="constant")[0].sum().backward()


def test_a_slope_that_is_not_as_complete_as_it_says_is_found() -> None:
    class Forgot(hf.Energy):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = (nn.Parameter(torch.ones(2, dtype=torch.float64)) for _ in range(2))

        def forward(self, x: Tensor, t: Any = 0.0) -> Tensor:
            return 0.5 * (self.a * self.b * x**2).sum(-1)

        def slopes(self, times: Any) -> list[Slope]:
            pull = lambda x, u, kept, a: (a * self.b * u, (self.b * x * u).sum_to_size(a.shape))  # noqa: E731
            return [Slope(lambda x, a: (a * self.b * x,), (self.a,), pull, complete=True) for _ in times]

    with pytest.raises(AssertionError, match="says that it is complete"):
        hf.testing.check_energy(Forgot(), dim=2)


def test_states_that_are_lost_are_no_error_of_the_way_back() -> None:
    # A loss that is not finite is the business of who trains.
    q, p = states(2)
    end = iterate(leapfrog(FunctionEnergy(lambda x: -(x**4).sum(-1))), 100 * q, p, 0.0, 1.0, 20, memory="constant")
    assert not end[0].isfinite().all()
    end[0].sum().backward()


def test_frictions_of_a_short_motion_are_found() -> None:
    rates = torch.tensor([[0.5], [0.2], [0.3]], dtype=torch.float64, requires_grad=True)
    found = []
    for memory in MEMORIES:
        q, p = states(2, rows=(3,))
        end = iterate(hf.Damped(leapfrog(ridge()), rates), q, p, 0.0, 0.1, 50, memory=memory)
        found.append([*torch.autograd.grad(loss(*end), [q, p, rates])])
    assert distance(*found) < 1e-9


@pytest.mark.parametrize("shape", [(3, 1), (5, 3, 2)])
def test_masses_may_have_rows_of_their_own(shape: tuple[int, ...]) -> None:
    found = []
    for memory in MEMORIES:
        mass = (1 + torch.rand(shape, generator=torch.Generator().manual_seed(1)).double()).requires_grad_()
        q, p = states(2, rows=(3,))
        end = iterate(leapfrog(ridge(), QuadraticKinetic(2, mass=mass)), q, p, 0.0, 0.1, 5, memory=memory)
        found.append([*torch.autograd.grad(loss(*end), [q, p, mass])])
    assert distance(*found) < 1e-9


class Two(Step):
    """Two forces in turn, each with its own kicks."""

    order = 1

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = leapfrog(ridge()), leapfrog(FunctionEnergy(lambda x: x.cos().sum(-1)))

    def forward(self, q: Tensor, p: Tensor, t: Any = 0.0, dt: Any = 0.1) -> tuple[Tensor, Tensor]:
        return self.other(*self.one(q, p, t, dt / 2), t + dt / 2, dt / 2)  # type: ignore[no-any-return]

    def inverse(self, q: Tensor, p: Tensor, t: Any = 0.0, dt: Any = 0.1) -> tuple[Tensor, Tensor]:
        return self.one.inverse(*self.other.inverse(q, p, t + dt / 2, dt / 2), t, dt / 2)

    def moves(self, q: Tensor, t: Any = 0.0, dt: Any = 0.1, n_steps: int = 1, *, backwards: bool = False) -> list[Part]:
        parts = []
        for k in range(n_steps):
            parts += self.one.moves(q, t + k * dt, dt / 2) + self.other.moves(q, t + (k + 0.5) * dt, dt / 2)
        return parts


def test_forces_of_two_energies_are_not_taken_for_one() -> None:
    step, found = Two(), []
    for memory in MEMORIES:
        q, p = states(2)
        end = iterate(step, q, p, 0.0, 0.1, 4, memory=memory)
        found.append([*end, *torch.autograd.grad(loss(*end), [q, p, *step.one.hamiltonian.potential.parameters()])])
    assert distance(*found) < 1e-12


class Pushed(Splitting):
    """A splitting that a user changed as a whole."""

    def iterate(self, q: Tensor, p: Tensor, t: Any = 0.0, dt: Any = 0.1, n_steps: int = 1) -> tuple[Tensor, Tensor]:
        return super().iterate(q, p + 1, t, dt, n_steps)


def test_rollouts_ask_the_iterate_of_a_step() -> None:
    q, p = states(2)
    pushed, plain = (kind(learned().double().double()) for kind in (Pushed, Splitting))
    plain.load_state_dict(pushed.state_dict())
    path = hf.rollout(pushed, q, p, n_steps=1, dt=0.1)[-1]
    torch.testing.assert_close(path, torch.cat(plain(q, p + 1, 0.0, 0.1), -1))


def test_no_steps_and_bad_values() -> None:
    q, p = states(2)
    end = iterate(leapfrog(ridge()), q, p, 0.0, 0.1, 0, memory="constant")
    assert torch.equal(torch.autograd.grad(end[0].sum(), q)[0], torch.ones_like(q))
    with pytest.raises(hf.errors.InputError, match="dt is a tensor with a gradient"):
        iterate(leapfrog(ridge()), q, p, 0.0, torch.tensor(0.1, requires_grad=True), 2, memory="constant")
    bare = Slope(lambda x: x)
    with pytest.raises(hf.errors.InputError, match="value of a Slope gave a Tensor, expected a tuple"):
        bare(q)


def test_rollouts_in_constant_memory_say_when_they_stop(capsys: pytest.CaptureFixture[str]) -> None:
    falling = hf.SeparableHamiltonian(QuadraticKinetic(1), FunctionEnergy(lambda x: -(x**2).sum(-1)))
    step = hf.LatticeSplitting(falling, span=64)
    q, p = torch.ones(3, 1, requires_grad=True), 5 * torch.ones(3, 1)
    times = []
    for memory in MEMORIES:
        with pytest.raises(hf.errors.RolloutError, match="between times") as caught:
            hf.rollout(step, q, p, n_steps=100, dt=0.1, memory=memory, progress=True)
        times.append(caught.value.time)
        assert "rollout" in capsys.readouterr().err
    assert times[0] == times[1]
