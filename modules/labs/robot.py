"""The robot lab: a few given frames of a robot arm, then its actions and positions."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..config import BASELINES, RobotTest, RobotTraining
from ..data.open_world import read_events
from ..data.robot import Dataset_Robot, RobotClips
from ..evaluation.metrics import channel_psnr, score_clip
from ..models.robot import RecurrentVAE
from ..report import pictures


class RobotLab:
    """All that is particular to the robot lab."""

    TrainClips = RobotClips
    frame_ms = 100
    baseline = BASELINES["robot"]
    submits = False
    frame_psnr = staticmethod(channel_psnr)

    def __init__(self, settings: RobotTraining | RobotTest):
        self.settings, self.given = settings, settings.n_past
        self.scored = settings.n_past + settings.n_future

    # ------------------------------------------------------------ model

    def make_model(self, train_set: Dataset_Robot | None = None) -> RecurrentVAE:
        model = RecurrentVAE(self.settings)
        if train_set and self.settings.standardise:
            model.standardise_conditions(torch.tensor(train_set.conditions))
        return model

    def prepare_test(self, model: RecurrentVAE, checkpoint: dict) -> str:
        return ""

    # ------------------------------------------------------------ data

    def open_train(self) -> Dataset_Robot:
        return self.open_split("train", self.scored, "--n_past + --n_future")

    def open_val(self) -> Dataset_Robot:
        return self.open_split("validate", self.settings.n_eval, "--n_eval")

    def open_split(self, split: str, length: int, flag: str) -> Dataset_Robot:
        settings = self.settings
        cache = settings.cache_dir, settings.num_workers
        return Dataset_Robot(settings.DR, split, length, flag, *cache)

    def val_events(self) -> dict[int, list[int]]:
        """The event frames of each validation clip, where the data set lists them."""
        return read_events(self.settings.DR, "val") or {}

    def open_test(self, typed: set[str]) -> tuple[list, tuple, tuple]:
        """-> given frames, conditions and true frames of every clip."""
        truth, conditions = zip(*self.open_split("test", self.settings.n_eval, "--n_eval"))
        return [frames[: self.given] for frames in truth], conditions, truth

    # ------------------------------------------------------------ scores

    def score(self, pred: torch.Tensor, true: torch.Tensor) -> dict[str, float]:
        """The --n_future frames after the given ones, of one clip's rollout (T, 3, H, W)."""
        frames = slice(self.scored)
        return score_clip(pred[frames], true[frames], self.given, channel_psnr)

    def score_test(
        self, pred: torch.Tensor, true: torch.Tensor, conditions: Any, model: RecurrentVAE
    ) -> dict[str, float]:
        return self.score(pred, true)

    def summarise(self, clips: list[dict], mean: dict[str, Any]) -> dict[str, Any]:
        return {}

    # ------------------------------------------------------------ images

    def tracks(
        self, condition: torch.Tensor, pred: torch.Tensor, true: torch.Tensor
    ) -> dict[str, np.ndarray]:
        """{label: uint8 clip}, from floats (T, 3, H, W)."""
        return {"truth": pictures.to_uint8(true), "prediction": pictures.to_uint8(pred)}

    def rows(
        self, condition: torch.Tensor, pred: torch.Tensor, true: torch.Tensor
    ) -> dict[str, np.ndarray]:
        """The tracks: the prediction has a green border while given, then a red one."""
        truth, prediction = self.tracks(condition, pred, true).values()
        truth = pictures.framed(truth, 0, pictures.GREY)
        return {"truth": truth, "prediction": pictures.framed(prediction, self.given)}

    def gif(self, rows: dict[str, np.ndarray]) -> np.ndarray:
        return pictures.side_by_side(*rows.values())

    def more_gifs(self, i: int, rows: dict[str, np.ndarray]) -> dict[Path, np.ndarray]:
        return {}

    def strip_times(self, length: int) -> range:
        return range(length)
