#!/usr/bin/env python
"""Strong scaling: the time of a training step as the same batch is shared by more processes.

    python scripts/benchmark/scaling.py             1, 2 and 4 processes of this machine's CPU
    python scripts/benchmark/scaling.py --device cuda --ranks 1 2 4 8 --batch_size 128

The launches take turns, so that other load slows down all of them; the table shows medians. The
first line is plain `python` without torchrun.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

if __name__ == "__main__":  # before slow imports; PYTHONSAFEPATH leaves the folders out
    sys.path[:0] = map(str, Path(__file__).resolve().parents[1:3])
    from modules.cli.start import start

    start()

import torch

from benchmark.workloads import FRAME_SIZE, make_trainer
from modules.process.ranks import ranks
from modules.training.device import choose_precision

CLIP_FRAMES = 8


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--device", default="cpu", choices=("cpu", "cuda"))
    add("--ranks", type=int, nargs="+", default=[1, 2, 4], help="numbers of processes")
    add("--batch_size", type=int, default=4, help="clips of a step, over all processes")
    add("--steps", type=int, default=3, help="timed steps of a launch")
    add("--rounds", type=int, default=3, help="launches of each number of processes")
    add("--one", action="store_true", help=argparse.SUPPRESS)  # a process of a launch
    return parser.parse_args()


def time_one(opts):
    """Print the median seconds of a step; in a process of a launch."""
    with ranks.joined():
        device = torch.device(opts.device, ranks.local if opts.device == "cuda" else None)
        if opts.device == "cuda":
            torch.cuda.set_device(device)
        torch.set_num_threads(1)
        flags = ["--batch_size", str(opts.batch_size)]
        trainer = make_trainer(choose_precision("auto", device), device, *flags)
        rows = ranks.rows(opts.batch_size)
        shape = rows.stop - rows.start, CLIP_FRAMES, 3, *FRAME_SIZE
        clips = [torch.rand(shape, device=device) for _ in range(2)]
        seconds = []
        for _ in range(opts.steps + 1):
            before = time.perf_counter()
            trainer.training_one_step(*clips, False, opts.batch_size).tolist()
            seconds.append(time.perf_counter() - before)
        if ranks.first:
            print(json.dumps(statistics.median(seconds[1:])))


def launch(opts, count):
    """Seconds of a step with `count` processes; 0: without torchrun."""
    words = [__file__, "--one", "--device", opts.device, "--steps", str(opts.steps)]
    words += ["--batch_size", str(opts.batch_size)]
    if count:
        run = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"]
        words = [*run, *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # else torchrun warns that it sets it
    done = subprocess.run(
        [sys.executable, *words], stdout=subprocess.PIPE, text=True, env=environment
    )
    if done.returncode:
        sys.exit(f"{count} processes ended with {done.returncode}")
    return float(done.stdout.splitlines()[-1])


def print_scaling(opts):
    counts = [0, *opts.ranks]
    spent = {count: [] for count in counts}
    for _ in range(opts.rounds):
        for count in counts:
            spent[count].append(launch(opts, count))
    print(f"{'processes':>12} {'seconds':>9} {'speed-up':>9} {'ideal':>6}")
    alone = statistics.median(spent[counts[1]])
    for count in counts:
        seconds = statistics.median(spent[count])
        cores = os.cpu_count() if opts.device == "cpu" else count
        name, ideal = (count, min(count, cores) / counts[1]) if count else ("python", 1)
        print(f"{name:>12} {seconds:>9.3f} {alone / seconds:>9.2f} {ideal:>6.0f}")
    if 1 in spent:
        ratio = statistics.median(b / a for a, b in zip(spent[0], spent[1]))
        print(f"one process of torchrun takes {ratio:.3f} of the time of plain python")


def main():
    opts = parse_arguments()
    time_one(opts) if opts.one else print_scaling(opts)


if __name__ == "__main__":
    main()
