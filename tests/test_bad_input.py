"""A user's mistake ends in one message that names it, and leaves no incomplete file."""

import dataclasses
import errno
import os
import pickle
import random
import shlex
import shutil
import subprocess
import sys
import zlib

import numpy as np
import pytest
import torch
from helpers import ROOT, SHORT, files_below, train_once
from PIL import Image

import Trainer
from dataloader import Dataset_Dance
from modules.config import TRAINING
from modules.data.cache import decode
from modules.data.folders import frame_number
from modules.errors import UserError
from modules.fields import Number
from modules.files import write_atomically
from modules.runs import checkpoint as ckpt

pytestmark = pytest.mark.usefixtures("no_plots")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Its test clips have 6 and 5 frames."""
    return train_once(tmp_path_factory.mktemp("trained"))


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


def file_as_folder(root):
    shutil.rmtree(root)
    root.write_text("no folder")
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


def folder_as_image(root):
    path = root / "val/val_img/frame000002.png"
    path.unlink()
    path.mkdir()
    return path


def image_claiming(root, pixels):
    """An image of 16 x 16 pixels whose valid header claims pixels x pixels."""
    path = root / "train/train_img/frame000003.png"
    Image.new("1", (16, 16)).save(path)
    data = bytearray(path.read_bytes())
    data[16:24] = pixels.to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    path.write_bytes(data)
    return path


def gigantic_image(root):
    return image_claiming(root, 60_000)


def large_image_without_its_pixels(root):
    return image_claiming(root, 5_000)


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
    no_folder, empty_folder, file_as_folder, no_images, no_poses, one_pose_missing,
    truncated_image, empty_image, text_as_image, folder_as_image, gigantic_image,
    large_image_without_its_pixels, wrong_byte_in_an_image,
    no_validation, few_training_frames, few_validation_frames,
]  # fmt: skip


@pytest.mark.parametrize("spoil", FOR_TRAINING)
def test_a_dataset_that_cannot_be_trained_on(call, dataset, tmp_path, spoil):
    named, run = spoil(dataset), tmp_path / "run"
    done = call("Trainer", "--DR", dataset, "--save_root", run, "--num_epoch", 1, *SHORT)
    assert_refused(done, 1, named)
    assert files_below(run) == []
    assert not list(tmp_path.rglob("*.partial"))


DAMAGES = [
    truncated_image, empty_image, gigantic_image, large_image_without_its_pixels,
    wrong_byte_in_an_image,
]  # fmt: skip


@pytest.mark.parametrize("spoil", DAMAGES)
def test_skip_bad_frames_leaves_out_exactly_the_damaged_image(dataset, spoil):
    number = frame_number(spoil(dataset))
    clips = Dataset_Dance(dataset, "train", 4, size=(12, 16), skip_bad=True)
    assert clips.numbers[clips.bad].tolist() == [number]


@pytest.mark.parametrize("share", range(0, 100, 7))
def test_a_truncated_image_is_named_unless_all_its_pixels_are_there(dataset, share):
    path = dataset / "train/train_img/frame000003.png"
    whole, data = decode(path, (12, 16)), path.read_bytes()
    path.write_bytes(data[: len(data) * share // 100])
    try:
        assert (decode(path, (12, 16)) == whole).all()
        assert share > 90
    except UserError as error:
        assert str(path) in str(error)


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


def truth_too_short(root):
    (root / "test/test_truth/1/frame000104.png").unlink()
    return root / "test/test_truth"


def given_frame_damaged(root):
    path = root / "test/test_img/0/frame000000.png"
    path.write_text("not a picture")
    return path


FOR_TEST = [
    no_folder, empty_folder, clip_without_poses, clip_with_an_empty_pose_folder,
    clip_without_its_first_frame, no_clips, truth_too_short, given_frame_damaged,
]  # fmt: skip


@pytest.mark.parametrize("spoil", FOR_TEST)
def test_a_dataset_that_cannot_be_tested_on(call, dataset, trained, tmp_path, spoil):
    named, run = spoil(dataset), tmp_path / "run"
    done = call("Tester", "--DR", dataset, "--save_root", run, "--ckpt", trained.best)
    assert_refused(done, 1, named)
    assert files_below(run) == []


@pytest.mark.parametrize("truth", ["missing", "text.csv", "short.csv", "empty"])
def test_truth_that_does_not_fit_the_test_clips(call, trained, tmp_path, truth):
    (tmp_path / "text.csv").write_text("id,0\n0,black\n")
    (tmp_path / "short.csv").write_text("id,0\n0,1\n")
    (tmp_path / "empty").mkdir()
    flags = ["--DR", trained.data, "--save_root", tmp_path / "run", "--ckpt", trained.best]
    done = call("Tester", *flags, "--truth", tmp_path / truth)
    assert_refused(done, 1, tmp_path / truth)
    assert files_below(tmp_path / "run") == []


def test_a_test_clip_of_one_pose_is_tested_or_refused_but_no_crash(
    call, dataset, trained, tmp_path
):
    for kind in ("label", "truth"):
        for path in sorted((dataset / f"test/test_{kind}/1").iterdir())[1:]:
            path.unlink()
    flags = ["--DR", dataset, "--save_root", tmp_path / "run", "--ckpt", trained.best]
    done = call("Tester", *flags)
    if done.code:
        assert_refused(done, 1, "test_label/1")


# ---------------------------------------------------------------- flags


def numeric_flags():
    for item in dataclasses.fields(TRAINING["pose"]):
        if isinstance(item.metadata["check"], Number):
            yield item.name


def try_flags(call, *flags):
    return call("Trainer", "--DR", "/nowhere", "--save_root", "/nowhere/run", *flags)


@pytest.mark.parametrize("value", ["-1", "nan", "inf", "-inf", "five", "", "1e999"])
@pytest.mark.parametrize("flag", list(numeric_flags()))
def test_no_numeric_flag_takes_a_value_that_is_negative_or_no_number(call, flag, value):
    assert_refused(try_flags(call, f"--{flag}={value}"), 2, f"--{flag}")


OUT_OF_RANGE = {
    "num_epoch": [0, 1.5], "batch_size": [0], "per_save": [0], "val_every": [0],
    "kl_anneal_cycle": [0], "train_vi_len": [0, 1], "val_vi_len": [1], "frame_H": [0, 10],
    "frame_W": [0, 10], "F_dim": [0, 7], "L_dim": [0, 1], "N_dim": [0, 3], "D_out_dim": [0, 7],
    "partial": [0, 1.01], "fast_partial": [0, 1.5], "tfr": [1.1], "tfr_d_step": [1.1],
    "tfr_lower_bound": [1.1], "kl_anneal_ratio": [-0.1], "posterior_share": [1.1, -0.1],
    "jump_start": [1.1], "warp": [1.1, -0.1],
    "lr": [0], "lr_gamma": [0, 1.1], "ema": [1, 1.5], "gpu": [2], "seed": [10**30],
}  # fmt: skip
CASES = [(flag, value) for flag, values in OUT_OF_RANGE.items() for value in values]


@pytest.mark.parametrize(("flag", "value"), CASES)
def test_a_value_out_of_the_flags_range_is_wrong_usage(call, flag, value):
    assert_refused(try_flags(call, f"--{flag}", value), 2, f"--{flag}", value)


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
        ("--gpu 0 --device cuda", "--gpu"),
        ("--lr_schedule cosine --lr 1e-4 --lr_min 1e-3", "--lr_min"),
        ("--tfr 0.2 --tfr_lower_bound 0.5", "--tfr_lower_bound"),
        ("--kl_anneal_start 2", "--kl_anneal_start"),
        ("--kl_anneal_shape geometric", "--kl_anneal_start"),
        ("--lr_schedule constant --lr_milestones 3", "--lr_milestones"),
        ("--lr_schedule cosine --lr_gamma 0.5", "--lr_gamma"),
        ("--lr_min 1e-5", "--lr_min"),
        ("--lr_milestones -2", "--lr_milestones"),
        ("--lr_milestones 2 x", "--lr_milestones"),
    ],
)
def test_contradictory_flags_or_flags_without_effect_are_wrong_usage(call, line, named):
    assert_refused(try_flags(call, *shlex.split(line)), 2, named)


@pytest.mark.parametrize("seed", [2**32 - 1, 2**32, 2**63, 2**64])
def test_a_seed_is_refused_at_once_or_trained_with(call, trained, tmp_path, seed):
    flags = ["--DR", trained.data, "--save_root", tmp_path / "run", "--num_epoch", 1, *SHORT]
    done = call("Trainer", *flags, "--seed", seed)
    if done.code:
        assert_refused(done, 2, "--seed")


# ---------------------------------------------------------------- checkpoint files


class Malicious:
    """Unpickling it creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def half_of(path):
    data = path.read_bytes()
    return data[: len(data) // 2]


def pickled(content, path):
    torch.save(content, path)
    return path.read_bytes()


BAD_CHECKPOINTS = {  # name -> what the file holds, given a real checkpoint and a free path
    "text": lambda real, free: b"not a checkpoint\n",
    "empty": lambda real, free: b"",
    "one byte": lambda real, free: b"\x80",
    "zip garbage": lambda real, free: b"PK\x03\x04" + bytes(500),
    "png": lambda real, free: b"\x89PNG\r\n\x1a\n" + bytes(100),
    "truncated": lambda real, free: half_of(real),
    "no state_dict": lambda real, free: pickled({"lr": 0.1}, free),
    "state_dict of lists": lambda real, free: pickled({"state_dict": {"a": [1.0]}}, free),
    "empty state_dict": lambda real, free: pickled({"state_dict": {}}, free),
    "another net": lambda real, free: pickled({"state_dict": {"a": torch.ones(1)}}, free),
    "list": lambda real, free: pickled([torch.ones(2)], free),
    "tensor": lambda real, free: pickled(torch.ones(2), free),
    "malicious": lambda real, free: pickled({"state_dict": Malicious(f"{free}.hit")}, free),
    "malicious pickle": lambda real, free: pickle.dumps(Malicious(f"{free}.hit")),
}


@pytest.mark.parametrize("script", ["Trainer", "Tester"])
@pytest.mark.parametrize("name", BAD_CHECKPOINTS)
def test_a_file_that_is_no_checkpoint_is_refused(call, trained, tmp_path, script, name):
    bad, free, run = tmp_path / "bad.ckpt", tmp_path / "free", tmp_path / "run"
    bad.write_bytes(BAD_CHECKPOINTS[name](trained.best, free))
    sizes = SHORT if script == "Trainer" else ()
    done = call(script, "--DR", trained.data, "--save_root", run, *sizes, "--ckpt_path", bad)
    assert_refused(done, 1, bad)
    assert not (tmp_path / "free.hit").exists()
    assert files_below(run) == []


def test_random_damage_to_a_checkpoint_never_crashes_the_loader(trained, tmp_path):
    rng, whole = random.Random(0), trained.best.read_bytes()
    bad = tmp_path / "bad.ckpt"
    for _ in range(150):
        data = bytearray(whole[: rng.choice((len(whole), 4000, rng.randrange(len(whole))))])
        for _ in range(rng.choice((1, 20))):
            data[rng.randrange(min(len(data), 6000))] = rng.randrange(256)
        bad.write_bytes(data)
        load_or_refuse(bad)


def test_random_bytes_as_pickle_never_crash_the_loader(tmp_path):
    rng, bad = random.Random(1), tmp_path / "bad.ckpt"
    for _ in range(500):
        bad.write_bytes(b"\x80\x02" + bytes(rng.randrange(256) for _ in range(40)) + b".")
        load_or_refuse(bad)


def load_or_refuse(path):
    try:
        ckpt.load(path)
    except UserError as error:
        assert str(path) in str(error)


@pytest.mark.parametrize("script", ["Trainer", "Tester"])
def test_a_checkpoint_that_is_missing_or_a_folder_is_named(call, trained, tmp_path, script):
    for path in (tmp_path / "none.ckpt", tmp_path):
        flags = ["--DR", trained.data, "--save_root", tmp_path / "run", "--ckpt_path", path]
        sizes = SHORT if script == "Trainer" else ()
        assert_refused(call(script, *flags, *sizes), 1, path)


@pytest.mark.parametrize("flag", ["--F_dim", "--L_dim", "--N_dim", "--D_out_dim"])
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


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": {"a": torch.ones(1)}},
        {"state_dict": {"a": torch.ones(1)}, "lr": 0.1, "tfr": 1.0, "last_epoch": 3},
        {"version": 1, "args": {}, "state_dict": {}},
    ],
)
def test_a_last_ckpt_that_is_not_ours_is_refused_by_name(call, trained, tmp_path, content):
    run = tmp_path / "run"
    run.mkdir()
    torch.save(content, run / "last.ckpt")
    done = call("Trainer", "--DR", trained.data, "--save_root", run, "--num_epoch", 1, *SHORT)
    assert_refused(done, 1, run / "last.ckpt")
    assert files_below(run) == ["last.ckpt"]


