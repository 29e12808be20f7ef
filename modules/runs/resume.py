"""The state of a Trainer as plain data, and back: the half of it that survives a crash."""

from pathlib import Path
from typing import Any

import torch

from ..checkpoints import checkpoint as ckpt
from ..config import Training
from ..config.fields import MAY_CHANGE, ONCE
from ..data.cache import fingerprints
from ..errors import UserError
from ..models.loading import load_weights, report_fit, same_lab
from ..process.ranks import ranks
from ..training import schedules
from ..training.device import rng_states, set_rng_states
from ..training.optimizer import load_optimizer


def state_of(trainer: Any) -> dict:
    """The whole run as plain data. With EMA, `state_dict` is the averaged weights."""
    state = {
        "version": ckpt.VERSION,
        "args": trainer.settings.as_dict(),
        "last_epoch": trainer.current_epoch,
        "state_dict": (trainer.ema or trainer.model).state_dict(),
        "optimizer": trainer.optim.state_dict(),
        "lr": schedules.lr_at(trainer.current_epoch, trainer.settings),
        "tfr": trainer.tfr,
        "step": trainer.step,
        "steps_done": trainer.steps_done,
        "total": trainer.total.cpu(),
        "skipped": [int(trainer.skipped_in_a_row), int(trainer.most_in_a_row)],
        "rng": rng_states(trainer.device),
        "best_score": trainer.best_score,
        "history": trainer.monitor.history,
        "trackers": trainer.monitor.trackers.states,
        "data": fingerprints(**trainer.splits),
        "ranks": ranks.count,
    }
    return state | ({"trained_weights": trainer.model.state_dict()} if trainer.ema else {})


def restore(trainer: Any, state: dict, path: Path) -> None:
    """Set all that state_of() holds."""
    load_weights(trainer.model, state.get("trained_weights", state["state_dict"]), path)
    if trainer.ema:
        load_weights(trainer.ema, state["state_dict"], path)
    load_optimizer(trainer.optim, state["optimizer"])
    trainer.current_epoch, trainer.step = state["last_epoch"], state["step"]
    trainer.steps_done = state["steps_done"]
    trainer.best_score, trainer.monitor.history = state["best_score"], state["history"]
    trainer.kl_annealing = schedules.kl_annealing(trainer.settings, trainer.current_epoch)
    trainer.teacher_forcing_ratio_update()
    trainer.total.copy_(state["total"])
    counts = torch.tensor(state["skipped"], dtype=torch.float32, device=trainer.device)
    trainer.skipped_in_a_row, trainer.most_in_a_row = counts.unbind()
    set_rng_states(state["rng"], trainer.device)


def resume(trainer: Any, path: Path, state: dict) -> None:
    """Resume from a checkpoint as if the run had never stopped."""
    changed = same_experiment(trainer.settings, state["args"], path)
    restore(trainer, state, path)
    if path.parent.resolve() == trainer.folder.resolve():  # elsewhere it is another run
        trainer.monitor.trackers.states = state["trackers"]
    if state["ranks"] != ranks.count:
        changed.append(f"processes {state['ranks']} -> {ranks.count}")
    place = f"epoch {trainer.current_epoch}"
    place += f", after {trainer.steps_done} of its steps" if trainer.steps_done else ""
    print(f"resuming {path} at {place}", *changed, sep="\n  changed: ")
    warn_of_data(fingerprints(**trainer.splits), state["data"])
    best = trainer.folder / "best_score.ckpt"
    if trainer.best_score is not None and not best.is_file():
        print(f"{best} is missing; the next validation sets a new best")
        trainer.best_score = None
    if trainer.monitor.history and ranks.first:
        trainer.monitor.write_metrics()


def warn_of_data(now: dict[str, str], before: dict[str, str]) -> None:
    for split in before:
        if split in now and now[split] != before[split]:
            print(
                f"warning: the {split} pictures are not those that the run was trained with: "
                f"{before[split]} then, {now[split]} now"
            )


def start_from(trainer: Any, path: str, checkpoint: dict | None = None) -> None:
    """Start from the weights of --ckpt_path, and nothing else of it."""
    checkpoint, settings = checkpoint or ckpt.load(path), trainer.settings
    same_lab(settings, checkpoint)
    if not ckpt.is_ours(checkpoint):
        print(f"{path}: {ckpt.source_of(checkpoint)}; its weights are used")
    if settings.test:
        trainer.lab.prepare_test(trainer.model, checkpoint)
    load_weights(trainer.model, checkpoint["state_dict"], path)
    if ranks.first:
        given = trainer.val_frames[:, : trainer.lab.given]
        report_fit(trainer.model, checkpoint, given, trainer.val_conditions)
    if trainer.ema:
        trainer.ema.load_state_dict(trainer.model.state_dict())


# ---------------------------------------------------------------- settings


def keep_of_run(settings: Training, typed: set[str] | None, stored: dict) -> Training:
    """--keep as before, unless it is typed: its default must not delete checkpoints."""
    typed = settings.changed() if typed is None else typed
    return settings if "keep" in typed else settings.replace(keep=stored["keep"])


def same_experiment(settings: Training, stored: dict, path: Path) -> list[str]:
    """Refuse to resume a run with settings that make it another one -> what else changed."""
    now = settings.as_dict()
    changed = {k: old for k, old in stored.items() if k in now and now[k] != old}
    may_change = settings.names(MAY_CHANGE)
    printed = may_change - settings.names(ONCE) - {"save_root", "ckpt_path"}
    for name, old in sorted(changed.items(), key=lambda item: item[0] != "lab"):
        if name not in may_change:
            raise UserError(
                f"{path} was trained with --{name} {old}, but it is {now[name]} now: "
                "another experiment; use another --save_root, or start a new run with "
                "--resume never"
            )
    return [f"--{k} {old} -> {now[k]}" for k, old in changed.items() if k in printed]
