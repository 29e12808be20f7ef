"""Teacher-forced clips: bounds of their likelihood, and what the latent variable z contains.

In nats, unless a name says bits. Sequences are (B, T, C, H, W) floats in 0..1. mu and logvar,
(B, T, N, ...), are the posterior's, relative to the prior (modules/nets/gaussian.py), so that the
prior is N(0, I).
"""

import math
from collections.abc import Mapping, Sequence
from operator import sub
from typing import Any

import torch

from ..nets.gaussian import sample
from ..training.losses import kl_per_dimension, kl_values
from .codes import bits_per_value, grey_log_likelihood
from .intervals import bootstrap

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


def mutual_information(mu: torch.Tensor, logvar: torch.Tensor) -> float:
    """(B, T, N, ...) twice -> I(x; z) in nats: the mean over the frames of KL(q(z | x) || q(z)).

    q(z) is the mixture of the posteriors of these n frames, so I is at most log n. The mean KL to
    the prior is I + KL(q(z) || p(z)) (Hoffman & Johnson 2016). Estimated by a draw for each frame.
    """
    mu, logvar = (x.double().flatten(0, 1).flatten(1) for x in (mu, logvar))
    noise = torch.randn(mu.shape, dtype=mu.dtype, generator=torch.Generator().manual_seed(0))
    z, precision = sample(mu, logvar, noise), torch.exp(-logvar)
    # log q(z_i | x_j), up to a constant
    squares = z.pow(2) @ precision.T - 2 * z @ (mu * precision).T
    logs = -0.5 * (squares + (mu.pow(2) * precision + logvar).sum(1))
    marginal = logs.logsumexp(1) - math.log(len(logs))
    return (logs.diagonal() - marginal).mean().item()


def near_events(
    shape: Sequence[int], events: Mapping[int, Sequence[int]], first: int, count: int
) -> torch.Tensor:
    """{clip: frames of its events} -> (B, T) of bool, of frames first, first + 1, ...: whether a
    frame is one of `count` frames from an event on."""
    frames, near = first + torch.arange(shape[1]), torch.zeros(*shape, dtype=torch.bool)
    for clip, starts in events.items():
        for start in starts if clip < len(near) else ():
            near[clip] |= (frames >= start) & (frames < start + count)
    return near


def event_means(
    kl: torch.Tensor,
    events: Mapping[int, Sequence[int]],
    first: int,
    nats: Mapping[str, float] | None = None,
) -> dict[str, float | None]:
    """KL (B, T) of frames first, first + 1, ... -> its mean over the frames at events, over all
    others, and the difference; None without such frames.

    `nats` {event, other}: the world's true entropy at the frame of an event, and at any other; its
    means over the same frames are what KL would be if z held all that is random, and nothing else.
    """
    near = near_events(kl.shape, events, first, EVENT_FRAMES)

    def means(values):
        return [part.mean().item() if len(part) else None for part in (values[near], values[~near])]

    at, elsewhere = means(kl)
    difference = None if None in (at, elsewhere) else at - elsewhere
    found = {"at_events": at, "elsewhere": elsewhere, "difference": difference}
    if nats:
        here = near_events(kl.shape, events, first, 1)
        true = torch.where(here, nats["event"], nats["other"]).double()
        names = "entropy_at_events", "entropy_elsewhere", "entropy"
        found |= dict(zip(names, [*means(true), true.mean().item()]))
    return found


