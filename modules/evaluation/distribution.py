"""The predicted distribution of clips: what z contains, and sampled futures."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Optional

import torch

from ..errors import UserError
from ..models.rollout import sample_futures
from .codes import known_codes
from .futures import Futures
from .lab import Lab
from .latents import Latents, traverse

SAMPLES = 20  # futures of a validation clip
FRAMES = 64  # of a clip, for what is measured of z
VAL_CLIPS = 8  # to which a test fits the observation noise


class Distribution:
    """What z of clips (frames, conditions) contains, how likely they are, and sampled futures.

    `rollouts` are the futures, one of every clip at a time; their true futures are `truth`, and
    {clip: true futures} in `outcomes`, of which the first `samples` are an ideal forecast. The
    observation noise is fitted to validation clips, `val`; without them to the clips themselves.
    `twin` is that of the deterministic twin, or of several.
    """

    def __init__(
        self,
        lab: Lab,
        model: torch.nn.Module | Sequence[torch.nn.Module],
        clips: Sequence[torch.Tensor],
        truth: Sequence[torch.Tensor],
        rollouts: Iterable[Sequence[torch.Tensor]],
        *,
        val: Sequence[torch.Tensor] | None = None,
        outcomes: Mapping[int, torch.Tensor] | None = None,
        samples: int = 0,
        events: Mapping[int, Sequence[int]] | None = None,
        posterior: bool = True,
        free_bits: float = 0,
        traversed: bool = False,
    ):
        self.lab, self.clips, self.events, self.twin = lab, clips, events or {}, None
        sigma = val and Latents(model, *val, lab.given, posterior=posterior).sigma
        self.latents = Latents(model, *clips, lab.given, posterior=posterior, sigma=sigma)
        entropy = lab.entropy() if events else None
        z = self.latents.scores(self.events, entropy)
        self.scores = {"z": z | {"free_bits": free_bits}}
        self.futures = Futures(lab, truth, outcomes or {}, self.events, samples)
        for rollout in rollouts:
            self.futures.add(rollout)
        if self.futures.scored:
            self.scores["futures"] = self.futures.scores(self.latents.sigma)
        self.traversal = {}
        if traversed:
            self.traversal = traverse(model, clips, self.scores["z"], self.events)

    def compare(self, twin: Optional["Distribution"]) -> None:
        """Add codes without a model, an ideal forecast, and the deterministic twin, if any."""
        self.scores["codes"] = known_codes(self.clips[0], self.lab.given)
        sigma, futures = self.latents.sigma, self.futures
        if futures.scored and (ideal := futures.ideal(sigma)):
            self.scores["futures"]["ideal"] = ideal.scores(sigma)
        if twin:
            self.twin, self.scores["twin"] = twin, twin.scores
            self.scores["minus_twin"] = minus = {"z": self.latents.minus(twin.latents)}
            if futures.scored:
                minus["futures"] = futures.minus(twin.futures)


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


def stacked(clips: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> list[torch.Tensor]:
    """Frames and conditions of clips, cut to the same length."""
    parts = [*zip(*clips)]
    length = min(FRAMES, *map(len, parts[0]))
    return [torch.stack([x[:length] for x in part]) for part in parts]


def validation_clips(lab: Lab) -> list[torch.Tensor] | None:
    """Those that the observation noise is fitted to."""
    try:
        clips = lab.open_val()
    except UserError as error:
        print(
            f"no validation clips ({error}): the observation noise is fitted to the test clips, "
            "so there is no code length"
        )
        return None
    return stacked(clips[i] for i in range(min(VAL_CLIPS, len(clips))))
