"""The pose lab: one given frame of a dancer, then a pose image for every frame to predict."""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..config import BASELINES, PoseTest, PoseTraining
from ..data.folders import find_root, list_images
from ..data.open_world import cut_events, read_events
from ..data.pose import DanceClips, Dataset_Dance, load_test_clips, load_truth, truth_folder
from ..data.warp import static_background
from ..evaluation.lab import Lab, Tracks
from ..evaluation.metrics import (
    AVERAGES,
    UNCLAMPED,
    competition_groups,
    course_averages,
    drifts,
    frame_psnr,
    pose_box_psnr,
    score_clip,
)
from ..models.loading import choose_pose_norm
from ..models.pose import VAE_Model
from ..models.rollout import noise_source, one_step
from ..report import pictures


class PoseLab(Lab):
    """All that is particular to the pose lab."""

    TrainClips = DanceClips
    given, frame_ms = 1, 20  # a frame of a gif, as in the course
    baseline = BASELINES["pose"]
    submits = True
    frame_psnr = staticmethod(frame_psnr)

    def __init__(self, settings: PoseTraining | PoseTest):
        self.settings = settings
        self.size = (settings.frame_H, settings.frame_W)

    @cached_property
    def fps(self) -> float | None:
        """The frame rate of the data, if it is known."""
        return self.origin().get("fps")

    # ------------------------------------------------------------ model

    def make_model(self, train_set: Dataset_Dance | None = None) -> VAE_Model:
        model = VAE_Model(self.settings)
        if train_set and self.settings.scene:
            model.scene.data.copy_(static_background(train_set, self.settings.partial))
        return model

    def prepare_test(self, model: VAE_Model, checkpoint: dict) -> str:
        """Normalise poses as the checkpoint's author did -> what to print about it."""
        statistics = "per image" if choose_pose_norm(model, checkpoint) else "as learned"
        activation = self.settings.output_activation
        return f"; pose statistics {statistics}; output activation {activation}"

    # ------------------------------------------------------------ data

    def open_train(self) -> Dataset_Dance:
        return self.open_split("train", self.settings.train_vi_len, self.settings.partial)

    def open_val(self) -> Dataset_Dance:
        return self.open_split("val", self.val_length())

    def val_length(self) -> int:
        """--val_vi_len; by default no more than the split has, as of a short video."""
        length = self.settings.val_vi_len
        if length != PoseTraining.default("val_vi_len"):
            return length
        images = list_images(find_root(self.settings.DR, "val") / "val" / "val_img")
        return min(length, max(len(images), 2))

    def open_split(self, mode: str, length: int, share: float = 1.0) -> Dataset_Dance:
        settings = self.settings
        cache = settings.cache_dir, settings.num_workers
        return Dataset_Dance(settings.DR, mode, length, share, self.size, *cache)

    def val_events(self) -> dict[int, list[int]]:
        events = read_events(self.settings.DR, "val")
        return cut_events(events, self.val_length()) if events else {}

    def open_test(self, typed: set[str]) -> tuple[list, list, list | None]:
        settings = self.settings
        length = settings.val_vi_len if "val_vi_len" in typed else None
        clips = load_test_clips(settings.DR, self.size, settings.cache_dir, settings.num_workers)
        given, poses = [frame[None] for frame, _ in clips], [p[:length] for _, p in clips]
        path = settings.truth or truth_folder(settings.DR, needed=settings.n_samples > 1)
        lengths = [len(p) for p in poses]
        return given, poses, path and load_truth(path, self.size, lengths, cut=length)

    # ------------------------------------------------------------ scores

    def score(self, pred: torch.Tensor, true: torch.Tensor) -> dict[str, float]:
        return score_clip(pred, true)

    def score_test(
        self, pred: torch.Tensor, true: torch.Tensor, poses: torch.Tensor, model: VAE_Model
    ) -> dict[str, float]:
        """What Tester adds: the course's averages, the pose box, drift and one-step prediction."""
        noise = noise_source(self.settings.z_source, self.settings.seed, [0])
        steps = frame_psnr(one_step(model, true, poses, noise), true[1:])
        return (
            self.score(pred, true)
            | course_averages(pred, true)
            | {"psnr_pose_box": pose_box_psnr(pred[1:], true[1:], poses[1:])}
            | drifts(frame_psnr(pred, true)[1:])
            | {"psnr_one_step": steps.mean().item(), "drift_one_step": drifts(steps)["drift"]}
        )

    def summarise(self, clips: list[dict], mean: dict[str, Any]) -> dict[str, Any]:
        for suffix in ("", UNCLAMPED):
            mean[f"psnr_competition{suffix}_groups"] = competition_groups(clips, suffix)
        return {"averages": AVERAGES}

    # ------------------------------------------------------------ images

    def tracks(
        self, condition: torch.Tensor, pred: torch.Tensor, true: torch.Tensor | None = None
    ) -> Tracks:
        clips = {"pose": condition, "prediction": pred, "truth": true}
        return {name: pictures.to_uint8(clip) for name, clip in clips.items() if clip is not None}

    def gif(self, rows: Tracks) -> np.ndarray:
        """The prediction alone, as in the course."""
        return rows["prediction"]

    def more_gifs(self, i: int, rows: Tracks) -> dict[Path, np.ndarray]:
        """--make_gif: seq{i}/."""
        names = ("pose", "pred_seq", "ground_truth") if self.settings.make_gif else ()
        return {Path(f"seq{i}") / f"{name}.gif": clip for name, clip in zip(names, rows.values())}

    def strip_times(self, length: int) -> np.ndarray:
        return pictures.spread(length, 8)
