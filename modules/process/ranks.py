"""Data-parallel training: the processes of torchrun, each of which is a rank.

    torchrun --nproc_per_node=8 Trainer.py ...

Every rank holds the whole model, trains on its own rows of every batch, and adds its gradient to
those of the others: one all-reduce a step. Not DDP: which nets take part changes from step to step
(posterior or prior), for which DDP searches the graph in every step, and it weights all ranks
equally, while a batch need not divide by their number. Without torchrun there is one rank and
nothing here communicates.
"""

import contextlib
import datetime
import itertools
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from ..errors import UserError
from .signals import Stopped, listener

T = TypeVar("T")
Net = TypeVar("Net", bound=torch.nn.Module)
HOURS = 2  # that a rank waits for another one, such as the first one drawing figures
BEHIND = 2  # steps that a GPU may lag when the host reads what ranks have agreed on
CUT_OFF = ("gloo", "NCCL", "onnection", "Broken pipe")  # in torch's errors of a lost rank


class Ranks:
    """All ranks, as seen by this one. What communicates must be called by all of them."""

    def __init__(self):
        self.number, self.count, self.local, self.store = 0, 1, 0, None
        self.training = False
        self.share = 1.0  # of the batch that is being trained on

    @property
    def shares_batches(self) -> bool:
        """Whether this rank is training on a part of a batch now."""
        return self.training and self.count > 1

    @property
    def first(self) -> bool:
        """Whether this rank prints and writes."""
        return self.number == 0

    @contextlib.contextmanager
    def joined(self) -> Iterator[None]:
        """Within, the ranks of torchrun know each other."""
        if not dist.is_torchelastic_launched():
            yield
            return
        self.local = int(os.environ["LOCAL_RANK"])
        store, self.number, self.count = next(dist.rendezvous("env://"))
        # after a restart the store of torchrun may still hold the addresses of the processes before
        store = dist.PrefixStore(f"attempt {os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
        self.store = dist.PrefixStore("ends", store)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
            timeout=datetime.timedelta(hours=HOURS),
            store=store,
            rank=self.number,
            world_size=self.count,
        )
        with self.one_of_them_says_why():
            yield
        dist.destroy_process_group()

    @contextlib.contextmanager
    def one_of_them_says_why(self) -> Iterator[None]:
        """All ranks end if one does; only the first of them prints the reason.

        One that was cut off by the end of a stopped process names the signal."""
        try:
            yield
        except SystemExit:
            raise
        except BaseException as error:
            first = self.first_to_end(getattr(error, "number", 0))
            if cut_off(error) and (number := self.stopped_by()):
                raise Stopped(number) from None
            if cut_off(error):
                reason = str(error).partition("\n")[0][:200]
                error = UserError(
                    "this process lost the others, so all end; the same command resumes from the "
                    f"last checkpoint ({reason})"
                )
            if first or not isinstance(error, (UserError, Stopped)):
                raise error
            sys.exit(128 + error.number if isinstance(error, Stopped) else 1)

    # ------------------------------------------------------------ agreement

    def from_first(self, function: Callable[[], T]) -> T:
        """What the function returns in the first rank; only there it is called."""
        if self.count == 1:
            return function()
        outcome = [attempt(function) if self.first else None]
        dist.broadcast_object_list(outcome, src=0)
        return result_of(*outcome[0])

    def together(self, function: Callable[[], T]) -> T:
        """What the function returns here, unless it fails in any rank: then its error, in all."""
        if self.count == 1:
            return function()
        result, error = attempt(function)
        errors = [e for e in self.all_of(error) if e]
        return result_of(result, errors[0] if errors else None)

    def all_of(self, value: T) -> list[T]:
        """The values of all ranks."""
        if self.count == 1:
            return [value]
        values = [None] * self.count
        dist.all_gather_object(values, value)
        return values

    def in_order(self, own: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Tensors number, number + count, ... of each rank -> all of them, in the first rank."""
        if self.count == 1:
            return [*own]
        parts = [None] * self.count if self.first else None
        own = [x.clone() for x in own]  # a view would be sent with all that it is a view of
        dist.gather_object(own, parts, dst=0)
        rounds = itertools.zip_longest(*parts or ())
        return [item for items in rounds for item in items if item is not None]

    def first_to_end(self, number: int) -> bool:
        """Whether no other rank has ended with an error, or a signal's number, before this one."""
        try:
            if first := self.store.add("ended", 1) == 1:
                self.store.set("signal", str(number))
            return first
        except RuntimeError:  # the process that kept count is gone, too
            return self.first

    def stopped_by(self) -> int:
        """The number of the signal that ended the first rank to end; 0: it was another error."""
        try:
            return int(self.store.get("signal")) if self.store.check(["signal"]) else 0
        except RuntimeError:
            return 0

    # ------------------------------------------------------------ a training step

    def check_batches(self, size: int, clips: int) -> None:
        """Refuse batches of `size` clips that leave a rank without any; an epoch has `clips`."""
        if clips < size and self.first:
            print(f"note: an epoch has {clips} clips, fewer than a batch: it is one step")
        if min(clips, size) < self.count:
            raise UserError(
                f"a batch has {min(clips, size)} clips, too few for {self.count} "
                "processes: start fewer processes, or raise --batch_size, that of all together"
            )

    def rows(self, size: int) -> slice:
        """This rank's rows of a batch of `size` clips; ranks differ by one row at most."""
        each, extra = divmod(size, self.count)
        start = self.number * each + min(self.number, extra)
        return slice(start, start + each + (self.number < extra))

    def draw_noise(self, model: Any, frames: torch.Tensor, size: int) -> list[torch.Tensor | None]:
        """The model's noise for these rows of a batch of `size` clips: that of one process."""
        if len(frames) == size:
            return [*model.draw_noise(frames)]
        strides = frames[0].numel(), *frames.stride()[1:]  # that of a single row may be any number
        batch = torch.empty_strided((size, *frames.shape[1:]), strides, device="meta")
        return [x if x is None else x[self.rows(size)] for x in model.draw_noise(batch)]

    @contextlib.contextmanager
    def sharing(self, size: int) -> Iterator[float]:
        """Within, this rank trains on its share of a batch of `size` clips."""
        rows = self.rows(size)
        self.share, self.training = (rows.stop - rows.start) / size, True
        try:
            yield self.share
        finally:
            self.training = False

    def divide(
        self, count: int, most: int, function: Callable[[list[int]], Iterable[torch.Tensor]]
    ) -> list[torch.Tensor] | None:
        """function(numbers) -> a tensor for each of these numbers, at most `most` at a time.

        -> those of 0..count-1, in the first rank. Each rank computes its own part.
        """
        numbers = [*range(self.number, count, self.count)]
        batches = (numbers[i : i + most] for i in range(0, len(numbers), most))
        tensors = self.in_order([x for batch in batches for x in function(batch)])
        return tensors if self.first else None

    def add_up(self, tensors: Iterable[torch.Tensor]) -> None:
        """Replace tensors by their sums over all ranks, in one message."""
        if self.count == 1:
            return
        tensors = list(tensors)
        flat = torch.cat([x.reshape(-1) for x in tensors])
        dist.all_reduce(flat)
        for x, total in zip(tensors, flat.split([x.numel() for x in tensors])):
            x.copy_(total.view(x.shape))

    def mean_of_batch(self, own: torch.Tensor) -> torch.Tensor:
        """The mean over the clips of all ranks, of a mean over this rank's; without gradient."""
        mean = own.detach() * self.share
        dist.all_reduce(mean)
        return mean


ranks = Ranks()


class StopRequest:
    """Whether a signal has asked any rank to stop: known to all ranks after the same step.

    On a GPU it is read some steps later, so that the host does not wait for the device.
    """

    def __init__(self, device: torch.device):
        self.votes, self.on_gpu = torch.zeros(1, device=device), device.type == "cuda"
        self.sums = deque()

    def after_a_step(self) -> contextlib.AbstractContextManager:
        """Within, a signal waits until the step has ended; torchrun repeats it."""
        return listener.patiently(all_wait=ranks.count > 1)

    def vote(self) -> torch.Tensor:
        """This rank's vote, to be added up with the gradients of the step."""
        return self.votes.fill_(bool(listener.asked)) if ranks.count > 1 else self.votes

    def requested(self) -> bool:
        """Whether the ranks are to stop now. The votes of the last step have been added up."""
        if ranks.count == 1:
            return bool(listener.asked)
        if not self.on_gpu:
            return bool(self.votes)
        done = torch.cuda.Event()
        self.sums.append((torch.empty(1, pin_memory=True).copy_(self.votes, True), done))
        done.record()
        if len(self.sums) <= BEHIND:
            return False
        total, done = self.sums.popleft()
        done.synchronize()
        return bool(total)

    def requested_here(self) -> bool:
        """The same of the first rank alone, between steps."""
        return ranks.first and bool(listener.asked)

    def now(self) -> None:
        raise Stopped(listener.asked or signal.SIGTERM)


def attempt(function: Callable[[], T]) -> tuple[T | None, BaseException | None]:
    """The function's result, or the error that it ends the script with."""
    try:
        return function(), None
    except (UserError, SystemExit) as error:
        return None, error


def result_of(result: T, error: BaseException | None) -> T:
    if error:
        raise error
    return result


def cut_off(error: BaseException) -> bool:
    """Whether the error says that another rank is gone."""
    return isinstance(error, RuntimeError) and any(word in str(error) for word in CUT_OFF)


# ---------------------------------------------------------------- BatchNorm


def share_model(model: Net) -> Net:
    """Give all ranks the weights of the first one, and BatchNorm the statistics of all while they
    train on a batch together: torch's SyncBatchNorm does that on GPUs alone."""
    if ranks.count == 1:
        return model
    for tensor in model.state_dict().values():
        dist.broadcast(tensor, src=0)
    from torch._dynamo import disable  # slow to import; --compile is not to trace what is sent

    for layer in model.modules():
        if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm):
            layer.forward = disable(SyncedBatchNorm(layer))
    return model


