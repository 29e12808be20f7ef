#!/usr/bin/env python
"""Print how long Trainer.py will take with the same flags, measured on a second of its steps."""

import io
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
if __name__ == "__main__":  # before slow imports
    from modules.cli.start import start

    start()

import torch

from modules.cli.entry import run  # noqa: E402
from modules.cli.parser import parse  # noqa: E402
from modules.labs import LABS  # noqa: E402
from modules.models.rollout import noise_source, roll_out  # noqa: E402
from modules.runs.resume import run_to_resume  # noqa: E402
from modules.training.device import choose_device, with_precision  # noqa: E402
from Trainer import Trainer  # noqa: E402

WARM_UP, SECONDS, LONGEST = 3, 1, 4  # untimed steps; seconds of timed steps, of all steps
FRAMES = 32  # of the timed rollout


def seconds_per_step(trainer: Trainer) -> float:
    trainer.start_epoch()
    ends = [time.perf_counter()]
    for frames, conditions in trainer.clips.fetch(trainer.clips.batches(0)):
        trainer.training_one_step(frames, conditions, trainer.tfr > 0).tolist()  # waits for it
        ends.append(time.perf_counter())
        if ends[-1] - max(ends[: WARM_UP + 1]) > SECONDS or ends[-1] - ends[0] > LONGEST:
            break
    ends = ends[min(WARM_UP, len(ends) - 2) :]
    return (ends[-1] - ends[0]) / (len(ends) - 1)


def seconds_per_rollout(trainer: Trainer) -> float:
    frames, poses = trainer.val_frames, trainer.val_conditions[:, :FRAMES]
    given, start = frames[:, : trainer.lab.given].to(trainer.device), time.perf_counter()
    roll_out(trainer.model, given, poses, noise_source("mean", 0, range(len(frames))))
    return (time.perf_counter() - start) * frames.shape[1] / poses.shape[1]


def main() -> None:
    settings, _ = parse("Trainer")
    if settings.preview or settings.test:
        return
    with redirect_stdout(io.StringIO()):  # Trainer.py prints the same
        device = choose_device(settings)
        settings = with_precision(settings, device)
        lab = LABS[settings.lab](settings)
        trainer = Trainer(settings, device, lab.open_train(), lab.open_val())
        found = run_to_resume(settings.resume, trainer.folder)
    epochs = settings.num_epoch - (found[1].get("last_epoch", 0) if found else 0)
    if epochs <= 0:
        return
    steps, rollouts = epochs * len(trainer.clips.batches(0)), epochs // settings.val_every + 2
    seconds = steps * seconds_per_step(trainer) + rollouts * seconds_per_rollout(trainer)
    minutes, threads = int(seconds) // 60, torch.get_num_threads()
    took = f"{minutes} min " * (minutes > 0) + f"{int(seconds) % 60} s"
    where = f"{threads} thread{'s' * (threads > 1)}" if device.type == "cpu" else device.type
    print(f"training takes about {took} on this machine ({where}, {settings.precision})")


if __name__ == "__main__":
    run(main)
