"""Where the time of the demonstration goes."""

from __future__ import annotations

import contextlib
import cProfile
import io
import pstats
import tempfile
from typing import Any

#: What is told, by the end of a file's path and the name of a function.
PARTS = {
    "start": ("models/start.py", "warm_start"),
    "training": ("training/fit.py", "train"),
    "training_backward": ("~", "<method 'run_backward' of 'torch._C._EngineBase' objects>"),
    "training_steps": ("steps/splitting.py", "iterate_inverse"),
    "training_base": ("densities/mixture.py", "log_prob"),
    "training_encoder": ("densities/encoders.py", "rsample_scored"),
    "optimizer_loads": ("torch/optim/optimizer.py", "__init__"),
    "peer_mixture": ("mixture_peer.py", "fit_mixture"),
    "figures": ("demo.py", "write_figures"),
}


def work(configuration: dict[str, Any]) -> list[dict[str, Any]]:
    """The shares of its parts in the whole, which is `make demo` but for what Python loads at the start."""
    import demo

    profile = cProfile.Profile()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        profile.runcall(demo.main, ["--out", folder, *(["--quick"] if configuration["quick"] else [])])
    stats = pstats.Stats(profile)
    whole: float = stats.total_tt  # type: ignore[attr-defined]
    found = [{"metric": "demo_profiled_seconds", "value": whole, "unit": "s"}]
    for part, (file, function) in PARTS.items():
        times = [
            row[3]
            for (path, _, name), row in stats.stats.items()  # type: ignore[attr-defined]
            if path.replace("\\", "/").endswith(file) and name == function
        ]
        # One class may call its parent's method of the same name.
        found.append({"metric": f"demo_share_{part}", "value": max(times, default=0.0) / whole, "unit": "1"})
    return found
