"""95 % intervals of means, against the normal theory of many values."""

import numpy as np
import pytest

from modules.evaluation.intervals import bootstrap


def half_width(found):
    return (found["high"] - found["low"]) / 2


def test_the_interval_over_clips_is_that_of_their_standard_error():
    values = np.random.default_rng(1).normal(3, 2, 400)
    found = bootstrap(values)
    assert found["mean"] == pytest.approx(values.mean())
    # 10,000 resamples: a quantile at 2.5 % is uncertain by 2 % of the deviation
    assert half_width(found) == pytest.approx(1.96 * values.std() / 20, rel=0.06)


def test_seeds_and_clips_add_their_variances():
    rng = np.random.default_rng(2)
    seeds, clips = rng.normal(0, 1, (60, 1)), rng.normal(0, 2, (1, 200))
    error = (seeds.var() / 60 + clips.var() / 200) ** 0.5
    assert half_width(bootstrap(seeds + clips)) == pytest.approx(1.96 * error, rel=0.06)


def test_few_values_are_not_resampled():
    assert bootstrap([1.0, 2.0]) == {"mean": 1.5, "low": None, "high": None}
    clips = np.arange(40.0)
    two = bootstrap([clips, clips + 8])  # two seeds: over the clips alone
    assert two["low"] - 4 == pytest.approx(bootstrap(clips)["low"])
    same = bootstrap([[1.0, 2.0]] * 3)
    assert (same["low"], same["high"]) == (1.5, 1.5)
