"""A user's mistake ends in one message that names it, and leaves no incomplete file."""

import errno
import os
import re
import shlex
import shutil

import pytest
import torch
from helpers import SHORT, files_below, train_once

import Trainer
from dataloader import Dataset_Dance, load_test_clips
from modules.errors import UserError
from modules.files import write_atomically

SIZE = (12, 16)
pytestmark = pytest.mark.usefixtures("no_plots")


def assert_refused(done, code, *named):
    assert done.code == code, done.err
    assert "Traceback" not in done.out + done.err
    for name in named:
        assert str(name) in done.err, done.err


# ---------------------------------------------------------------- the dataset


def remove(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def empty(path):
    remove(path)
    path.mkdir()


def keep_first(count):
    return lambda path: [remove(x) for x in sorted(path.iterdir())[count:]]


def cut(path):
    path.write_bytes(path.read_bytes()[:-60])


def write_text(path):
    path.write_text("not a picture")


def flip_a_byte(path):
    """Of full length, but its pixels cannot be decompressed; a native decoder may crash."""
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 20] ^= 255
    path.write_bytes(data)


IMAGES, POSES = "train/train_img", "train/train_label"
FOR_TRAINING = [  # what is done to which file or folder; what the message names instead of it
    (remove, "", ""), (empty, "", ""), (empty, IMAGES, ""), (remove, POSES, ""),
    (remove, f"{POSES}/frame000007.png", ""), (cut, f"{IMAGES}/frame000003.png", ""),
    (write_text, "val/val_img/frame000002.png", ""), (flip_a_byte, f"{IMAGES}/frame000003.png", ""),
    (remove, "val", "val/val_img"), (keep_first(3), IMAGES, "--train_vi_len"),
    (keep_first(5), "val/val_img", "--val_vi_len"),
]  # fmt: skip
FOR_TEST = [
    (remove, "", ""), (empty, "", ""), (remove, "test/test_label/1", ""),
    (empty, "test/test_label/0", ""), (empty, "test/test_img", ""),
    (remove, "test/test_img/1/frame000100.png", "test/test_img/1"),
    (write_text, "test/test_img/0/frame000000.png", ""), (keep_first(1), "test/test_label/1", ""),
]  # fmt: skip


def open_for_training(root):
    for mode, length in (("train", 4), ("val", 6)):
        Dataset_Dance(root, mode, length, size=SIZE)


@pytest.mark.parametrize(
    ("spoil", "place", "named", "read"),
    [(*case, open_for_training) for case in FOR_TRAINING]
    + [(*case, lambda root: load_test_clips(root, SIZE)) for case in FOR_TEST],
)
def test_a_dataset_that_cannot_be_read(dataset, spoil, place, named, read):
    spoil(dataset / place)
    with pytest.raises(UserError, match=re.escape(named or str(dataset / place))):
        read(dataset)


def test_a_mistake_is_one_line_and_leaves_no_file(call, dataset, tmp_path):
    named, run = dataset / IMAGES / "frame000003.png", tmp_path / "run"
    cut(named)
    done = call("Trainer", "--DR", dataset, "--save_root", run, "--num_epoch", 1, *SHORT)
    assert_refused(done, 1, named)
    assert files_below(run) == []


# ---------------------------------------------------------------- flags


def try_flags(call, *flags):
    return call("Trainer", "--DR", "/nowhere", "--save_root", "/nowhere/run", *flags)


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("--optim Adan", "--optim"),
        ("--kl_anneal_type Sometimes", "--kl_anneal_type"),
        ("--precision fp8", "--precision"),
        ("--posterior next", "--posterior"),
        ("--no_such_flag 1", "--no_such_flag"),
        ("stray", "stray"),
        ("--test", "--ckpt_path"),
        ("--gpu 2", "--gpu"),
        ("--lr_schedule cosine --lr 1e-4 --lr_min 1e-3", "--lr_min"),
        ("--lab robot --tfr 0.2 --tfr_lower_bound 0.5", "--tfr_lower_bound"),
        ("--lr_milestones -2", "--lr_milestones"),
        ("--scene --sigmoid", "--scene"),
        ("--scene=0", "--scene"),
        ("--nets unet --frame_H 13", "--frame_H"),
        ("--learned_prior --posterior previous", "--posterior"),
        ("--learned_prior --no-latent", "--learned_prior"),
        ("--lab robot --n_past 1 --skip_from second_last", "--n_past 2 or more"),
        ("--lab robot --last_frame_skip --skip_from second_last", "leave one of them out"),
        ("--lab robot --n_past 4 --n_future 9 --n_e 12", "--n_eval"),
        ("--lab robot --batch_size 1", "--batch_size"),
        ("--lab car", "robot"),
        ("--device gpu", "--device"),
        ("--device=", "--device"),
        ("--frame 3", "--frame"),
        ("--lr_milestones 2 x", "--lr_milestones"),
    ],
)
def test_contradictory_flags_or_flags_without_effect_are_wrong_usage(call, line, named):
    assert_refused(try_flags(call, *shlex.split(line)), 2, named)


