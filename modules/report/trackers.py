"""Experiment trackers on request: the rows of metrics.csv, the settings and the pictures of a run.

A tracker that fails costs a warning, never the run: what it did not accept is sent again after the
next epoch, or when the run is resumed. A missing package or login is an error before the run.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from ..config import Training
from ..errors import UserError
from ..runs.folder import FUTURES, LATENTS
from .boundary import part

PICTURES = ["val.gif", "val_strip.png", "plots/psnr_per_frame.png"]
PICTURES += [f"plots/{name}" for name in FUTURES + LATENTS]


class TensorBoard:
    """The `state` of every tracker goes into the checkpoint; `sent` counts the rows it has."""

    def __init__(self, settings: Training, state: dict[str, Any]):
        try:
            from tensorboard.compat.proto.summary_pb2 import Summary
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError("--tensorboard needs a package: pip install tensorboard") from None
        self.state = {"sent": 0} | state
        # what an interrupted run sent of later epochs is hidden
        self.writer = SummaryWriter(settings.save_root, purge_step=self.state["sent"])
        self.Summary = Summary
        rows = [f"|{name}|{value}|" for name, value in settings.as_dict().items()]
        text = "\n".join(["|setting|value|", "|---|---|", *rows])
        self.writer.add_text("settings", text, self.state["sent"])

    def log(self, row: dict[str, float]) -> None:
        for name, value in row.items():
            if name != "epoch":
                self.writer.add_scalar(name, value, row["epoch"])
        self.writer.flush()

    def show(self, paths: dict[str, Path], epoch: int) -> None:
        """Png and gif files as they are: TensorBoard plays gifs."""
        for name, path in paths.items():
            with Image.open(path) as image:
                size = {"width": image.width, "height": image.height}
            data = {"colorspace": 3, "encoded_image_string": path.read_bytes()}
            value = self.Summary.Value(tag=name, image=self.Summary.Image(**size, **data))
            self.writer.file_writer.add_summary(self.Summary(value=[value]), epoch)
        self.writer.flush()

    def close(self, exit_code: int) -> None:
        self.writer.close()


class WeightsAndBiases:
    """A resumed run goes on in the W&B run whose id is in its checkpoint."""

    def __init__(self, settings: Training, state: dict[str, Any]):
        try:
            import wandb
        except ImportError:
            raise UserError("--wandb needs a package: pip install wandb") from None
        self.wandb, self.state = wandb, {"sent": 0} | state
        try:
            self.run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "video-cvae"),
                name=os.environ.get("WANDB_NAME", settings.save_root),
                dir=settings.save_root,
                config=settings.as_dict(),
                id=self.state.get("id"),
                resume="allow",
                allow_val_change=True,  # such as a later --num_epoch
            )
        except Exception as error:
            raise UserError(
                f"--wandb: {error}. Log in once with `wandb login`, or set WANDB_MODE=offline and "
                "upload later with `wandb sync`"
            ) from None
        self.state["id"] = self.run.id
        self.run.define_metric("*", step_metric="epoch")  # its own steps must only rise

    def log(self, row: dict[str, float]) -> None:
        self.run.log(row)

    def show(self, paths: dict[str, Path], epoch: int) -> None:
        self.run.log({"epoch": epoch} | {name: self.medium(path) for name, path in paths.items()})

    def medium(self, path: Path) -> Any:
        if path.suffix == ".gif":
            return self.wandb.Video(str(path), format="gif")
        return self.wandb.Image(str(path))

    def close(self, exit_code: int) -> None:
        self.run.finish(exit_code=exit_code)


TRACKERS = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}  # by their flags


class Trackers:
    """The trackers of a run; `states` are what its checkpoint knows of them."""

    def __init__(self):
        self.states, self.opened = {}, {}

    def open(self, settings: Training) -> "Trackers":
        for flag, tracker in TRACKERS.items():
            if getattr(settings, flag):
                with part(f"--{flag}", raises=UserError):
                    self.opened[flag] = tracker(settings, self.states.get(flag, {}))
                    self.states[flag] = self.opened[flag].state
        return self

    def __enter__(self) -> "Trackers":
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        self.each(lambda tracker: tracker.close(int(kind is not None)))
        self.opened = {}

    def send(self, history: list[dict], gif_of: Callable[[int], Path]) -> None:
        """The rows of metrics.csv that a tracker does not have yet, with the gifs that are kept."""

        def send(tracker):
            for row in history[tracker.state["sent"] :]:
                tracker.log({name: value for name, value in row.items() if value is not None})
                if (gif := gif_of(row["epoch"])).exists():
                    tracker.show({"rollout": gif}, row["epoch"])
                tracker.state["sent"] += 1

        self.each(send)

    def show_folder(self, folder: Path, epoch: int) -> None:
        """The rollout, film strip and figures of z that a complete run folder has."""
        paths = [folder / name for name in PICTURES if (folder / name).exists()]
        self.each(lambda tracker: tracker.show({path.stem: path for path in paths}, epoch))

    def each(self, action: Callable[[Any], None]) -> None:
        for flag, tracker in self.opened.items():
            with part(f"what --{flag} is sent"):
                action(tracker)
