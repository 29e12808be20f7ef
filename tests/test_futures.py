"""Sampled futures: their spread, best of N, and fit to true ones, against loops and torch."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.stats
import torch
from helpers import assert_close, make_model, normal, random_clips, uniform
from robot_helpers import make_robot, random_robot_clips
from torch.distributions import Categorical, MixtureSameFamily, Normal

from modules.evaluation.futures import (
    Futures,
    Moments,
    best_of,
    best_of_curve,
    coverage,
    diversity,
    energy_score,
    moving_values,
    pit_values,
    rank_correlation,
    rank_histogram,
    sharpness,
)
from modules.evaluation.lab import Lab
from modules.evaluation.metrics import frame_psnr, score_clip, unclamped_psnr
from modules.files import write_npz
from modules.models.rollout import noise_source, roll_out, sample_futures

pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


# ---------------------------------------------------------------- spread


def moments_of(futures):
    moments = Moments()
    for future in futures:
        moments.add(future)
    return moments


def test_moments_are_those_over_all_futures_clamped():
    futures = 3 * uniform(7, 4, 3, 5, 6) - 1
    moments, clamped = moments_of(futures), futures.clamp(0, 1)
    assert_close(moments.mean, clamped.mean(0))
    assert_close(moments.deviation(), clamped.std(0))
    spread = 255 * clamped[:, 2:].std(0)
    expected = spread.mean().item(), spread.max().item()
    assert diversity([moments], given=2) == pytest.approx(expected)
    assert diversity([moments_of([uniform(5, 5)] * 100)], given=0) == (0, 0)


def test_sharpness_of_a_plane_is_its_slope_and_blur_lowers_it():
    y, x = torch.meshgrid(torch.arange(6.0), torch.arange(9.0), indexing="ij")
    plane = (0.03 * x + 0.04 * y).expand(2, 3, 6, 9)
    assert_close(sharpness(plane), torch.full((2,), 0.05))
    noise = uniform(4, 3, 16, 16)
    assert (sharpness(torch.nn.functional.avg_pool2d(noise, 3, 1)) < 0.5 * sharpness(noise)).all()


# ---------------------------------------------------------------- best of N


@pytest.mark.parametrize(("m", "n"), [(1, 1), (5, 1), (5, 5), (6, 2), (8, 7)])
def test_best_of_n_is_the_mean_over_all_subsets(m, n):
    scores = normal(m, 4)
    subsets = [scores[list(chosen)] for chosen in itertools.combinations(range(m), n)]
    best, worst = best_of(scores, n)
    assert_close(best, torch.stack([s.amax(0) for s in subsets]).mean(0))
    assert_close(worst, torch.stack([s.amin(0) for s in subsets]).mean(0))


def test_best_of_n_out_of_100_has_the_weights_of_exact_integers():
    scores = normal(100, 1)
    ordered = scores.sort(0).values[:, 0].tolist()
    for n in (1, 37, 99, 100):
        weights = [math.comb(i, n - 1) / math.comb(100, n) for i in range(100)]
        assert best_of(scores, n)[0].item() == pytest.approx(np.dot(weights, ordered), rel=1e-10)


def test_the_curve_starts_at_the_mean_and_ends_at_the_extremes():
    scores = normal(100, 4)
    curve, mean = best_of_curve(scores), scores.mean().item()
    assert curve["n"] == list(range(1, 101)) and curve["mean"] == pytest.approx([mean] * 100)
    for name, extreme in (("best", scores.amax(0)), ("worst", scores.amin(0))):
        ends = curve[name][0], curve[name][-1]
        assert ends == pytest.approx((mean, extreme.mean().item()))
        assert curve[name] == sorted(curve[name], reverse=name == "worst")


# ---------------------------------------------------------------- fit to true futures


def rms(x):
    return np.sqrt(np.mean(np.square(np.asarray(x, np.float64))))


def test_energy_score_is_that_of_plain_loops():
    samples, truths = uniform(5, 2, 3, 4, 4), uniform(4, 2, 3, 4, 4, seed=1)
    errors = [[rms(x[t] - y[t]) for x in samples for y in truths] for t in range(2)]
    pairs = [[rms(a[t] - b[t]) for a, b in itertools.permutations(samples, 2)] for t in range(2)]
    expected = np.mean(errors, 1) - np.mean(pairs, 1) / 2
    assert energy_score(samples, truths).tolist() == pytest.approx(expected)
    single = energy_score(samples, truths, norm=1)  # the mean over the values of their own score
    values = [energy_score(*(x[..., i, j, k].reshape(-1, 2, 1, 1, 1) for x in (samples, truths)))
              for i in range(3) for j in range(4) for k in range(4)]  # fmt: skip
    assert_close(single, torch.stack(values).mean(0))
    point, error = samples[:1], np.mean([rms(samples[0, 1] - y[1]) for y in truths])
    assert energy_score(point, truths)[1].item() == pytest.approx(error)


def test_crps_of_a_gaussian_is_its_closed_form():
    """Gneiting & Raftery (2007), equation 21."""
    sigma, y, z = 0.2, uniform(1, 50, 3, 4, 5), normal(400, 50, 3, 4, 5, seed=1)
    scores = energy_score(0.5 + sigma * z, y, norm=1)  # of 50 independent frames
    x, unit = (y - 0.5) / sigma, Normal(0.0, 1.0)
    exact = x * (2 * unit.cdf(x) - 1) + 2 * unit.log_prob(x).exp() - math.pi**-0.5
    difference = scores - sigma * exact[0].mean((1, 2, 3))
    assert abs(difference.mean()) < 4 * difference.std() / 50**0.5
    assert difference.std() < 0.01 * scores.mean()


def test_moving_values_differ_between_the_true_futures_or_from_the_given_frame():
    truths = torch.full((4, 3, 3, 5, 5), 0.5)
    truths[:, 0] = 0.9  # given
    truths[:2, 2, 0, 2, 3] = 0.6  # standard deviation 0.058
    truths[:2, 1, 1, 1, 1] = 0.51
    assert moving_values(truths, given=1).nonzero().tolist() == [[1, 0, 2, 3]]
    assert moving_values(truths[:1], given=2).nonzero().tolist() == [[0, 0, 2, 3]]


def test_pit_is_the_distribution_function_of_the_mixture():
    samples, truths = uniform(6, 2, 3, 4, 4), uniform(5, 2, 3, 4, 4, seed=1)
    equal = Categorical(torch.ones(2, 3, 4, 4, 6))
    exact = MixtureSameFamily(equal, Normal(samples.movedim(0, -1), 0.1)).cdf(truths)
    moving = uniform(2, 3, 4, 4, seed=2) < 0.3
    assert_close(pit_values(samples, truths, 0.1, moving), exact[:, moving])


def test_a_forecast_of_nothing_that_moves_has_no_coverage():
    static = torch.zeros(3, 3, 4, 4, dtype=torch.bool)
    pit = pit_values(uniform(5, 3, 3, 4, 4), uniform(2, 3, 3, 4, 4), 0.1, static)
    assert pit.shape == (2, 0) and coverage(pit, 0.9) is None
    assert rank_histogram(pit).tolist() == [0] * 20


# ---------------------------------------------------------------- futures of a model


@pytest.mark.parametrize("lab", ["pose", "robot"])
def test_futures_in_one_batch_are_single_rollouts(lab):
    pose = lab == "pose"
    model = (make_model if pose else make_robot)(learned_prior=True)
    frames, conditions = random_clips(2, 6) if pose else random_robot_clips(2)
    given = frames[:, : 1 if pose else 2]
    together = sample_futures(model, given, conditions, 3, 7)
    assert together.shape == (3, *frames.shape)
    for sample, future in enumerate(together):
        for clip in range(2):
            noise, one = noise_source("sample", 7, [clip], sample), slice(clip, clip + 1)
            assert_close(future[one], roll_out(model, given[one], conditions[one], noise))
    assert (together[0] - together[1]).abs().max() > 1e-4


SIZE = (3, 12, 14)
LAB = SimpleNamespace(given=2, scored=None, frame_psnr=frame_psnr)
N, M = 4, 5  # sampled and true futures


@pytest.fixture
def world():
    """True clips (13 and 12 frames), sampled futures of each, true futures of clip 1."""
    truth = [uniform(t, *SIZE, seed=t) for t in (13, 12)]
    noise = [0.3 * uniform(N, len(clip), *SIZE, seed=7) for clip in truth]
    sampled = [0.8 * clip + x for clip, x in zip(truth, noise)]
    for clips, clip in zip(sampled, truth):
        clips[:, :2] = clip[:2]  # given
    outcomes = (255 * uniform(M, 12, *SIZE, seed=3)).to(torch.uint8)
    outcomes[:, :2] = outcomes[:1, :2]
    outcomes[:, :, :, :4] = outcomes[:1, :, :, :4]  # the upper rows do not differ
    return SimpleNamespace(truth=truth, sampled=sampled, outcomes=outcomes)


def futures_of(world, outcomes, n=N, **more):
    futures = Futures(LAB, world.truth, outcomes, **{"events": {}} | more)
    for k in range(n):
        futures.add([clips[k] for clips in world.sampled])
    return futures


def test_best_mean_and_worst_are_of_every_clip(world):
    scores = futures_of(world, {}).scores(0.1)
    for name in ("psnr", "ssim"):
        pairs = zip(*world.sampled)
        rows = [[score_clip(x, t, 2)[name] for x, t in zip(pair, world.truth)] for pair in pairs]
        rows = np.array(rows)
        ends = rows.max(0).mean(), rows.mean(), rows.min(0).mean()
        assert [scores[f"{name}_{x}"] for x in ("best", "mean", "worst")] == pytest.approx(ends)
        two = np.mean([rows[[a, b]].max(0).mean() for a in range(N) for b in range(a)])
        assert scores["best_of"][name]["best"][:2] == pytest.approx([rows.mean(), two])
        mean = [x.clamp(0, 1).mean(0) for x in world.sampled]
        mean = [score_clip(x, t, 2)[name] for x, t in zip(mean, world.truth)]
        assert scores[f"{name}_of_mean"] == pytest.approx(np.mean(mean))
    assert scores["n_samples"] == N and "psnr_from_event_mean" not in scores
    assert "diversity" not in futures_of(world, {}, n=1).scores(0.1)


def edges(clip):
    """The mean over frames 10, 11, ... of the root mean square of the gradient."""
    x = np.clip(np.asarray(clip[10:], float), 0, 1)
    squares = np.diff(x)[..., :-1, :] ** 2 + np.diff(x, axis=-2)[..., :-1] ** 2
    return np.sqrt(squares.mean((1, 2, 3))).mean()


def test_sharpness_is_the_share_of_the_truths_in_clips_with_a_frame_10(world):
    for length, count in ((12, 2), (10, 1)):  # of the second clip; clips with a frame 10
        world.truth[1], world.sampled[1] = world.truth[1][:length], world.sampled[1][:, :length]
        sampled, truth = world.sampled[:count], world.truth[:count]
        expected = np.mean([edges(x) for clips in sampled for x in clips])
        expected /= np.mean([edges(clip) for clip in truth])
        assert futures_of(world, {}).scores(0.1)["sharpness"] == pytest.approx(expected)
    world.truth[0], world.sampled[0] = world.truth[0][:10], world.sampled[0][:, :10]
    assert "sharpness" not in futures_of(world, {}).scores(0.1)


def fit(samples, truths, sigma, moving):
    """Energy score and PIT by the definitions: N futures, M truths, frames on the second axis."""
    samples, truths = (np.asarray(x, np.float64) for x in (samples, truths))
    error = np.mean(
        [[rms(x[t] - y[t]) for x in samples for y in truths] for t in range(len(moving))]
    )
    pairs = [
        [rms(a[t] - b[t]) for a, b in itertools.combinations(samples, 2)]
        for t in range(len(moving))
    ]
    cdf = [Normal(0.0, 1.0).cdf(torch.tensor((truths - x) / sigma)).numpy() for x in samples]
    return error - np.mean(pairs) / 2, np.mean(cdf, 0)[:, moving]


@pytest.mark.parametrize("outcomes", ["many", "one"])
def test_energy_and_coverage_against_the_true_futures(world, outcomes):
    sigma, many = 0.2, outcomes == "many"
    scores = futures_of(world, {1: world.outcomes} if many else {}).scores(sigma)
    if many:  # of clip 1, whose futures are known
        truths, samples = world.outcomes[:, 2:].double() / 255, world.sampled[1][:, 2:]
        moving = truths.std(0).numpy() > 0.02
        assert not moving[:, :, :4].any() and moving[:, :, 4:].all()
    else:  # the first clip, where it differs from its last given frame
        truths, samples = world.truth[0][None, 2:], world.sampled[0][:, 2:]
        moving = abs(np.asarray(world.truth[0][2:] - world.truth[0][1])) > 0.02
    energy, pit = fit(samples.half(), truths, sigma, moving)  # futures are kept as halves
    assert scores["true_futures"] == len(truths)
    assert scores["energy_score"] == pytest.approx(energy)
    for name, level in (("coverage_50", 0.5), ("coverage_90", 0.9)):
        assert scores[name] == pytest.approx((abs(pit - 0.5) <= level / 2).mean())
    assert scores["rank_histogram"] == np.histogram(pit, 20, (0, 1))[0].tolist()


def test_scores_from_the_first_event_on_are_of_the_clips_that_have_one(world):
    lab = SimpleNamespace(**vars(LAB) | {"scored": 11})
    futures = Futures(lab, world.truth, {}, {0: [1, 6, 8], 1: [11]})  # 1 is given, 11 not scored
    for k in range(N):
        futures.add([clips[k] for clips in world.sampled])
    scores, (sampled, *_), (true, *_) = futures.scores(0.1), world.sampled, world.truth
    psnr = [frame_psnr(x[6:11], true[6:11]).mean().item() for x in sampled]
    assert scores["psnr_from_event_best"] == pytest.approx(max(psnr))
    assert scores["best_of"]["psnr_from_event"]["mean"][0] == pytest.approx(np.mean(psnr))
    mean = frame_psnr(sampled.clamp(0, 1).mean(0)[6:11], true[6:11]).mean().item()
    assert scores["psnr_from_event_of_mean"] == pytest.approx(mean)


def test_the_error_of_a_model_is_added_before_the_psnr_is_taken(world):
    futures = Futures(LAB, world.truth, {}, {}, error=0.01)
    futures.add(world.truth)
    noisy = [clip + 0.1 for clip in world.truth]  # the same squared error
    unclamped = SimpleNamespace(**vars(LAB) | {"frame_psnr": unclamped_psnr})
    other = Futures(unclamped, world.truth, {}, {})
    other.add(noisy)
    assert futures.scored[0][0]["psnr"] == pytest.approx(20, abs=1e-6)  # frame_psnr has a floor
    assert other.scored[0][0]["psnr"] == pytest.approx(20)


def test_equal_values_share_their_rank():
    a, b = torch.tensor([0.0, 0, 0, 1, 2, 2]), torch.tensor([3.0, 3, 1, 0, 5, 4])
    assert rank_correlation(a, b) == pytest.approx(scipy.stats.spearmanr(a, b).statistic)
    assert math.isnan(rank_correlation(torch.zeros(4), b[:4]))


def test_error_and_spread_are_ranked_over_the_frames_of_all_clips(world):
    spread, error = [], []
    for clips, true in zip(world.sampled, world.truth):
        clips = clips.clamp(0, 1)
        error += [rms(x) for x in (clips.mean(0) - true)[2:]]
        spread += [rms(clips.std(0)[t]) for t in range(2, len(true))]
    exact = scipy.stats.spearmanr(error, spread).statistic
    assert futures_of(world, {}).scores(0.1)["error_spread"] == pytest.approx(exact)


def test_differences_are_paired_by_clip_and_of_as_many_futures(world):
    ours, other = futures_of(world, {}), futures_of(world, {}, n=2)
    scores, theirs = (x.scores(0.1) for x in (ours, other))
    minus = ours.minus(other)
    best_of_two = scores["best_of"]["psnr"]["best"][1]
    assert minus["psnr_best"]["mean"] == pytest.approx(best_of_two - theirs["psnr_best"])
    for name in ("psnr_of_mean", "energy_score", "crps"):
        assert minus[name]["mean"] == pytest.approx(scores[name] - theirs[name])


def test_a_forecast_is_scored_on_the_futures_that_are_no_samples_of_the_ideal_one(world):
    sigma, true = 0.2, world.outcomes[:, 2:].double() / 255
    scores = futures_of(world, {1: world.outcomes}, samples=2).scores(sigma)
    moving = true.std(0).numpy() > 0.02  # of all of them
    energy, pit = fit(world.sampled[1][:, 2:].half(), true[2:], sigma, moving)
    assert scores["true_futures"] == M - 2
    assert scores["energy_score"] == pytest.approx(energy)
    assert scores["coverage_50"] == pytest.approx((abs(pit - 0.5) <= 0.25).mean())


class OpenLab(Lab):
    given, frame_psnr = 2, staticmethod(frame_psnr)

    def __init__(self, root, *counts):
        """Two test clips of 12 frames; true futures of the first ones."""
        self.settings = SimpleNamespace(DR=root)
        self.truth = [(255 * uniform(12, *SIZE, seed=t)).round() / 255 for t in range(2)]
        (root / "futures").mkdir()
        for clip, count in enumerate(counts):
            frames = (255 * uniform(count, 14, 12, 14, 3, seed=clip + 5)).byte().numpy()
            write_npz(root / f"futures/{clip}.npz", {"frames": frames})

    def futures(self, samples):
        return Futures(self, self.truth, self.true_futures(self.truth), {}, samples)


def test_an_ideal_forecast_has_as_many_samples_as_the_model(tmp_path):
    lab = OpenLab(tmp_path, 5, 4)
    futures = lab.futures(samples=3)
    ideal = futures.ideal(0.1)
    scores, own = ideal.scores(0.1), lab.truth[0]
    assert (scores["n_samples"], scores["true_futures"]) == (3, 2)
    frames = futures.outcomes[0].double() / 255
    assert torch.equal(frames[-1], own) and len(frames) == 6  # the clip is a true future, too
    energies = [energy_score(x[:3, 2:].half() / 255, x[3:, 2:] / 255).mean()
                for x in (x.double() for x in futures.outcomes.values())]  # fmt: skip
    assert scores["energy_score"] == pytest.approx(np.mean(energies), rel=1e-3)  # of halves
    psnr = -10 * torch.log10((frames[:3, 2:] - own[2:]).pow(2).mean((2, 3, 4)) + 0.1**2)
    assert max(x[0]["psnr"] for x in ideal.scored) == pytest.approx(psnr.mean(1).max().item())


@pytest.mark.parametrize("counts", [(2, 9), (9,), ()], ids=["few", "of one clip", "none"])
def test_without_enough_true_futures_there_is_no_ideal_forecast(tmp_path, counts):
    futures = OpenLab(tmp_path, *counts).futures(samples=3)
    assert futures.ideal(0.1) is None
    assert counts == (9,) or not futures.reserved  # all are there to be scored on