def test_a_damaged_last_ckpt_is_refused_and_kept(call, trained, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "last.ckpt").write_bytes(half_of(trained.best))
    done = call("Trainer", "--DR", trained.data, "--save_root", run, "--num_epoch", 1, *SHORT)
    assert_refused(done, 1, run / "last.ckpt")
    assert (run / "last.ckpt").read_bytes() == half_of(trained.best)


# ---------------------------------------------------------------- where results go


@pytest.mark.parametrize("script", ["Trainer", "Tester"])
@pytest.mark.parametrize("below", ["", "deeper/run"])
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


@pytest.mark.parametrize("name", ["last.ckpt", "best_score.ckpt", "metrics.csv", "args.json"])
def test_a_disk_that_is_full_at_a_rename_keeps_what_was_there(
    call, trained, tmp_path, monkeypatch, name
):
    run = shutil.copytree(trained.run, tmp_path / "run")
    before = (run / name).read_bytes()
    monkeypatch.setattr(os, "replace", full_for(name, os.replace))
    if name == "best_score.ckpt":
        monkeypatch.setattr("Trainer.score_clips", lambda clips: dict.fromkeys(SCORES, 99.0))
    done = call("Trainer", "--DR", trained.data, "--save_root", run, "--num_epoch", 2, *SHORT)
    assert_refused(done, 1, run / name, "No space left")
    assert (run / name).read_bytes() == before
    assert ckpt.load(run / "last.ckpt")["last_epoch"] == 1
    assert not [f for f in files_below(run) if os.path.basename(f).startswith(".")]


