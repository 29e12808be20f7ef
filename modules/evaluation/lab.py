"""What a lab offers: all that differs between the pose lab and the robot lab (modules/labs)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch.utils.data import Dataset

from ..config import Test, Training
from ..data.folders import origin
from ..data.open_world import read_entropy, read_events, read_futures

Tracks = dict[str, np.ndarray]  # {label: uint8 clip (T, H, W, 3)}: what is shown side by side


class Lab(Protocol):
    """The base class of every lab. Clips are floats (T, 3, H, W) in 0..1."""

    TrainClips: ClassVar[type]  # serves the training split in batches: modules/data/clips.py
    given: int  # the first frames of a clip, which are not predicted
    frame_ms: ClassVar[int]  # that a gif shows a frame
    fps: float | None = None  # the frame rate of the data, if it is known
    baseline: ClassVar[str]  # the name of the prediction that repeats the last given frame
    submits: ClassVar[bool] = False  # whether Tester writes submission.csv
    scored: int | None = None  # the first frames of a clip, which are scored; None: all
    settings: Training | Test

    # ------------------------------------------------------------ model

    def make_model(self, train_set: Dataset | None = None) -> torch.nn.Module:
        """A new model; the training set is what it is fitted to before training."""

    def prepare_test(self, model: torch.nn.Module, checkpoint: dict) -> str:
        """Set what a checkpoint's author tested with -> what to print about it."""
        return ""

    # ------------------------------------------------------------ data

    def open_train(self) -> Dataset:
        """The training split."""

    def open_val(self) -> Dataset:
        """The validation split."""

    def val_events(self) -> dict[int, list[int]]:
        """The event frames of each validation clip, if the data set lists them."""

    def open_test(self, typed: set[str]) -> tuple[Sequence, Sequence, Sequence | None]:
        """-> given frames, conditions and true frames (None if unknown) of every test clip."""

    def test_events(self) -> dict[int, list[int]]:
        """The event frames of each test clip, if the data set lists them."""
        return read_events(self.settings.DR, "test") or {}

    def entropy(self) -> dict[str, float] | None:
        """The nats that are random in the frame of an event, and in any other, if stated."""
        return read_entropy(self.settings.DR)

    def true_futures(self, truth: Sequence[torch.Tensor]) -> dict[int, torch.Tensor]:
        """{clip: true futures, uint8 (M, T, 3, H, W)} of the test clips whose futures are known.

        The last is the clip itself.
        """
        outcomes = {}
        for i, clip in enumerate(truth):
            futures = read_futures(self.settings.DR, i, clip.shape[-2:], self.given)
            if futures is not None:
                own = (255 * clip[None, : futures.shape[1]]).round().byte()
                outcomes[i] = torch.cat([futures[:, : len(clip)], own])
        return outcomes

    def origin(self) -> dict[str, Any]:
        """Where the data set comes from, if it says so."""
        return origin(self.settings.DR)

    # ------------------------------------------------------------ scores

    def frame_psnr(self, pred: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
        """-> (T,): the PSNR of every frame."""

    def score(self, pred: torch.Tensor, true: torch.Tensor) -> dict[str, float]:
        """The scores of one clip's rollout."""

    def score_test(
        self,
        pred: torch.Tensor,
        true: torch.Tensor,
        conditions: torch.Tensor,
        model: torch.nn.Module,
    ) -> dict[str, float]:
        """score(), and what Tester adds."""
        return self.score(pred, true)

    def summarise(self, clips: Sequence[dict], mean: dict[str, Any]) -> Mapping[str, Any]:
        """The scores of all test clips, and their mean -> what else scores.json has."""
        return {}

    # ------------------------------------------------------------ images

    def tracks(
        self, condition: torch.Tensor, pred: torch.Tensor, true: torch.Tensor | None = None
    ) -> Tracks:
        """What is shown of a clip."""

    def rows(
        self, condition: torch.Tensor, pred: torch.Tensor, true: torch.Tensor | None = None
    ) -> Tracks:
        """The tracks as a gif or a film strip shows them."""
        return self.tracks(condition, pred, true)

    def gif(self, rows: Tracks) -> np.ndarray:
        """Tester's gif of a clip."""

    def more_gifs(self, i: int, rows: Tracks) -> dict[Path, np.ndarray]:
        """{file: clip} of what else Tester writes of clip i."""
        return {}

    def strip_times(self, length: int) -> Sequence[int]:
        """The frames of a film strip of `length` frames."""