class SyncedBatchNorm:
    """The forward pass of one BatchNorm layer."""

    def __init__(self, layer: torch.nn.Module):
        self.layer = layer

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        layer = self.layer
        if not (layer.training and ranks.shares_batches):
            return type(layer).forward(layer, x)
        values, dims = x.float(), [0, *range(2, x.dim())]
        shape = [1, -1] + [1] * (x.dim() - 2)
        n = sum_over_ranks(values.new_full((1,), x.numel() // x.shape[1]))
        mean = sum_over_ranks(values.sum(dims)) / n
        centred = values - mean.view(shape)
        variance = sum_over_ranks(centred.pow(2).sum(dims)) / n
        with torch.no_grad():
            layer.num_batches_tracked.add_(1)
            layer.running_mean.lerp_(mean, layer.momentum)
            layer.running_var.lerp_(variance * n / (n - 1), layer.momentum)
        scale = layer.weight * torch.rsqrt(variance + layer.eps)
        return (centred * scale.view(shape) + layer.bias.view(shape)).to(x.dtype)


class SumOverRanks(torch.autograd.Function):
    """The gradient of a sum over all ranks is the sum of their gradients."""

    @staticmethod
    def forward(_: Any, x: torch.Tensor) -> torch.Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    backward = forward


sum_over_ranks = SumOverRanks.apply