SCORES = ("psnr", "psnr_min", "psnr_given_frame_repeated", "ssim")


def test_a_disk_that_is_full_while_writing_leaves_every_file_as_it_was(
    call, trained, tmp_path, monkeypatch
):
    run = shutil.copytree(trained.run, tmp_path / "run")
    before = {name: (run / name).read_bytes() for name in files_below(run)}
    monkeypatch.setattr(os, "fsync", full_disk)
    done = call("Trainer", "--DR", trained.data, "--save_root", run, "--num_epoch", 2, *SHORT)
    assert_refused(done, 1, run, "No space left")
    assert {name: (run / name).read_bytes() for name in files_below(run)} == before


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


@pytest.mark.parametrize("ask", [full_gpu, torch.empty, np.empty], ids=["gpu", "cpu", "numpy"])
def test_too_little_memory_is_one_line_and_the_run_can_be_resumed(call, tmp_path, ask):
    done = train_once(tmp_path)
    more = "--DR", done.data, "--save_root", done.run, *SHORT, "--num_epoch", "2"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer.Trainer, "training_one_step", lambda *_: ask(2**56))
        failed = call("Trainer", *more)
    assert_refused(failed, 1, "--recompute", "llocate")
    assert call("Trainer", *more).code == 0


def test_other_errors_of_torch_keep_their_traceback(call, tmp_path, monkeypatch):
    done = train_once(tmp_path)
    monkeypatch.setattr(Trainer.Trainer, "validate", lambda _: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="size"):
        call("Trainer", "--DR", done.data, "--save_root", tmp_path / "other", *SHORT)


# ---------------------------------------------------------------- as a shell sees it


def shell(*words):
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_exit_codes_and_messages_of_the_real_scripts(tmp_path):
    done = shell("Trainer.py", "--DR", tmp_path / "none", "--save_root", tmp_path / "run")
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: --DR {tmp_path / 'none'} is not a folder")
    assert len(done.stderr.splitlines()) == 1
