"""Train a conditional VAE that predicts video.

python Trainer.py --DR DATASET --save_root RUN_FOLDER
"""

import contextlib
import copy
import math
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # before slow imports, so that mistakes are reported at once
    from modules.cli.start import start_with_command

    COMMAND = start_with_command("Trainer")

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from modules.checkpoints import checkpoint as ckpt
from modules.cli.entry import run
from modules.config import OBJECTIVES, PoseTraining, RobotTraining
from modules.data.cache import fingerprints
from modules.distributions import best_variance, gaussian_log_likelihood
from modules.errors import UserError
from modules.labs import LABS
from modules.metrics import Generate_PSNR, score_clips, score_rollout
from modules.models.loading import adopt_settings, load_weights
from modules.models.pose import VAE_Model
from modules.models.rollout import noise_source, roll_out
from modules.process.ranks import Votes, ranks, synchronise_batch_norm
from modules.process.signals import Stopped, listener
from modules.report import charts, pictures, tables, validation
from modules.report.pages import write_run_page
from modules.report.progress import Clock, epoch_line, progress_text, validations_left
from modules.report.trackers import Trackers
from modules.runs.console import Console
from modules.runs.environment import code, take_over
from modules.runs.folder import SCHEDULE, occupied, run_folder
from modules.runs.resume import keep_of_run, resume, start_from
from modules.runs.saving import load_best, run_to_resume, save_epoch, save_last
from modules.runs.stuck import stop_if_stuck
from modules.training import schedules
from modules.training.device import begin_step, choose_device, compile_nets, with_precision
from modules.training.losses import calibrated_loss, kl_above, kl_criterion
from modules.training.optimizer import (
    buffer_copies,
    finite_step,
    make_optimizer,
    restore_buffers_unless,
    set_lr,
    step_if,
    update_ema_if,
)
from modules.training.schedules import kl_annealing

__all__ = ["Generate_PSNR", "Trainer", "VAE_Model", "kl_annealing", "kl_criterion", "train"]
PAGE_SECONDS = 60
SHOW_SECONDS = 1  # reading the loss waits for the device
LOSS_CLIPS, LOSS_FRAMES = 8, 64  # of the validation set, for val/loss, val/kl and the KL of z
AFTER = 2  # what follows the last epoch takes about as long as so many validations
VAL_BATCH = 64  # validation clips that are rolled out together
VAL_SCORES = "psnr psnr_min psnr_given_frame_repeated ssim loss kl elbo mse_sum".split()


