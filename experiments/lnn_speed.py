"""How fast a Lagrangian network trains: the second derivatives that are needed, in closed form, against other ways."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import report
import runner

NAME = "lnn_speed"
# d, batch, width: two hidden layers each.
SIZES = {"d2": (2, 256, 128), "d6": (6, 256, 128), "d2_wide": (2, 512, 600)}
PEERS = ("products", "full_hessian", "sample_loop")
BARS = {("d2", "products"): 1.0, ("d6", "full_hessian"): 3.0, ("d2", "sample_loop"): 100.0}
NOTES = """
One training step of a general Lagrangian L(q, v), two hidden softplus layers: the accelerations of a batch, their
squared misfit, its gradient, and Adam's update; one thread, single precision. Sizes (d, batch, width): d2 is
(2, 256, 128), d6 (6, 256, 128), d2_wide (2, 512, 600). hamflow writes the second derivatives out and differentiates
once. The peers train the same network and differ in how they find M = d2L/dv2 and (d2L/dq dv) v:

- products: d + 1 vector-Jacobian products by automatic differentiation, the way of constrained networks (Finzi, Wang
  and Wilson 2020, arXiv 2010.13581), and a linear solve.
- full_hessian: the whole 2d x 2d Hessian of every state by torch.func.vmap, and a linear solve.
- sample_loop: the whole Hessian and a pseudo-inverse, one state after the other.

speedup_over_*: process time of a peer's steps over that of hamflow's, which take turns; the median over rounds, with
the quartiles beside it. In float64 the parameter gradients agree to 1e-8 of their size, or the run fails.
"""


def work(run: runner.Run) -> list[report.Row]:
    """Let the kinds of training steps take turns."""
    import torch

    import hamflow as hf

    dim, batch, width = SIZES[run.case]
    rounds = run.configuration["rounds"]
    generator = torch.Generator().manual_seed(run.seed)
    q, v, target = torch.randn(3, batch, dim, generator=generator)

    def network() -> hf.NetworkLagrangian:
        torch.manual_seed(run.seed)
        return hf.NetworkLagrangian(dim, (width, width))

    ways: dict[str, Callable[..., Any]] = {
        "hamflow": _own,
        **{name: _WAYS[name] for name in run.configuration["peers"]},
    }
    _check_agreement(network().double(), ways, q[:8].double(), v[:8].double(), target[:8].double())
    trainers = {name: _trainer(network(), way, q, v, target) for name, way in ways.items()}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, step in trainers.items():
            # Seconds a step: once is enough, and the first round of the others loads and allocates.
            if name == "sample_loop" and number != 1:
                continue
            steps = 1 if name == "sample_loop" else run.configuration["steps"]
            start = time.process_time()
            for _ in range(steps):
                step()
            if number:
                times[name].append(1000 * (time.process_time() - start) / steps)
    rows: list[report.Row] = []
    for name in ways:
        rows.append({"metric": f"{name}_step", "value": statistics.median(times[name]), "unit": "ms"})
        if name == "hamflow":
            continue
        ratios = [other / own for other, own in zip(times[name], times["hamflow"], strict=False)]
        head: report.Row = {"metric": f"speedup_over_{name}", "value": statistics.median(ratios), "unit": "times"}
        if (run.case, name) in BARS:
            head["bar"] = BARS[run.case, name]
        rows.append(head)
        if len(ratios) > 1:
            low, _, high = statistics.quantiles(ratios, n=4)
            rows.append({"metric": f"speedup_over_{name}_first_quartile", "value": low, "unit": "times"})
            rows.append({"metric": f"speedup_over_{name}_third_quartile", "value": high, "unit": "times"})
    return rows


def _trainer(model: Any, way: Callable[..., Any], q: Any, v: Any, target: Any) -> Callable[[], None]:
    import torch

    optimiser = torch.optim.Adam(model.parameters(), 1e-3)

    def step() -> None:
        optimiser.zero_grad()
        ((way(model, q, v) - target) ** 2).mean().backward()
        optimiser.step()

    return step


def _check_agreement(model: Any, ways: dict[str, Callable[..., Any]], q: Any, v: Any, target: Any) -> None:
    import torch

    found = {}
    for name, way in ways.items():
        loss = ((way(model, q, v) - target) ** 2).mean()
        found[name] = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])
    for name, gradient in found.items():
        difference = float((gradient - found["hamflow"]).abs().max() / found["hamflow"].abs().max())
        if not difference <= 1e-8:
            raise AssertionError(f"the parameter gradients of {name} differ by {difference:.1e}, expected <= 1e-8")


def _own(model: Any, q: Any, v: Any) -> Any:
    return model.acceleration(q, v)


def _products(model: Any, q: Any, v: Any) -> Any:
    import torch

    q, v = q.clone().requires_grad_(), v.clone().requires_grad_()
    force, momentum = torch.autograd.grad(model(q, v).sum(), (q, v), create_graph=True)
    rows = [torch.autograd.grad(momentum[:, i].sum(), (q, v), create_graph=True) for i in range(q.shape[1])]
    mixed, mass = (torch.stack(parts, 1) for parts in zip(*rows, strict=True))
    return torch.linalg.solve(mass, force - (mixed @ v.unsqueeze(-1)).squeeze(-1))


def _full_hessian(model: Any, q: Any, v: Any) -> Any:
    import torch

    dim = q.shape[1]

    def lagrangian(z: Any) -> Any:
        return model(z[:dim], z[dim:])

    z = torch.cat((q, v), -1)
    slope = torch.func.vmap(torch.func.grad(lagrangian))(z)
    hessian = torch.func.vmap(torch.func.hessian(lagrangian))(z)
    mixed, mass = hessian[:, dim:, :dim], hessian[:, dim:, dim:]
    return torch.linalg.solve(mass, slope[:, :dim] - (mixed @ v.unsqueeze(-1)).squeeze(-1))


def _sample_loop(model: Any, q: Any, v: Any) -> Any:
    import torch

    dim = q.shape[1]
    found = []
    for state in torch.cat((q, v), -1):

        def lagrangian(z: Any) -> Any:
            return model(z[:dim], z[dim:])

        slope = torch.autograd.functional.jacobian(lagrangian, state, create_graph=True)
        hessian = torch.autograd.functional.hessian(lagrangian, state, create_graph=True)
        force = slope[:dim] - hessian[dim:, :dim] @ state[dim:]
        found.append(torch.linalg.pinv(hessian[dim:, dim:]) @ force)
    return torch.stack(found)


_WAYS = {"products": _products, "full_hessian": _full_hessian, "sample_loop": _sample_loop}


def main() -> None:
    """Run what the command line asks for, then write the table and the overview."""
    runner.take_turns(
        NAME, __doc__ or "", "Speed of training a Lagrangian network", NOTES, list(SIZES), "lnn", work,
        quick=(["d2"], {"rounds": 1, "steps": 1, "peers": ["products", "full_hessian"]}),
        full={"rounds": 30, "steps": 3, "peers": list(PEERS)},
    )  # fmt: skip


if __name__ == "__main__":
    main()
