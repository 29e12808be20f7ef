"""z: bounds of the likelihood, KL, active units, a traversal, against computations written out."""

import math

import numpy as np
import pytest
import torch
from helpers import assert_close, make_model, normal, random_clips, settings_of, uniform
from robot_helpers import make_robot, random_robot_clips
from torch.distributions import Normal, kl_divergence

from modules.data.open_world import cut_events
from modules.evaluation import latents
from modules.evaluation.latents import (
    TRAVERSED_VALUES,
    Latents,
    active_units,
    event_ratio,
    frame_mse,
    gaussian_log_likelihood,
    importance_bound,
    kl_of_frames,
    log_ratio,
    strongest_dimensions,
    traverse,
)
from modules.labs import LABS
from modules.nets.gaussian import relative_to_prior

pytestmark = pytest.mark.usefixtures("float64")


def log_likelihood(pred, true, sigma2):
    values = math.prod(true.shape[-3:])
    return gaussian_log_likelihood(frame_mse(pred, true), values, sigma2)


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


# ---------------------------------------------------------------- likelihood


def test_log_likelihood_is_that_of_torch_summed_over_a_frame_not_clamped():
    pred, true = 3 * uniform(2, 3, 3, 4, 5) - 1, uniform(2, 3, 3, 4, 5, seed=1)
    exact = Normal(pred, 0.3).log_prob(true).sum((2, 3, 4))
    assert_close(log_likelihood(pred, true, 0.09), exact)


# ---------------------------------------------------------------- bounds of log p(x)


@pytest.mark.parametrize("size", [(), (4, 5)])
def test_kl_and_log_ratio_are_those_of_torch(size):
    mu, logvar, mu_p, logvar_p, noise = (normal(2, 3, 6, *size, seed=seed) for seed in range(5))
    q, p = Normal(mu, (logvar / 2).exp()), Normal(mu_p, (logvar_p / 2).exp())  # a learned prior
    z, relative = q.loc + noise * q.scale, relative_to_prior(mu, logvar, mu_p, logvar_p)
    exact = (p.log_prob(z) - q.log_prob(z)).flatten(2).sum(2)
    assert_close(log_ratio(*relative, noise), exact)
    assert_close(kl_of_frames(*relative), kl_divergence(q, p).flatten(2).sum(2))


def test_the_importance_bound_of_very_unlikely_frames_is_finite():
    weights = torch.tensor([[-1e5, -2e4], [-1e5 + math.log(3), -3e4]])
    expected = [-1e5 + math.log(2), -2e4 - math.log(2)]
    assert importance_bound(weights).tolist() == pytest.approx(expected)


# ---------------------------------------------------------------- what z contains


def test_active_units_are_latent_values_whose_mean_varies():
    mu = torch.zeros(4, 5, 3, 2, 2)
    mu[..., 0, 1, 1] = 5.0  # constant: not active
    mu[..., 1, 0, 0] = 0.3 * normal(4, 5)
    mu[..., 2, 0, 1] = 0.03 * normal(4, 5)
    assert active_units(mu) == (1, 12)
    assert active_units(mu[..., 0, 0]) == (1, 3)
    assert active_units(mu[:1, :1]) == (0, 12)  # one frame does not vary


def test_event_ratio_compares_the_three_frames_of_an_event_with_the_rest():
    kl = torch.ones(2, 8)  # of frames 2..9
    kl[0, 3:6] = torch.tensor([6.0, 4.0, 2.0])  # frames 5..7
    kl[1, 0] = 10.0  # frame 2, after an event at frame 0
    ratio = event_ratio(kl, {0: [5], 1: [0, 30]}, first=2)
    assert ratio == {"at_events": 22 / 4, "elsewhere": 1.0, "ratio": 5.5}


@pytest.mark.parametrize(
    ("kl", "events", "expected"),
    [
        ([1.0, 2.0], {}, (None, 1.5)),
        ([1.0, 2.0], {0: [1]}, (1.5, None)),
        ([0] * 4, {0: [1]}, (0, 0)),
    ],
    ids=["no event", "all at the event", "collapsed"],
)
def test_an_event_ratio_without_meaning_is_none(kl, events, expected):
    ratio = event_ratio(torch.tensor([kl], dtype=float), events, first=1)
    assert (ratio["at_events"], ratio["elsewhere"], ratio["ratio"]) == (*expected, None)


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


