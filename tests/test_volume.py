"""Volume: in positions and velocities, in wrapped steps, and under constraints."""

from typing import Any

import pytest
import torch
from torch import Tensor

import hamflow as hf
from hamflow.steps import log_det_in_velocities
from tests.mechanisms import F64, RULES, bent, chain, hung, rods, states


@RULES
def test_the_volume_in_velocities(rule: str) -> None:
    lagrangian = bent()
    step = hf.VariationalStep(lagrangian, rule)
    q, v = states(4)

    def seen(z: Tensor) -> Tensor:
        a, b = z.chunk(2, -1)
        a, b = step.iterate(a, lagrangian.momentum(a, b), 0.0, 0.2, 3)
        return torch.cat((a, lagrangian.velocity(a, b)), -1)

    z = torch.cat((q, v), -1)
    exact = torch.stack([torch.linalg.slogdet(torch.autograd.functional.jacobian(seen, row)).logabsdet for row in z])
    found = log_det_in_velocities(lagrangian, (q, v), seen(z).chunk(2, -1), 0.0, 0.6)  # type: ignore[arg-type]
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-11)
    assert exact.abs().max() > 0.1
    assert torch.equal(step.log_det(q, 0.2, 3), torch.zeros(4, dtype=F64))


@pytest.mark.parametrize(
    "wrap", [hf.Composition, lambda step: hf.Damped(step, 0.1), lambda step: hf.Damped(hf.Composition(step), 0.1)]
)
def test_no_wrapper_makes_up_a_volume(wrap: Any) -> None:
    """With a force the change of volume depends on the path, whatever the step is wrapped in."""
    step = wrap(hf.VariationalStep(bent(), force=hf.RayleighFriction(2)))
    flow = hf.PhaseFlow(step)
    z = torch.ones(3, 4)
    assert flow(z).shape == (3, 4)
    for call in (lambda: step.log_det(z[:, :2]), lambda: flow.log_abs_det_jacobian(z, z)):
        with pytest.raises(hf.InputError, match="force is given: the change of volume depends on the path"):
            call()
    assert torch.equal(hf.Composition(hf.VariationalStep(bent())).log_det(z[:, :2]), torch.zeros(3))


@pytest.mark.parametrize("wrap", [lambda step: step, hf.Composition, lambda step: hf.Damped(hf.Composition(step), 0.1)])
def test_no_flow_of_a_step_under_constraints(wrap: Any, float64: torch.dtype) -> None:
    """It maps states onto the constraint: its Jacobian has rank 2 (d - m)."""
    step = wrap(hf.Rattle(chain(1.0), rods()))
    with pytest.raises(hf.InputError, match=r"^step is a \w+( with a Rattle in it)?, which maps no other states"):
        hf.PhaseFlow(step)
    q, v = hung(*states(3))
    p = chain(1.0).momentum(q, v)
    assert step.hamiltonian is not None
    torch.testing.assert_close(step.hamiltonian(q, p), chain(1.0).energy(q, v))
