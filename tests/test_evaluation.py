"""Latents and Futures against computations written out here, with a tiny model of each lab."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import assert_close, make_model, random_clips, settings_of
from robot_helpers import make_robot, random_robot_clips
from torch.distributions import Normal, kl_divergence

from modules import evaluation
from modules.data.open_world import cut_events
from modules.evaluation import VALUES, Futures, Latents, sample_futures, traverse
from modules.labs import LABS
from modules.metrics import score_clip
from modules.models.rollout import noise_source, roll_out

pytestmark = pytest.mark.usefixtures("float64")

K = 5  # draws of z

POSE = [
    {},
    {"learned_prior": True},
    {"posterior": "previous"},
    {"z_grid": "coarse", "learned_prior": True},
    {"z_grid": "vector"},
    {"nets": "unet", "first_frame": True, "scene": True},
    {"latent": False},
]
ROBOT = [
    {},
    {"learned_prior": True},
    {"learned_prior": True, "last_frame_skip": True, "condition": "previous"},
    {"nets": "dcgan", "skip_from": "second_last"},
    {"latent": False},
]
CASES = [("pose", case) for case in POSE] + [("robot", case) for case in ROBOT]
GIVEN = {"pose": 1, "robot": 2}


def model_and_clips(lab, batch=3, **changes):
    if lab == "pose":
        return make_model(**changes), *random_clips(batch, 6)
    return make_robot(**changes), *random_robot_clips(batch)


def noises_of(model, frames, draws=K):
    """The standard normal noise that Latents draws for up to 8 clips."""
    size = draws, len(frames), frames.shape[1] - 1, *model.z_shape
    return torch.randn(size, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


# ---------------------------------------------------------------- many draws of z


@pytest.mark.parametrize(("lab", "changes"), CASES, ids=str)
@pytest.mark.parametrize("prior", [False, True])
def test_draws_of_z_are_forward_passes(lab, changes, prior):
    model, *clips = model_and_clips(lab, **changes)
    noises = noises_of(model, clips[0])
    mu, logvar, predict = model.draws_of_z(*clips, prior)
    pred = predict(noises)
    for noise, frames in zip(noises, pred):
        expected = model(*clips, True, prior, noise)
        assert_close(frames, expected[0])
        for found, wanted in zip((mu, logvar), expected[1:]):
            assert (found is None) == (wanted is None)
            if found is not None:
                assert_close(found, wanted)
    assert (pred[0] - pred[1]).abs().max() > 1e-4 or not model.settings.latent


@pytest.mark.parametrize("lab", ["pose", "robot"])
def test_draws_in_pieces_change_nothing(lab, monkeypatch):
    model, *clips = model_and_clips(lab)
    whole = Latents(model, *clips, GIVEN[lab], K)
    monkeypatch.setattr(evaluation, "FRAMES_AT_ONCE", 1)
    pieces = Latents(model, *clips, GIVEN[lab], K)
    assert_close(pieces.mse, whole.mse)
    assert_close(pieces.ratios, whole.ratios)


def test_more_clips_than_are_evaluated_at_once():
    model, (frames, poses) = make_model(), random_clips(10, 4)
    found = Latents(model, frames, poses, draws=2)
    assert found.mse.shape == found.ratios.shape == (2, 10, 3) and found.kl.shape == (10, 3)
    assert_close(found.kl[8:], Latents(model, frames[8:], poses[8:], draws=2).kl)


# ---------------------------------------------------------------- bounds


class ByHand:
    """What Latents measures, draw by draw, in plain coordinates of z."""

    def __init__(self, model, frames, conditions, given, prior=False):
        evaluated, likelihoods, ratios = slice(given - 1, None), [], []
        predictions, true = [], frames[:, given:]
        for noise in noises_of(model, frames):
            pred, mu, logvar = model(frames, conditions, True, prior, noise)
            predictions.append(pred[:, evaluated])
            if mu is None:
                continue
            # relative to the prior: its mean is 0 and its standard deviation 1
            q = Normal(mu[:, evaluated].double(), (logvar[:, evaluated].double() / 2).exp())
            p = Normal(torch.zeros_like(q.loc), torch.ones_like(q.loc))
            z = q.loc + noise[:, evaluated] * q.scale
            ratios.append((p.log_prob(z) - q.log_prob(z)).flatten(2).sum(2))
            self.kl = kl_divergence(q, p).flatten(2).sum(2)  # (B, T)
        errors = torch.stack([(x - true).double() ** 2 for x in predictions])
        self.sigma = errors.mean().sqrt().item()
        for x in predictions:
            density = Normal(x.double(), self.sigma).log_prob(true.double())
            likelihoods.append(density.flatten(2).sum(2))
        self.likelihoods = torch.stack(likelihoods)  # (K, B, T)
        self.ratios = torch.stack(ratios) if ratios else torch.zeros_like(self.likelihoods)


def log_mean(weights):
    """log of the mean of exp(weights) over the first axis."""
    highest = weights.max(0).values
    return highest + (weights - highest).exp().mean(0).log()


@pytest.mark.parametrize("learned_prior", [False, True])
@pytest.mark.parametrize("lab", ["pose", "robot"])
def test_bounds_of_the_likelihood(lab, learned_prior):
    model, *clips = model_and_clips(lab, learned_prior=learned_prior)
    found = Latents(model, *clips, GIVEN[lab], K).scores({})
    want = ByHand(model, *clips, GIVEN[lab])
    weights, frames = want.likelihoods + want.ratios, want.kl.shape[1]
    if lab == "pose":  # a frame depends on its own z alone
        bound = log_mean(weights).mean().item()
    else:  # the state remembers z of earlier frames: only the clip as a whole has a bound
        bound = log_mean(weights.sum(2)).mean().item() / frames
    assert found["elbo"] == pytest.approx((want.likelihoods.mean() - want.kl.mean()).item())
    assert found["importance_bound"] == pytest.approx(bound)
    assert found["kl"] == pytest.approx(want.kl.mean().item())
    assert found["kl_per_step"] == pytest.approx(want.kl.mean(0).tolist())
    assert sum(found["kl_per_dimension"]) == pytest.approx(found["kl"])
    assert found["sigma"] == pytest.approx(want.sigma)
    assert found["draws"] == K and found["given"] == GIVEN[lab] and len(found["kl_per_step"]) > 2
    values = clips[0][0, 0].numel()
    bits = math.log2(255) - bound / (values * math.log(2))
    assert found["bits_per_value"] == pytest.approx(bits)
    assert found["importance_bound"] > found["elbo"] - 1


@pytest.mark.parametrize("learned_prior", [False, True])
@pytest.mark.parametrize("lab", ["pose", "robot"])
def test_without_a_posterior_z_is_drawn_from_the_prior(lab, learned_prior):
    model, *clips = model_and_clips(lab, learned_prior=learned_prior)
    found = Latents(model, *clips, GIVEN[lab], K, posterior=False).scores({0: [3]})
    want = ByHand(model, *clips, GIVEN[lab], prior=True)
    assert found["elbo"] == pytest.approx(want.likelihoods.mean().item())
    assert found["kl"] == 0 and not {"units", "events", "kl_per_step"} & found.keys()


def test_a_posterior_that_is_used_at_test_too_costs_nothing():
    model, *clips = model_and_clips("pose", posterior="previous")
    found, want = Latents(model, *clips, draws=K).scores({}), ByHand(model, *clips, 1)
    assert found["elbo"] == pytest.approx(want.likelihoods.mean().item())
    bound = log_mean(want.likelihoods).mean().item()
    assert found["importance_bound"] == pytest.approx(bound)
    assert found["kl"] == pytest.approx(want.kl.mean().item()) and found["kl"] > 0


@pytest.mark.parametrize("lab", ["pose", "robot"])
def test_kl_at_events(lab):
    model, *clips = model_and_clips(lab)
    latents, given = Latents(model, *clips, GIVEN[lab], K), GIVEN[lab]
    events = {0: [3], 2: [0, 5], 7: [3]}  # there is no clip 7
    found = latents.scores(events)["events"]
    near = {(0, t) for t in (3, 4, 5)} | {(2, t) for t in (0, 1, 2, 5)}
    pairs = [(clip, t) for clip in range(3) for t in range(given, 6)]
    kl = ByHand(model, *clips, given).kl
    means = [
        np.mean([kl[clip, t - given] for clip, t in pairs if ((clip, t) in near) == at])
        for at in (True, False)
    ]
    wanted = {"at_events": means[0], "elsewhere": means[1], "ratio": means[0] / means[1]}
    assert found == pytest.approx(wanted)


@pytest.mark.parametrize("lab", ["pose", "robot"])
def test_a_traversal_changes_one_dimension_of_the_last_frame(lab):
    model, frames, conditions = model_and_clips(lab, 1, learned_prior=True)
    found = traverse(model, frames[0], conditions[0], [1, 0])
    assert list(found) == ["dimension 1", "dimension 0"]
    for dimension, rows in ((1, found["dimension 1"]), (0, found["dimension 0"])):
        for value, row in zip(VALUES, rows):
            noise = torch.zeros(1, 5, *model.z_shape)
            noise[:, -1, dimension] = value
            pred, *_ = model(frames, conditions, True, True, noise)
            assert_close(row, pred[0, -1])
        assert len(rows) == len(VALUES) and (rows[0] - rows[-1]).abs().max() > 1e-4


# ---------------------------------------------------------------- sampled futures


@pytest.mark.parametrize("lab", ["pose", "robot"])
def test_futures_in_one_batch_are_single_rollouts(lab):
    model, frames, conditions = model_and_clips(lab, 2, learned_prior=True)
    given = frames[:, : GIVEN[lab]]
    together = sample_futures(model, given, conditions, 7, range(2, 5))
    assert together.shape == (3, *frames.shape)
    for future, sample in zip(together, range(2, 5)):
        for clip in range(2):
            noise, one = noise_source("sample", 7, [clip], sample), slice(clip, clip + 1)
            alone = roll_out(model, given[one], conditions[one], noise)
            assert_close(future[one], alone)
    assert (together[0] - together[1]).abs().max() > 1e-4


SIZE = (3, 12, 14)
LAB = SimpleNamespace(given=2, score=lambda pred, true: score_clip(pred, true, 2))
N, M = 4, 5  # sampled and true futures


def uniform(*shape, seed):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def world():
    """True clips (13 and 12 frames), sampled futures of each, true futures of clip 1."""
    truth = [uniform(t, *SIZE, seed=t) for t in (13, 12)]
    noise = [0.3 * uniform(N, len(clip), *SIZE, seed=7) for clip in truth]
    sampled = [(0.8 * clip + x) for clip, x in zip(truth, noise)]
    for clips, clip in zip(sampled, truth):
        clips[:, :2] = clip[:2]  # given
    many = (255 * uniform(M, 12, *SIZE, seed=3)).to(torch.uint8)
    many[:, :2] = many[:1, :2]
    many[:, :, :, :4] = many[:1, :, :, :4]  # the upper rows do not differ
    return SimpleNamespace(truth=truth, sampled=sampled, many=many)


def futures_of(world, many, n=N):
    futures = Futures(LAB, world.truth, many)
    for k in range(n):
        futures.add([clips[k] for clips in world.sampled])
    return futures


def test_best_mean_and_worst_are_of_every_clip(world):
    found = futures_of(world, {}).scores(0.1)
    for name in ("psnr", "ssim"):
        pairs = zip(*world.sampled)
        table = np.array(
            [[score_clip(x, t, 2)[name] for x, t in zip(pair, world.truth)] for pair in pairs]
        )
        ends = table.max(0).mean(), table.mean(), table.min(0).mean()
        assert [found[f"{name}_{x}"] for x in ("best", "mean", "worst")] == pytest.approx(ends)
        curve = found["best_of"][name]
        two = np.mean([table[[a, b]].max(0).mean() for a in range(N) for b in range(a)])
        assert curve["best"][:2] == pytest.approx([table.mean(), two])
        assert curve["n"] == [1, 2, 3, 4]
    assert found["n_samples"] == N


def test_diversity_leaves_the_given_frames_out(world):
    values = torch.cat([clips[:, 2:].flatten(1) for clips in world.sampled], 1).clamp(0, 1)
    expected = 255 * values.double().std(0).mean().item()
    assert futures_of(world, {}).scores(0.1)["diversity"] == pytest.approx(expected)
    assert "diversity" not in futures_of(world, {}, n=1).scores(0.1)


def edges(clip):
    """The mean over frames 10, 11, ... of the root mean square of the gradient."""
    x = np.clip(np.asarray(clip[10:], float), 0, 1)
    here = x[..., :-1, :-1]
    squares = (x[..., :-1, 1:] - here) ** 2 + (x[..., 1:, :-1] - here) ** 2
    return np.sqrt(squares.mean((1, 2, 3))).mean()


def test_sharpness_is_the_share_of_the_truths_from_frame_10_on(world):
    sampled = np.mean([edges(x) for clips in world.sampled for x in clips])
    true = np.mean([edges(clip) for clip in world.truth])
    found = futures_of(world, {}).scores(0.1)["sharpness"]
    assert found == pytest.approx(sampled / true)


def test_sharpness_of_clips_too_short_for_it_is_left_out(world):
    world.truth[1], world.sampled[1] = world.truth[1][:8], world.sampled[1][:, :8]
    sampled = np.mean([edges(x) for x in world.sampled[0]])
    found = futures_of(world, {}).scores(0.1)
    assert found["sharpness"] == pytest.approx(sampled / edges(world.truth[0]))
    world.truth[0], world.sampled[0] = world.truth[0][:10], world.sampled[0][:, :10]
    assert "sharpness" not in futures_of(world, {}).scores(0.1)


def fit(samples, truths, sigma, moving):
    """Energy score and PIT by the definitions: N futures, M truths, frames on the second axis."""
    samples, truths = (np.asarray(x, np.float64) for x in (samples, truths))

    def distance(a, b):
        return np.sqrt(((a - b) ** 2).mean((1, 2, 3)))

    error = np.mean([distance(x, y) for x in samples for y in truths], 0)
    n = len(samples)
    pairs = [distance(a, b) for i, a in enumerate(samples) for b in samples[:i]]
    energy = (error - (np.mean(pairs, 0) / 2 if n > 1 else 0)).mean()
    normal = Normal(0.0, 1.0)
    cdf = [normal.cdf(torch.tensor((truths - x) / sigma)).numpy() for x in samples]
    return energy, np.mean(cdf, 0)[:, moving]


@pytest.mark.parametrize("known", ["many", "one"])
def test_energy_and_coverage_against_the_true_futures(world, known):
    sigma, many = 0.2, {1: world.many} if known == "many" else {}
    found = futures_of(world, many).scores(sigma)
    if known == "many":  # of clip 1, whose futures are known
        truths, samples = world.many[:, 2:].float() / 255, world.sampled[1][:, 2:]
        moving = np.asarray(truths, float).std(0, ddof=1) > 0.02
        assert not moving[:, :, :4].any() and moving[:, :, 4:].all()
    else:  # the first clip, where it differs from its last given frame
        truths, samples = world.truth[0][None, 2:], world.sampled[0][:, 2:]
        moving = abs(np.asarray(world.truth[0][2:] - world.truth[0][1])) > 0.02
    energy, pit = fit(samples.half(), truths, sigma, moving)  # futures are kept as halves
    assert found["true_futures"] == len(truths)
    assert found["energy_score"] == pytest.approx(energy)
    for name, level in (("coverage_50", 0.5), ("coverage_90", 0.9)):
        assert found[name] == pytest.approx((abs(pit - 0.5) <= level / 2).mean())
    counts, _ = np.histogram(pit, 20, (0, 1))
    assert found["rank_histogram"] == counts.tolist()


def test_an_ideal_forecast_is_made_of_true_futures(world):
    sigma, truths = 0.2, world.many[:, 2:].float() / 255
    found = futures_of(world, {1: world.many}).ideal(sigma)
    moving = np.asarray(truths, float).std(0, ddof=1) > 0.02
    energy, pit = fit(truths[::2], truths[1::2], sigma, moving)
    assert found["energy_score"] == pytest.approx(energy)
    assert found["coverage_50"] == pytest.approx((abs(pit - 0.5) <= 0.25).mean())
    for known in ({}, {1: world.many[:3]}, {0: world.many[:1], 1: world.many}):  # too few
        assert futures_of(world, known).ideal(sigma) is None


# ---------------------------------------------------------------- events of a take


def test_events_of_a_take_are_those_of_the_clips_it_is_cut_into(tmp_path):
    assert cut_events({0: [1, 9, 10, 35]}, 10) == {0: [1, 9], 1: [0], 3: [5]}
    assert cut_events({}, 10) == cut_events({1: [3]}, 10) == {}
    (tmp_path / "val").mkdir()
    (tmp_path / "events").mkdir()
    (tmp_path / "events/val.csv").write_text("clip,frame\n0,1\n0,13\n2,4\n")
    pose = settings_of(["--DR", tmp_path, "--val_vi_len", 12])
    assert LABS["pose"](pose).val_events() == {0: [1], 1: [1]}
    robot = settings_of(["--DR", tmp_path], lab="robot")
    assert LABS["robot"](robot).val_events() == {0: [1, 13], 2: [4]}
    assert LABS["pose"](pose.replace(DR=str(tmp_path / "val"))).val_events() == {}
