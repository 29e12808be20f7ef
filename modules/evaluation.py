"""What a model's predicted distribution is worth on clips (definitions: modules/distributions.py).

`Latents` is about teacher-forced clips: bounds of their likelihood, and what z contains.
`Futures` is about rollouts: many sampled futures of the same clips.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from . import distributions as dist
from .models.rollout import noise_source, roll_out
from .nets.sequence import repeated
from .training.losses import kl_per_dimension

DRAWS = 16  # of z, for the importance bound
CLIPS_AT_ONCE = 8
FRAMES_AT_ONCE = 512  # predicted for several draws at a time
SHARP_FROM = 10  # sharpness is that of frames 10, 11, ...
SHOWN = 8  # futures of the first clip that the page plays
HORIZON = 64  # frames of the first clip's futures that are drawn and compared
LEAST_KNOWN = 4  # true futures of every clip for an ideal forecast: two samples, two outcomes
VALUES = (-3, -2, -1, 0, 1, 2, 3)  # of a dimension of z in a traversal


# ---------------------------------------------------------------- teacher-forced clips


class Latents:
    """The posterior of teacher-forced clips (B, T, ...), and what each draw of it predicts.

    Frames given, given + 1, ... are evaluated. Without a posterior z is drawn from the prior. The
    deterministic twin's only draw is z = 0, its bound the log likelihood itself.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        frames: torch.Tensor,
        conditions: torch.Tensor,
        given: int = 1,
        draws: int = DRAWS,
        posterior: bool = True,
    ):
        self.given, self.values = given, math.prod(frames.shape[2:])
        self.latent = posterior and model.settings.latent
        # what z is drawn from is what a rollout draws it from
        self.from_prior = not self.latent or model.samples_posterior
        # frames whose z affects no other frame may be bounded one by one
        self.frame_by_frame = model.MARKOV
        draws = draws if model.settings.latent else 1
        generator = torch.Generator().manual_seed(0)
        parts = [
            self.evaluate(model, x, c, draws, generator)
            for x, c in zip(frames.split(CLIPS_AT_ONCE), conditions.split(CLIPS_AT_ONCE))
        ]
        mse, ratios, mu, logvar = zip(*parts)
        self.mse, self.ratios = torch.cat(mse, 1), torch.cat(ratios, 1)  # (draws, B, T) each
        if self.latent:
            self.mu, self.logvar = torch.cat(mu), torch.cat(logvar)  # (B, T, N, ...)
            self.kl = dist.kl_of_frames(self.mu, self.logvar)  # (B, T)

    @torch.no_grad()
    def evaluate(
        self,
        model: torch.nn.Module,
        frames: torch.Tensor,
        conditions: torch.Tensor,
        draws: int,
        generator: torch.Generator,
    ) -> tuple:
        """-> the MSE and log p(z) / q(z) of every draw and frame, mu and logvar."""
        model.eval()
        device, results = next(model.parameters()).device, []
        frames, conditions = frames.to(device), conditions.to(device)
        rest = slice(self.given - 1, None)
        mu, logvar, predict = model.draws_of_z(frames, conditions, not self.latent)
        if self.latent:
            mu, logvar = mu[:, rest], logvar[:, rest]
        size = len(frames), frames.shape[1] - 1, *model.z_shape
        noise = torch.randn(draws, *size, generator=generator)
        for some in noise.split(max(1, FRAMES_AT_ONCE // (size[0] * size[1]))):
            some = some.to(device)
            mse = dist.frame_mse(predict(some), frames[:, 1:])[..., rest]
            ratio = torch.zeros_like(mse)
            if not self.from_prior:
                ratio = torch.stack([dist.log_ratio(mu, logvar, x[:, rest]) for x in some])
            results.append((mse, ratio))
        mse, ratios = (torch.cat(x) for x in zip(*results))
        return mse, ratios, *(x if x is None else x.cpu() for x in (mu, logvar))

    @property
    def sigma(self) -> float:
        """The standard deviation of the observation noise."""
        return math.sqrt(dist.best_variance(self.mse))

    def scores(self, events: Mapping[int, Sequence[int]]) -> dict[str, Any]:
        """Nats per frame, bits per value; what z contains, and {clip: frames} of events."""
        likelihoods = dist.gaussian_log_likelihood(self.mse, self.values, self.sigma**2)
        frames = self.mse.shape[-1]
        weights = likelihoods + self.ratios
        if not self.frame_by_frame:
            weights = weights.sum(-1, keepdim=True)
        bound = dist.importance_bound(weights).sum(-1).mean().item() / frames
        kl = self.kl if self.latent else torch.zeros_like(self.mse[0])
        elbo = dist.elbo(likelihoods, torch.zeros_like(kl) if self.from_prior else kl)
        scores = {"elbo": elbo.mean().item(), "importance_bound": bound}
        scores |= {"draws": len(self.mse), "kl": kl.mean().item()}
        scores["bits_per_value"] = dist.bits_per_value(bound, self.values)
        scores |= {"sigma": self.sigma, "given": self.given}
        if self.latent:
            scores |= self.scores_of_z()
            scores |= {"events": self.at_events(events)} if events else {}
        return scores

    def scores_of_z(self) -> dict[str, Any]:
        active, units = dist.active_units(self.mu)
        return {
            "active_units": active,
            "units": units,
            "kl_per_dimension": kl_per_dimension(self.mu, self.logvar).tolist(),
            "kl_per_step": self.kl.mean(0).tolist(),
        }

    def at_events(self, events: Mapping[int, Sequence[int]]) -> dict[str, float | None]:
        """The KL at the frames of events, beside that of the others."""
        known = {clip: frames for clip, frames in events.items() if clip < len(self.kl)}
        return dist.event_ratio(self.kl, known, self.given)


@torch.no_grad()
def traverse(
    model: torch.nn.Module,
    frames: torch.Tensor,
    conditions: torch.Tensor,
    dimensions: Sequence[int],
) -> dict[str, torch.Tensor]:
    """The last frame of a teacher-forced clip (T, ...) for VALUES of single dimensions of z.

    -> {dimension: (len(VALUES), 3, H, W)}. A value counts in standard deviations of the prior;
    all else of z is the prior's mean.
    """
    model.eval()
    device, results = next(model.parameters()).device, {}
    *_, predict = model.draws_of_z(frames[None].to(device), conditions[None].to(device), prior=True)
    for dimension in dimensions:
        noise = torch.zeros(len(VALUES), 1, len(frames) - 1, *model.z_shape, device=device)
        values = torch.tensor(VALUES, dtype=noise.dtype, device=device)
        noise[:, 0, -1, dimension] = values.view(-1, *[1] * (len(model.z_shape) - 1))
        results[f"dimension {dimension}"] = predict(noise)[:, 0, -1].cpu()
    return results


# ---------------------------------------------------------------- sampled futures


def sample_futures(
    model: torch.nn.Module,
    given: torch.Tensor,
    conditions: torch.Tensor,
    seed: int,
    samples: range,
    progress: Callable = iter,
) -> torch.Tensor:
    """given (B, P, 3, H, W), conditions (B, T, ...) -> (S, B, T, 3, H, W), in one rollout."""
    count, clips = len(samples), range(len(given))
    sources = [noise_source("sample", seed, clips, sample) for sample in samples]
    given, conditions = repeated(given, count), repeated(conditions, count)

    def noise(shape):
        return torch.cat([draw(shape) for draw in sources])

    return roll_out(model, given, conditions, noise, progress).unflatten(0, (count, -1))


class Futures:
    """Sampled futures of clips: rollouts are added, one of every clip at a time.

    `truth` are the clips; `many` has further true futures of some of them, uint8 (M, T, 3, H, W).
    """

    def __init__(self, lab: Any, truth: Sequence[torch.Tensor], many: Mapping[int, torch.Tensor]):
        self.lab, self.truth, self.many = lab, truth, many
        self.scored: list[list[dict]] = []  # of every future, the scores of every clip
        self.moments = [dist.Moments() for _ in truth]
        self.sharp: list[list[float]] = []  # of every future, of the clips long enough
        self.shown: list[torch.Tensor] = []  # the first clip's first futures, uint8
        # frames of the clips that have true futures, and of the first
        lengths = {i: futures.shape[1] for i, futures in many.items()}
        self.lengths = {0: HORIZON} | lengths
        self.samples: dict[int, list] = {i: [] for i in self.lengths}

    def add(self, futures: Sequence[torch.Tensor]) -> None:
        """One rollout (T, 3, H, W) of every clip."""
        self.scored.append([self.lab.score(x, t) for x, t in zip(futures, self.truth)])
        self.sharp.append([self.sharpness(x) for x in futures if len(x) > SHARP_FROM])
        if len(self.shown) < SHOWN:
            self.shown.append((futures[0].clamp(0, 1) * 255).round().byte())
        for i, (future, moments) in enumerate(zip(futures, self.moments)):
            moments.add(future)
            if i in self.lengths:
                self.samples[i].append(future[: self.lengths[i]].half())

    def sharpness(self, clip: torch.Tensor) -> float:
        return dist.sharpness(clip[SHARP_FROM:].clamp(0, 1)).mean().item()

    def scores(self, sigma: float) -> dict[str, Any]:
        """Best, mean and worst of N; diversity, sharpness; the fit to the true futures."""
        curves = {
            name: dist.best_of_curve(torch.tensor([[c[name] for c in row] for row in self.scored]))
            for name in ("psnr", "ssim")
        }
        scores = {"n_samples": len(self.scored)}
        for name, curve in curves.items():
            scores |= {f"{name}_{part}": curve[part][-1] for part in ("mean", "best", "worst")}
        if len(self.scored) > 1:
            scores["diversity"] = dist.diversity(self.moments, self.lab.given)
        if true := [self.sharpness(clip) for clip in self.truth if len(clip) > SHARP_FROM]:
            scores["sharpness"] = float(np.mean(self.sharp) / np.mean(true))
        return scores | self.fit(sigma) | {"best_of": curves}

    def fit(self, sigma: float) -> dict[str, Any]:
        """The predictive distribution against the true futures, `sigma` its observation noise.

        Where only one true future is known, the values that differ from the given frame count.
        """
        sampled = (
            (torch.stack(self.samples[i]).float()[:, : truths.shape[1]], truths, truths)
            for i, truths in self.true_futures()
        )
        return {"true_futures": self.known()} | self.fit_of_forecasts(sampled, sigma)

    def ideal(self, sigma: float) -> dict[str, Any] | None:
        """The fit of an ideal forecast: half of the true futures, scored on the other half."""
        if self.known() < LEAST_KNOWN:
            return None
        return self.fit_of_forecasts(((x[::2], x[1::2], x) for _, x in self.true_futures()), sigma)

    def known(self) -> int:
        """How many true futures are known, of the clip that has the fewest."""
        return min(map(len, self.many.values()), default=1)

    def fit_of_forecasts(
        self, forecasts: Iterable[tuple[torch.Tensor, torch.Tensor, torch.Tensor]], sigma: float
    ) -> dict[str, Any]:
        """A forecast: samples, the true futures to score them on, all that are known."""
        given, energies, pits = self.lab.given, [], []
        for samples, truths, known in forecasts:
            samples, truths, known = samples[:, given:], truths[:, given:], known[:, given - 1 :]
            moving = (
                dist.moving_values(known[:, 1:])
                if len(known) > 1
                else (known[0, 1:] - known[0, 0]).abs() > dist.MOVING
            )
            energies.append(dist.energy_score(samples, truths).mean())
            pits.append(dist.pit_values(samples, truths, sigma, moving).flatten())
        pit = torch.cat(pits)
        return {
            "energy_score": torch.stack(energies).mean().item(),
            "coverage_50": dist.coverage(pit, 0.5),
            "coverage_90": dist.coverage(pit, 0.9),
            "rank_histogram": dist.rank_histogram(pit).tolist(),
        }

    def true_futures(self) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield a clip and its true futures (M, T, 3, H, W) in 0..1; if none, the first clip."""
        if not self.many:
            yield 0, self.truth[0][None, :HORIZON]
        for i, futures in self.many.items():
            yield i, futures.float() / 255
