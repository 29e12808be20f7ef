"""--warp: the static background, and foreground affine augmentation of frames and poses."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import assert_close

from modules.data.warp import Affine, Warp, foreground_mask, random_affine, static_background

SIZE, BODY = (32, 64), (12, 8)  # of an image, of a dancer


def dance(places, seed=0):
    """A dancer at each (top, left) on a smooth background -> (stand-in data set, background)."""
    rng, (h, w) = np.random.default_rng(seed), SIZE
    background = np.linspace(60, 120, h * w * 3).reshape(h, w, 3).astype(np.uint8)
    dancer = rng.integers(180, 256, (*BODY, 3), dtype=np.uint8)
    frames = np.repeat(background[None], len(places), axis=0)
    poses = np.full_like(frames, 255)
    for frame, pose, (top, left) in zip(frames, poses, places):
        body = (slice(top, top + BODY[0]), slice(left, left + BODY[1]))
        frame[body], pose[body] = dancer, dancer - 100
    return SimpleNamespace(frames=frames, conditions=poses), background


def image(array):
    """uint8 (H, W, 3) -> float (3, H, W)."""
    return torch.from_numpy(array).movedim(-1, 0).float() / 255


def clips_of(dataset, length=2):
    arrays = dataset.frames, dataset.conditions
    return [
        torch.from_numpy(x).movedim(-1, 1).float().div(255).unflatten(0, (-1, length))
        for x in arrays
    ]


def anywhere(count, seed=0):
    rng = np.random.default_rng(seed)
    return [(int(rng.integers(0, 20)), int(rng.integers(0, 56))) for _ in range(count)]


def affine(batch, log_scale=(0, 0), shear=(0, 0), translation=(0, 0)):
    """The same map for every clip of a batch."""
    return Affine(
        *(
            torch.tensor([row] * batch, dtype=torch.get_default_dtype())
            for row in (log_scale, shear, translation)
        )
    )


@pytest.fixture
def warper():
    """Its background is that of any dance()."""
    return Warp(1.0, dance(anywhere(50))[0], "cpu")


# ---------------------------------------------------------------- the static background


def test_the_background_is_seen_behind_a_dancer_who_rarely_moves():
    dataset, background = dance([(10, 20)] * 80 + [(10, 45)] * 20)
    assert (np.median(dataset.frames, axis=0) != background).any()  # a median shows the dancer
    assert torch.equal(static_background(dataset), image(background))


def test_pixels_that_are_always_covered_have_the_median_of_all_frames():
    dataset, _ = dance([(10, 20)] * 5)
    assert torch.equal(static_background(dataset), image(dataset.frames[0]))


def test_frames_outside_the_used_share_do_not_count():
    dataset, background = dance(anywhere(100))
    other, _ = dance(anywhere(100), seed=1)
    dataset.frames[40:] = 255 - other.frames[40:]
    assert torch.equal(static_background(dataset, partial=0.4), image(background))


def test_the_background_is_found_from_a_subset_of_many_frames():
    dataset, background = dance(anywhere(1201))
    assert torch.equal(static_background(dataset), image(background))


# ---------------------------------------------------------------- affine maps


@pytest.mark.usefixtures("float64")
def test_translation_by_whole_pixels_moves_the_dancer_exactly(warper):
    places = [(8, 20), (9, 21), (10, 40), (10, 41)]
    dataset, _ = dance(places)
    expected, _ = dance([(top + 4, left + 6) for top, left in places])
    found = warper.transform(clips_of(dataset), affine(2, translation=(6 / 32, 4 / 16)))
    for clip, true in zip(found, clips_of(expected)):
        assert_close(clip, true)


@pytest.mark.usefixtures("float64")
def test_a_dancer_outside_the_image_leaves_only_the_background(warper):
    dataset, background = dance([(8, 20), (8, 22)])
    frames, poses = warper.transform(clips_of(dataset), affine(1, translation=(50 / 32, 0)))
    assert_close(frames, image(background).expand_as(frames))
    assert_close(poses, torch.ones_like(poses))


def test_scaling_keeps_the_place_and_changes_width_and_height(warper):
    dataset, _ = dance([(10, 28)] * 2)
    scale = (np.log(1.5), -np.log(1.5))
    clips = warper.transform(clips_of(dataset), affine(1, log_scale=scale))
    for clip, background in zip(clips, warper.backgrounds):
        mask = foreground_mask(clip, background)[:, :, 0]
        rows, columns = mask.amax(-1).sum(-1), mask.amax(-2).sum(-1)
        assert rows.mean().item() == pytest.approx(BODY[0] / 1.5, abs=1)
        assert columns.mean().item() == pytest.approx(BODY[1] * 1.5, abs=1)
        y, x = (torch.arange(n) + 0.5 for n in SIZE)
        weight = mask[0, 0] / mask[0, 0].sum()
        assert (weight.sum(0) @ x).item() == pytest.approx(28 + BODY[1] / 2, abs=0.2)
        assert (weight.sum(1) @ y).item() == pytest.approx(10 + BODY[0] / 2, abs=0.2)


def test_shear_moves_every_row_by_the_given_fraction_of_a_pixel(warper):
    dataset, _ = dance([(10, 28)] * 2)
    frames, _ = warper.transform(clips_of(dataset), affine(1, shear=(0.5, 0)))
    mask = foreground_mask(frames, warper.backgrounds[0])[0, 0, 0]
    x = torch.arange(SIZE[1]) + 0.5
    centres = [(row @ x / row.sum()).item() for row in mask[11:21]]
    slope = np.polyfit(range(10), centres, 1)[0]
    assert slope == pytest.approx(-0.5, abs=0.05)


def test_random_maps_fill_their_ranges():
    torch.manual_seed(0)
    drawn = random_affine(4000)
    for values, limits in zip(drawn, [(0.2, 0.2), (0.1, 0.1), (0.5, 0.15)]):
        largest = values.abs().amax(0)
        assert (largest <= torch.tensor(limits)).all()
        assert (largest > 0.99 * torch.tensor(limits)).all()
        assert (values.mean(0).abs() < 0.03).all()


# ---------------------------------------------------------------- clips of a batch


def test_all_frames_of_a_clip_are_warped_alike(warper):
    dataset, _ = dance([(10, 28)] * 12)
    for x in warper(*clips_of(dataset, length=4)):
        assert torch.equal(x, x[:, :1].expand_as(x))


def test_poses_are_warped_with_their_frames():
    dataset, _ = dance(anywhere(40))
    torch.manual_seed(0)
    warper = Warp(1.0, dataset, "cpu")
    clips = zip(warper(*clips_of(dataset)), warper.backgrounds)
    frames, poses = (foreground_mask(x, background) for x, background in clips)
    assert ((frames - poses).abs() > 0.5).sum() == 0  # only soft edges differ
    assert frames.sum().item() == pytest.approx(poses.sum().item(), rel=0.02)


def test_only_the_given_share_of_clips_is_warped():
    dataset, _ = dance(anywhere(4000))
    before = clips_of(dataset)
    torch.manual_seed(0)
    after = Warp(0.25, dataset, "cpu")(*before)
    changed = [(a != b).flatten(1).any(1) for a, b in zip(before, after)]
    assert changed[0].float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert torch.equal(*changed)
