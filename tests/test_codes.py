"""Code lengths of 8-bit frames, against numerical integration and files that are written."""

import io
import math

import numpy as np
import pytest
import torch
from helpers import uniform
from PIL import Image
from torch.distributions import Normal

from modules.evaluation.codes import bits_per_value, grey_log_likelihood, known_codes

pytestmark = pytest.mark.usefixtures("float64")


def grey(*shape, seed=0):
    return (255 * uniform(*shape, seed=seed)).round() / 255


@pytest.mark.parametrize("sigma", [0.3, 0.02, 0.001])
def test_the_gaussian_is_integrated_over_each_grey_level(sigma):
    """The trapezoidal rule on a fine grid over the bin; the ends are open."""
    true = torch.tensor([0, 1, 90, 254, 255]) / 255
    pred = (true + sigma * torch.tensor([-1.5, 0.3, -2, 4, 0])).view(1, 5, 1, 1, 1)
    low, high = true - 0.5 / 255, true + 0.5 / 255
    low[0], high[-1] = -20 * sigma - 1, 20 * sigma + 2
    exact = 0
    for p, a, b in zip(pred.flatten(), low, high):
        grid = torch.linspace(a, b, 200_001)
        exact += torch.trapezoid(Normal(p, sigma).log_prob(grid).exp(), grid).log()
    found = grey_log_likelihood(pred.expand(1, 5, 1, 1, 1), true.view(1, 5, 1, 1, 1), sigma)
    assert found.sum().item() == pytest.approx(exact.item(), rel=1e-6)  # h^2 / 12 of the rule


def test_the_probabilities_of_all_grey_levels_sum_to_one():
    levels = (torch.arange(256) / 255).view(256, 1, 1, 1)
    for pred, sigma in ((0.4, 0.1), (-0.3, 0.2), (1.0, 1e-3), (0.5, 50.0)):
        logs = grey_log_likelihood(torch.full_like(levels, pred), levels, sigma)
        assert logs.exp().sum().item() == pytest.approx(1)


def test_far_from_the_prediction_nothing_underflows():
    true, sigma = torch.ones(1, 1, 1) * 200 / 255, 1e-3
    found = grey_log_likelihood(torch.zeros(1, 1, 1), true, sigma)
    edge = Normal(0.0, sigma).log_prob(true - 0.5 / 255)  # the nearest edge of the bin has it all
    expected = edge - math.log((true.item() - 0.5 / 255) / sigma**2)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_bits_are_the_entropy_of_what_is_coded():
    """Values drawn from the model are coded with their entropy, and 8 bits are 8 bits."""
    p = grey_log_likelihood(
        torch.full((256, 1, 1, 1), 0.5), (torch.arange(256) / 255).view(256, 1, 1, 1), 20 / 255
    ).exp()
    entropy = -(p * p.clamp_min(1e-300).log2()).sum().item()
    wide = 0.5 * math.log2(2 * math.pi * math.e * 20**2)  # of the density, per grey level
    nats = (p * p.clamp_min(1e-300).log()).sum().item()
    assert bits_per_value(7 * nats, 7) == pytest.approx(entropy) == pytest.approx(wide, abs=1e-3)
    assert bits_per_value(12 * math.log(1 / 256), 12) == pytest.approx(8)


def test_codes_that_need_no_model():
    clips = [grey(5, 3, 6, 8, seed=i) for i in range(2)]
    codes = known_codes(clips, given=2)
    frames = torch.cat([clip[2:] for clip in clips])
    mean, deviation = frames.mean(0), frames.std(0, correction=0)
    nats = grey_log_likelihood(mean, frames, deviation).mean().item()
    assert codes["uniform"] == 8
    assert codes["gaussian_per_pixel"] == pytest.approx(bits_per_value(nats, 144))
    size = 0
    for clip in clips:
        levels = (255 * clip).round().to(torch.int64)
        rows = (levels[2:] - levels[1:-1]) % 256
        rows = np.concatenate([*rows.permute(0, 2, 3, 1).numpy()]).astype(np.uint8)
        Image.fromarray(rows).save(file := io.BytesIO(), "PNG")
        size += len(file.getvalue())
    assert codes["png_of_differences"] == pytest.approx(8 * size / frames.numel())
    still = known_codes([clip[:1].expand(60, 3, 6, 8) for clip in clips[:1]], given=1)
    assert still["png_of_differences"] < 0.5 and still["gaussian_per_pixel"] < 0.1
