"""Rollouts: many initial conditions carried forward at once."""

from __future__ import annotations

import torch
from torch import Tensor
from tqdm.auto import tqdm

from hamflow.errors import InputError, RolloutError, SolveError, check_choice, check_positive, is_number
from hamflow.steps import Step
from hamflow.steps.reversible import MEMORIES, keeps_nothing, path


def rollout(
    step: Step,
    q: Tensor,
    p: Tensor,
    *,
    n_steps: int,
    dt: float,
    substeps: int = 1,
    t: float = 0.0,
    check: bool = True,
    progress: bool = False,
    memory: str = "stored",
) -> Tensor:
    r"""The states :math:`z_0, z_1, \dots, z_n` at the times :math:`t + k\,\Delta t`, all initial conditions at once.

    Args:
        step: any :class:`hamflow.Step`.
        q: initial positions, (*batch, d).
        p: initial momenta, (*batch, d).
        n_steps: n, the number of states after the first.
        dt: the time between two states; negative runs backwards.
        substeps: how many steps of dt / substeps lie between two states.
        t: the time at the start.
        check: whether to look for states that are not finite; ``torch.func.vmap`` over a rollout cannot.
        progress: whether to show a progress bar.
        memory: with ``"stored"`` gradients go through a graph of all steps; with ``"constant"`` nothing is kept but the
            states that are returned, and the way back undoes the steps, see :func:`hamflow.steps.reversible.iterate`.

    Returns:
        (n_steps + 1, *batch, 2 d), positions and momenta side by side; it carries gradients where they are enabled.

    Raises:
        InputError: a shape or a number is wrong.
        RolloutError: a state is not finite, or an implicit step does not settle; the error says when.

    Example:
        >>> import torch, hamflow as hf
        >>> H = hf.SeparableHamiltonian(hf.QuadraticKinetic(1), hf.FunctionEnergy(lambda q: 0.5 * (q**2).sum(-1)))
        >>> hf.rollout(hf.Splitting(H), torch.ones(5, 1), torch.zeros(5, 1), n_steps=100, dt=0.1).shape
        torch.Size([101, 5, 2])
    """
    check_positive("n_steps", n_steps, integer=True)
    check_positive("substeps", substeps, integer=True)
    check_dt(dt)
    if not isinstance(q, Tensor) or not isinstance(p, Tensor) or q.shape != p.shape or q.ndim == 0:
        shapes = [tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__ for x in (q, p)]
        raise InputError(f"q is {shapes[0]} and p is {shapes[1]}, expected tensors of one shape (*batch, d)")
    check_choice("memory", memory, MEMORIES)
    small = dt / substeps
    bar = tqdm(total=n_steps, desc="rollout", unit="step", dynamic_ncols=True) if progress else None
    reached = 0

    def passed() -> None:
        nonlocal reached
        reached += 1
        if bar is not None:
            bar.update()

    try:
        if memory == "constant" and keeps_nothing():
            walked = path(step, q, p, t, small, n_steps, substeps, passed)
        else:
            found = [torch.cat((q, p), dim=-1)]
            for state in step.states(q, p, t, small, n_steps, substeps):
                found.append(torch.cat(state, dim=-1))
                passed()
                # Looking at every state would wait for the device each time; a state once lost stays lost.
                if check and reached % 256 == 0 and not bool(found[-1].isfinite().all()):
                    break
            walked = torch.stack(found)
    except SolveError as error:
        end = t + (reached + 1) * dt
        raise RolloutError(
            f"the rollout stopped between times {t + reached * dt:g} and {end:g}: {error}", time=end
        ) from error
    finally:
        if bar is not None:
            bar.close()
    # No error can depend on numbers where a compiler looks.
    if check and not torch.compiler.is_compiling():
        _check_finite(walked, t, dt)
    return walked


def check_dt(dt: float) -> None:
    """Raise :class:`InputError` unless a time between two states is finite and not zero."""
    if not is_number(dt) or dt == 0 or dt - dt != 0:
        raise InputError(f"dt = {dt!r}, expected a finite number other than 0")


def _check_finite(path: Tensor, t: float, dt: float) -> None:
    bad = ~path.isfinite().all(-1)
    if not bool(bad.any()):
        return
    first = int(bad.flatten(1).any(1).nonzero()[0]) if bad.ndim > 1 else int(bad.nonzero()[0])
    where = bad[first].nonzero().tolist()
    time = t + first * dt
    which = f", the first of them at index {tuple(where[0])}" if bad.ndim > 1 else ""
    raise RolloutError(
        f"the rollout left the finite numbers at time {time:g} (state {first}): {len(where)} of "
        f"{bad[first].numel()} trajectories{which}; a smaller dt or more substeps may help, or initial states nearer "
        "to the data",
        time=time,
    )
