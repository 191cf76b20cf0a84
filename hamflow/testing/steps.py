"""The checks of a step: its geometry, its order, and its energy over a long time."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor, nn

from hamflow.diagnostics import PERIODS, SIGNIFICANT, Trend, energy_drift
from hamflow.energies.hamiltonian import Energy, Hamiltonian
from hamflow.errors import InputError
from hamflow.rollout import rollout
from hamflow.steps.step import Step
from hamflow.testing.measures import (
    GRADIENT,
    LOG_DET,
    ORDER,
    ROUND_TRIP,
    SYMPLECTICITY,
    check_modes,
    curvature_error,
    difference,
    gradient_error,
    jacobian,
    require,
    require_dtype,
    require_shape,
)

#: Steps between two looks at the energy.
_STRIDE = 5


@dataclass(frozen=True)
class StepReport:
    """What :func:`check_step` measured.

    Attributes:
        round_trip: relative error of the inverse after the forward map, and of the forward map after the inverse.
        symplecticity: the largest entry of J' Omega J - c Omega, where c is 1 without friction and exp(-gamma dt) with;
            None where the friction differs between coordinates and no such multiple is promised.
        log_det: the largest difference between ``log_det`` and the log-determinant of the Jacobian.
        order: the slope of log error against log dt, or None where it has no meaning.
        gradient: relative difference between derivatives (states and parameters) and finite differences.
        curvature: that between second derivatives of one step and finite differences of the first ones.
    """

    round_trip: float
    symplecticity: float | None
    log_det: float
    order: float | None
    gradient: float
    curvature: float


def check_step(
    step: Step,
    dim: int,
    *,
    dt: float = 0.1,
    n_steps: int = 100,
    hamiltonian: Hamiltonian | None = None,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> StepReport:
    r"""Check a step: its inverse, :math:`J^\top \Omega J = \Omega`, :math:`\log|\det J| = 0`, order and derivatives,
    first and second.

    With friction the right-hand sides are :math:`e^{-\gamma \Delta t}\,\Omega`, for one :math:`\gamma`, and the
    log-determinant that the step declares.

    The order is measured against SciPy's DOP853, where ``step.order`` is not None, a Hamiltonian is at hand and no
    energy is layered; the energies must be smooth.

    Args:
        step: the :class:`hamflow.Step`.
        dim: d, the number of degrees of freedom.
        dt: the time step.
        n_steps: the steps of the round trip; with layered energies as many as there are layers for.
        hamiltonian: what the step integrates; by default its attribute ``hamiltonian``.
        device: where to run.
        seed: of the random states.

    Raises:
        AssertionError: a promise is broken; the message says which and by how much.

    References:
        Hairer, Lubich and Wanner (2006), Geometric Numerical Integration, chapters II and VI.

    Example:
        >>> import hamflow as hf
        >>> from hamflow.testing import check_step
        >>> pendulum = hf.FunctionEnergy(lambda q: (1 - q.cos()).sum(-1))
        >>> step = hf.Splitting(hf.SeparableHamiltonian(hf.QuadraticKinetic(1, mass=2.0), pendulum), hf.LEAPFROG)
        >>> round(check_step(step, dim=1).order)
        2
    """
    generator = torch.Generator().manual_seed(seed)
    original, step = step, copy.deepcopy(step).double().to(device)
    states = torch.randn(2, 3, 2 * dim, generator=generator, dtype=torch.float64).to(device)
    allowed = 10 * step.tolerance

    def run(z: Tensor, n: int, *, back: bool = False, of: Step = step) -> Tensor:
        q, p = z.chunk(2, -1)
        return torch.cat((of.iterate_inverse if back else of.iterate)(q, p, 0.0, dt, n), -1)

    def once(z: Tensor) -> Tensor:
        return torch.cat(step(*z.chunk(2, -1), 0.0, dt), -1)

    few = min(n_steps, 5)
    with torch.no_grad():
        round_trip = max(
            difference(run(run(states, n_steps), n_steps, back=True), states),
            difference(run(run(states, few, back=True), few), states),
        )
        require(f"round trip after {n_steps} steps", round_trip, allowed or ROUND_TRIP)
        q, p = states.chunk(2, -1)
        for k in range(few):
            q, p = step(q, p, k * dt, dt)
        looped = torch.cat((q, p), -1)
        require("iterate against a loop of steps", difference(run(states, few), looped), max(allowed, 1e-12))
        for k in reversed(range(few)):
            q, p = step.inverse(q, p, k * dt, dt)
        require("a loop of inverse steps", difference(torch.cat((q, p), -1), states), allowed or ROUND_TRIP)
        after = once(states)
        require_shape("the state after a step", after, states.shape)
        for rows in (lambda z: z[0, 0], lambda z: z[0]):
            require("a step of one row", difference(once(rows(states)), rows(after)), max(allowed, 1e-12))

    check_modes(once, (states,))
    single = copy.deepcopy(original).float().to(device)
    rough = run(states.float(), 1, of=single)
    require_dtype("the state after a step", rough, torch.float32)
    if rough.device != states.device:
        raise AssertionError(f"the state after a step is on {rough.device}, expected {states.device}")
    require("float32 against float64", difference(rough.double(), after), 1e-4)

    omega = torch.kron(torch.tensor([[0.0, 1.0], [-1.0, 0.0]]), torch.eye(dim)).to(states)
    jacobians = torch.stack([jacobian(once, z) for z in states.reshape(-1, 2 * dim)])
    symplecticity = None
    damping = torch.as_tensor(step.damping).detach().to(states)
    if damping.ndim == 0:
        multiple = float((-damping * dt).exp())
        symplecticity = float((jacobians.mT @ omega @ jacobians - multiple * omega).abs().max())
        what = "largest entry of J' Omega J - " + ("exp(-gamma dt) " if multiple != 1 else "") + "Omega"
        require(what, symplecticity, allowed or SYMPLECTICITY)
    declared = step.log_det(states.chunk(2, -1)[0], dt).detach()
    require_shape("log_det", declared, states.shape[:-1])
    log_det = float((torch.linalg.slogdet(jacobians).logabsdet - declared.flatten()).abs().max())
    require("log-determinant of the Jacobian against log_det", log_det, allowed or LOG_DET)
    gradient = gradient_error(step, lambda z: run(z, few), (states,), generator)
    require("derivatives against finite differences", gradient, max(GRADIENT, 1e4 * step.tolerance))
    curvature = curvature_error(step, once, (states,), generator)
    require("second derivatives against finite differences", curvature, max(GRADIENT, 1e4 * step.tolerance))

    energy = copy.deepcopy(hamiltonian).double().to(device) if hamiltonian else getattr(step, "hamiltonian", None)
    order = None
    if step.order is not None and energy is not None and not _is_layered(energy):
        order = measure_order(step, energy, states)
        if abs(order - step.order) > ORDER:
            raise AssertionError(f"measured order: {order:.2f}, expected {step.order} to within {ORDER}")
    return StepReport(round_trip, symplecticity, log_det, order, gradient, curvature)


def measure_order(step: Step, hamiltonian: Hamiltonian, states: Tensor, *, duration: float = 1.0) -> float:
    """The slope of log error against log dt over a fixed time, errors taken against SciPy's DOP853.

    Args:
        step: the step, in float64.
        hamiltonian: what it integrates, in float64.
        states: initial states (*batch, 2 d), in float64.
        duration: the time over which the error grows.

    Raises:
        AssertionError: fewer than three errors lie between rounding and nonsense.

    Example:
        >>> import torch, hamflow as hf
        >>> from hamflow.testing import measure_order
        >>> H = hf.systems.Pendulum()
        >>> round(measure_order(hf.Splitting(H, hf.YOSHIDA4), H, torch.tensor([[1.0, 0.0]]).double()))
        4
    """

    def slope(t: float, flat: np.ndarray) -> np.ndarray:
        q, p = torch.as_tensor(flat).to(states).view_as(states).chunk(2, -1)
        dq, dp = hamiltonian.gradient(q, p, t)
        return torch.cat((dp, -dq - step.damping * p), -1).flatten().cpu().numpy()

    with torch.no_grad():
        start = states.flatten().cpu().numpy()
        exact = solve_ivp(slope, (0.0, duration), start, method="DOP853", rtol=1e-13, atol=1e-13).y[:, -1]
        reference = torch.as_tensor(exact).to(states).view_as(states)
        counts = [8, 12, 16, 24, 32, 48, 64]
        errors = []
        q, p = states.chunk(2, -1)
        for n in counts:
            end = torch.cat(step.iterate(q, p, 0.0, duration / n, n), -1)
            errors.append(float((end - reference).square().mean().sqrt()))
    # Below 1e-11 the reference's own error shows; the smallest steps are closest to the limit that defines the order.
    usable = [(n, error) for n, error in zip(counts, errors, strict=True) if 1e-11 < error < 0.1][-4:]
    if len(usable) < 3:
        raise AssertionError(f"order: errors {errors} for {counts} steps, expected three between 1e-11 and 0.1")
    sizes, kept = np.array(usable).T
    return float(np.polyfit(np.log(duration / sizes), np.log(kept), 1)[0])


def check_drift(
    step: Step,
    q: Tensor,
    p: Tensor,
    *,
    dt: float,
    n_steps: int = 10_000,
    hamiltonian: Hamiltonian | None = None,
) -> Trend:
    """Check that the energy of a bounded autonomous system oscillates but does not drift, and return its trend.

    The energy of every fifth state must have no significant trend by :func:`hamflow.energy_drift`.

    Args:
        step: the :class:`hamflow.Step`, in the dtype of the states.
        q: initial positions (*batch, d).
        p: initial momenta (*batch, d).
        dt: the time step.
        n_steps: the number of steps, at least 100.
        hamiltonian: the energy; by default the step's attribute ``hamiltonian``.

    Raises:
        AssertionError: the energy drifts.
        InputError: there are too few steps, or periods of the energy, to see a trend.
        RolloutError: a state is not finite.

    Example:
        >>> import torch, hamflow as hf
        >>> from hamflow.testing import check_drift
        >>> spring = hf.FunctionEnergy(lambda q: 0.5 * (q**2).sum(-1))
        >>> step = hf.Splitting(hf.SeparableHamiltonian(hf.QuadraticKinetic(1), spring))
        >>> check_drift(step, torch.ones(1), torch.zeros(1), dt=0.1, n_steps=1000).largest < 0.01
        True
    """
    energy = hamiltonian if hamiltonian is not None else step.hamiltonian
    assert isinstance(energy, Hamiltonian), f"hamiltonian is a {type(energy).__name__}, expected a Hamiltonian"
    with torch.no_grad():
        path = rollout(step, q, p, n_steps=max(1, n_steps // _STRIDE), dt=_STRIDE * dt, substeps=_STRIDE)
        values = energy(*path.chunk(2, -1))
    trend = energy_drift(values, _STRIDE * dt)
    if not trend.conclusive:
        raise InputError(f"n_steps = {n_steps} holds fewer than {PERIODS} periods of the energy, expected more")
    require("slope of the energy", abs(trend.slope), SIGNIFICANT * trend.standard_error)
    return trend


def _is_layered(module: nn.Module) -> bool:
    return any(isinstance(part, Energy) and part.layers > 1 for part in module.modules())
