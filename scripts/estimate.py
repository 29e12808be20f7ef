#!/usr/bin/env python
"""Say how long Trainer.py takes with the same flags, from about a second of its steps."""

import io
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from modules.device import choose_device  # noqa: E402
from modules.labs import LABS  # noqa: E402
from modules.models import noise_source, roll_out  # noqa: E402
from modules.options import parse, run  # noqa: E402
from modules.resumable import run_to_resume  # noqa: E402
from Trainer import Trainer  # noqa: E402

WARM_UP, SECONDS, LONGEST, FRAMES = 3, 1, 4, 32  # steps; time for the rest, for all; rollout


def seconds_per_step(trainer):
    trainer.start_epoch()
    ends = [time.perf_counter()]
    for frames, conditions in trainer.clips.fetch(trainer.clips.batches(0)):
        trainer.training_one_step(frames, conditions, trainer.tfr > 0).tolist()  # waits for it
        ends.append(time.perf_counter())
        if ends[-1] - max(ends[: WARM_UP + 1]) > SECONDS or ends[-1] - ends[0] > LONGEST:
            break
    ends = ends[min(WARM_UP, len(ends) - 2) :]
    return (ends[-1] - ends[0]) / (len(ends) - 1)


def seconds_per_rollout(trainer):
    frames, poses = trainer.val_frames, trainer.val_conditions[:, :FRAMES]
    given, start = frames[:, : trainer.lab.given].to(trainer.device), time.perf_counter()
    roll_out(trainer.model, given, poses, noise_source("mean", 0, range(len(frames))))
    return (time.perf_counter() - start) * frames.shape[1] / poses.shape[1]


def main():
    args, _ = parse("Trainer")
    if args.preview or args.test:
        return
    with redirect_stdout(io.StringIO()):  # Trainer.py says it again
        device, lab = choose_device(args), LABS[args.lab](args)
        trainer = Trainer(args, device, lab.open_train(), lab.open_val())
        found = run_to_resume(args.resume, trainer.folder)
    epochs = args.num_epoch - (found[1].get("last_epoch", 0) if found else 0)
    steps, rollouts = epochs * len(trainer.clips.batches(0)), epochs // args.val_every + 2
    seconds = steps * seconds_per_step(trainer) + rollouts * seconds_per_rollout(trainer)
    minutes, threads = int(seconds) // 60, torch.get_num_threads()
    took = f"{minutes} min " * (minutes > 0) + f"{int(seconds) % 60} s"
    where = f"{threads} thread{'s' * (threads > 1)}" if device.type == "cpu" else device.type
    print(f"training takes about {took} on this machine ({where}, {args.precision})")


if __name__ == "__main__":
    run(main)
