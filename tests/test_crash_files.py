"""Damaged checkpoints, full disks and unreadable images: what a run does about each."""

import contextlib
import os
import random
import shutil
import subprocess
import zipfile

import pytest
import torch
from helpers import (
    assert_ended,
    assert_same_files,
    bits,
    differences,
    load,
    nothing_unfinished,
    tree,
)

from modules.errors import UserError
from modules.runs import checkpoint as ckpt

SEED = 7


# ---------------------------------------------------------------- damaged checkpoints


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A run folder of small, different checkpoints, and the contents of each."""
    folder = tmp_path_factory.mktemp("good")
    for name, step in (("epoch=0", 3), ("best_score", 6), ("epoch=1", 6), ("last", 8)):
        torch.manual_seed(step)
        weights = {"a.weight": torch.randn(40), "b.bias": torch.randn(3, 3)}
        state = {"version": ckpt.VERSION, "args": {"lab": "pose"}, "state_dict": weights}
        state |= {"optimizer": {}, "last_epoch": step // 3, "step": step, "steps_done": step % 3}
        state |= {"history": [{"epoch": e} for e in range(step // 3)], "skipped": [0, 0]}
        state |= {"total": torch.zeros(4), "rng": {"cpu": torch.get_rng_state()}}
        state |= {"best_score": None, "lr": 0.1, "tfr": 1.0}
        ckpt.save(folder / f"{name}.ckpt", state)
    return folder, {path.name: load(folder, path.name) for path in folder.iterdir()}


def file_resumed(folder, known):
    """The name of the file that a run resumes from; what was read must be its true contents."""
    path, state = ckpt.newest(folder)
    assert differences(state, known[path.name]) == []
    return path.name


@pytest.fixture
def damage(good, tmp_path):
    """damage(bytes of last.ckpt) -> the name of the file that the run resumes from."""
    folder, known = good
    copy = shutil.copytree(folder, tmp_path / "copy")

    def resume(data):
        (copy / "last.ckpt").write_bytes(data)
        return file_resumed(copy, known)

    return resume


def test_a_truncated_last_ckpt_is_replaced_by_an_older_checkpoint(good, damage, fault):
    whole_file = (good[0] / "last.ckpt").read_bytes()
    assert damage(whole_file) == "last.ckpt"
    offsets = [len(whole_file) * i // 20 for i in range(20)]
    offsets += [len(whole_file) - i for i in (1, 2, 21, 22, 23, 60)]
    for offset in offsets:
        assert damage(whole_file[:offset]) == "epoch=1.ckpt"
    fault("`last.ckpt` truncated", "warning; `epoch=N.ckpt` used instead", len(offsets))


def test_a_flipped_bit_of_last_ckpt_never_changes_what_is_loaded(good, damage, fault):
    """Some bits, as those of padding, have no contents."""
    whole_file, rng = (good[0] / "last.ckpt").read_bytes(), random.Random(SEED)
    size = len(whole_file)
    spots = [*range(0, 64), *range(size - 330, size), *(rng.randrange(size) for _ in range(400))]
    used = {"last.ckpt": 0, "epoch=1.ckpt": 0}
    print(f"random.Random({SEED})")
    for spot in spots:
        data = bytearray(whole_file)
        data[spot] ^= 1 << rng.randrange(8)
        used[damage(bytes(data))] += 1
    assert used["epoch=1.ckpt"] > len(spots) // 4
    fault("one bit of `last.ckpt` flipped", "`epoch=N.ckpt` used instead", used["epoch=1.ckpt"])
    padding = "one bit of `last.ckpt` flipped, in padding"
    fault(padding, "loaded; padding has no contents", used["last.ckpt"])


def test_every_flipped_bit_of_a_checkpoints_index_is_detected_or_harmless(tmp_path, fault):
    path = tmp_path / "last.ckpt"
    ckpt.save(path, {"state_dict": {"a": torch.randn(40)}})
    known, data = ckpt.load(path), bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as file:
        start = file.start_dir
    for bit in range(8 * start, 8 * len(data)):
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        with contextlib.suppress(UserError):
            assert differences(ckpt.load(path), known) == [], bit
        data[bit // 8] ^= 1 << bit % 8
    fault(
        "every bit of a checkpoint's index flipped",
        "refused, or loaded with unchanged contents",
        8 * (len(data) - start),
    )


def test_every_flipped_bit_of_the_weights_is_detected(good, damage):
    whole_file = bytearray((good[0] / "last.ckpt").read_bytes())
    torch.manual_seed(8)
    start = whole_file.index(torch.randn(40).numpy().tobytes())
    for spot in range(start, start + 160, 7):
        data = whole_file.copy()
        data[spot] ^= 1
        assert damage(bytes(data)) == "epoch=1.ckpt"


def test_the_newest_complete_checkpoint_is_used(good, tmp_path):
    folder, known = shutil.copytree(good[0], tmp_path / "copy"), good[1]
    order = ["last.ckpt", "epoch=1.ckpt", "best_score.ckpt", "epoch=0.ckpt"]
    for i, name in enumerate(order):
        assert file_resumed(folder, known) == name
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) * (i + 1) // 5])
    with pytest.raises(UserError, match=r"last\.ckpt.*--resume never.*--resume PATH"):
        ckpt.newest(folder)


@pytest.mark.parametrize("how", ["cut", "flipped", "malicious"])
def test_a_run_with_a_damaged_last_ckpt_resumes_identically_from_an_older_one(
    whole, command, children, tmp_path, fault, how
):
    folder, *_ = whole()
    parts = tmp_path / "parts"
    children.run(*command("plain", parts), at=[("stepped", 5, "SIGTERM")])
    last = parts / "last.ckpt"
    data = bytearray(last.read_bytes())
    if how == "cut":
        data = data[: len(data) // 2]
    elif how == "flipped":
        statistics = load(parts)["state_dict"]["label_transformation.2.running_mean"]
        data[data.index(bits(statistics))] ^= 4
    last.write_bytes(data)
    if how == "malicious":
        torch.save({"state_dict": Touch(tmp_path / "hit")}, last)
    done = children.run(*command("plain", parts))
    assert_ended(done)
    assert "epoch=0.ckpt" in done.out and str(last) in done.out
    assert not (tmp_path / "hit").exists()
    assert_same_files(folder, parts)
    what = {"cut": "cut in half", "flipped": "with a flipped bit"}
    what |= {"malicious": "replaced by a pickle of code"}
    fault(f"`last.ckpt` {what[how]}", "warning; resumed from `epoch=0.ckpt`, no code executed")


class Touch:
    """Unpickling it creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_a_damaged_best_score_is_reported_and_the_next_score_counts(
    command, children, tmp_path, fault
):
    parts = tmp_path / "parts"
    children.run(*command("plain", parts), at=[("stepped", 5, "SIGTERM")])
    (parts / "best_score.ckpt").write_bytes(b"PK")
    done = children.run(*command("plain", parts))
    assert_ended(done)
    assert "best_score.ckpt is missing or damaged" in done.out
    assert load(parts, "best_score.ckpt")["best_score"] == load(parts)["best_score"]
    fault("`best_score.ckpt` damaged", "warning; the next score counts as the best")


