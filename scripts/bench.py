#!/usr/bin/env python
"""Time the package against a plain loop (plain_reference.py) in one run, at the default net sizes.

    python scripts/bench.py                      speed of this machine's CPU or GPU; bench.json
    python scripts/bench.py --batches 2 8 32 --rounds 5
    python scripts/bench.py --compile MODE       another column: compiled by torch in this mode
    python scripts/bench.py --memory             peak memory and time against the size of a batch
    python scripts/bench.py --exact              what --published_step costs, in both labs

Both sides run alternately, each in its own process, so that other load slows down both; the table
shows medians and their ratios.
"""

import argparse
import json
import sys
from pathlib import Path

if __name__ == "__main__":  # before slow imports; PYTHONSAFEPATH leaves the folders out
    sys.path[:0] = map(str, Path(__file__).resolve().parents[:2])
    from modules.cli.start import start

    start()

import torch
from benchmark import memory, speed


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cuda = torch.cuda.is_available()
    add = parser.add_argument
    add("--device", default="cuda" if cuda else "cpu", help="default: a GPU where there is one")
    batches = [2, 8, 32, 64] if cuda else [2, 4]
    add("--batches", type=int, nargs="*", default=batches, help="clips per batch")
    add("--rounds", type=int, default=10 if cuda else 3, help="timed runs of each side")
    add("--length", type=int, default=16, help="frames per training clip")
    add("--frames", type=int, default=630, help="frames of a rollout")
    add("--pictures", type=int, default=64, help="1024x512 images of the timed epoch")
    mode = parser.add_mutually_exclusive_group().add_argument
    mode("--compile", metavar="MODE", help="Trainer.py's --compile, in a column of its own")
    mode("--memory", action="store_true", help="measure peak memory of a step")
    mode("--exact", action="store_true", help="time training steps with the published BatchNorm")
    add("--one", metavar="JSON", help=argparse.SUPPRESS)  # one row of --memory, in its own process
    add("--out", default="bench.json", help="file for the numbers")
    opts = parser.parse_args()
    if opts.device.startswith("cuda") and not cuda:
        parser.error(f"--device {opts.device}: torch finds no CUDA GPU")
    return opts


def main():
    opts = parse_arguments()
    torch.backends.cuda.matmul.allow_tf32 = True  # convolutions use it by default: a fair peak
    if opts.one:
        measured = memory.memory_of_one(json.loads(opts.one), torch.device(opts.device))
        print(json.dumps(measured))
        return
    measure = memory.memory_table if opts.memory else speed.bench
    measure, numbers = speed.exact_steps if opts.exact else measure, {}
    try:
        measure(opts, numbers)
    finally:
        if numbers:  # an interrupted run keeps what it has measured
            Path(opts.out).write_text(json.dumps(numbers, indent=1))
            print(f"written to {opts.out}")


if __name__ == "__main__":
    main()
