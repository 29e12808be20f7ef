"""What a run folder shows of its validation: a rollout, its PSNR per frame, and sampled futures."""

import itertools
from pathlib import Path

import torch

from ..evaluation.distribution import Distribution
from ..evaluation.lab import Lab
from ..files import write_csv, write_json
from ..runs.folder import VAL_CLIP, VAL_FUTURES, run_folder
from . import clips, distribution
from .figures import draw_psnr_per_frame
from .pictures import draw_strip, side_by_side, write_gif
from .rollouts import draw_distribution


def draw(
    folder: Path,
    lab: Lab,
    conditions: torch.Tensor,
    pred: torch.Tensor,
    true: torch.Tensor,
    plots: bool = True,
) -> None:
    """val.gif, its film strip, its frames, and the PSNR of every frame, the mean over all clips.

    All but the last are of the first clip.
    """
    rows = lab.rows(conditions[0], pred[0], true[0])
    write_clip(folder, lab, conditions[0], pred[0], true[0], "best weights")
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


def describe(folder: Path, lab: Lab, scores: dict[str, float], clips: int, plots: bool) -> str:
    """The scores of a validation and what draw() has written, as text."""
    more = ", val_strip.png, plots/psnr_per_frame.png" if plots else ""
    return (
        f"validation, mean of {clips} clips rolled out from {lab.given} given frames: "
        f"PSNR {scores['psnr']:.2f} dB, lowest {scores['psnr_min']:.2f} dB, "
        f"SSIM {scores['ssim']:.4f}\n"
        f"{lab.baseline}: {scores['psnr_given_frame_repeated']:.2f} dB\n"
        f"drawn: {folder / 'val.gif'}{more}"
    )


def write_clip(
    folder: Path,
    lab: Lab,
    condition: torch.Tensor,
    pred: torch.Tensor,
    true: torch.Tensor,
    weights: str,
) -> None:
    """The frames of a validation clip, for the player of report.html."""
    clips.write_rollout(folder / VAL_CLIP, f"validation, {weights}", lab, condition, pred, true)


def report_distribution(folder: Path, predicted: Distribution, plots: bool) -> None:
    """Write, print and draw what z contains, how likely frames are, and sampled futures."""
    write_json(folder / "distribution.json", predicted.scores)
    print(distribution.scores_text(predicted.scores))
    if plots:
        draw_distribution(run_folder(folder / "plots"), predicted)
    if len(predicted.futures.scored) > 1:
        distribution.pack_futures(folder / VAL_FUTURES, predicted.lab, predicted.futures)
