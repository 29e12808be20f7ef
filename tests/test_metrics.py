"""Losses and metrics against torch.distributions, numpy, scikit-image and plain Python."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import assert_close
from skimage.metrics import structural_similarity
from torch.distributions import Normal, kl_divergence

from modules.evaluation.metrics import (
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


# ---------------------------------------------------------------- losses


@pytest.mark.parametrize("batch", [1, 45])
def test_kl_is_that_of_torch_summed_and_divided_by_the_batch(batch):
    mu = 4 * images(3, 12, 8, 4) - 2
    logvar = 12 * images(3, 12, 8, 4, seed=1) - 8
    torchs = kl_divergence(Normal(mu, (0.5 * logvar).exp()), Normal(0.0, 1.0)).sum() / batch
    assert_close(kl_criterion(mu, logvar, batch), torchs)


@pytest.mark.parametrize("size", [(), (4, 5)])
def test_kl_per_dimension_sums_to_the_kl_per_frame(size):
    mu, logvar = images(2, 2, 3, 6, *size)
    kl = kl_per_dimension(mu, logvar)
    exact = kl_divergence(Normal(mu, (logvar / 2).exp()), Normal(0.0, 1.0))
    assert_close(kl, exact.sum([d for d in range(mu.dim()) if d != 2]) / 6)
    assert kl.sum().item() == pytest.approx(kl_criterion(mu, logvar, 6).item())


def test_free_bits_clamp_the_kl_of_each_dimension_from_below():
    mu = torch.tensor([0.1, 1.0, 2.0]).expand(2, 3, 3).clone().requires_grad_()
    cost = kl_above(0.3, mu, torch.zeros(2, 3, 3))
    assert cost.item() == pytest.approx(0.3 + 0.5 + 2.0)
    cost.backward()
    assert not mu.grad[..., 0].any() and mu.grad[..., 1:].all()


@pytest.mark.parametrize("of_batch", [False, True])
def test_calibrated_loss_is_the_likelihood_under_the_optimal_variance(of_batch):
    pred, true, values = *images(2, 2, 3, 3, 8, 8), 3 * 8 * 8
    pred[0, 0] = true[0, 0] + 0.3 * (pred - true)[0, 0]  # a frame with smaller errors
    expected, batch_std = [], ((pred - true) ** 2).mean().sqrt()
    for p, t in zip(pred.flatten(0, 1), true.flatten(0, 1)):
        std = batch_std if of_batch else ((p - t) ** 2).mean().sqrt()
        likelihood = Normal(p, std).log_prob(t).sum()
        constants = values / 2 * (1 + math.log(2 * math.pi))
        floor = (1 + MSE_FLOOR / std**2).log()
        expected.append(floor - (likelihood + constants) * 2 / values)
    loss = calibrated_loss(pred, true, of_batch).item()
    assert loss == pytest.approx(torch.stack(expected).mean().item())
    assert abs(loss - calibrated_loss(pred, true, not of_batch).item()) > 0.1


@pytest.mark.parametrize("of_batch", [False, True])
def test_calibrated_loss_of_an_exact_frame_is_finite(of_batch):
    pred = images(1, 2, 3, 8, 8).requires_grad_()
    loss = calibrated_loss(pred, pred.detach(), of_batch)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(pred.grad).all()


# ---------------------------------------------------------------- PSNR


@pytest.mark.parametrize("data_range", [1.0, 255.0])
def test_generate_psnr_is_the_textbook_formula(data_range):
    a, b = data_range * images(2, 2, 3, 12, 16)
    expected = 10 * np.log10(data_range**2 / np.mean((a - b).numpy() ** 2))
    assert float(Generate_PSNR(a, b, data_range)) == pytest.approx(expected)


def test_frame_psnr_is_that_of_every_frame_clipped_to_0_to_1():
    pred, true = 3 * images(2, 5, 3, 12, 16) - 1, images(2, 5, 3, 12, 16, seed=1)
    clipped = pred.clamp(0, 1)
    expected = [[reference_psnr(p, t) for p, t in zip(*clips)] for clips in zip(clipped, true)]
    np.testing.assert_allclose(frame_psnr(pred, true).numpy(), expected)
    assert_close(frame_ssim(pred[0], true[0]), frame_ssim(clipped[0], true[0]))


def test_scores_of_identical_images_are_high_and_finite():
    x = images(4, 3, 12, 16)
    scores = torch.cat([frame_psnr(x, x), Generate_PSNR(x, x).view(1)])
    assert torch.isfinite(scores).all() and (scores >= 90).all()
    assert torch.allclose(frame_ssim(x, x), torch.ones(4))


def test_nan_in_a_prediction_gives_a_nan_score():
    pred, true = images(2, 3, 3, 12, 16)
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


def test_ssim_of_every_frame_is_that_of_scikit_image():
    coarse, noise = images(1, 3, 4, 8), images(3, 32, 64, seed=1)
    # SSIM of pure noise is always about 0: an image with large areas, as frames have
    smooth = torch.nn.functional.interpolate(coarse, (32, 64), mode="bilinear")[0]
    changed = smooth, smooth.roll(2, -1), smooth / 2, (smooth + noise / 10).clamp(0, 1), 1 - smooth
    pred = torch.stack([*changed, noise, torch.full_like(smooth, 0.3)])
    true = torch.stack([smooth] * 6 + [torch.full_like(smooth, 0.6)])
    expected = [skimage_ssim(p, t) for p, t in zip(pred, true)]
    np.testing.assert_allclose(frame_ssim(pred, true).numpy(), expected)
    assert mean_ssim(pred, true) == pytest.approx(np.mean(expected))


@pytest.mark.parametrize("frames", [1, 65])
def test_mean_ssim_of_the_smallest_frames_is_the_mean_over_all(frames):
    pred, true = images(2, frames, 3, 11, 11)
    expected = np.mean([skimage_ssim(p, t) for p, t in zip(pred, true)])
    assert mean_ssim(pred, true) == pytest.approx(expected)


# ---------------------------------------------------------------- the averages of a clip


def test_the_averages_of_a_clip_are_those_of_a_loop_over_its_frames():
    """630 frames whose error grows from zero; predictions leave 0..1."""
    true = images(630, 3, 12, 16)
    noise = torch.linspace(0, 0.3, 630).view(-1, 1, 1, 1) * (images(630, 3, 12, 16, seed=1) - 0.5)
    pred, expected = true + noise, {}
    for suffix, frames in (("", pred.clamp(0, 1)), (UNCLAMPED, pred)):
        psnr = [reference_psnr(*pair) for pair in zip(frames[1:], true[1:])]
        grey = (np.rint(np.asarray(x) * 255) / 255 for x in (frames, true))
        submitted = [reference_psnr(*pair) for pair in [*zip(*grey)][1:601]]
        expected |= {f"psnr_2023_tester{suffix}": sum(psnr) / 628}
        expected |= {f"psnr_competition{suffix}": sum(submitted) / 600}
        expected |= {"psnr": sum(psnr) / 629, "psnr_min": min(psnr)} if not suffix else {}
    copied = [reference_psnr(true[0], frame) for frame in true[1:]]
    expected |= {"psnr_given_frame_repeated": np.mean(copied)}
    expected |= {"ssim": mean_ssim(pred[1:], true[1:])}
    scores = score_clip(pred, true) | course_averages(pred, true)
    assert scores == pytest.approx(expected)
    assert {*list(AVERAGES)[:5]} <= set(scores)


@pytest.mark.parametrize("given", [1, 2])
def test_the_mse_of_a_rollout_is_summed_over_all_predicted_frames_not_clamped(given):
    lab = SimpleNamespace(given=given, score=lambda pred, true: {"psnr": 1.0})
    pred, true = 3 * images(6, 3, 4, 5) - 1, images(6, 3, 4, 5, seed=1)
    mse = np.square((pred - true).numpy()).reshape(6, -1).mean(1)
    expected = {"psnr": 1.0, "mse_sum": pytest.approx(mse[given:].sum())}
    assert score_rollout(lab, pred, true) == expected


def test_drift_is_the_last_100_frames_minus_the_first_and_the_last_minus_frame_30():
    psnr = torch.linspace(40, 20, 629) ** 2  # of frames 1..629
    ends = (psnr[529:].mean() - psnr[:100].mean()).item()
    expected = {"drift": ends, "drift_since_frame_30": (psnr[628] - psnr[29]).item()}
    assert drifts(psnr) == pytest.approx(expected)


@pytest.mark.parametrize(("length", "drift"), [(1, 0), (2, 1), (7, 24)])
def test_drift_of_a_short_clip_compares_its_halves(length, drift):
    assert drifts(torch.arange(length) ** 2.0)["drift"] == pytest.approx(drift)


# ---------------------------------------------------------------- the box of the pose


def poses_with_corners(*boxes, background=1.0):
    poses = torch.full((len(boxes), 3, 20, 30), background)
    for pose, (top, bottom, left, right) in zip(poses, boxes):
        pose[1, top, left] = pose[1, bottom - 1, right - 1] = 0.5
    return poses


@pytest.mark.parametrize("background", [0.0, 1.0])
def test_the_pose_box_has_a_margin_of_two_pixels(background):
    pred, true = images(2, 2, 3, 20, 30)
    poses = poses_with_corners((5, 9, 10, 14), (0, 3, 25, 30), background=background)
    expected = [
        reference_psnr(pred[0, :, 3:11, 8:16], true[0, :, 3:11, 8:16]),
        reference_psnr(pred[1, :, 0:5, 23:30], true[1, :, 0:5, 23:30]),
    ]
    assert pose_box_psnr(pred, true, poses) == pytest.approx(np.mean(expected))


def test_frames_without_a_pose_are_ignored_unless_no_frame_has_one():
    pred, true = images(2, 2, 3, 20, 30)
    poses = poses_with_corners((5, 9, 10, 14), (5, 9, 10, 14))
    poses[1] = 1
    alone = pose_box_psnr(pred[:1], true[:1], poses[:1])
    assert pose_box_psnr(pred, true, poses) == pytest.approx(alone)
    without = pose_box_psnr(pred, true, torch.ones_like(poses))
    assert without == pytest.approx(frame_psnr(pred, true).mean().item())


# ---------------------------------------------------------------- several clips


def test_clips_are_averaged_and_psnr_min_is_the_minimum():
    clips = [{"ssim": x, "psnr_min": x} for x in (20.0, 30.0, 46.0)]
    assert score_clips(clips) == {"ssim": 32.0, "psnr_min": 20.0}


@pytest.mark.parametrize("suffix", ["", UNCLAMPED])
def test_competition_groups_are_clips_0_to_2_and_3_to_4_of_at_least_five(suffix):
    values = 1.0, 2.0, 6.0, 10.0, 20.0, 99.0
    clips = [{f"psnr_competition{suffix}": x, "psnr_min": x} for x in values]
    for count, groups in ((4, []), (5, [3.0, 15.0]), (6, [3.0, 15.0])):
        assert [*competition_groups(clips[:count], suffix).values()] == groups
