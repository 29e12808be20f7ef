"""What a run shows of itself while it trains: bar, time left, printed lines, page, trackers."""

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from ..config import OBJECTIVES, Training
from ..evaluation.lab import Lab
from ..files import write_csv, write_json
from ..process.ranks import ranks
from ..runs.folder import FACTS, VAL_CLIP, run_folder
from . import charts, pictures, validation
from .boundary import part
from .pages import write_run_page
from .progress import Clock, epoch_line, progress_text, validations_left
from .reading import read_json
from .trackers import Trackers

PAGE_SECONDS = 60
SHOW_SECONDS = 1  # reading the loss waits for the device
AFTER = 2  # what follows the last epoch takes about as long as so many validations
VAL_SCORES = "psnr psnr_min psnr_given_frame_repeated ssim loss kl elbo mse_sum".split()
# sums over the epoch's steps (loss, MSE, KL, finite steps, those with a posterior); its schedules
Values = Callable[[], tuple[torch.Tensor, dict[str, float]]]


class Monitor:
    """Is told by the Trainer what happens. `history` has a row of metrics.csv for each epoch.

    Only the first process shows and writes.
    """

    def __init__(
        self,
        settings: Training,
        lab: Lab,
        model: torch.nn.Module,
        val_clips: tuple[torch.Tensor, torch.Tensor],
    ):
        self.settings, self.lab, self.folder = settings, lab, Path(settings.save_root)
        self.facts = {"parameters": sum(x.numel() for x in model.parameters()), "seconds": 0}
        self.facts["val_clips"] = len(val_clips[0])
        self.val_frames, self.val_conditions = val_clips
        self.history: list[dict] = []
        self.clock, self.trackers = Clock(), Trackers()
        self.epoch = self.steps_done = self.steps_an_epoch = 0
        self.speed, self.shown_at, self.page_at = 0.0, 0.0, -math.inf
        self.warm = self.estimated = False  # after the first step; the time of the run is printed
        self.rollout: tuple[torch.Tensor, str] | None = None  # of the first clip, and its weights

    def running(self) -> contextlib.AbstractContextManager:
        """Within, the trackers are open."""
        if not ranks.first:
            return contextlib.nullcontext()
        with part(self.folder / FACTS):
            self.facts |= self.lab.origin()
            self.facts["seconds"] = read_json(self.folder / FACTS).get("seconds", 0)
        self.started = time.perf_counter()
        return self.trackers.open(self.settings)

    # ------------------------------------------------------------ an epoch's steps

    def steps(
        self,
        batches: Iterable,
        clips: Sequence[torch.Tensor],
        place: tuple[int, int],
        values: Values,
    ) -> Iterator:
        """Yield the batches, of these clips (B, T), with a progress bar that shows the values.

        `place` is the epoch, and how many of its steps are done. The time of a step is that from
        one batch to the next.
        """
        self.epoch, self.steps_done = place
        self.steps_an_epoch = total = self.steps_done + len(clips)
        bar = tqdm(batches, disable=None, leave=False, initial=self.steps_done, total=total)
        start = last = time.perf_counter()
        for batch in bar:
            yield batch
            self.steps_done += 1
            last, before = time.perf_counter(), last
            if self.warm:
                self.clock.add("steps", 1, last - before)
            self.show(bar, values)
            if not self.warm:
                self.end_first_step(start, values)
        values()[0].tolist()  # waits for the device
        self.clock.add("steps", 0, time.perf_counter() - last)
        self.speed = sum(x[:, 1:].numel() for x in clips) / (time.perf_counter() - start)

    def end_first_step(self, start: float, values: Values) -> None:
        """The first step, which compiles and chooses kernels, does not count for the time left."""
        values()[0].tolist()  # waits for the device
        self.warm = True
        if self.settings.compile != "off":
            tqdm.write(f"first step, with compilation: {time.perf_counter() - start:.1f} s")

    def show(self, bar: tqdm, values: Values) -> None:
        """Add the values to the progress bar; once, print the time of the run."""
        now = time.perf_counter()
        if ranks.first and not self.estimated and self.clock.seconds["steps"] > SHOW_SECONDS:
            self.estimated = True
            left = self.clock.left(steps=self.steps_left())
            tqdm.write(f"the training steps take about {left}")
        if not bar.disable and now - self.shown_at > SHOW_SECONDS:
            self.shown_at = now
            epoch = f"epoch {self.epoch}/{self.settings.num_epoch - 1}"
            bar.set_description(f"{epoch}, whole run {self.time_left()} left", refresh=False)
            total, scheduled = values()
            shown = {"loss": (total[0] / total[3]).item()} | scheduled
            bar.set_postfix({k: f"{value:.4g}" for k, value in shown.items()}, refresh=False)

    def time_left(self) -> str:
        """The time that the rest of the run takes."""
        due = AFTER + validations_left(self.epoch, self.settings)
        return self.clock.left(steps=self.steps_left(), validations=due)

    def steps_left(self) -> int:
        """The steps of the rest of the run."""
        return (self.settings.num_epoch - self.epoch) * self.steps_an_epoch - self.steps_done

    # ------------------------------------------------------------ events

    def frames(self, rollout: Iterable, label: str, total: int) -> Iterator:
        """Yield the frames of a rollout with a progress bar."""
        return iter(tqdm(rollout, label, total, disable=None, leave=False))

    def validated(self, pred: torch.Tensor, epoch: int) -> None:
        """The rollouts of an epoch's validation."""
        self.rollout = pred[0].clone(), f"epoch {epoch}"
        if self.settings.store_visualization:
            with part(self.gif_of(epoch)):
                rows = self.lab.rows(self.val_conditions[0], pred[0], self.val_frames[0])
                run_folder(self.folder / "visualization")
                clip = pictures.side_by_side(*rows.values())
                pictures.write_gif(self.gif_of(epoch), clip, self.lab.frame_ms)

    def gif_of(self, epoch: int) -> Path:
        """--store_visualization: the rollout of an epoch's validation."""
        return self.folder / "visualization" / f"epoch={epoch}.gif"

    def epoch_ended(
        self, total: torch.Tensor, scheduled: dict[str, float], val: dict[str, float | None]
    ) -> None:
        """A complete epoch: its row, which its checkpoint has, is sent to the trackers."""
        if not ranks.first:
            return
        row = {"epoch": self.epoch} | self.train_row(total, scheduled)
        row |= {f"val/{name}": val.get(name) for name in VAL_SCORES}
        self.history.append(row)
        with part("the trackers"):
            self.trackers.send(self.history, self.gif_of)

    def epoch_saved(self) -> None:
        """Write metrics.csv and the page, and print the epoch: not before it is saved."""
        if not ranks.first:
            return
        self.write_metrics()
        self.epoch, self.steps_done = self.epoch + 1, 0
        if time.perf_counter() - self.page_at > PAGE_SECONDS:
            self.write_page(f"training: {self.progress_text()}", live=True)
        left = self.time_left() if self.epoch < self.settings.num_epoch else ""
        tqdm.write(epoch_line(self.history[-1], self.settings.num_epoch, self.speed, left))

    def train_row(self, total: torch.Tensor, scheduled: dict[str, float]) -> dict[str, float]:
        """The epoch's training: means over its steps, its schedules and its speed."""
        loss, mse = (total[:2] / total[3]).tolist()  # not numbers if no step was finite
        kl = (total[2] / total[4].clamp_min(1)).item()
        skipped = self.steps_done - int(total[3])
        if skipped:
            steps = f"{skipped} of {self.steps_done} steps"
            tqdm.write(f"epoch {self.epoch}: {steps} skipped, not finite")
        values = {"loss": loss, "mse": mse, "kl": kl, "skipped": skipped} | scheduled
        values["frames_per_second"] = round(self.speed, 2)
        return {f"train/{name}": value for name, value in values.items()}

    def stopped(self, epoch: int, steps_done: int) -> None:
        """The run was stopped, and last.ckpt is saved."""
        self.epoch, self.steps_done = epoch, steps_done
        if ranks.first:
            self.write_page(f"stopped: {self.progress_text()}; the same command resumes")
        tqdm.write(
            f"saved {self.folder / 'last.ckpt'}: epoch {epoch}, after {steps_done} steps; the same "
            "command resumes there"
        )

    def finished(self) -> None:
        """The last epoch is trained, and the best weights are drawn."""
        if not ranks.first:
            return
        self.write_facts()
        write_run_page(self.folder)
        with part("the trackers"):
            self.trackers.send(self.history, self.gif_of)
            self.trackers.show_folder(self.folder, len(self.history) - 1)
        print(f"run folder: {self.folder} (report.html, metrics.csv, plots/, *.ckpt)")

    # ------------------------------------------------------------ files

    def write_metrics(self) -> None:
        write_csv(self.folder / "metrics.csv", self.history)

    def write_facts(self) -> None:
        """What the page says of the run beside its settings."""
        with part(self.folder / FACTS):
            now = time.perf_counter()
            self.facts["seconds"], self.started = self.facts["seconds"] + now - self.started, now
            write_json(self.folder / FACTS, self.facts)

    def draw_curves(self) -> None:
        if self.settings.plots:
            with part(self.folder / "plots"):
                folder, loss = run_folder(self.folder / "plots"), OBJECTIVES[self.settings.loss]
                charts.draw_curves(folder, self.history, loss, self.lab.baseline)

    def write_page(self, status: str, live: bool = False) -> None:
        """report.html of a run that is not finished, with the rollout of the last validation."""
        self.write_facts()
        if self.rollout:
            pred, weights = self.rollout
            clip = self.val_conditions[0], pred, self.val_frames[0]
            with part(self.folder / VAL_CLIP):
                validation.write_clip(self.folder, self.lab, *clip, weights)
        write_run_page(self.folder, status, live)
        self.page_at = time.perf_counter()

    def progress_text(self) -> str:
        """How far the run is, and the time left."""
        epochs = self.epoch, self.settings.num_epoch
        return progress_text(*epochs, self.steps_done, self.time_left())

    def draw_validation(self, pred: torch.Tensor, scores: dict[str, float]) -> None:
        """The rollouts of the best weights, and their scores."""
        plots, clips = self.settings.plots, (self.val_conditions, pred, self.val_frames)
        with part(self.folder / "val.gif"):
            validation.draw(self.folder, self.lab, *clips, plots)
        with part("the scores"):
            print(validation.describe(self.folder, self.lab, scores, len(pred), plots))
