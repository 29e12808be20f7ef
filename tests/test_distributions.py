"""Measures of predicted distributions, against closed forms, torch.distributions and loops."""

import itertools
import math

import numpy as np
import pytest
import torch
from helpers import assert_close
from torch.distributions import (
    Categorical,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    kl_divergence,
)

from modules.distributions import (
    Moments,
    active_units,
    best_of,
    best_of_curve,
    best_variance,
    bits_per_value,
    coverage,
    diversity,
    elbo,
    energy_score,
    event_ratio,
    frame_mse,
    gaussian_log_likelihood,
    importance_bound,
    kl_of_frames,
    log_ratio,
    moving_values,
    pit_values,
    rank_histogram,
    sharpness,
)
from modules.nets.gaussian import relative_to_prior
from modules.training.losses import kl_criterion

pytestmark = pytest.mark.usefixtures("float64")


def log_likelihood(pred, true, sigma2):
    values = math.prod(true.shape[-3:])
    return gaussian_log_likelihood(frame_mse(pred, true), values, sigma2)


def uniform(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------- likelihood


def test_log_likelihood_is_that_of_torch_summed_over_a_frame():
    pred, true = uniform(2, 3, 3, 4, 5), uniform(2, 3, 3, 4, 5, seed=1)
    exact = Normal(pred.double(), 0.3).log_prob(true.double()).sum((2, 3, 4))
    assert_close(log_likelihood(pred, true, 0.09), exact)


def test_the_best_variance_has_the_most_likelihood():
    pred, true = uniform(2, 3, 3, 4, 5), uniform(2, 3, 3, 4, 5, seed=1)
    best = best_variance(frame_mse(pred, true))
    assert best == pytest.approx(((pred - true) ** 2).mean().item())
    found = [log_likelihood(pred, true, best * factor).sum() for factor in (0.99, 1, 1.01)]
    assert found[1] > found[0] and found[1] > found[2]


def test_perfect_predictions_have_the_smallest_variance_and_a_finite_likelihood():
    frames = uniform(1, 2, 3, 4, 5)
    assert best_variance(frame_mse(frames, frames)) == 1e-6
    expected = -60 / 2 * math.log(2 * math.pi * 1e-6)
    assert log_likelihood(frames, frames, 1e-6).tolist() == [[pytest.approx(expected)] * 2]


def test_predictions_are_not_clamped():
    assert frame_mse(torch.full((1, 3, 2, 2), 1.5), torch.ones(1, 3, 2, 2)).item() == 0.25


def test_bits_of_a_uniform_density_are_those_of_255_grey_levels():
    assert bits_per_value(0.0, 12) == pytest.approx(math.log2(255))
    # half as likely: one bit more for each of 12 values
    assert bits_per_value(-12 * math.log(2), 12) == pytest.approx(math.log2(255) + 1)


def test_bits_of_a_wide_gaussian_are_the_entropy_of_its_rounded_values():
    sigma = 20 / 255
    grey = torch.arange(-2000, 2001).double()
    p = Normal(0.0, 20.0).cdf(grey + 0.5) - Normal(0.0, 20.0).cdf(grey - 0.5)
    entropy = -(p * torch.log2(p.clamp_min(1e-300))).sum().item()
    nats = gaussian_log_likelihood(torch.tensor(sigma**2), 7, sigma**2).item()
    assert bits_per_value(nats, 7) == pytest.approx(entropy, abs=1e-3)


# ---------------------------------------------------------------- bounds of log p(x)


@pytest.mark.parametrize("size", [(), (4, 5)])
def test_kl_and_log_ratio_are_those_of_torch(size):
    mu, logvar, noise = (normal(2, 3, 6, *size, seed=seed) for seed in range(3))
    q = Normal(mu.double(), (logvar.double() / 2).exp())
    p = Normal(torch.zeros_like(q.loc), torch.ones_like(q.loc))
    z = q.loc + noise * q.scale
    exact = (p.log_prob(z) - q.log_prob(z)).flatten(2).sum(2)
    assert_close(log_ratio(mu, logvar, noise), exact)
    kl = kl_of_frames(mu, logvar)
    assert_close(kl, kl_divergence(q, p).flatten(2).sum(2))
    assert kl.sum().item() == pytest.approx(kl_criterion(mu, logvar, 1).item())


def test_log_ratio_with_a_learned_prior_is_that_of_its_own_densities():
    mu, logvar, mu_p, logvar_p, noise = (normal(2, 3, 6, seed=seed) for seed in range(5))
    q, p = Normal(mu, (logvar / 2).exp()), Normal(mu_p, (logvar_p / 2).exp())
    z = q.loc + noise * q.scale
    exact = (p.log_prob(z) - q.log_prob(z)).sum(2).double()
    found = log_ratio(*relative_to_prior(mu, logvar, mu_p, logvar_p), noise)
    assert_close(found, exact)


class LinearGaussian:
    """x = W z + b + sigma noise, W with orthogonal columns: the posterior of z is diagonal."""

    def __init__(self, latents=3, values=12, sigma=0.7):
        self.sigma, self.w = sigma, torch.linalg.qr(normal(values, latents).double())[0]
        self.w = self.w * torch.tensor([2.0, 0.5, 1.0])
        self.b = uniform(values).double()
        self.x = self.b + self.w @ normal(latents, seed=1).double() + normal(values, seed=2) / 2
        precision = 1 + (self.w**2).sum(0) / sigma**2
        mean = self.w.T @ (self.x - self.b) / sigma**2 / precision
        self.posterior = Normal(mean, precision.rsqrt())
        covariance = self.w @ self.w.T + sigma**2 * torch.eye(values)
        self.exact = MultivariateNormal(self.b, covariance).log_prob(self.x).item()

    def log_likelihoods(self, q, noise):
        """noise (K, latents) -> (K,): log p(x | z) of K draws from q."""
        pred = (q.loc + noise * q.scale) @ self.w.T + self.b
        pred, true = (x.view(-1, 1, 3, 2, 2) for x in (pred, self.x.expand_as(pred)))
        return log_likelihood(pred, true, self.sigma**2)[:, 0]

    def log_weights(self, q, noise):
        mu, logvar = (x.expand_as(noise)[:, None] for x in (q.loc, 2 * q.scale.log()))
        return self.log_likelihoods(q, noise) + log_ratio(mu, logvar, noise[:, None])[:, 0]

    def elbo(self, q):
        """Exact: the mean over these 2 x latents points is the expectation of a quadratic."""
        corners = math.sqrt(len(q.loc)) * torch.eye(len(q.loc)).double()
        likelihoods = self.log_likelihoods(q, torch.cat([corners, -corners]))
        kl = kl_of_frames(q.loc[None, None], 2 * q.scale.log()[None, None])
        return elbo(likelihoods, kl[0, 0]).item()


@pytest.fixture
def linear():
    return LinearGaussian()


@pytest.fixture
def approximate(linear):
    return Normal(linear.posterior.loc + 0.2, 1.4 * linear.posterior.scale)


def test_bounds_with_the_exact_posterior_are_the_log_likelihood(linear):
    assert linear.elbo(linear.posterior) == pytest.approx(linear.exact)
    weights = linear.log_weights(linear.posterior, normal(5, 3))
    assert weights.tolist() == pytest.approx([linear.exact] * 5)
    assert importance_bound(weights).item() == pytest.approx(linear.exact)


def test_the_elbo_of_an_approximate_posterior_is_lower_by_its_kl(linear, approximate):
    gap = kl_divergence(approximate, linear.posterior).sum().item()
    assert gap > 0.2
    assert linear.elbo(approximate) == pytest.approx(linear.exact - gap)


def test_the_importance_bound_grows_with_k_from_the_elbo_to_the_log_likelihood(linear, approximate):
    draws = 4**9
    weights = linear.log_weights(approximate, normal(draws, 3))
    bounds = [importance_bound(weights.view(-1, k).T).mean().item() for k in (1, 4, 16, 256, draws)]
    assert bounds[0] == pytest.approx(linear.elbo(approximate), abs=0.01)
    assert bounds == sorted(bounds)
    assert bounds[2] < linear.exact  # by 0.025, with a standard error of 0.002
    assert bounds[-1] == pytest.approx(linear.exact, abs=0.01)


def test_the_importance_bound_of_very_unlikely_frames_is_finite():
    weights = torch.tensor([[-1e5, -2e4], [-1e5 + math.log(3), -3e4]], dtype=torch.float64)
    expected = [-1e5 + math.log(2), -2e4 - math.log(2)]
    assert importance_bound(weights).tolist() == pytest.approx(expected)


# ---------------------------------------------------------------- what z contains


def test_active_units_are_latent_values_whose_mean_varies():
    mu = torch.zeros(4, 5, 3, 2, 2)
    assert active_units(mu) == (0, 12)
    mu[..., 0, 1, 1] = 5.0  # constant: not active
    mu[..., 1, 0, 0] = 0.3 * normal(4, 5)
    mu[..., 2, 0, 1] = 0.03 * normal(4, 5)
    assert active_units(mu) == (1, 12)
    assert active_units(mu, threshold=1e-5) == (2, 12)
    assert active_units(mu[..., 0, 0]) == (1, 3)
    assert active_units(mu[:1, :1]) == (0, 12)  # one frame does not vary


def test_event_ratio_compares_the_three_frames_of_an_event_with_the_rest():
    kl = torch.ones(2, 8)  # of frames 2..9
    kl[0, 3:6] = torch.tensor([6.0, 4.0, 2.0])  # frames 5..7
    kl[1, 0] = 10.0  # frame 2, after an event at frame 0
    found = event_ratio(kl, {0: [5], 1: [0]}, first=2)
    assert found == {"at_events": 22 / 4, "elsewhere": 1.0, "ratio": 5.5}
    wider = event_ratio(kl, {0: [5, 6], 1: [9]}, first=2, window=2)
    assert wider["at_events"] == pytest.approx((6 + 4 + 2 + 1) / 4)


@pytest.mark.parametrize(
    ("kl", "events", "expected"),
    [
        ([[1.0, 2.0]], {}, (None, 1.5)),
        ([[1.0, 2.0]], {0: []}, (None, 1.5)),
        ([[1.0, 2.0]], {0: [30]}, (None, 1.5)),
        ([[1.0, 2.0]], {0: [1]}, (1.5, None)),
        ([[0.0, 0.0, 0.0, 0.0]], {0: [1]}, (0.0, 0.0)),
    ],
    ids=["no clip", "no event", "event outside", "all at the event", "collapsed"],
)
def test_an_event_ratio_without_meaning_is_none(kl, events, expected):
    found = event_ratio(torch.tensor(kl), events, first=1)
    assert (found["at_events"], found["elsewhere"]) == expected
    assert found["ratio"] is None


# ---------------------------------------------------------------- many futures of a clip


def diversity_of(futures):
    moments = Moments()
    for future in futures:
        moments.add(future)
    return diversity([moments])


def test_moments_are_those_over_all_futures():
    futures = uniform(7, 4, 3, 5, 6)
    moments = Moments()
    for future in futures:
        moments.add(future)
    assert_close(moments.mean, futures.double().mean(0))
    assert_close(moments.deviation(), futures.double().std(0))
    exact = 255 * futures.double().std(0).mean().item()
    assert diversity_of(futures) == diversity_of(iter(futures)) == pytest.approx(exact)


def test_diversity_clamps_and_is_exactly_zero_for_equal_futures():
    assert diversity_of([torch.full((2, 2), -1.0), torch.zeros(2, 2)]) == 0
    assert diversity_of([uniform(5, 5)] * 100) == 0
    assert diversity_of([torch.zeros(2, 2), torch.full((2, 2), 3.0)]) == pytest.approx(255 / 2**0.5)


@pytest.mark.parametrize("futures", [[], [torch.zeros(2, 2)]])
def test_diversity_needs_two_futures(futures):
    with pytest.raises(ValueError, match="needs two"):
        diversity_of(futures)


@pytest.mark.parametrize(("m", "n"), [(1, 1), (5, 1), (5, 5), (6, 2), (8, 3), (8, 7)])
def test_best_of_n_is_the_mean_over_all_subsets(m, n):
    scores = normal(m, 4).double()
    subsets = [scores[list(chosen)] for chosen in itertools.combinations(range(m), n)]
    best, worst = best_of(scores, n)
    assert_close(best, torch.stack([s.amax(0) for s in subsets]).mean(0))
    assert_close(worst, torch.stack([s.amin(0) for s in subsets]).mean(0))


def test_best_of_n_out_of_100_has_the_weights_of_exact_integers():
    scores = normal(100, 1).double()
    ordered = scores.sort(0).values[:, 0].tolist()
    for n in (1, 2, 37, 50, 99, 100):
        weights = [math.comb(i, n - 1) / math.comb(100, n) for i in range(100)]
        assert best_of(scores, n)[0].item() == pytest.approx(np.dot(weights, ordered), rel=1e-10)


@pytest.mark.parametrize("n", [0, 4])
def test_best_of_more_futures_than_there_are_is_refused(n):
    with pytest.raises(ValueError, match=f"best of {n} draws out of 3"):
        best_of(normal(3, 2), n)


def test_the_curve_starts_at_the_mean_and_ends_at_the_extremes():
    scores = normal(100, 4).double()
    curve = best_of_curve(scores)
    mean = scores.mean().item()
    assert curve["n"] == list(range(1, 101))
    assert curve["mean"] == pytest.approx([mean] * 100)
    assert (curve["best"][0], curve["worst"][0]) == pytest.approx((mean, mean))
    extremes = scores.amax(0).mean().item(), scores.amin(0).mean().item()
    assert (curve["best"][-1], curve["worst"][-1]) == pytest.approx(extremes)
    assert curve["best"] == sorted(curve["best"])
    assert curve["worst"] == sorted(curve["worst"], reverse=True)
    assert best_of_curve(scores.numpy()) == curve


def test_sharpness_of_a_plane_is_its_slope_and_blur_lowers_it():
    y, x = torch.meshgrid(torch.arange(6.0), torch.arange(9.0), indexing="ij")
    plane = (0.03 * x + 0.04 * y).expand(2, 3, 6, 9)
    assert_close(sharpness(plane), torch.full((2,), 0.05))
    assert sharpness(torch.full((3, 6, 9), 0.4)).item() == 0
    noise = uniform(4, 3, 16, 16)
    assert (sharpness(torch.nn.functional.avg_pool2d(noise, 3, 1)) < 0.5 * sharpness(noise)).all()


# ---------------------------------------------------------------- many true futures


def rms(x):
    return np.sqrt(np.mean(np.square(np.asarray(x, np.float64))))


def test_energy_score_is_that_of_plain_loops():
    samples, truths = uniform(5, 2, 3, 4, 4), uniform(4, 2, 3, 4, 4, seed=1)
    expected = []
    for t in range(2):
        error = np.mean([rms(x[t] - y[t]) for x in samples for y in truths])
        pairs = itertools.permutations(samples, 2)
        expected.append(error - np.mean([rms(a[t] - b[t]) for a, b in pairs]) / 2)
    assert energy_score(samples, truths).tolist() == pytest.approx(expected)
    assert energy_score(samples[:, 1], truths[:, 1]).item() == pytest.approx(expected[1])


def test_energy_score_of_a_point_forecast_is_its_error():
    point, truths = uniform(1, 1, 3, 4, 4), uniform(6, 1, 3, 4, 4, seed=1)
    error = np.mean([rms(point[0] - y) for y in truths])
    assert energy_score(point, truths).item() == pytest.approx(error)
    assert energy_score(point.expand(9, -1, -1, -1, -1), truths).item() == pytest.approx(error)
    assert energy_score(point, point).item() == 0


def two_outcomes(n, share, noise=0.02, seed=0):
    """n futures (n, 1, 3, 4, 4): bright with probability `share`, else dark; and some noise."""
    bright = (uniform(n, 1, 1, 1, 1, seed=seed) < share).float()
    return 0.3 + 0.4 * bright + noise * normal(n, 1, 3, 4, 4, seed=seed + 100)


def test_energy_score_is_lowest_for_the_true_distribution():
    truths = two_outcomes(300, 0.5)
    forecasts = {
        "true": two_outcomes(300, 0.5, seed=1),
        "one outcome": two_outcomes(300, 1, seed=1),
        "wrong shares": two_outcomes(300, 0.15, seed=1),
        "too much noise": two_outcomes(300, 0.5, noise=0.2, seed=1),
        "mean": truths.mean(0, keepdim=True).expand(300, -1, -1, -1, -1),
    }
    scores = {name: energy_score(samples, truths).item() for name, samples in forecasts.items()}
    others = [score for name, score in scores.items() if name != "true"]
    assert scores["true"] < min(others) - 0.01


def test_moving_values_differ_between_the_true_futures():
    truths = torch.full((4, 2, 3, 5, 5), 0.5)
    truths[:2, 1, 0, 2, 3] = 0.6  # standard deviation 0.058
    truths[:2, 0, 1, 1, 1] = 0.51
    assert moving_values(truths).nonzero().tolist() == [[1, 0, 2, 3]]
    assert moving_values(truths, 0.001).sum() == 2
    with pytest.raises(ValueError, match="needs two"):
        moving_values(truths[:1])


def test_pit_is_the_distribution_function_of_the_mixture():
    samples, truths = uniform(6, 2, 3, 4, 4), uniform(5, 2, 3, 4, 4, seed=1)
    equal = Categorical(torch.ones(2, 3, 4, 4, 6))
    mixture = MixtureSameFamily(equal, Normal(samples.movedim(0, -1), 0.1))
    exact = mixture.cdf(truths)
    assert_close(pit_values(samples, truths, 0.1), exact.flatten(1))
    moving = uniform(2, 3, 4, 4, seed=2) < 0.3
    found = pit_values(samples, truths, 0.1, moving)
    assert_close(found, exact[:, moving])


# Each value is near 0.5 +- 0.2 with equal probability, and has observation noise of 0.05.
def outcomes(n, spread=0.2, shift=0.0, seed=0):
    side = (uniform(n, 4, 3, 8, 8, seed=seed) < 0.5).float() * 2 - 1
    return 0.5 + shift + spread * side


def true_outcomes():
    return outcomes(50, seed=1) + 0.05 * normal(50, 4, 3, 8, 8, seed=2)


def test_a_calibrated_forecast_has_a_flat_histogram_and_covers_its_level():
    pit = pit_values(outcomes(400), true_outcomes(), 0.05)
    expected = pit.numel() / 20
    counts = rank_histogram(pit)
    assert counts.sum() == pit.numel()
    assert (counts - expected).abs().max() < 6 * expected**0.5
    for level in (0.5, 0.9):
        error = (level * (1 - level) / pit.numel()) ** 0.5
        assert coverage(pit, level) == pytest.approx(level, abs=6 * error)


@pytest.mark.parametrize(
    ("forecast", "sigma", "low", "high"),
    [({"spread": 0.1}, 0.05, 0.2, 0.3), ({}, 0.01, 0.2, 0.85), ({"spread": 0.4}, 0.2, 0.97, 1)],
    ids=["too little spread", "too little noise", "too wide"],
)
def test_coverage_shows_forecasts_too_narrow_or_too_wide(forecast, sigma, low, high):
    pit = pit_values(outcomes(400, **forecast), true_outcomes(), sigma)
    assert low < coverage(pit) <= high
    counts = rank_histogram(pit).double()
    ends, middle = counts[[0, -1]].sum(), counts[9:11].sum()
    assert (ends > middle) == (coverage(pit) < 0.9)


def test_a_biased_forecast_has_a_slope():
    counts = rank_histogram(pit_values(outcomes(400, shift=-0.05), true_outcomes(), 0.05))
    assert counts[-1] > 10 * counts[0]


def test_the_true_value_ranks_among_samples_without_noise():
    samples = torch.tensor([0.2, 0.4, 0.6, 0.8]).view(4, 1, 1, 1, 1)
    truths = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9]).view(5, 1, 1, 1, 1)
    pit = pit_values(samples, truths, 1e-3)
    assert pit.flatten().tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert rank_histogram(pit, bins=5).tolist() == [1] * 5
    assert coverage(pit, 0.9) == 3 / 5


def test_a_forecast_of_nothing_that_moves_has_no_coverage():
    still = torch.zeros(3, 3, 4, 4, dtype=torch.bool)
    pit = pit_values(uniform(5, 3, 3, 4, 4), uniform(2, 3, 3, 4, 4), 0.1, still)
    assert pit.shape == (2, 0) and coverage(pit) is None
    assert rank_histogram(pit).tolist() == [0] * 20
