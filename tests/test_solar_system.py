"""The solar system of DE421: units, frame and order of the bodies, held against what is known of them."""

import builtins
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hamflow import InputError
from hamflow.systems import load_solar_system
from hamflow.systems.solar_system import AU_KM, BODIES, GM_SUN, SUN_OVER_PLANET, YEAR_DAYS

ROOT = Path(__file__).parent.parent

#: Sidereal periods in days, from almanacs.
PERIODS = {"mercury": 87.969, "venus": 224.701, "earth": 365.256, "mars": 686.98, "jupiter": 4332.6, "saturn": 10759.0}


def test_layout_times_and_units() -> None:
    data = load_solar_system(1990, 1991, step_days=73.05)
    assert data.given == ("q", "v")
    assert data.q.shape == (1, 6, 27)
    assert data.q.dtype == torch.float64
    assert (data.times / YEAR_DAYS + 2000).tolist() == pytest.approx([1990, 1990.2, 1990.4, 1990.6, 1990.8, 1991])
    assert data.metadata["units"] == {"time": "day", "q": "AU", "v": "AU / day"}
    assert data.metadata["bodies"] == list(BODIES)


def test_velocities_are_the_derivatives_of_positions() -> None:
    data = load_solar_system(2000, 2001, step_days=0.25)
    slope = (data.q[:, 2:] - data.q[:, :-2]) / (2 * 0.25)
    assert data.v is not None
    assert (slope - data.v[:, 1:-1]).abs().max() < 2e-4 * data.v.abs().max()


def test_barycentre_stays_at_rest() -> None:
    data = load_solar_system(1900, 2020, step_days=100)
    masses = torch.tensor([1.0, *(1 / SUN_OVER_PLANET[b] for b in BODIES[1:])], dtype=torch.float64)
    q, v = (x.unflatten(-1, (9, 3)) for x in (data.q, data.need("v")))
    centre, momentum = ((masses[:, None] * x).sum(-2).norm(dim=-1) for x in (q, v))
    # The Sun alone moves by 0.01 AU; what is left is the share of Pluto and the asteroids.
    assert q[..., 0, :].norm(dim=-1).max() > 5e-3
    assert centre.max() < 1e-6
    assert momentum.max() < 1e-4 * v[..., 0, :].norm(dim=-1).max()


def test_periods_and_keplers_third_law() -> None:
    data = load_solar_system(1900, 2020, step_days=2)
    q = data.q[0].unflatten(-1, (9, 3))
    for body, period in PERIODS.items():
        path = (q[:, BODIES.index(body)] - q[:, 0]).numpy()
        # The orbit's own plane, so that the angle grows by 2 pi a revolution.
        normal = np.cross(path[0], path[len(path) // 400 if body == "mercury" else round(period / 8)])
        first = path[0] / np.linalg.norm(path[0])
        second = np.cross(normal / np.linalg.norm(normal), first)
        angle = np.unwrap(np.arctan2(path @ second, path @ first))
        turns = math.floor(angle[-1] / (2 * math.pi))
        days = np.interp(2 * math.pi * turns, angle, data.times.numpy()) - float(data.times[0])
        assert days / turns == pytest.approx(period, rel=2e-3)
        distance = np.linalg.norm(path, axis=-1)
        axis = (distance.max() + distance.min()) / 2
        strength = 4 * math.pi**2 * axis**3 / (days / turns) ** 2
        assert strength == pytest.approx(GM_SUN * (1 + 1 / SUN_OVER_PLANET[body]), rel=0.02)


def test_jupiter_at_its_perihelion() -> None:
    # 21 January 2023, 4.9510 AU from the Sun (Meeus, Astronomical Algorithms, the passages of Jupiter).
    data = load_solar_system(2022, 2024, step_days=1)
    q = data.q[0].unflatten(-1, (9, 3))
    distance = (q[:, 5] - q[:, 0]).norm(dim=-1)
    assert float(distance.min()) == pytest.approx(4.951, abs=5e-4)
    assert float(data.times[distance.argmin()]) == pytest.approx(2_459_966 - 2_451_545, abs=5)
    assert AU_KM * float(distance.min()) == pytest.approx(740.6e6, rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start": 1700}, r"expected years from 1899\.57 to 2053\.77"),
        ({"stop": 2100.0}, r"expected years from 1899\.57 to 2053\.77"),
        ({"start": 2000, "stop": 1990}, r"stop = 1990, expected a year after start = 2000"),
        ({"start": "1990"}, "start = '1990', expected a year"),
        ({"step_days": 0}, "step_days = 0, expected a positive"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_solar_system(**arguments)


@pytest.mark.parametrize("package", ["jplephem", "skyfield_data"])
def test_missing_package_says_how_to_install(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import_ = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=package)
        return import_(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=rf"package {package}; .*pip install 'hamflow\[solar\]'"):
        load_solar_system()


def test_experiment_recovers_masses_and_resumes(tmp_path: Path) -> None:
    out = tmp_path / "quick"
    script = str(ROOT / "experiments" / "solar_system.py")
    command = [sys.executable, script, "--quick", "--out", str(out), "--cases", "jupiter", "saturn"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    first = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)
    assert first.returncode == 0, first.stderr
    rows = json.loads((out / "metrics.json").read_text())
    value = {(row["case"], row["model"], row["metric"]): row["value"] for row in rows}
    for planet in ("jupiter", "saturn"):
        for model in ("newton", "pairs"):
            assert value[planet, model, "mass_relative_error"] < 1e-4
            assert value[planet, model, "position_error_km"] < 0.01 * value[planet, "kepler", "position_error_km"]
    assert {path.name for path in out.iterdir()} == {"metrics.json", "table.md", "errors.png", "law.png"}
    again = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)
    assert "6 of 6 runs are finished already" in again.stderr
    assert json.loads((out / "metrics.json").read_text()) == rows


def test_pair_network_has_the_slope_of_its_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "experiments"))
    import solar_fit

    law = solar_fit.pairs(width=4).step.hamiltonian.potential
    r = torch.linspace(0.3, 40, 30, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(law.profile(r).sum(), r)
    assert torch.allclose(law.slope(r), slope, rtol=1e-10)
