"""The measures of the predicted distribution as rows of a table: their names and definitions."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from .reading import score_of

MINUS = "minus the twin [95 %]"
EVENT = "PSNR from the first event on"
MEASURES = {  # as it is called -> where distribution.json and scores.json have it, definition
    "ELBO": ("z/elbo", "bound of log p(true frames), nats per frame; higher is better"),
    "importance bound": ("z/importance_bound", "a tighter bound, from 16 draws of z"),
    "bits per value": ("z/bits_per_value", "the importance bound of 8-bit frames as a code length"),
    "bits, PNG": ("codes/png_of_differences", "PNG of the differences to the previous frame"),
    "bits, Gaussian": ("codes/gaussian_per_pixel", "one for each pixel, fitted to these frames"),
    "bits, uniform": ("codes/uniform", "no compression"),
    "KL": ("z/kl", "nats per frame that the posterior of z knows beyond its prior"),
    "KL at events": ("z/events/at_events", "of the frames of random outcomes and the next two"),
    "KL elsewhere": ("z/events/elsewhere", "of all other frames"),
    "KL, difference": ("z/events/difference", "at events minus elsewhere"),
    "true entropy": ("z/events/entropy", "of the world, nats per frame: what the KL should be"),
    "true entropy at events": ("z/events/entropy_at_events", "of the same frames as the KL"),
    "true entropy elsewhere": ("z/events/entropy_elsewhere", "of the same frames as the KL"),
    "I(x; z)": ("z/mutual_information", "nats of the KL that tell frames apart"),
    "KL(q(z) || p(z))": ("z/marginal_kl", "the rest: z of a rollout is unlike that of training"),
    "active units of z": ("z/active_units", "values whose posterior mean varies by more than 0.01"),
    "sampled futures": ("futures/n_samples", "rollouts that differ by their z; or several twins"),
    "PSNR of the pixel mean": ("futures/psnr_of_mean", "of all futures: the one best guess, dB"),
    "PSNR of a future, mean": ("futures/psnr_mean", "over the futures, dB"),
    "PSNR of a future, best": ("futures/psnr_best", "chosen by looking at the truth: no score"),
    "PSNR of a future, worst": ("futures/psnr_worst", "of the same futures"),
    f"{EVENT}, pixel mean": ("futures/psnr_from_event_of_mean", "frames before are not random"),
    f"{EVENT}, mean": ("futures/psnr_from_event_mean", "over the futures, dB"),
    f"{EVENT}, best": ("futures/psnr_from_event_best", "chosen by looking at the truth: no score"),
    "SSIM of the pixel mean": ("futures/ssim_of_mean", "structural similarity; 1 is equality"),
    "SSIM of a future, mean": ("futures/ssim_mean", "over the futures"),
    "SSIM of a future, best": ("futures/ssim_best", "chosen by looking at the truth: no score"),
    "diversity": ("futures/diversity", "deviation of a value over the futures, of 255: the mean"),
    "diversity, largest": ("futures/diversity_max", "of the pixel that differs most"),
    "error and spread": ("futures/error_spread", "their rank correlation over the frames"),
    "sharpness": ("futures/sharpness", "RMS gradient of sampled frames; 1 is that of true frames"),
    "true futures per clip": ("futures/true_futures", "known continuations that are scored on"),
    "energy score": ("futures/energy_score", "distance of the distributions; lower is better"),
    "CRPS": ("futures/crps", "the same of single values, of 255: the mean over all pixels"),
    "true values in the 50 % interval": ("futures/coverage_50", "0.5 if calibrated"),
    "true values in the 90 % interval": ("futures/coverage_90", "0.9 if calibrated"),
}  # fmt: skip


def table_of(columns: Mapping[str, Any], part: str = "") -> Iterator[list[str]]:
    """{heading: scores} -> the head, then a row a measure: its name, a cell a column, definition.

    Columns and rows without any value are left out. `part` is that of the scores that is shown.
    """
    shown = {name: about for name, about in MEASURES.items() if about[0].startswith(part)}
    cells = {
        heading: [text(score_of(scores, path)) for path, _ in shown.values()]
        for heading, scores in columns.items()
    }
    cells = {heading: values for heading, values in cells.items() if set(values) != {"-"}}
    yield ["measure", *cells, "definition"]
    for (name, (_, meaning)), row in zip(shown.items(), zip(*cells.values())):
        if set(row) != {"-"}:
            yield [name, *row, meaning]


def is_finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def text(value: float | Mapping[str, float] | None) -> str:
    """A number; a difference and its interval, if it has one."""
    if not isinstance(value, Mapping):
        return f"{value:.5g}" if is_finite(value) else "-"
    mean, low, high = (value[name] for name in ("mean", "low", "high"))
    if not is_finite(mean):
        return "-"
    return f"{mean:+.3g}" + (f" [{low:.3g}, {high:.3g}]" if low is not None else "")
