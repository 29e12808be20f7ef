"""Folders of images -> arrays, their cache, and the clips of every epoch."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import draw, make_dataset, make_robot_data, settings_of
from PIL import Image

from dataloader import DanceClips, Dataset_Dance, Dataset_Robot, find_takes, load_test_clips
from modules.data import cache
from modules.data.folders import frame_number
from modules.data.pose import load_truth
from modules.errors import UserError

SIZE = (12, 16)


def open_dance(root, mode="train", length=4, **more):
    return Dataset_Dance(root, mode, length, size=SIZE, workers=2, **more)


def resized(path, size=SIZE):
    """An image as PIL decodes and resizes it, without any code of the package."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB").resize((size[1], size[0]), Image.BILINEAR))


def test_a_data_set_of_jpgs_is_read(tmp_path):
    """The names and numbers count; the poses may be PNGs."""
    make_dataset(tmp_path)
    for path in (*tmp_path.rglob("train_img/*.png"), *tmp_path.rglob("test_truth/*/*.png")):
        Image.open(path).save(path.with_suffix(".jpg"), quality=95)
        path.unlink()
    data = open_dance(tmp_path)
    files = sorted((tmp_path / "train/train_img").iterdir(), key=frame_number)
    assert np.array_equal(data.frames[3], resized(files[3]))
    assert [len(x) for x in load_truth(tmp_path / "test/test_truth", SIZE, [6, 5])] == [6, 5]


def test_a_plain_folder_of_pictures_is_told_from_a_data_set(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg")
    with pytest.raises(UserError, match=r"scripts/make_dataset\.py .* makes a data set"):
        open_dance(tmp_path)


# ---------------------------------------------------------------- clips of a split


def test_clips_are_consecutive_and_do_not_overlap(dataset):
    clips = open_dance(dataset, length=5)
    assert len(clips) == len(list(clips)) == 3  # of 16 frames; the last frame is left over
    for index in range(3):
        for name, images in zip(("img", "label"), clips[index]):
            for i, image in enumerate(images):
                path = dataset / f"train/train_{name}/frame{index * 5 + i:06d}.png"
                expected = torch.tensor(resized(path)).permute(2, 0, 1).float() / 255
                assert torch.equal(image, expected)


@pytest.mark.parametrize(("partial", "clips"), [(1.0, 4), (0.5, 2), (0.49, 1), (0.25, 1)])
def test_partial_is_the_share_of_frames_used(dataset, partial, clips):
    assert len(open_dance(dataset, partial=partial)) == clips


def test_a_share_too_small_for_one_clip_is_an_error(dataset):
    with pytest.raises(UserError, match="--train_vi_len"):
        open_dance(dataset, partial=0.2)


def noise_image(mode, height=40, width=90):
    """Random values as an image of this PIL mode."""
    rng = np.random.default_rng(0)
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 2**16, (height, width), np.uint16))
    colours = Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).convert(mode)
    if mode[-1] == "A":
        colours.putalpha(Image.fromarray(rng.integers(0, 256, (height, width), np.uint8)))
    return colours


@pytest.mark.parametrize(
    ("mode", "size", "kind"),
    [("RGB", (512, 1024), "PNG"), ("RGB", (7, 5), "PNG"), ("RGB", (40, 90), "JPEG")]
    + [(mode, (40, 90), "PNG") for mode in ("RGBA", "L", "LA", "P", "1")],
)
def test_decoding_is_the_bilinear_resize_of_pil(tmp_path, mode, size, kind):
    path = tmp_path / "frame0.png"
    noise_image(mode, *size).save(path, kind)
    assert np.array_equal(cache.decode(path, (32, 64)), resized(path, (32, 64)))


NAMES = {"img": "{}.png", "label": "Frame{:06d}.PNG"}


