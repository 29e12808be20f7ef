"""Folders of images -> arrays, their cache, and the clips of every epoch."""

import hashlib
import multiprocessing
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import draw, make_dataset, settings_of
from PIL import Image

from dataloader import DanceClips, Dataset_Dance, find_takes, load_test_clips
from modules.data import cache
from modules.data.folders import frame_number, list_images
from modules.errors import UserError

SIZE = (12, 16)
REAL_CLIPS = Path(__file__).resolve().parents[2] / "shared/real_dance/clips.npz"


def open_dance(root, mode="train", length=4, **more):
    return Dataset_Dance(root, mode, length, size=SIZE, workers=2, **more)


def resized(path, size=SIZE):
    """An image as PIL decodes and resizes it, without any code of the package."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB").resize((size[1], size[0]), Image.BILINEAR))


def caches(folder, pattern="*.npy"):
    return sorted(p.name for p in folder.rglob(pattern))


# ---------------------------------------------------------------- clips of a split


def test_clips_are_consecutive_and_do_not_overlap(dataset):
    clips = open_dance(dataset, length=5)
    assert len(clips) == 3  # of 16 frames; the last frame is left over
    for index in range(3):
        for name, images in zip(("img", "label"), clips[index]):
            for i, image in enumerate(images):
                path = dataset / f"train/train_{name}/frame{index * 5 + i:06d}.png"
                expected = torch.tensor(resized(path)).permute(2, 0, 1).float() / 255
                assert torch.equal(image, expected)


def test_iterating_over_the_dataset_ends_after_the_last_clip(dataset):
    assert len(list(open_dance(dataset, length=5))) == 3


@pytest.mark.parametrize(("partial", "clips"), [(1.0, 4), (0.5, 2), (0.49, 1), (0.25, 1)])
def test_partial_is_the_share_of_frames_used(dataset, partial, clips):
    assert len(open_dance(dataset, partial=partial)) == clips


def test_a_share_too_small_for_one_clip_is_an_error(dataset):
    with pytest.raises(UserError, match="--train_vi_len"):
        open_dance(dataset, partial=0.2)


def test_values_are_floats_in_0_to_1_including_both_ends(tmp_path):
    root = make_dataset(tmp_path / "data")
    for value in (0, 255):
        path = root / f"val/val_img/frame{value // 255:06d}.png"
        Image.new("RGB", (32, 24), (value,) * 3).save(path)
    frames, poses = open_dance(root, "val", 6)[0]
    assert frames.dtype == poses.dtype == torch.float32
    assert frames.shape == poses.shape == (6, 3, *SIZE)
    assert (frames.min().item(), frames.max().item()) == (0, 1)


def noise_image(mode, height=40, width=90):
    """Random values as an image of this PIL mode."""
    rng = np.random.default_rng(0)
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 2**16, (height, width), np.uint16))
    colours = Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).convert(mode)
    if mode[-1] == "A":
        colours.putalpha(Image.fromarray(rng.integers(0, 256, (height, width), np.uint8)))
    return colours


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1"])
def test_decoding_is_the_bilinear_resize_of_pil_in_every_mode(tmp_path, mode):
    path = tmp_path / "frame0.png"
    noise_image(mode).save(path)
    assert np.array_equal(cache.decode(path, (32, 64)), resized(path, (32, 64)))


@pytest.mark.parametrize("size", [(512, 1024), (32, 64), (12, 200), (7, 5), (1, 1)])
def test_decoding_is_bit_identical_to_pil_at_every_size(tmp_path, size):
    path = tmp_path / "frame0.png"
    noise_image("RGB", *size).save(path)
    assert np.array_equal(cache.decode(path, (32, 64)), resized(path, (32, 64)))


@pytest.mark.parametrize("kind", ["JPEG", "BMP", "GIF", "TIFF"])
def test_other_formats_named_png_are_decoded(tmp_path, kind):
    path = tmp_path / "frame0.png"
    noise_image("RGB").save(path, kind)
    assert np.array_equal(cache.decode(path, (32, 64)), resized(path, (32, 64)))


@pytest.mark.parametrize("names", ["frame{}.png", "{}.png", "frame{:06d}.png", "Frame{}.PNG"])
def test_order_is_numeric_for_any_number_of_digits(tmp_path, names):
    numbers = [100, 2, 10, 9, 1, 11]
    for kind, pose in (("img", False), ("label", True)):
        folder = tmp_path / f"train/train_{kind}"
        folder.mkdir(parents=True)
        for n in numbers:
            draw(n, pose).save(folder / names.format(n))
    clips = open_dance(tmp_path, length=6)
    folder = tmp_path / "train/train_img"
    expected = [resized(folder / names.format(n)) for n in sorted(numbers)]
    assert np.array_equal(clips.frames, expected)
    assert list(clips.numbers) == sorted(numbers)


def test_frames_and_poses_are_paired_by_number(tmp_path):
    for kind, name in (("img", "frame{}.png"), ("label", "frame{:06d}.png")):
        (tmp_path / f"train/train_{kind}").mkdir(parents=True)
        for n in (2, 10, 1, 9):
            draw(n, kind == "label").save(tmp_path / f"train/train_{kind}" / name.format(n))
    poses = open_dance(tmp_path).conditions
    folder = tmp_path / "train/train_label"
    assert np.array_equal(poses, [resized(folder / f"frame{n:06d}.png") for n in (1, 2, 9, 10)])


def test_poses_without_a_frame_are_ignored(dataset):
    draw(99, True).save(dataset / "train/train_label/frame000099.png")
    assert len(open_dance(dataset).conditions) == 16


@pytest.mark.parametrize("above", ["", "LAB4_Dataset", "LAB4_Dataset/LAB4_Dataset"])
def test_nested_folders_of_a_zip_are_found(tmp_path, above):
    make_dataset(tmp_path / "data" / above)
    assert len(open_dance(tmp_path / "data")) == 4
    assert len(load_test_clips(tmp_path / "data", SIZE)) == 2


def test_hidden_and_other_files_among_the_images_are_ignored(dataset):
    for name in ("._frame000001.png", "Thumbs.db", ".DS_Store", "notes.txt"):
        (dataset / "train/train_img" / name).write_bytes(b"not an image")
    assert len(open_dance(dataset).frames) == 16


def test_an_image_without_a_number_is_named_in_the_error(dataset):
    shutil.copy(dataset / "train/train_img/frame000001.png", dataset / "train/train_img/copy.png")
    with pytest.raises(UserError, match=r"copy\.png"):
        open_dance(dataset)


def test_test_clips_are_in_numeric_order_with_their_own_lengths(tmp_path):
    lengths = [3, 4, 5, 2, 6, 3, 4, 5, 2, 6, 7]  # folders 0 .. 10
    root = make_dataset(tmp_path / "data", clips=lengths)
    clips = load_test_clips(root, SIZE)
    assert [len(poses) for _, poses in clips] == lengths
    for i, (given, _) in enumerate(clips):
        path = root / f"test/test_img/{i}/frame{100 * i:06d}.png"
        assert np.array_equal((given * 255).round(), resized(path).transpose(2, 0, 1))


# ---------------------------------------------------------------- the cache


@pytest.fixture
def nothing_decoded(monkeypatch):
    """nothing_decoded(): from now on a picture that is decoded is an error."""

    def decode(path, size):
        raise AssertionError(f"{path} is decoded again")

    return lambda: monkeypatch.setattr(cache, "decode", decode)


def test_opening_again_decodes_nothing(dataset, nothing_decoded):
    first = np.array(open_dance(dataset).frames)
    nothing_decoded()
    assert np.array_equal(open_dance(dataset).frames, first)


def test_train_and_val_caches_do_not_replace_each_other(dataset, nothing_decoded):
    for mode in ("train", "val"):
        open_dance(dataset, mode)
    nothing_decoded()
    for mode, count in (("train", 16), ("val", 6)):
        assert len(open_dance(dataset, mode).frames) == count


def touch_later(path):
    """Give a file a later time stamp."""
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 10_000_000))


def change_one(folder):
    draw(77, False).save(folder / "frame000003.png")
    touch_later(folder / "frame000003.png")


def add_one(folder):
    for kind in ("img", "label"):
        draw(16, False).save(folder.parent / f"train_{kind}/frame000016.png")


def remove_one(folder):
    (folder / "frame000015.png").unlink()


def rename_one(folder):
    for kind in ("img", "label"):
        images = folder.parent / f"train_{kind}"
        (images / "frame000003.png").rename(images / "frame000099.png")


@pytest.mark.parametrize("alter", [change_one, add_one, remove_one, rename_one])
def test_a_changed_folder_is_decoded_again_and_its_old_cache_removed(dataset, alter):
    open_dance(dataset)
    before = caches(dataset, "train-frames*.npy")
    alter(dataset / "train/train_img")
    clips = open_dance(dataset)
    files = sorted((dataset / "train/train_img").iterdir())
    assert np.array_equal(clips.frames, [resized(p) for p in files])
    after = caches(dataset, "train-frames*.npy")
    assert len(before) == len(after) == 1
    assert before != after


def test_caches_of_two_sizes_are_kept(dataset, nothing_decoded):
    open_dance(dataset)
    other = Dataset_Dance(dataset, "train", 4, size=(14, 16))
    path = dataset / "train/train_img/frame000005.png"
    assert np.array_equal(other.frames[5], resized(path, (14, 16)))
    nothing_decoded()
    assert open_dance(dataset).frames.shape == (16, *SIZE, 3)


def failing_at(number, error):
    def decode(path, size):
        if frame_number(path) == number:
            raise error
        return resized(path, size)

    return decode


@pytest.mark.parametrize("error", [UserError("unreadable"), KeyboardInterrupt(), MemoryError()])
def test_interrupted_decoding_leaves_no_cache_and_no_temporary_file(dataset, monkeypatch, error):
    monkeypatch.setattr(cache, "decode", failing_at(7, error))
    with pytest.raises(type(error)):
        open_dance(dataset)
    assert caches(dataset) == caches(dataset, "*.partial") == []
    monkeypatch.undo()
    assert len(open_dance(dataset).frames) == 16


def test_a_second_build_replaces_a_finished_cache_without_deleting_it(dataset, monkeypatch):
    """Without file locks two runs may build the same cache."""
    open_dance(dataset)
    (target,) = dataset.rglob("train-frames*.npy")
    files = list_images(dataset / "train/train_img")
    there, rename = [], os.replace

    def replace(source, goal):
        there.append(Path(goal).exists())
        rename(source, goal)

    monkeypatch.setattr(os, "replace", replace)
    again = cache.Cache(files, (16, *SIZE, 3), np.uint8, target.parent, "train-frames", "", 1)
    assert again.target == target
    again.build(lambda array: None)
    assert there == [True, True]  # the manifest and the array


def checksums(root, barrier, answers):
    barrier.wait()
    clips = open_dance(root)
    answers.put(
        [
            hashlib.sha256(np.array(a).tobytes()).hexdigest()
            for a in (clips.frames, clips.conditions)
        ]
    )


@pytest.mark.parametrize("stale", [False, True])
def test_concurrent_processes_all_get_the_right_images(dataset, stale):
    if stale:
        open_dance(dataset)
        change_one(dataset / "train/train_img")
    context = multiprocessing.get_context("fork")
    barrier, answers = context.Barrier(6), context.Queue()
    children = [
        context.Process(target=checksums, args=(dataset, barrier, answers)) for _ in range(6)
    ]
    for child in children:
        child.start()
    found = [answers.get(timeout=60) for _ in children]
    for child in children:
        child.join(timeout=60)
    folders = (dataset / "train/train_img", dataset / "train/train_label")
    arrays = [np.stack([resized(p) for p in sorted(f.iterdir())]) for f in folders]
    assert found == [[hashlib.sha256(a.tobytes()).hexdigest() for a in arrays]] * 6
    assert len(caches(dataset)) == 2
    assert caches(dataset, "*.partial") == []


@pytest.mark.parametrize("typed", [True, False])
def test_a_cache_dir_that_is_a_file_is_an_error(dataset, tmp_path, typed):
    place = tmp_path / "file" if typed else dataset / ".cache"
    place.write_text("in the way")
    with pytest.raises(UserError, match="--cache_dir") as caught:
        open_dance(dataset, cache_dir=place if typed else None)
    assert str(place) in str(caught.value)
    assert place.read_text() == "in the way"


def test_a_full_disk_is_an_error_that_names_the_flag(dataset, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=100))
    with pytest.raises(UserError, match="--cache_dir"):
        open_dance(dataset)
    assert caches(dataset) == caches(dataset, "*.partial") == []


def test_one_cache_dir_keeps_the_caches_of_two_datasets(tmp_path, nothing_decoded):
    place = tmp_path / "place"
    roots = [make_dataset(tmp_path / name, train=count) for name, count in (("a", 8), ("b", 12))]
    for root in roots:
        open_dance(root, cache_dir=place)
        assert not (root / ".cache").exists()
    nothing_decoded()
    assert [len(open_dance(root, cache_dir=place).frames) for root in roots] == [8, 12]
    assert len(caches(place)) == 4


# ---------------------------------------------------------------- clips of an epoch


def grey_dataset(count, numbers=None):
    """A stand-in for a Dataset_Dance: one take of grey images."""
    frames = np.full((count, 2, 2, 3), 100, np.uint8)
    numbers = np.arange(count) if numbers is None else np.asarray(numbers)
    return SimpleNamespace(frames=frames, conditions=frames, numbers=numbers, bad=[])


def train_clips(line, dataset):
    return DanceClips(dataset, settings_of(f"--train_vi_len 4 {line}"), "cpu")


ALL_RANDOM = "--shuffle --random_offset --jump_start 0.5"


def test_clips_are_in_order_by_default():
    clips = train_clips("", grey_dataset(10))
    for epoch in range(3):
        assert clips.clips_at(epoch).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_clips_depend_on_seed_and_epoch_only():
    line = f"{ALL_RANDOM} --seed 3"
    first = train_clips(line, grey_dataset(60))
    expected = [first.clips_at(epoch).tolist() for epoch in range(5)]
    np.random.seed(1)
    torch.manual_seed(1)
    second = train_clips(line, grey_dataset(60))
    assert [second.clips_at(epoch).tolist() for epoch in (4, 2, 2)] == [
        expected[e] for e in (4, 2, 2)
    ]
    other = train_clips(f"{ALL_RANDOM} --seed 4", grey_dataset(60))
    assert len({str(c) for c in expected}) == 5
    assert other.clips_at(0).tolist() != expected[0]


def test_shuffle_uses_every_frame_once_per_epoch_in_a_new_order():
    clips = train_clips("--shuffle", grey_dataset(40))
    orders = [clips.clips_at(epoch) for epoch in range(4)]
    for order in orders:
        assert sorted(order.ravel()) == list(range(40))
        assert (np.diff(order, axis=1) == 1).all()
    assert len({str(order) for order in orders}) == 4


@pytest.mark.parametrize("count", [4, 5, 6, 7, 8, 41])
def test_random_offset_takes_every_valid_offset_and_no_other(count):
    clips = train_clips("--random_offset", grey_dataset(count))
    offsets = set()
    for epoch in range(60):
        order = clips.clips_at(epoch)
        assert order.ravel().tolist() == list(range(order[0, 0], order[-1, -1] + 1))
        assert order[-1, -1] < count
        assert count - 1 - order[-1, -1] < 4  # no further clip would fit
        offsets.add(int(order[0, 0]))
    assert offsets == set(range(min(4, count - 3)))


def test_random_offset_stays_within_the_partial_share():
    clips = train_clips("--random_offset --partial 0.5", grey_dataset(41))
    assert all(clips.clips_at(epoch).max() < 20 for epoch in range(20))


@pytest.mark.parametrize("share", ["--partial 0.25", "--fast_train --fast_partial 0.25"])
def test_jump_starts_stay_within_the_used_share(share):
    clips = train_clips(f"--jump_start 1 {share}", grey_dataset(200))
    starts = np.concatenate([clips.clips_at(epoch)[:, 0] for epoch in range(5)])
    assert starts.max() < 50 and len(set(starts.tolist())) > 20


def test_the_fast_start_lasts_fast_train_epoch_epochs():
    clips = train_clips("--fast_train --fast_partial 0.5 --fast_train_epoch 3", grey_dataset(40))
    assert [len(clips.clips_at(epoch)) for epoch in range(6)] == [5, 5, 5, 10, 10, 10]


def test_the_fast_start_is_limited_by_partial():
    clips = train_clips("--fast_train --fast_partial 0.5 --partial 0.25", grey_dataset(80))
    assert len(clips.clips_at(0)) == len(clips.clips_at(9)) == 5


def test_without_fast_train_every_epoch_uses_all_clips():
    assert len(train_clips("", grey_dataset(40)).clips_at(0)) == 10


def test_a_fast_start_too_short_for_a_clip_is_an_error():
    clips = train_clips("--fast_train --fast_partial 0.05", grey_dataset(40))
    with pytest.raises(UserError, match="--fast_partial"):
        clips.clips_at(0)


def test_batches_are_the_clips_in_order(dataset):
    data = open_dance(dataset, length=5)
    clips = DanceClips(data, settings_of("--train_vi_len 5"), "cpu")
    batches = list(clips.fetch(clips.batches(0)))
    assert [len(frames) for frames, _ in batches] == [2, 1]
    for kind in (0, 1):
        together = torch.cat([batch[kind] for batch in batches])
        assert torch.equal(together, torch.stack([data[i][kind] for i in range(3)]))


# ---------------------------------------------------------------- takes and jump starts


def test_a_gap_in_frame_numbers_starts_a_new_take():
    numbers = [*range(10), *range(50, 55), 60]
    takes = find_takes(grey_dataset(16, numbers))
    assert takes.tolist() == [[0, 9]] * 10 + [[10, 14]] * 5 + [[15, 15]]


def test_a_cut_starts_a_new_take_and_motion_does_not(dataset):
    moving = open_dance(dataset)
    assert find_takes(moving).tolist() == [[0, 15]] * 16
    jumping = SimpleNamespace(frames=np.array(moving.frames), numbers=moving.numbers)
    jumping.frames[6:] = 255 - jumping.frames[6:]
    assert find_takes(jumping).tolist() == [[0, 5]] * 6 + [[6, 15]] * 10


@pytest.mark.skipif(not REAL_CLIPS.exists(), reason="needs ../shared/real_dance")
def test_a_real_dance_video_is_one_take():
    clips = np.load(REAL_CLIPS)
    frames = np.concatenate([clips[f"frames_{i}"] for i in range(5)])  # one take
    takes = find_takes(SimpleNamespace(frames=frames, numbers=np.arange(len(frames))))
    assert np.unique(takes, axis=0).tolist() == [[0, len(frames) - 1]]


def two_takes():
    return grey_dataset(400, [*range(200), *range(1000, 1200)])


def test_a_jump_start_replaces_the_first_frame_by_one_of_the_same_take():
    clips = train_clips("--jump_start 1", two_takes())
    starts = np.arange(0, 400, 4)
    seen = set()
    for epoch in range(20):
        order = clips.clips_at(epoch)
        assert np.array_equal(order[:, 1:], starts[:, None] + [1, 2, 3])
        assert np.array_equal(order[:, 0] < 200, starts < 200)
        seen |= set(order[:, 0].tolist())
    assert {0, 199, 200, 399} <= seen  # the whole take, up to its ends


@pytest.mark.parametrize("share", [0.25, 0.8])
def test_the_given_share_of_clips_has_a_jump_start(share):
    clips = train_clips(f"--jump_start {share}", grey_dataset(8000))
    jumped = np.mean([clips.clips_at(e)[:, 0] != np.arange(0, 8000, 4) for e in range(5)])
    assert jumped == pytest.approx(share, abs=0.02)  # 10,000 draws: five standard errors


def test_jump_starts_do_not_change_the_order_of_clips():
    with_jumps = train_clips("--shuffle --jump_start 0.5", grey_dataset(80)).clips_at(2)
    without = train_clips("--shuffle", grey_dataset(80)).clips_at(2)
    assert np.array_equal(with_jumps[:, 1:], without[:, 1:])
    assert not np.array_equal(with_jumps, without)
