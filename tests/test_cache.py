"""The cache of decoded pictures: it is what decoding anew would give, or it is made again."""

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from helpers import (
    ROBOT,
    SHORT,
    draw,
    load,
    make_dataset,
    make_robot_data,
    robot_picture,
    write_clip,
)
from PIL import Image

from dataloader import Dataset_Dance, Dataset_Robot
from modules.data import cache
from modules.data.pose import load_truth
from modules.errors import UserError

SIZE = (12, 16)


def open_dance(root, mode="train", **more):
    return Dataset_Dance(root, mode, 4, size=SIZE, workers=2, **more)


@pytest.fixture
def nothing_decoded(monkeypatch):
    def decode(path, size):
        raise AssertionError(f"{path} is decoded again")

    return lambda: monkeypatch.setattr(cache, "decode", decode)


@pytest.fixture
def settled(monkeypatch):
    """Files count as long unchanged: their state is trusted, as minutes after a download."""
    monkeypatch.setattr(cache, "CLOCK", -(10**12))


def fresh(root, tmp_path):
    """The frames as decoded without any cache."""
    place = tmp_path / "fresh"
    shutil.rmtree(place, ignore_errors=True)
    return np.array(open_dance(root, cache_dir=place).frames)


# ---------------------------------------------------------------- other contents


def keep_times(path, write):
    """Change a file; its size and mtime stay, as after unzip, rsync -t or cp -p."""
    stat = path.stat()
    write(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)


def swapped(folder):
    a, b, c = (folder / f"{name}.png" for name in ("frame000003", "frame000009", "between"))
    for source, target in ((a, c), (b, a), (c, b)):
        source.rename(target)


def swapped_with_equal_times(folder):
    for path in folder.iterdir():
        os.utime(path, (10**9, 10**9))
    swapped(folder)


def rewritten(folder):
    data = (folder / "frame000009.png").read_bytes()
    path = folder / "frame000003.png"
    size = max(len(data), path.stat().st_size)
    for each in folder.iterdir():  # pad: what follows a PNG's end is not read
        each.write_bytes(each.read_bytes().ljust(size, b"\0"))
    os.utime(path, (10**9, 10**9))
    yield
    keep_times(path, lambda p: p.write_bytes(data.ljust(size, b"\0")))


def replaced_by_a_link(folder):
    path = folder / "frame000003.png"
    path.unlink()
    path.symlink_to(folder / "frame000009.png")


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize(
    "change", [swapped, swapped_with_equal_times, rewritten, replaced_by_a_link]
)
def test_other_contents_are_seen_whatever_size_and_mtime_say(
    dataset, tmp_path, request, change, trusted, fault
):
    if trusted:
        request.getfixturevalue("settled")
    folder = dataset / "train/train_img"
    steps = change(folder) if change is rewritten else None
    if steps:
        next(steps)
    before = np.array(open_dance(dataset).frames)
    if steps:
        next(steps, None)
    else:
        change(folder)
    frames = np.array(open_dance(dataset).frames)
    assert not np.array_equal(frames, before)
    assert np.array_equal(frames, fresh(dataset, tmp_path))
    fault("pictures changed, size and mtime unchanged", "decoded again")


def test_files_that_have_just_changed_are_hashed_again_and_others_are_not(
    dataset, monkeypatch, request
):
    hashed = []
    monkeypatch.setattr(cache, "hash_file", lambda path: hashed.append(path) or b"x")
    for _ in range(2):
        open_dance(dataset)
    assert len(hashed) == 2 * 32
    request.getfixturevalue("settled")
    for _ in range(3):  # the first of these notes the state of the files
        open_dance(dataset)
    assert len(hashed) == 3 * 32


def test_a_touched_or_copied_data_set_is_hashed_and_not_decoded(
    dataset, tmp_path, settled, nothing_decoded
):
    open_dance(dataset)
    nothing_decoded()
    for path in dataset.rglob("*.png"):
        path.touch()
    open_dance(dataset)
    copy = shutil.copytree(dataset, tmp_path / "copy")
    open_dance(copy)


