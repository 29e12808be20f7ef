"""A run as plain data, and back: the half of the Trainer that survives a crash."""

import contextlib
from pathlib import Path

import numpy as np
import torch

from ..config import Training
from ..errors import UserError
from ..models.loading import load_weights, same_lab, warn_of_activation
from ..stored import BEFORE, MAY_CHANGE, of_today
from ..training import schedules
from ..training.device import rng_states, set_rng_states
from ..training.optimizer import load_optimizer
from ..training.ranks import ranks
from ..training.schedules import kl_annealing
from . import checkpoint as ckpt

# Of the settings that may change, these are printed when they do.
PRINTED = MAY_CHANGE - {"save_root", "ckpt_path", "test", "resume", "preview", "debug"}


class Resumable:
    """Saves the Trainer that it is part of, and restores it."""

    def save_checkpoints(self, val: dict) -> None:
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
        if done % self.settings.per_save == 0:
            ckpt.save(self.folder / f"epoch={done}.ckpt", state)
        ckpt.save(self.folder / "last.ckpt", state)
        ckpt.prune(self.folder, self.settings.keep, self.settings.per_save, done)

    def save_last(self) -> None:
        if ranks.first:
            ckpt.save(self.folder / "last.ckpt", self.state())

    def state(self) -> dict:
        """The whole run as plain data. With EMA, `state_dict` is the averaged weights."""
        state = {
            "version": ckpt.VERSION,
            "args": self.settings.as_dict(),
            "last_epoch": self.current_epoch,
            "state_dict": (self.ema or self.model).state_dict(),
            "optimizer": self.optim.state_dict(),
            "lr": schedules.lr_at(self.current_epoch, self.settings),
            "tfr": self.tfr,
            "step": self.step,
            "steps_done": self.steps_done,
            "total": self.total.cpu(),
            "skipped": [int(self.skipped_in_a_row), int(self.most_in_a_row)],
            "rng": rng_states(self.device),
            "best_score": self.best_score,
            "history": self.history,
            "data": self.data,
            "ranks": ranks.count,
            "global_batch": ranks.whole_batch(self.settings),
        }
        state |= {"trackers": self.trackers.states} if self.trackers.states else {}
        return state | ({"trained_weights": self.model.state_dict()} if self.ema else {})

    def resume(self, path: Path, state: dict) -> None:
        """Resume from a checkpoint as if the run had never stopped."""
        ckpt.check_run(state, path)
        whole = ranks.whole_batch(self.settings)
        same_batch = state.get("global_batch", state["args"].get("batch_size")) == whole
        changed = same_experiment(self.settings, state["args"], path, same_batch)
        with ckpt.restoring(path):
            self.restore(state, path)
            if path.parent.resolve() == self.folder.resolve():  # elsewhere it is another run
                states = state.get("trackers", {})
                self.trackers.states = {flag: dict(one) for flag, one in states.items()}
        changed += self.take_over_batches(state)
        place = f"epoch {self.current_epoch}"
        place += f", after {self.steps_done} of its steps" if self.steps_done else ""
        print(f"resuming {path} at {place}", *changed, sep="\n  changed: ")
        for split, before in state.get("data", {}).items():
            if split in self.data and self.data[split] != before:
                print(
                    f"warning: the {split} pictures are not those that the run was trained with: "
                    f"{before} then, {self.data[split]} now"
                )
        if self.best_score is not None and not self.best_is_there():
            print(
                f"{self.folder / 'best_score.ckpt'} is missing or damaged; "
                "the next validation sets a new best"
            )
            self.best_score = None
        if self.history and ranks.first:
            self.write_metrics()

    def restore(self, state: dict, path: Path) -> None:
        """Set all that state() holds."""
        load_weights(self.model, state.get("trained_weights", state["state_dict"]), path)
        if self.ema:
            load_weights(self.ema, state["state_dict"], path)
        load_optimizer(self.optim, state["optimizer"])
        self.current_epoch, self.step = state["last_epoch"], state["step"]
        self.best_score, self.history = state["best_score"], state["history"]
        self.kl_annealing = kl_annealing(self.settings, self.current_epoch)
        self.teacher_forcing_ratio_update()
        if "rng" in state:  # version 1 stopped only between epochs
            self.steps_done = state["steps_done"]
            total = state["total"]
            if len(total) == 4:  # version 0.1.0 did not count the steps with a posterior
                total = torch.cat([total, total[3:] * (not self.trains_on_prior())])
            self.total.copy_(total)
            counts = torch.tensor(state["skipped"], dtype=torch.float32, device=self.device)
            self.skipped_in_a_row, self.most_in_a_row = counts.unbind()
            set_rng_states(state["rng"], self.device)

    def take_over_batches(self, state: dict) -> list[str]:
        """-> what is other than before where the run goes on with other ranks."""
        now = ranks.count, ranks.whole_batch(self.settings)
        before = state.get("ranks", 1), state.get("global_batch", now[1])
        if before == now:
            return []
        lines = [f"processes {before[0]} -> {now[0]}"]
        if before[1] != now[1]:
            lines.append(f"clips of an optimizer step {before[1]} -> {now[1]}")
            if self.steps_done:
                lines.append(f"epoch {self.current_epoch} begins again")
                self.steps_done = 0
        return lines

    def best_is_there(self) -> bool:
        with contextlib.suppress(UserError, KeyError, TypeError):
            return ckpt.load(self.folder / "best_score.ckpt")["best_score"] >= self.best_score
        return False

    def start_from(self, path: str, checkpoint: dict | None = None) -> None:
        """Start from the weights of --ckpt_path, and nothing else of it."""
        checkpoint = checkpoint or ckpt.load(path)
        same_lab(self.settings, checkpoint)
        if not ckpt.is_ours(checkpoint):
            print(ckpt.describe_template(path, checkpoint))
        else:
            same_standardise(self.settings, checkpoint, path)
        if self.settings.test:
            self.lab.prepare_test(self.model, checkpoint)
        load_weights(self.model, checkpoint["state_dict"], path)
        if ranks.first:
            given = self.val_frames[:, : self.lab.given]
            warn_of_activation(self.model, checkpoint, given, self.val_conditions)
        if self.ema:
            self.ema.load_state_dict(self.model.state_dict())


