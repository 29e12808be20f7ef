"""What a run folder shows of its validation: a rollout, its PSNR per frame, the KL of z."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .figures import draw_kl, draw_psnr_per_frame
from .pictures import draw_strip, side_by_side, write_gif
from .tables import write_csv

ACTIVE_NATS = 0.1  # a dimension of z with less KL carries no information


def draw(
    folder: Path,
    lab: Any,
    rows: dict[str, np.ndarray],
    pred: torch.Tensor,
    true: torch.Tensor,
    plots: bool = True,
) -> None:
    """val.gif, its film strip, and the PSNR of every frame: the mean over all clips."""
    write_gif(folder / "val.gif", side_by_side(*rows.values()), lab.frame_ms)
    given, psnr = lab.given, lab.frame_psnr
    curves = {"rollout": psnr(pred, true), lab.baseline: psnr(true[:, given - 1 : given], true)}
    curves = {name: values.mean(0)[given:].tolist() for name, values in curves.items()}
    if plots:
        draw_strip(folder / "val_strip.png", rows, lab.strip_times(true.shape[1]))
        (folder / "plots").mkdir(exist_ok=True)
        draw_psnr_per_frame(folder / "plots" / "psnr_per_frame.png", curves, given)
    values = zip(itertools.count(given), *curves.values())
    write_csv(folder / "val_frames.csv", [dict(zip(("frame", *curves), row)) for row in values])


def report_kl(folder: Path, kl: list[float], plots: bool = True) -> None:
    """Print and draw the KL of every dimension of z, in nats per frame."""
    if plots:
        (folder / "plots").mkdir(exist_ok=True)
        draw_kl(folder / "plots" / "kl_per_dimension.png", kl)
    active = sum(value > ACTIVE_NATS for value in kl)
    print(
        f"KL {sum(kl):.3g} nats per frame, {active} of {len(kl)} dimensions of z above "
        f"{ACTIVE_NATS}" + ("" if active else ": posterior collapse, the decoder ignores z")
    )
