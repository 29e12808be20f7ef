"""The table of frames per second."""

import functools
import tempfile

import torch

from modules.labs import LABS
from modules.models.rollout import noise_source, roll_out
from modules.training.device import choose_precision

from .timing import seconds, time_alternately
from .workloads import (
    FRAME_SIZE,
    hardware_name,
    make_trainer,
    random_clips,
    reference_epoch,
    reference_rollout,
    reference_training,
    write_images,
    zero_output_layer,
)

GFLOP = 22  # per trained frame: three passes over 1.6 M weights at 32x64 positions


def make_trainers(opts, precision, device):
    """{column: a trainer}: ours, and compiled with --compile."""
    trainers = {"ours": make_trainer(precision, device)}
    if opts.compile:
        trainers["compiled"] = make_trainer(precision, device, "--compile", opts.compile)
    return trainers


def time_training(opts, device, precision, batch, forced):
    """Frames trained per second: ours, and the reference's (always float32)."""
    clips = random_clips(batch, opts.length, device)
    workloads = {
        name: functools.partial(trainer.training_one_step, *clips, forced)
        for name, trainer in make_trainers(opts, precision, device).items()
    }
    reference = reference_training, batch, opts.length, forced
    spent = time_alternately(workloads, opts.rounds, device, reference)
    return {name: batch * (opts.length - 1) / value for name, value in spent.items()}


def exact_steps(opts, numbers):
    """Print frames trained per second with and without --published_step, which take turns."""
    device = torch.device(opts.device)
    numbers |= {"device": hardware_name(device), "torch": torch.__version__, "settings": vars(opts)}
    print(f"{numbers['device']}, torch {torch.__version__}, float32, {opts.rounds} rounds")
    print(f"{'frames per second':<44} {'step':>9} {'clip':>9} {'ratio':>8}")
    for lab in ("pose", "robot"):
        flags = {"step": "--published_step", "clip": "--no-published_step"}
        common = "float32", device, "--lab", lab
        trainers = {name: make_trainer(*common, flag) for name, flag in flags.items()}
        for batch in opts.batches:
            clips = random_clips(batch, opts.length, device, lab)
            for forced in (False, True):
                workloads = {
                    name: functools.partial(trainer.training_one_step, *clips, forced)
                    for name, trainer in trainers.items()
                }
                spent = time_alternately(workloads, opts.rounds, device)
                speeds = {name: batch * (opts.length - 1) / value for name, value in spent.items()}
                result = {"reference": speeds["step"], "ours": speeds["clip"]}
                name = f"{lab}, batch {batch}, tfr {int(forced)}"
                numbers[name] = print_speed(name, result)


def time_rollout(opts, device, precision, clips):
    """Predicted frames per second of rollouts with untrained weights."""
    given = torch.rand(clips, 1, 3, *FRAME_SIZE)
    poses = torch.rand(clips, opts.frames, 3, *FRAME_SIZE)
    noise, workloads = noise_source("sample", 0, range(clips)), {}
    for name, trainer in make_trainers(opts, precision, device).items():
        zero_output_layer(trainer.model)
        workloads[name] = functools.partial(roll_out, trainer.model, given.to(device), poses, noise)
    reference = reference_rollout, clips, opts.frames
    spent = time_alternately(workloads, min(opts.rounds, 3), device, reference)
    return {name: clips * (opts.frames - 1) / value for name, value in spent.items()}


def time_epoch(opts, device, precision, batch):
    """Seconds of an epoch on 1024x512 PNGs with loading, and the share of loading."""
    with tempfile.TemporaryDirectory() as folder:
        write_images(folder, opts.pictures)
        flags = ["--DR", folder, "--batch_size", str(batch), "--train_vi_len", str(opts.length)]
        trainer = make_trainer(precision, device, *flags)
        lab = LABS["pose"](trainer.settings)
        first = seconds(lab.open_train, device)
        clips = lab.TrainClips(lab.open_train(), trainer.settings, device)

        def epoch(step):
            for batch in clips.fetch(clips.batches(0)):
                step(*batch)

        workloads = {
            "ours": lambda: epoch(lambda *batch: trainer.training_one_step(*batch, False)),
            "our loading": lambda: epoch(lambda *batch: None),
        }
        rounds = 1 if device.type == "cpu" else min(opts.rounds, 3)
        reference = reference_epoch, folder, batch, opts.length
        spent = time_alternately(workloads, rounds, device, reference)
    spent["our first epoch decodes"] = first
    spent["our loading's share"] = spent["our loading"] / spent["ours"]
    return spent


def peaks(device, precision):
    """The machine's own limits: TFLOP/s of a matrix product, GB/s of a copy."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    n = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    source = torch.empty(2**30 if device.type == "cuda" else 2**28, dtype=torch.uint8).to(device)
    target = torch.empty_like(source)
    workloads = {"product": lambda: a @ b, "copy": lambda: target.copy_(source)}
    spent = time_alternately(workloads, 9, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)  # not part of the models' peak memory
    return {
        "tflops": 2 * n**3 / spent["product"] / 1e12,
        "copy_gb_s": 2 * source.numel() / spent["copy"] / 1e9,
    }


def print_speed(name, result, peak=None):
    """Print one row; with the machine's peak in TFLOP/s, also the share of it that ours reaches."""
    line = f"{name:<44} {result['reference']:>9.2f} {result['ours']:>9.2f} "
    if result["reference"]:
        result["ratio"] = result["ours"] / result["reference"]
        line += f"{result['ratio']:>7.2f}x"
    else:
        line += f"{'OOM':>8}"
    if "compiled" in result:
        line += f" {result['compiled']:>9.2f}"
    if peak:
        result["share_of_matmul"] = result["ours"] * GFLOP / 1000 / peak
        line += f" {result['share_of_matmul']:>8.0%}"
    print(line, flush=True)
    return result


def bench(opts, numbers):
    """Print the table and fill `numbers` row by row."""
    device = torch.device(opts.device)
    best = choose_precision("auto", device)
    numbers |= {"device": hardware_name(device), "torch": torch.__version__, "settings": vars(opts)}
    print(f"{numbers['device']}, torch {torch.__version__}, {opts.rounds} rounds")
    compiled = f" {'compiled':>9}" if opts.compile else ""
    columns = f"{'reference':>9} {'ours':>9} {'ratio':>8}{compiled} {'of matmul':>9}"
    print(f"{'frames per second':<44} {columns}")
    for precision in dict.fromkeys(("float32", best)):
        peak = numbers[f"peaks {precision}"] = peaks(device, precision)
        for batch in opts.batches:
            for forced in (False, True):
                name = f"train, {precision}, batch {batch}, tfr {int(forced)}"
                result = time_training(opts, device, precision, batch, forced)
                numbers[name] = print_speed(name, result, peak["tflops"])
    for clips in (1, 5) if device.type == "cuda" else (1,):
        name = f"rollout, {best}, {clips} clips of {opts.frames} frames"
        numbers[name] = print_speed(name, time_rollout(opts, device, best, clips))
    if device.type == "cuda" and not opts.compile:
        memory = torch.cuda.max_memory_allocated(device) / 2**30
        numbers["peak memory, GiB"] = memory
        print(f"{f'peak memory, {best}':<44} {memory:>9.1f} GiB")
    numbers["epoch"] = time_epoch(opts, device, best, opts.batches[0])
    for name, value in numbers["epoch"].items():
        unit = "%" if "share" in name else "s"
        value *= 100 if unit == "%" else 1
        print(f"epoch of {opts.pictures} pictures, {name:<32} {value:>9.2f} {unit}")
