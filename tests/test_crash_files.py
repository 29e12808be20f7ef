"""Damaged checkpoints, full disks and unreadable images: what a run does about each."""

import contextlib
import shutil
import subprocess

import pytest
from helpers import assert_ended, assert_same_files, load, nothing_unfinished, tree

from modules.checkpoints import checkpoint as ckpt

# ---------------------------------------------------------------- damaged checkpoints


def test_a_run_with_a_damaged_last_ckpt_resumes_identically_from_an_older_one(
    whole, command, children, tmp_path
):
    folder, *_ = whole()
    parts = tmp_path / "parts"
    children.run(*command("plain", parts), at=[("stepped", 5, "SIGTERM")])
    last = parts / "last.ckpt"
    last.write_bytes(last.read_bytes()[: last.stat().st_size // 2])
    done = children.run(*command("plain", parts))
    assert_ended(done)
    assert "epoch=0.ckpt" in done.out and str(last) in done.out
    assert_same_files(folder, parts)


def test_a_damaged_best_score_is_reported_and_the_next_score_counts(command, children, tmp_path):
    parts = tmp_path / "parts"
    children.run(*command("plain", parts), at=[("stepped", 5, "SIGTERM")])
    (parts / "best_score.ckpt").write_bytes(b"PK")
    done = children.run(*command("plain", parts))
    assert_ended(done)
    assert "best_score.ckpt is missing or damaged" in done.out
    assert load(parts, "best_score.ckpt")["best_score"] == load(parts)["best_score"]


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


def test_a_full_disk_during_any_save_leaves_the_last_good_files(whole, command, children, tmp_path):
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


def test_a_file_size_limit_during_a_save_leaves_the_last_good_files(
    whole, command, children, tmp_path
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


def test_a_disk_too_small_for_the_cache_is_an_error(command, children, tmp_path):
    with small_disk(tmp_path / "disk", "64k") as disk:
        size = "--frame_H", 48, "--frame_W", 64
        flags = command("plain", tmp_path / "run", "--cache_dir", disk, *size)
        done = children.run(*flags)
        assert_ended(done, 1)
        assert "--cache_dir" in done.err
        assert not list(disk.glob("*.npy")) and nothing_unfinished(disk)
    assert tree(tmp_path / "run") == []
