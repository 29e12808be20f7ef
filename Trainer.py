"""Train a conditional VAE that predicts video.

python Trainer.py --DR DATASET --save_root RUN_FOLDER
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

if __name__ == "__main__":  # before slow imports, so that mistakes are reported at once
    from modules.cli.start import start_with_command

    COMMAND = start_with_command("Trainer")

import torch
import torch.nn.functional as F
from torch.utils.data import Dataset

from modules.cli.entry import run
from modules.config import Training
from modules.evaluation.distribution import of_validation
from modules.evaluation.latents import best_variance, gaussian_log_likelihood
from modules.evaluation.metrics import Generate_PSNR, score_clips, score_rollout
from modules.labs import LABS
from modules.models.pose import VAE_Model
from modules.models.rollout import noise_source, roll_out
from modules.process.ranks import StopRequest, ranks, share_model
from modules.report import validation
from modules.report.boundary import part
from modules.report.monitor import Monitor
from modules.report.preview import preview
from modules.runs.folder import run_folder
from modules.runs.resume import start_from
from modules.runs.saving import save_epoch, save_last, use_best_weights
from modules.runs.session import begin, open_checkpoint, session
from modules.runs.stuck import count_skipped, stop_if_stuck
from modules.training import schedules
from modules.training.device import begin_step, compile_nets
from modules.training.losses import calibrated_loss, kl_above, kl_criterion, loss_scale
from modules.training.optimizer import (
    apply_if,
    average_of,
    buffer_copies,
    finite_step,
    make_optimizer,
    set_lr,
)
from modules.training.schedules import kl_annealing

__all__ = ["Generate_PSNR", "Trainer", "VAE_Model", "kl_annealing", "kl_criterion", "train"]
LOSS_CLIPS, LOSS_FRAMES = 8, 64  # of the validation set, for val/loss, val/kl and the KL of z
VAL_BATCH = 64  # validation clips that are rolled out together


class Trainer:
    """Owns the nets (in `model`), the optimizer, the schedules and the run folder."""

    def __init__(
        self, settings: Training, device: torch.device, train_set: Dataset | None, val_set: Dataset
    ):
        torch.manual_seed(settings.seed)
        self.settings, self.device, self.folder = settings, device, Path(settings.save_root)
        self.lab = lab = LABS[settings.lab](settings)

        # data
        self.events = lab.val_events() if settings.DR else {}  # now: an error must not come last
        self.splits = {"train": train_set, "val": val_set}
        self.val_frames, self.val_conditions = (torch.stack(clips) for clips in zip(*val_set))
        self.clips = lab.TrainClips(train_set, settings, device) if train_set else None

        # nets
        self.model = share_model(lab.make_model(train_set).to(device))
        self.optim = make_optimizer(self.model.parameters(), settings)
        self.ema = average_of(self.model) if settings.ema else None
        compile_nets(self.model, settings.compile)

        # schedules
        self.kl_annealing = kl_annealing(settings)
        self.tfr = schedules.tfr_at(0, settings)

        # state
        self.current_epoch = self.step = self.steps_done = 0  # the last: of the current epoch
        self.best_score = None
        # sums over its steps: loss, MSE, KL, finite steps, finite steps with a posterior
        self.total = torch.zeros(5, device=device)
        self.skipped_in_a_row, self.most_in_a_row = torch.zeros(2, device=device).unbind()
        self.stop = StopRequest(device)
        self.monitor = Monitor(settings, lab, self.model, (self.val_frames, self.val_conditions))

    @property
    def history(self) -> list[dict]:
        """The rows of metrics.csv."""
        return self.monitor.history

    # ------------------------------------------------------------ training

    def training_stage(self) -> None:
        """Train up to num_epoch. After every epoch the run folder is complete."""
        if self.current_epoch >= self.settings.num_epoch:
            print(f"nothing left to train: --num_epoch {self.settings.num_epoch} is reached")
        with self.monitor.running():
            with self.stop.after_a_step():
                while self.current_epoch < self.settings.num_epoch:
                    self.train_one_epoch()
                    self.end_epoch(self.validate() if self.validation_is_due() else {})
            self.finish()

    def train_one_epoch(self) -> None:
        """Train the rest of the epoch: all of it, unless the run was stopped within it."""
        self.start_epoch()
        batches = self.clips.batches(self.current_epoch)
        coins = schedules.coins(self.tfr, self.current_epoch, len(batches), self.settings)
        left, place = batches[self.steps_done :], (self.current_epoch, self.steps_done)
        for clips in self.monitor.steps(self.clips.fetch(left), left, place, self.values):
            forced, size = bool(coins[self.steps_done]), len(batches[self.steps_done])
            self.total += self.training_one_step(*clips, forced, size)
            self.steps_done += 1
            if self.settings.save_every_steps and self.step % self.settings.save_every_steps == 0:
                save_last(self)
            if self.stop.requested():
                self.save_and_stop()

    def start_epoch(self) -> None:
        """Seed the epoch's random draws and set its learning rate."""
        if not self.steps_done:
            torch.manual_seed(1_000_003 * self.settings.seed + self.current_epoch)
            self.total.zero_()
        set_lr(self.optim, schedules.lr_at(self.current_epoch, self.settings))
        self.model.train()

    def training_one_step(
        self,
        frames: torch.Tensor,
        conditions: torch.Tensor,
        adapt_TeacherForcing: bool,
        size: int | None = None,
    ) -> torch.Tensor:
        """One optimizer step on clips (B, T, 3, H, W) -> (loss, mse, kl, 1, 1), on the device.

        The clips are this process's of a batch of `size` clips. The last result is 0 if z was a
        prior sample. A step that is not finite changes nothing and returns zeros.
        """
        self.step, size = self.step + 1, size or len(frames)
        prior = schedules.draws_from_prior(self.current_epoch, self.steps_done, self.settings)
        begin_step(self.settings.compile)
        buffers = buffer_copies(self.model)
        noise = ranks.draw_noise(self.model, frames, size)
        self.optim.zero_grad()
        with ranks.sharing(size) as share:
            clips = frames, conditions, adapt_TeacherForcing, prior, *noise
            loss, mse, kl = self.losses(self.model, *clips)
            (loss * (share * loss_scale(self.settings.loss_reduction, frames, size))).backward()
        sums = share * torch.stack([loss, mse, kl]).detach()
        finite = self.update(sums, buffers)
        done = torch.stack([finite, finite * (not prior)]).to(sums.dtype)
        return torch.where(finite, torch.cat([sums, done]), 0)

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
        settings, beta, true = self.settings, self.kl_annealing.get_beta(), frames[:, 1:]
        pred, mu, logvar = model(frames, conditions, forced, prior, *noise)
        mse = F.mse_loss(pred, true)
        kl = cost = mse.new_zeros(())
        if mu is not None:
            kl = cost = kl_criterion(mu, logvar, batch_size=mu.shape[0] * mu.shape[1])
            if settings.free_bits:
                cost = kl_above(settings.free_bits, mu, logvar)
        if settings.loss == "mse":
            return mse + beta * cost, mse, kl
        nll = calibrated_loss(pred, true, of_batch=settings.loss == "calibrated_batch")
        return nll + beta * cost * 2 / true[0, 0].numel(), mse, kl  # in the unit of the first

    @torch.no_grad()
    def update(self, sums: torch.Tensor, buffers: list[torch.Tensor]) -> torch.Tensor:
        """Take the step if it is finite -> whether it is. Nothing here waits for the device.

        `sums` and gradients become those of all processes.
        """
        gradients = [x.grad for x in self.model.parameters() if x.grad is not None]
        ranks.add_up([*gradients, sums, self.stop.vote()])
        clip = self.settings.grad_clip or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), clip)
        finite = finite_step(sums[0] + norm, self.model)
        # a shorter average in the first steps, so that the initial weights are forgotten
        share = 1 - min(self.settings.ema, self.step / (self.step + 10))
        apply_if(finite, self.optim, self.model, buffers, self.ema, share)
        count_skipped(self, finite)
        stop_if_stuck(self)
        return finite

    # ------------------------------------------------------------ schedules, saving, stopping

    def end_epoch(self, val: dict[str, float | None]) -> None:
        """Log the epoch, step the schedules, save: a checkpoint knows every row."""
        self.monitor.epoch_ended(*self.values(), val)
        self.step_schedules()
        save_epoch(self, val)
        self.monitor.epoch_saved()

    def step_schedules(self) -> None:
        self.current_epoch, self.steps_done = self.current_epoch + 1, 0
        self.kl_annealing.update()
        self.teacher_forcing_ratio_update()

    def teacher_forcing_ratio_update(self) -> None:
        self.tfr = schedules.tfr_at(self.current_epoch, self.settings)

    def values(self) -> tuple[torch.Tensor, dict[str, float]]:
        """The sums of the epoch so far, and its schedules."""
        lr = schedules.lr_at(self.current_epoch, self.settings)
        return self.total, {"beta": self.kl_annealing.get_beta(), "tfr": self.tfr, "lr": lr}

    def save_and_stop(self, together: bool = True) -> None:
        """A signal arrived: no process ends before the first one has saved."""
        save_last(self, together)
        self.monitor.stopped(self.current_epoch, self.steps_done)
        self.stop.now()

    # ------------------------------------------------------------ validation

    def validation_is_due(self) -> bool:
        done = self.current_epoch + 1
        return done % self.settings.val_every == 0 or done == self.settings.num_epoch

    def validate(self) -> dict[str, float | None]:
        """Roll every validation clip out from its given frames -> scores over all of them."""
        with self.monitor.clock.measure("validations"):
            pred = self.roll_out_validation()
            if pred is None:
                return {}
            self.monitor.validated(pred, self.current_epoch)
            return self.score(pred) | self.validation_losses()

    def roll_out_validation(self) -> torch.Tensor | None:
        """Rollouts of all validation clips, in the first process; each computes its own."""
        given = self.val_frames[:, : self.lab.given]

        def roll_out_batch(numbers):
            return self.val_one_step(given[numbers], self.val_conditions[numbers], numbers)

        clips = ranks.divide(len(given), VAL_BATCH, roll_out_batch)
        return clips and torch.stack(clips)

    def val_one_step(
        self, given: torch.Tensor, conditions: torch.Tensor, numbers: Sequence[int] | None = None
    ) -> torch.Tensor:
        """A true rollout of given (B, P, 3, H, W) along conditions (B, T, ...), on the CPU."""
        numbers = range(len(given)) if numbers is None else numbers
        noise = noise_source(self.settings.z_source, self.settings.seed, numbers)
        progress = self.progress("validating", conditions.shape[1])
        return roll_out(self.ema or self.model, given, conditions, noise, progress)

    def progress(self, label: str, frames: int) -> Callable[[Iterable], Iterator]:
        """A progress bar of a rollout, in which a signal stops the run after the frame."""

        def frames_of(rollout):
            for frame in self.monitor.frames(rollout, label, frames):
                if self.stop.requested_here():  # other processes wait for the next step
                    self.save_and_stop(together=False)
                yield frame

        return frames_of

    def score(self, pred: torch.Tensor) -> dict[str, float]:
        return score_clips([score_rollout(self.lab, p, t) for p, t in zip(pred, self.val_frames)])

    @torch.no_grad()
    def validation_losses(self) -> dict[str, float | None]:
        """The training loss and the KL of teacher-forced validation frames."""
        prior = not schedules.has_posterior(self.current_epoch, self.settings)
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(self.settings.seed)
            model, clips = (self.ema or self.model).eval(), self.measured_clips()
            loss, mse, kl = (x.cpu().double() for x in self.losses(model, *clips, True, prior))
        of_z = 0 if self.model.samples_posterior else kl  # 0: a rollout draws z from the posterior
        elbo = gaussian_log_likelihood(mse, clips[0][0, 0].numel(), best_variance(mse)) - of_z
        return {"loss": loss.item(), "kl": None if prior else kl.item(), "elbo": elbo.item()}

    def measured_clips(self) -> tuple[torch.Tensor, ...]:
        """The validation clips whose losses and z are measured."""
        first = slice(LOSS_CLIPS), slice(LOSS_FRAMES)
        return tuple(x[first].to(self.device) for x in (self.val_frames, self.val_conditions))

    def report_validation(self) -> None:
        """Roll out the current weights, draw the rollout and print its scores."""
        if (pred := self.roll_out_validation()) is not None:
            self.monitor.draw_validation(pred, self.score(pred))

    def report_distribution(self, posterior: bool) -> None:
        """What z contains, how likely validation frames are, and sampled futures of some clips."""
        model, clips = self.ema or self.model, self.measured_clips()
        with part(self.folder / "distribution.json"):
            about = {"posterior": posterior, "events": self.events}
            predicted = of_validation(self.lab, model, clips, self.progress, **about)
            validation.report_distribution(self.folder, predicted, self.settings.plots)

    def finish(self) -> None:
        """Draw the curves and the best weights' rollout, and print where everything is."""
        epochs = use_best_weights(self)
        if ranks.first:
            self.monitor.draw_curves()
            self.report_distribution(schedules.has_posterior(epochs - 1, self.settings))
        self.report_validation()
        self.monitor.finished()


