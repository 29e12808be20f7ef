"""Sampled futures of clips: their spread, the best and worst of N, their fit to true futures."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Optional

import numpy as np
import torch

from .intervals import bootstrap
from .lab import Lab
from .metrics import mean_ssim

MOVING_DEVIATION = 0.02  # over the true futures, of a value that differs between them
RANK_BINS = 20
SHARP_FROM = 10  # sharpness is that of frames 10, 11, ...
PAGE_FUTURES = 8  # of the first clip: the page plays them
SCORES = "psnr", "psnr_from_event", "ssim"  # of a rollout
FIRST_CLIP_FRAMES = 64  # of its futures are drawn and compared

# ---------------------------------------------------------------- spread


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
        """The standard deviation over two futures or more, its variance unbiased."""
        return (self.squares / (self.count - 1)).clamp_min(0).sqrt()


def diversity(clips: Iterable[Moments], given: int) -> tuple[float, float]:
    """Standard deviation of a value over the futures, in grey levels of 255: mean and largest.

    Over all values of all clips (T, ...), but for the first `given` frames.
    """
    deviation = torch.cat([clip.deviation()[given:].flatten() for clip in clips])
    return 255 * deviation.mean().item(), 255 * deviation.max().item()


def sharpness(frames: torch.Tensor) -> torch.Tensor:
    """(..., C, H, W) -> (...): the root mean square of a frame's gradient.

    The gradient's parts are the differences to the next value in the row and in the column. Its
    square is dominated by edges: an edge that is blurred over w pixels counts 1 / w.
    """
    corner = frames[..., :-1, :-1]
    dx, dy = frames[..., :-1, 1:] - corner, frames[..., 1:, :-1] - corner
    return (dx.pow(2) + dy.pow(2)).mean(dim=(-3, -2, -1)).sqrt()


# ---------------------------------------------------------------- best of N


def best_weights(m: int, n: int) -> torch.Tensor:
    """-> (m,): P(the highest of n draws without replacement is the i-th lowest of m scores).

    C(i - 1, n - 1) / C(m, n) for i = 1..m, by the ratios of neighbours: nothing overflows.
    """
    i = torch.arange(m, 1, -1, dtype=torch.float64)
    ratios = ((i - n) / (i - 1)).clamp_min(0)
    return torch.cat([torch.tensor([n / m], dtype=torch.float64), ratios]).cumprod(0).flip(0)


def best_of(scores: torch.Tensor, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores of M futures (M, clips) -> (clips,) twice: the expected best and worst of n.

    The mean over all subsets of n futures, so unbiased; the highest score is the best.
    """
    ordered, weights = scores.double().sort(0).values, best_weights(len(scores), n)
    return weights @ ordered, weights.flip(0) @ ordered


def best_of_curve(scores: torch.Tensor) -> dict[str, list[float]]:
    """Scores (M, clips) -> best, mean and worst of n = 1..M futures, averaged over the clips."""
    counts = range(1, len(scores) + 1)
    best, worst = zip(*([x.mean().item() for x in best_of(scores, n)] for n in counts))
    mean = [scores.double().mean().item()] * len(counts)
    return {"n": list(counts), "best": list(best), "mean": mean, "worst": list(worst)}


# ---------------------------------------------------------------- fit to true futures


def energy_score(samples: torch.Tensor, truths: torch.Tensor, norm: int = 2) -> torch.Tensor:
    """N sampled futures (N, ..., C, H, W), M true ones (M, ..., C, H, W) -> (...), for every frame.

    E|X - y| - E|X - X'| / 2, with X and X' two different samples and y a true future; lower is
    better, and the true distribution has the lowest expectation (Gneiting & Raftery 2007). |.| is
    the root mean square over the values of a frame; with norm 1 the mean absolute value, which is
    the CRPS of a single value, averaged over all of them. A single sample is a point forecast:
    X' = X.
    """
    values = math.prod(truths.shape[-3:])
    pairs = zip(*(x.reshape(len(x), -1, values).unbind(1) for x in (samples, truths)))
    return torch.stack([frame_energy(*pair, norm) for pair in pairs]).view(truths.shape[1:-3])


def frame_energy(samples: torch.Tensor, truths: torch.Tensor, norm: int) -> torch.Tensor:
    """(N, values), (M, values) -> the energy score of one frame."""
    samples, truths = (x.double() / x.shape[1] ** (1 / norm) for x in (samples, truths))
    exact = "donot_use_mm_for_euclid_dist"  # a product of matrices loses small distances
    error = torch.cdist(samples, truths, norm, compute_mode=exact).mean()
    return error - torch.pdist(samples, norm).mean() / 2 if len(samples) > 1 else error


def moving_values(truths: torch.Tensor, given: int) -> torch.Tensor:
    """M true futures (M, T, ...) -> (T - given, ...), bool: the values that differ between them.

    Of a single true future: those that differ from its last given frame.
    """
    if len(truths) > 1:
        return truths[:, given:].std(dim=0) > MOVING_DEVIATION
    return (truths[0, given:] - truths[0, given - 1]).abs() > MOVING_DEVIATION


