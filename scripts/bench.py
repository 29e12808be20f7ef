#!/usr/bin/env python
"""Time the package beside a plain loop (plain_reference.py), in one run, at the default net sizes.

    python scripts/bench.py                      what this machine's CPU or GPU does; bench.json
    python scripts/bench.py --batches 2 8 32 --rounds 5
    python scripts/bench.py --memory             peak memory against clip length, batch and size
    python scripts/bench.py --profile            where the time of a training step goes

Both sides take turns, each in a process of its own as in life, so that a busy machine slows both;
the table holds medians and their ratios.
"""

import argparse
import functools
import gc
import json
import math
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext, redirect_stdout
from pathlib import Path

import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]
from modules.training.device import choose_device, choose_precision  # noqa: E402
from plain_reference import PlainDataset, PlainModel, plain_rollout, plain_step  # noqa: E402

from modules.cli.parser import parse  # noqa: E402
from modules.labs import LABS  # noqa: E402
from modules.models.rollout import noise_source, roll_out  # noqa: E402
from Trainer import Trainer  # noqa: E402

LENGTH, SIZE, Z = 16, (32, 64), 12
GFLOP = 22  # of one trained frame: three passes over 1.6 M weights at 32x64 positions


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cuda = torch.cuda.is_available()
    add = parser.add_argument
    add("--device", default="cuda" if cuda else "cpu", help="default: a GPU where there is one")
    batches = [2, 8, 32, 64] if cuda else [2, 4]
    add("--batches", type=int, nargs="*", default=batches, help="clips in a batch")
    add("--rounds", type=int, default=10 if cuda else 3, help="turns that each side takes")
    add("--frames", type=int, default=630, help="frames of a rollout")
    add("--pictures", type=int, default=64, help="1024x512 pictures of the epoch that is timed")
    add("--memory", action="store_true", help="measure peak memory instead of time")
    add("--profile", action="store_true", help="break a training step down instead")
    add("--one", metavar="JSON", help=argparse.SUPPRESS)  # one row of --memory, in a fresh process
    add("--compile", choices=("off", "default"), default="off", help="Trainer.py's --compile")
    add("--cuda_graphs", action="store_true", help="Trainer.py's --cuda_graphs")
    add("--out", default="bench.json", help="where the numbers are kept")
    opts = parser.parse_args()
    if opts.device.startswith("cuda") and not cuda:
        parser.error(f"--device {opts.device}: torch finds no CUDA GPU")
    if opts.cuda_graphs and (opts.memory or opts.profile):
        parser.error("--cuda_graphs is timed, but neither --memory nor --profile looks into it")
    torch.backends.cuda.matmul.allow_tf32 = True  # as a GPU's convolutions do: it is their peak
    return opts


# ---------------------------------------------------------------- taking turns


def wait(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work, device):
    """How long the work takes; on a GPU whose memory it does not fit into, for ever."""
    wait(device)
    start = time.perf_counter()
    try:
        work()
        wait(device)
        return time.perf_counter() - start
    except torch.OutOfMemoryError as error:
        print(str(error).partition(".")[0], file=sys.stderr)
    return_memory()
    return math.inf


def return_memory():
    """To the GPU: what an earlier work has left stands in the way of the next, and of others."""
    gc.collect()
    torch.cuda.empty_cache()


def take_turns(works, rounds, device, reference=None):
    """{name: work} -> {name: median seconds}, after turns that do not count.

    `reference` makes the works of another process: a function of this file and what it is told.
    """
    times, warm = {}, 5 if device.type == "cuda" else 1
    with Elsewhere(*reference, device) if reference else nullcontext({}) as others:
        timers = {name: functools.partial(seconds, work, device) for name, work in works.items()}
        for turn in range(rounds + warm):
            for name, timer in (others | timers).items():
                if times.get(name) != [math.inf]:  # what has not fitted is not tried again
                    spent = timer()
                    if turn >= warm or spent == math.inf:
                        times[name] = [*times.get(name, []), spent]
    return {name: statistics.median(spent) for name, spent in times.items()}


