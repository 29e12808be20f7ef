"""95 % intervals of means over clips and seeds."""

from collections.abc import Sequence

import numpy as np

RESAMPLES, LEVEL = 10_000, 0.95
FEWEST = 3


def bootstrap(values: Sequence) -> dict[str, float | None]:
    """Values of clips, or (seeds, clips) -> their mean, and the limits of its interval.

    The percentile bootstrap. Seeds and clips are resampled independently: all seeds have the same
    clips (Owen, 2007). Where there are fewer than FEWEST seeds, or clips, these are not resampled.
    """
    values, rng = np.atleast_2d(np.asarray(values, np.float64)), np.random.default_rng(0)
    found = {"mean": values.mean().item(), "low": None, "high": None}
    axes = [
        rng.integers(n, size=(RESAMPLES, n)) if n >= FEWEST else np.arange(n)[None]
        for n in values.shape
    ]
    if max(values.shape) >= FEWEST:
        means = values[axes[0][:, :, None], axes[1][:, None]].mean((1, 2))
        low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        found |= {"low": low.item(), "high": high.item()}
    return found