@pytest.mark.parametrize("where", ["beside", "elsewhere"])
def test_a_renamed_data_set_is_not_decoded_again_and_leaves_no_orphan(
    dataset, tmp_path, settled, nothing_decoded, where
):
    place = tmp_path / "place" if where == "elsewhere" else None
    open_dance(dataset, cache_dir=place)
    moved = dataset.rename(tmp_path / "moved")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "decode", None)
        open_dance(moved, cache_dir=place)
    folder = place or moved / ".cache"
    assert len([*folder.glob("*.npy")]) == 2
    draw(90, False).save(moved / "train/train_img/frame000003.png")
    open_dance(moved, cache_dir=place)
    assert len([*folder.glob("*.npy")]) == len([*folder.glob("*.json")]) == 2


def test_one_cache_of_two_equal_data_sets_stays_while_one_of_them_uses_it(tmp_path, settled):
    roots = [make_dataset(tmp_path / name) for name in "ab"]
    for root in roots:
        open_dance(root, cache_dir=tmp_path / "place")
    assert len([*(tmp_path / "place").glob("train-frames*.npy")]) == 1
    draw(90, False).save(roots[0] / "train/train_img/frame000003.png")
    open_dance(roots[0], cache_dir=tmp_path / "place")
    assert len([*(tmp_path / "place").glob("train-frames*.npy")]) == 2


@pytest.mark.parametrize("skip", [True, False])
def test_a_picture_that_is_readable_again_is_used_again(dataset, tmp_path, settled, skip):
    path = dataset / "train/train_img/frame000003.png"
    whole = path.read_bytes()
    path.write_bytes(whole[:60])
    assert open_dance(dataset, skip_bad=True).bad.tolist() == [3]
    with pytest.raises(UserError, match="frame000003"):
        open_dance(dataset)
    path.write_bytes(whole)
    clips = open_dance(dataset, skip_bad=skip)
    assert clips.bad.tolist() == []
    assert np.array_equal(clips.frames, fresh(dataset, tmp_path))


def test_a_picture_that_the_decoder_reads_now_is_used(dataset, tmp_path, settled, monkeypatch):
    """The file is the same: what was missing is memory, or a decoder."""
    decode = cache.decode

    def failing(path, size):
        if path.name == "frame000003.png":
            raise UserError("not now")
        return decode(path, size)

    monkeypatch.setattr(cache, "decode", failing)
    assert open_dance(dataset, skip_bad=True).bad.tolist() == [3]
    monkeypatch.undo()
    clips = open_dance(dataset)
    assert clips.bad.tolist() == []
    assert np.array_equal(clips.frames, fresh(dataset, tmp_path))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("skip", [True, False])
def test_a_named_pipe_as_a_picture_is_refused_and_waits_for_nothing(dataset, skip):
    path = dataset / "train/train_img/frame000003.png"
    path.unlink()
    os.mkfifo(path)
    if skip:
        assert open_dance(dataset, skip_bad=True).bad.tolist() == [3]
    else:
        with pytest.raises(UserError, match="frame000003.*not a file"):
            open_dance(dataset)


def test_files_that_change_while_they_are_decoded_are_an_error(dataset, monkeypatch):
    decode, first = cache.decode, dataset / "train/train_img/frame000000.png"

    def slow(path, size):
        if path.name == "frame000015.png":
            first.write_bytes(path.read_bytes())
        return decode(path, size)

    monkeypatch.setattr(cache, "decode", slow)
    with pytest.raises(UserError, match="changed while"):
        open_dance(dataset)
    assert not [*dataset.rglob("*.npy")]


# ---------------------------------------------------------------- damaged caches


def rows_less(path):
    np.save(path, np.load(path)[:-1])


def as_floats(path):
    np.save(path, np.load(path).astype(np.float32))


def other_size(path):
    np.save(path, np.zeros((16, 6, 8, 3), np.uint8))