# ---------------------------------------------------------------- z of a model

K = 5  # draws of z
LABS_AND_PRIORS = [(lab, prior) for lab in ("pose", "robot") for prior in (False, True)]
GIVEN = {"pose": 1, "robot": 2}
CASES = [
    ("pose", {}),
    ("pose", {"learned_prior": True}),
    ("pose", {"posterior": "previous"}),
    ("pose", {"z_grid": "coarse", "learned_prior": True}),
    ("pose", {"z_grid": "vector"}),
    ("pose", {"nets": "unet", "first_frame": True, "scene": True}),
    ("pose", {"latent": False}),
    ("robot", {}),
    ("robot", {"learned_prior": True}),
    ("robot", {"learned_prior": True, "last_frame_skip": True, "condition": "previous"}),
    ("robot", {"nets": "dcgan", "skip_from": "second_last"}),
    ("robot", {"latent": False}),
]


def model_and_clips(lab, batch=3, **changes):
    if lab == "pose":
        return make_model(**changes), *random_clips(batch, 6)
    return make_robot(**changes), *random_robot_clips(batch)


def noises_of(model, frames):
    """The standard normal noise that Latents draws for up to 8 clips."""
    return normal(K, len(frames), frames.shape[1] - 1, *model.z_shape)


@pytest.mark.parametrize(("lab", "changes"), CASES, ids=str)
@pytest.mark.parametrize("prior", [False, True])
def test_draws_of_z_are_forward_passes(lab, changes, prior):
    model, *clips = model_and_clips(lab, **changes)
    noises = noises_of(model, clips[0])
    *posterior, predict = model.draws_of_z(*clips, prior)
    pred = predict(noises)
    for noise, frames in zip(noises, pred):
        for drawn, expected in zip((frames, *posterior), model(*clips, True, prior, noise)):
            assert (drawn is None) == (expected is None)
            if drawn is not None:
                assert_close(drawn, expected)
    assert (pred[0] - pred[1]).abs().max() > 1e-4 or not model.settings.latent


@pytest.mark.parametrize("lab", ["pose", "robot"])
def test_draws_in_pieces_change_nothing(lab, monkeypatch):
    model, *clips = model_and_clips(lab)
    at_once = Latents(model, *clips, GIVEN[lab], K)
    monkeypatch.setattr(latents, "FRAMES_AT_ONCE", 1)
    pieces = Latents(model, *clips, GIVEN[lab], K)
    assert_close(pieces.mse, at_once.mse)
    assert_close(pieces.ratios, at_once.ratios)


def test_more_clips_than_are_evaluated_at_once():
    model, (frames, poses) = make_model(), random_clips(10, 4)
    z = Latents(model, frames, poses, draws=2)
    assert z.mse.shape == z.ratios.shape == (2, 10, 3) and z.kl.shape == (10, 3)
    assert_close(z.kl[8:], Latents(model, frames[8:], poses[8:], draws=2).kl)


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
            q = Normal(mu[:, evaluated], (logvar[:, evaluated] / 2).exp())
            p = Normal(torch.zeros_like(q.loc), torch.ones_like(q.loc))
            z = q.loc + noise[:, evaluated] * q.scale
            ratios.append((p.log_prob(z) - q.log_prob(z)).flatten(2).sum(2))
            self.kl = kl_divergence(q, p).flatten(2).sum(2)  # (B, T)
        errors = torch.stack([(x - true) ** 2 for x in predictions])
        self.sigma = errors.mean().sqrt().item()
        for x in predictions:
            likelihoods.append(Normal(x, self.sigma).log_prob(true).flatten(2).sum(2))
        self.likelihoods = torch.stack(likelihoods)  # (K, B, T)
        self.ratios = torch.stack(ratios) if ratios else torch.zeros_like(self.likelihoods)


def log_mean(weights):
    """log of the mean of exp(weights) over the first axis."""
    highest = weights.max(0).values
    return highest + (weights - highest).exp().mean(0).log()