# ---------------------------------------------------------------- entry points


def train(settings: Training, typed: set[str] | None = None) -> Trainer:
    """Train a run, or resume it. `typed` names the settings that were chosen on purpose."""
    with session(settings, typed) as run:
        lab = LABS[settings.lab](run.settings)
        sets = ranks.together(lambda: (lab.open_train(), lab.open_val()))
        trainer = ranks.together(lambda: Trainer(run.settings, run.device, *sets))
        begin(trainer, run)
        trainer.training_stage()
    return trainer


def validate_checkpoint(settings: Training, typed: set[str]) -> None:
    """--test: validate a checkpoint."""
    settings, device, checkpoint = open_checkpoint(settings, typed)
    trainer = Trainer(settings, device, None, LABS[settings.lab](settings).open_val())
    start_from(trainer, settings.ckpt_path, checkpoint)
    trainer.report_validation()


def main(settings: Training, typed: set[str]) -> None:
    with ranks.joined():
        if settings.preview:
            folder = run_folder(settings.save_root)
            table, notes = schedules.table(settings), schedules.warnings(settings)
            ranks.from_first(lambda: preview(folder, table, notes))
        elif settings.test:
            validate_checkpoint(settings, typed)
        else:
            train(settings, typed)


if __name__ == "__main__":
    run(lambda: main(*COMMAND))
