"""The robot lab: its data, its flags, its training and its test, as a user meets them."""

import copy
import json
import os
import shlex
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import SHORT as POSE
from helpers import no_plots_in, read_csv
from PIL import Image, ImageSequence
from test_checkpoint import assert_same_run, break_off, differences, load
from torch.distributions import Normal, kl_divergence

import Tester
import Trainer
from dataloader import Dataset_Robot, RobotClips
from modules import cache, report, schedules
from modules.labs import LABS
from modules.models.robot import RecurrentVAE
from modules.models.rollout import noise_source

PAST, FUTURE, EVAL = 2, 3, 6
SIZES = "--vgg_width 2 --g_dim 4 --z_dim 2 --rnn_size 4 --n_past 2 --n_future 3 --n_eval 6"
QUICK = "--epoch_size 3 --batch_size 2 --device cpu --precision float32"
TINY = f"--lab robot {SIZES} {QUICK}".split()
REQUIRED = {"Trainer": (), "Tester": ("--ckpt_path", "c")}  # what a script cannot do without
SAME = {"rtol": 0, "atol": 1e-3}  # but for the order of sums, which loud weights amplify


# ---------------------------------------------------------------- data that says where it is from


def picture(record, clip, t):
    """A square that moves right, on the clip's colour; pixel (0, 0) says which frame it is."""
    image = np.full((64, 64, 3), (30 + 9 * clip % 90, 60 + record // 64, 50 + 7 * clip % 90))
    image[20:40, 4 + 5 * t % 40 : 20 + 5 * t % 40] = (240 - 4 * t, 220, 130 + 4 * t)
    image[0, 0] = record // 256, clip, t
    return Image.fromarray(image.astype(np.uint8))


def table(record, clip, length):
    """Rows (T, 7) that say where they are from as well."""
    t = np.arange(length) / 16
    n = np.full(length, clip / 16)
    r = np.full(length, record / 1024)
    return np.stack([r, n, t, 1 - t, -n, 0 * t + 0.25, np.sin(9 * t)], axis=1)


def record_folder(root, split, record):
    return root / split / f"traj_{record}_to_{record + 255}.tfrecords"


def write_clip(root, split, record, clip, length=EVAL, draw=picture):
    folder = record_folder(root, split, record) / str(clip)
    folder.mkdir(parents=True)
    for t in range(length):
        draw(record, clip, t).save(folder / f"{t}.png")
    rows = table(record, clip, length)
    np.savetxt(folder / "actions.csv", rows[:, :4], "%.6f", ",")
    np.savetxt(folder / "endeffector_positions.csv", rows[:, 4:], "%.6f", ",")
    return folder


def make_robot_data(root, train=4, validate=3, test=2):
    """The contract's layout, with so many clips in a split."""
    for i, (split, clips) in enumerate(
        {"train": train, "validate": validate, "test": test}.items()
    ):
        for clip in range(clips):
            write_clip(root, split, 0, 10 * i + clip)
    return root


def open_split(root, split="train", length=PAST + FUTURE, workers=2):
    return Dataset_Robot(root, split, length, "--flag", workers=workers)


def origins(dataset):
    """[[record // 256, clip, t]] of every frame, and of every row."""
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


# ---------------------------------------------------------------- reading it


def test_records_and_clips_come_in_numeric_order_and_rows_with_their_frames(root):
    for record in (1024, 256, 0):
        for clip in (10, 9, 2):
            write_clip(root, "train", record, clip)
    dataset = open_split(root)
    order = [(record, clip, EVAL) for record in (0, 256, 1024) for clip in (2, 9, 10)]
    assert len(dataset) == 9
    assert origins(dataset) == (frames_of(*order), frames_of(*order))


@pytest.mark.parametrize("first", [0, 1, 100])
def test_clips_are_listed_wherever_their_numbers_start(root, first):
    for clip in range(first, first + 3):
        write_clip(root, "train", 0, clip)
    assert origins(open_split(root))[0] == frames_of(*((0, first + i, EVAL) for i in range(3)))


def test_a_row_is_the_action_and_then_the_position(robot_data):
    for i, (_, rows) in enumerate(open_split(robot_data, "validate", EVAL)):
        expected = torch.tensor(table(0, 10 + i, EVAL), dtype=torch.float32)
        assert rows.dtype == torch.float32
        torch.testing.assert_close(rows, expected, rtol=0, atol=1e-6)


def test_hidden_and_foreign_folders_are_passed_over(robot_data):
    shutil.copytree(record_folder(robot_data, "train", 0), robot_data / "train/.hidden")
    record = record_folder(robot_data, "train", 0)
    (record / ".ipynb_checkpoints").mkdir()
    (record / "notes").mkdir()
    (record / "7").write_text("no folder")
    (robot_data / "train/README.txt").write_text("no record")
    (record / "0/._3.png").write_bytes(b"not a picture")
    (record / "0/thumbs.db").write_bytes(b"not a picture")
    assert origins(open_split(robot_data))[0] == frames_of(*((0, i, EVAL) for i in range(4)))


@pytest.mark.parametrize("above", ["", "robot", "softmotion/data"])
def test_a_nested_root_is_found_from_above(tmp_path, above):
    make_robot_data(tmp_path / above)
    assert [len(open_split(tmp_path, s)) for s in ("train", "validate", "test")] == [4, 3, 2]


def test_clips_of_different_lengths_each_begin_at_their_first_frame(root):
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


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("split", ["validate", "test"])
def test_every_clip_is_seen_once_and_in_order_whatever_the_workers(root, split, workers):
    clips = [(record, clip, EVAL) for record in (0, 256) for clip in range(7)]
    for clip in clips:
        write_clip(root, split, *clip)
    lab = LABS["robot"](parse(f"--num_workers {workers} --n_eval 6 --n_future 4", root))
    seen = lab.open_val() if split == "validate" else lab.open_test(set())[2]
    frames = [frames if split == "test" else frames[0] for frames in seen]
    tags = (torch.cat(frames)[:, :, 0, 0] * 255).round().int().tolist()
    assert tags == frames_of(*clips)


@pytest.mark.parametrize("size", [(48, 32), (128, 128), (64, 65)])
def test_pictures_of_another_size_are_resized_as_pil_does(root, size):
    def draw(*code):
        return picture(*code).resize(size, Image.NEAREST)

    write_clip(root, "train", 0, 3, draw=draw)
    frames = np.asarray(open_split(root).frames)
    expected = [draw(0, 3, t).resize((64, 64), Image.BILINEAR) for t in range(EVAL)]
    assert np.array_equal(frames, np.stack([np.asarray(image) for image in expected]))


# ---------------------------------------------------------------- what cannot be read


def remove(name):
    return lambda clip: (clip / name).unlink(), f"{name} is missing"


def write(name, text):
    return lambda clip: (clip / name).write_text(text), name


def lines(row, count=EVAL):
    return f"{row}\n" * count


def shorten(clip):
    for t in range(4, EVAL):
        (clip / f"{t}.png").unlink()


ACTIONS, POSITIONS = "actions.csv", "endeffector_positions.csv"
BAD = {  # what is wrong with a clip -> (how to make it so, what follows the clip in the message)
    "no actions": remove(ACTIONS),
    "no positions": remove(POSITIONS),
    "too few rows": write(ACTIONS, lines("0,0,0,0", EVAL - 1)),
    "an empty table": write(POSITIONS, ""),
    "too many columns": write(POSITIONS, lines("0,0,0,0")),
    "too few columns": write(ACTIONS, lines("0,0,0")),
    "rows of different width": write(ACTIONS, lines("0,0,0,0") + "0,0\n"),
    "a header": write(ACTIONS, "dx,dy,close,lift\n" + lines("0,0,0,0")),
    "text": write(POSITIONS, lines("0,0,up")),
    "spaces between": write(POSITIONS, lines("0 0 0")),
    "a nan": write(ACTIONS, lines("0,0,0,0", EVAL - 1) + "0,nan,0,0\n"),
    "an infinity": write(POSITIONS, lines("0,0,0", EVAL - 1) + "0,inf,0\n"),
    "a damaged picture": write("3.png", "\x89PNG and no more"),
    "an empty picture": write("5.png", ""),
    "a nameless picture": write("last.png", ""),
    "too few pictures": (shorten, ""),
}


@pytest.mark.filterwarnings("ignore:loadtxt")
@pytest.mark.parametrize("fault", BAD)
def test_a_clip_that_cannot_be_read_is_named(call, robot_data, tmp_path, fault):
    spoil, name = BAD[fault]
    clip = record_folder(robot_data, "train", 0) / "2"
    spoil(clip)
    done = train_in(call, robot_data, tmp_path / "run")
    assert done.code == 1
    assert str(clip / name) in done.err
    assert done.err.startswith("error: ")
    assert "Traceback" not in done.err


@pytest.mark.parametrize(("split", "flag"), [("train", "--n_past + --n_future"), ("validate", "")])
def test_short_clips_name_the_flags_that_ask_for_more(call, robot_data, tmp_path, split, flag):
    clip = next(record_folder(robot_data, split, 0).iterdir())
    shorten(clip)
    done = train_in(call, robot_data, tmp_path / "run")
    assert done.code == 1
    for word in (f"{clip} holds 4 frames", flag or "--n_eval", "5" if flag else "6"):
        assert word in done.err


@pytest.mark.parametrize("split", ["train", "validate"])
def test_a_split_that_is_not_there_is_named(call, robot_data, tmp_path, split):
    shutil.rmtree(robot_data / split)
    done = train_in(call, robot_data, tmp_path / "run")
    assert done.code == 1
    assert str(robot_data / split) in done.err


def test_a_record_without_clips_is_named(call, robot_data, tmp_path):
    (robot_data / "train/traj_256_to_511.tfrecords").mkdir()
    done = train_in(call, robot_data, tmp_path / "run")
    assert done.code == 1
    assert str(robot_data / "train/traj_256_to_511.tfrecords") in done.err


def test_a_root_that_is_no_folder_names_its_flag(call, tmp_path):
    done = train_in(call, tmp_path / "nowhere", tmp_path / "run")
    assert done.code == 1
    assert f"--DR {tmp_path / 'nowhere'}" in done.err


# ---------------------------------------------------------------- its cache


def refuse(*_, **__):
    raise AssertionError("read again")


def test_opening_again_decodes_nothing_and_reads_no_table(robot_data, monkeypatch):
    first = open_split(robot_data)
    monkeypatch.setattr(cache, "decode", refuse)
    monkeypatch.setattr(np, "loadtxt", refuse)
    assert origins(open_split(robot_data)) == origins(first)


def touch_later(path):
    """A rewritten file is a later one, even on a clock that ticks slowly."""
    time = path.stat().st_mtime_ns + 1_000_000
    os.utime(path, ns=(time, time))


def test_a_rewritten_table_is_read_again(robot_data):
    open_split(robot_data)
    path = record_folder(robot_data, "train", 0) / "1" / POSITIONS
    path.write_text(path.read_text().replace("0.25", "0.75"))  # no other size
    touch_later(path)
    assert open_split(robot_data)[1][1][:, 5].tolist() == [0.75] * 5
    assert len([*(robot_data / ".cache").glob("train-rows*.npy")]) == 1


def test_a_rewritten_picture_is_decoded_again(robot_data):
    open_split(robot_data)
    path = record_folder(robot_data, "train", 0) / "1/2.png"
    picture(512, 9, 9).save(path)
    touch_later(path)
    dataset = open_split(robot_data)
    assert dataset.frames[EVAL + 2, 0, 0].tolist() == [2, 9, 9]
    assert len([*(robot_data / ".cache").glob("train-frames*.npy")]) == 1


def test_the_splits_keep_their_caches_beside_each_other(robot_data, monkeypatch):
    splits = ("train", "validate", "test")
    first = [origins(open_split(robot_data, split)) for split in splits]
    monkeypatch.setattr(cache, "decode", refuse)
    assert [origins(open_split(robot_data, split)) for split in splits] == first


# ---------------------------------------------------------------- the clips of an epoch


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """Clips of 6, 9 and 5 frames: 2, 5 and 1 places for a clip of 5."""
    root = tmp_path_factory.mktemp("uneven")
    for clip, length in enumerate((6, 9, 5)):
        write_clip(root, "train", 0, clip, length)
    return open_split(root)


def draws(dataset, epochs=(0,), line=""):
    """All frame numbers (clips, 5) of the clips drawn in these epochs."""
    args = parse(f"--seed 1 --epoch_size 7 --batch_size 3 {line}")
    clips = RobotClips(dataset, args, torch.device("cpu"))
    return np.concatenate([clips.clips_at(epoch) for epoch in epochs])


@pytest.mark.parametrize("line", ["", "--random_offset"])
def test_clips_depend_on_seed_and_epoch_alone(uneven, line):
    first = draws(uneven, [4], line)
    np.random.seed(3)  # the global stream has no part in it
    assert np.array_equal(draws(uneven, [4], line), first)
    assert not np.array_equal(draws(uneven, [5], line), first)
    assert not np.array_equal(draws(uneven, [4], f"{line} --seed 2"), first)


def test_an_epoch_is_epoch_size_batches_of_batch_size(uneven):
    args = parse("--epoch_size 7 --batch_size 3 --random_offset")
    batches = RobotClips(uneven, args, torch.device("cpu")).batches(0)
    assert [tuple(batch.shape) for batch in batches] == [(3, 5)] * 7


def test_without_random_offset_a_clip_is_the_first_frames_of_one(uneven):
    clips = draws(uneven, range(20))
    assert {tuple(clip) for clip in clips} == {tuple(range(s, s + 5)) for s in (0, 6, 15)}


def test_random_offset_takes_every_legal_place_and_no_other(uneven):
    clips = draws(uneven, range(20), "--random_offset")
    legal = {0, 1, 6, 7, 8, 9, 10, 15}
    assert {tuple(clip) for clip in clips} == {tuple(range(s, s + 5)) for s in legal}


def test_all_clips_are_drawn_alike_however_long(uneven):
    starts = draws(uneven, range(60), "--random_offset")[:, 0]
    counts = np.histogram(starts, [0, 6, 15, 20])[0]
    assert counts.sum() == 60 * 21
    assert (abs(counts - 420) < 80).all()  # by frames it would be 378, 567, 315; 80 is 4.8 sigma


# ---------------------------------------------------------------- flags


def parse(line, root="d", script="Trainer", lab="--lab robot"):
    flags = ["--DR", str(root), "--save_root", "s", *REQUIRED[script]]
    return parse(script, [*flags, *shlex.split(lab), *shlex.split(line)])[0]


# The contract's line: flag -> the option it lands on, its default, another value of it.
NUMBERS = {
    "lr": ("lr", 0.002, 0.01),
    "beta1": ("beta1", 0.9, 0.5),
    "batch_size": ("batch_size", 12, 24),
    "niter": ("num_epoch", 300, 100),
    "epoch_size": ("epoch_size", 600, 500),
    "tfr": ("tfr", 1.0, 0.5),
    "tfr_start_decay_epoch": ("tfr_sde", 0, 25),
    "tfr_decay_step": ("tfr_d_step", 0.0, 0.01),
    "tfr_lower_bound": ("tfr_lower_bound", 0.0, 0.2),
    "kl_anneal_ratio": ("kl_anneal_ratio", 0.5, 0.25),
    "kl_anneal_cycle": ("kl_anneal_cycle", 3, 2),
    "n_past": ("n_past", 2, 3),
    "n_future": ("n_future", 10, 12),
    "n_eval": ("n_eval", 30, 12),
    "rnn_size": ("rnn_size", 256, 128),
    "posterior_rnn_layers": ("posterior_rnn_layers", 1, 2),
    "predictor_rnn_layers": ("predictor_rnn_layers", 2, 1),
    "z_dim": ("z_dim", 64, 32),
    "g_dim": ("g_dim", 128, 64),
    "seed": ("seed", 1, 5),
}
SWITCHES = {
    "kl_anneal_cyclical": ("kl_anneal_type", "Monotonic", "Cyclical"),
    "last_frame_skip": ("last_frame_skip", False, True),
}
TYPED = {f"--{flag} {x}": (dest, x) for flag, (dest, _, x) in NUMBERS.items()}
TYPED |= {f"--{flag}": (dest, x) for flag, (dest, _, x) in SWITCHES.items()}


def test_defaults_are_those_of_the_contract():
    found = vars(parse(""))
    assert {dest: found[dest] for dest, _, _ in (NUMBERS | SWITCHES).values()} == {
        dest: default for dest, default, _ in (NUMBERS | SWITCHES).values()
    }
    more = {"optim": "Adam", "lr_schedule": "constant", "grad_clip": 0.0, "tfr_coin": "batch"}
    assert {flag: found[flag] for flag in more} == more  # nothing that the contract lacks


def test_the_contracts_whole_line_is_understood():
    line = " ".join(f"--{flag} {default}" for flag, (_, default, _) in NUMBERS.items())
    both = vars(parse(f"{line} --kl_anneal_cyclical --last_frame_skip"))
    assert both == vars(parse("")) | {"kl_anneal_type": "Cyclical", "last_frame_skip": True}


@pytest.mark.parametrize("typed", TYPED)
@pytest.mark.parametrize("script", REQUIRED)
def test_a_flag_lands_on_its_one_option(script, typed):
    dest, value = TYPED[typed]
    found = vars(parse(typed, script=script))
    assert found == vars(parse("", script=script)) | {dest: value}
    assert type(found[dest]) is type(value)


@pytest.mark.parametrize("both", ["--niter 7", "--num_epoch 7", "--num_ep 7", "--nit 7"])
def test_both_names_and_their_prefixes_mean_the_epochs(both):
    assert parse(both).num_epoch == 7


FOREIGN = [
    (script, lab, flag)
    for script in REQUIRED
    for lab in LABS
    for flag in sorted(foreign_flags(script, lab))
]
MUST_BE_FOREIGN = {
    "pose": "n_past n_future n_eval epoch_size g_dim z_dim rnn_size last_frame_skip niter",
    "robot": "F_dim posterior train_vi_len val_vi_len frame_H partial fast_train shuffle sigmoid",
}


@pytest.mark.parametrize("lab", MUST_BE_FOREIGN)
@pytest.mark.parametrize("script", REQUIRED)
def test_what_only_the_other_lab_has(script, lab):
    words = {f"--{flag}" for flag in MUST_BE_FOREIGN[lab].split()}
    assert words <= foreign_flags(script, lab)


@pytest.mark.parametrize(("script", "lab", "flag"), FOREIGN)
def test_a_flag_of_the_other_lab_is_refused_by_name(call, script, lab, flag):
    asked = () if lab == "pose" else ("--lab", "robot")  # without --lab it is the pose lab
    owner = "robot" if lab == "pose" else "pose"
    for typed in ([flag], [flag, "1"], [f"{flag}=1"]):
        done = call(script, "--DR", "d", "--save_root", "s", *REQUIRED[script], *asked, *typed)
        assert done.code == 2
        assert f"{flag} belongs to --lab {owner}, this is --lab {lab}" in done.err


def test_posterior_is_no_prefix_of_posterior_rnn_layers(call):
    done = call("Trainer", *"--DR d --save_root s --lab robot --posterior current".split())
    assert done.code == 2
    assert "--posterior belongs to --lab pose" in done.err
    assert parse("--posterior_rnn 2").posterior_rnn_layers == 2


@pytest.mark.parametrize("script", REQUIRED)
def test_help_shows_the_flags_of_its_lab_and_no_other(call, script):
    robot, pose = call(script, "--lab", "robot", "--help"), call(script, "--help")
    assert (robot.code, pose.code) == (0, 0)
    assert "--n_past" in robot.out
    assert "--F_dim" not in robot.out
    assert "--F_dim" in pose.out
    assert "--n_past" not in pose.out


def test_an_unknown_lab_is_refused(call):
    done = call("Trainer", *"--DR d --save_root s --lab car".split())
    assert done.code == 2
    assert "robot" in done.err


@pytest.mark.parametrize("line", ["--n_eval 11", "--n_past 21", "--n_past 4 --n_future 9 --n_e 12"])
def test_n_eval_below_the_scored_frames_is_refused(call, line):
    done = call("Trainer", *"--DR d --save_root s --lab robot".split(), *line.split())
    assert done.code == 2
    assert "--n_eval" in done.err
    assert "--n_future" in done.err


def test_n_eval_may_be_just_the_scored_frames():
    assert parse("--n_eval 12").n_eval == 12


def test_one_clip_a_batch_is_refused_in_training_alone(call):
    done = call("Trainer", *"--DR d --save_root s --lab robot --batch_size 1".split())
    assert done.code == 2
    assert "--batch_size" in done.err
    assert parse("--batch_size 1", script="Tester").batch_size == 1
    assert parse("--batch_size 1 --test --ckpt_path c").batch_size == 1


# ---------------------------------------------------------------- the report's two runs

RUN = "--niter 100 --tfr_start_decay_epoch 25 --tfr_mode linear"
BETAS = {  # flags -> beta of an epoch: half of a cycle it rises, half of it it is 1
    "": lambda e: min(e / 50, 1),
    "--kl_anneal_cyclical --kl_anneal_cycle 2": lambda e: min((e % 50) / 25, 1),
}


@pytest.mark.parametrize("flags", BETAS)
def test_preview_of_the_reports_runs(call, tmp_path, flags):
    places = ["--save_root", tmp_path / "run", "--lab", "robot", "--preview"]
    done = call("Trainer", *places, *RUN.split(), *flags.split())
    assert done.code == 0, done.err
    rows = [[float(x) for x in line.split()] for line in done.out.splitlines()[1:101]]
    assert [row[0] for row in rows] == [*range(100)]
    assert [row[1] for row in rows] == pytest.approx([BETAS[flags](e) for e in range(100)])
    tfr = [1] * 25 + [1 - (e - 25) / 74 for e in range(25, 100)]
    assert [row[2] for row in rows] == pytest.approx(tfr, abs=1e-5)
    assert (tfr[25], tfr[-1]) == (1, 0)
    assert {row[3] for row in rows} == {0.002}
    assert (tmp_path / "run/schedules.png").stat().st_size > 1000


# ---------------------------------------------------------------- training


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """No test changes it."""
    return make_robot_data(tmp_path_factory.mktemp("data") / "robot")


def train_in(call, data, folder, epochs=1, line=""):
    places = ["--DR", data, "--save_root", folder, "--niter", epochs]
    return call("Trainer", *places, *TINY, *shlex.split(line))


@pytest.fixture
def train(call, data, tmp_path):
    """train(folder, epochs, flags) -> the folder of a run that went well."""

    def run(name, epochs=1, line=""):
        done = train_in(call, data, tmp_path / name, epochs, line)
        assert done.code == 0, done.err
        return tmp_path / name

    return run


def make_loud(state, seed=0):
    """Weights large enough that frames, rows and z all show in what is predicted."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in state["state_dict"].items():
        if value.dim() > 1:
            fan_in = len(value) if name == "decoder.head.0.weight" else value[0].numel()
            value.normal_(0, 2 / fan_in**0.5, generator=generator)
    return state


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A run of one epoch with a learned prior, and its checkpoint with loud weights."""
    base = tmp_path_factory.mktemp("trained")
    flags = ["--DR", str(data), "--save_root", str(base / "run"), "--niter", "1", *TINY]
    with pytest.MonkeyPatch.context() as patch:
        no_plots_in(patch)
        Trainer.train_or_validate(*parse("Trainer", [*flags, "--learned_prior"]))
    torch.save(make_loud(load(base / "run")), base / "loud.ckpt")
    return SimpleNamespace(best=base / "run/best_score.ckpt", loud=base / "loud.ckpt")


def read_clip(folder, length=EVAL):
    """Frames (T, 3, 64, 64) in 0..1 and rows (T, 7), read here."""
    images = [np.asarray(Image.open(folder / f"{t}.png")) for t in range(length)]
    frames = np.stack(images).transpose(0, 3, 1, 2).astype(np.float32) / 255
    tables = [np.loadtxt(folder / name, delimiter=",") for name in (ACTIONS, POSITIONS)]
    return torch.tensor(frames), torch.tensor(np.concatenate(tables, 1)[:length]).float()


def clips_of(data, split):
    folders = sorted(record_folder(data, split, 0).iterdir(), key=lambda p: int(p.name))
    return [read_clip(folder) for folder in folders]


def model_of(path):
    """The model of a checkpoint, put together here."""
    state = load(path.parent, path.name)
    model = RecurrentVAE(SimpleNamespace(**state["args"]))
    model.load_state_dict(state["state_dict"])
    return model.eval()


def predict(path, clips, seed=1, kind="sample", sample=0, noise=noise_source):
    """What a rollout of each clip must arrive at."""
    model, out = model_of(path), []
    for i, (frames, rows) in enumerate(clips):
        draw = noise(kind, seed, [i], sample)
        out.append(torch.cat([*model.rollout(frames[None, :PAST], rows[None], draw)]))
    return out


def psnr(pred, true):
    """The contract's score of one clip: of each channel of each frame that is predicted."""
    scored = slice(PAST, PAST + FUTURE)
    error = np.square(np.float64(pred[scored]) - np.float64(true[scored])).mean(axis=(2, 3))
    return (10 * np.log10(1 / error)).mean()


def frame_times(path):
    """uint8 (T, H, W, 3): what a gif shows, once for every 100 ms."""
    frames = []
    with Image.open(path) as gif:
        for frame in ImageSequence.Iterator(gif):
            frames += [np.asarray(frame.convert("RGB"))] * (frame.info["duration"] // 100)
    return np.stack(frames)


def is_picture(path):
    with Image.open(path) as image:
        image.load()
    return min(image.size) > 50 and len(np.unique(np.asarray(image.convert("L")))) > 10


def test_a_run_writes_all_that_the_readme_names(train):
    folder = train("run", 2, "--per_save 1")
    kept = {"args.json", "metrics.csv", "val_frames.csv", "val.gif", "val_strip.png", "plots"}
    kept |= {"best_score.ckpt", "last.ckpt", "epoch=0.ckpt", "epoch=1.ckpt", "report.html"}
    assert {p.name for p in folder.iterdir()} == kept
    plots = {*report.CURVES, "curves", "psnr_per_frame", "kl_per_dimension"}
    assert {p.name for p in (folder / "plots").iterdir()} == {f"{name}.png" for name in plots}
    assert all(is_picture(p) for p in [*folder.glob("plots/*.png"), folder / "val_strip.png"])
    args = json.loads((folder / "args.json").read_text())
    assert (args["lab"], args["n_past"], args["num_epoch"]) == ("robot", 2, 2)
    assert [row["epoch"] for row in read_csv(folder / "metrics.csv")] == [0, 1]
    assert [row["frame"] for row in read_csv(folder / "val_frames.csv")] == [2, 3, 4, 5]
    assert report.gif_time(folder / "val.gif") == 100 * EVAL


def test_the_baseline_is_the_last_given_frame_repeated(train, data, no_plots):
    (row,) = read_csv(train("run") / "metrics.csv")
    clips = [frames.numpy() for frames, _ in clips_of(data, "validate")]
    expected = [psnr(frames[[PAST - 1] * EVAL], frames) for frames in clips]
    assert row["val/psnr_given_frame_repeated"] == pytest.approx(np.mean(expected), abs=1e-4)


@pytest.mark.parametrize(
    "flags", ["", "--z_source mean --seed 4", "--ema 0.5 --learned_prior --last_frame_skip"]
)
def test_val_psnr_is_that_of_a_rollout_of_every_clip(train, data, no_plots, flags):
    folder = train("run", 2, f"--per_save 1 {flags}")
    seed, kind = (4, "mean") if "mean" in flags else (1, "sample")
    clips = clips_of(data, "validate")
    for row in read_csv(folder / "metrics.csv"):
        pred = predict(folder / f"epoch={row['epoch']:.0f}.ckpt", clips, seed, kind)
        expected = np.mean([psnr(p.numpy(), frames) for p, (frames, _) in zip(pred, clips)])
        assert row["val/psnr"] == pytest.approx(expected, abs=1e-4)


def test_val_frames_is_the_mean_psnr_of_every_predicted_frame(train, data, no_plots):
    folder = train("run")
    clips = clips_of(data, "validate")
    pred = predict(folder / "best_score.ckpt", clips)
    error = [(p - frames)[PAST:].square().mean((2, 3)) for p, (frames, _) in zip(pred, clips)]
    expected = (-10 * torch.stack(error).log10()).mean((0, 2))
    rows = read_csv(folder / "val_frames.csv")
    assert [row["rollout"] for row in rows] == pytest.approx(expected.tolist(), abs=1e-3)


def kl_by_hand(model, frames):
    """From posterior to learned prior: the mean over clips and predicted frames."""
    model = copy.deepcopy(model)  # BatchNorm would count the frames twice
    features = model.encode(frames)[0]
    (mu, logvar, _), (mu_p, logvar_p, _) = (
        net(x) for net, x in ((model.posterior, features[:, 1:]), (model.prior, features[:, :-1]))
    )
    kl = kl_divergence(Normal(mu, (logvar / 2).exp()), Normal(mu_p, (logvar_p / 2).exp()))
    return kl.sum().item() / (len(frames) * (frames.shape[1] - 1))


def test_kl_in_the_metrics_is_per_predicted_frame(train, trained, monkeypatch, no_plots):
    one_step, expected = Trainer.Trainer.training_one_step, []

    def training_one_step(self, frames, *more):
        expected.append(kl_by_hand(self.model, frames))
        return one_step(self, frames, *more)

    monkeypatch.setattr(Trainer.Trainer, "training_one_step", training_one_step)
    line = f"--ckpt_path {trained.loud} --learned_prior --kl_anneal_type None --kl_anneal_stop 0.5"
    (row,) = read_csv(train("run", 1, f"{line} --epoch_size 1") / "metrics.csv")
    assert row["train/kl"] == pytest.approx(expected[0], rel=1e-4)
    assert row["train/loss"] == pytest.approx(row["train/mse"] + 0.5 * expected[0], rel=1e-4)


def test_standardised_conditions_are_those_of_the_training_set(train, data, no_plots):
    state = load(train("run", 1, "--standardise"))["state_dict"]
    rows = torch.cat([rows for _, rows in clips_of(data, "train")])
    for name, expected in (("mean", rows.mean(0)), ("std", rows.std(0).clamp_min(1e-6))):
        torch.testing.assert_close(state[f"condition_{name}"], expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("line", ["", "--random_offset --batch_size 3"])
def test_training_sees_the_frames_and_rows_that_were_drawn(train, monkeypatch, no_plots, line):
    one_step, seen, trainers = Trainer.Trainer.training_one_step, [], set()

    def training_one_step(self, frames, conditions, *more):
        seen.append((frames, conditions))
        trainers.add(self)
        return one_step(self, frames, conditions, *more)

    monkeypatch.setattr(Trainer.Trainer, "training_one_step", training_one_step)
    train("run", 2, line)
    (trainer,) = trainers
    drawn = [batch for epoch in (0, 1) for batch in trainer.clips.batches(epoch)]
    dataset = trainer.clips.dataset
    frames, rows = np.asarray(dataset.frames), np.asarray(dataset.conditions)
    for numbers, (got, conditions) in zip(drawn, seen, strict=True):
        expected = frames[numbers].transpose(0, 1, 4, 2, 3) / 255
        assert np.allclose(got, expected, atol=1e-6)
        assert np.array_equal(conditions, rows[numbers])


@pytest.mark.parametrize("tfr", [0, 1])
def test_training_learns(train, no_plots, tfr):
    folder = train("run", 4, f"--tfr {tfr} --epoch_size 12 --lr 0.01 --kl_anneal_stop 0.0001")
    mse = [row["train/mse"] for row in read_csv(folder / "metrics.csv")]
    assert mse[-1] < 0.5 * mse[0]


# ---------------------------------------------------------------- carrying on

SETTINGS = {
    "plain": "",
    "coins and offsets": "--tfr 0.5 --random_offset",
    "a learned prior": "--learned_prior --last_frame_skip --tfr 0.5",
    "averaged": "--ema 0.9 --kl_anneal_cyclical --kl_anneal_cycle 2 --tfr_mode linear",
    "all": "--tfr 0.5 --learned_prior --last_frame_skip --ema 0.9 --random_offset --z_source mean "
    "--standardise --condition previous",
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_run_stopped_in_any_epoch_is_the_uninterrupted_run_bit_for_bit(
    train, call, data, tmp_path, monkeypatch, no_plots, setting
):
    line = f"{SETTINGS[setting]} --epoch_size 2"
    whole = train("whole", 3, line)
    for epoch in (1, 2):
        with monkeypatch.context() as patch:
            break_off(patch, epoch, step=1)
            assert train_in(call, data, tmp_path / "parts", 3, line).code == 130
        assert load(tmp_path / "parts")["last_epoch"] == epoch
    assert_same_run(whole, train("parts", 3, line))


def test_a_robot_run_is_not_carried_on_as_a_pose_run(train, call, dataset, no_plots):
    folder = train("run")
    done = call("Trainer", "--DR", dataset, "--save_root", folder, "--num_epoch", 2, *POSE)
    assert done.code == 1
    assert "--lab robot" in done.err


def test_a_pose_run_is_not_carried_on_as_a_robot_run(call, data, dataset, tmp_path, no_plots):
    places = ["--DR", dataset, "--save_root", tmp_path / "run"]
    assert call("Trainer", *places, "--num_epoch", 1, *POSE).code == 0
    before = (tmp_path / "run/last.ckpt").read_bytes()
    done = train_in(call, data, tmp_path / "run", 2)
    assert done.code == 1
    assert "--lab pose" in done.err
    assert (tmp_path / "run/last.ckpt").read_bytes() == before


@pytest.mark.parametrize("change", ["--n_future 4", "--z_dim 3", "--last_frame_skip"])
def test_another_experiment_is_refused_by_its_flag(train, call, data, no_plots, change):
    folder = train("run")
    done = train_in(call, data, folder, 2, change)
    assert done.code == 1
    assert change.split()[0] in done.err


# ---------------------------------------------------------------- nothing leaks


@pytest.fixture
def trainer(data, trained, tmp_path):
    flags = ["--DR", str(data), "--save_root", str(tmp_path / "leak"), *TINY, "--learned_prior"]
    args, _ = parse("Trainer", flags)
    lab = LABS["robot"](args)
    trainer = Trainer.Trainer(args, torch.device("cpu"), lab.open_train(), lab.open_val())
    trainer.start_from(trained.loud)
    return trainer


def make_tester(data, ckpt, folder, *flags):
    places = ["--DR", str(data), "--save_root", str(folder), "--ckpt_path", str(ckpt)]
    places += ["--precision", "float32"]
    args, typed = parse("Tester", [*places, *flags], lab="robot")
    return Tester.Tester(args, typed, torch.device("cpu"), torch.load(ckpt, weights_only=True))


@pytest.fixture
def tester(data, trained, tmp_path):
    return make_tester(data, trained.loud, tmp_path / "test")


NAN = float("nan")


def test_validation_sees_no_true_frame_after_the_given_ones(trainer):
    before = trainer.roll_out_validation()
    assert before[:, PAST:].std(dim=1).mean() > 1e-3  # the frames do change
    trainer.val_frames[:, PAST:] = NAN
    assert torch.equal(trainer.roll_out_validation(), before)
    trainer.val_frames[:, 0] = NAN  # and every given one counts
    assert trainer.roll_out_validation()[:, PAST:].isnan().flatten(1).any(1).all()


def test_the_tester_sees_no_true_frame_after_the_given_ones(tester):
    before = torch.stack(tester.rollout())
    for frames in tester.truth:
        frames[PAST:] = NAN
    assert torch.equal(torch.stack(tester.rollout()), before)
    for given in tester.given:
        given[0] = NAN
    assert torch.stack(tester.rollout())[:, PAST:].isnan().flatten(1).any(1).all()


def test_validation_clips_alone_or_together_or_again_are_the_same(trainer, monkeypatch):
    together = trainer.roll_out_validation()
    assert torch.equal(trainer.roll_out_validation(), together)
    assert (together[0] - together[1])[PAST:].abs().max() > 0.1
    monkeypatch.setattr(Trainer, "VAL_BATCH", 1)
    torch.testing.assert_close(trainer.roll_out_validation(), together, **SAME)


def test_test_clips_alone_or_together_or_again_are_the_same(tester, data, trained, tmp_path):
    together = torch.stack(tester.rollout())
    assert torch.equal(torch.stack(tester.rollout()), together)
    alone = make_tester(data, trained.loud, tmp_path / "alone", "--batch_size", "1")
    torch.testing.assert_close(torch.stack(alone.rollout()), together, **SAME)


def test_a_rollout_is_that_of_the_model_put_together_here(tester, trainer, data, trained):
    for split, found in (("test", tester.rollout()), ("validate", trainer.roll_out_validation())):
        expected = predict(trained.loud, clips_of(data, split))
        torch.testing.assert_close(torch.stack([*found]), torch.stack(expected), **SAME)


def test_validating_in_between_changes_no_bit_of_the_training(train, no_plots):
    often = train("often", 3, "--val_every 1 --store_visualization --tfr 0.5")
    once = train("once", 3, "--val_every 3 --tfr 0.5")
    for name in ("state_dict", "optimizer"):
        assert differences(load(often)[name], load(once)[name]) == []


# ---------------------------------------------------------------- Tester.py


@pytest.fixture
def run_test(call, data, trained, tmp_path):
    """run_test(flag, ...) -> code, out, err and the folder of a test."""

    def run(*flags, ckpt=trained.loud, folder="test", data=data):
        places = ["--DR", data, "--save_root", tmp_path / folder, "--ckpt_path", ckpt]
        done = call("Tester", *places, "--device", "cpu", "--precision", "float32", *flags)
        done.folder = tmp_path / folder
        return done

    return run


def scores_of(done):
    assert done.code == 0, done.err
    return json.loads((done.folder / "scores.json").read_text())


def test_tester_knows_the_lab_from_the_checkpoint(run_test):
    done = run_test()
    assert done.code == 0, done.err
    files = {f"{name}{i}" for i in range(2) for name in ("pred_seq", "strip")}
    files = {f"{name}.gif" if "seq" in name else f"{name}.png" for name in files}
    found = {p.name for p in done.folder.iterdir()}
    assert found == files | {"scores.json", "psnr_per_frame.png", "report.html"}
    assert all(is_picture(p) for p in done.folder.glob("*.png"))
    assert "submission.csv" not in done.out


def test_naming_the_lab_changes_nothing(run_test, no_plots):
    implied, named = run_test(), run_test("--lab", "robot", folder="named")
    assert scores_of(implied) == scores_of(named)
    gifs = [(done.folder / "pred_seq1.gif").read_bytes() for done in (implied, named)]
    assert gifs[0] == gifs[1]


def borders(frames, left, width):
    """Colours of the four sides of a picture (T, 4, 3) that is framed in a gif's frames."""
    height, right = frames.shape[1], left + width
    middle = (left + right) // 2
    points = [(2, middle), (height - 3, middle), (height // 2, left + 2), (height // 2, right - 3)]
    return np.stack([frames[:, y, x] for y, x in points], axis=1).astype(int)


def test_the_gif_shows_truth_and_prediction_framed_by_what_was_given(run_test, data, no_plots):
    done = run_test()
    frames = frame_times(done.folder / "pred_seq1.gif")
    side, gap = 3 * (64 + 4), 6
    assert frames.shape == (EVAL, side, 2 * side + gap, 3)
    colours = np.array([report.GREEN] * PAST + [report.RED] * (EVAL - PAST))[:, None]
    assert abs(borders(frames, side + gap, side) - colours).max() < 25
    assert abs(borders(frames, 0, side) - report.GREY).max() < 25
    truth = clips_of(data, "test")[1][0].numpy().transpose(0, 2, 3, 1) * 255
    shown = frames[:, 7:-6:3, 7 : side - 6 : 3]  # the middle of every enlarged pixel
    assert abs(shown - truth).mean() < 8


def test_given_frames_are_shown_as_they_are_and_predicted_ones_as_rolled_out(
    run_test, data, trained, no_plots
):
    frames = frame_times(run_test().folder / "pred_seq0.gif")
    side, gap = 3 * (64 + 4), 6
    shown = frames[:, 7:-6:3, side + gap + 7 : -6 : 3]
    pred = predict(trained.loud, clips_of(data, "test"))[0].numpy().transpose(0, 2, 3, 1) * 255
    assert abs(shown - pred).mean((1, 2, 3)).max() < 8  # 256 colours a frame
    assert abs(shown[PAST:] - pred[[PAST - 1]]).mean() > 16


def test_scores_are_those_of_a_rollout(run_test, data, trained, no_plots):
    scores, clips = scores_of(run_test()), clips_of(data, "test")
    pred = predict(trained.loud, clips)
    expected = [psnr(p.numpy(), frames) for p, (frames, _) in zip(pred, clips)]
    assert [clip["psnr"] for clip in scores["clips"]] == pytest.approx(expected, abs=1e-4)
    assert scores["mean"]["psnr"] == pytest.approx(np.mean(expected), abs=1e-4)
    repeated = np.mean([psnr(f[[PAST - 1] * EVAL].numpy(), f) for f, _ in clips])
    assert scores["mean"]["psnr_given_frame_repeated"] == pytest.approx(repeated, abs=1e-4)
    assert "futures" not in scores


def test_the_tester_scores_what_validation_scored(run_test, call, root, no_plots):
    make_robot_data(root)
    shutil.rmtree(root / "test")
    shutil.copytree(root / "validate", root / "test")
    assert train_in(call, root, root / "run", 2, "--ema 0.5").code == 0
    best = max(row["val/psnr"] for row in read_csv(root / "run/metrics.csv"))
    scores = scores_of(run_test(data=root, ckpt=root / "run/best_score.ckpt"))
    assert scores["mean"]["psnr"] == pytest.approx(best, abs=1e-5)
    flags = ["--DR", root, "--save_root", root / "again", *"--lab robot --device cpu".split()]
    flags += ["--precision", "float32", "--ckpt_path", root / "run/best_score.ckpt"]
    again = call("Trainer", "--test", *flags)
    assert f"PSNR {best:.2f} dB" in again.out


def test_many_clips_are_all_scored_and_drawn(run_test, root, no_plots):
    make_robot_data(root, train=0, validate=0, test=11)
    done = run_test("--batch_size", 4, data=root)
    assert len(scores_of(done)["clips"]) == 11
    assert len([*done.folder.glob("pred_seq*.gif")]) == 11


def test_n_eval_of_the_test_may_be_other_than_the_runs(run_test, no_plots, root):
    for clip in range(2):
        write_clip(root, "test", 0, clip, 14)
    done = run_test("--lab", "robot", "--n_eval", 14, data=root)
    assert done.code == 0, done.err
    assert report.gif_time(done.folder / "pred_seq0.gif") == 1400


# ---------------------------------------------------------------- several futures


def own_noise(kind, seed, clips, sample=0):
    """Streams that differ by clip and by future."""
    streams = [torch.Generator().manual_seed(100 * sample + clip) for clip in clips]
    return lambda shape: torch.stack([torch.randn(shape, generator=s) for s in streams])


@pytest.mark.parametrize("batch_size", [1, 2])
def test_futures_are_scored_and_the_first_is_the_scored_one(
    run_test, data, trained, monkeypatch, no_plots, batch_size
):
    monkeypatch.setattr(Tester, "noise_source", own_noise)
    scores = scores_of(run_test("--n_samples", 3, "--batch_size", batch_size))
    clips = clips_of(data, "test")
    futures = [predict(trained.loud, clips, sample=k, noise=own_noise) for k in range(3)]
    table = np.array([[psnr(p.numpy(), f) for p, (f, _) in zip(x, clips)] for x in futures])
    pixels = np.stack([torch.stack(x)[:, PAST:].numpy() for x in futures])
    expected = {
        "n_samples": 3,
        "psnr_mean": table.mean(),
        "psnr_best": table.max(axis=0).mean(),
        "psnr_worst": table.min(axis=0).mean(),
        "diversity": 255 * pixels.std(axis=0).mean(),
    }
    assert scores["futures"] == pytest.approx(expected, rel=1e-4)
    assert expected["psnr_best"] > expected["psnr_mean"] > expected["psnr_worst"]
    assert expected["diversity"] > 1
    assert scores["mean"]["psnr"] == pytest.approx(table[0].mean(), rel=1e-5)


def test_best_and_worst_future_are_chosen_clip_by_clip(data, trained, tmp_path):
    tester = make_tester(data, trained.loud, tmp_path / "test", "--n_samples", "3")
    errors = np.array([[0.01, 0.04], [0.04, 0.02], [0.02, 0.01]])  # of every value: future, clip
    tester.rollout = lambda k: [x + float(e) for x, e in zip(tester.truth, errors[k])]
    expected = {
        "n_samples": 3,
        "psnr_best": 40,
        "psnr_worst": -20 * np.log10([0.04, 0.04]).mean(),
        "psnr_mean": -20 * np.log10(errors).mean(),
        "diversity": 255 * errors.std(axis=0).mean(),
    }
    assert tester.score_futures(tester.rollout(0)) == pytest.approx(expected, rel=1e-4)


def test_without_z_all_futures_are_one(run_test, trained, tmp_path, monkeypatch, no_plots):
    monkeypatch.setattr(Tester, "noise_source", own_noise)
    state = load(trained.loud.parent, "loud.ckpt")
    state["state_dict"]["frame_predictor.embed.weight"][:, -state["args"]["z_dim"] :] = 0
    torch.save(state, tmp_path / "deaf.ckpt")
    found = scores_of(run_test("--n_samples", 3, ckpt=tmp_path / "deaf.ckpt"))["futures"]
    assert found["diversity"] == pytest.approx(0, abs=1e-4)
    assert found["psnr_best"] == pytest.approx(found["psnr_worst"], rel=1e-9)


def test_one_future_leaves_the_scores_and_more_change_none(run_test, no_plots):
    one, three = scores_of(run_test()), scores_of(run_test("--n_samples", 3, folder="three"))
    assert three.pop("futures")["n_samples"] == 3
    assert one == three


def test_futures_of_a_run_with_the_mean_are_refused_and_said_how(
    run_test, trained, tmp_path, no_plots
):
    state = load(trained.loud.parent, "loud.ckpt")
    state["args"]["z_source"] = "mean"
    torch.save(state, tmp_path / "mean.ckpt")
    done = run_test("--n_samples", 3, ckpt=tmp_path / "mean.ckpt")
    assert done.code == 1
    assert "add --z_source sample" in done.err
    typed = run_test("--n_samples", 3, "--z_source", "sample", ckpt=tmp_path / "mean.ckpt")
    assert scores_of(typed)["futures"]["n_samples"] == 3


# ---------------------------------------------------------------- what the tester refuses


@pytest.mark.parametrize("typed", ["--g_dim 8", "--z_dim 3", "--vgg_width 4", "--rnn_size 5"])
def test_sizes_that_contradict_the_checkpoint_are_refused(run_test, typed):
    done = run_test("--lab", "robot", *typed.split())
    assert done.code == 1
    for word in (typed, "loud.ckpt", "was trained with"):
        assert word in done.err


def test_sizes_as_they_are_in_the_checkpoint_are_accepted(run_test, no_plots):
    assert scores_of(run_test("--lab", "robot", *"--g_dim 4 --z_dim 2 --n_past 2".split()))


def test_a_robot_checkpoint_is_refused_by_the_pose_lab(run_test):
    done = run_test("--lab", "pose")
    assert done.code == 1
    assert "--lab robot" in done.err


@pytest.mark.parametrize("typed", [["--make_gif"], ["--truth", "x"], ["--val_vi_len", "5"]])
def test_pose_flags_are_refused_when_the_checkpoint_is_a_robots(run_test, typed):
    done = run_test(*typed)
    assert done.code == 2
    assert f"{typed[0]} belongs to --lab pose, this is --lab robot" in done.err


def test_a_pose_checkpoint_is_refused_by_the_robot_lab(call, data, dataset, tmp_path, no_plots):
    places = ["--DR", dataset, "--save_root", tmp_path / "run", "--num_epoch", 1]
    assert call("Trainer", *places, *POSE).code == 0
    places = ["--DR", data, "--save_root", tmp_path / "test", "--lab", "robot"]
    done = call("Tester", *places, "--ckpt_path", tmp_path / "run/best_score.ckpt")
    assert done.code == 1
    assert "--lab pose" in done.err


# ---------------------------------------------------------------- pictures of it


def solid(colours, size=(6, 8)):
    """uint8 clip (T, H, W, 3) of one colour a frame."""
    return np.tile(np.array(colours, np.uint8)[:, None, None], (1, *size, 1))


@pytest.mark.parametrize("given", [0, 2, 4])
def test_framed_marks_given_frames_green_and_the_others_red(given):
    clip = solid([(9, 9, 9)] * 4)
    out = report.framed(clip, given, width=3)
    assert out.shape == (4, 6 + 6, 8 + 6, 3)
    assert np.array_equal(out[:, 3:-3, 3:-3], clip)
    inside = np.zeros(out.shape[1:3], bool)
    inside[3:-3, 3:-3] = True
    colours = [report.GREEN] * given + [report.RED] * (4 - given)
    for frame, colour in zip(out, colours):
        assert (frame[~inside] == colour).all()


def test_framed_in_another_colour():
    out = report.framed(solid([(9, 9, 9)] * 2), 0, report.GREY)
    assert (out[:, 0] == report.GREY).all()


def colours_in(path):
    """Size (width, height) of a picture, and {colour: pixels} of it."""
    with Image.open(path) as image:
        rgb = np.asarray(image.convert("RGB")).reshape(-1, 3)
    colours, counts = np.unique(rgb, axis=0, return_counts=True)
    return image.size, dict(zip(map(tuple, colours.tolist()), counts.tolist()))


@pytest.mark.parametrize("times", [1, 13, 30])
def test_a_strip_shows_every_time_of_every_row_once(tmp_path, times):
    hues = [(5 + 8 * t, 250 - 8 * t, 40) for t in range(times)]
    rows = {"one": solid(hues), "two": solid([(b, g, r) for r, g, b in hues])}
    report.draw_strip(tmp_path / "strip.png", rows, range(times))
    _, found = colours_in(tmp_path / "strip.png")
    areas = [found.get(colour, 0) for hue in hues for colour in (hue, hue[::-1])]
    assert min(areas) > 100
    assert max(areas) < 1.3 * min(areas)


def test_a_long_strip_wraps_into_lines_and_grows_downwards(tmp_path):
    sizes = []
    for times in (12, 13, 25):
        clip = solid([(200, 30, 30)] * times, (16, 16))
        report.draw_strip(tmp_path / "strip.png", {"one": clip, "two": clip}, range(times))
        sizes.append(colours_in(tmp_path / "strip.png")[0])
    widths, heights = zip(*sizes)
    assert len(set(widths)) == 1
    assert heights[0] < heights[1] < heights[2]


def test_strips_of_a_test_show_every_frame(run_test, monkeypatch):
    drawn = []
    monkeypatch.setattr(report, "draw_strip", lambda path, rows, times: drawn.append((rows, times)))
    monkeypatch.setattr(report, "draw_psnr_per_frame", lambda *_: None)
    run_test()
    assert [[*times] for _, times in drawn] == [[*range(EVAL)]] * 2
    assert all({*rows} == {"truth", "prediction"} for rows, _ in drawn)


def test_preview_and_training_share_one_table(train, no_plots):
    """What --preview says of an epoch is what metrics.csv says of it."""
    line = "--kl_anneal_cyclical --kl_anneal_cycle 2 --tfr_mode linear --epoch_size 1"
    rows = read_csv(train("run", 4, line) / "metrics.csv")
    args = parse(f"--niter 4 {line}")
    for row, plan in zip(rows, schedules.table(args), strict=True):
        assert all(row[f"train/{name}"] == plan[name] for name in ("beta", "tfr", "lr"))


# ---------------------------------------------------------------- once they were bugs


def test_every_future_has_its_own_noise():
    draws = [noise_source("sample", 1, [0, 1], k)((4,)) for k in range(3)]
    assert not torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[1], draws[2])


def test_futures_differ(run_test, no_plots):
    found = scores_of(run_test("--n_samples", 3))["futures"]
    assert found["diversity"] > 1


def test_there_is_no_end_of_futures():
    noise_source("sample", 1, [0], 2048)


def test_n_eval_is_checked_against_the_checkpoints_frames(run_test, no_plots):
    done = run_test("--lab", "robot", "--n_eval", "5")
    assert done.code == 0, done.err


def test_n_future_above_the_checkpoints_n_eval(run_test, no_plots):
    done = run_test("--lab", "robot", "--n_future", "8")
    assert done.code != 0


def test_a_missing_picture_shifts_no_row(call, robot_data, tmp_path):
    (record_folder(robot_data, "train", 0) / "2/0.png").unlink()
    done = train_in(call, robot_data, tmp_path / "run")
    assert done.code == 1, "0.png is gone, so row 0 is used for frame 1"


def test_rows_are_read_again_when_a_clip_gains_what_another_loses(root):
    a, b = (write_clip(root, "train", 0, i, 8) for i in range(2))
    (b / "7.png").rename(root / "kept.png")
    open_split(root)
    (root / "kept.png").rename(b / "7.png")
    (a / "7.png").unlink()
    frames, rows = origins(open_split(root))
    assert rows == frames


def test_unreadable_table_is_named(call, robot_data, tmp_path, monkeypatch):
    def loadtxt(path, **_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(np, "loadtxt", loadtxt)
    done = train_in(call, robot_data, tmp_path / "run")
    assert "actions.csv" in done.err


def test_empty_table_prints_no_warning(call, robot_data, tmp_path, recwarn):
    (record_folder(robot_data, "train", 0) / "2/actions.csv").write_text("")
    done = train_in(call, robot_data, tmp_path / "run")
    assert done.code == 1 and "actions.csv" in done.err
    assert [str(w.message) for w in recwarn] == []


def test_start_from_other_lab(call, trained, dataset, tmp_path):
    done = call(
        "Trainer",
        "--DR",
        dataset,
        "--save_root",
        tmp_path / "x",
        *POSE,
        "--num_epoch",
        1,
        "--ckpt_path",
        trained.best,
    )
    assert "--lab" in done.err


def test_standardised_and_other_weights_do_not_mix(call, data, trained, tmp_path, no_plots):
    flags = f"--learned_prior --standardise --ckpt_path {trained.best}"
    done = train_in(call, data, tmp_path / "run", 1, flags)
    assert done.code == 1
    assert "trained without --standardise" in done.err


def test_tester_flag_of_the_robot_lab_without_lab(run_test, no_plots):
    done = run_test("--n_eval", "6")
    assert done.code == 0, done.err


def test_prefix_of_two_names_of_one_flag():
    assert parse("--tfr_start 3").tfr_sde == 3
    assert parse("--tfr_d 0.1").tfr_d_step == 0.1


def test_pose_run_older_than_labs(call, data, dataset, tmp_path, no_plots):
    places = ["--DR", dataset, "--save_root", tmp_path / "run"]
    call("Trainer", *places, "--num_epoch", 1, *POSE)
    state = load(tmp_path / "run")
    del state["args"]["lab"]
    torch.save(state, tmp_path / "run/last.ckpt")
    done = train_in(call, data, tmp_path / "run", 2)
    assert "--lab" in done.err
