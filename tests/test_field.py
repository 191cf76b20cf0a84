"""Fields on a grid; derivatives of the Lagrangian: test_members.py; the solves behind them: test_banded.py."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hamflow as hf
from hamflow import roots
from hamflow.energies import banded, field
from hamflow.energies.field import BOUNDARIES
from hamflow.systems import WaveEquation

each_boundary = pytest.mark.parametrize("boundary", BOUNDARIES)


class Waves(nn.Module):
    """Half the squared velocity less half the squared slope times a squared speed that can be learned."""

    def __init__(self, speed: float) -> None:
        super().__init__()
        self.speed = nn.Parameter(torch.tensor(speed))

    def forward(self, u: Tensor, v: Tensor) -> Tensor:
        return 0.5 * v[..., 0] ** 2 - 0.25 * self.speed**2 * (u[..., 1:] ** 2).sum(-1)


@each_boundary
def test_the_density_of_waves_gives_the_wave_equation(boundary: str, float64: torch.dtype) -> None:
    string = WaveEquation(12, 3.0, 1.5, boundary)
    lagrangian = hf.FieldLagrangian(string.spacing, boundary, density=hf.FunctionLagrangian(Waves(1.5)))
    q, p = string.initial_states(5, torch.Generator().manual_seed(0))
    v = string.velocity(q, p)
    for found, expected in (
        (lagrangian.acceleration(q, v), string.acceleration(q, p)),
        (lagrangian.momentum(q, v), p),
        (lagrangian.velocity(q, p), v),
        (lagrangian.energy(q, v), string(q, p)),
        (lagrangian(q, v), string.lagrangian(q, v)),
    ):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def network(boundary: str, spacing: float = 0.5) -> hf.FieldLagrangian:
    """A learned field, its masses between neighbours not zero, well away from singular."""
    torch.manual_seed(0)
    return hf.FieldLagrangian(spacing, boundary, widths=(8, 8)).double()


@each_boundary
def test_acceleration_is_that_of_the_dense_terms(boundary: str, float64: torch.dtype) -> None:
    lagrangian = network(boundary)
    q, v, applied = torch.randn(3, 4, 7)
    terms = lagrangian.terms(q, v)
    assert terms.mass.diagonal(2, -2, -1).abs().max() > 1e-4
    assert torch.linalg.eigvalsh(terms.mass).min() > 0.05
    assert (terms.mass[..., 0, -1].abs().max() > 1e-4) == (boundary == "periodic")
    for settings in ({}, {"regulariser": 0.1}):
        torch.testing.assert_close(
            lagrangian.acceleration(q, v, applied=applied, **settings),
            terms.acceleration(applied, **settings),
            rtol=1e-12,
            atol=1e-12,
        )
    torch.testing.assert_close(lagrangian.velocity(q, lagrangian.momentum(q, v)), v, rtol=1e-12, atol=1e-12)


@each_boundary
def test_no_dense_matrix_on_the_way(boundary: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lagrangian = network(boundary).float()
    model = hf.LNN(300, lagrangian=lagrangian)
    for module, name in (
        (banded, "dense_matrix"), (field, "dense_matrix"), (banded, "_written_out"), (roots, "_inverse_jacobian")
    ):  # fmt: skip
        monkeypatch.setattr(module, name, None)
    q, v = 0.3 * torch.randn(2, 300)
    assert model.acceleration(q, v).isfinite().all()
    assert model.velocity(q, model.momentum(q, v)).isfinite().all()
    assert model.rollout(q, v, n_steps=2, dt=0.05).isfinite().all()


class Dragged(hf.Lagrangian):
    """A density whose field is carried by a wind, so that the Jacobian of a step is not symmetric."""

    def forward(self, q: Tensor, v: Tensor, t: Any = 0.0) -> Tensor:
        slope = 0.5 * (q[..., 1] + q[..., 2])
        return 0.5 * (v[..., 0] + 0.7 * slope) ** 2 + 0.05 * v[..., 1] * v[..., 2] * q[..., 0].cos() - slope**2


@each_boundary
@pytest.mark.parametrize("rule", ["midpoint", "trapezoidal"])
@pytest.mark.parametrize("points", [7, 40])
def test_a_step_is_that_of_the_dense_jacobian(
    points: int, rule: str, boundary: str, float64: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its derivatives, first and second, too."""
    lagrangian = hf.FieldLagrangian(0.8, boundary, density=Dragged())
    step = hf.VariationalStep(lagrangian, rule)
    q, v = 0.5 * torch.randn(2, 3, points, generator=torch.Generator().manual_seed(0))

    def moved(x: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        state = step.iterate(x, lagrangian.momentum(x, v), 0.0, 0.2, 2)
        (slope,) = torch.autograd.grad(torch.cat(state).square().sum(), x, create_graph=True)
        (bend,) = torch.autograd.grad(slope.square().sum(), x)
        return *state, slope, bend

    found = moved(q.requires_grad_(), v)
    monkeypatch.setattr(hf.FieldLagrangian, "linearise", lambda *_: None)
    for one, other in zip(found, moved(q, v), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


@each_boundary
def test_friction_between_all_points(boundary: str, float64: torch.dtype) -> None:
    friction = hf.RayleighFriction(9, learn=True)
    with torch.no_grad():
        friction.lower.fill_(0.1)
    step = hf.VariationalStep(hf.FieldLagrangian(0.8, boundary, density=Dragged()), force=friction)
    q, p = torch.ones(2, 9)
    q1, p1 = step(q, p, 0.0, 0.1)
    for found, expected in zip(step.inverse(q1, p1, 0.0, 0.1), (q, p), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_one_density_serves_every_number_of_points(float64: torch.dtype) -> None:
    """The field of 10 points, ten times side by side, on 100."""
    lagrangian = network("periodic")
    q, v = torch.randn(2, 3, 10)
    for name in ("acceleration", "momentum"):
        alone = getattr(lagrangian, name)(q, v)
        together = getattr(lagrangian, name)(q.repeat(1, 10), v.repeat(1, 10))
        torch.testing.assert_close(together, alone.repeat(1, 10), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(lagrangian.energy(q.repeat(1, 10), v.repeat(1, 10)), 10 * lagrangian.energy(q, v))


def test_a_finer_grid_comes_closer_to_the_continuum(float64: torch.dtype) -> None:
    """Waves in a potential q^4 / 4 and with a velocity whose slope has a mass: (1 - a d2x) a = q_xx - q^3."""

    def density(u: Tensor, v: Tensor) -> Tensor:
        kinetic = 0.5 * v[..., 0] ** 2 + 0.02 * v[..., 1] * v[..., 2]
        return kinetic - 0.25 * (u[..., 1:] ** 2).sum(-1) - 0.25 * u[..., 0] ** 4

    coarse = hf.FieldLagrangian(0.1, density=hf.FunctionLagrangian(density))
    errors = []
    for points in (20, 40, 80):
        x = torch.arange(points) * 2 * torch.pi / points
        found = coarse.on(2 * torch.pi / points).acceleration(x.sin(), x.cos())
        # sin^3 = (3 sin x - sin 3 x) / 4, and 1 - 0.04 d2x multiplies sin k x by 1 + 0.04 k^2.
        exact = -(x.sin() + 0.75 * x.sin()) / 1.04 + 0.25 * (3 * x).sin() / 1.36
        errors.append(float((found - exact).abs().max()))
    assert errors[2] < 2e-3
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1) and errors[1] / errors[2] == pytest.approx(4, rel=0.1)


def test_a_local_density_has_diagonal_masses() -> None:
    lagrangian = hf.FieldLagrangian(0.01, local=True)
    bands = lagrangian.mass_bands(*torch.randn(2, 5, 20))
    assert bands[:, 1:].abs().max() == 0 and bands[:, 0].std() > 0


def test_another_grid_shares_the_density() -> None:
    lagrangian = hf.FieldLagrangian(0.5)
    other = lagrangian.on(0.05, "fixed")
    assert other.density is lagrangian.density and (other.spacing, other.boundary) == (0.05, "fixed")
    assert (lagrangian.on().spacing, lagrangian.on().boundary) == (0.5, "periodic")


class Driven(hf.Lagrangian):
    """A density that a wind drives."""

    def forward(self, q: Tensor, v: Tensor, t: Any = 0.0) -> Tensor:
        t = torch.as_tensor(t, dtype=q.dtype)
        return (0.5 * v[..., :1] ** 2 + t.sin() * q[..., :1]).sum(-1)


@each_boundary
def test_times_of_states_reach_every_stencil(boundary: str) -> None:
    lagrangian = hf.FieldLagrangian(0.5, boundary, density=Driven())
    q, v, t = torch.randn(3, 6), torch.randn(3, 6), torch.tensor([[0.1], [0.2], [0.3]])
    torch.testing.assert_close(lagrangian.acceleration(q, v, t), t.sin().expand_as(q))
    torch.testing.assert_close(lagrangian.acceleration(q, v, 0.2), t[1].sin().expand_as(q))


@each_boundary
def test_units_are_those_of_the_fields(boundary: str, float64: torch.dtype) -> None:
    string = WaveEquation(40, 3.0, 20.0, boundary)
    q, p = string.initial_states(200, torch.Generator().manual_seed(0), amplitude=1e-3)
    q, v = q + 5.0 * (boundary == "periodic"), string.velocity(q, p)
    lagrangian = hf.FieldLagrangian(string.spacing, boundary).double().set_units(q, v)
    density = lagrangian.density
    assert isinstance(density, hf.NetworkLagrangian)
    seen = (lagrangian._stencils(q) - density.loc) / density.scale
    moving = lagrangian._stencils(v) / density.speed
    for x in (seen, moving):
        sizes = x[..., 1:-1, :].square().mean((0, 1)).sqrt()
        torch.testing.assert_close(sizes, torch.ones(3), rtol=0.02, atol=0)
    # The kinetic energy is that of the field, and no slope has a share in it.
    free = lagrangian.density.rest * (density.factor / density.speed**2)
    torch.testing.assert_close(free, torch.tensor([1.0, 0.0, 0.0]))


def test_a_speed_learned_on_ten_points_carries_a_hundred() -> None:
    string = WaveEquation(10, 1.0, 0.7)
    data = string.simulate(n_trajectories=20, n_steps=5, derivatives=True)
    model = hf.LNN(10, lagrangian=hf.FieldLagrangian(string.spacing, density=hf.FunctionLagrangian(Waves(1.0))))
    model.fit(data, epochs=5, polish=20, progress=False)
    fine = WaveEquation(100, 1.0, 0.7)
    q, p = (x.float() for x in fine.initial_states(2, torch.Generator().manual_seed(1)))
    found = model.lagrangian.on(fine.spacing).acceleration(q, fine.velocity(q, p)).detach()
    torch.testing.assert_close(found, fine.acceleration(q, p), rtol=1e-2, atol=1e-2 * float(found.abs().max()))


@each_boundary
def test_standing_waves_have_the_frequency_of_the_grid(boundary: str) -> None:
    string = WaveEquation(9, 2.0, 1.5, boundary)
    k = 3 * torch.pi / 2 if boundary == "fixed" else 3 * torch.pi
    shape = (k * string.places).sin()
    rate = 2 * 1.5 / string.spacing * math.sin(k * string.spacing / 2)
    data = string.simulate(initial=(shape, torch.zeros(9)), n_steps=20, dt=0.1)
    torch.testing.assert_close(data.q[0], (rate * data.times).cos().unsqueeze(-1) * shape, rtol=1e-11, atol=1e-11)


@each_boundary
def test_initial_fields_are_smooth_and_share_their_energy(boundary: str) -> None:
    string = WaveEquation(200, 2.0, 1.5, boundary)
    q, p = string.initial_states(3000, torch.Generator().manual_seed(0), modes=4, amplitude=0.2)
    # The basis of the boundary: sines, or all; four modes at most.
    spectrum = torch.fft.rfft(torch.cat((q, p), -1).view(-1, 200)) if boundary == "periodic" else None
    if spectrum is not None:
        assert spectrum[:, 5:].abs().max() < 1e-10 * spectrum.abs().max() and spectrum[:, 4].abs().max() > 1e-3
    ends = (q[:, 0] - q[:, -1]).abs().max() if boundary == "periodic" else q[:, [0, -1]].abs().max()
    assert ends < 0.1
    kinetic, potential = string.kinetic(p).mean(), string.potential(q).mean()
    assert float(kinetic / potential) == pytest.approx(1, abs=0.05)


REFUSALS: dict[str, tuple[Any, str]] = {
    "spacing": (lambda: hf.FieldLagrangian(0.0), "spacing = 0.0, expected a positive"),
    "boundary": (lambda: hf.FieldLagrangian(1.0, "free"), "boundary = 'free', expected one of 'periodic', 'fixed'"),
    "density": (lambda: hf.FieldLagrangian(density=torch.cos), "density is a builtin"),  # type: ignore[arg-type]
    "points": (
        lambda: hf.FieldLagrangian().acceleration(torch.ones(4), torch.ones(4)),
        "q has 4 points, expected at least 5 of a periodic field",
    ),
    "still": (lambda: hf.FieldLagrangian().set_units(torch.randn(5), torch.zeros(5)), r"phi_dot has values.* \[0.0, 0"),
    "flat": (lambda: hf.FieldLagrangian().set_units(torch.ones(5), torch.randn(5)), r"phi has values.* \[0.0, 0"),
    "function": (
        lambda: hf.FieldLagrangian(density=Driven()).set_units(torch.randn(5), torch.randn(5)),
        "density is a Driven, expected a NetworkLagrangian",
    ),
    "velocities": (lambda: hf.NetworkLagrangian(2, velocities=(2,)), r"velocities = \(2,\), expected some.* \(0, 1\)"),
    "kinetic": (lambda: hf.NetworkLagrangian(3, velocities=(0, 2), kinetic=(1,)), r"kinetic = \(1,\).* \(0, 2\)"),
}


@pytest.mark.parametrize(("call", "message"), REFUSALS.values(), ids=REFUSALS.keys())
def test_bad_arguments_are_named(call: Any, message: str) -> None:
    with pytest.raises(hf.InputError, match=message):
        call()