class Elsewhere:
    """Within it, {name: what times the work of this name in another process}."""

    def __init__(self, make, *told):
        spawn = multiprocessing.get_context("spawn")
        self.pipe, self.theirs = spawn.Pipe()
        self.process = spawn.Process(target=serve, args=(self.theirs, make, *told))

    def __enter__(self):
        self.process.start()
        self.theirs.close()  # else nobody would notice that the process has ended
        return {name: functools.partial(self.time, name) for name in self.answer()}

    def time(self, name):
        self.pipe.send(name)
        return self.answer()

    def answer(self):
        try:
            return self.pipe.recv()
        except EOFError:
            sys.exit("the plain loop's process ended; what it said stands above")

    def __exit__(self, *_):
        self.process.kill()
        self.process.join()


def serve(pipe, make, *told):
    """The other process: makes its works of what it is told and does those that it is asked for."""
    torch.backends.cuda.matmul.allow_tf32 = True
    works, device = make(*told), told[-1]
    pipe.send(list(works))
    while True:
        pipe.send(seconds(works[pipe.recv()], device))


# ---------------------------------------------------------------- what is timed


def make_trainer(opts, precision, device, *flags):
    line = ["--device", str(device)] if device.type != "cpu" else ["--gpu", "0"]
    line += ["--DR", ".", "--save_root", ".", "--precision", precision, "--lr", "1e-5", *flags]
    line += ["--compile", opts.compile] + ["--cuda_graphs"] * opts.cuda_graphs
    args, _ = parse("Trainer", line)
    return_memory()
    with redirect_stdout(None):
        choose_device(args)
    picture = torch.zeros(2, 3, *SIZE)
    return Trainer(args, device, None, [(picture, picture)])


def make_plain(device):
    model = PlainModel().to(device)
    return model, torch.optim.Adam(model.parameters(), lr=1e-5)


def random_clips(batch, device):
    return [torch.rand(batch, LENGTH, 3, *SIZE, device=device) for _ in range(2)]


def reference_training(batch, forced, device):
    (model, optim), clips = make_plain(device), random_clips(batch, device)
    return {"reference": lambda: plain_step(model, optim, *clips, forced)}


def reference_rollout(clips, frames, device):
    model, _ = make_plain(device)
    calm(model.eval())
    given, poses = torch.rand(clips, 3, *SIZE), torch.rand(clips, frames, 3, *SIZE)
    given, poses = given.to(device), poses.to(device)
    return {"reference": lambda: plain_rollout(model, given, poses, Z)}


def calm(model):
    """Untrained nets would overflow in a long rollout."""
    torch.nn.init.zeros_(model.Generator[-1].weight)


def reference_epoch(folder, batch, device):
    model, optim = make_plain(device)
    loader = torch.utils.data.DataLoader(
        PlainDataset(folder, LENGTH, SIZE), batch, num_workers=min(4, os.cpu_count())
    )

    def epoch(step):
        for clips in loader:
            step(*(x.to(device) for x in clips))

    return {
        "reference": lambda: epoch(lambda *clips: plain_step(model, optim, *clips, False)),
        "reference's loading": lambda: epoch(lambda *clips: None),
    }


def time_training(opts, device, precision, batch, forced):
    """Frames trained per second, ours and the reference's (float32 always)."""
    trainer = make_trainer(opts, precision, device)
    clips = random_clips(batch, device)
    works = {"ours": lambda: trainer.training_one_step(*clips, forced)}
    spent = take_turns(works, opts.rounds, device, (reference_training, batch, forced))
    return {name: batch * (LENGTH - 1) / value for name, value in spent.items()}


def time_rollout(opts, device, precision, clips):
    """Frames rolled out per second, both with weights that have just been drawn."""
    trainer = make_trainer(opts, precision, device)
    calm(trainer.model)
    given, poses = torch.rand(clips, 1, 3, *SIZE), torch.rand(clips, opts.frames, 3, *SIZE)
    given = given.to(device)

    def ours():
        roll_out(trainer.model, given, poses, noise_source("sample", 0, range(clips)))

    rounds = min(opts.rounds, 3)
    reference = reference_rollout, clips, opts.frames
    spent = take_turns({"ours": ours}, rounds, device, reference)
    return {name: clips * (opts.frames - 1) / value for name, value in spent.items()}


