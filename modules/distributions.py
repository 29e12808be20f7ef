"""Measures of the distribution that a conditional VAE predicts; in nats, unless a name says bits.

Sequences are (B, T, C, H, W) floats in 0..1. mu and logvar, (B, T, N, ...), are the posterior's,
relative to the prior (modules/nets/gaussian.py), so that the prior is N(0, I).
"""

import math
from collections.abc import Iterable

import torch

from .nets.gaussian import sample
from .training.losses import kl_values

VARIANCE_FLOOR = 1e-6  # of the observation noise: 60 dB
ACTIVE_VARIANCE = 0.01  # Burda et al. (2016)
MOVING = 0.02  # standard deviation over the true futures of a value that differs between them

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
    """log N(x; predicted frame, sigma^2 I) of frames of so many values, from their MSE."""
    return -0.5 * values * (math.log(2 * math.pi * sigma2) + mse / sigma2)


def bits_per_value(nats: float, values: int) -> float:
    """Log likelihood of so many values in 0..1 -> bits per value; lower is better.

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


def active_units(mu: torch.Tensor, threshold: float = ACTIVE_VARIANCE) -> tuple[int, int]:
    """-> how many latent values are active, of how many (Burda et al. 2016).

    Active: the variance over (B, T) of the posterior's mean is above the threshold.
    """
    variance = mu.float().flatten(0, 1).var(dim=0, correction=0)
    return int((variance > threshold).sum()), variance.numel()


def event_ratio(
    kl: torch.Tensor, events: dict[int, list[int]], first: int, window: int = 3
) -> dict[str, float | None]:
    """KL (B, T) of frames first, first + 1, ...; {clip: frames of its events} -> the mean KL of
    the frames at events, the mean KL of all others, and their ratio.

    At an event are its frame and the following ones, `window` in all. A mean over no frame is
    None, and so is a ratio without both means, or over a mean of 0.
    """
    frames = first + torch.arange(kl.shape[1])
    near = torch.zeros(kl.shape, dtype=torch.bool)
    for clip, starts in events.items():
        for start in starts:
            near[clip] |= (frames >= start) & (frames < start + window)
    at, elsewhere = (part.mean().item() if len(part) else None for part in (kl[near], kl[~near]))
    ratio = at / elsewhere if at is not None and elsewhere else None
    return {"at_events": at, "elsewhere": elsewhere, "ratio": ratio}


# ---------------------------------------------------------------- many futures of a clip


class Moments:
    """Mean and standard deviation of each value over futures that are added one by one.

    Welford's method: the memory does not grow with their number. Values are clamped to 0..1.
    """

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, 0.0, 0.0

    def add(self, frames: torch.Tensor) -> None:
        values = frames.cpu().double().clamp(0, 1)
        self.count += 1
        change = values - self.mean
        self.mean = self.mean + change / self.count
        self.squares = self.squares + change * (values - self.mean)

    def deviation(self) -> torch.Tensor:
        """The standard deviation over the futures, its variance unbiased."""
        if self.count < 2:
            raise ValueError(f"a standard deviation over {self.count} futures: it needs two")
        return (self.squares / (self.count - 1)).clamp_min(0).sqrt()


def diversity(clips: Iterable[Moments], given: int = 0) -> float:
    """Standard deviation of a value over the futures, in grey levels of 255.

    Averaged over all values of all clips (T, ...), but for the first `given` frames.
    """
    return 255 * torch.cat([clip.deviation()[given:].flatten() for clip in clips]).mean().item()


def best_weights(m: int, n: int) -> torch.Tensor:
    """-> (m,): P(the highest of n draws without replacement is the i-th lowest of m scores).

    C(i - 1, n - 1) / C(m, n) for i = 1..m, by the ratios of neighbours: nothing overflows.
    """
    if not 1 <= n <= m:
        raise ValueError(f"best of {n} draws out of {m}: n must be 1..{m}")
    i = torch.arange(m, 1, -1, dtype=torch.float64)
    ratios = ((i - n) / (i - 1)).clamp_min(0)
    return torch.cat([torch.tensor([n / m], dtype=torch.float64), ratios]).cumprod(0).flip(0)


def best_of(scores: torch.Tensor, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores of M futures (M, clips) -> (clips,) twice: the expected best and worst of n.

    The mean over all subsets of n futures, so unbiased; the highest score is the best.
    """
    ordered = torch.as_tensor(scores, dtype=torch.float64).sort(0).values
    weights = best_weights(len(ordered), n)
    return weights @ ordered, weights.flip(0) @ ordered


