"""CUDA graphs: many small operations recorded once, then launched as one (--cuda_graphs).

A GPU that is fed small operations waits for the host, which takes longer to ask for one than the
GPU takes to do it.
"""

import functools
import gc
from collections.abc import Callable
from typing import Any

import torch

from ..errors import UserError

WARM_UP = 3  # calls as they are, in which libraries choose and set up what a recording may not


class Recorded:
    """A function of tensors and settings -> a tensor or a tuple of them; recorded once for every
    shape and setting, then replayed.

    All else that it reads or writes must stay where it is, and it may never wait for the device.
    """

    def __init__(self, function: Callable):
        self.function, self.calls, self.recordings = function, {}, {}
        self.memory = None  # of all recordings: none reads what another left there

    def __call__(self, *inputs, **settings):
        key = (*(x.shape for x in inputs), *settings.items())
        self.calls[key] = self.calls.get(key, 0) + 1
        if self.calls[key] <= WARM_UP:
            return aside(self.function, inputs, settings)
        if key not in self.recordings:
            self.recordings[key] = self.record(inputs, settings)
        replay, places, results = self.recordings[key]
        for place, x in zip(places, inputs):
            place.copy_(x)
        replay()
        copies = [x.clone() for x in results]  # the next replay overwrites them
        return tuple(copies) if len(copies) > 1 else copies[0]

    def record(self, inputs: tuple, settings: dict) -> tuple:
        """-> what replays it, where its inputs go, and where its results are."""
        graph, places = torch.cuda.CUDAGraph(), [x.clone() for x in inputs]
        self.memory = self.memory or torch.cuda.graph_pool_handle()
        gc.collect()  # a recording that is thrown away while another is made would spoil it
        gc.disable()
        try:  # thread_local: other threads may go on pinning what they read
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
    """Where steps run before they are recorded, and while: one, as each keeps its own memory."""
    return torch.cuda.Stream()


def aside(function: Callable, inputs: tuple, settings: dict) -> Any:
    """Call it on a stream of its own, as what is to be recorded must be first."""
    stream = side_stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        results = function(*inputs, **settings)
    torch.cuda.current_stream().wait_stream(stream)
    return results


def check_graphs(
    settings: Any, device: torch.device, model: torch.nn.Module, training: bool
) -> None:
    """--cuda_graphs only where it can work."""
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
    """Have a model's rollouts replay their step, where its state is one frame."""
    if model.STATE_IS_A_FRAME:
        model.predict_frame = Recorded(model.predict_frame)
