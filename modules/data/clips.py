"""The training split on the device, served in batches of clips."""

import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from ..config import Training
from ..process.ranks import ranks
from .cache import to_float

AHEAD = 2  # batches that are read ahead where they come from the disk


class ClipDataset(torch.utils.data.Dataset):
    """Item i is clip i: `video_len` rows of `frames` and `conditions` from starts[i] on."""

    def __len__(self):
        return len(self.starts)

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError(index)
        clip = slice(self.starts[index], self.starts[index] + self.video_len)
        return tuple(to_float(torch.tensor(x[clip])) for x in (self.frames, self.conditions))


class TrainClips:
    """The training split; the clips of an epoch are a pure function of its number.

    A GPU keeps the arrays if they fit. A CPU reads the mapped files, which the system caches.
    """

    def __init__(self, dataset: torch.utils.data.Dataset, settings: Training, device: torch.device):
        self.settings, self.dataset, self.device = settings, dataset, torch.device(device)
        arrays = dataset.frames, dataset.conditions
        self.resident = self.device.type != "cuda" or fits(arrays, self.device)
        # frames (N, H, W, 3) uint8
        self.frames, self.conditions = (self.place(x) for x in arrays)

    def check(self) -> None:
        """Refuse what leaves a process without clips."""
        ranks.check_batches(self.settings.batch_size, sum(map(len, self.batches(0))))

    def place(self, array: np.ndarray) -> torch.Tensor:
        copied = self.resident and self.device.type != "cpu"
        return torch.tensor(array, device=self.device) if copied else torch.from_numpy(array)

    def batches(self, epoch: int) -> tuple[torch.Tensor, ...]:
        """-> the epoch's batches: frame numbers (B, T) each, on the device of the frames.

        The last, incomplete batch is dropped, as in the template, unless it is the only one.
        """
        clips = torch.from_numpy(self.clips_at(epoch)).to(self.frames.device)
        size = self.settings.batch_size
        return clips[: max(len(clips) - len(clips) % size, size)].split(size)

    def fetch(self, batches: Iterable[torch.Tensor]) -> Iterator[tuple[torch.Tensor, ...]]:
        """Yield frames (B, T, 3, H, W) in 0..1 and conditions of every batch, on the device.

        With several ranks, of this rank's rows of the batch. What is not kept on the device is read
        while the batch before it is being trained on.
        """
        batches = iter(batches)
        if self.resident:
            yield from (self.to_device(self.gather(clips), len(clips)) for clips in batches)
            return
        with ThreadPoolExecutor(1) as reader:
            ahead = deque(
                (len(x), reader.submit(self.gather, x)) for x in itertools.islice(batches, AHEAD)
            )
            while ahead:
                size, reading = ahead.popleft()
                arrays = reading.result()
                for x in itertools.islice(batches, 1):
                    ahead.append((len(x), reader.submit(self.gather, x)))
                yield self.to_device(arrays, size)

    def gather(self, clips: torch.Tensor) -> list[torch.Tensor]:
        rows = clips[ranks.rows(len(clips))]
        arrays = [x[rows] for x in (self.frames, self.conditions)]
        pinned = not self.resident and self.device.type == "cuda"
        return [x.pin_memory() for x in arrays] if pinned else arrays

    def to_device(self, arrays: Iterable, size: int) -> tuple[torch.Tensor, ...]:
        """This rank's rows of a batch of `size` clips."""
        return tuple(to_float(x.to(self.device, non_blocking=True)) for x in arrays)


def fits(arrays: Iterable, gpu: torch.device) -> bool:
    """Whether these arrays fill at most half of the GPU's free memory: they are kept there."""
    return sum(array.nbytes for array in arrays) <= torch.cuda.mem_get_info(gpu)[0] / 2
