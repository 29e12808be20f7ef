"""The cache of decoded pictures: it is what decoding anew would give, or it is made again."""

import hashlib
import multiprocessing
import os
import shutil

import numpy as np
import pytest
from helpers import SHORT, draw, make_dataset

from dataloader import Dataset_Dance
from modules.data import cache
from modules.errors import UserError

SIZE = (12, 16)
FRAME = "train/train_img/frame000003.png"


def open_dance(root, mode="train", size=SIZE, **more):
    return Dataset_Dance(root, mode, 4, size=size, workers=2, **more)


def fresh(root, tmp_path):
    """The frames as decoded without any cache."""
    place = tmp_path / "fresh"
    shutil.rmtree(place, ignore_errors=True)
    return np.array(open_dance(root, cache_dir=place).frames)


def caches(folder, pattern="*.npy"):
    return sorted(p.name for p in folder.rglob(pattern))


@pytest.fixture
def nothing_decoded(monkeypatch):
    """nothing_decoded(): from now on a picture that is decoded is an error."""

    def decode(path, size):
        raise AssertionError(f"{path} is decoded again")

    return lambda: monkeypatch.setattr(cache, "decode", decode)


# ---------------------------------------------------------------- decoded once


def test_each_split_size_and_folder_is_decoded_once(tmp_path, nothing_decoded):
    place = tmp_path / "place"
    roots = [make_dataset(tmp_path / name, train=count) for name, count in (("a", 8), ("b", 12))]
    kinds = [(root, mode, size) for root in roots for mode in ("train", "val")
             for size in (SIZE, (14, 16))]  # fmt: skip
    first = [np.array(open_dance(*kind, cache_dir=place).frames) for kind in kinds]
    assert not list(tmp_path.rglob(".cache"))
    nothing_decoded()
    again = [open_dance(*kind, cache_dir=place).frames for kind in kinds]
    assert all(map(np.array_equal, first, again)) and len(caches(place)) == 2 * len(kinds)


def test_a_cache_in_a_folder_that_cannot_be_written_to_is_used(
    dataset, monkeypatch, nothing_decoded
):
    open_dance(dataset)
    monkeypatch.setattr(cache, "locked", None)  # the first that would write
    nothing_decoded()
    open_dance(dataset)


def checksums(root, barrier, answers):
    barrier.wait()
    clips = open_dance(root)
    answers.put([hashlib.sha256(x).hexdigest() for x in (clips.frames, clips.conditions)])


def test_of_processes_that_start_at_once_all_get_the_right_images(dataset, tmp_path):
    open_dance(dataset)
    draw(77, False).save(dataset / FRAME)  # the cache is stale
    context = multiprocessing.get_context("fork")
    barrier, answers = context.Barrier(4), context.Queue()
    children = [
        context.Process(target=checksums, args=(dataset, barrier, answers)) for _ in range(4)
    ]
    for child in children:
        child.start()
    results = [answers.get(timeout=60) for _ in children]
    for child in children:
        child.join(timeout=60)
    frames = hashlib.sha256(fresh(dataset, tmp_path)).hexdigest()
    assert [first for first, _ in results] == [frames] * 4 and len(set(map(str, results))) == 1
    assert len(caches(dataset)) == 2 and caches(dataset, "*.partial") == []


# ---------------------------------------------------------------- other contents


def swapped(folder):
    a, b, c = (folder / f"{name}.png" for name in ("frame000003", "frame000009", "between"))
    for source, target in ((a, c), (b, a), (c, b)):
        source.rename(target)


def rewritten(folder):
    """Its size and mtime stay, as after unzip, rsync -t or cp -p."""
    path, other = folder / "frame000003.png", folder / "frame000009.png"
    before = path.stat()
    data = other.read_bytes().ljust(before.st_size, b"\0")
    path.write_bytes(data[: before.st_size])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def added(folder):
    for kind in ("img", "label"):
        draw(16, False).save(folder.parent / f"train_{kind}/frame000016.png")


