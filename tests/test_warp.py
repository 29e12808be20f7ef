"""--warp: what stands still, and dancers moved before it, their poses with them."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from modules.data import warp
from modules.data.warp import Warp, static_background

SIZE, BODY = (32, 64), (12, 8)  # of a picture, of a dancer


def dance(places, seed=0):
    """A dancer at each (top, left) before a smooth scene -> a stand-in data set, and the scene."""
    rng, (h, w) = np.random.default_rng(seed), SIZE
    scene = np.linspace(60, 120, h * w * 3).reshape(h, w, 3).astype(np.uint8)
    dancer = rng.integers(180, 256, (*BODY, 3), dtype=np.uint8)
    frames = np.repeat(scene[None], len(places), axis=0)
    poses = np.full_like(frames, 255)
    for frame, pose, (top, left) in zip(frames, poses, places):
        body = (slice(top, top + BODY[0]), slice(left, left + BODY[1]))
        frame[body], pose[body] = dancer, dancer - 100
    return SimpleNamespace(frames=frames, conditions=poses), scene


def clips_of(dataset, length=2):
    pictures = dataset.frames, dataset.conditions
    return [
        torch.from_numpy(x).movedim(-1, 1).float().div(255).unflatten(0, (-1, length))
        for x in pictures
    ]


def anywhere(count, seed=0):
    rng = np.random.default_rng(seed)
    return [(int(rng.integers(0, 20)), int(rng.integers(0, 56))) for _ in range(count)]


@pytest.fixture
def only(monkeypatch):
    """only(STRETCH=0.2): no other kind of warp."""

    def leave(**strengths):
        nothing = {"MOVE": (0.0, 0.0), "STRETCH": 0.0, "LEAN": 0.0}
        for name, value in (nothing | strengths).items():
            monkeypatch.setattr(warp, name, value)

    return leave


# ---------------------------------------------------------------- what stands still


def test_the_static_background_is_seen_behind_a_dancer_who_hardly_ever_moves():
    dataset, scene = dance([(10, 20)] * 80 + [(10, 45)] * 20)
    assert (np.median(dataset.frames, axis=0) != scene).any()  # a median alone shows the dancer
    found = static_background(dataset)
    assert torch.equal(found, torch.from_numpy(scene).movedim(-1, 0).float() / 255)


def test_what_is_never_seen_bare_is_what_most_frames_show():
    dataset, scene = dance([(10, 20)] * 5)
    found = static_background(dataset)
    shown = torch.from_numpy(dataset.frames[0]).movedim(-1, 0).float() / 255
    assert torch.equal(found, shown)


def test_frames_beyond_the_share_that_is_used_say_nothing_of_the_scene():
    dataset, scene = dance(anywhere(100))
    other, _ = dance(anywhere(100), seed=1)
    dataset.frames[40:] = 255 - other.frames[40:]
    found = static_background(dataset, partial=0.4)
    assert torch.equal(found, torch.from_numpy(scene).movedim(-1, 0).float() / 255)


def test_a_few_frames_of_many_tell_what_stands_still():
    dataset, scene = dance(anywhere(1201))
    found = static_background(dataset)
    assert torch.equal(found, torch.from_numpy(scene).movedim(-1, 0).float() / 255)


# ---------------------------------------------------------------- warps


def test_a_dancer_moved_by_whole_pixels_is_the_same_dancer_elsewhere(only, monkeypatch):
    only(MOVE=(6 / 32, 4 / 16))  # 6 pixels across, 4 down
    monkeypatch.setattr(warp, "around_zero", lambda batch: torch.ones(batch, 2))
    places = [(8, 20), (9, 21), (10, 40), (10, 41)]
    dataset, _ = dance(places)
    expected, _ = dance([(top + 4, left + 6) for top, left in places])
    warper = Warp(1.0, dance(anywhere(50))[0], "cpu")
    for found, true in zip(warper(*clips_of(dataset)), clips_of(expected)):
        torch.testing.assert_close(found, true, atol=1e-4, rtol=0)


def test_what_leaves_the_picture_is_gone_and_nothing_comes_in(only, monkeypatch):
    only(MOVE=(50 / 32, 0.0))
    monkeypatch.setattr(warp, "around_zero", lambda batch: torch.ones(batch, 2))
    dataset, scene = dance([(8, 20), (8, 22)])
    frames, poses = Warp(1.0, dance(anywhere(50))[0], "cpu")(*clips_of(dataset))
    still = torch.from_numpy(scene).movedim(-1, 0).float() / 255
    torch.testing.assert_close(frames, still.expand_as(frames), atol=1e-4, rtol=0)
    torch.testing.assert_close(poses, torch.ones_like(poses), atol=1e-4, rtol=0)


def extent(pictures, still):
    """Rows and columns that something before the still picture takes up, summed softly."""
    mask = ((pictures - still).abs().amax(-3) / warp.SEEN).clamp(max=1)
    return mask.amax(-1).sum(-1), mask.amax(-2).sum(-1), mask


def test_a_stretch_keeps_the_place_and_changes_width_and_height(only, monkeypatch):
    only(STRETCH=np.log(1.5))
    monkeypatch.setattr(warp, "around_zero", lambda batch: torch.tensor([[1.0, -1.0]] * batch))
    dataset, _ = dance([(10, 28)] * 2)
    warper = Warp(1.0, dance(anywhere(50))[0], "cpu")
    frames, poses = warper(*clips_of(dataset))
    for pictures, still in zip((frames, poses), warper.still):
        rows, columns, mask = extent(pictures, still)
        assert rows.mean().item() == pytest.approx(BODY[0] / 1.5, abs=1)
        assert columns.mean().item() == pytest.approx(BODY[1] * 1.5, abs=1)
        y, x = (torch.arange(n) + 0.5 for n in SIZE)
        where = mask[0, 0] / mask[0, 0].sum()
        assert (where.sum(0) @ x).item() == pytest.approx(28 + BODY[1] / 2, abs=0.2)
        assert (where.sum(1) @ y).item() == pytest.approx(10 + BODY[0] / 2, abs=0.2)


def test_a_lean_moves_the_head_against_the_feet(only, monkeypatch):
    only(LEAN=0.5)
    monkeypatch.setattr(warp, "around_zero", lambda batch: torch.tensor([[1.0, 0.0]] * batch))
    dataset, _ = dance([(10, 28)] * 2)
    warper = Warp(1.0, dance(anywhere(50))[0], "cpu")
    _, _, mask = extent(warper(*clips_of(dataset))[0], warper.still[0])
    x = torch.arange(SIZE[1]) + 0.5
    middles = [(row @ x / row.sum()).item() for row in mask[0, 0, 11:21]]
    lean = np.polyfit(range(10), middles, 1)[0]
    assert lean == pytest.approx(-0.5, abs=0.05)  # half a pixel for every row, as asked


@pytest.mark.parametrize("kind", [{"STRETCH": 0.2}, {"LEAN": 0.1}])
def test_every_kind_of_warp_changes_dancers_each_in_its_own_way(only, kind):
    only(**kind)
    dataset, _ = dance([(10, 28)] * 8)
    before = clips_of(dataset)
    torch.manual_seed(0)
    after = Warp(1.0, dance(anywhere(50))[0], "cpu")(*before)
    for old, new in zip(before, after):
        assert ((old - new).abs().flatten(1).amax(1) > 0.1).all()
        assert all((a - b).abs().max() > 0.05 for a, b in zip(new[:-1], new[1:]))


def test_all_frames_of_a_clip_are_warped_alike():
    dataset, _ = dance([(10, 28)] * 12)
    frames, poses = Warp(1.0, dance(anywhere(50))[0], "cpu")(*clips_of(dataset, length=4))
    for x in (frames, poses):
        assert torch.equal(x, x[:, :1].expand_as(x))


def test_poses_stay_on_their_dancers():
    dataset, _ = dance(anywhere(40))
    torch.manual_seed(0)
    warper = Warp(1.0, dataset, "cpu")
    frames, poses = (
        extent(x, still)[2] for x, still in zip(warper(*clips_of(dataset)), warper.still)
    )
    assert ((frames - poses).abs() > 0.5).sum() == 0  # only their soft edges differ
    assert frames.sum().item() == pytest.approx(poses.sum().item(), rel=0.02)


def test_only_the_asked_share_of_clips_is_warped():
    dataset, _ = dance(anywhere(4000))
    before = clips_of(dataset)
    torch.manual_seed(0)
    after = Warp(0.25, dataset, "cpu")(*before)
    changed = [(a != b).flatten(1).any(1) for a, b in zip(before, after)]
    assert changed[0].float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert torch.equal(*changed)


def test_the_same_seed_warps_alike_and_the_next_draw_does_not():
    dataset, _ = dance(anywhere(8))
    warper, clips, found = Warp(1.0, dataset, "cpu"), clips_of(dataset), []
    for seed in (0, 0, None):
        if seed is not None:
            torch.manual_seed(seed)
        found.append(warper(*clips)[0])
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[1], found[2])