def pit_values(
    samples: torch.Tensor, truths: torch.Tensor, sigma: float, moving: torch.Tensor
) -> torch.Tensor:
    """N sampled futures (N, ...), M true ones (M, ...) -> (M, values): probability integral
    transforms (PIT) of the true values, of those where `moving` is true.

    The predictive distribution of a value is the mixture of N(x_k, sigma^2) over its N samples
    x_k. The PIT of y is its distribution function there, the mean of Phi((y - x_k) / sigma). It is
    uniform in 0..1 if the forecast is calibrated (Gneiting et al. 2007). A small sigma needs many
    samples: about 1 / (N + 1) of the true values are below all N samples, and as many above.
    """
    scale = sigma * math.sqrt(2)
    truths = truths[:, moving] / scale
    total, work = torch.zeros_like(truths), torch.empty_like(truths)
    for x in samples:  # one by one, in the same memory
        total += torch.sub(truths, x[moving] / scale, out=work).erf_()  # 2 Phi - 1
    return 0.5 + total / (2 * len(samples))


def coverage(pit: torch.Tensor, level: float) -> float | None:
    """The share of true values in the central `level` interval of the predictive distribution."""
    inside = (pit - 0.5).abs() <= level / 2
    return inside.double().mean().item() if len(inside.flatten()) else None


def rank_histogram(pit: torch.Tensor) -> torch.Tensor:
    """-> (bins,): the number of true values with their PIT in each equal interval of 0..1.

    The limit of the rank histogram for many samples. Flat: calibrated. U: too narrow a forecast.
    A hump: too wide. A slope: biased.
    """
    bins = (pit.flatten() * RANK_BINS).long().clamp(0, RANK_BINS - 1)
    return torch.bincount(bins, minlength=RANK_BINS)


def rank_correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    """Spearman's: the correlation of ranks; equal values share their mean rank."""
    ranks = []
    for x in (a, b):
        _, which, count = x.flatten().unique(return_inverse=True, return_counts=True)
        ranks.append((count.cumsum(0) - (count - 1) / 2)[which].double())
    return torch.corrcoef(torch.stack(ranks))[0, 1].item()


# ---------------------------------------------------------------- all of it