class Trainer:
    """Owns the nets (in `model`), the optimizer, the schedules and the run folder."""

    def __init__(
        self,
        settings: PoseTraining | RobotTraining,
        device: torch.device,
        train_set: Any,
        val_set: Any,
    ):
        torch.manual_seed(settings.seed)
        self.settings, self.device, self.folder = settings, device, Path(settings.save_root)
        self.lab = lab = LABS[settings.lab](settings)
        self.events = lab.val_events() if settings.DR else {}  # now: an error must not come last
        self.data = fingerprints(train=train_set, val=val_set)
        self.val_frames, self.val_conditions = (torch.stack(clips) for clips in zip(*val_set))
        self.clips = lab.TrainClips(train_set, settings, device) if train_set else None
        if self.clips:
            ranks.check_batches(settings, sum(map(len, self.clips.batches(0))))
        self.model = lab.make_model(train_set).to(device)
        ranks.share_weights(self.model)
        self.optim = make_optimizer(self.model.parameters(), settings)
        self.ema = self.copy_of_model() if settings.ema else None
        synchronise_batch_norm(self.model)
        self.warm = self.estimated = False  # after the first step; the time of the run is printed
        compile_nets(self.model, settings.compile, device)
        self.kl_annealing = kl_annealing(settings)
        self.tfr = schedules.tfr_at(0, settings)
        self.current_epoch = self.step = 0
        self.best_score, self.history = None, []
        self.clock, self.trackers = Clock(), Trackers()
        self.steps_done = self.steps_an_epoch = 0  # of the current epoch, and all that it has
        self.last_rollout, self.shown_at, self.page_at = None, 0, -math.inf
        # sums over its steps: loss, MSE, KL, finite steps, finite steps with a posterior
        self.total = torch.zeros(5, device=device)
        self.skipped_in_a_row, self.most_in_a_row = torch.zeros(2, device=device).unbind()
        self.votes = Votes(device)

    def copy_of_model(self) -> torch.nn.Module:
        """For the moving average; .to() restores the memory layout of an LSTM's weights."""
        return copy.deepcopy(self.model).requires_grad_(False).to(self.device)

    # ------------------------------------------------------------ training

    def training_stage(self) -> None:
        """Train up to num_epoch. After every epoch the run folder is complete."""
        if self.current_epoch >= self.settings.num_epoch:
            print(f"nothing left to train: --num_epoch {self.settings.num_epoch} is reached")
        with self.trackers.open(self.settings) if ranks.first else contextlib.nullcontext():
            # a signal waits for the end of the step: stop_if; torchrun repeats it
            with listener.patiently(all_wait=ranks.count > 1):
                while self.current_epoch < self.settings.num_epoch:
                    self.train_one_epoch()
                    self.end_epoch(self.validate() if self.validation_is_due() else {})
            self.finish()

    def train_one_epoch(self) -> None:
        """Train the rest of the epoch: all of it, unless the run was stopped within it."""
        self.start_epoch()
        batches = self.clips.batches(self.current_epoch)
        coins, left = self.coins(len(batches)), batches[self.steps_done :]
        self.steps_an_epoch = len(batches)
        bar = tqdm(left, disable=None, leave=False, initial=self.steps_done, total=len(batches))
        start = last = time.perf_counter()
        for frames, conditions in self.clips.fetch(bar):
            forced, whole = bool(coins[self.steps_done]), len(batches[self.steps_done])
            self.total += self.training_one_step(frames, conditions, forced, whole)
            self.steps_done += 1
            last, before = time.perf_counter(), last
            if self.warm:
                self.clock.add("steps", 1, last - before)
            self.show(bar)
            if not self.warm:
                self.end_first_step(start)
            if self.settings.save_every_steps and self.step % self.settings.save_every_steps == 0:
                save_last(self)
            asked = listener.asked if ranks.count == 1 else self.votes.count()
            self.stop_if(asked, together=True)
        self.total.tolist()  # waits for the device
        self.clock.add("steps", 0, time.perf_counter() - last)
        predicted = sum(clips[:, 1:].numel() for clips in left)
        self.speed = predicted / (time.perf_counter() - start)

    def stop_if(self, asked: Any, together: bool = False) -> None:
        """Save and stop if a signal arrived during the last step or frame."""
        if asked:
            if together:  # no rank ends before the first one has saved
                ranks.from_first(lambda: save_last(self))
            else:
                save_last(self)
            self.write_page(f"stopped: {self.progress_text()}; the same command resumes")
            tqdm.write(
                f"saved {self.folder / 'last.ckpt'}: epoch {self.current_epoch}, after "
                f"{self.steps_done} steps; the same command resumes there"
            )
            raise Stopped(listener.asked or signal.SIGTERM)

    def end_first_step(self, start: float) -> None:
        """The first step, which compiles and chooses kernels, does not count for the time left."""
        self.total.tolist()  # waits for the device
        self.warm = True
        if self.settings.compile != "off":
            tqdm.write(f"first step, with compilation: {time.perf_counter() - start:.1f} s")

    def start_epoch(self) -> None:
        """Seed the epoch's random draws and set its learning rate."""
        if not self.steps_done:
            torch.manual_seed(1_000_003 * self.settings.seed + self.current_epoch)
            self.total.zero_()
        set_lr(self.optim, schedules.lr_at(self.current_epoch, self.settings))
        self.model.train()

    def coins(self, steps: int) -> np.ndarray:
        """True where a step is teacher-forced: drawn once for the epoch, or per batch."""
        rng = np.random.default_rng([self.settings.seed, self.current_epoch, 1])
        draws = rng.random(steps if self.settings.tfr_coin == "batch" else 1) < self.tfr
        return np.broadcast_to(draws, steps)

    def training_one_step(
        self,
        frames: torch.Tensor,
        conditions: torch.Tensor,
        adapt_TeacherForcing: bool,
        whole: int | None = None,
    ) -> torch.Tensor:
        """One optimizer step on clips (B, T, 3, H, W) -> (loss, mse, kl, 1, 1), on the device.

        The clips are this rank's of a batch of `whole` clips. The last result is 0 if z was a prior
        sample. A step that is not finite changes nothing and returns zeros.
        """
        self.step += 1
        if ranks.count > 1:
            self.votes.cast(bool(listener.asked))
        forced, prior = adapt_TeacherForcing, self.trains_on_prior()
        result = self.step_on_device(frames, conditions, forced, prior, whole or len(frames))
        stop_if_stuck(self)
        return result

    def step_on_device(
        self, frames: torch.Tensor, conditions: torch.Tensor, forced: bool, prior: bool, whole: int
    ) -> torch.Tensor:
        """The device's part of a step, without any host-device synchronisation."""
        begin_step(self.settings.compile)
        before = buffer_copies(self.model)
        noise = self.model.draw_noise(ranks.whole_like(frames, whole))
        inputs = frames, conditions, *ranks.mine(whole, *noise)
        self.optim.zero_grad()
        sums = 0  # loss, MSE and KL
        for piece in ranks.pieces(whole, self.settings.global_batch and self.settings.batch_size):
            frames, conditions, *noise = (x if x is None else x[piece.rows] for x in inputs)
            losses = self.losses(self.model, frames, conditions, forced, prior, *noise)
            (losses[0] * (piece.of_batch * self.loss_scale(frames, whole))).backward()
            sums = sums + piece.of_batch * torch.stack(losses).detach()
        gradients = [x.grad for x in self.model.parameters() if x.grad is not None]
        ranks.add_up([*gradients, sums, self.votes.mine])
        loss, mse, kl = sums
        clip = self.settings.grad_clip or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), clip)
        finite = finite_step(loss + norm, self.model)
        self.update(finite, before)
        result = torch.stack([loss, mse, kl, finite.float(), finite.float() * (not prior)])
        return torch.where(finite, result, 0).detach()

    def trains_on_prior(self) -> bool:
        """Whether z of this step is a prior sample: pre-training, or the hybrid objective."""
        if not self.has_posterior(self.current_epoch):
            return True
        draw = np.random.default_rng([self.settings.seed, self.current_epoch, 2, self.steps_done])
        return draw.random() >= self.settings.posterior_share

    def has_posterior(self, epoch: int) -> bool:
        """Whether the posterior is trained in this epoch."""
        settings = self.settings
        return schedules.has_posterior(
            epoch, settings.latent, settings.posterior_share, settings.pretrain_epochs
        )

    def losses(
        self,
        model: torch.nn.Module,
        frames: torch.Tensor,
        conditions: torch.Tensor,
        forced: bool,
        prior: bool,
        *noise: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """-> loss, MSE and KL, as means over the predicted frames of clips (B, T, 3, H, W)."""
        pred, mu, logvar = model(frames, conditions, forced, prior, *noise)
        mse = F.mse_loss(pred, frames[:, 1:])
        kl = cost = mse.new_zeros(())
        if mu is not None:
            kl = cost = kl_criterion(mu, logvar, batch_size=mu.shape[0] * mu.shape[1])
            if self.settings.free_bits:
                cost = kl_above(self.settings.free_bits, mu, logvar)
        return self.objective(pred, frames[:, 1:], mse, cost), mse, kl

    def objective(
        self, pred: torch.Tensor, true: torch.Tensor, mse: torch.Tensor, kl: torch.Tensor
    ) -> torch.Tensor:
        """The reconstruction loss of --loss, plus beta * KL in the same unit."""
        beta = self.kl_annealing.get_beta()
        if self.settings.loss == "mse":
            return mse + beta * kl
        loss = calibrated_loss(pred, true, whole_batch=self.settings.loss == "calibrated_batch")
        return loss + beta * kl * 2 / true[0, 0].numel()

    def loss_scale(self, frames: torch.Tensor, whole: int) -> float:
        """The template minimises the sum over a clip's predicted frames: it clips that gradient."""
        total = frames.shape[1] - 1
        return {"sum": total, "batch": total / whole, "mean": 1}[self.settings.loss_reduction]

    @torch.no_grad()
    def update(self, finite: torch.Tensor, before: list[torch.Tensor]) -> None:
        """Update weights, moments and averages; a non-finite step restores the buffers instead."""
        step_if(finite, self.optim)
        restore_buffers_unless(finite, self.model, before)
        if self.ema:
            # a shorter average in the first steps, so that the initial weights are forgotten
            share = 1 - min(self.settings.ema, self.step / (self.step + 10))
            update_ema_if(finite, self.ema, self.model, share)
        self.skipped_in_a_row.add_(1).mul_(~finite)
        self.most_in_a_row.copy_(torch.maximum(self.most_in_a_row, self.skipped_in_a_row))

    def step_schedules(self) -> None:
        self.current_epoch, self.steps_done = self.current_epoch + 1, 0
        self.kl_annealing.update()
        self.teacher_forcing_ratio_update()

    def teacher_forcing_ratio_update(self) -> None:
        self.tfr = schedules.tfr_at(self.current_epoch, self.settings)

    # ------------------------------------------------------------ validation

    def validation_is_due(self) -> bool:
        done = self.current_epoch + 1
        return done % self.settings.val_every == 0 or done == self.settings.num_epoch

    def validate(self) -> dict[str, float | None]:
        """Roll every validation clip out from its given frames -> scores over all of them."""
        with self.clock.measure("validations"):
            pred = self.roll_out_validation()
            if not ranks.first:
                return {}
            if self.settings.store_visualization:
                run_folder(self.folder / "visualization")
                clips = self.first_clip(pred).values()
                path, clip = self.gif_of(self.current_epoch), pictures.side_by_side(*clips)
                pictures.write_gif(path, clip, self.lab.frame_ms)
            self.last_rollout = pred[0].clone(), f"epoch {self.current_epoch}"
            return self.score(pred) | self.validation_losses()

    def gif_of(self, epoch: int) -> Path:
        """--store_visualization: the rollout of an epoch's validation."""
        return self.folder / "visualization" / f"epoch={epoch}.gif"

    def roll_out_validation(self) -> torch.Tensor | None:
        """Rollouts of all validation clips, of which every rank computes its own; in the first."""
        given, total = self.val_frames[:, : self.lab.given], len(self.val_frames)
        numbers = range(ranks.number, total, ranks.count)
        parts = [numbers[i : i + VAL_BATCH] for i in range(0, len(numbers), VAL_BATCH)]
        rows = [(slice(part.start, part.stop, part.step), part) for part in parts]
        mine = [self.val_one_step(given[x], self.val_conditions[x], part) for x, part in rows]
        clips = ranks.in_order([clip for part in mine for clip in part])
        return torch.stack(clips) if ranks.first else None

    def val_one_step(
        self, given: torch.Tensor, conditions: torch.Tensor, numbers: Sequence[int] | None = None
    ) -> torch.Tensor:
        """A true rollout of given (B, P, 3, H, W) along conditions (B, T, ...), on the CPU."""
        progress = self.progress("validating", conditions.shape[1])
        numbers = range(len(given)) if numbers is None else numbers
        noise = noise_source(self.settings.z_source, self.settings.seed, numbers)
        return roll_out(self.ema or self.model, given, conditions, noise, progress)

    def progress(self, label: str, frames: int) -> Callable[[Iterable], Iterator]:
        """A progress bar of a rollout, in which a signal stops the run after the frame."""

        def shown(rollout):
            for frame in tqdm(rollout, label, frames, disable=None, leave=False):
                self.stop_if(ranks.first and listener.asked)  # the others wait for the next step
                yield frame

        return shown

    def score(self, pred: torch.Tensor) -> dict[str, float]:
        return score_clips([score_rollout(self.lab, p, t) for p, t in zip(pred, self.val_frames)])

    @torch.no_grad()
    def validation_losses(self) -> dict[str, float | None]:
        """The training loss and the KL of teacher-forced validation frames."""
        prior = not self.has_posterior(self.current_epoch)
        model = (self.ema or self.model).eval()
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(self.settings.seed)
            clips = self.some_of_validation()
            loss, mse, kl = (x.double().cpu() for x in self.losses(model, *clips, True, prior))
        elbo = gaussian_log_likelihood(mse, clips[0][0, 0].numel(), best_variance(mse))
        if not self.model.samples_posterior:  # else the posterior is what a rollout draws z from
            elbo = elbo - kl
        return {"loss": loss.item(), "kl": None if prior else kl.item(), "elbo": elbo.item()}

    def some_of_validation(self) -> tuple[torch.Tensor, ...]:
        some = slice(LOSS_CLIPS), slice(LOSS_FRAMES)
        return tuple(x[some].to(self.device) for x in (self.val_frames, self.val_conditions))

    def first_clip(self, pred: torch.Tensor) -> dict[str, np.ndarray]:
        """{label: uint8 clip} of what is shown of the first validation clip."""
        return self.lab.rows(self.val_conditions[0], pred[0], self.val_frames[0])

    # ------------------------------------------------------------ the run folder

    def end_epoch(self, val: dict[str, float | None]) -> None:
        """Save the epoch, then log it: a checkpoint knows every row, and who was sent it."""
        if not ranks.first:
            self.step_schedules()
            return
        row = {"epoch": self.current_epoch} | self.train_row()
        row |= {f"val/{name}": val.get(name) for name in VAL_SCORES}
        self.history.append(row)
        self.trackers.send(self.history, self.gif_of)
        self.step_schedules()
        save_epoch(self, val)
        self.log(row)

    def train_row(self) -> dict[str, float]:
        """The epoch's training: means over its steps, its schedules and its speed."""
        done = self.total[3]
        loss, mse = (self.total[:2] / done).tolist()  # not numbers if no step was finite
        kl = (self.total[2] / self.total[4].clamp_min(1)).item()
        skipped = self.steps_done - int(done)
        if skipped:
            tqdm.write(
                f"epoch {self.current_epoch}: {skipped} of {self.steps_done} steps skipped, "
                "not finite"
            )
        values = {"loss": loss, "mse": mse, "kl": kl, "skipped": skipped} | self.scheduled()
        values["frames_per_second"] = round(self.speed, 2)
        return {f"train/{name}": value for name, value in values.items()}

    def log(self, row: dict[str, float | None]) -> None:
        self.write_metrics()
        if time.perf_counter() - self.page_at > PAGE_SECONDS:
            self.write_page(f"training: {self.progress_text()}")
        left = self.time_left() if self.current_epoch < self.settings.num_epoch else ""
        tqdm.write(epoch_line(row, self.settings.num_epoch, self.speed, left))

    def write_metrics(self) -> None:
        tables.write_csv(self.folder / "metrics.csv", self.history)

    def scheduled(self) -> dict[str, float]:
        """beta, tfr and lr of the current epoch."""
        lr = schedules.lr_at(self.current_epoch, self.settings)
        return {"beta": self.kl_annealing.get_beta(), "tfr": self.tfr, "lr": lr}

    def show(self, bar: tqdm) -> None:
        """Add schedules and mean loss to the progress bar; once, print the time of the run."""
        now = time.perf_counter()
        if ranks.first and not self.estimated and self.clock.seconds["steps"] > SHOW_SECONDS:
            self.estimated = True
            tqdm.write(f"training takes about {self.time_left()}, validations not counted")
        if not bar.disable and now - self.shown_at > SHOW_SECONDS:
            self.shown_at = now
            values = {"loss": (self.total[0] / self.total[3]).item()} | self.scheduled()
            epoch = f"epoch {self.current_epoch}/{self.settings.num_epoch - 1}"
            bar.set_description(f"{epoch}, whole run {self.time_left()} left", refresh=False)
            bar.set_postfix({name: f"{value:.4g}" for name, value in values.items()}, refresh=False)

    def time_left(self) -> str:
        """The time that the rest of the run takes."""
        now, settings = self.current_epoch, self.settings
        steps = (settings.num_epoch - now) * self.steps_an_epoch - self.steps_done
        due = AFTER + validations_left(now, settings)
        return self.clock.left(steps=steps, validations=due)

    def progress_text(self) -> str:
        """How far the run is, and the time left."""
        done, planned = self.current_epoch, self.settings.num_epoch
        return progress_text(done, planned, self.steps_done, self.time_left())

    def write_page(self, status: str) -> None:
        """report.html of a run that goes on, with the rollout of the last validation."""
        if not ranks.first:
            return
        if self.last_rollout:
            pred, weights = self.last_rollout
            clip = self.val_conditions[0], pred, self.val_frames[0]
            validation.write_clip(self.folder, self.lab, *clip, weights)
        write_run_page(self.folder, status)
        self.page_at = time.perf_counter()

    def finish(self) -> None:
        """Draw the curves and the best weights' rollout, and print where everything is."""
        epochs = self.current_epoch
        if best := ranks.from_first(lambda: load_best(self)):
            epochs = best["last_epoch"]
            load_weights(
                self.ema or self.model, best["state_dict"], self.folder / "best_score.ckpt"
            )
        if ranks.first:
            if self.settings.plots:
                folder, loss = run_folder(self.folder / "plots"), OBJECTIVES[self.settings.loss]
                charts.draw_curves(folder, self.history, loss, self.lab.baseline)
            self.report_distribution(posterior=self.has_posterior(epochs - 1))
        self.report_validation()
        if not ranks.first:
            return
        write_run_page(self.folder)
        self.trackers.send(self.history, self.gif_of)
        self.trackers.show_folder(self.folder, self.current_epoch - 1)
        print(f"run folder: {self.folder} (report.html, metrics.csv, plots/, *.ckpt)")

    def report_distribution(self, posterior: bool) -> None:
        """What z contains, how likely validation frames are, and sampled futures of some clips."""
        model, clips = self.ema or self.model, self.some_of_validation()
        more = self.settings, posterior, self.events, self.progress
        validation.report_distribution(self.folder, self.lab, model, clips, *more)

    def report_validation(self) -> None:
        """Roll out the current weights, draw the rollout and print its scores."""
        pred = self.roll_out_validation()
        if not ranks.first:
            return
        scores = self.score(pred)
        clips = self.val_conditions, pred, self.val_frames
        validation.draw(self.folder, self.lab, *clips, self.settings.plots)
        print(validation.describe(self.folder, self.lab, scores, len(pred), self.settings.plots))


# ---------------------------------------------------------------- entry points


def train(settings: PoseTraining | RobotTraining, typed: set[str] | None = None) -> Trainer:
    """Train a run, or resume it, and return its Trainer.

    `typed` names the settings that were chosen on purpose; by default those not at their defaults.
    """
    if problem := settings.contradiction():
        raise UserError(problem)
    if missing := [name for name in ("DR", "save_root") if not getattr(settings, name)]:
        raise UserError(f"required: {' and '.join(missing)}")
    with Console() as console, contextlib.ExitStack() as stack:
        device = ranks.together(lambda: choose_device(settings))
        folder = ranks.from_first(lambda: run_folder(settings.save_root))
        ranks.from_first(lambda: stack.enter_context(occupied(folder)))
        return train_in(folder, with_precision(settings, device), device, typed, console)


def train_in(
    folder: Path,
    settings: PoseTraining | RobotTraining,
    device: torch.device,
    typed: set[str] | None,
    console: Console,
) -> Trainer:
    """Train in a run folder that no other run uses."""
    found = ranks.from_first(lambda: run_to_resume(settings.resume, folder))
    if found:
        settings = keep_of_run(settings, typed, found[1]["args"])
    lab = LABS[settings.lab](settings)
    train_set, val_set = ranks.together(lambda: (lab.open_train(), lab.open_val()))
    if ranks.count > 1:
        pictures = fingerprints(train_pictures=train_set, val_pictures=val_set)
        here = {"torch": torch.__version__, "precision": settings.precision}
        ranks.must_agree(code=code(), **here, **pictures)
    trainer = ranks.together(lambda: Trainer(settings, device, train_set, val_set))
    if found:
        resume(trainer, *found)
        if settings.ckpt_path:
            print("note: --ckpt_path has no effect: the run is resumed")
    elif settings.ckpt_path:
        start_from(trainer, settings.ckpt_path)
    ranks.from_first(lambda: take_over(folder, settings, console, bool(found)))
    if settings.schedule and ranks.first:
        tables.write_csv(folder / SCHEDULE, schedules.rows_of_file(settings))
    for warning in schedules.warnings(settings):
        print(warning)
    trainer.training_stage()
    return trainer


def validate_checkpoint(settings: PoseTraining | RobotTraining, typed: set[str]) -> None:
    """--test: validate a checkpoint."""
    device = choose_device(settings)
    run_folder(settings.save_root)
    settings = with_precision(settings, device)
    checkpoint = ckpt.load(settings.ckpt_path)
    settings = adopt_settings(settings, typed, checkpoint)
    trainer = Trainer(settings, device, None, LABS[settings.lab](settings).open_val())
    start_from(trainer, settings.ckpt_path, checkpoint)
    trainer.report_validation()


def main(settings: PoseTraining | RobotTraining, typed: set[str]) -> None:
    with ranks.joined():
        carry_out(settings, typed)


def carry_out(settings: PoseTraining | RobotTraining, typed: set[str]) -> None:
    if settings.preview and ranks.first:
        schedules.preview(settings)
        folder, rows = run_folder(settings.save_root), schedules.table(settings)
        tables.write_csv(folder / SCHEDULE, rows)
        charts.draw_schedules(folder / "schedules.png", rows)
        written = f"written to {folder}: schedules.png, and {SCHEDULE}, a file for --schedule"
        print(*schedules.warnings(settings), written, sep="\n")
    elif settings.test:
        validate_checkpoint(settings, typed)
    elif not settings.preview:
        train(settings, typed)


if __name__ == "__main__":
    run(lambda: main(*COMMAND))