# ---------------------------------------------------------------- checkpoint files


@pytest.mark.parametrize("script", ["Trainer", "Tester"])
def test_a_file_that_is_no_checkpoint_is_refused(call, trained, tmp_path, script):
    run, bad = tmp_path / "run", tmp_path / "bad.ckpt"
    bad.write_text("not a checkpoint")
    sizes = SHORT if script == "Trainer" else ()
    done = call(script, "--DR", trained.data, "--save_root", run, *sizes, "--ckpt_path", bad)
    assert_refused(done, 1, bad)
    assert files_below(run) == []


def test_sizes_that_are_not_the_checkpoints_are_refused(call, trained, tmp_path):
    flags = ["--DR", trained.data, "--save_root", tmp_path / "run", "--ckpt_path", trained.best]
    assert_refused(call("Tester", *flags, "--F_dim", 16), 1, "--F_dim", "16", trained.best)
    assert_refused(call("Trainer", *flags, *SHORT, "--F_dim", 16), 1, trained.best)
    assert files_below(tmp_path / "run") == []


@pytest.mark.parametrize("content", ["damaged", "of the template"])
def test_a_last_ckpt_that_cannot_be_resumed_is_refused_and_kept(call, trained, tmp_path, content):
    run = tmp_path / "run"
    run.mkdir()
    if content == "damaged":
        (run / "last.ckpt").write_bytes(trained.best.read_bytes()[:4000])
    else:
        torch.save({"state_dict": {"a": torch.ones(1)}, "lr": 0.1}, run / "last.ckpt")
    before = (run / "last.ckpt").read_bytes()
    done = call("Trainer", "--DR", trained.data, "--save_root", run, "--num_epoch", 1, *SHORT)
    assert_refused(done, 1, run / "last.ckpt")
    assert files_below(run) == ["last.ckpt"] and (run / "last.ckpt").read_bytes() == before


# ---------------------------------------------------------------- where results go


@pytest.mark.parametrize(("script", "below"), [("Trainer", ""), ("Tester", "deeper/run")])
def test_a_save_root_that_is_or_lies_under_a_file(call, trained, tmp_path, script, below):
    (tmp_path / "file").write_text("in the way")
    run = tmp_path / "file" / below
    flags = ["--DR", trained.data, "--save_root", run]
    more = SHORT if script == "Trainer" else ["--ckpt_path", trained.best]
    assert_refused(call(script, *flags, *more), 1, "--save_root", run)
    assert (tmp_path / "file").read_text() == "in the way"


def full_disk(*args):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def full_for(name, function):
    """`function`, but the disk is full if the last argument is a file of this name."""

    def act(*args):
        return full_disk() if os.path.basename(args[-1]) == name else function(*args)

    return act


def test_a_full_disk_at_test_leaves_no_half_submission(call, trained, tmp_path, monkeypatch):
    run = tmp_path / "run"
    monkeypatch.setattr(os, "replace", full_for("submission.csv", os.replace))
    flags = ["--DR", trained.data, "--save_root", run, "--ckpt_path", trained.best]
    done = call("Tester", *flags)
    assert_refused(done, 1, "submission.csv", "No space left")
    assert not [f for f in files_below(run) if "submission" in f]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_the_error_of_torch_on_a_full_disk_is_one_line_too(tmp_path):
    def write(file):
        with open("/dev/full", "wb") as full:
            torch.save(torch.ones(100_000), full)

    with pytest.raises(UserError, match=r"x\.ckpt cannot be written"):
        write_atomically(tmp_path / "x.ckpt", write)
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- not enough memory


def full_gpu(size):
    raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {size} bytes\nMore lines")


def test_too_little_memory_is_one_line_and_the_run_can_be_resumed(call, tmp_path):
    done = train_once(tmp_path)
    more = "--DR", done.data, "--save_root", done.run, *SHORT, "--num_epoch", "2"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer.Trainer, "training_one_step", lambda *_: full_gpu(2**56))
        failed = call("Trainer", *more)
    assert_refused(failed, 1, "--recompute", "allocate")
    assert call("Trainer", *more).code == 0
