"""The predicted distribution of clips: what z contains, and sampled futures."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Optional

import torch

from ..models.rollout import sample_futures
from .futures import Futures
from .lab import Lab
from .latents import Latents, traverse

SAMPLES = 20  # futures of a validation clip


class Distribution:
    """What z of clips (frames, conditions) contains, how likely they are, and sampled futures.

    `rollouts` are the futures, one of every clip at a time; their true futures are `truth`, and
    {clip: true futures} in `outcomes`. `twin` is that of the deterministic twin.
    """

    def __init__(
        self,
        lab: Lab,
        model: torch.nn.Module,
        clips: Sequence[torch.Tensor],
        truth: Sequence[torch.Tensor],
        rollouts: Iterable[Sequence[torch.Tensor]],
        *,
        outcomes: Mapping[int, torch.Tensor] | None = None,
        events: Mapping[int, Sequence[int]] | None = None,
        posterior: bool = True,
        free_bits: float = 0,
        traversed: bool = False,
    ):
        self.lab, self.events, self.twin = lab, events or {}, None
        self.latents = Latents(model, *clips, lab.given, posterior=posterior)
        self.scores = {"z": self.latents.scores(self.events) | {"free_bits": free_bits}}
        self.futures = Futures(lab, truth, outcomes or {})
        for rollout in rollouts:
            self.futures.add(rollout)
        if self.futures.scored:
            self.scores["futures"] = self.futures.scores(self.latents.sigma)
        self.traversal = {}
        if traversed:
            self.traversal = traverse(model, clips, self.scores["z"], self.events)

    def compare(self, twin: Optional["Distribution"]) -> None:
        """Add the fit of an ideal forecast, and the scores of the deterministic twin, if any."""
        if "futures" in self.scores and (ideal := self.futures.ideal(self.latents.sigma)):
            self.scores["futures"]["ideal"] = ideal
        if twin:
            self.twin, self.scores["twin"] = twin, twin.scores


def of_validation(
    lab: Lab,
    model: torch.nn.Module,
    clips: Sequence[torch.Tensor],
    progress: Callable,
    **about: bool | Mapping | float,
) -> Distribution:
    """The distribution of validation clips, whose futures are sampled in one rollout."""
    settings, (frames, conditions) = lab.settings, clips
    n = SAMPLES if settings.latent else 1
    shown, given = progress("sampling futures", frames.shape[1]), frames[:, : lab.given]
    rollouts = sample_futures(model, given, conditions, n, settings.seed, shown)
    about |= {"traversed": settings.plots, "free_bits": settings.free_bits}
    return Distribution(lab, model, clips, frames.cpu(), rollouts, **about)
