"""Whether two groups of runs differ: Welch's t-test (Welch, 1947)."""

import math
import statistics
from collections.abc import Sequence

STEPS = 300  # of the continued fraction; it converges in far fewer
TINY = 1e-300


def welch(a: Sequence[float], b: Sequence[float]) -> float | None:
    """The two-sided p-value of equal means; None without two values and some variance each."""
    if min(len(a), len(b)) < 2:
        return None
    parts = [statistics.variance(x) / len(x) for x in (a, b)]
    if not sum(parts):
        return None
    t2 = (statistics.mean(a) - statistics.mean(b)) ** 2 / sum(parts)
    degrees = sum(parts) ** 2 / sum(p**2 / (len(x) - 1) for p, x in zip(parts, (a, b)))
    return incomplete_beta(degrees / 2, 0.5, degrees / (degrees + t2))


def incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function, by its continued fraction."""
    if x in (0.0, 1.0):
        return x
    if x > (a + 1) / (a + b + 2):  # where the fraction converges slowly
        return 1 - incomplete_beta(b, a, 1 - x)
    front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    front = math.exp(front + a * math.log(x) + b * math.log1p(-x)) / a
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1))
    fraction = d
    for m in range(1, STEPS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1 / (1 + term * d or TINY)
            c = 1 + term / c or TINY
            fraction *= c * d
        if abs(c * d - 1) < 1e-14:
            break
    return front * fraction
