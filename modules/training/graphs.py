"""CUDA graphs: a step is captured once and replayed as one launch (--cuda_graphs).

Small operations are bound by launch latency: the host takes longer to launch one than the GPU to
run it.
"""

import functools
import gc
from collections.abc import Callable
from typing import Any

import torch

from ..errors import UserError

WARM_UP = 3  # eager calls, in which libraries initialise what must not happen during capture


class Recorded:
    """A function of tensors and settings -> a tensor or a tuple of them; recorded once for every
    shape and setting, then replayed.

    All other tensors must keep their addresses, and the function must not synchronise.
    """

    def __init__(self, function: Callable):
        self.function, self.calls, self.recordings = function, {}, {}
        self.memory = None  # one pool for all captures: none reads what another left there

    def __call__(self, *inputs, **settings):
        key = (*(x.shape for x in inputs), *settings.items())
        self.calls[key] = self.calls.get(key, 0) + 1
        if self.calls[key] <= WARM_UP:
            return on_side_stream(self.function, inputs, settings)
        if key not in self.recordings:
            self.recordings[key] = self.record(inputs, settings)
        replay, places, results = self.recordings[key]
        for place, x in zip(places, inputs):
            place.copy_(x)
        replay()
        copies = [x.clone() for x in results]  # the next replay overwrites the results
        return tuple(copies) if len(copies) > 1 else copies[0]

    def record(self, inputs: tuple, settings: dict) -> tuple:
        """-> the replay function, the input buffers and the results."""
        graph, places = torch.cuda.CUDAGraph(), [x.clone() for x in inputs]
        self.memory = self.memory or torch.cuda.graph_pool_handle()
        gc.collect()  # freeing another graph during capture would invalidate it
        gc.disable()
        try:  # thread_local: other threads may pin memory meanwhile
            with torch.cuda.graph(graph, self.memory, side_stream(), "thread_local"):
                results = self.function(*places, **settings)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = str(error).splitlines()[0][:200]
            raise UserError(
                f"--cuda_graphs could not record a step ({reason}); leave it out"
            ) from None
        finally:
            gc.enable()
        return graph.replay, places, results if isinstance(results, tuple) else (results,)


@functools.cache
def side_stream() -> torch.cuda.Stream:
    """The stream of warm-up and capture: a single one, since each stream keeps its own memory."""
    return torch.cuda.Stream()


def on_side_stream(function: Callable, inputs: tuple, settings: dict) -> Any:
    """Call it on the side stream, as CUDA graphs require before capture."""
    stream = side_stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        results = function(*inputs, **settings)
    torch.cuda.current_stream().wait_stream(stream)
    return results


def check_graphs(
    settings: Any, device: torch.device, model: torch.nn.Module, training: bool
) -> None:
    """Refuse --cuda_graphs where it cannot work."""
    if device.type != "cuda":
        raise UserError(f"--cuda_graphs needs a CUDA GPU, but the device is {device.type}")
    if training and settings.compile != "off":
        raise UserError(
            f"--cuda_graphs records the nets as they are: leave out --compile {settings.compile}"
        )
    if training and settings.recompute:
        raise UserError("--cuda_graphs cannot record what --recompute does; leave one of them out")
    if not training and not model.STATE_IS_A_FRAME:
        raise UserError("--cuda_graphs cannot capture a rollout of this model; leave it out")
    if training and settings.optim not in ("Adam", "AdamW"):
        raise UserError(f"--cuda_graphs records Adam's and AdamW's steps, not {settings.optim}'s")


def record_rollouts(model: torch.nn.Module) -> None:
    """Replay the step of a model's rollouts, if its state is one frame."""
    if model.STATE_IS_A_FRAME:
        model.predict_frame = Recorded(model.predict_frame)