def best_of_curve(scores: torch.Tensor) -> dict[str, list[float]]:
    """Scores (M, clips) -> best, mean and worst of n = 1..M futures, averaged over the clips."""
    counts = range(1, len(scores) + 1)
    best, worst = zip(*([x.mean().item() for x in best_of(scores, n)] for n in counts))
    mean = torch.as_tensor(scores, dtype=torch.float64).mean().item()
    return {
        "n": list(counts),
        "best": list(best),
        "mean": [mean] * len(counts),
        "worst": list(worst),
    }


def sharpness(frames: torch.Tensor) -> torch.Tensor:
    """(..., C, H, W) -> (...): the root mean square of a frame's gradient.

    The gradient's parts are the differences to the next value in the row and in the column. Its
    square is dominated by edges: an edge that is blurred over w pixels counts 1 / w.
    """
    here = frames[..., :-1, :-1]
    dx, dy = frames[..., :-1, 1:] - here, frames[..., 1:, :-1] - here
    return (dx.pow(2) + dy.pow(2)).mean(dim=(-3, -2, -1)).sqrt()


# ---------------------------------------------------------------- many true futures


def energy_score(samples: torch.Tensor, truths: torch.Tensor) -> torch.Tensor:
    """N sampled futures (N, ..., C, H, W), M true ones (M, ..., C, H, W) -> (...), for every frame.

    E|X - y| - E|X - X'| / 2, with X and X' two different samples and y a true future; lower is
    better, and the true distribution has the lowest expectation (Gneiting & Raftery 2007). |.| is
    the root mean square over the values of a frame. A single sample is a point forecast: X' = X.
    """
    values = math.prod(truths.shape[-3:])
    pairs = zip(*(x.reshape(len(x), -1, values).unbind(1) for x in (samples, truths)))
    return torch.stack([frame_energy(*pair) for pair in pairs]).view(truths.shape[1:-3])


def frame_energy(samples: torch.Tensor, truths: torch.Tensor) -> torch.Tensor:
    """(N, values), (M, values) -> the energy score of one frame."""
    samples, truths = (x.double() / math.sqrt(x.shape[1]) for x in (samples, truths))
    exact = "donot_use_mm_for_euclid_dist"  # a product of matrices loses small distances
    error = torch.cdist(samples, truths, compute_mode=exact).mean()
    return error - torch.pdist(samples).mean() / 2 if len(samples) > 1 else error


def moving_values(truths: torch.Tensor, threshold: float = MOVING) -> torch.Tensor:
    """M true futures (M, ...) -> (...), bool: the values whose standard deviation is above it."""
    if len(truths) < 2:
        raise ValueError(f"values that differ between {len(truths)} true futures: it needs two")
    return truths.std(dim=0) > threshold


def pit_values(
    samples: torch.Tensor, truths: torch.Tensor, sigma: float, moving: torch.Tensor | None = None
) -> torch.Tensor:
    """N sampled futures (N, ...), M true ones (M, ...) -> (M, values): probability integral
    transforms (PIT) of the true values, of those where `moving` is true.

    The predictive distribution of a value is the mixture of N(x_k, sigma^2) over its N samples
    x_k. The PIT of y is its distribution function there, the mean of Phi((y - x_k) / sigma). It is
    uniform in 0..1 if the forecast is calibrated (Gneiting et al. 2007). A small sigma needs many
    samples: about 1 / (N + 1) of the true values are below all N samples, and as many above.
    """
    chosen = torch.ones_like(truths[0], dtype=torch.bool) if moving is None else moving
    scale = sigma * math.sqrt(2)
    truths = truths[:, chosen] / scale
    total, work = torch.zeros_like(truths), torch.empty_like(truths)
    for x in samples:  # one by one, in the same memory
        total += torch.sub(truths, x[chosen] / scale, out=work).erf_()  # 2 Phi - 1
    return 0.5 + total / (2 * len(samples))


def coverage(pit: torch.Tensor, level: float = 0.9) -> float | None:
    """The share of true values in the central `level` interval of the predictive distribution."""
    inside = (pit - 0.5).abs() <= level / 2
    return inside.double().mean().item() if len(inside.flatten()) else None


def rank_histogram(pit: torch.Tensor, bins: int = 20) -> torch.Tensor:
    """-> (bins,): how many true values have their PIT in each of the equal intervals of 0..1.

    The limit of the rank histogram for many samples. Flat: calibrated. U: too narrow a forecast.
    A hump: too wide. A slope: biased.
    """
    return torch.bincount((pit.flatten() * bins).long().clamp(0, bins - 1), minlength=bins)