@pytest.mark.parametrize(("lab", "learned_prior"), LABS_AND_PRIORS)
def test_bounds_of_the_likelihood(lab, learned_prior):
    model, *clips = model_and_clips(lab, learned_prior=learned_prior)
    scores = Latents(model, *clips, GIVEN[lab], K).scores({})
    want = ByHand(model, *clips, GIVEN[lab])
    weights, frames = want.likelihoods + want.ratios, want.kl.shape[1]
    if lab == "pose":  # a frame depends on its own z alone
        bound = log_mean(weights).mean().item()
    else:  # the state remembers z of earlier frames: only the clip as a whole has a bound
        bound = log_mean(weights.sum(2)).mean().item() / frames
    values = clips[0][0, 0].numel()
    expected = {
        "elbo": (want.likelihoods.mean() - want.kl.mean()).item(),
        "importance_bound": bound,
        "draws": K,
        "kl": want.kl.mean().item(),
        "bits_per_value": math.log2(255) - bound / (values * math.log(2)),
        "sigma": want.sigma,
        "given": GIVEN[lab],
    }
    assert {name: scores[name] for name in expected} == pytest.approx(expected)
    assert scores["kl_per_step"] == pytest.approx(want.kl.mean(0).tolist())
    assert sum(scores["kl_per_dimension"]) == pytest.approx(expected["kl"])
    assert bound > expected["elbo"] - 1


@pytest.mark.parametrize(("lab", "learned_prior"), LABS_AND_PRIORS)
def test_without_a_posterior_z_is_drawn_from_the_prior(lab, learned_prior):
    model, *clips = model_and_clips(lab, learned_prior=learned_prior)
    scores = Latents(model, *clips, GIVEN[lab], K, posterior=False).scores({0: [3]})
    want = ByHand(model, *clips, GIVEN[lab], prior=True)
    assert scores["elbo"] == pytest.approx(want.likelihoods.mean().item())
    assert scores["kl"] == 0 and not {"units", "events", "kl_per_step"} & scores.keys()


def test_a_posterior_that_is_used_at_test_too_costs_nothing():
    model, *clips = model_and_clips("pose", posterior="previous")
    scores, want = Latents(model, *clips, draws=K).scores({}), ByHand(model, *clips, 1)
    assert scores["elbo"] == pytest.approx(want.likelihoods.mean().item())
    assert scores["importance_bound"] == pytest.approx(log_mean(want.likelihoods).mean().item())
    assert scores["kl"] == pytest.approx(want.kl.mean().item()) and scores["kl"] > 0


@pytest.mark.parametrize("lab", ["pose", "robot"])
def test_kl_at_events(lab):
    model, *clips = model_and_clips(lab)
    events = {0: [3], 2: [0, 5], 7: [3]}  # there is no clip 7
    scores = Latents(model, *clips, GIVEN[lab], K).scores(events)["events"]
    near = np.zeros((3, 6), bool)
    near[0, 3:6] = near[2, :3] = near[2, 5] = True
    near, kl = near[:, GIVEN[lab] :], ByHand(model, *clips, GIVEN[lab]).kl.numpy()
    at, elsewhere = kl[near].mean(), kl[~near].mean()
    expected = {"at_events": at, "elsewhere": elsewhere, "ratio": at / elsewhere}
    assert scores == pytest.approx(expected)


@pytest.mark.parametrize(("events", "last"), [({}, 3), ({0: [0, 4, 5]}, 4), ({1: [4]}, 3)], ids=str)
@pytest.mark.parametrize("lab", ["pose", "robot"])
def test_a_traversal_changes_one_dimension_of_a_frame(lab, events, last):
    model, *clips = model_and_clips(lab, 2, learned_prior=True)
    scores = {"kl_per_dimension": [0.2, 3.0], "given": GIVEN[lab]}
    traversal = traverse(model, clips, scores, events)
    assert [*traversal] == ["dimension 1", "dimension 0"]
    clip = [x[:1, : last + 1] for x in clips]
    for label, frames in traversal.items():
        for value, frame in zip(TRAVERSED_VALUES, frames, strict=True):
            noise = torch.zeros(1, last, *model.z_shape)
            noise[:, -1, int(label[-1])] = value
            pred, *_ = model(*clip, True, True, noise)
            assert_close(frame, pred[0, -1])


@pytest.mark.parametrize(
    ("kl", "dimensions"),
    [([0.2, 0.05, 3.0], [2, 0]), ([0.01, 0.02], [1]), ([9.0, 8, 7, 6, 5], [0, 1, 2, 3]), ([], [])],
    ids=["one without", "collapse", "more than four", "a twin"],
)
def test_the_dimensions_with_the_most_information_are_traversed(kl, dimensions):
    assert strongest_dimensions(kl) == dimensions
