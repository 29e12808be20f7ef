"""The robot lab's data: which clips are read, what is refused, what is cached, what is drawn."""

import re
import shutil

import numpy as np
import pytest
import torch
from helpers import (
    EVAL,
    FUTURE,
    PAST,
    make_robot_data,
    record_folder,
    robot_table,
    settings_of,
    write_clip,
)
from robot_helpers import ACTIONS, POSITIONS, open_split, train_in

from dataloader import RobotClips
from modules.data import cache
from modules.errors import UserError
from modules.labs import LABS


def origins(dataset):
    """[[record // 256, clip, t]] of every frame, and of every row of the conditions."""
    frames, rows = np.asarray(dataset.frames), np.asarray(dataset.conditions)
    return frames[:, 0, 0].tolist(), (rows[:, :3] * (4, 16, 16)).round(3).tolist()


def frames_of(*clips):
    """[[record // 256, clip, t]] of clips (record, clip, length), one after the other."""
    return [[record // 256, clip, t] for record, clip, length in clips for t in range(length)]


@pytest.fixture
def root(tmp_path):
    return tmp_path / "robot"


@pytest.fixture
def robot_data(root):
    return make_robot_data(root)


# ---------------------------------------------------------------- reading


def test_records_and_clips_are_in_numeric_order(root):
    for record in (1024, 256, 0):
        for clip in (10, 9, 2):
            write_clip(root, "train", record, clip)
    dataset = open_split(root)
    order = [(record, clip, EVAL) for record in (0, 256, 1024) for clip in (2, 9, 10)]
    assert len(dataset) == 9
    assert origins(dataset) == (frames_of(*order), frames_of(*order))


def test_a_condition_is_the_action_then_the_position(robot_data):
    for i, (_, rows) in enumerate(open_split(robot_data, "validate", EVAL)):
        expected = torch.tensor(robot_table(0, 10 + i, EVAL), dtype=torch.float32)
        assert rows.dtype == torch.float32
        torch.testing.assert_close(rows, expected, rtol=0, atol=1e-6)


def test_hidden_and_unrelated_files_are_ignored(robot_data):
    shutil.copytree(record_folder(robot_data, "train", 0), robot_data / "train/.hidden")
    record = record_folder(robot_data, "train", 0)
    (record / ".ipynb_checkpoints").mkdir()
    (record / "notes").mkdir()
    (record / "7").write_text("no folder")
    (robot_data / "train/README.txt").write_text("no record")
    (record / "0/._3.png").write_bytes(b"not a picture")
    (record / "0/thumbs.db").write_bytes(b"not a picture")
    assert origins(open_split(robot_data))[0] == frames_of(*((0, i, EVAL) for i in range(4)))


def test_clips_of_different_lengths_start_at_their_first_frame(root):
    clips = [(0, 0, 6), (0, 1, 9), (0, 2, 5), (0, 3, 7)]
    for clip in clips:
        write_clip(root, "train", *clip)
    dataset = open_split(root)
    assert dataset.lengths.tolist() == [6, 9, 5, 7]
    assert dataset.starts.tolist() == [0, 6, 15, 20]
    for i, (frames, rows) in enumerate(dataset):
        tags = (frames[:, :, 0, 0] * 255).round().int().tolist()
        assert tags == frames_of((0, i, PAST + FUTURE))
        assert (rows[:, 2] * 16).round().tolist() == [0, 1, 2, 3, 4]
        assert frames.dtype == torch.float32
        assert frames.shape == (PAST + FUTURE, 3, 64, 64)


@pytest.mark.parametrize(("split", "workers"), [("validate", 1), ("test", 4)])
def test_every_clip_is_read_once_and_in_order_with_any_number_of_workers(root, split, workers):
    clips = [(record, clip, EVAL) for record in (0, 256) for clip in range(7)]
    for clip in clips:
        write_clip(root, split, *clip)
    flags = ["--DR", root, "--num_workers", workers, "--n_eval", 6, "--n_future", 4]
    lab = LABS["robot"](settings_of(flags, lab="robot"))
    seen = lab.open_val() if split == "validate" else lab.open_test(set())[2]
    frames = [frames if split == "test" else frames[0] for frames in seen]
    tags = (torch.cat(frames)[:, :, 0, 0] * 255).round().int().tolist()
    assert tags == frames_of(*clips)


# ---------------------------------------------------------------- unreadable data


def remove(name):
    return lambda clip: (clip / name).unlink(), f"{name} is missing"


def write(name, text):
    return lambda clip: (clip / name).write_text(text), name


def lines(row, count=EVAL):
    return f"{row}\n" * count


def shorten(clip):
    for t in range(4, EVAL):
        (clip / f"{t}.png").unlink()


BAD = {  # fault of a clip -> (function that causes it, what follows the clip in the message)
    "no actions": remove(ACTIONS),
    "no positions": remove(POSITIONS),
    "too few rows": write(ACTIONS, lines("0,0,0,0", EVAL - 1)),
    "too many columns": write(POSITIONS, lines("0,0,0,0")),
    "a header": write(ACTIONS, "dx,dy,close,lift\n" + lines("0,0,0,0")),
    "text": write(POSITIONS, lines("0,0,up")),
    "separated by spaces": write(POSITIONS, lines("0 0 0")),
    "a nan": write(ACTIONS, lines("0,0,0,0", EVAL - 1) + "0,nan,0,0\n"),
    "a damaged image": write("3.png", "\x89PNG and no more"),
    "an image without a number": write("last.png", ""),
    "a missing image": (lambda clip: (clip / "0.png").unlink(), ""),  # row 0 is not frame 1's
    "too few images": (shorten, ""),
}


@pytest.mark.parametrize("fault", BAD)
def test_an_unreadable_clip_is_named(robot_data, recwarn, fault):
    spoil, name = BAD[fault]
    clip = record_folder(robot_data, "train", 0) / "2"
    spoil(clip)
    with pytest.raises(UserError, match=re.escape(str(clip / name))):
        open_split(robot_data)
    assert [str(w.message) for w in recwarn] == []


@pytest.mark.parametrize(
    ("split", "flag"), [("train", "--n_past + --n_future"), ("validate", "--n_eval")]
)
def test_short_clips_name_the_flags_that_set_the_length(call, robot_data, tmp_path, split, flag):
    clip = next(record_folder(robot_data, split, 0).iterdir())
    shorten(clip)
    done = train_in(call, robot_data, tmp_path / "run")
    assert done.code == 1 and f"error: {clip} holds 4 frames" in done.err
    assert f"({flag})" in done.err


def test_what_is_missing_is_named(robot_data, tmp_path):
    shutil.rmtree(robot_data / "validate")
    record = robot_data / "train/traj_256_to_511.tfrecords"
    record.mkdir()
    for root, split, named in (
        (robot_data, "validate", robot_data / "validate"), (robot_data, "train", record),
        (tmp_path / "nowhere", "train", f"--DR {tmp_path / 'nowhere'}"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=re.escape(str(named))):
            open_split(root, split)


# ---------------------------------------------------------------- cache


def refuse(*_, **__):
    raise AssertionError("read again")


def test_opening_again_reads_the_cache_of_each_split_only(robot_data, monkeypatch):
    splits = ("train", "validate", "test")
    first = [origins(open_split(robot_data, split)) for split in splits]
    monkeypatch.setattr(cache, "decode", refuse)
    monkeypatch.setattr(np, "loadtxt", refuse)
    assert [origins(open_split(robot_data, split)) for split in splits] == first


def test_a_rewritten_table_is_read_again(robot_data):
    open_split(robot_data)
    path = record_folder(robot_data, "train", 0) / "1" / POSITIONS
    path.write_text(path.read_text().replace("0.25", "0.75"))  # the same size
    assert open_split(robot_data)[1][1][:, 5].tolist() == [0.75] * 5
    assert len([*(robot_data / ".cache").glob("train-rows*.npy")]) == 1


# ---------------------------------------------------------------- training clips


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """Clips of 6, 9 and 5 frames: 2, 5 and 1 possible starts of 5 frames."""
    root = tmp_path_factory.mktemp("uneven")
    for clip, length in enumerate((6, 9, 5)):
        write_clip(root, "train", 0, clip, length)
    return open_split(root)


def draws(dataset, epochs=(0,), line=""):
    """All frame numbers (clips, 5) of the clips drawn in these epochs."""
    settings = settings_of(f"--seed 1 --epoch_size 7 --batch_size 3 {line}", lab="robot")
    clips = RobotClips(dataset, settings, torch.device("cpu"))
    return np.concatenate([clips.clips_at(epoch) for epoch in epochs])


@pytest.mark.parametrize("line", ["", "--random_offset"])
def test_clips_depend_on_seed_and_epoch_only(uneven, line):
    first = draws(uneven, [4], line)
    np.random.seed(3)  # the global generator is not used
    assert np.array_equal(draws(uneven, [4], line), first)
    assert not np.array_equal(draws(uneven, [5], line), first)
    assert not np.array_equal(draws(uneven, [4], f"{line} --seed 2"), first)


def test_an_epoch_is_epoch_size_batches_of_batch_size(uneven):
    settings = settings_of("--epoch_size 7 --batch_size 3 --random_offset", lab="robot")
    batches = RobotClips(uneven, settings, torch.device("cpu")).batches(0)
    assert [tuple(batch.shape) for batch in batches] == [(3, 5)] * 7


def test_without_random_offset_training_clips_are_the_first_frames(uneven):
    clips = draws(uneven, range(20))
    assert {tuple(clip) for clip in clips} == {tuple(range(s, s + 5)) for s in (0, 6, 15)}


def test_random_offset_draws_every_possible_start(uneven):
    clips = draws(uneven, range(20), "--random_offset")
    possible = {0, 1, 6, 7, 8, 9, 10, 15}
    assert {tuple(clip) for clip in clips} == {tuple(range(s, s + 5)) for s in possible}


def test_clips_of_all_lengths_are_equally_likely(uneven):
    starts = draws(uneven, range(60), "--random_offset")[:, 0]
    counts = np.histogram(starts, [0, 6, 15, 20])[0]
    assert counts.sum() == 60 * 21
    assert (abs(counts - 420) < 80).all()  # by frames it would be 378, 567, 315; 80 is 4.8 sigma
