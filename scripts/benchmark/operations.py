"""--profile: which operations a training step spends its time on."""

import torch

from modules.training.device import choose_precision

from .timing import wait
from .workloads import hardware_name, make_trainer, random_clips

OPERATORS = {  # part of a torch operator's name -> the row it counts in
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
    """The share of each kind of operation in a free-running and a teacher-forced step."""
    device = torch.device(opts.device)
    precision, batch = choose_precision("auto", device), opts.batches[0]
    trainer = make_trainer(precision, device)
    clips = random_clips(batch, opts.length, device)
    print(f"{hardware_name(device)}, {precision}, batch {batch}: share of a training step's time")
    for forced in (False, True):
        trainer.training_one_step(*clips, forced)
        with torch.profiler.profile() as profiler:
            trainer.training_one_step(*clips, forced)
            wait(device)
        shares = numbers[f"tfr {int(forced)}"] = shares_of(profiler.key_averages(), device)
        line = ", ".join(f"{kind} {share:.0%}" for kind, share in sorted(shares.items()))
        print(f"tfr {int(forced)}: {line}")


def shares_of(events, device):
    which = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    times = {}
    for event in events:
        if event.device_type != torch.autograd.DeviceType.CPU:
            continue  # a kernel: its time is also that of the operator that launched it
        kind = next((kind for name, kind in OPERATORS.items() if name in event.key), "the rest")
        times[kind] = times.get(kind, 0) + getattr(event, which)
    total = sum(times.values())
    return {kind: time / total for kind, time in times.items()}