def removed(folder):
    (folder / "frame000015.png").unlink()


CHANGES = [swapped, rewritten, added, removed]


@pytest.mark.parametrize("change", CHANGES)
def test_other_contents_are_decoded_again_and_the_old_cache_is_removed(dataset, tmp_path, change):
    for path in (dataset / "train/train_img").iterdir():
        path.write_bytes(path.read_bytes().ljust(2000, b"\0"))  # what follows a PNG is not read
        os.utime(path, (10**9, 10**9))
    before = np.array(open_dance(dataset).frames)
    change(dataset / "train/train_img")
    frames = np.array(open_dance(dataset).frames)
    assert not np.array_equal(frames, before)
    assert np.array_equal(frames, fresh(dataset, tmp_path))
    assert [len(caches(dataset, f"train-frames*.{end}")) for end in ("npy", "json")] == [1, 1]


# ---------------------------------------------------------------- damaged or incomplete


def flipped(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)


def cut(path):
    path.write_bytes(path.read_bytes()[:-20])


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [flipped, cut, empty, os.unlink])
@pytest.mark.parametrize("end", ["npy", "json"])
def test_a_damaged_cache_is_made_again_with_one_line(dataset, tmp_path, capsys, damage, end):
    expected = np.array(open_dance(dataset).frames)
    (target,) = (dataset / ".cache").glob(f"train-frames*.{end}")
    damage(target)
    capsys.readouterr()
    assert np.array_equal(open_dance(dataset).frames, expected)
    gone = damage is os.unlink and end == "npy"
    assert len(capsys.readouterr().out.splitlines()) == (0 if gone else 1)
    open_dance(dataset)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("error", [UserError("unreadable"), KeyboardInterrupt(), MemoryError()])
def test_interrupted_decoding_leaves_no_cache_and_no_temporary_file(dataset, monkeypatch, error):
    def fails(path, size):
        if path.name == "frame000007.png":
            raise error
        return decode(path, size)

    decode = cache.decode
    monkeypatch.setattr(cache, "decode", fails)
    with pytest.raises(type(error)):
        open_dance(dataset)
    assert caches(dataset) == caches(dataset, "*.partial") == []


@pytest.mark.parametrize("typed", [True, False])
def test_a_cache_dir_that_cannot_be_written_to_is_one_line_that_names_the_flag(
    dataset, tmp_path, typed
):
    place = tmp_path / "file" if typed else dataset / ".cache"
    place.write_text("in the way")
    with pytest.raises(UserError, match=f"{place}.*--cache_dir"):
        open_dance(dataset, cache_dir=place if typed else None)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_one_line_that_names_the_flag(dataset, monkeypatch):
    monkeypatch.setattr(cache, "temporary_path", lambda folder, _: folder / "full.partial")
    (dataset / ".cache").mkdir()
    (dataset / ".cache/full.partial").symlink_to("/dev/full")
    with pytest.raises(UserError, match="No space left.*--cache_dir"):
        open_dance(dataset)
    assert caches(dataset) == caches(dataset, "*.partial") == []


# ---------------------------------------------------------------- what a run knows of its data


def test_a_run_that_is_resumed_over_other_pictures_warns(call, no_plots, dataset, tmp_path):
    flags = ["--DR", dataset, "--save_root", tmp_path / "run", *SHORT, "--num_epoch", 1]

    def warned():
        done = call("Trainer", *flags)
        assert done.code == 0, done.err
        return [line for line in done.out.splitlines() if "not those that the run" in line]

    assert warned() == []
    for path in dataset.rglob("*.png"):
        path.touch()
    assert warned() == []
    draw(90, True).save(dataset / "train/train_label/frame000003.png")
    (train,) = warned()
    draw(90, False).save(dataset / "val/val_img/frame000003.png")
    assert "the train pictures" in train and any("the val pictures" in line for line in warned())