def run_to_resume(resume: str, folder: Path) -> tuple[Path, dict] | None:
    """--resume -> (path, checkpoint) to resume, or None."""
    if resume == "auto":
        return ckpt.newest(folder)
    if resume == "never":
        return None
    path = Path(resume)
    if path.is_file():
        return path, ckpt.load(path)
    if found := ckpt.newest(path):
        return found
    raise UserError(f"--resume {path} is neither a checkpoint nor a run folder with last.ckpt")


def settings_before(settings: Training, typed: set[str], stored: dict) -> Training:
    """Settings that are newer than the run to resume, at what the run did before they existed."""
    changes = {k: v for k, v in BEFORE.items() if k not in stored and k not in typed}
    if "keep" not in typed:  # a newer default must not delete checkpoints
        changes["keep"] = stored.get("keep", 0)
    return settings.replace(**{k: v for k, v in changes.items() if k in settings.names()})


def same_experiment(
    settings: Training, stored: dict, path: Path, same_batch: bool = False
) -> list[str]:
    """Refuse to resume a run with settings that make it another one -> what else changed.

    `same_batch`: an optimizer step has as many clips as before, be it in other pieces.
    """
    now, stored = settings.as_dict(), of_today(stored)
    later = {name: settings.default(name) for name in now if name not in stored}
    changed = {k: old for k, old in (stored | later).items() if k in now and now[k] != old}
    of_batch = {"batch_size", "global_batch"}
    may_change = MAY_CHANGE | (of_batch if same_batch else set())
    for name, old in sorted(changed.items(), key=lambda item: item[0] != "lab"):
        if name not in may_change:
            raise UserError(
                f"{path} was trained with --{name} {old}, but it is {now[name]} now: another "
                "experiment; use another --save_root, or start a new run with --resume never"
            )
    printed = PRINTED | of_batch
    return [f"--{k} {old} -> {now[k]}" for k, old in changed.items() if k in printed]


def same_standardise(settings: Training, checkpoint: dict, path: Path) -> None:
    """Weights go with the scale of the conditions that they were trained on."""
    theirs, ours = (x.get("standardise", False) for x in (checkpoint["args"], settings.as_dict()))
    if theirs != ours:
        raise UserError(
            f"{path} was trained {'with' if theirs else 'without'} --standardise; its weights "
            "need the same here"
        )
