"""The checkpoints of a run folder: which are written and kept, and which one is resumed."""

import contextlib
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..checkpoints import checkpoint as ckpt
from ..errors import UserError
from ..models.loading import load_weights
from ..process.ranks import ranks
from .resume import state_of


def save_epoch(trainer: Any, val: dict) -> None:
    """last.ckpt always, best_score.ckpt when PSNR rises, epoch=N.ckpt every --per_save."""
    if not ranks.first:
        return
    folder, settings, done = trainer.folder, trainer.settings, trainer.current_epoch - 1
    psnr = val.get("psnr", math.nan)
    best = math.isfinite(psnr) and (trainer.best_score is None or psnr > trainer.best_score)
    if best:
        trainer.best_score = psnr
    state = state_of(trainer)
    if best:
        ckpt.save(folder / "best_score.ckpt", state)
    if done % settings.per_save == 0:
        ckpt.save(folder / f"epoch={done}.ckpt", state)
    ckpt.save(folder / "last.ckpt", state)
    prune(folder, settings.keep, settings.per_save, done)


def save_last(trainer: Any, together: bool = False) -> None:
    """last.ckpt; `together`: no process returns before the first one has saved."""
    path = trainer.folder / "last.ckpt"
    if together:
        ranks.from_first(lambda: ckpt.save(path, state_of(trainer)))
    elif ranks.first:
        ckpt.save(path, state_of(trainer))


def use_best_weights(trainer: Any) -> int:
    """Load those of best_score.ckpt, if a validation has scored -> the epochs they were trained."""
    path = trainer.folder / "best_score.ckpt"
    best = ranks.from_first(lambda: None if trainer.best_score is None else ckpt.load(path))
    if not best:
        return trainer.current_epoch
    load_weights(trainer.ema or trainer.model, best["state_dict"], path)
    return best["last_epoch"]


def prune(folder: Path, keep: int, every: int, newest: int) -> None:
    """Delete all but the newest `keep` epoch=N.ckpt that this run wrote, 0 keeps all.

    It wrote those of every `every`-th epoch up to `newest`.
    """
    own = [p for p in epoch_files(folder) if (n := int(p.stem[6:])) <= newest and n % every == 0]
    for path in own[:-keep] if keep else ():
        path.unlink(missing_ok=True)


def epoch_files(folder: Path) -> list[Path]:
    """The epoch=N.ckpt of a run, oldest first."""
    files = [p for p in folder.glob("epoch=*.ckpt") if p.stem[6:].isdecimal()]
    return sorted(files, key=lambda path: int(path.stem[6:]))


# ---------------------------------------------------------------- what to resume from


def run_to_resume(resume: str, folder: Path) -> tuple[Path, dict] | None:
    """--resume -> (path, checkpoint) to resume, or None."""
    if resume == "auto":
        return newest(folder)
    if resume == "never":
        return None
    path = Path(resume)
    if path.is_file():
        return path, load_run(path)
    if run := newest(path):
        return run
    raise UserError(f"--resume {path} is neither a checkpoint nor a run folder with last.ckpt")


def newest(folder: Path) -> tuple[Path, dict] | None:
    """-> (path, checkpoint) to resume, or None. Without a complete last.ckpt: the newest other."""
    last, best, others = folder / "last.ckpt", folder / "best_score.ckpt", epoch_files(folder)
    if not (last.exists() or best.exists() or others):
        return None
    try:
        if not last.exists():
            raise UserError(f"{last} is missing")
        return last, load_run(last)
    except UserError as error:
        runs = [next(complete(paths), None) for paths in (reversed(others), [best])]
        if not any(runs):
            raise UserError(
                f"{error}; {folder} has no other checkpoint: start a new run with "
                "--resume never, or name a checkpoint with --resume PATH"
            ) from None
        path, state = max(filter(None, runs), key=lambda run: run[1]["step"])
        print(f"{error}; resuming from the newest complete checkpoint: {path.name}")
        return path, state


def complete(paths: Iterable[Path]) -> Iterator[tuple[Path, dict]]:
    """Those of the files that a run can resume from."""
    for path in paths:
        with contextlib.suppress(UserError):
            yield path, load_run(path)


def load_run(path: Path) -> dict:
    """A checkpoint that a run can resume from."""
    state = ckpt.load(path)
    if not ckpt.is_ours(state):
        raise UserError(
            f"{path} is not from this package, so no run can resume from it; "
            "start from its weights with --ckpt_path and another --save_root"
        )
    if "optimizer" not in state:
        raise UserError(f"{path} holds weights only: start from them with --ckpt_path")
    return state