def test_order_is_numeric_for_any_number_of_digits(tmp_path):
    numbers = [100, 2, 10, 9, 1, 11]
    for kind, pose in (("img", False), ("label", True)):
        folder = tmp_path / f"train/train_{kind}"
        folder.mkdir(parents=True)
        for n in numbers:
            draw(n, pose).save(folder / NAMES[kind].format(n))
    clips = open_dance(tmp_path, length=6)
    for kind, arrays in (("img", clips.frames), ("label", clips.conditions)):
        folder = tmp_path / f"train/train_{kind}"
        expected = [resized(folder / NAMES[kind].format(n)) for n in sorted(numbers)]
        assert np.array_equal(arrays, expected)
    assert list(clips.numbers) == sorted(numbers)


@pytest.mark.parametrize("above", ["", "LAB4_Dataset", "LAB4_Dataset/LAB4_Dataset"])
def test_nested_folders_of_a_zip_are_found(tmp_path, above):
    make_dataset(tmp_path / "data" / above)
    make_robot_data(tmp_path / "robot" / above)
    assert len(open_dance(tmp_path / "data")) == 4
    assert len(load_test_clips(tmp_path / "data", SIZE)) == 2
    assert len(Dataset_Robot(tmp_path / "robot", "validate", 5, "--n_past")) == 3


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


# ---------------------------------------------------------------- pictures and folders


@pytest.mark.parametrize("bits", [8, 16])
def test_greyscale_is_the_same_in_8_and_16_bits(tmp_path, bits):
    values = np.linspace(0, 255, 24 * 32).round().reshape(24, 32)
    kind, factor = (np.uint8, 1) if bits == 8 else (np.uint16, 257)
    path = tmp_path / "frame0.png"
    Image.fromarray((values * factor).astype(kind)).save(path)
    expected = np.repeat(values.astype(np.uint8)[..., None], 3, axis=-1)
    assert np.array_equal(cache.decode(path, (24, 32)), expected)


@pytest.mark.parametrize(("name", "kind"), [("frame3.png", "img"), ("frame000003.PNG", "label")])
def test_two_pictures_of_one_number_are_refused(dataset, name, kind):
    draw(3, False).save(dataset / f"train/train_{kind}/{name}", format="png")
    with pytest.raises(UserError, match="same number") as error:
        open_dance(dataset)
    assert name in str(error.value) and "frame000003.png" in str(error.value)


MAKE = {"pose": make_dataset, "robot": make_robot_data}
OPEN = {"pose": open_dance, "robot": lambda root: Dataset_Robot(root, "train", 5, "--n_past")}


@pytest.mark.parametrize("lab", MAKE)
def test_a_folder_above_two_data_sets_is_refused(tmp_path, lab):
    for name, gone in (("a", "test"), ("b", "train")):
        shutil.rmtree(MAKE[lab](tmp_path / f"all/{name}") / gone)
    with pytest.raises(UserError, match="more than one data set.*all/a/.*all/b/"):
        OPEN[lab](tmp_path / "all")
    OPEN[lab](tmp_path / "all/a")


@pytest.mark.parametrize("lab", MAKE)
@pytest.mark.parametrize("nested", ["", "zip/zip"])
def test_what_an_archiver_leaves_is_no_data_set(tmp_path, lab, nested):
    root = MAKE[lab](tmp_path / "data" / nested)
    copy = shutil.copytree(root, tmp_path / "copy")
    for odd in ("__MACOSX", ".Trash"):
        shutil.copytree(copy, tmp_path / "data" / odd)
        shutil.copytree(copy / "train", root / "train" / odd)
    assert len(OPEN[lab](tmp_path / "data")) == len(OPEN[lab](copy))


def test_splits_in_folders_of_their_own_are_one_data_set(dataset):
    for split in ("train", "val"):
        (dataset / f"{split}_zip").mkdir()
        (dataset / split).rename(dataset / f"{split}_zip/{split}")
    shutil.rmtree(dataset / "test")
    for split in ("train", "val"):
        open_dance(dataset, split)


# ---------------------------------------------------------------- true frames