# ---------------------------------------------------------------- full disks


@contextlib.contextmanager
def small_disk(folder, size):
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def fill(disk, left):
    """Fill a disk except for `left` bytes -> the file that fills it."""
    path, free = disk / "fill", shutil.disk_usage(disk).free
    path.write_bytes(bytes(max(free - left, 0)))
    return path


def test_a_full_disk_during_any_save_leaves_the_last_good_files(
    whole, command, children, tmp_path, fault
):
    folder, *_ = whole()
    size, parts = (folder / "last.ckpt").stat().st_size, tmp_path / "parts"
    assert_ended(children.run(*command("plain", parts), at=[("stepped", 4, "SIGTERM")]), 143)
    room = [0, 5000, size // 2, size - 9000, size + 9000, 2 * size + 9000]
    with small_disk(tmp_path / "disk", "8m") as disk:
        for left in room:
            run = shutil.copytree(parts, disk / "run")
            filler = fill(disk, left)
            done = children.run(*command("plain", run))
            assert_ended(done, 1)
            assert "cannot be written" in done.err
            assert nothing_unfinished(run)
            if left < size:
                assert_same_files(run, parts)
            assert [ckpt.load(path) for path in run.glob("*.ckpt")]
            filler.unlink()
            assert_ended(children.run(*command("plain", run)))
            assert_same_files(folder, run)
            shutil.rmtree(run)
    fault(
        "a full disk (tmpfs) during a save", "exit code 1, older files complete; resumed", len(room)
    )


def test_a_file_size_limit_during_a_save_leaves_the_last_good_files(
    whole, command, children, tmp_path, fault
):
    folder, *_ = whole()
    parts, size = tmp_path / "parts", (folder / "last.ckpt").stat().st_size
    assert_ended(children.run(*command("plain", parts), at=[("stepped", 4, "SIGTERM")]), 143)
    kept = shutil.copytree(parts, tmp_path / "kept")
    limits = [3000, 20_000, size // 2, size - 20_000]
    for limit in limits:
        done = children.run(*command("plain", parts), limit=limit)
        assert_ended(done, 1)
        assert "cannot be written" in done.err
        assert_same_files(parts, kept)
    assert_ended(children.run(*command("plain", parts)))
    assert_same_files(folder, parts)
    fault("a file size limit during a save", "exit code 1, older files complete", len(limits))


def test_a_disk_too_small_for_the_cache_is_an_error(command, children, tmp_path, fault):
    with small_disk(tmp_path / "disk", "64k") as disk:
        size = "--frame_H", 48, "--frame_W", 64
        flags = command("plain", tmp_path / "run", "--cache_dir", disk, *size)
        done = children.run(*flags)
        assert_ended(done, 1)
        assert "--cache_dir" in done.err
        assert not list(disk.glob("*.npy")) and nothing_unfinished(disk)
    assert tree(tmp_path / "run") == []
    fault("a disk too small for the cache", "exit code 1, `--cache_dir` named, nothing left behind")