class Futures:
    """Sampled futures of clips: rollouts are added, one of every clip at a time.

    `truth` are the clips, `outcomes` {clip: true futures, uint8 (M, T, 3, H, W)} where known. If
    there are more than `samples`, the first are an ideal forecast, and forecasts are scored on the
    others. `events` {clip: frames}. `error` is added to mean squared errors before a PSNR is taken.
    """

    def __init__(
        self,
        lab: Lab,
        truth: Sequence[torch.Tensor],
        outcomes: Mapping[int, torch.Tensor],
        events: Mapping[int, Sequence[int]],
        samples: int = 0,
        error: float = 0.0,
    ):
        self.lab, self.truth, self.outcomes, self.events = lab, truth, outcomes, events
        known = min((len(x) - 1 for x in outcomes.values()), default=0)
        self.reserved, self.error = samples if samples <= known else 0, error
        self.first_events = [
            min((t for t in events.get(i, ()) if t >= lab.given), default=None)
            for i in range(len(truth))
        ]
        self.scored: list[list[dict]] = []  # of every future, the scores of every clip
        self.moments = [Moments() for _ in truth]
        self.sharp: list[list[float]] = []  # of every future, of the clips long enough
        self.played: list[torch.Tensor] = []  # the first clip's first futures, uint8
        # frames of the first clip, and of the clips that have true futures
        self.lengths = {0: FIRST_CLIP_FRAMES} | {i: x.shape[1] for i, x in outcomes.items()}
        self.samples: dict[int, list] = {i: [] for i in self.lengths}
        self.of_clips: dict[str, torch.Tensor] = {}  # score: (clips,)
        self.of_futures: dict[str, torch.Tensor] = {}  # score: (futures, clips)

    def add(self, futures: Sequence[torch.Tensor]) -> None:
        """One rollout (T, 3, H, W) of every clip."""
        self.scored.append(self.score(futures))
        self.sharp.append(late_sharpness(futures))
        if len(self.played) < PAGE_FUTURES:
            self.played.append((futures[0].clamp(0, 1) * 255).round().byte())
        for future, moments in zip(futures, self.moments):
            moments.add(future)
        for i, length in self.lengths.items():
            self.samples[i].append(futures[i][:length].half())

    def score(self, clips: Iterable[torch.Tensor]) -> list[dict[str, float]]:
        """PSNR and SSIM of a rollout of every clip; its PSNR from the first event on, if any."""
        scores, given = [], self.lab.given
        for pred, true, event in zip(clips, self.truth, self.first_events):
            pred, true = pred[: self.lab.scored], true[: self.lab.scored]
            psnr = self.lab.frame_psnr(pred, true)
            if self.error:
                psnr = -10 * torch.log10(10 ** (-psnr / 10) + self.error)
            found = {"psnr": psnr[given:].mean(), "ssim": mean_ssim(pred[given:], true[given:])}
            if event is not None and event < len(psnr):
                found["psnr_from_event"] = psnr[event:].mean()
            scores.append({name: float(value) for name, value in found.items()})
        return scores

    def scores(self, sigma: float) -> dict[str, Any]:
        """Best, mean and worst of N, and the pixel mean; diversity, sharpness; the fit to the true
        futures, `sigma` the observation noise."""
        scores, curves = {"n_samples": len(self.scored)}, {}
        of_mean = self.score(x.mean.float() for x in self.moments)
        for name in SCORES:
            rows = [[clip[name] for clip in row if name in clip] for row in [of_mean, *self.scored]]
            if not rows[0]:
                continue
            self.of_clips[f"{name}_of_mean"], *rows = torch.tensor(rows, dtype=torch.float64)
            self.of_futures[name] = torch.stack(rows)
            curves[name] = curve = best_of_curve(self.of_futures[name])
            scores |= {f"{name}_{part}": curve[part][-1] for part in ("mean", "best", "worst")}
        if len(self.scored) > 1:
            deviations = diversity(self.moments, self.lab.given)
            scores["diversity"], scores["diversity_max"] = deviations
            scores["error_spread"] = error_and_spread(self.moments, self.truth, self.lab.given)
        if true := late_sharpness(self.truth):
            scores["sharpness"] = float(np.mean(self.sharp) / np.mean(true))
        pit = self.fit(sigma)
        scores |= {name: values.mean().item() for name, values in self.of_clips.items()}
        return scores | {
            "true_futures": self.known(),
            "coverage_50": coverage(pit, 0.5),
            "coverage_90": coverage(pit, 0.9),
            "rank_histogram": rank_histogram(pit).tolist(),
            "best_of": curves,
        }

    def fit(self, sigma: float) -> torch.Tensor:
        """Score the forecast of every clip whose true futures are known -> their PIT values."""
        given, energies, errors, pits = self.lab.given, [], [], []
        for i, outcomes in self.true_futures():
            samples = torch.stack(self.samples[i]).float()[:, given : outcomes.shape[1]]
            truths = outcomes[self.reserved :, given:]
            energies.append(energy_score(samples, truths).mean())
            errors.append(255 * energy_score(samples, truths, norm=1).mean())
            moving = moving_values(outcomes, given)
            pits.append(pit_values(samples, truths, sigma, moving).flatten())
        self.of_clips |= {"energy_score": torch.stack(energies), "crps": torch.stack(errors)}
        return torch.cat(pits)

    def minus(self, other: "Futures") -> dict[str, dict[str, float]]:
        """How much the scores differ from another model's, with 95 % intervals over the clips.

        The best of N is that of as many futures as the other model has.
        """
        n = min(len(self.scored), len(other.scored))
        pairs = {name: (x, other.of_clips[name]) for name, x in self.of_clips.items()}
        for name, scores in self.of_futures.items():
            pairs[f"{name}_best"] = (best_of(x, n)[0] for x in (scores, other.of_futures[name]))
        return {name: bootstrap(ours - theirs) for name, (ours, theirs) in pairs.items()}

    def ideal(self, sigma: float) -> Optional["Futures"]:
        """An ideal forecast: its samples are true futures, as many as the model's, and its frames
        have the model's observation noise.

        Only where true futures are known for every clip, and are as long as the clip.
        """
        lengths = {i: x.shape[1] for i, x in self.outcomes.items()}
        if not self.reserved or lengths != dict(enumerate(map(len, self.truth))):
            return None
        about = self.lab, self.truth, self.outcomes, self.events, self.reserved
        ideal = Futures(*about, error=sigma**2)
        for k in range(self.reserved):
            ideal.add([x[k].float() / 255 for x in self.outcomes.values()])
        return ideal

    def known(self) -> int:
        """The number of true futures to score on, of the clip that has the fewest."""
        return min((len(x) - self.reserved for x in self.outcomes.values()), default=1)

    def true_futures(self) -> Iterable[tuple[int, torch.Tensor]]:
        """Yield a clip and its true futures (M, T, 3, H, W) in 0..1; if none, the first clip."""
        if not self.outcomes:
            yield 0, self.truth[0][None, :FIRST_CLIP_FRAMES]
        for i, futures in self.outcomes.items():
            yield i, futures.float() / 255


def error_and_spread(
    moments: Sequence[Moments], truth: Sequence[torch.Tensor], given: int
) -> float:
    """The rank correlation, over the frames of all clips, of two root mean squares: the error of
    the futures' mean, and their standard deviation."""
    frames = [
        torch.stack([x.mean[given:] - true[given:], x.deviation()[given:]])
        for x, true in zip(moments, truth)
    ]
    return rank_correlation(*torch.cat([x.pow(2).mean((2, 3, 4)) for x in frames], 1))


def late_sharpness(clips: Sequence[torch.Tensor]) -> list[float]:
    """The mean sharpness of each clip (T, C, H, W) from frame SHARP_FROM on, of those that long."""
    late = (clip[SHARP_FROM:].clamp(0, 1) for clip in clips if len(clip) > SHARP_FROM)
    return [sharpness(frames).mean().item() for frames in late]
