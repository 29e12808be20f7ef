"""The predicted distribution of validation clips: z and sampled futures, for the run's report."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from ..config import Training
from .futures import Futures, sample_futures
from .latents import Latents, traverse

SAMPLES = 20  # futures


class Distribution:
    """What z contains, how likely frames are, and sampled futures of clips: frames, conditions."""

    def __init__(
        self,
        lab: Any,
        model: torch.nn.Module,
        clips: Sequence[torch.Tensor],
        settings: Training,
        posterior: bool,
        events: Mapping[int, Sequence[int]],
        progress: Callable,
    ):
        self.events, (frames, conditions) = events, clips
        self.latents = Latents(model, frames, conditions, lab.given, posterior=posterior)
        self.futures = Futures(lab, frames.cpu(), {})
        samples = range(SAMPLES if settings.latent else 1)
        shown, given = progress("sampling futures", frames.shape[1]), frames[:, : lab.given]
        for future in sample_futures(model, given, conditions, settings.seed, samples, shown):
            self.futures.add(future)
        z = self.latents.scores(events)
        self.scores = {"z": z, "futures": self.futures.scores(self.latents.sigma)}
        self.traversal = traverse(model, clips, z, events) if settings.plots else {}
