"""The solar system from JPL's ephemeris DE421: barycentric positions and velocities of the Sun and the planets."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hamflow.errors import InputError, check_positive, is_number
from hamflow.systems.trajectories import Trajectories

#: The bodies in the order of the coordinates: the Sun, then the planets, each as the barycentre of its own system, so
#: that the Earth stands for Earth and Moon together.
BODIES = ("sun", "mercury", "venus", "earth", "mars", "jupiter", "saturn", "uranus", "neptune")
#: Kilometres in an astronomical unit (IAU 2012, resolution B2).
AU_KM = 149_597_870.7
#: Days in a Julian year.
YEAR_DAYS = 365.25
#: The Julian date, barycentric dynamical time, from which times are counted: the epoch J2000.
J2000 = 2_451_545.0
#: What the ephemeris itself rests on, to hold learned masses against: G times the mass of the Sun in AU^3 / day^2, and
#: the mass of the Sun over that of each planet with its moons.
GM_SUN = 0.01720209895**2
SUN_OVER_PLANET = {
    "mercury": 6_023_600.0,
    "venus": 408_523.72,
    "earth": 328_900.56,
    "mars": 3_098_703.6,
    "jupiter": 1_047.3486,
    "saturn": 3_497.898,
    "uranus": 22_902.98,
    "neptune": 19_412.24,
}

# Numbers of the SPK format: the Sun is 10, the barycentres of the planets 1 to 8, in this order.
_SPK_TARGETS = (10, 1, 2, 3, 4, 5, 6, 7, 8)
_INSTALL = "install the extra: pip install 'hamflow[solar]' (skyfield-data and jplephem)"


def load_solar_system(start: float = 1900.0, stop: float = 2020.0, step_days: float = 10.0) -> Trajectories:
    r"""The Sun and the eight planets as JPL's ephemeris DE421 has them, one trajectory of 27 coordinates.

    Positions and velocities refer to the barycentre of the solar system and to the axes of the ICRF (the equator of
    J2000), body after body: :math:`q = (x_\text{sun}, y_\text{sun}, z_\text{sun}, x_\text{mercury}, \dots)`. Momenta
    are not given: masses are not observed.

    Args:
        start: the first year, in Julian years: :math:`2000 + (\mathrm{JD} - 2451545) / 365.25`, TDB.
        stop: the last year; the last state is the last multiple of ``step_days`` that does not pass it.
        step_days: the time between two states [day].

    Returns:
        times of shape (time,) [day since J2000, TDB], q (1, time, 27) [AU] and v [AU / day] in float64; the metadata
        names the bodies. Kilometres are ``AU_KM`` times as many.

    Raises:
        InputError: a year lies outside the ephemeris (1899.6 to 2053.7), or the packages that ship it are missing.

    References:
        Folkner, Williams and Boggs (2009), The Planetary and Lunar Ephemeris DE 421, IPN Progress Report 42-178.

    Example:
        >>> import hamflow as hf
        >>> data = hf.systems.load_solar_system(1990, 1991, step_days=5)
        >>> data.q.shape, data.metadata["bodies"][5]
        (torch.Size([1, 74, 27]), 'jupiter')
    """
    for name, year in (("start", start), ("stop", stop)):
        if not is_number(year) or not np.isfinite(year):
            raise InputError(f"{name} = {year!r}, expected a year such as 1990 or 1990.5")
    check_positive("step_days", step_days)
    if not start < stop:
        raise InputError(f"stop = {stop}, expected a year after start = {start}")
    first = (start - 2000) * YEAR_DAYS
    # The fuzz keeps a last state that falls on `stop` but for rounding.
    count = int(np.floor((stop - start) * YEAR_DAYS / step_days + 1e-9)) + 1
    days = first + step_days * np.arange(count)
    with _open() as kernel:
        segments = [kernel[0, target] for target in _SPK_TARGETS]
        low, high = max(s.start_jd for s in segments) - J2000, min(s.end_jd for s in segments) - J2000
        if days[0] < low or days[-1] > high:
            raise InputError(
                f"start = {start} and stop = {stop}, expected years from {2000 + low / YEAR_DAYS:.2f} to "
                f"{2000 + high / YEAR_DAYS:.2f}: the ephemeris covers no others"
            )
        # Two numbers for a date keep the microseconds that one would lose.
        states = np.stack([s.compute_and_differentiate(J2000, days) for s in segments])
    q, v = torch.from_numpy(states / AU_KM).permute(1, 3, 0, 2).reshape(2, 1, count, -1)
    metadata = {
        "system": "solar_system",
        "source": "JPL DE421",
        "bodies": list(BODIES),
        "units": {"time": "day", "q": "AU", "v": "AU / day"},
        "epoch": "J2000: times are days since JD 2451545.0 TDB",
        "frame": "barycentre of the solar system, axes of the ICRF",
    }
    return Trajectories(times=torch.from_numpy(days), q=q, v=v, metadata=metadata)


def _open() -> Any:
    try:
        from jplephem.spk import SPK

        with warnings.catch_warnings():
            # It warns that its tables of the Earth's rotation have expired, which are not read here.
            warnings.simplefilter("ignore", RuntimeWarning)
            from skyfield_data import get_skyfield_data_path

            folder = Path(get_skyfield_data_path())
    except ImportError as error:
        raise InputError(f"the solar system needs the package {error.name}; {_INSTALL}") from error
    path = folder / "de421.bsp"
    if not path.is_file():
        raise InputError(f"skyfield-data holds no de421.bsp in {folder}; {_INSTALL}")
    return SPK.open(str(path))
