"""Teacher-forced clips: bounds of their likelihood, and what the latent variable z contains.

In nats, unless a name says bits. Sequences are (B, T, C, H, W) floats in 0..1. mu and logvar,
(B, T, N, ...), are the posterior's, relative to the prior (modules/nets/gaussian.py), so that the
prior is N(0, I).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..nets.gaussian import sample
from ..training.losses import kl_per_dimension, kl_values

VARIANCE_FLOOR = 1e-6  # of the observation noise: 60 dB
ACTIVE_VARIANCE = 0.01  # Burda et al. (2016)
ACTIVE_NATS = 0.1  # a dimension of z with less KL carries no information
EVENT_FRAMES = 3  # an event's frame and the following ones
DRAWS = 16  # of z, for the importance bound
CLIPS_AT_ONCE = 8
FRAMES_AT_ONCE = 512  # predicted for several draws at a time
TRAVERSED_DIMENSIONS = 4
TRAVERSED_VALUES = (-3, -2, -1, 0, 1, 2, 3)

# ---------------------------------------------------------------- likelihood


def frame_mse(pred: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """(..., C, H, W) twice -> (...): the mean squared error of every frame, not clamped to 0..1."""
    return (pred.float() - true.float()).pow(2).mean(dim=(-3, -2, -1)).cpu().double()


def best_variance(mse: torch.Tensor) -> float:
    """MSE of every evaluated frame -> sigma^2, the variance of p(x | z) with the most likelihood.

    One value for all values of all frames; the maximum of the likelihood is at their MSE.
    """
    return max(mse.double().mean().item(), VARIANCE_FLOOR)


def gaussian_log_likelihood(mse: torch.Tensor, values: int, sigma2: float) -> torch.Tensor:
    """log N(x; predicted frame, sigma^2 I) of frames of `values` values, from their MSE."""
    return -0.5 * values * (math.log(2 * math.pi * sigma2) + mse / sigma2)


def bits_per_value(nats: float, values: int) -> float:
    """Log likelihood of `values` values in 0..1 -> bits per value; lower is better.

    The density is per grey level, 1/255: p(255 x) = p(x) / 255 for every value.
    """
    return math.log2(255) - nats / (values * math.log(2))


# ---------------------------------------------------------------- bounds of log p(x)


def kl_of_frames(mu: torch.Tensor, logvar: torch.Tensor) -> torch.Tensor:
    """-> (B, T): KL(q(z) || p(z)) of every frame, summed over z."""
    return kl_values(mu, logvar).flatten(2).sum(2).cpu().double()


def log_ratio(mu: torch.Tensor, logvar: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """-> (B, T): log p(z) - log q(z), summed over z = mu + noise * exp(logvar / 2).

    With a learned prior, too: the map that makes the prior N(0, I) cancels in the ratio.
    """
    mu, logvar, noise = mu.float(), logvar.float(), noise.float()
    # noise^2 - z^2, in terms that are all small near the prior, so that none is lost in rounding
    shift = mu * (2 * sample(mu, logvar, noise) - mu)
    ratio = 0.5 * (logvar - torch.expm1(logvar) * noise.pow(2) - shift)
    return ratio.flatten(2).sum(2).cpu().double()


def elbo(log_likelihoods: torch.Tensor, kl: torch.Tensor) -> torch.Tensor:
    """log p(x | z) of K draws of z from q (K, ...), KL (...) -> (...): the evidence lower bound.

    E_q[log p(x | z)] - KL(q(z) || p(z)), the expectation estimated by the mean over the draws.
    """
    return log_likelihoods.mean(0) - kl


def importance_bound(log_weights: torch.Tensor) -> torch.Tensor:
    """log w of K draws of z from q (K, ...) -> (...): log mean w, w = p(x | z) p(z) / q(z).

    A lower bound of log p(x), in expectation; tighter with every draw (Burda et al. 2016). Its
    frames may be bounded one by one only if each depends on its own z and on true frames. Where a
    state remembers z of earlier frames, sum the log weights over the clip first.
    """
    return torch.logsumexp(log_weights, dim=0) - math.log(len(log_weights))


# ---------------------------------------------------------------- what z contains


def active_units(mu: torch.Tensor) -> tuple[int, int]:
    """-> the number of active latent values, and of all (Burda et al. 2016).

    Active: the variance over (B, T) of the posterior's mean is above ACTIVE_VARIANCE.
    """
    variance = mu.float().flatten(0, 1).var(dim=0, correction=0)
    return int((variance > ACTIVE_VARIANCE).sum()), variance.numel()


def event_ratio(
    kl: torch.Tensor, events: Mapping[int, Sequence[int]], first: int
) -> dict[str, float | None]:
    """KL (B, T) of frames first, first + 1, ...; {clip: frames of its events} -> the mean KL of
    the frames at events, the mean KL of all others, and their ratio.

    A mean over no frame is None, and so is a ratio without both means, or over a mean of 0.
    """
    frames = first + torch.arange(kl.shape[1])
    near = torch.zeros(kl.shape, dtype=torch.bool)
    for clip, starts in events.items():
        for start in starts:
            near[clip] |= (frames >= start) & (frames < start + EVENT_FRAMES)
    at, elsewhere = (part.mean().item() if len(part) else None for part in (kl[near], kl[~near]))
    ratio = at / elsewhere if at is not None and elsewhere else None
    return {"at_events": at, "elsewhere": elsewhere, "ratio": ratio}


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
        batches = [
            self.evaluate(model, *batch, draws, generator)
            for batch in zip(frames.split(CLIPS_AT_ONCE), conditions.split(CLIPS_AT_ONCE))
        ]
        mse, ratios, mu, logvar = zip(*batches)
        self.mse, self.ratios = torch.cat(mse, 1), torch.cat(ratios, 1)  # (draws, B, T) each
        if self.latent:
            self.mu, self.logvar = torch.cat(mu), torch.cat(logvar)  # (B, T, N, ...)
            self.kl = kl_of_frames(self.mu, self.logvar)  # (B, T)

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
        evaluated = slice(self.given - 1, None)
        mu, logvar, predict = model.draws_of_z(frames, conditions, not self.latent)
        if self.latent:
            mu, logvar = mu[:, evaluated], logvar[:, evaluated]
        size = len(frames), frames.shape[1] - 1, *model.z_shape
        noise = torch.randn(draws, *size, generator=generator)
        for noises in noise.split(max(1, FRAMES_AT_ONCE // (size[0] * size[1]))):
            noises = noises.to(device)
            mse = frame_mse(predict(noises), frames[:, 1:])[..., evaluated]
            ratio = torch.zeros_like(mse)
            if not self.from_prior:
                ratio = torch.stack([log_ratio(mu, logvar, x[:, evaluated]) for x in noises])
            results.append((mse, ratio))
        mse, ratios = (torch.cat(x) for x in zip(*results))
        return mse, ratios, *(x if x is None else x.cpu() for x in (mu, logvar))

    @property
    def sigma(self) -> float:
        """The standard deviation of the observation noise."""
        return math.sqrt(best_variance(self.mse))

    def scores(self, events: Mapping[int, Sequence[int]]) -> dict[str, Any]:
        """Nats per frame, bits per value; what z contains, and {clip: frames} of events."""
        likelihoods = gaussian_log_likelihood(self.mse, self.values, self.sigma**2)
        weights = likelihoods + self.ratios
        if not self.frame_by_frame:
            weights = weights.sum(-1, keepdim=True)
        bound = importance_bound(weights).sum(-1).mean().item() / self.mse.shape[-1]
        kl = self.kl if self.latent else torch.zeros_like(self.mse[0])
        scores = {
            "elbo": elbo(likelihoods, torch.zeros_like(kl) if self.from_prior else kl)
            .mean()
            .item(),
            "importance_bound": bound,
            "draws": len(self.mse),
            "kl": kl.mean().item(),
            "bits_per_value": bits_per_value(bound, self.values),
            "sigma": self.sigma,
            "given": self.given,
        }
        return scores | (self.scores_of_z(events) if self.latent else {})

    def scores_of_z(self, events: Mapping[int, Sequence[int]]) -> dict[str, Any]:
        active, units = active_units(self.mu)
        scores = {
            "active_units": active,
            "units": units,
            "kl_per_dimension": kl_per_dimension(self.mu, self.logvar).tolist(),
            "kl_per_step": self.kl.mean(0).tolist(),
        }
        if events:
            evaluated = {clip: frames for clip, frames in events.items() if clip < len(self.kl)}
            scores["events"] = event_ratio(self.kl, evaluated, self.given)
        return scores


# ---------------------------------------------------------------- traversal of z


def traverse(
    model: torch.nn.Module,
    clips: Sequence[torch.Tensor],
    scores: Mapping[str, Any],
    events: Mapping[int, Sequence[int]],
) -> dict[str, torch.Tensor]:
    """Frames and conditions of clips, scores of Latents -> {dimension: (values, 3, H, W)}.

    A frame of the first clip, at an event or in the middle, for TRAVERSED_VALUES of its z.
    """
    dimensions = strongest_dimensions(scores.get("kl_per_dimension", []))
    length = clips[0].shape[1]
    frames = [t for t in events.get(0, ()) if scores["given"] <= t < length] or [length // 2]
    clip = [x[0, : frames[0] + 1] for x in clips]
    return {f"dimension {i}": vary(model, *clip, i) for i in dimensions}


def strongest_dimensions(kl: Sequence[float]) -> list[int]:
    """The dimensions of z with the most KL that carry information; if none does, the strongest."""
    strongest = sorted(range(len(kl)), key=lambda i: -kl[i])[:TRAVERSED_DIMENSIONS]
    return [i for i in strongest if kl[i] > ACTIVE_NATS] or strongest[:1]


@torch.no_grad()
def vary(
    model: torch.nn.Module, frames: torch.Tensor, conditions: torch.Tensor, dimension: int
) -> torch.Tensor:
    """-> (values, 3, H, W): the last frame of a teacher-forced clip (T, ...).

    TRAVERSED_VALUES of a dimension count in standard deviations of the prior; all else of z is the
    prior's mean.
    """
    device = next(model.eval().parameters()).device
    *_, predict = model.draws_of_z(frames[None].to(device), conditions[None].to(device), prior=True)
    values = torch.tensor(TRAVERSED_VALUES, dtype=torch.get_default_dtype(), device=device)
    noise = torch.zeros(len(values), 1, len(frames) - 1, *model.z_shape, device=device)
    noise[:, 0, -1, dimension] = values.view(-1, *[1] * (len(model.z_shape) - 1))
    return predict(noise)[:, 0, -1].cpu()
