"""Metrics of predicted frames. Images are floats in 0..1, (..., C, H, W)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from ..data.poses import pose_boxes
from .lab import Lab

BEST_MSE = 1e-10  # identical pictures score 100 dB, not infinity
WINDOW, SIGMA = 11, 1.5  # of SSIM, in pixels
UNCLAMPED = "_unclamped"  # ends the names of scores that follow their published formula


def Generate_PSNR(
    imgs1: torch.Tensor, imgs2: torch.Tensor, data_range: float = 1.0
) -> torch.Tensor:
    """PSNR in dB over all values together."""
    mse = F.mse_loss(imgs1, imgs2).clamp_min(BEST_MSE * data_range**2)
    return 20 * torch.log10(torch.as_tensor(data_range)) - 10 * torch.log10(mse)


def frame_psnr(pred: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """(..., C, H, W) twice -> (...): PSNR of every frame, of predictions clamped to 0..1."""
    return unclamped_psnr(pred.clamp(0, 1), true)


def unclamped_psnr(pred: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """(..., C, H, W) twice -> (...): PSNR of every frame, of predictions as they are."""
    mse = (pred - true).pow(2).mean(dim=(-3, -2, -1)).clamp_min(BEST_MSE)
    return -10 * torch.log10(mse)


def channel_psnr(pred: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """(..., C, H, W) twice -> (...): the mean of the PSNRs of a frame's colour channels."""
    mse = (pred.clamp(0, 1) - true).pow(2).mean(dim=(-2, -1)).clamp_min(BEST_MSE)
    return (-10 * torch.log10(mse)).mean(dim=-1)


def frame_ssim(pred: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """(N, C, H, W) twice -> (N,): SSIM with a Gaussian window, averaged over inner pixels."""
    c1, c2 = 0.01**2, 0.03**2
    down, across = (blur_matrix(size).to(pred.device) for size in pred.shape[-2:])

    def blur(image):  # as products of matrices: a convolution of doubles takes three times as long
        return down @ (image @ across.T)

    a, b = pred.double().clamp(0, 1), true.double()
    mu_a, mu_b = blur(a), blur(b)
    var_a, var_b = blur(a * a) - mu_a**2, blur(b * b) - mu_b**2
    cov = blur(a * b) - mu_a * mu_b
    numerator = (2 * mu_a * mu_b + c1) * (2 * cov + c2)
    denominator = (mu_a**2 + mu_b**2 + c1) * (var_a + var_b + c2)
    return (numerator / denominator).mean(dim=(1, 2, 3)).float()


def blur_matrix(size: int) -> torch.Tensor:
    """(size - WINDOW + 1, size): in row i the weights of a Gaussian window over i, i + 1, ..."""
    x = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    gauss = torch.exp(-(x**2) / (2 * SIGMA**2))
    columns = torch.arange(size - WINDOW + 1)[:, None] + torch.arange(WINDOW)
    weights = (gauss / gauss.sum()).expand(len(columns), -1)
    return torch.zeros(len(columns), size, dtype=torch.float64).scatter(1, columns, weights)


def mean_ssim(pred: torch.Tensor, true: torch.Tensor) -> float:
    """(T, C, H, W) twice -> SSIM averaged over the frames, in pieces that stay small."""
    pieces = [frame_ssim(p, t) for p, t in zip(pred.split(64), true.split(64))]
    return torch.cat(pieces).mean().item()


def rounded(frames: torch.Tensor) -> torch.Tensor:
    """To whole numbers of 255ths, as in a submission."""
    return torch.round(frames * 255) / 255


def score_clip(
    pred: torch.Tensor, true: torch.Tensor, given: int = 1, frame_psnr: Callable = frame_psnr
) -> dict[str, float]:
    """(T, C, H, W) twice, the first `given` frames given -> the scores of a rollout."""
    psnr = frame_psnr(pred, true)[given:]
    copied = frame_psnr(true[given - 1 : given], true)[given:]
    return {
        "psnr": psnr.mean().item(),
        "psnr_min": psnr.min().item(),
        "psnr_given_frame_repeated": copied.mean().item(),
        "ssim": mean_ssim(pred[given:], true[given:]),
    }


def score_rollout(lab: Lab, pred: torch.Tensor, true: torch.Tensor) -> dict[str, float]:
    """A validation clip: the lab's scores, and the sum over all predicted frames of their MSE."""
    mse = (pred - true)[lab.given :].double().pow(2).mean(dim=(-3, -2, -1))
    return lab.score(pred, true) | {"mse_sum": mse.sum().item()}


def course_averages(pred: torch.Tensor, true: torch.Tensor) -> dict[str, float]:
    """The pose lab's other two averages of one clip's PSNR: clamped to 0..1, and as published."""
    averages = {}
    for suffix, frames in (("", pred.clamp(0, 1)), (UNCLAMPED, pred)):
        psnr = unclamped_psnr(frames, true)[1:]
        averages[f"psnr_2023_tester{suffix}"] = psnr.sum().item() / max(len(psnr) - 1, 1)
        psnr = unclamped_psnr(rounded(frames), rounded(true))[1:601]
        averages[f"psnr_competition{suffix}"] = psnr.mean().item()
    return averages


def drifts(psnr: torch.Tensor, ends: int = 100) -> dict[str, float]:
    """How much late frames score above early ones, in dB, from PSNRs (T,)."""
    ends = max(min(ends, len(psnr) // 2), 1)
    return {
        "drift": (psnr[-ends:].mean() - psnr[:ends].mean()).item(),
        "drift_since_frame_30": (psnr[-1] - psnr[:30][-1]).item(),
    }


def pose_box_psnr(pred: torch.Tensor, true: torch.Tensor, poses: torch.Tensor) -> float:
    """The mean PSNR inside the pose's box with a margin of 2 pixels, over the frames with a pose.

    Most of the static background is left out. Without any pose it is the PSNR of all pixels.
    """
    clips = zip(pred, true, pose_boxes(poses, margin=2))
    scores = [frame_psnr(p[(..., *box)], t[(..., *box)]) for p, t, box in clips if box]
    return torch.stack(scores).mean().item() if scores else frame_psnr(pred, true).mean().item()


AVERAGES = {
    "psnr": "mean: over frames 1..T-1, clamped to 0..1",
    "psnr_2023_tester_unclamped": (
        "2023 tester: sum over frames 1..T-1, divided by T-2; not clamped"
    ),
    "psnr_2023_tester": "2023 clamped: 2023 tester, of predictions clamped to 0..1",
    "psnr_competition_unclamped": (
        "competition (2024 on): rounded to 0..255, frames 1..600; not clamped"
    ),
    "psnr_competition": "2024 clamped: competition, of predictions clamped to 0..1",
    "psnr_pose_box": "pose box: inside the box of the pose, 2 pixels around it included",
}


def score_clips(clips: list[dict]) -> dict[str, float]:
    """Scores of every clip -> their averages, and the lowest of their lowest frames."""
    mean = {key: sum(c[key] for c in clips) / len(clips) for key in clips[0]}
    return mean | {"psnr_min": min(c["psnr_min"] for c in clips)}


def competition_groups(clips: list[dict], suffix: str = "") -> dict[str, float]:
    """The competition's average over its public and its private clips, where there are five."""
    if len(clips) < 5:
        return {}
    groups = {"public (clips 0-2)": clips[:3], "private (clips 3-4)": clips[3:5]}
    key = f"psnr_competition{suffix}"
    return {name: score_clips(group)[key] for name, group in groups.items()}
