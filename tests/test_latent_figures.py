"""The figures of z: each is a readable image, of plain and of odd input."""

import warnings

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from PIL import Image

from modules.distributions import best_of_curve
from modules.report import distribution, latents, pictures
from modules.report.latents import (
    draw_best_of,
    draw_futures,
    draw_kl_over_time,
    draw_rank_histogram,
    draw_traversal,
)

T, H, W = 5, 16, 20


@pytest.fixture(autouse=True)
def no_warnings():
    """matplotlib warns of what it cannot lay out: cropped labels, a log axis of one value."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def read(path):
    """The image as uint8 (H, W, 3); nothing else was left in its folder."""
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def area(image, colour):
    return (image == np.array(colour)).all(axis=-1).sum()


# ---------------------------------------------------------------- curves


@pytest.mark.parametrize(
    ("kl", "first", "events"),
    [
        ([0.1, 4.0, 2.0, 0.3], 1, [2]),
        (torch.rand(28), 2, [5, 9, 40]),
        ([0.1, 4.0, 2.0], 1, None),
        ([0.0] * 6, 1, []),
        ([1.0], 1, [1]),
    ],
    ids=["one event", "an event outside", "no events", "flat", "one frame"],
)
def test_kl_over_time(tmp_path, kl, first, events):
    draw_kl_over_time(tmp_path / "kl.png", kl, first, events)
    assert read(tmp_path / "kl.png").std() > 0


def test_events_are_vertical_lines(tmp_path):
    dark = []
    for events in ([], [4], [4, 8]):
        draw_kl_over_time(tmp_path / "kl.png", [0.0] * 12, 1, events)
        image = read(tmp_path / "kl.png")
        middle = image[image.shape[0] // 3 : image.shape[0] * 2 // 3].max(axis=-1) < 160
        dark.append((middle.sum(axis=0) > 0.2 * len(middle)).sum())
    frame = dark[0]  # the edges of the plot
    assert frame < dark[1] < dark[2]


def scores(m):
    return 26 + torch.randn(m, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("m", [1, 2, 3, 100])
@pytest.mark.parametrize("baseline", [None, {"twin": {"psnr": 26.5, "ssim": 0.9}}])
def test_best_of(tmp_path, m, baseline):
    curves = {"psnr": best_of_curve(scores(m)), "ssim": best_of_curve(scores(m) / 30)}
    draw_best_of(tmp_path / "best.png", curves, baseline)
    assert read(tmp_path / "best.png").std() > 0


@pytest.mark.parametrize(
    "counts",
    [torch.arange(20), [0] * 20, [7], np.array([5, 1])],
    ids=["slope", "nothing moves", "one bin", "two bins"],
)
def test_rank_histogram(tmp_path, counts):
    draw_rank_histogram(tmp_path / "ranks.png", counts)
    assert read(tmp_path / "ranks.png").std() > 0


def test_ranks_of_other_forecasts_are_lines_over_the_histogram(tmp_path):
    orange, green = (255, 127, 14), (44, 160, 44)  # C1, C2
    twin, ideal = [4, 3, 2, 1], [1, 4, 1, 4]
    for others, drawn in ({}, 0), ({"twin": twin}, 1), ({"twin": twin, "ideal": ideal}, 2):
        draw_rank_histogram(tmp_path / "ranks.png", [1, 2, 3, 4], others)
        image = read(tmp_path / "ranks.png")
        assert sum(area(image, colour) > 300 for colour in (orange, green)) == drawn


# ---------------------------------------------------------------- film strips

GREEN, BLUE, RED, TWIN = (0, 204, 51), (0, 51, 204), (204, 51, 0), (51, 153, 153)


def clip(colour, length=T):
    return torch.tensor(colour).view(3, 1, 1).expand(length, 3, H, W) / 255


def test_a_sheet_of_futures_shows_every_row(tmp_path):
    futures = torch.stack([clip(BLUE), clip(RED)])
    deviation = torch.zeros(T, H, W)
    deviation[3, :8] = 0.2
    deviation[3, 8:] = 0.1
    path = tmp_path / "futures.png"
    draw_futures(path, clip(GREEN), futures, range(1, T), deviation, baselines={"x": clip(TWIN)})
    image = read(path)
    areas = [area(image, colour) for colour in (GREEN, BLUE, RED, TWIN, (102, 51, 102))]
    assert min(areas) == max(areas) > 0  # the last is the mean
    # the largest deviation is white, half of it grey: half an image of 4
    assert area(image, (128, 128, 128)) == pytest.approx(areas[0] / 8, rel=0.01)


def test_the_sheet_shows_five_futures_and_the_mean_that_is_given(tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(latents, "draw_strip", lambda path, rows, times: drawn.update(rows))
    futures = torch.stack([clip(BLUE)] * 9)
    flat = torch.zeros(T, H, W)
    draw_futures(tmp_path, clip(GREEN), futures, range(T), flat, clip(RED), {"twin": clip(TWIN)})
    names = "truth", *(f"future {i}" for i in range(1, 6)), "mean", "twin", "deviation"
    assert [name.split("\n")[0] for name in drawn] == [*names]
    assert (drawn["mean"] == RED).all()
    assert not [*drawn.values()][-1].any()  # futures that are equal


@pytest.mark.parametrize("length", [1, 5, 30])
def test_one_future_and_no_deviation(tmp_path, length):
    one, flat = clip(BLUE, length)[None], torch.zeros(length, H, W)
    draw_futures(tmp_path / "one.png", clip(GREEN, length), one, range(length), flat)
    image = read(tmp_path / "one.png")
    assert area(image, BLUE) == 2 * area(image, GREEN) > 0  # the future, and the mean


@pytest.mark.parametrize("length", [7, 130])
def test_moving_futures_stand_in_a_row_and_play_to_their_end(tmp_path, length):
    futures = torch.stack([clip(BLUE, length)] * 4 + [clip(RED, length)] * 3)
    clips = {"truth": clip(GREEN, length), "mean": clip(TWIN, length)}
    latents.write_moving_futures(tmp_path / "x.gif", clips, futures, 100)
    assert pictures.gif_time(tmp_path / "x.gif") == 100 * min(length, 128)
    frame = iio.imread(tmp_path / "x.gif", index=0)[..., :3]
    middle = frame[len(frame) * 2 // 3].astype(int)  # a line of pixels
    shown = [tuple(middle[round((i + 0.5) * len(middle) / 7)]) for i in range(7)]
    expected = GREEN, BLUE, BLUE, BLUE, BLUE, RED, TWIN
    assert np.abs(np.subtract(shown, expected)).max() < 12  # a gif has 256 colours
    assert (frame[:16] < 90).any(), "no labels"


@pytest.mark.parametrize(
    ("kl", "shown"),
    [([0.2, 0.05, 3.0], [2, 0]), ([0.01, 0.02], [1]), ([9.0, 8, 7, 6, 5], [0, 1, 2, 3]), ([], [])],
    ids=["one says nothing", "collapse", "more than four", "a twin"],
)
def test_a_traversal_shows_the_dimensions_with_information(tmp_path, monkeypatch, kl, shown):
    drawn = []
    monkeypatch.setattr(distribution, "traverse", lambda *given: drawn.extend(given[-1]) or {})
    monkeypatch.setattr(latents, "draw_traversal", lambda *_: None)
    clips = torch.zeros(1, 6, 3, H, W), torch.zeros(1, 6, 3, H, W)
    scores = {"z": {"kl_per_dimension": kl, "given": 1}}
    distribution.draw_traversal(tmp_path, scores, None, clips, {})
    assert drawn == shown


def test_a_traversal_has_a_row_per_dimension_and_a_column_per_value(tmp_path):
    values = [-3, -1.5, 0, 1.5, 3]
    shades = [(10 + 40 * i, 200 - 40 * i, 60) for i in range(5)]
    rows = {name: torch.cat([clip(s, 1) for s in shades]) for name in ("dimension 3", "other")}
    draw_traversal(tmp_path / "z.png", rows, values)
    image = read(tmp_path / "z.png")
    assert len({int(area(image, shade)) for shade in shades}) == 1
    assert area(image, shades[0]) > 0


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("times", [1, 8, 30])
def test_labels_of_a_strip_are_not_cropped_and_its_pixels_are_equal(tmp_path, rows, times):
    frames = np.zeros((times, 64, 64, 3), np.uint8) + np.array(BLUE, np.uint8)
    labels = {f"deviation {i}\nwhite: 200/255": frames for i in range(rows)}
    pictures.draw_strip(tmp_path / "strip.png", labels, range(times))
    image = read(tmp_path / "strip.png")
    assert (image[:, :3] == 255).all() and (image[:3] == 255).all()
    assert area(image, BLUE) % (rows * times * 64 * 64) == 0
    scale = (area(image, BLUE) / (rows * times * 64 * 64)) ** 0.5
    assert scale in (2, 3)
