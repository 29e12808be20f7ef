"""--memory: peak memory and time of a training step, each row in a process of its own."""

import json
import subprocess
import sys
import time
from pathlib import Path

import torch

from modules.training.device import choose_precision

from .workloads import hardware_name, make_trainer

BENCH = Path(__file__).resolve().parents[1] / "bench.py"
ROWS = [  # clip length, batch, height
    (8, 2, 32), (16, 2, 32), (32, 2, 32), (64, 2, 32), (16, 4, 32), (16, 2, 64), (8, 1, 128),
]  # fmt: skip


def memory_of_one(row, device):
    """GiB that training steps need in addition to what is allocated before them; seconds of one."""
    length, batch, height, recompute = row
    precision = choose_precision("auto", device)
    flags = ["--frame_H", str(height), "--frame_W", str(2 * height)] + ["--recompute"] * recompute
    trainer = make_trainer(precision, device, *flags)
    clips = [torch.rand(batch, length, 3, height, 2 * height, device=device) for _ in range(2)]
    before, spent = peak_bytes(device), []
    for _ in range(3):
        start = time.perf_counter()
        trainer.training_one_step(*clips, False).tolist()  # waits for the device
        spent.append(time.perf_counter() - start)
    return (peak_bytes(device) - before) / 2**30, min(spent)


def peak_bytes(device):
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def memory_table(opts, numbers):
    hardware = hardware_name(torch.device(opts.device))
    print(f"{hardware}, free running, a training step: GiB and seconds")
    print(f"{'clip':>6} {'batch':>6} {'size':>9} {'plain':>16} {'--recompute':>16}")
    numbers["memory"] = []
    for length, batch, height in ROWS:
        both = [in_a_process(opts, [length, batch, height, again]) for again in (False, True)]
        shown = " ".join(f"{peak:>8.2f} {seconds:>7.2f}" for peak, seconds in both)
        print(f"{length:>6} {batch:>6} {f'{height}x{2 * height}':>9} {shown}", flush=True)
        peak, seconds = zip(*both)
        measured = {"length": length, "batch": batch, "height": height}
        numbers["memory"].append(measured | {"peak": peak, "seconds": seconds})


def in_a_process(opts, row):
    command = [sys.executable, str(BENCH), "--device", opts.device]
    command += ["--one", json.dumps(row)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"the row {row} ended with {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])