class Latents:
    """The posterior of teacher-forced clips (B, T, ...), and what each draw of it predicts.

    Frames given, given + 1, ... are evaluated. Without a posterior z is drawn from the prior. The
    deterministic twin's only draw is z = 0, its bound the log likelihood itself; of several twins
    each is a draw, and the bound is the log likelihood of their mixture. `sigma` is the
    standard deviation of the observation noise, fitted to other frames: a code length needs that.
    Without it, it is fitted to these frames.
    """

    def __init__(
        self,
        model: torch.nn.Module | Sequence[torch.nn.Module],
        frames: torch.Tensor,
        conditions: torch.Tensor,
        given: int = 1,
        draws: int = DRAWS,
        posterior: bool = True,
        sigma: float | None = None,
    ):
        self.given, self.values, self.sigma = given, math.prod(frames.shape[2:]), sigma
        models = [model] if isinstance(model, torch.nn.Module) else model
        model = models[0]
        self.latent = posterior and model.settings.latent
        # what z is drawn from is what a rollout draws it from
        self.from_prior = not self.latent or model.samples_posterior
        # frames whose z affects no other frame may be bounded one by one
        self.frame_by_frame = model.MARKOV
        draws = draws if model.settings.latent else 1
        generator = torch.Generator().manual_seed(0)
        batches = [
            self.evaluate(models, *batch, draws, generator)
            for batch in zip(frames.split(CLIPS_AT_ONCE), conditions.split(CLIPS_AT_ONCE))
        ]
        *draws_of, mu, logvar = zip(*batches)
        # (draws, B, T) each: of 8-bit frames the log likelihood, if sigma is known
        self.mse, self.ratios, self.grey = (torch.cat(x, 1) for x in draws_of)
        self.sigma = sigma or math.sqrt(best_variance(self.mse))
        self.codes = sigma is not None
        if self.latent:
            self.mu, self.logvar = torch.cat(mu), torch.cat(logvar)  # (B, T, N, ...)
            self.kl = kl_of_frames(self.mu, self.logvar)  # (B, T)

    @torch.no_grad()
    def evaluate(
        self,
        models: Sequence[torch.nn.Module],
        frames: torch.Tensor,
        conditions: torch.Tensor,
        draws: int,
        generator: torch.Generator,
    ) -> tuple:
        """-> of every draw and frame the MSE, log p(z) / q(z) and log P; mu and logvar."""
        device, results = next(models[0].parameters()).device, []
        frames, conditions = frames.to(device), conditions.to(device)
        evaluated, true = slice(self.given - 1, None), frames[:, self.given :]
        size = len(frames), frames.shape[1] - 1, *models[0].z_shape
        for model in models:
            mu, logvar, predict = model.eval().draws_of_z(frames, conditions, not self.latent)
            if self.latent:
                mu, logvar = mu[:, evaluated], logvar[:, evaluated]
            noise = torch.randn(draws, *size, generator=generator)
            for noises in noise.split(max(1, FRAMES_AT_ONCE // (size[0] * size[1]))):
                noises = noises.to(device)
                pred = predict(noises)[:, :, evaluated]
                results.append(self.measure(pred, true, mu, logvar, noises[:, :, evaluated]))
        results = (torch.cat(x) for x in zip(*results))
        return *results, *(x if x is None else x.cpu() for x in (mu, logvar))

    def measure(
        self,
        pred: torch.Tensor,
        true: torch.Tensor,
        mu: torch.Tensor | None,
        logvar: torch.Tensor | None,
        noises: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        """Predictions (draws, B, T, ...) -> (draws, B, T) each: MSE, log p(z) / q(z), log P."""
        mse = frame_mse(pred, true)
        ratio, grey = torch.zeros_like(mse), torch.zeros_like(mse)
        if not self.from_prior:
            ratio = torch.stack([log_ratio(mu, logvar, noise) for noise in noises])
        if self.sigma:
            grey = grey_log_likelihood(pred, true, self.sigma).cpu()
        return mse, ratio, grey

    def log_likelihoods(self) -> torch.Tensor:
        """(draws, B, T): log p(x | z)."""
        return gaussian_log_likelihood(self.mse, self.values, self.sigma**2)

    def bounds(self, likelihoods: torch.Tensor) -> torch.Tensor:
        """log p(x | z) of every draw and frame -> (B,): the importance bound, nats per frame."""
        weights = likelihoods + self.ratios
        if not self.frame_by_frame:
            weights = weights.sum(-1, keepdim=True)
        return importance_bound(weights).sum(-1) / self.mse.shape[-1]

    def minus(self, other: "Latents") -> dict[str, dict[str, float]]:
        """How much the bound differs from another model's, with its 95 % interval over clips."""
        bounds = (x.bounds(x.log_likelihoods()) for x in (self, other))
        return {"importance_bound": bootstrap(sub(*bounds))}

    def scores(
        self, events: Mapping[int, Sequence[int]], nats: Mapping[str, float] | None = None
    ) -> dict[str, Any]:
        """Nats per frame, bits per value; what z contains, and {clip: frames} of events."""
        likelihoods = self.log_likelihoods()
        kl = self.kl if self.latent else torch.zeros_like(self.mse[0])
        cost = torch.zeros_like(kl) if self.from_prior else kl
        scores = {
            "elbo": elbo(likelihoods, cost).mean().item(),
            "importance_bound": self.bounds(likelihoods).mean().item(),
            "draws": len(self.mse),
            "kl": kl.mean().item(),
            "sigma": self.sigma,
            "given": self.given,
        }
        if self.codes:
            bound = self.bounds(self.grey).mean().item()
            scores["bits_per_value"] = bits_per_value(bound, self.values)
        return scores | (self.scores_of_z(events, nats) if self.latent else {})

    def scores_of_z(
        self, events: Mapping[int, Sequence[int]], nats: Mapping[str, float] | None
    ) -> dict[str, Any]:
        active, units = active_units(self.mu)
        information = mutual_information(self.mu, self.logvar)
        scores = {
            "mutual_information": information,
            "marginal_kl": self.kl.mean().item() - information,
            "active_units": active,
            "units": units,
            "kl_per_dimension": kl_per_dimension(self.mu, self.logvar).tolist(),
            "kl_per_step": self.kl.mean(0).tolist(),
        }
        if events:
            scores["events"] = event_means(self.kl, events, self.given, nats)
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
