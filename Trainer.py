"""Train a conditional VAE that predicts video.

python Trainer.py --DR DATASET --save_root RUN_FOLDER
"""

import copy
import json
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from modules import checkpoint as ckpt
from modules import report, schedules
from modules.device import choose_device, compile_nets
from modules.files import move_aside, occupied, run_folder, write_atomically
from modules.graphs import Recorded, check_graphs, record_rollouts
from modules.labs import LABS
from modules.metrics import (
    Generate_PSNR,
    calibrated_loss,
    kl_above,
    kl_criterion,
    kl_per_dimension,
    score_clips,
)
from modules.models import VAE_Model, noise_source, roll_out
from modules.optimizer import (
    average_if,
    make_optimizer,
    put_back_unless,
    set_lr,
    statistics,
    step_if,
)
from modules.options import INF, UserError, parse, run
from modules.pages import write_run_page
from modules.report import COPIED
from modules.resumable import Resumable, run_to_resume
from modules.schedules import kl_annealing
from modules.signals import listener
from modules.trackers import open_trackers

__all__ = ["Generate_PSNR", "Trainer", "VAE_Model", "kl_annealing", "kl_criterion"]
REDRAW_SECONDS = 60
SHOW_SECONDS = 1  # to show the loss the device must be waited for
Z_CLIPS, Z_FRAMES = 8, 64  # of validation clips, to see what z carries
VAL_BATCH = 64  # validation clips that are rolled out together
VAL_SCORES = ("psnr", "psnr_min", "psnr_given_frame_repeated", "ssim")


