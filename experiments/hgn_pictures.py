"""The pictures of what was learned from videos: strips of frames and moving ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import hamflow as hf


def keep(folder: Path, case: str, model: str, videos: dict[str, Tensor]) -> None:
    """Keep some videos of a contender as bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {name: (255 * frames.clamp(0, 1)).round().byte().numpy() for name, frames in videos.items()}
    np.savez_compressed(folder / f"{case}-{model}.npz", **arrays)  # type: ignore[arg-type]


def draw(out: Path) -> None:
    """Draw every case that has left videos: a strip of all contenders, and the truth beside hgn's as a GIF."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    held: dict[str, dict[str, dict[str, Tensor]]] = {}
    for path in sorted((out / "pictures").glob("*.npz")):
        case, _, model = path.stem.partition("-")
        held.setdefault(case, {})[model] = {name: torch.from_numpy(x) for name, x in np.load(path).items()}
    for case, contenders in held.items():
        first = next(iter(contenders.values()))
        strips = {"truth": first["truth"]} | {name: videos["prediction"] for name, videos in contenders.items()}
        own = contenders.get("hgn", first)
        figure = hf.plots.plot_frames(strips, every=max(1, len(first["truth"]) // 18))
        figure.suptitle(f"{case}: an unseen video, the first fifth of it reconstructed, the rest forecast")
        figure.savefig(out / f"{case}.png", dpi=80)
        plt.close(figure)
        made_up = {f"sample {k + 1}": video for k, video in enumerate(own["samples"])}
        figure = hf.plots.plot_frames(made_up, every=2)
        figure.savefig(out / f"{case}_samples.png", dpi=80)
        plt.close(figure)
        hf.plots.write_gif(out / f"{case}.gif", torch.stack((own["truth"], own["prediction"])))
