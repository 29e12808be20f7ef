"""A run from its command to its first step: its folder, its device, what it resumes from."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..checkpoints import checkpoint as ckpt
from ..config import Training
from ..errors import UserError
from ..files import write_csv
from ..models.loading import adopt_settings
from ..process.ranks import ranks
from ..training import schedules
from ..training.device import choose_device, with_precision
from .console import Console
from .environment import take_over
from .folder import SCHEDULE, occupied, run_folder
from .resume import keep_of_run, resume, start_from
from .saving import run_to_resume


class Session(NamedTuple):
    """A run folder that no other run uses."""

    settings: Training
    device: torch.device
    folder: Path
    before: tuple[Path, dict] | None  # the checkpoint to resume from
    console: Console


@contextlib.contextmanager
def session(settings: Training, typed: set[str] | None) -> Iterator[Session]:
    if problem := settings.contradiction():
        raise UserError(problem)
    if missing := [name for name in ("DR", "save_root") if not getattr(settings, name)]:
        raise UserError(f"required: {' and '.join(missing)}")
    with Console() as console, contextlib.ExitStack() as stack:
        device = ranks.together(lambda: choose_device(settings))
        settings = with_precision(settings, device)
        folder = ranks.from_first(lambda: run_folder(settings.save_root))
        ranks.from_first(lambda: stack.enter_context(occupied(folder)))
        before = ranks.from_first(lambda: run_to_resume(settings.resume, folder))
        if before:
            settings = keep_of_run(settings, typed, before[1]["args"])
        yield Session(settings, device, folder, before, console)


def open_checkpoint(settings: Training, typed: set[str]) -> tuple[Training, torch.device, dict]:
    """--test: -> the settings of --ckpt_path, the device, the checkpoint."""
    device, checkpoint = choose_device(settings), ckpt.load(settings.ckpt_path)
    run_folder(settings.save_root)
    return adopt_settings(settings, typed, checkpoint, device), device, checkpoint


def begin(trainer: Any, run: Session) -> None:
    """Resume the run, or make the folder that of a new one."""
    settings = run.settings
    trainer.clips.check()
    if run.before:
        resume(trainer, *run.before)
        if settings.ckpt_path:
            print("note: --ckpt_path has no effect: the run is resumed")
    elif settings.ckpt_path:
        start_from(trainer, settings.ckpt_path)
    ranks.from_first(lambda: take_over(run.folder, settings, run.console, bool(run.before)))
    if settings.schedule and ranks.first:
        write_csv(run.folder / SCHEDULE, schedules.rows_of_file(settings))
    for warning in schedules.warnings(settings):
        print(warning)