def write_pictures(folder, count):
    """1024x512 PNGs of about the course's sizes: 200 KB a frame, 25 KB a pose."""
    rng = np.random.default_rng(0)
    for kind, width, smooth in (("img", 16, Image.BICUBIC), ("label", 96, Image.NEAREST)):
        place = folder / "train" / f"train_{kind}"
        place.mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 256, (width // 2, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((1024, 512), smooth).save(place / f"{i}.png")


def time_epoch(opts, device, precision, batch):
    """Seconds of an epoch on 1024x512 PNGs, loading included, and the share that loading takes."""
    with tempfile.TemporaryDirectory() as folder:
        write_pictures(Path(folder), opts.pictures)
        flags = ["--DR", folder, "--batch_size", str(batch)]
        trainer = make_trainer(opts, precision, device, *flags)
        lab = LABS["pose"](trainer.settings)
        first = seconds(lab.open_train, device)
        trainer.clips = lab.TrainClips(lab.open_train(), trainer.settings, device)

        def load():
            for _ in trainer.clips.fetch(trainer.clips.batches(0)):
                pass

        works = {
            "ours": lambda: [
                trainer.training_one_step(*c, False)
                for c in trainer.clips.fetch(trainer.clips.batches(0))
            ],
            "our loading": load,
        }
        rounds = 1 if device.type == "cpu" else min(opts.rounds, 3)
        spent = take_turns(works, rounds, device, (reference_epoch, folder, batch))
    spent["our first epoch decodes"] = first
    spent["our loading's share"] = spent["our loading"] / spent["ours"]
    return spent


def peaks(device, precision):
    """What the machine itself can do: TFLOP/s of a matrix product, GB/s of a copy."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    n = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    source = torch.empty(2**30 if device.type == "cuda" else 2**28, dtype=torch.uint8).to(device)
    target = torch.empty_like(source)
    works = {"product": lambda: a @ b, "copy": lambda: target.copy_(source)}
    spent = take_turns(works, 9, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)  # these were not its models
    return {
        "tflops": 2 * n**3 / spent["product"] / 1e12,
        "copy_gb_s": 2 * source.numel() / spent["copy"] / 1e9,
    }


# ---------------------------------------------------------------- memory

ROWS = [  # clip length, batch, height
    (8, 2, 32), (16, 2, 32), (32, 2, 32), (16, 4, 32), (16, 2, 64),
]  # fmt: skip


def memory_of_one(opts, row, device):
    """GiB that two training steps need beyond what is there before them."""
    length, batch, height, recompute = row
    precision = choose_precision("auto", device)
    flags = ["--frame_H", str(height), "--frame_W", str(2 * height)] + ["--recompute"] * recompute
    trainer = make_trainer(opts, precision, device, *flags)
    clips = [torch.rand(batch, length, 3, height, 2 * height, device=device) for _ in range(2)]
    before = used(device)
    for _ in range(2):
        trainer.training_one_step(*clips, False)
    return (used(device) - before) / 2**30


def used(device):
    """The most memory so far, in bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def memory_table(opts, numbers):
    print(f"{describe(torch.device(opts.device))}, free running, peak GiB of a training step")
    print(f"{'clip':>6} {'batch':>6} {'size':>9} {'plain':>8} {'--recompute':>12}")
    numbers["memory"] = []
    for length, batch, height in ROWS:
        peak = []
        for recompute in (False, True):
            row = json.dumps([length, batch, height, recompute])
            command = [sys.executable, __file__, "--device", opts.device, "--one", row]
            command += ["--compile", opts.compile]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
            if done.returncode:
                sys.exit(f"the row {row} ended with {done.returncode}")
            peak.append(float(done.stdout.splitlines()[-1]))
        size = f"{height}x{2 * height}"
        print(f"{length:>6} {batch:>6} {size:>9} {peak[0]:>8.2f} {peak[1]:>12.2f}", flush=True)
        measured = {"length": length, "batch": batch, "height": height, "peak": peak}
        numbers["memory"].append(measured)


# ---------------------------------------------------------------- profile

KINDS = {  # in torch's names of operations -> what they are called here
    "convolution_backward": "convolutions, backward",
    "convolution": "convolutions, forward",
    "_adam": "optimizer",
    "_foreach": "optimizer",
    "copy_": "copies",
    "cat": "copies",
    "leaky_relu": "elementwise",
    "mul": "elementwise",
    "add": "elementwise",
}


def profile(opts, numbers):
    """The share of every kind of operation in a free-running and a teacher-forced step."""
    device = torch.device(opts.device)
    precision, batch = choose_precision("auto", device), opts.batches[0]
    trainer = make_trainer(opts, precision, device)
    clips = random_clips(batch, device)
    print(f"{describe(device)}, {precision}, batch {batch}: share of a training step's time")
    for forced in (False, True):
        trainer.training_one_step(*clips, forced)
        with torch.profiler.profile() as watched:
            trainer.training_one_step(*clips, forced)
            wait(device)
        shares = numbers[f"tfr {int(forced)}"] = {}
        which = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
        for event in watched.key_averages():
            if event.device_type != torch.autograd.DeviceType.CPU:
                continue  # a kernel: its time is also that of the operation that launched it
            time = getattr(event, which)
            kind = next((kind for name, kind in KINDS.items() if name in event.key), "the rest")
            shares[kind] = shares.get(kind, 0) + time
        total = sum(shares.values())
        shares |= {kind: time / total for kind, time in shares.items()}
        line = ", ".join(f"{kind} {share:.0%}" for kind, share in sorted(shares.items()))
        print(f"tfr {int(forced)}: {line}")


# ---------------------------------------------------------------- the table


def say(what, result, peak=None):
    """One line of the table; of a peak in TFLOP/s also the share that ours reaches."""
    line = f"{what:<44} {result['reference']:>9.2f} {result['ours']:>9.2f} "
    if result["reference"]:
        result["ratio"] = result["ours"] / result["reference"]
        line += f"{result['ratio']:>7.2f}x"
    else:
        line += f"{'no room':>8}"
    if peak:
        result["share_of_matmul"] = result["ours"] * GFLOP / 1000 / peak
        line += f" {result['share_of_matmul']:>8.0%}"
    print(line, flush=True)
    return result


def describe(device):
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"


def bench(opts, numbers):
    device = torch.device(opts.device)
    best = choose_precision("auto", device)
    numbers |= {"device": describe(device), "torch": torch.__version__, "settings": vars(opts)}
    print(f"{numbers['device']}, torch {torch.__version__}, {opts.rounds} rounds")
    print(f"{'frames per second':<44} {'reference':>9} {'ours':>9} {'ratio':>8} {'of matmul':>9}")
    for precision in dict.fromkeys(("float32", best)):
        peak = numbers[f"peaks {precision}"] = peaks(device, precision)
        for batch in opts.batches:
            for forced in (False, True):
                name = f"train, {precision}, batch {batch}, tfr {int(forced)}"
                result = time_training(opts, device, precision, batch, forced)
                numbers[name] = say(name, result, peak["tflops"])
    for clips in (1, 5) if device.type == "cuda" else (1,):
        name = f"rollout, {best}, {clips} clips of {opts.frames} frames"
        numbers[name] = say(name, time_rollout(opts, device, best, clips))
    if device.type == "cuda":
        memory = torch.cuda.max_memory_allocated(device) / 2**30
        numbers["peak memory, GiB"] = memory
        print(f"{f'peak memory, {best}':<44} {memory:>9.1f} GiB")
    numbers["epoch"] = time_epoch(opts, device, best, opts.batches[0])
    for name, value in numbers["epoch"].items():
        unit = "%" if "share" in name else "s"
        value *= 100 if unit == "%" else 1
        print(f"epoch of {opts.pictures} pictures, {name:<32} {value:>9.2f} {unit}")


def main():
    opts = parse_arguments()
    if opts.one:
        print(memory_of_one(opts, json.loads(opts.one), torch.device(opts.device)))
        return
    measure = memory_table if opts.memory else profile if opts.profile else bench
    numbers = {}
    try:
        measure(opts, numbers)
    finally:
        if numbers:  # what was measured is kept, whatever stopped the rest
            Path(opts.out).write_text(json.dumps(numbers, indent=1))
            print(f"kept in {opts.out}")


if __name__ == "__main__":
    main()
