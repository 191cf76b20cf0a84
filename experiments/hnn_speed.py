"""How fast the published pendulum network trains: closed-form gradients against autograd's double backward."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import report
import runner
from overview import write_overview

NAME = "hnn_speed"
NOTES = """
The published Hamiltonian network (2-200-200-1, tanh) on 25 x 45 states of H = 3 (1 - cos q) + p^2 in one batch, Adam
with weight decay, one thread. A step is loss, gradient and update. speedup_over_double_backward: process time of steps
whose dH/dq and dH/dp come from torch.autograd.grad(create_graph=True), over that of steps with the closed form; the two
take turns, the figure is the median over rounds, and the quartiles beside it show their spread. Both train the same
network; in float64 their parameter gradients agree to 1e-10, and a run fails where they do not.
speedup_limit: the double backward over the six 1125 x 200 x 200 matrix products that either way of taking the gradient
spends in a step: what would be left if all else cost nothing.
"""


def work(run: runner.Run) -> list[report.Row]:
    """Let the two kinds of training steps take turns."""
    import torch
    from torch import Tensor

    import hamflow as hf

    rounds, steps = run.configuration["rounds"], run.configuration["steps"]
    generator = torch.Generator().manual_seed(run.seed)
    q, p = (torch.empty(25 * 45, 1).uniform_(-2.3, 2.3, generator=generator) for _ in range(2))
    q_dot, p_dot = 2 * p, -3 * q.sin()

    def network() -> hf.JointHamiltonian:
        torch.manual_seed(run.seed)
        return hf.JointHamiltonian(hf.MLPPotential(2, widths=(200, 200), init="orthogonal"))

    def closed(model: hf.JointHamiltonian, q: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        return model.gradient(q, p)

    def double(model: hf.JointHamiltonian, q: Tensor, p: Tensor) -> tuple[Tensor, ...]:
        leaves = (q.clone().requires_grad_(), p.clone().requires_grad_())
        return torch.autograd.grad(model(*leaves).sum(), leaves, create_graph=True)

    def loss(gradients: tuple[Tensor, ...]) -> Tensor:
        dq, dp = gradients
        return ((dp - q_dot) ** 2 + (dq + p_dot) ** 2).sum(-1).mean()

    exact = network().double()
    parameters = list(exact.parameters())
    one, two = (
        torch.cat([g.flatten() for g in torch.autograd.grad(loss(way(exact, q.double(), p.double())), parameters)])
        for way in (closed, double)
    )
    difference = float((one - two).abs().max() / two.abs().max())
    if not difference <= 1e-10:
        raise AssertionError(f"the parameter gradients differ by {difference:.1e}, expected <= 1e-10")

    def trainer(way: Callable[..., tuple[Tensor, ...]]) -> Callable[[], None]:
        model = network()
        optimiser = torch.optim.Adam(model.parameters(), 1e-3, weight_decay=1e-4)

        def step() -> None:
            optimiser.zero_grad()
            loss(way(model, q, p)).backward()
            optimiser.step()

        return step

    batch, weight = torch.randn(25 * 45, 200, generator=generator), torch.randn(200, 200, generator=generator)

    def products() -> None:
        for _ in range(4):
            batch @ weight
        for _ in range(2):
            batch.T @ batch

    contenders = (trainer(closed), trainer(double), products)
    times: list[list[float]] = []
    for number in range(rounds + 1):
        row = []
        for contender in contenders:
            start = time.process_time()
            for _ in range(steps):
                contender()
            row.append(1000 * (time.process_time() - start) / steps)
        # The first round pays for what every process loads and allocates once.
        times += [row] if number else []
    ratios = [row[1] / row[0] for row in times]
    low, _, high = statistics.quantiles(ratios, n=4)
    closed_ms, double_ms, products_ms = (statistics.median(column) for column in zip(*times, strict=True))
    params = sum(parameter.numel() for parameter in parameters)
    speedup = {
        "metric": "speedup_over_double_backward",
        "value": statistics.median(ratios),
        "unit": "times",
        "bar": 2.0,
    }
    return [
        {**speedup, "params": params},
        {"metric": "speedup_first_quartile", "value": low, "unit": "times"},
        {"metric": "speedup_third_quartile", "value": high, "unit": "times"},
        {"metric": "speedup_limit", "value": double_ms / products_ms, "unit": "times"},
        {"metric": "closed_form_step", "value": closed_ms, "unit": "ms"},
        {"metric": "double_backward_step", "value": double_ms, "unit": "ms"},
    ]


def main() -> None:
    """Run what the command line asks for, then write the table and the overview."""
    options = runner.parse_options(NAME, __doc__ or "", ["pendulum"], ["hnn"], quick=(["pendulum"], ["hnn"]))
    seeds = options.seeds or ([0] if options.quick else [0, 1, 2, 3, 4])
    decides = {"rounds": 2, "steps": 2} if options.quick else {"rounds": 60, "steps": 10}
    runs = [runner.Run("pendulum", "hnn", seed, decides) for seed in seeds]
    store = report.ResultStore(options.out, quick=options.quick)
    store.drop_stale({(run.case, run.model): run.configuration for run in runs})
    runner.execute(work, runs, store, options.jobs)
    report.write_table(store, "Speed of training the published pendulum network", NOTES, ["pendulum"])
    write_overview(options.out.parent)


if __name__ == "__main__":
    main()
