"""Timing of alternating workloads, some of them in another process."""

import functools
import gc
import math
import multiprocessing
import statistics
import sys
import time
from contextlib import nullcontext

import torch


def wait(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(workload, device):
    """The time of one call; infinite if the GPU's memory is too small for it."""
    wait(device)
    start = time.perf_counter()
    try:
        workload()
        wait(device)
        return time.perf_counter() - start
    except torch.OutOfMemoryError as error:
        print(str(error).partition(".")[0], file=sys.stderr)
    release_memory()
    return math.inf


def release_memory():
    """Return cached GPU memory to the device, for the next workload and for other processes."""
    gc.collect()
    torch.cuda.empty_cache()


def time_alternately(workloads, rounds, device, reference=None):
    """{name: workload} -> {name: median seconds}, after warm-up rounds.

    `reference` is (function, *args): it makes further workloads, in another process.
    """
    times, warm_up = {}, 5 if device.type == "cuda" else 1
    with OtherProcess(*reference, device) if reference else nullcontext({}) as others:
        timers = {name: functools.partial(seconds, w, device) for name, w in workloads.items()}
        for i in range(rounds + warm_up):
            for name, timer in (others | timers).items():
                if times.get(name) == [math.inf]:
                    continue  # out of memory: not tried again
                spent = timer()
                if i >= warm_up or spent == math.inf:
                    times[name] = [*times.get(name, []), spent]
    return {name: statistics.median(spent) for name, spent in times.items()}


class OtherProcess:
    """As a context: {name: function that times the workload of this name in another process}."""

    def __init__(self, make, *args):
        spawn = multiprocessing.get_context("spawn")
        self.pipe, self.theirs = spawn.Pipe()
        self.process = spawn.Process(target=serve, args=(self.theirs, make, *args))

    def __enter__(self):
        self.process.start()
        self.theirs.close()  # else the end of the process would not be noticed
        return {name: functools.partial(self.time, name) for name in self.answer()}

    def time(self, name):
        self.pipe.send(name)
        return self.answer()

    def answer(self):
        try:
            return self.pipe.recv()
        except EOFError:
            sys.exit("the plain loop's process ended; its output is above")

    def __exit__(self, *_):
        self.process.kill()
        self.process.join()


def serve(pipe, make, *args):
    """The other process: make(*args) -> workloads; time those whose names are received."""
    torch.backends.cuda.matmul.allow_tf32 = True
    workloads, device = make(*args), args[-1]
    pipe.send(list(workloads))
    while True:
        pipe.send(seconds(workloads[pipe.recv()], device))
