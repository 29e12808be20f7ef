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
from modules.evaluation.codes import grey_log_likelihood
from modules.evaluation.latents import (
    TRAVERSED_VALUES,
    Latents,
    active_units,
    event_means,
    frame_mse,
    gaussian_log_likelihood,
    importance_bound,
    kl_of_frames,
    log_ratio,
    mutual_information,
    near_events,
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


@pytest.mark.parametrize("size", [(), (2,)])
def test_mutual_information_of_a_linear_gaussian_model(size):
    """z = a x + noise of variance 1 - a^2: its marginal is the prior, N(0, I)."""
    n, a = 4000, torch.linspace(0.3, 0.8, math.prod((3, *size))).view(3, *size)
    mu = a * normal(40, 100, 3, *size, seed=5)
    logvar = torch.log(1 - a**2).expand_as(mu)
    exact = -0.5 * torch.log(1 - a**2).sum().item()
    found, kl = mutual_information(mu, logvar), kl_of_frames(mu, logvar)
    # a frame's own posterior is exp(I) / n of the mixture on average; over the frames the terms
    # vary by as much as the KL and log q(z | x), whose deviation is sqrt(dimensions / 2)
    error = (kl.std().item() + (a.numel() / 2) ** 0.5) / n**0.5
    assert found == pytest.approx(exact, abs=4 * error + 3 * math.exp(exact) / n)
    assert kl.mean().item() == pytest.approx(exact, abs=4 * error)  # so KL(q(z) || p(z)) is 0


def test_mutual_information_has_its_limits():
    mu = 100 * normal(3, 4, 2)
    assert mutual_information(mu, mu * 0 - 9) == pytest.approx(
        math.log(12)
    )  # frames are told apart
    same = normal(1, 1, 2).expand(3, 4, 2)
    assert mutual_information(same, same) == pytest.approx(0, abs=1e-12)


def test_event_means_compare_the_three_frames_of_an_event_with_the_rest():
    kl = torch.ones(2, 8)  # of frames 2..9
    kl[0, 3:6] = torch.tensor([6.0, 4.0, 2.0])  # frames 5..7
    kl[1, 0] = 10.0  # frame 2, after an event at frame 0
    events = {0: [5], 1: [0, 30], 7: [3]}  # there is no clip 7
    means = event_means(kl, events, first=2)
    assert means == {"at_events": 22 / 4, "elsewhere": 1.0, "difference": 4.5}
    found = event_means(kl, events, 2, {"event": 3.5, "other": 0.5})
    assert found.items() > means.items()
    assert found["entropy_at_events"] == (3.5 + 3 * 0.5) / 4  # the event at frame 0 is not measured
    assert (found["entropy_elsewhere"], found["entropy"]) == (0.5, (3.5 + 15 * 0.5) / 16)
    assert near_events((2, 8), events, 2, 1).nonzero().tolist() == [[0, 3]]


@pytest.mark.parametrize(
    ("events", "expected"), [({}, (None, 1.5)), ({0: [1]}, (1.5, None))], ids=["no event", "all"]
)
def test_a_mean_over_no_frame_is_none(events, expected):
    means = event_means(torch.tensor([[1.0, 2.0]]), events, first=1)
    assert (*means.values(),) == (*expected, None)


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
    expected = {
        "elbo": (want.likelihoods.mean() - want.kl.mean()).item(),
        "importance_bound": bound,
        "draws": K,
        "kl": want.kl.mean().item(),
        "sigma": want.sigma,
        "given": GIVEN[lab],
    }
    assert {name: scores[name] for name in expected} == pytest.approx(expected)
    assert scores["kl_per_step"] == pytest.approx(want.kl.mean(0).tolist())
    assert sum(scores["kl_per_dimension"]) == pytest.approx(expected["kl"])
    assert scores["mutual_information"] + scores["marginal_kl"] == pytest.approx(expected["kl"])
    assert bound > expected["elbo"] - 1


@pytest.mark.parametrize("lab", ["pose", "robot"])
def test_the_code_of_8_bit_frames_has_the_noise_of_other_frames(lab):
    model, frames, conditions = model_and_clips(lab)
    frames, sigma = (255 * frames).round() / 255, 0.2
    z, given = Latents(model, frames, conditions, GIVEN[lab], K, sigma=sigma), GIVEN[lab]
    want, logs = ByHand(model, frames, conditions, given), []
    for noise in noises_of(model, frames):
        pred = model(frames, conditions, True, False, noise)[0][:, given - 1 :]
        logs.append(grey_log_likelihood(pred, frames[:, given:], sigma))
    weights = torch.stack(logs) + want.ratios
    bound = log_mean(weights if lab == "pose" else weights.sum(2, keepdim=True)).sum(1).mean()
    scores, values = z.scores({}), frames[0, given:].numel()
    assert scores["bits_per_value"] == pytest.approx(-bound.item() / values / math.log(2))
    assert scores["sigma"] == sigma
    assert "bits_per_value" not in Latents(model, frames, conditions, given, K).scores({})


def test_several_twins_are_a_mixture():
    twins = [make_model(latent=False, N_dim=n) for n in (4, 4)]
    for weight in twins[1].parameters():
        weight.mul_(1.1)
    frames, poses = random_clips(3, 6)
    preds = [twin(frames, poses, True)[0] for twin in twins]
    sigma = torch.stack([(pred - frames[:, 1:]) ** 2 for pred in preds]).mean().sqrt().item()
    logs = [Normal(x, sigma).log_prob(frames[:, 1:]).flatten(2).sum(2) for x in preds]
    both, first = Latents(twins, frames, poses), Latents(twins[0], frames, poses)
    scores = both.scores({})
    assert (scores["draws"], scores["sigma"]) == (2, pytest.approx(sigma))
    bounds = log_mean(torch.stack(logs))
    assert scores["importance_bound"] == pytest.approx(bounds.mean().item())
    minus = first.minus(both)["importance_bound"]
    difference = first.scores({})["importance_bound"] - bounds.mean().item()
    assert minus["mean"] == pytest.approx(difference) and minus["low"] <= minus["mean"]


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
    expected = {"at_events": at, "elsewhere": elsewhere, "difference": at - elsewhere}
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