class Trainer(Resumable):
    """Owns the nets (in `model`), the optimizer, the schedules and the run folder."""

    def __init__(self, args, device, train_set=None, val_set=None):
        torch.manual_seed(args.seed)
        self.args, self.device, self.folder = args, device, Path(args.save_root)
        self.lab = lab = LABS[args.lab](args)
        self.val_frames, self.val_conditions = (torch.stack(clips) for clips in zip(*val_set))
        self.clips = lab.TrainClips(train_set, args, device) if train_set else None
        self.model = lab.make_model(train_set).to(device)
        if args.cuda_graphs:
            check_graphs(args, device, training=True)
        self.optim = make_optimizer(self.model.parameters(), args)
        self.ema = self.copy_of_model() if args.ema else None
        self.cold = args.compile != "off"
        compile_nets(self.model, args.compile, device)
        self.kl_annealing = kl_annealing(args)
        self.tfr = schedules.tfr_at(0, args)
        self.current_epoch = self.step = 0
        self.best_score, self.history = None, []
        self.drawn_at, self.shown_at = time.perf_counter(), 0
        self.steps_done = 0  # of the current epoch
        self.total = torch.zeros(4, device=device)  # of its losses, and how many steps counted
        self.skipped_in_a_row, self.most_in_a_row = torch.zeros(2, device=device).unbind()
        self.beta, self.ema_share = torch.zeros(2, device=device).unbind()
        self.device_step = self.step_on_device
        if args.cuda_graphs:
            self.device_step = Recorded(self.step_on_device)
            record_rollouts(self.ema or self.model)

    def copy_of_model(self):
        """For the average of its weights; .to() lays an LSTM's out as cuDNN wants them."""
        return copy.deepcopy(self.model).requires_grad_(False).to(self.device)

    # ------------------------------------------------------------ training

    def training_stage(self):
        """Train up to num_epoch. After every epoch the run folder is complete."""
        self.trackers = open_trackers(self.args)
        if self.current_epoch >= self.args.num_epoch:
            print(f"nothing is left to train: --num_epoch {self.args.num_epoch} is reached")
        with listener.patiently():  # a signal waits for the step at hand: stop_if_asked
            while self.current_epoch < self.args.num_epoch:
                self.train_one_epoch()
                self.end_epoch(self.validate() if self.validation_is_due() else {})
        self.finish()

    def train_one_epoch(self):
        """Train what is left of the epoch: all of it, or after a stop within it the rest."""
        self.start_epoch()
        batches = self.clips.batches(self.current_epoch)
        coins, left = self.coins(len(batches)), batches[self.steps_done :]
        bar = tqdm(left, disable=None, leave=False, initial=self.steps_done, total=len(batches))
        start = time.perf_counter()
        for frames, conditions in self.clips.fetch(bar):
            self.total += self.training_one_step(frames, conditions, bool(coins[self.steps_done]))
            self.steps_done += 1
            self.show(bar)
            if self.cold:
                self.say_warm_up(start)
            if self.args.save_every_steps and self.step % self.args.save_every_steps == 0:
                self.save_last()
            self.stop_if_asked()
        self.total.tolist()  # waits for the device
        predicted = sum(clips[:, 1:].numel() for clips in left)
        self.speed = predicted / (time.perf_counter() - start)

    def stop_if_asked(self):
        """Obey a signal that came during the step or the frame before, with nothing lost."""
        if listener.asked:
            self.save_last()
            tqdm.write(
                f"saved {self.folder / 'last.ckpt'}: epoch {self.current_epoch}, after "
                f"{self.steps_done} steps; the same command carries on there"
            )
            listener.check()

    def say_warm_up(self, start):
        """What the first step of a compiled run took: a short run may not be worth it."""
        self.total.tolist()  # waits for the device
        self.cold = False
        tqdm.write(f"the first step, with compiling: {time.perf_counter() - start:.1f} s")

    def start_epoch(self):
        """Set what the epoch's number decides: its learning rate and all its random draws."""
        if not self.steps_done:
            torch.manual_seed(1_000_003 * self.args.seed + self.current_epoch)
            self.total.zero_()
        set_lr(self.optim, schedules.lr_at(self.current_epoch, self.args))
        self.model.train()

    def coins(self, steps):
        """True where a step is teacher-forced: one coin for the epoch, or one a batch."""
        rng = np.random.default_rng([self.args.seed, self.current_epoch, 1])
        tosses = rng.random(steps if self.args.tfr_coin == "batch" else 1) < self.tfr
        return np.broadcast_to(tosses, steps)

    def training_one_step(self, frames, conditions, adapt_TeacherForcing):
        """One optimizer step on clips (B, T, 3, H, W) -> (loss, mse, kl, 1), on the device.

        A step whose gradient is not finite leaves everything as it was, and is (0, 0, 0, 0).
        """
        self.step += 1
        self.beta.fill_(self.kl_annealing.get_beta())
        # the first steps count for little, so that the start is forgotten
        self.ema_share.fill_(1 - min(self.args.ema, self.step / (self.step + 10)))
        pretraining = self.current_epoch < self.args.pretrain_epochs
        result = self.device_step(
            frames, conditions, forced=adapt_TeacherForcing, pretraining=pretraining
        )
        self.give_up_if_stuck()
        return result

    def step_on_device(self, frames, conditions, forced, pretraining):
        """All of a step that the device does; the host is told nothing but what it may ask for."""
        before = statistics(self.model)
        pred, mu, logvar = self.model(frames, conditions, forced, prior=pretraining)
        mse = F.mse_loss(pred, frames[:, 1:])
        kl = cost = mse.new_zeros(())
        if mu is not None:
            kl = cost = kl_criterion(mu, logvar, batch_size=mu.shape[0] * mu.shape[1])
            if self.args.free_bits:
                cost = kl_above(self.args.free_bits, mu, logvar)
        loss = self.objective(pred, frames[:, 1:], mse, cost)
        self.optim.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.args.grad_clip or INF)
        good = torch.isfinite(loss + norm)
        self.update(good, before)
        return torch.where(good, torch.stack([loss, mse, kl, good.float()]), 0).detach()

    def objective(self, pred, true, mse, kl):
        """Reconstruction, as --loss measures it, and beta * KL in the same unit."""
        if self.args.loss == "mse":
            return mse + self.beta * kl
        return calibrated_loss(pred, true) + self.beta * kl * 2 / true[0, 0].numel()

    @torch.no_grad()
    def update(self, good, before):
        """Change weights, moments and averages, or where the step is not good put all back."""
        step_if(good, self.optim)
        put_back_unless(good, self.model, before)
        if self.ema:
            average_if(good, self.ema, self.model, self.ema_share)
        self.skipped_in_a_row.add_(1).mul_(~good)
        self.most_in_a_row.copy_(torch.maximum(self.most_in_a_row, self.skipped_in_a_row))

    def give_up_if_stuck(self):
        """Stop after --max_skipped bad steps in a row; looked at once in so many steps."""
        most = self.args.max_skipped
        if self.step % most:
            return
        if self.most_in_a_row >= most:
            last, start = self.folder / "last.ckpt", "Start afresh with"
            if last.exists():
                start = (
                    f"The checkpoints in {self.folder} are good. Go on from them in another run: "
                    f"--ckpt_path {last} with another --save_root,"
                )
            raise UserError(
                f"{most} steps in a row had a loss or gradient that is not finite; none of them "
                f"changed the weights. {start} a lower --lr or --grad_clip, or a "
                "--kl_anneal_start above 0"
            )
        self.most_in_a_row.zero_()

    def step_schedules(self):
        self.current_epoch, self.steps_done = self.current_epoch + 1, 0
        self.kl_annealing.update()
        self.teacher_forcing_ratio_update()

    def teacher_forcing_ratio_update(self):
        self.tfr = schedules.tfr_at(self.current_epoch, self.args)

    # ------------------------------------------------------------ validation

    def validation_is_due(self):
        done = self.current_epoch + 1
        return done % self.args.val_every == 0 or done == self.args.num_epoch

    def validate(self):
        """Roll every validation clip out from its given frames -> scores over all of them."""
        pred = self.roll_out_validation()
        if self.args.store_visualization:
            path = run_folder(self.folder / "visualization") / f"epoch={self.current_epoch}.gif"
            clips = self.first_clip(pred).values()
            report.write_gif(path, report.side_by_side(*clips), self.lab.frame_ms)
        return self.score(pred)

    def roll_out_validation(self):
        given = self.val_frames[:, : self.lab.given]
        pieces = []
        for first in range(0, len(given), VAL_BATCH):
            part = slice(first, first + VAL_BATCH)
            pieces.append(self.val_one_step(given[part], self.val_conditions[part], first))
        return torch.cat(pieces)

    def val_one_step(self, given, conditions, first=0):
        """A true rollout of given (B, P, 3, H, W) along conditions (B, T, ...), to the CPU."""

        def progress(frames):
            bar = tqdm(frames, "validating", conditions.shape[1], disable=None, leave=False)
            for frame in bar:
                self.stop_if_asked()
                yield frame

        numbers = range(first, first + len(given))
        noise = noise_source(self.args.z_source, self.args.seed, numbers)
        model = self.ema or self.model
        return roll_out(model, given.to(self.device), conditions, noise, progress)

    def score(self, pred):
        return score_clips([self.lab.score(p, t) for p, t in zip(pred, self.val_frames)])

    def draw_validation(self, pred):
        """val.gif, its film strip, and the PSNR of every frame: the mean of all clips."""
        given, psnr, true = self.lab.given, self.lab.frame_psnr, self.val_frames
        curves = {"rollout": psnr(pred, true), COPIED: psnr(true[:, given - 1 : given], true)}
        curves = {name: values.mean(0)[given:].tolist() for name, values in curves.items()}
        clips = self.first_clip(pred)
        times = self.lab.strip_times(true.shape[1])
        report.draw_rollout(self.folder, clips, times, self.lab.frame_ms)
        report.draw_psnr_of_frames(self.folder, curves, given)

    def first_clip(self, pred):
        """{label: uint8 clip} of what is shown of the first validation clip."""
        return self.lab.rows(self.val_conditions[0], pred[0], self.val_frames[0])

    # ------------------------------------------------------------ the run folder

    def end_epoch(self, val):
        """Save the epoch, then write it down: what is written has been saved."""
        row = {"epoch": self.current_epoch} | self.train_row()
        row |= {f"val/{name}": val.get(name) for name in VAL_SCORES}
        self.history.append(row)
        self.step_schedules()
        self.save_checkpoints(val)
        self.log(row)

    def train_row(self):
        """What is written of an epoch's training: means over its steps, and its schedules."""
        done = self.total[3]
        loss, mse, kl = (self.total[:3] / done.clamp_min(1)).tolist()
        skipped = self.steps_done - int(done)
        if skipped:
            tqdm.write(
                f"epoch {self.current_epoch}: {skipped} of {self.steps_done} steps skipped, "
                "not finite"
            )
        values = {"loss": loss, "mse": mse, "kl": kl, "skipped": skipped} | self.settings()
        return {f"train/{name}": value for name, value in values.items()}

    def log(self, row):
        self.write_metrics()
        for tracker in self.trackers:
            tracker.log(row | {"train/frames_per_second": self.speed})
        if time.perf_counter() - self.drawn_at > REDRAW_SECONDS:
            self.draw_curves()
        tqdm.write(self.epoch_line(row))

    def write_metrics(self):
        report.write_csv(self.folder / "metrics.csv", self.history)

    def settings(self):
        """What the schedules say of the current epoch."""
        lr = schedules.lr_at(self.current_epoch, self.args)
        return {"beta": self.kl_annealing.get_beta(), "tfr": self.tfr, "lr": lr}

    def epoch_line(self, row):
        names = "loss mse kl beta tfr lr".split()
        values = "  ".join(f"{name} {row[f'train/{name}']:.4g}" for name in names)
        line = f"epoch {row['epoch']:>3}/{self.args.num_epoch - 1}  {values}"
        line += f"  {self.speed:.0f} frames/s"
        if row["val/psnr"] is not None:
            line += " | val psnr {:.2f} dB, lowest {:.2f}, given frame repeated {:.2f}, ssim {:.3f}"
        return line.format(*(row[f"val/{name}"] for name in VAL_SCORES))

    def show(self, bar):
        """What the schedules and the mean loss are, beside the bar's own speed and time left."""
        now = time.perf_counter()
        if not bar.disable and now - self.shown_at > SHOW_SECONDS:
            self.shown_at = now
            values = {"loss": (self.total[0] / self.total[3]).item()} | self.settings()
            bar.set_description(
                f"epoch {self.current_epoch}/{self.args.num_epoch - 1}", refresh=False
            )
            bar.set_postfix({name: f"{value:.4g}" for name, value in values.items()}, refresh=False)

    def draw_curves(self):
        report.draw_curves(run_folder(self.folder / "plots"), self.history)
        self.drawn_at = time.perf_counter()

    def finish(self):
        """Draw the curves and the best weights' rollout, and say where everything is."""
        self.draw_curves()
        if self.best_score is not None:
            best = self.folder / "best_score.ckpt"
            ckpt.load_weights(self.ema or self.model, ckpt.load(best)["state_dict"], best)
        if self.args.pretrain_epochs < self.args.num_epoch:  # else no posterior was trained
            self.report_z()
        self.report_validation()
        write_run_page(self.folder)
        print(f"run folder: {self.folder} (report.html, metrics.csv, plots/, *.ckpt)")

    def report_validation(self):
        """Roll out the weights at hand, draw it, and say what it scores."""
        pred = self.roll_out_validation()
        scores = self.score(pred)
        self.draw_validation(pred)
        print(
            f"validation, mean of {len(pred)} clips rolled out from {self.lab.given} given frames: "
            f"PSNR {scores['psnr']:.2f} dB, lowest {scores['psnr_min']:.2f} dB, "
            f"SSIM {scores['ssim']:.4f}\n"
            f"repeating the given frame scores {scores['psnr_given_frame_repeated']:.2f} dB\n"
            f"drawn: {self.folder / 'val.gif'}, val_strip.png, plots/psnr_per_frame.png"
        )

    @torch.no_grad()
    def report_z(self):
        """Say and draw what each dimension of z carries, of frames that the posterior sees."""
        few = slice(Z_CLIPS), slice(Z_FRAMES)
        frames, conditions = (
            x[few].to(self.device) for x in (self.val_frames, self.val_conditions)
        )
        _, *posterior = (self.ema or self.model).eval()(frames, conditions, True)
        kl = kl_per_dimension(*posterior).tolist()
        report.draw_kl(run_folder(self.folder / "plots") / "kl_per_dimension.png", kl)
        says = sum(value > 0.1 for value in kl)
        print(
            f"z carries {sum(kl):.3g} nats a frame, {says} of its {len(kl)} dimensions above 0.1"
            + ("" if says else ": it says next to nothing, and rollouts lose nothing without it")
        )


