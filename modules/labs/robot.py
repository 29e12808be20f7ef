"""The robot lab: a few given frames of a robot arm, then its actions and positions."""

import numpy as np
import torch

from ..config import BASELINES, RobotTest, RobotTraining
from ..data.open_world import read_events
from ..data.robot import Dataset_Robot, RobotClips
from ..evaluation.lab import Lab, Tracks
from ..evaluation.metrics import channel_psnr, score_clip
from ..models.robot import RecurrentVAE
from ..report import pictures


class RobotLab(Lab):
    """All that is particular to the robot lab."""

    TrainClips = RobotClips
    frame_ms = 100
    baseline = BASELINES["robot"]
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

    # ------------------------------------------------------------ data

    def open_train(self) -> Dataset_Robot:
        return self.open_split("train", self.scored, "--n_past + --n_future")

    def open_val(self) -> Dataset_Robot:
        return self.open_split("validate", self.settings.n_eval, "--n_eval")

    def open_split(self, split: str, length: int, flag: str) -> Dataset_Robot:
        settings = self.settings
        how = settings.cache_dir, settings.num_workers, settings.condition != "none"
        return Dataset_Robot(settings.DR, split, length, flag, *how)

    def val_events(self) -> dict[int, list[int]]:
        return read_events(self.settings.DR, "val") or {}

    def open_test(self, typed: set[str]) -> tuple[list, tuple, tuple]:
        truth, conditions = zip(*self.open_split("test", self.settings.n_eval, "--n_eval"))
        return [frames[: self.given] for frames in truth], conditions, truth

    # ------------------------------------------------------------ scores

    def score(self, pred: torch.Tensor, true: torch.Tensor) -> dict[str, float]:
        """The --n_future frames after the given ones."""
        frames = slice(self.scored)
        return score_clip(pred[frames], true[frames], self.given, channel_psnr)

    # ------------------------------------------------------------ images

    def tracks(self, condition: torch.Tensor, pred: torch.Tensor, true: torch.Tensor) -> Tracks:
        return {"truth": pictures.to_uint8(true), "prediction": pictures.to_uint8(pred)}

    def rows(self, condition: torch.Tensor, pred: torch.Tensor, true: torch.Tensor) -> Tracks:
        """The tracks: the prediction has a green border while given, then a red one."""
        truth, prediction = self.tracks(condition, pred, true).values()
        truth = pictures.framed(truth, 0, pictures.GREY)
        return {"truth": truth, "prediction": pictures.framed(prediction, self.given)}

    def gif(self, rows: Tracks) -> np.ndarray:
        return pictures.side_by_side(*rows.values())

    def strip_times(self, length: int) -> range:
        return range(length)
