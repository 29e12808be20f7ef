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


def no_folder(root):
    shutil.rmtree(root)
    return root


def empty_folder(root):
    shutil.rmtree(root)
    root.mkdir()
    return root


def no_images(root):
    shutil.rmtree(root / "train/train_img")
    (root / "train/train_img").mkdir()
    return root / "train/train_img"


def no_poses(root):
    shutil.rmtree(root / "train/train_label")
    return root / "train/train_label"


def one_pose_missing(root):
    path = root / "train/train_label/frame000007.png"
    path.unlink()
    return path


def truncated_image(root):
    path = root / "train/train_img/frame000003.png"
    path.write_bytes(path.read_bytes()[:-60])
    return path


def empty_image(root):
    path = root / "train/train_label/frame000003.png"
    path.write_bytes(b"")
    return path


def text_as_image(root):
    path = root / "val/val_img/frame000002.png"
    path.write_text("not a picture")
    return path


def wrong_byte_in_an_image(root):
    """Of full length, but its pixels cannot be decompressed; a native decoder may crash."""
    path = root / "train/train_img/frame000003.png"
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 20] ^= 255
    path.write_bytes(data)
    return path


def no_validation(root):
    shutil.rmtree(root / "val")
    return "val/val_img"


def few_training_frames(root):
    for path in sorted((root / "train/train_img").iterdir())[3:]:
        path.unlink()
    return "--train_vi_len"


def few_validation_frames(root):
    (root / "val/val_img/frame000005.png").unlink()
    return "--val_vi_len"


FOR_TRAINING = [
    no_folder, empty_folder, no_images, no_poses, one_pose_missing, truncated_image, empty_image,
    text_as_image, wrong_byte_in_an_image, no_validation, few_training_frames,
    few_validation_frames,
]  # fmt: skip


@pytest.mark.parametrize("spoil", FOR_TRAINING)
def test_a_dataset_that_cannot_be_trained_on(dataset, spoil):
    named = spoil(dataset)
    with pytest.raises(UserError, match=re.escape(str(named))):
        for mode, length in (("train", 4), ("val", 6)):
            Dataset_Dance(dataset, mode, length, size=SIZE)


def test_a_mistake_is_one_line_and_leaves_no_file(call, dataset, tmp_path):
    named, run = truncated_image(dataset), tmp_path / "run"
    done = call("Trainer", "--DR", dataset, "--save_root", run, "--num_epoch", 1, *SHORT)
    assert_refused(done, 1, named)
    assert files_below(run) == []


def clip_without_poses(root):
    shutil.rmtree(root / "test/test_label/1")
    return root / "test/test_label/1"


def clip_with_an_empty_pose_folder(root):
    shutil.rmtree(root / "test/test_label/0")
    (root / "test/test_label/0").mkdir()
    return root / "test/test_label/0"


def clip_without_its_first_frame(root):
    (root / "test/test_img/1/frame000100.png").unlink()
    return root / "test/test_img/1"


def no_clips(root):
    shutil.rmtree(root / "test/test_img")
    (root / "test/test_img").mkdir()
    return root / "test/test_img"


def given_frame_damaged(root):
    path = root / "test/test_img/0/frame000000.png"
    path.write_text("not a picture")
    return path


FOR_TEST = [
    no_folder, empty_folder, clip_without_poses, clip_with_an_empty_pose_folder,
    clip_without_its_first_frame, no_clips, given_frame_damaged,
]  # fmt: skip


@pytest.mark.parametrize("spoil", FOR_TEST)
def test_a_dataset_that_cannot_be_tested_on(dataset, spoil):
    named = spoil(dataset)
    with pytest.raises(UserError, match=re.escape(str(named))):
        load_test_clips(dataset, SIZE)


@pytest.mark.parametrize("truth", ["missing", "text.csv", "short.csv", "empty"])
def test_truth_that_does_not_fit_the_test_clips(call, trained, tmp_path, truth):
    (tmp_path / "text.csv").write_text("id,0\n0,black\n")
    (tmp_path / "short.csv").write_text("id,0\n0,1\n")
    (tmp_path / "empty").mkdir()
    flags = ["--DR", trained.data, "--save_root", tmp_path / "run", "--ckpt", trained.best]
    done = call("Tester", *flags, "--truth", tmp_path / truth)
    assert_refused(done, 1, tmp_path / truth)
    assert files_below(tmp_path / "run") == []


def test_a_test_clip_of_one_pose_is_refused(dataset):
    for path in sorted((dataset / "test/test_label/1").iterdir())[1:]:
        path.unlink()
    with pytest.raises(UserError, match="test_label/1"):
        load_test_clips(dataset, SIZE)


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
        ("--lr_milestones 2 x", "--lr_milestones"),
    ],
)
def test_contradictory_flags_or_flags_without_effect_are_wrong_usage(call, line, named):
    assert_refused(try_flags(call, *shlex.split(line)), 2, named)


# ---------------------------------------------------------------- checkpoint files


@pytest.mark.parametrize("script", ["Trainer", "Tester"])
@pytest.mark.parametrize("name", ["bad.ckpt", "missing.ckpt"])
def test_a_file_that_is_no_checkpoint_is_refused(call, trained, tmp_path, script, name):
    (tmp_path / "bad.ckpt").write_text("not a checkpoint")
    run, bad = tmp_path / "run", tmp_path / name
    sizes = SHORT if script == "Trainer" else ()
    done = call(script, "--DR", trained.data, "--save_root", run, *sizes, "--ckpt_path", bad)
    assert_refused(done, 1, bad)
    assert files_below(run) == []


@pytest.mark.parametrize("flag", ["--F_dim", "--N_dim"])
def test_tester_refuses_sizes_that_are_not_the_checkpoints(call, trained, tmp_path, flag):
    flags = ["--DR", trained.data, "--save_root", tmp_path / "run", "--ckpt_path", trained.best]
    done = call("Tester", *flags, flag, 16)
    assert_refused(done, 1, flag, "16", trained.best)
    assert files_below(tmp_path / "run") == []


def test_trainer_refuses_to_start_from_a_checkpoint_of_other_sizes(call, trained, tmp_path):
    flags = ["--DR", trained.data, "--save_root", tmp_path / "run", "--ckpt_path", trained.best]
    done = call("Trainer", *flags, *SHORT, "--F_dim", 16)
    assert_refused(done, 1, trained.best)
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
