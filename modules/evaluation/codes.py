"""Code lengths of 8-bit frames. Frames are (..., C, H, W) floats in 0..1, code lengths in bits per
value; fewer are better.
"""

import io
import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

HALF = 0.5 / 255  # half the width of a grey level
LEAST_DEVIATION = 1e-3  # of a Gaussian per pixel, where a pixel never changes


def grey_log_likelihood(
    pred: torch.Tensor, true: torch.Tensor, sigma: float | torch.Tensor
) -> torch.Tensor:
    """-> (...): log P of a frame's 8-bit values, in nats.

    N(pred, sigma^2), integrated over each value's grey level. Levels 0 and 255 are open: they hold
    all that is darker or brighter, so that the 256 probabilities of a value sum to 1.
    """
    if pred.device.type == "mps":  # it has no float64
        pred, true = pred.cpu(), true.cpu()
    pred, true = pred.double(), true.double()
    low = torch.where(true < HALF, -math.inf, true - HALF)
    high = torch.where(true > 1 - HALF, math.inf, true + HALF)
    low, high = (low - pred) / sigma, (high - pred) / sigma
    right = low + high > 0  # mirrored: in the left tail no difference is lost in rounding
    low, high = torch.where(right, -high, low), torch.where(right, -low, high)
    upper = torch.special.log_ndtr(high)
    logs = upper + torch.log(-torch.expm1(torch.special.log_ndtr(low) - upper))
    return logs.sum(dim=(-3, -2, -1))


def bits_per_value(nats: float, values: int) -> float:
    """The mean log P of frames of `values` values -> the length of their code."""
    return -nats / (values * math.log(2))


def known_codes(clips: Sequence[torch.Tensor], given: int) -> dict[str, float]:
    """Clips (T, C, H, W) -> the code lengths of frames given, given + 1, ... without a model."""
    return {
        "uniform": 8.0,
        "gaussian_per_pixel": gaussian_per_pixel([clip[given:] for clip in clips]),
        "png_of_differences": png_of_differences(clips, given),
    }


def gaussian_per_pixel(clips: Sequence[torch.Tensor]) -> float:
    """A Gaussian for every value of a frame, over time; fitted to these very frames."""
    frames = torch.cat([*clips]).double()
    mean, deviation = frames.mean(0), frames.std(0, correction=0).clamp_min(LEAST_DEVIATION)
    nats = [grey_log_likelihood(mean, clip, deviation).sum().item() for clip in clips]
    return bits_per_value(sum(nats) / len(frames), mean.numel())


def png_of_differences(clips: Sequence[torch.Tensor], given: int) -> float:
    """A PNG for every clip: the differences to the previous frame modulo 256, one below another."""
    length = values = 0
    for clip in clips:
        grey = (clip[given - 1 :].cpu() * 255).round().byte().numpy()
        rows = np.diff(grey, axis=0).transpose(0, 2, 3, 1)  # (T, H, W, C), modulo 256
        Image.fromarray(rows.reshape(-1, *rows.shape[2:])).save(file := io.BytesIO(), "PNG")
        length, values = length + 8 * len(file.getvalue()), values + rows.size
    return length / values
