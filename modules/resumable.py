"""What a run is, as plain data, and back: the half of the Trainer that outlives a crash."""

import contextlib
from pathlib import Path

import numpy as np
import torch

from . import checkpoint as ckpt
from . import schedules
from .device import rng_states, set_rng_states
from .optimizer import load_optimizer
from .options import UserError
from .schedules import kl_annealing


class Resumable:
    """Saves the Trainer that it is part of, and takes up what was saved."""

    def save_checkpoints(self, val):
        """last.ckpt always, best_score.ckpt when PSNR rises, epoch=N.ckpt every --per_save."""
        best = (
            val
            and np.isfinite(val["psnr"])
            and (self.best_score is None or val["psnr"] > self.best_score)
        )
        if best:
            self.best_score = val["psnr"]
        state, done = self.state(), self.current_epoch - 1
        if best:
            ckpt.save(self.folder / "best_score.ckpt", state)
        if done % self.args.per_save == 0:
            ckpt.save(self.folder / f"epoch={done}.ckpt", state)
        ckpt.save(self.folder / "last.ckpt", state)
        ckpt.prune(self.folder, self.args.keep)

    def save_last(self):
        ckpt.save(self.folder / "last.ckpt", self.state())

    def state(self):
        """All that a run is, as plain data. With EMA, `state_dict` is the averaged weights."""
        state = {
            "version": ckpt.VERSION,
            "args": vars(self.args),
            "last_epoch": self.current_epoch,
            "state_dict": (self.ema or self.model).state_dict(),
            "optimizer": self.optim.state_dict(),
            "lr": schedules.lr_at(self.current_epoch, self.args),
            "tfr": self.tfr,
            "step": self.step,
            "steps_done": self.steps_done,
            "total": self.total.cpu(),
            "skipped": [int(self.skipped_in_a_row), int(self.most_in_a_row)],
            "rng": rng_states(self.device),
            "best_score": self.best_score,
            "history": self.history,
        }
        return state | ({"trained_weights": self.model.state_dict()} if self.ema else {})

    def resume(self, path, state):
        """Carry on from a checkpoint as if the run had never stopped."""
        ckpt.check_run(state, path)
        changed = ckpt.same_experiment(self.args, state["args"], path)
        with ckpt.restoring(path):
            self.restore(state, path)
        place = f"epoch {self.current_epoch}"
        place += f", after {self.steps_done} of its steps" if self.steps_done else ""
        print(f"carrying on with {path} at {place}", *changed, sep="\n  changed: ")
        if self.best_score is not None and not self.best_is_there():
            print(f"{self.folder / 'best_score.ckpt'} is missing or damaged; the next score counts")
            self.best_score = None
        if self.history:
            self.write_metrics()

    def restore(self, state, path):
        """Set all that state() holds."""
        ckpt.load_weights(self.model, state.get("trained_weights", state["state_dict"]), path)
        if self.ema:
            ckpt.load_weights(self.ema, state["state_dict"], path)
        load_optimizer(self.optim, state["optimizer"])
        self.current_epoch, self.step = state["last_epoch"], state["step"]
        self.best_score, self.history = state["best_score"], state["history"]
        self.kl_annealing = kl_annealing(self.args, self.current_epoch)
        self.teacher_forcing_ratio_update()
        if "rng" in state:  # version 1 stopped only between epochs
            self.steps_done = state["steps_done"]
            self.total.copy_(state["total"])
            counts = torch.tensor(state["skipped"], dtype=torch.float32, device=self.device)
            self.skipped_in_a_row, self.most_in_a_row = counts.unbind()
            set_rng_states(state["rng"], self.device)

    def best_is_there(self):
        with contextlib.suppress(UserError, KeyError, TypeError):
            return ckpt.load(self.folder / "best_score.ckpt")["best_score"] >= self.best_score
        return False

    def start_from(self, path):
        """Start from the weights of --ckpt_path, and nothing else of it."""
        checkpoint = ckpt.load(path)
        ckpt.same_lab(self.args, checkpoint)
        if not ckpt.is_ours(checkpoint):
            print(ckpt.describe_template(path, checkpoint))
        else:
            ckpt.same_standardise(self.args, checkpoint, path)
        if self.args.test and self.args.lab == "pose":
            ckpt.choose_pose_norm(self.model, checkpoint)
        ckpt.load_weights(self.model, checkpoint["state_dict"], path)
        if self.ema:
            self.ema.load_state_dict(self.model.state_dict())


def run_to_resume(resume, folder):
    """--resume -> (path, checkpoint) to carry on from, or None."""
    if resume == "auto":
        return ckpt.newest(folder)
    if resume == "never":
        return None
    path = Path(resume)
    if path.is_file():
        return path, ckpt.load(path)
    if found := ckpt.newest(path):
        return found
    raise UserError(f"--resume {path}: no checkpoint, and no run folder that holds last.ckpt")
