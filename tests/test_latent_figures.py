"""The figures of z and of futures: each is a readable image, of plain and of odd input."""

import warnings
from types import SimpleNamespace

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from PIL import Image

from modules.evaluation.futures import Futures, best_of_curve
from modules.evaluation.metrics import frame_psnr
from modules.report import distribution, pictures

T, H, W = 12, 16, 20
LAB = SimpleNamespace(frame_ms=100, given=1, scored=None, frame_psnr=frame_psnr)


@pytest.fixture(autouse=True)
def no_warnings():
    """matplotlib warns of what it cannot lay out: cropped labels, a log axis of one value."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def read(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def area(image, colour):
    return (image == np.array(colour)).all(axis=-1).sum()


# ---------------------------------------------------------------- film strips

GREEN, BLUE, RED, BLACK = (0, 204, 51), (0, 51, 204), (204, 51, 0), (0, 0, 0)


def clip(colour, length=T):
    return torch.tensor(colour).view(3, 1, 1).expand(length, 3, H, W) / 255


def futures_of(truth, *samples):
    futures = Futures(LAB, [truth], {0: torch.zeros(1, len(truth), 3, H, W).byte()}, {})
    for sample in samples:
        futures.add([sample])
    return futures


@pytest.mark.parametrize("length", [7, 130])
def test_the_sheet_and_the_gif_show_five_futures_their_mean_and_the_twin(tmp_path, length):
    colours = [BLUE] * 5 + [RED] * 5
    futures = futures_of(clip(GREEN, length), *(clip(c, length) for c in colours))
    twin = futures_of(clip(GREEN, length), clip(RED, length))
    scores = {"psnr_of_mean": 20, "ssim_of_mean": 0.5, "rank_histogram": [1, 2, 3]}
    scores["best_of"] = dict.fromkeys(("psnr", "ssim"), best_of_curve(torch.rand(10, 1)))
    scores = {"futures": scores, "twin": {"futures": scores}}
    distribution.draw_futures(tmp_path, LAB, scores, futures, twin)
    names = "futures.png", "futures.gif", "best_of_n.png", "rank_histogram.png"
    assert {path.name for path in tmp_path.iterdir()} == {*names}
    image = read(tmp_path / "futures.png")
    areas = [area(image, colour) for colour in (GREEN, BLUE, RED, (102, 51, 102))]
    assert areas == [areas[0] * x for x in (1, 5, 1, 1)] and areas[0] > 0  # the last is the mean
    assert pictures.gif_time(tmp_path / "futures.gif") == 100 * min(length, 128)
    frame = iio.imread(tmp_path / "futures.gif", index=0)[..., :3]
    middle = frame[len(frame) * 2 // 3].astype(int)  # a line of pixels
    shown = [tuple(middle[round((i + 0.5) * len(middle) / 8)]) for i in range(8)]
    expected = GREEN, *[BLUE] * 5, (102, 51, 102), RED
    assert np.abs(np.subtract(shown, expected)).max() < 12  # a gif has 256 colours
    assert (frame[:16] < 90).any(), "no labels"


def test_the_largest_deviation_is_white_and_equal_futures_are_black(tmp_path):
    rows, deviation = {"truth": pictures.to_uint8(clip(GREEN))}, torch.zeros(T, H, W)
    for whites in (0, 0.5):
        deviation[3, :8], deviation[3, 8:] = 0.2 * whites, 0.1 * whites
        distribution.draw_sheet(tmp_path / "sheet.png", rows, [3], deviation)
        image = read(tmp_path / "sheet.png")
        grey, total = area(image, (128, 128, 128)), area(image, GREEN)
        assert grey == pytest.approx(total / 2 if whites else 0, abs=0.01 * total)  # and letters
        assert (area(image, BLACK) >= total) == (not whites)


# ---------------------------------------------------------------- words about z


def words(kl, largest=None, free_bits=0):
    z = {"units": 4, "active_units": 0, "kl": sum(kl), "kl_per_dimension": kl}
    z |= {"mutual_information": 0.1, "marginal_kl": 0.2}
    futures = {} if largest is None else {"diversity": largest / 9, "diversity_max": largest}
    return "\n".join(distribution.describe_z(z | {"free_bits": free_bits}, futures))


def test_z_is_judged_by_what_changes_when_it_is_drawn_anew():
    learned_prior = words([0.01, 0.02], 31.0)  # a small KL, but the futures differ
    assert "changes a value by 3.4 of 255, at most by 31" in learned_prior
    assert "collapse" not in learned_prior and "ignores" not in learned_prior
    assert "0.2 of 255: posterior collapse, the decoder ignores z" in words([0.01, 0.02], 0.2)
    assert "collapse" not in words([0.01, 0.02])  # no futures: not known
    free = words([1.6, 1.7], 0.2, free_bits=2)
    assert "--free_bits 2 leaves 2 nats of each of the 2 dimensions out of the loss" in free
    assert "collapse" not in free and "the decoder ignores z" in free
    assert "--free_bits" not in words([9.0, 1.7], 5.0, free_bits=2)