@pytest.mark.parametrize(("column", "value"), [(20, "nan"), (20, "256"), (20, "0.3")])
def test_a_csv_of_other_than_pixels_is_refused(tmp_path, column, value):
    rows = np.arange(5 * 37).reshape(5, 37) % 256
    rows[:, 0] = np.arange(5)
    text = [[str(value) for value in row] for row in rows]
    text[3][column] = value
    lines = [",".join(map(str, range(37))), *map(",".join, text)]
    (tmp_path / "truth.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match="truth.csv has 5 rows of 37 values; .*0 to 255"):
        load_truth(tmp_path / "truth.csv", (3, 4), [2, 3])


WRONG = "missing", "text.csv", "short.csv", "empty", "one frame less", "one clip less"


@pytest.mark.parametrize("truth", WRONG)
def test_truth_that_does_not_fit_the_test_clips_is_refused(dataset, tmp_path, truth):
    (tmp_path / "text.csv").write_text("id,0\n0,black\n")
    (tmp_path / "short.csv").write_text("id,0\n0,1\n")
    (tmp_path / "empty").mkdir()
    for name in WRONG[-2:]:
        shutil.copytree(dataset / "test/test_truth", tmp_path / name)
    (tmp_path / "one frame less/0/frame000005.png").unlink()
    shutil.rmtree(tmp_path / "one clip less/1")
    with pytest.raises(UserError, match=str(tmp_path / truth)):
        load_truth(tmp_path / truth, SIZE, [6, 5])


# ---------------------------------------------------------------- clips of an epoch


def grey_dataset(count, numbers=None):
    """A stand-in for a Dataset_Dance: one take of grey images."""
    frames = np.full((count, 2, 2, 3), 100, np.uint8)
    numbers = np.arange(count) if numbers is None else np.asarray(numbers)
    return SimpleNamespace(frames=frames, conditions=frames, numbers=numbers)


def train_clips(line, dataset):
    return DanceClips(dataset, settings_of(f"--train_vi_len 4 {line}"), "cpu")


ALL_RANDOM = "--shuffle --jump_start 0.5"


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


@pytest.mark.parametrize("count", [4, 5, 6, 7, 8, 41])
def test_shuffled_clips_start_at_every_valid_offset_in_a_new_order(count):
    clips, offsets, orders = train_clips("--shuffle", grey_dataset(count)), set(), set()
    for epoch in range(60):
        order = clips.clips_at(epoch)
        frames = sorted(order.ravel())
        assert frames == list(range(frames[0], frames[-1] + 1)) and frames[-1] < count
        assert (np.diff(order, axis=1) == 1).all()
        assert count - 1 - frames[-1] < 4  # no further clip would fit
        offsets.add(int(frames[0]))
        orders.add(str(order - frames[0]))
    assert offsets == set(range(min(4, count - 3)))
    assert len(orders) > 50 or count < 41


@pytest.mark.parametrize(
    "share", ["--partial 0.25", "--partial 0.25 --shuffle", "--fast_train --fast_partial 0.25"]
)
def test_jump_starts_stay_within_the_used_share(share):
    clips = train_clips(f"--jump_start 1 {share}", grey_dataset(200))
    starts = np.concatenate([clips.clips_at(epoch)[:, 0] for epoch in range(5)])
    assert starts.max() < 50 and len(set(starts.tolist())) > 20


def test_the_fast_start_lasts_fast_train_epoch_epochs():
    clips = train_clips("--fast_train --fast_partial 0.5 --fast_train_epoch 3", grey_dataset(40))
    assert [len(clips.clips_at(epoch)) for epoch in range(6)] == [5, 5, 5, 10, 10, 10]


def test_a_fast_start_too_short_for_a_clip_is_an_error():
    clips = train_clips("--fast_train --fast_partial 0.05", grey_dataset(40))
    with pytest.raises(UserError, match="--fast_partial"):
        clips.clips_at(0)


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