def preview(args):
    """Print and plot what the schedules will be; train nothing."""
    rows = schedules.table(args)
    print(f"{'epoch':>5} {'beta':>10} {'tfr':>10} {'lr':>12}")
    for row in rows:
        print(f"{row['epoch']:>5} {row['beta']:>10.6g} {row['tfr']:>10.6g} {row['lr']:>12.6g}")
    path = run_folder(args.save_root) / "schedules.png"
    report.draw_schedules(path, rows)
    print(f"drawn in {path}")


def main():
    args, typed = parse("Trainer")
    if args.preview:
        preview(args)
    else:
        train_or_validate(args, typed)


def train_or_validate(args, typed):
    device, folder = choose_device(args), run_folder(args.save_root)
    if args.test:
        ckpt.adopt_settings(args, typed, ckpt.load(args.ckpt_path))
    lab = LABS[args.lab](args)
    train_set = None if args.test else lab.open_train()
    trainer = Trainer(args, device, train_set, lab.open_val())
    if args.test:
        trainer.start_from(args.ckpt_path)
        trainer.report_validation()
        return
    with occupied(folder):
        if found := run_to_resume(args.resume, folder):
            trainer.resume(*found)
            if args.ckpt_path:
                print("note: --ckpt_path is not used: its weights are where a fresh run starts")
        elif args.ckpt_path:
            trainer.start_from(args.ckpt_path)
        if args.resume == "never" and (aside := move_aside(folder)):
            print(f"the run that was in {folder} is now in {aside}")
        text = json.dumps(vars(args), indent=1).encode()
        write_atomically(folder / "args.json", lambda file: file.write(text))
        schedules.warn(args)
        trainer.training_stage()


if __name__ == "__main__":
    run(main)
