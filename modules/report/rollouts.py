"""The files of a test's rollouts: gifs, videos, film strips, submission.csv, PSNR per frame."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from ..config import Test
from ..errors import UserError
from ..evaluation.distribution import Distribution
from ..evaluation.lab import Lab
from ..files import write_atomically, write_json
from ..runs.folder import MOVING, clip_file, run_folder
from . import clips, distribution, pictures
from .boundary import drawing, part
from .figures import draw_psnr_per_frame
from .pages import CLIPS, FUTURES, LATENTS
from .tables import MANY, print_scores


class RolloutFiles:
    """Writes the rollouts of a test into a folder; unless --no_sanity, reads the files back."""

    def __init__(self, folder: Path, lab: Lab, settings: Test):
        self.folder, self.lab, self.settings = folder, lab, settings

    def write_clip(
        self, i: int, condition: torch.Tensor, pred: torch.Tensor, true: torch.Tensor | None
    ) -> None:
        """pred_seq{i}.gif and strip{i}.png; --mp4: a video; --make_gif: the gifs of seq{i}/."""
        if i < CLIPS:
            path = self.folder / clip_file(i)
            clips.write_rollout(path, f"test clip {i}", self.lab, condition, pred, true)
        rows = self.lab.rows(condition, pred, true)
        clip, name = self.lab.gif(rows), f"pred_seq{i}"
        for file, frames in {Path(f"{name}.gif"): clip, **self.lab.more_gifs(i, rows)}.items():
            run_folder((self.folder / file).parent)
            pictures.write_gif(self.folder / file, frames, self.lab.frame_ms)
        if self.settings.mp4:
            pictures.write_mp4(self.folder / f"{name}.mp4", clip, self.lab.frame_ms)
        if self.settings.plots:
            with part(self.folder / f"strip{i}.png"):
                times = self.lab.strip_times(len(clip))
                pictures.draw_strip(self.folder / f"strip{i}.png", rows, times)
        if not self.settings.no_sanity:
            self.check_clip(name, len(pred))

    def check_clip(self, name: str, length: int) -> None:
        """The gif and the video of a clip must play their full time."""
        path = self.folder / f"{name}.gif"
        played = {path: pictures.gif_time(path) // self.lab.frame_ms}
        if self.settings.mp4:
            played[path.with_suffix(".mp4")] = pictures.mp4_length(path.with_suffix(".mp4"))
        for path, frames in played.items():
            if frames != length:
                raise UserError(f"{path} plays {frames} frame times instead of {length}")

    def write_submission(self, predictions: Sequence[torch.Tensor]) -> None:
        """submission.csv: one row per frame, its id and its C*H*W values, clip after clip."""
        frames = np.concatenate([pictures.to_uint8(pred) for pred in predictions])
        rows = frames.transpose(0, 3, 1, 2).reshape(len(frames), -1)
        path = self.folder / "submission.csv"
        write_frames(path, rows)
        if not self.settings.no_sanity:
            check_frames(path, rows)

    def write_scores(
        self,
        scores: dict[str, Any],
        predictions: Sequence[torch.Tensor],
        truth: Sequence[torch.Tensor],
    ) -> None:
        """scores.json, psnr_per_frame.png and printed tables."""
        write_json(self.folder / "scores.json", scores)
        if self.settings.plots:
            with part(self.folder / "psnr_per_frame.png"):
                self.draw_psnr(predictions, truth)
        with part("the printed scores"):
            print_scores(scores, self.lab.baseline)
            print(distribution.scores_text(scores))

    def draw_psnr(self, predictions: Sequence[torch.Tensor], truth: Sequence[torch.Tensor]) -> None:
        """PSNR per frame: one curve per clip, or their mean if there are many."""
        given, psnr = self.lab.given, self.lab.frame_psnr
        curves = {"clip": [psnr(p, t) for p, t in zip(predictions, truth)]}
        curves[self.lab.baseline] = [psnr(t[given - 1 : given], t) for t in truth]
        if len(predictions) > MANY:
            curves[f"mean of {len(predictions)} clips"] = curves.pop("clip")
            plot = {name: torch.stack(clips).mean(0) for name, clips in curves.items()}
        else:
            plot = {f"{name} {i}": x for name, clips in curves.items() for i, x in enumerate(clips)}
        plot = {name: values[given:].tolist() for name, values in plot.items()}
        draw_psnr_per_frame(self.folder / "psnr_per_frame.png", plot, given)

    def written(self, truth: bool) -> list[str]:
        """The names of all files, as they are printed."""
        settings, plots = self.settings, self.settings.plots
        written = ["pred_seq*.gif"] + ["pred_seq*.mp4"] * settings.mp4 + ["strip*.png"] * plots
        written += ["submission.csv"] * self.lab.submits
        written += ["seq*/*.gif"] * getattr(settings, "make_gif", False)
        written += ["scores.json"] + ["psnr_per_frame.png"] * plots if truth else []
        figures = (*FUTURES, MOVING, *LATENTS)
        return written + [name for name in figures if (self.folder / name).exists()] * plots


def write_frames(path: Path, rows: np.ndarray) -> None:
    """uint8 (rows, values) -> a csv file with ids."""
    digits = [str(value) for value in range(256)]

    def write(file):
        file.write(",".join(["id", *map(str, range(rows.shape[1]))]).encode() + b"\n")
        for i, row in enumerate(tqdm(rows, path.name, disable=None, leave=False)):
            file.write(f"{i},{','.join([digits[v] for v in row])}\n".encode())

    write_atomically(path, write)


def check_frames(path: Path, rows: np.ndarray) -> None:
    with open(path, "rb") as file:
        next(file)
        for row in rows:
            if not np.array_equal(np.array(next(file).split(b",")[1:], dtype=np.uint8), row):
                raise UserError(f"{path} differs from what was written to it")


@drawing
def draw_distribution(folder: Path, predicted: Distribution) -> None:
    """Figures of z and of sampled futures."""
    scores, futures, twin = predicted.scores, predicted.futures, predicted.twin
    distribution.draw_latents(folder, scores, predicted.latents, predicted.events)
    distribution.draw_traversal(folder, predicted.traversal)
    if len(futures.scored) > 1:
        of_twin = twin.futures if twin else None
        distribution.draw_futures(folder, predicted.lab, scores, futures, of_twin)
