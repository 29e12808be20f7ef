#!/usr/bin/env python
"""Strong scaling: the time of a training step as the same batch is shared by more processes.

    python scripts/scaling.py                       1, 2 and 4 processes of this machine's CPU
    python scripts/scaling.py --device cuda --ranks 1 2 4 8 --global_batch 128
    python scripts/scaling.py --model --step 0.1    up to 1,024 GPUs: computed, not measured

The launches take turns, so that other load slows down all of them; the table shows medians. The
first line is plain `python` without torchrun.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

if __name__ == "__main__":  # before slow imports; PYTHONSAFEPATH leaves the folders out
    sys.path[:0] = map(str, Path(__file__).resolve().parents[:2])
    from modules.cli.start import start

    start()

import torch
from benchmark.workloads import SIZE, make_trainer

from modules.training.device import choose_precision
from modules.training.ranks import ranks

LENGTH = 8  # frames of a clip
# Assumed by --model: bytes per second between GPUs of a node (NVLink of an H100, one direction) and
# of a GPU's network port (400 Gb/s), seconds of latency, bytes of random numbers per second. Every
# rank draws the noise of the whole batch.
NODE, PORT, LATENCY, DRAWN, IN_A_NODE = 450e9, 50e9, 10e-6, 1e12, 8


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--device", default="cpu", choices=("cpu", "cuda"))
    add("--ranks", type=int, nargs="+", default=[1, 2, 4], help="numbers of processes")
    add("--global_batch", type=int, default=4, help="clips of a step, over all processes")
    add("--steps", type=int, default=3, help="timed steps of a launch")
    add("--rounds", type=int, default=3, help="launches of each number of processes")
    add("--model", action="store_true", help="compute an expected speed-up instead")
    add("--step", type=float, default=0.1, help="--model: seconds of a step on one GPU")
    add("--one", action="store_true", help=argparse.SUPPRESS)  # a process of a launch
    return parser.parse_args()


def time_one(opts):
    """Print the median seconds of a step; in a process of a launch."""
    with ranks.joined():
        device = torch.device(opts.device, ranks.local if opts.device == "cuda" else None)
        if opts.device == "cuda":
            torch.cuda.set_device(device)
        torch.set_num_threads(1)
        flags = ["--global_batch", str(opts.global_batch), "--batch_size", str(opts.global_batch)]
        trainer = make_trainer(choose_precision("auto", device), device, *flags)
        rows = ranks.rows(opts.global_batch)
        shape = rows.stop - rows.start, LENGTH, 3, *SIZE
        clips = [torch.rand(shape, device=device) for _ in range(2)]
        seconds = []
        for _ in range(opts.steps + 1):
            before = time.perf_counter()
            trainer.training_one_step(*clips, False, opts.global_batch).tolist()
            seconds.append(time.perf_counter() - before)
        if ranks.first:
            print(json.dumps(statistics.median(seconds[1:])))


def launch(opts, count):
    """Seconds of a step of so many processes; 0: without torchrun."""
    words = [__file__, "--one", "--device", opts.device, "--steps", str(opts.steps)]
    words += ["--global_batch", str(opts.global_batch)]
    if count:
        run = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"]
        words = [*run, *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # torchrun would say that it sets it
    done = subprocess.run(
        [sys.executable, *words], stdout=subprocess.PIPE, text=True, env=environment
    )
    if done.returncode:
        sys.exit(f"{count} processes ended with {done.returncode}")
    return float(done.stdout.splitlines()[-1])


def measure(opts):
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


def model(opts):
    """Strong and weak scaling, if computing and sending do not overlap: nothing is measured."""
    trainer = make_trainer("float32", torch.device("cpu"))
    sent = 4 * sum(weight.numel() for weight in trainer.model.parameters())
    noise = 4 * opts.global_batch * (LENGTH - 1) * math.prod(trainer.model.z_shape)
    print(
        f"a model, not a measurement: {sent / 1e6:.1f} MB of gradient a step, {noise / 1e6:.0f} MB "
        f"of noise; {opts.step} s for {opts.global_batch} clips on one GPU, {IN_A_NODE} GPUs a node"
    )
    print(
        f"{'GPUs':>6} {f'{opts.global_batch} clips in all':>18} {f'{opts.global_batch} a GPU':>18}"
    )
    for count in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024):
        wait = all_reduce_seconds(sent, count)
        strong = opts.step / (opts.step / count + wait)
        weak = count * opts.step / (opts.step + wait + (count - 1) * noise / DRAWN)
        shown = [f"{speed:>11.1f} ({speed / count:>4.0%})" for speed in (strong, weak)]
        if count > opts.global_batch:
            shown[0] = f"{'-':>18}"  # a GPU without a clip
        print(f"{count:>6} {' '.join(shown)}")


def all_reduce_seconds(sent, count):
    """Within each node a ring, then a ring or a tree between nodes, whichever is faster."""
    inside, nodes = min(count, IN_A_NODE), -(-count // IN_A_NODE)
    tree = 2 * math.ceil(math.log2(nodes)) * LATENCY + 2 * sent / (PORT * inside)
    return ring(inside, sent / NODE) + min(ring(nodes, sent / (PORT * inside)), tree)


def ring(count, seconds):
    """`seconds` is the time to send everything once."""
    return 2 * (count - 1) / count * seconds + 2 * (count - 1) * LATENCY


def main():
    opts = parse_arguments()
    if opts.one:
        time_one(opts)
    elif opts.model:
        model(opts)
    else:
        measure(opts)


if __name__ == "__main__":
    main()
