"""Losses and metrics against torch.distributions, numpy, scikit-image and plain Python."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import assert_close
from skimage.metrics import structural_similarity
from torch.distributions import Normal, kl_divergence

from modules.metrics import (
    AVERAGES,
    UNCLAMPED,
    Generate_PSNR,
    competition_groups,
    course_averages,
    drifts,
    frame_psnr,
    frame_ssim,
    mean_ssim,
    pose_box_psnr,
    score_clip,
    score_clips,
    score_rollout,
)
from modules.report.tables import print_scores
from modules.training.losses import (
    MSE_FLOOR,
    calibrated_loss,
    kl_above,
    kl_criterion,
    kl_per_dimension,
)

pytestmark = pytest.mark.usefixtures("float64")


def images(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def reference_psnr(pred, true):
    """PSNR of one frame in float64."""
    pred, true = np.asarray(pred, np.float64), np.asarray(true, np.float64)
    return -10 * np.log10(np.mean((pred - true) ** 2))


# ---------------------------------------------------------------- KL


@pytest.mark.parametrize("batch", [1, 3, 45])
def test_kl_is_that_of_torch_summed_and_divided_by_the_batch(batch):
    mu = 4 * images(3, 12, 8, 4) - 2
    logvar = 12 * images(3, 12, 8, 4, seed=1) - 8
    torchs = kl_divergence(Normal(mu, (0.5 * logvar).exp()), Normal(0.0, 1.0)).sum() / batch
    assert_close(kl_criterion(mu, logvar, batch), torchs)


def test_kl_of_the_prior_and_its_gradient_are_zero():
    mu, logvar = (torch.zeros(2, 4, 3, 3, requires_grad=True) for _ in range(2))
    kl = kl_criterion(mu, logvar, 2)
    kl.backward()
    assert kl.item() == 0
    assert mu.grad.abs().max() == 0 and logvar.grad.abs().max() == 0


# ---------------------------------------------------------------- PSNR


@pytest.mark.parametrize("data_range", [1.0, 2.0, 255.0])
def test_generate_psnr_is_the_textbook_formula(data_range):
    a, b = data_range * images(2, 3, 12, 16), data_range * images(2, 3, 12, 16, seed=1)
    wanted = 10 * np.log10(data_range**2 / np.mean((a.double() - b.double()).numpy() ** 2))
    assert float(Generate_PSNR(a, b, data_range)) == pytest.approx(wanted)


def test_generate_psnr_of_an_error_of_a_tenth_is_20_db():
    error = torch.full((3, 4, 4), 0.1)
    assert float(Generate_PSNR(torch.zeros(3, 4, 4), error)) == pytest.approx(20)


@pytest.mark.parametrize("shape", [(3, 12, 16), (5, 3, 12, 16), (2, 5, 3, 12, 16)])
def test_frame_psnr_is_per_frame(shape):
    pred, true = images(*shape), images(*shape, seed=1)
    found = frame_psnr(pred, true)
    pairs = zip(pred.reshape(-1, 3, 12, 16), true.reshape(-1, 3, 12, 16))
    wanted = np.reshape([reference_psnr(p, t) for p, t in pairs], shape[:-3])
    assert found.shape == shape[:-3]
    np.testing.assert_allclose(found.numpy(), wanted)


def test_scores_of_identical_images_are_high_and_finite():
    x = images(4, 3, 12, 16)
    scores = torch.cat([frame_psnr(x, x), Generate_PSNR(x, x).view(1)])
    assert torch.isfinite(scores).all() and (scores >= 90).all()
    assert torch.allclose(frame_ssim(x, x), torch.ones(4))


def test_psnr_falls_as_noise_grows():
    true, noise = images(3, 12, 16) / 2, images(3, 12, 16, seed=1) / 2
    steps = [0, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1]
    scores = [frame_psnr(true + s * noise, true).item() for s in steps]
    assert scores == sorted(scores, reverse=True)


def test_values_outside_0_to_1_are_clipped_before_scoring():
    true = images(4, 3, 12, 16)
    pred = 3 * images(4, 3, 12, 16, seed=1) - 1
    clipped = np.clip(pred.numpy(), 0, 1)
    wanted = [reference_psnr(p, t) for p, t in zip(clipped, true)]
    np.testing.assert_allclose(frame_psnr(pred, true).numpy(), wanted)
    assert_close(frame_ssim(pred, true), frame_ssim(torch.tensor(clipped), true))
    assert score_clip(pred, true) == score_clip(torch.tensor(clipped), true)


def test_nan_in_a_prediction_gives_a_nan_score():
    pred, true = images(3, 3, 12, 16), images(3, 3, 12, 16, seed=1)
    pred[2, 0, 0, 0] = float("nan")
    assert frame_psnr(pred, true).isnan().tolist() == [False, False, True]
    assert math.isnan(score_clip(pred, true)["psnr"])


# ---------------------------------------------------------------- SSIM


def skimage_ssim(pred, true):
    return structural_similarity(
        true.double().numpy(),
        pred.double().numpy(),
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=1,
        channel_axis=0,
    )


def smooth(seed):
    """An image with large areas, as frames have: SSIM of pure noise is always about 0."""
    coarse = images(1, 3, 4, 8, seed=seed)
    return torch.nn.functional.interpolate(coarse, (32, 64), mode="bilinear")[0]


PAIRS = {
    "random": (images(3, 32, 64), images(3, 32, 64, seed=1)),
    "smallest": (images(3, 11, 11), images(3, 11, 11, seed=1)),
    "identical": (smooth(0), smooth(0)),
    "shifted": (smooth(0), smooth(0).roll(2, -1)),
    "darker": (smooth(0), 0.5 * smooth(0)),
    "noisy": (smooth(0), (smooth(0) + 0.1 * torch.rand(3, 32, 64)).clamp(0, 1)),
    "inverted": (smooth(0), 1 - smooth(0)),
    "flat": (torch.full((3, 16, 16), 0.3), torch.full((3, 16, 16), 0.6)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_ssim_is_that_of_scikit_image(name):
    pred, true = PAIRS[name]
    found = frame_ssim(pred[None], true[None]).item()
    assert found == pytest.approx(skimage_ssim(pred, true))


def test_ssim_is_per_frame():
    pred, true = (torch.stack(side) for side in zip(*(PAIRS[n] for n in ("random", "shifted"))))
    wanted = [skimage_ssim(p, t) for p, t in zip(pred, true)]
    np.testing.assert_allclose(frame_ssim(pred, true).numpy(), wanted)


@pytest.mark.parametrize("frames", [1, 63, 64, 65, 130])
def test_mean_ssim_is_the_mean_over_frames(frames):
    true = images(frames, 3, 12, 16)
    pred = (true + torch.linspace(0, 0.5, frames).view(-1, 1, 1, 1)).clamp(0, 1)
    wanted = sum(skimage_ssim(p, t) for p, t in zip(pred, true)) / frames
    assert mean_ssim(pred, true) == pytest.approx(wanted)


# ---------------------------------------------------------------- a clip's averages


@pytest.fixture
def long_clip():
    """630 frames whose error grows from zero."""
    true = images(630, 3, 12, 16)
    noise = torch.linspace(0, 0.3, 630).view(-1, 1, 1, 1) * (images(630, 3, 12, 16, seed=1) - 0.5)
    return true + noise, true


@pytest.fixture
def reference_scores(long_clip):
    raw, true = (np.asarray(x, np.float64) for x in long_clip)
    published = [reference_psnr(raw[t], true[t]) for t in range(1, 630)]
    submitted = [
        reference_psnr(np.rint(raw[t] * 255) / 255, np.rint(true[t] * 255) / 255)
        for t in range(1, 601)
    ]
    pred = raw.clip(0, 1)
    psnr = [reference_psnr(pred[t], true[t]) for t in range(1, 630)]
    whole = [
        reference_psnr(np.rint(pred[t] * 255) / 255, np.rint(true[t] * 255) / 255)
        for t in range(1, 601)
    ]
    return {
        "psnr": sum(psnr) / 629,
        "psnr_min": min(psnr),
        "psnr_given_frame_repeated": sum(reference_psnr(true[0], f) for f in true[1:]) / 629,
        "psnr_2023_tester": sum(psnr) / 628,
        "psnr_competition": sum(whole) / 600,
        "psnr_2023_tester_unclamped": sum(published) / 628,
        "psnr_competition_unclamped": sum(submitted) / 600,
    }


@pytest.mark.parametrize("given", [1, 2])
def test_the_mse_of_a_rollout_is_summed_over_all_predicted_frames_not_clamped(given):
    lab = SimpleNamespace(given=given, score=lambda pred, true: {"psnr": 1.0})
    pred, true = 3 * images(6, 3, 4, 5) - 1, images(6, 3, 4, 5, seed=1)
    squares = np.square(np.float64(pred) - np.float64(true)).reshape(6, -1)
    found = score_rollout(lab, pred.double(), true.double())
    assert found == {
        "psnr": 1.0,
        "mse_sum": pytest.approx(squares.mean(1)[given:].sum(), rel=1e-12),
    }


def all_scores(pred, true):
    return score_clip(pred, true) | course_averages(pred, true)


def test_the_averages_of_a_clip_match_the_reference(long_clip, reference_scores):
    found = all_scores(*long_clip)
    ssim = found.pop("ssim")
    assert found == pytest.approx(reference_scores)
    assert ssim == pytest.approx(mean_ssim(long_clip[0][1:], long_clip[1][1:]))
    assert {"psnr", *list(AVERAGES)[1:5]} <= set(found)


def test_scores_with_a_published_name_are_not_clamped():
    """A pixel at 1.5 whose truth is 1 is an error there, and none in ours."""
    true = images(4, 3, 12, 16)
    true[:, :, 0] = 1
    pred = true.clone()
    pred[:, :, 0] = 1.5
    found = course_averages(pred, true)
    mse = 0.5**2 * 16 / (12 * 16)
    rows = (torch.round(pred * 255) - torch.round(true * 255)).double() / 255
    competition = -10 * math.log10(rows[1].pow(2).mean())
    assert found["psnr_2023_tester"] == pytest.approx(100 * 3 / 2)
    assert found["psnr_competition"] == pytest.approx(100)
    assert found["psnr_2023_tester_unclamped"] == pytest.approx(-10 * math.log10(mse) * 3 / 2)
    assert found["psnr_competition_unclamped"] == pytest.approx(competition)


def test_each_average_ignores_the_frames_it_should(long_clip):
    pred, true = long_clip
    found, worse_pred = all_scores(pred, true), pred.clone()
    worse_pred[0] = 1 - true[0]
    assert all_scores(worse_pred, true) == found
    worse_pred[601:] = 1 - true[601:]
    worse = all_scores(worse_pred, true)
    names = "psnr_competition", "psnr_competition_unclamped"
    assert all(worse[name] == found[name] for name in names)
    assert worse["psnr"] < found["psnr"]
    worse_pred[600] = 1 - true[600]
    worse = all_scores(worse_pred, true)
    assert all(worse[name] < found[name] for name in names)


def test_scores_of_the_shortest_clip_are_finite():
    scores = all_scores(images(2, 3, 12, 16), images(2, 3, 12, 16, seed=1))
    assert all(math.isfinite(value) for value in scores.values())


# ---------------------------------------------------------------- drift, pose box


def test_drift_is_the_last_100_frames_minus_the_first_and_the_last_minus_frame_30():
    psnr = torch.linspace(40, 20, 629) ** 2  # of frames 1..629
    expected = (psnr[529:].mean() - psnr[:100].mean()).item()
    found = drifts(psnr)
    assert found["drift"] == pytest.approx(expected)
    assert found["drift_since_frame_30"] == pytest.approx((psnr[628] - psnr[29]).item())


@pytest.mark.parametrize("length", [1, 2, 7])
def test_drift_of_a_short_clip_compares_its_halves(length):
    psnr = torch.arange(length) ** 2.0
    half = max(length // 2, 1)
    assert drifts(psnr)["drift"] == pytest.approx((psnr[-half:].mean() - psnr[:half].mean()).item())


def poses_with_corners(*boxes, background=1.0):
    poses = torch.full((len(boxes), 3, 20, 30), background)
    for pose, (top, bottom, left, right) in zip(poses, boxes):
        pose[1, top, left] = pose[1, bottom - 1, right - 1] = 0.5
    return poses


@pytest.mark.parametrize("background", [0.0, 1.0])
def test_the_pose_box_has_a_margin_of_two_pixels(background):
    pred, true = images(2, 3, 20, 30), images(2, 3, 20, 30, seed=1)
    poses = poses_with_corners((5, 9, 10, 14), (0, 3, 25, 30), background=background)
    expected = [
        reference_psnr(pred[0, :, 3:11, 8:16], true[0, :, 3:11, 8:16]),
        reference_psnr(pred[1, :, 0:5, 23:30], true[1, :, 0:5, 23:30]),
    ]
    assert pose_box_psnr(pred, true, poses) == pytest.approx(np.mean(expected))


def test_frames_without_a_pose_are_ignored_unless_no_frame_has_one():
    pred, true = images(2, 3, 20, 30), images(2, 3, 20, 30, seed=1)
    seen = poses_with_corners((5, 9, 10, 14), (5, 9, 10, 14))
    seen[1] = 1
    alone = pose_box_psnr(pred[:1], true[:1], seen[:1])
    assert pose_box_psnr(pred, true, seen) == pytest.approx(alone)
    nothing = pose_box_psnr(pred, true, torch.ones_like(seen))
    assert nothing == pytest.approx(frame_psnr(pred, true).mean().item())


# ---------------------------------------------------------------- a calibrated likelihood


@pytest.mark.parametrize("of_batch", [False, True])
def test_calibrated_loss_is_the_likelihood_under_the_optimal_variance(of_batch):
    pred, true = images(6, 3, 8, 8).view(2, 3, 3, 8, 8), images(6, 3, 8, 8, seed=1)
    true, values = true.view(2, 3, 3, 8, 8), 3 * 8 * 8
    pred[0, 0] = true[0, 0] + 0.3 * (pred - true)[0, 0]  # a frame with smaller errors
    expected, whole = [], ((pred - true) ** 2).mean().sqrt()
    for p, t in zip(pred.flatten(0, 1), true.flatten(0, 1)):
        std = whole if of_batch else ((p - t) ** 2).mean().sqrt()
        likelihood = torch.distributions.Normal(p, std).log_prob(t).sum()
        constants = values / 2 * (1 + math.log(2 * math.pi))
        floor = (1 + MSE_FLOOR / std**2).log()
        expected.append(floor - (likelihood + constants) * 2 / values)
    expected = torch.stack(expected).mean().item()
    found = calibrated_loss(pred, true, of_batch).item()
    assert found == pytest.approx(expected)
    assert abs(found - calibrated_loss(pred, true, not of_batch).item()) > 0.1


def test_with_one_variance_for_the_batch_a_frame_counts_by_its_error():
    true = torch.zeros(1, 2, 3, 8, 8)
    pred = torch.full_like(true, 0.1)
    pred[:, 1] = 0.3
    shares = []
    for of_batch in (False, True):
        x = pred.clone().requires_grad_()
        (grad,) = torch.autograd.grad(calibrated_loss(x, true, of_batch), x)
        shares.append((grad * x).detach().sum((0, 2, 3, 4)))  # how far a frame moves the loss
    torch.testing.assert_close(shares[0], torch.ones(2), rtol=1e-2, atol=0)
    torch.testing.assert_close(shares[1], torch.tensor([0.2, 1.8]), rtol=1e-2, atol=0)


@pytest.mark.parametrize("of_batch", [False, True])
def test_calibrated_loss_of_an_exact_frame_is_finite(of_batch):
    pred = images(2, 3, 8, 8)[None].requires_grad_()
    loss = calibrated_loss(pred, pred.detach(), of_batch)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(pred.grad).all()


# ---------------------------------------------------------------- several clips

NAMES = """psnr psnr_min psnr_given_frame_repeated ssim psnr_2023_tester psnr_competition
    psnr_2023_tester_unclamped psnr_competition_unclamped""".split()


def clip_scores(*values):
    return [dict.fromkeys(NAMES, value) for value in values]


def test_clips_are_averaged_and_psnr_min_is_the_minimum():
    found = score_clips(clip_scores(20.0, 30.0, 46.0))
    assert {found[n] for n in NAMES if n != "psnr_min"} == {32.0}
    assert found["psnr_min"] == 20.0


@pytest.mark.parametrize(
    ("values", "groups"),
    [
        ((1.0, 2.0, 6.0, 10.0, 20.0), {"public": 3.0, "private": 15.0}),
        ((1.0, 2.0, 6.0, 10.0, 20.0, 99.0), {"public": 3.0, "private": 15.0}),
        ((1.0, 2.0, 6.0, 10.0), {}),
        ((1.0, 2.0), {}),
    ],
)
def test_competition_groups_are_clips_0_to_2_and_3_to_4_of_at_least_five(values, groups):
    for suffix in ("", UNCLAMPED):
        found = competition_groups(clip_scores(*values), suffix)
        assert {name.split()[0]: value for name, value in found.items()} == groups


@pytest.mark.parametrize("size", [(), (4, 5)])
def test_kl_per_dimension_sums_to_the_kl_per_frame(size):
    generator = torch.Generator().manual_seed(0)
    mu, logvar = (torch.randn(2, 3, 6, *size, generator=generator) for _ in range(2))
    found = kl_per_dimension(mu, logvar)
    exact = kl_divergence(Normal(mu, (logvar / 2).exp()), Normal(0.0, 1.0))
    dims = [d for d in range(mu.dim()) if d != 2]
    assert_close(found, exact.sum(dims) / 6)
    assert found.sum().item() == pytest.approx(kl_criterion(mu, logvar, 6).item())


def test_free_bits_clamp_the_kl_of_each_dimension_from_below():
    mu = torch.tensor([0.1, 1.0, 2.0]).expand(2, 3, 3).clone().requires_grad_()
    logvar = torch.zeros(2, 3, 3)
    cost = kl_above(0.3, mu, logvar)
    assert cost.item() == pytest.approx(0.3 + 0.5 + 2.0)
    cost.backward()
    assert not mu.grad[..., 0].any() and mu.grad[..., 1:].all()


@pytest.mark.parametrize("scale", [0.5, 1.5])
def test_clamped_scores_are_printed_where_a_clamp_matters(capsys, scale):
    true = images(130, 3, 12, 12)
    clip = score_clip(true * scale, true) | course_averages(true * scale, true)
    print_scores({"clips": [clip], "mean": clip, "averages": AVERAGES}, "baseline")
    printed = capsys.readouterr().out
    assert ("2023 clamped" in printed) == ("2024 clamped" in printed) == (scale > 1)