def zeros(path):
    np.save(path, np.zeros_like(np.load(path)))


def in_fortran_order(path):
    np.save(path, np.asfortranarray(np.load(path)))


def flipped(where):
    def flip(path):
        data = bytearray(path.read_bytes())
        data[int(where * (len(data) - 1))] ^= 16
        path.write_bytes(data)

    flip.__name__ = f"flipped at {where}"
    return flip


def of_bytes(name, data):
    def write(path):
        path.write_bytes(data)

    write.__name__ = name
    return write


DAMAGES = [
    rows_less, as_floats, other_size, zeros, in_fortran_order,
    *(flipped(where) for where in (0, 0.001, 0.01, 0.3, 0.7, 1)),
    of_bytes("empty", b""), of_bytes("text", b"no array"), of_bytes("pickle", b"\x80\x04N."),
    of_bytes("zip", b"PK\x03\x04" + bytes(99)), of_bytes("magic alone", b"\x93NUMPY\x01\x00"),
    lambda path: path.write_bytes(path.read_bytes()[:200]), lambda path: path.unlink(),
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("pattern", ["train-frames*.npy", "train-frames*.json"])
def test_a_damaged_cache_is_made_again_with_one_line(
    dataset, tmp_path, settled, capsys, damage, pattern, fault
):
    if pattern.endswith("json") and damage in DAMAGES[:5]:
        pytest.skip("not an array")
    expected = fresh(dataset, tmp_path)
    open_dance(dataset)
    (target,) = (dataset / ".cache").glob(pattern)
    damage(target)
    capsys.readouterr()
    assert np.array_equal(open_dance(dataset).frames, expected)
    lines = capsys.readouterr().out.splitlines()
    gone = damage is DAMAGES[-1] and pattern.endswith("npy")
    assert len(lines) == (0 if gone else 1), lines
    open_dance(dataset)
    assert capsys.readouterr().out == ""
    fault("a damaged image cache, or its manifest", "made again, one line")


def test_a_manifest_of_lies_is_no_manifest(dataset, tmp_path, settled):
    """Whoever changes its rows must change its seal."""
    open_dance(dataset)
    (path,) = (dataset / ".cache").glob("train-frames*.json")
    content = json.loads(path.read_text())
    content["manifest"]["bad"] = [2]
    path.write_text(json.dumps(content))
    assert open_dance(dataset).bad.tolist() == []


def test_caches_of_earlier_versions_are_made_again_with_one_line(dataset, capsys):
    open_dance(dataset)
    (target,) = (dataset / ".cache").glob("train-frames*.npy")
    home = cache.hashlib.sha256(str((dataset / "train/train_img").resolve()).encode())
    old = target.with_name(f"train-frames_12x16_{home.hexdigest()[:8]}_{'0' * 16}.npy")
    target.rename(old)
    target.with_suffix(".json").unlink()
    old.with_suffix(".bad.json").write_text("[1]")
    capsys.readouterr()
    assert open_dance(dataset).bad.tolist() == []
    assert capsys.readouterr().out.count("earlier version") == 1
    assert not old.exists() and not old.with_suffix(".bad.json").exists()


@pytest.mark.skipif(os.name == "nt", reason="needs a folder that cannot be written to")
def test_a_valid_cache_in_a_folder_that_cannot_be_written_to_is_used(dataset, settled, monkeypatch):
    expected = np.array(open_dance(dataset).frames)

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    for name in ("locked", "write_manifest"):
        monkeypatch.setattr(cache, name, refuse)
    for path in dataset.rglob("*.png"):
        path.touch()
    assert np.array_equal(open_dance(dataset).frames, expected)


@pytest.mark.parametrize("where", ["disk", "device"])
def test_a_cache_that_is_truncated_while_training_is_an_error_and_no_signal(
    children, dataset, tmp_path, where, fault
):
    """In a process of its own: a memory-mapped file would end it with SIGBUS."""
    run = tmp_path / "run"
    flags = ["--DR", dataset, "--save_root", run, "--num_epoch", 30, *SHORT]
    child = children.start("Trainer", *flags, "--no-plots", memory=0 if where == "disk" else None)
    while not (run / "last.ckpt").exists():
        time.sleep(0.05)
    for path in (dataset / ".cache").glob("*.npy"):
        with open(path, "r+b") as file:
            file.truncate(100)
    done = child.wait()
    assert "Traceback" not in done.err
    if where == "disk":
        assert done.code == 1 and "changed while it is in use" in done.err, done.err
    else:
        assert done.code == 0, done.err
    fault("an image cache truncated while training", "exit code 1, or trained from memory")


def test_a_run_that_waits_for_a_killed_one_goes_on(dataset, capsys, fault):
    """Its lock is free as soon as that process has ended."""
    place = dataset / ".cache"
    place.mkdir()
    (place / "train-frames_12x16_lock").touch()
    holder = subprocess.Popen(
        [sys.executable, "-c", "import fcntl, sys, time; file = open(sys.argv[1]);"
         "fcntl.flock(file, fcntl.LOCK_EX); print(); sys.stdout.flush(); time.sleep(99)",
         place / "train-frames_12x16_lock"], stdout=subprocess.PIPE,
    )  # fmt: skip
    holder.stdout.readline()
    killer = threading.Timer(0.3, holder.kill)
    killer.start()
    open_dance(dataset)
    assert not killer.is_alive() and holder.wait() == -9
    assert capsys.readouterr().out.count("another run is decoding train-frames") == 1
    fault("a run killed while another waits for its decoding", "the other decodes")


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize(
    "error",
    [OSError("out of memory error when reading image file"), OSError(errno.EMFILE, "Too many")],
)
def test_memory_or_handles_that_are_short_leave_out_no_picture(dataset, monkeypatch, skip, error):
    def short(*_):
        raise error

    monkeypatch.setattr(cache, "resize", short)
    with pytest.raises((MemoryError, OSError)):
        open_dance(dataset, skip_bad=skip)
    assert not [*dataset.rglob("*.npy")]


# ---------------------------------------------------------------- what a run knows of its data


def other_pictures(data):
    draw(90, False).save(data / "train/train_img/frame000003.png")
    return "train"


def fewer_pictures(data):
    (data / "train/train_img/frame000015.png").unlink()
    return "train"


def other_poses(data):
    draw(90, True).save(data / "train/train_label/frame000003.png")
    return "train"


def other_validation(data):
    draw(90, False).save(data / "val/val_img/frame000003.png")
    return "val"


def no_change(data):
    for path in data.rglob("*.png"):
        path.touch()


@pytest.mark.parametrize(
    "change", [other_pictures, fewer_pictures, other_poses, other_validation, no_change]
)
def test_a_run_that_is_resumed_over_other_pictures_says_so(
    call, no_plots, dataset, tmp_path, change, fault
):
    flags = ["--DR", dataset, "--save_root", tmp_path / "run", *SHORT]
    assert call("Trainer", *flags, "--num_epoch", 1).code == 0
    split = change(dataset)
    done = call("Trainer", *flags, "--num_epoch", 2)
    assert done.code == 0, done.err
    warned = [line for line in done.out.splitlines() if "not those that the run" in line]
    assert len(warned) == (1 if split else 0)
    if split:
        assert f"the {split} pictures" in warned[0]
        fault("a run resumed over other pictures", "a warning that names the split")


def test_another_action_of_the_robot_is_other_data(call, no_plots, tmp_path):
    data = make_robot_data(tmp_path / "data")
    flags = ["--DR", data, "--save_root", tmp_path / "run", *ROBOT]
    assert call("Trainer", *flags, "--num_epoch", 1).code == 0
    path = next(data.glob("train/*/0/actions.csv"))
    path.write_text(path.read_text().replace("0.0", "0.1", 1))
    assert "the train pictures" in call("Trainer", *flags, "--num_epoch", 2).out


def test_a_checkpoint_without_a_fingerprint_is_resumed(call, no_plots, dataset, tmp_path):
    flags = ["--DR", dataset, "--save_root", tmp_path / "run", *SHORT]
    call("Trainer", *flags, "--num_epoch", 1)
    state = load(tmp_path / "run")
    del state["data"]
    torch.save(state, tmp_path / "run/last.ckpt")
    other_pictures(dataset)
    done = call("Trainer", *flags, "--num_epoch", 2)
    assert done.code == 0 and "not those" not in done.out


# ---------------------------------------------------------------- pictures and folders


@pytest.mark.parametrize("bits", [8, 16])
def test_greyscale_is_the_same_in_8_and_16_bits(tmp_path, bits):
    values = np.linspace(0, 255, 24 * 32).round().reshape(24, 32)
    kind, factor = (np.uint8, 1) if bits == 8 else (np.uint16, 257)
    path = tmp_path / "frame0.png"
    Image.fromarray((values * factor).astype(kind)).save(path)
    expected = np.repeat(values.astype(np.uint8)[..., None], 3, axis=-1)
    assert np.array_equal(cache.decode(path, (24, 32)), expected)


@pytest.mark.parametrize("name", ["frame3.png", "3.png", "frame000003.PNG", "Frame03.png"])
@pytest.mark.parametrize("kind", ["img", "label"])
def test_two_pictures_of_one_number_are_refused(dataset, name, kind):
    draw(3, False).save(dataset / f"train/train_{kind}/{name}", format="png")
    with pytest.raises(UserError, match="same number") as error:
        open_dance(dataset)
    assert name in str(error.value) and "frame000003.png" in str(error.value)


def test_two_clips_of_one_number_are_refused(tmp_path):
    root = make_robot_data(tmp_path / "data")
    (folder,) = (root / "train").iterdir()
    shutil.copytree(folder / "1", folder / "01")
    with pytest.raises(UserError, match="same number"):
        Dataset_Robot(root, "train", 5, "--n_past")


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
@pytest.mark.parametrize("nested", ["", "zip", "zip/zip"])
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


# ---------------------------------------------------------------- a csv of true frames


def truth_csv(path, change):
    rows = np.arange(5 * 37).reshape(5, 37) % 256
    rows[:, 0] = np.arange(5)
    text = [[str(value) for value in row] for row in rows]
    change(text)
    lines = [",".join(map(str, range(37))), *map(",".join, text)]
    path.write_text("\n".join(lines) + "\n")
    return load_truth(path, (3, 4), [2, 3])


VALUES = ["nan", "NaN", "inf", "-inf", "256", "1e9", "-1", "12.5", "0.3"]


@pytest.mark.parametrize("value", VALUES)
def test_a_csv_with_values_that_are_no_pixels_is_refused(tmp_path, value):
    def change(text):
        text[3][20] = value

    with pytest.raises(UserError, match=r"truth.csv, row 5: .*0 to 255"):
        truth_csv(tmp_path / "truth.csv", change)


@pytest.mark.parametrize("value", ["nan", "7", "0", "-1"])
def test_a_csv_whose_ids_are_not_in_order_is_refused(tmp_path, value):
    def change(text):
        text[3][0] = value

    with pytest.raises(UserError, match=r"truth.csv, row 5: "):
        truth_csv(tmp_path / "truth.csv", change)


def test_a_csv_of_pixels_is_read(tmp_path):
    frames = truth_csv(tmp_path / "truth.csv", lambda text: None)
    assert [len(clip) for clip in frames] == [2, 3]


def test_robot_records_are_found_beside_what_an_archiver_leaves(tmp_path):
    root = make_robot_data(tmp_path / "data")
    write_clip(tmp_path / "data", "train", 512, 40, draw=robot_picture)
    (root / "train/__MACOSX").mkdir()
    assert len(Dataset_Robot(root, "train", 5, "--n_past")) == 5
