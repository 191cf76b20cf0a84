"""What torch.compile sees as one graph, with the values of the code that it saw."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import hamflow as hf
from tests.parts import learned, shaken


def states(dim: int = 2) -> tuple[Tensor, Tensor]:
    q, p = 0.5 * torch.randn(2, 8, dim, generator=torch.Generator().manual_seed(3))
    return q, p


def flow(memory: str) -> Callable[[Tensor, Tensor], Tensor]:
    given = shaken(hf.hamiltonian(4, n_steps=4, memory=memory))
    return lambda q, p: given(torch.cat((q, p), -1))


def rollout(step: hf.Step) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda q, p: hf.rollout(step, q, p, n_steps=5, dt=0.1, check=False)


def density() -> Callable[[Tensor, Tensor], Tensor]:
    model = hf.NHF(2, n_steps=3, width=8)
    return lambda q, p: model.log_joint_standardised(q, p)


def loss() -> Callable[[Tensor, Tensor], Tensor]:
    model = hf.NHF(2, n_steps=3, width=8)
    return lambda q, p: model.loss(q)


def field(model: hf.HNN | hf.LNN) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda q, p: torch.cat(model.vector_field(q, p))


def videos(**settings: Any) -> Callable[[Tensor, Tensor], Tensor]:
    model = hf.HGN(size=8, dim=2, frames=3, width=4, widths=(8,), **settings)

    def film(q: Tensor, p: Tensor) -> Tensor:
        mean, _ = model.moments(model.encoder, torch.cat((q, p), -1).reshape(-1, 1, 1, 2, 2).repeat(1, 3, 1, 4, 4))
        return model.decode(model.path(*model.initial_state(mean), 3, model.dt)[..., : model.dim])

    return film


GRAPHS: dict[str, Callable[[], Callable[[Tensor, Tensor], Tensor]]] = {
    "flow": lambda: flow("stored"),
    "flow in constant memory": lambda: flow("constant"),
    "splitting": lambda: rollout(hf.Splitting(learned("full"), hf.YOSHIDA4)),
    "friction": lambda: rollout(hf.Damped(hf.Splitting(learned()), 0.1)),
    "lattice": lambda: rollout(hf.LatticeSplitting(learned(), span=64)),
    "density": density,
    "loss": loss,
    "HNN": lambda: field(hf.HNN(2)),
    "HNN motion": lambda: rollout(hf.HNN(2).step),
    "LNN": lambda: field(hf.LNN(2)),
    "LNN regularised": lambda: field(hf.LNN(2, regulariser=1e-3)),
    "HGN": videos,
    "HGN of maps": lambda: videos(maps=True),
    "HGN of angles": lambda: videos(periodic=(1,)),
    "HGN motion": lambda: rollout(hf.HGN(size=8, dim=2, frames=3).step),
}


@pytest.mark.filterwarnings("error:.*lru_cache")
@pytest.mark.parametrize("name", GRAPHS)
def test_built_in_models_are_one_graph(name: str) -> None:
    torch._dynamo.reset()
    run, at = GRAPHS[name](), states()
    compiled = torch.compile(run, fullgraph=True, backend="eager")
    values = []
    for each in (run, compiled):
        torch.manual_seed(0)
        values.append(each(*at))
    torch.testing.assert_close(values[1], values[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("memory", ["stored", "constant"])
@pytest.mark.parametrize("part", ["flow", "loss"])
def test_gradients_of_compiled_code_are_those_of_the_code(part: str, memory: str) -> None:
    # Those of the loss ask for noise, which is drawn anew from one seed.
    torch._dynamo.reset()
    model = shaken(hf.NHF(2, n_steps=3, width=8, layerwise=False, scheme="leapfrog", memory=memory))
    run = model.flow if part == "flow" else model.loss
    x = torch.randn(8, 4 if part == "flow" else 2, generator=torch.Generator().manual_seed(3))
    found = []
    for each in (run, torch.compile(run, fullgraph=True, backend="aot_eager")):
        torch.manual_seed(0)
        model.zero_grad()
        each(x).square().sum().backward()
        found.append([p.grad for p in model.parameters() if p.grad is not None])
    assert found[0] and len(found[0]) == len(found[1])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
