"""Runs that are killed, stopped, cut off from their disk or fed garbage: what is left is whole.

Every run here is compared with one that nothing happened to: all files, every bit.
"""

import contextlib
import copy
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch
from helpers import ROOT, SHORT, make_dataset
from test_checkpoint import bits, differences, load
from test_robot import TINY as ROBOT
from test_robot import make_robot_data

import Trainer
from modules import files
from modules.runs import checkpoint as ckpt

QUICK = "--num_epoch 3 --batch_size 1 --precision float32 --lr_schedule constant --per_save 1"
POSE = [*SHORT, *QUICK.split()]  # three epochs of three steps, six frames of validation
ROBOT = [*ROBOT, *"--num_epoch 3 --lr_schedule constant --per_save 1".split()]
DRAWS = (
    "--shuffle --random_offset --jump_start 0.5 --warp 0.5 --feedback_noise 0.1 --tfr 0.5 "
    "--tfr_coin batch --ema 0.5"
)
SETTINGS = {
    "plain": ("pose", ""),
    "every random draw and EMA": ("pose", DRAWS),
    "free running, AdamW": ("pose", "--tfr 0 --optim AdamW --sigmoid --position_map 2"),
    "posterior of the frame before": ("pose", "--posterior previous --optim RMSprop"),
    "the robot lab": ("robot", "--tfr 0.5 --learned_prior --ema 0.9 --random_offset --standardise"),
}
STEPWISE = list(SETTINGS)
SETTINGS["two epochs"] = "pose", "--num_epoch 2"
SEED = 7


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data set of each lab. Their caches are there already; no test changes them."""
    base = tmp_path_factory.mktemp("data")
    return {
        "pose": make_dataset(base / "pose", train=13),
        "robot": make_robot_data(base / "robot", validate=1),
    }


@pytest.fixture
def line(data):
    """line(setting, folder) -> the flags of its run."""

    def flags(setting, folder, *more):
        lab, text = SETTINGS[setting]
        tiny = POSE if lab == "pose" else ROBOT
        return "Trainer", "--DR", data[lab], "--save_root", folder, *tiny, *text.split(), *more

    return flags


@pytest.fixture(scope="module")
def runs():
    return {}


@pytest.fixture
def whole(runs, line, children, tmp_path_factory):
    """whole(setting, plots) -> the folder of its run that nothing happened to, trained once."""

    def run(setting="plain", plots=False):
        if (setting, plots) not in runs:
            folder = tmp_path_factory.mktemp("whole") / "run"
            start = time.perf_counter()
            done = children.run(*line(setting, folder), plots=plots)
            assert done.code == 0, done.err
            runs[setting, plots] = folder, time.perf_counter() - start, done.places
        return runs[setting, plots]

    return run


def content(path):
    """What a file holds, without where its run was."""
    if path.suffix == ".ckpt":
        state = load(path.parent, path.name)
        return state | {"args": without_place(state["args"])}
    if path.name == "args.json":
        return without_place(json.loads(path.read_text()))
    return path.read_bytes()


def without_place(args):
    told = {"save_root", "resume", "save_every_steps", "keep", "max_skipped", "cache_dir"}
    return {flag: value for flag, value in args.items() if flag not in told}


def tree(folder):
    return sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())


def contents(folder):
    return {path: (folder / path).read_bytes() for path in tree(folder)}


def assert_same_files(a, b):
    assert tree(a) == tree(b)
    differing = {str(p): d for p in tree(a) if (d := differences(content(a / p), content(b / p)))}
    assert differing == {}


def assert_no_traceback(done):
    assert "Traceback" not in done.out + done.err, done.err


def assert_ended(done, code=0):
    assert done.code == code, done.out + done.err
    assert_no_traceback(done)


def nothing_unfinished(folder):
    return not list(Path(folder).rglob("*.partial"))


def test_the_comparison_sees_a_bit_a_file_and_a_sign(whole, tmp_path):
    folder, *_ = whole()
    other = shutil.copytree(folder, tmp_path / "other")
    assert_same_files(folder, other)
    state = load(other)
    weight = next(w for w in state["state_dict"].values() if w.dim() == 1)
    weight.view(torch.int32)[0] ^= 1
    torch.save(state, other / "last.ckpt")
    with pytest.raises(AssertionError, match="last.ckpt"):
        assert_same_files(folder, other)
    assert differences(torch.tensor(0.0), torch.tensor(-0.0)) and differences(0.0, -0.0)
    shutil.copy(folder / "last.ckpt", other / "last.ckpt")
    (other / ".left.partial").touch()
    with pytest.raises(AssertionError, match="partial"):
        assert_same_files(folder, other)


# ---------------------------------------------------------------- SIGKILL


@pytest.mark.parametrize(
    ("setting", "plots", "kills"),
    [("every random draw and EMA", True, 14), ("the robot lab", False, 12)],
)
def test_a_run_killed_at_random_moments_is_the_uninterrupted_one(
    whole, line, children, tmp_path, fault, setting, plots, kills
):
    folder, seconds, _ = whole(setting, plots)
    rng, parts, where = random.Random(SEED), tmp_path / "parts", []
    flags = line(setting, parts, "--save_every_steps", 1)
    print(f"random.Random({SEED}), {seconds:.2f} s a run")
    while len(where) < kills:
        child = children.start(*flags, plots=plots)
        time.sleep(rng.uniform(0, seconds))
        child.kill(signal.SIGKILL)
        done = child.wait()
        assert_no_traceback(done)
        if done.code == 0:  # it was done before: once more from the start
            assert_same_files(folder, parts)
            shutil.rmtree(parts)
        else:
            assert done.code == -signal.SIGKILL
            where += done.places[-1:] or ["before the first step"]
    print("killed after", *where, sep=", ")
    assert_ended(children.run(*flags, plots=plots))
    assert_same_files(folder, parts)
    fault(f"SIGKILL at random moments, {setting}", "carried on: same files, every bit", len(where))


def kill_at(place, nth):
    return [(place, nth, "SIGKILL")]


def occurrences(places, kind):
    return range(1, sum(place.split()[0] == kind for place in places) + 1)


@pytest.mark.parametrize("kind", ["save", "half"])
def test_a_run_killed_at_any_save_is_the_uninterrupted_one(
    whole, line, children, tmp_path, fault, kind
):
    """Before each rename, and with each checkpoint half written."""
    folder, *_ = whole("two epochs")
    flags = "--save_every_steps", 2
    counted = children.run(*line("two epochs", tmp_path / "counted", *flags)).places
    times = occurrences(counted, kind)
    assert len(times) > 7
    for nth in times:
        parts = tmp_path / f"parts{nth}"
        done = children.run(*line("two epochs", parts, *flags), at=kill_at(kind, nth))
        assert done.code == -signal.SIGKILL
        assert list(parts.rglob(".*.partial"))
        assert_ended(children.run(*line("two epochs", parts, *flags)))
        assert_same_files(folder, parts)
    what = {"save": "before a rename", "half": "with a checkpoint half written"}[kind]
    fault(f"SIGKILL {what}", "carried on: same files, every bit", len(times))


def test_a_run_killed_while_validating_is_the_uninterrupted_one(
    whole, line, children, tmp_path, fault
):
    folder, _, places = whole()
    parts, kills = tmp_path / "parts", 0
    for nth in (1, 4, 6, 9, 12):  # of the frames that this process validates
        done = children.run(*line("plain", parts), at=kill_at("frame", nth))
        kills += done.code == -signal.SIGKILL
        assert nothing_unfinished(parts)
    assert_ended(children.run(*line("plain", parts)))
    assert_same_files(folder, parts)
    assert kills == 5
    fault("SIGKILL during validation", "carried on: same files, every bit", kills)


def test_a_run_killed_while_drawing_draws_again(whole, line, children, tmp_path, fault):
    folder, _, places = whole("plain", plots=True)
    drawn = [p.split()[1] for p in places if p.startswith("save ") and p.endswith((".png", ".gif"))]
    assert len(drawn) == len(set(drawn)) > 8
    parts = shutil.copytree(folder, tmp_path / "parts")
    for name in drawn[::4]:
        for path in [*parts.rglob("*.png"), *parts.rglob("*.gif")]:
            path.unlink()
        at = kill_at(f"save {name}", 1)
        assert children.run(*line("plain", parts), at=at, plots=True).code == -signal.SIGKILL
    assert_ended(children.run(*line("plain", parts), plots=True))
    assert_same_files(folder, parts)
    fault("SIGKILL while a plot is saved", "drawn again, the same", len(drawn[::4]))


@pytest.mark.parametrize("what", ["SIGKILL", "SIGTERM"])
def test_a_run_that_dies_while_decoding_leaves_no_cache_that_is_not_whole(
    whole, line, children, tmp_path, fault, what
):
    folder, *_ = whole()
    cache, parts = tmp_path / "cache", tmp_path / "parts"
    flags = line("plain", parts, "--cache_dir", cache)
    code = -signal.SIGKILL if what == "SIGKILL" else 128 + signal.SIGTERM
    for nth in (1, 7, 12):  # the first of its arrays holds 13 pictures
        assert_ended(children.run(*flags, at=[("picture", nth, what)]), code)
        assert not list(cache.glob("*.npy"))
        assert what == "SIGKILL" or nothing_unfinished(cache)
    assert_ended(children.run(*flags))
    assert_same_files(folder, parts)
    assert nothing_unfinished(cache)
    fault(f"{what} while pictures are decoded", "no cache left, decoded anew", 3)


def test_a_kill_while_a_run_is_moved_aside_loses_none_of_its_files(
    whole, line, children, tmp_path, fault, monkeypatch
):
    folder, *_ = whole()
    before = {str(p): (folder / p).read_bytes() for p in tree(folder)}
    for renames in range(4):
        parts = shutil.copytree(folder, tmp_path / f"parts{renames}")
        left = iter(range(renames))
        rename = Path.rename

        def fail(path, target, left=left, rename=rename):
            if next(left, None) is None:
                raise KeyboardInterrupt
            rename(path, target)

        with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
            patch.setattr(Path, "rename", fail)
            files.move_aside(parts)
        found = {p.name: (parts / p).read_bytes() for p in tree(parts)}
        assert found == {Path(name).name: data for name, data in before.items()}
    fault("killed while --resume never moves a run aside", "no file lost", 4)


# ---------------------------------------------------------------- signals

MOMENTS = {  # of three steps an epoch and six frames a validation
    "after the first step": ("step", 1),
    "in the middle of an epoch": ("stepped", 1),
    "at the last step of an epoch": ("step", 1),
    "at the first frame of a validation": ("frame", 1),
    "at its last frame": ("frame", 6),
    "while an epoch is saved": ("save best_score.ckpt", 1),
    "at the last step of all": ("step", 2),
    "at the last frame of all": ("frame", 6),
}


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1"])
def test_a_signal_at_any_moment_saves_and_the_same_command_carries_on(
    whole, line, children, tmp_path, fault, name
):
    folder, *_ = whole()
    parts, number = tmp_path / "parts", getattr(signal, name)
    for moment, (place, nth) in MOMENTS.items():
        done = children.run(*line("plain", parts), at=[(place, nth, name)])
        assert_ended(done, 128 + number)
        assert f"stopped by {name}" in done.err
        assert nothing_unfinished(parts), moment
    assert_ended(children.run(*line("plain", parts)))
    assert_same_files(folder, parts)
    fault(f"{name} at every kind of moment", f"saved, exit {128 + number}", len(MOMENTS))


@pytest.mark.parametrize("setting", STEPWISE)
def test_a_run_stopped_after_every_step_is_the_uninterrupted_one(
    whole, line, children, tmp_path, fault, setting
):
    """A process for every step; one more finishes."""
    folder, *_ = whole(setting)
    parts, places = tmp_path / "parts", []
    steps = load(folder)["step"]
    for _ in range(steps):
        done = children.run(*line(setting, parts), at=[("stepped", 1, "SIGTERM")])
        assert_ended(done, 143)
        assert "the same command carries on there" in done.err + done.out
        state = load(parts)
        assert state["steps_done"] > 0
        places.append((state["last_epoch"], state["step"]))
    assert places == sorted(places) and [step for _, step in places] == [*range(1, steps + 1)]
    assert {epoch for epoch, _ in places} == {0, 1, 2}
    assert_ended(children.run(*line(setting, parts)))
    assert_same_files(folder, parts)
    fault(f"stopped after every step, {setting}", "carried on: same files, every bit", steps)


def test_a_stop_says_where_and_so_does_the_start_after_it(line, children, tmp_path):
    parts = tmp_path / "parts"
    done = children.run(*line("plain", parts), at=[("stepped", 5, "SIGUSR1")])
    assert f"{parts / 'last.ckpt'}: epoch 1, after 2 steps" in done.out + done.err
    done = children.run(*line("plain", parts), at=[("stepped", 1, "SIGUSR1")])
    assert "epoch 1, after 2 of its steps" in done.out


@pytest.mark.parametrize("at", ["half", "save last.ckpt"])
def test_a_second_signal_stops_at_once(whole, line, children, tmp_path, fault, at):
    folder, *_ = whole()
    parts = tmp_path / "parts"
    assert_ended(children.run(*line("plain", parts), at=[("stepped", 4, "SIGTERM")]), 143)
    before = (parts / "last.ckpt").read_bytes()
    twice = [("stepped", 1, "SIGTERM"), (at, 1, "SIGINT")]
    assert_ended(children.run(*line("plain", parts), at=twice), 130)
    assert (parts / "last.ckpt").read_bytes() == before
    assert nothing_unfinished(parts)
    assert_ended(children.run(*line("plain", parts)))
    assert_same_files(folder, parts)
    fault("a second signal during the save", "stops at once, older last.ckpt whole")


def test_a_signal_while_drawing_ends_well_and_draws_again(whole, line, children, tmp_path, fault):
    folder, *_ = whole("plain", plots=True)
    parts, picture = tmp_path / "parts", ("save curves.png", 1, "SIGTERM")
    assert_ended(children.run(*line("plain", parts), at=[picture], plots=True), 143)
    assert nothing_unfinished(parts)
    assert_ended(children.run(*line("plain", parts), plots=True))
    assert_same_files(folder, parts)
    fault("SIGTERM while plots are drawn", "exit 143, drawn by the same command")


# ---------------------------------------------------------------- the newest file is damaged


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A run folder of small checkpoints that differ, and what each holds."""
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


def carried_on_with(folder, known):
    """The name of the file that is carried on with; what was read of it must be what it held."""
    path, state = ckpt.newest(folder)
    assert differences(state, known[path.name]) == []
    return path.name


@pytest.fixture
def damage(good, tmp_path):
    """damage(bytes of last.ckpt) -> the file that is carried on with."""
    folder, known = good
    copy = shutil.copytree(folder, tmp_path / "copy")

    def carry_on(data):
        (copy / "last.ckpt").write_bytes(data)
        return carried_on_with(copy, known)

    return carry_on


def test_a_newest_file_cut_anywhere_is_left_for_an_older_one(good, damage, fault):
    whole_file = (good[0] / "last.ckpt").read_bytes()
    assert damage(whole_file) == "last.ckpt"
    offsets = [len(whole_file) * i // 20 for i in range(20)]
    offsets += [len(whole_file) - i for i in (1, 2, 21, 22, 23, 60)]
    for offset in offsets:
        assert damage(whole_file[:offset]) == "epoch=1.ckpt"
    fault("last.ckpt cut off", "epoch=N.ckpt before it is used, and said", len(offsets))


def test_a_newest_file_with_a_flipped_bit_is_left_or_reads_as_it_was(good, damage, fault):
    """No bit of it may turn into other content. Some bits, as of padding, hold none."""
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
    fault("a bit of last.ckpt flipped", "epoch=N.ckpt before it is used", used["epoch=1.ckpt"])
    fault("a bit of last.ckpt flipped, of padding", "read as it was", used["last.ckpt"])


def test_every_bit_of_a_files_index_is_seen_or_holds_nothing(tmp_path, fault):
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
        "refused, or read as it was",
        8 * (len(data) - start),
    )


def test_every_flipped_bit_of_the_numbers_is_seen(good, damage):
    whole_file = bytearray((good[0] / "last.ckpt").read_bytes())
    torch.manual_seed(8)
    start = whole_file.index(torch.randn(40).numpy().tobytes())
    for spot in range(start, start + 160, 7):
        data = whole_file.copy()
        data[spot] ^= 1
        assert damage(bytes(data)) == "epoch=1.ckpt"


def test_the_newest_that_is_not_damaged_is_used(good, tmp_path):
    folder, known = shutil.copytree(good[0], tmp_path / "copy"), good[1]
    order = ["last.ckpt", "epoch=1.ckpt", "best_score.ckpt", "epoch=0.ckpt"]
    for i, name in enumerate(order):
        assert carried_on_with(folder, known) == name
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) * (i + 1) // 5])
    with pytest.raises(UserError, match=r"last\.ckpt.*--resume never.*--resume PATH"):
        ckpt.newest(folder)


@pytest.mark.parametrize("how", ["cut", "flipped", "malicious"])
def test_a_run_with_a_damaged_last_ckpt_ends_as_the_uninterrupted_one(
    whole, line, children, tmp_path, fault, how
):
    folder, *_ = whole()
    parts = tmp_path / "parts"
    children.run(*line("plain", parts), at=[("stepped", 5, "SIGTERM")])
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
    done = children.run(*line("plain", parts))
    assert_ended(done)
    assert "epoch=0.ckpt" in done.out and str(last) in done.out
    assert not (tmp_path / "hit").exists()
    assert_same_files(folder, parts)
    what = {"cut": "cut in half", "flipped": "with a flipped bit", "malicious": "a pickle of code"}
    fault(f"last.ckpt {what[how]}", "said; epoch=0.ckpt carried on, no code run")


class Touch:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_a_damaged_best_score_is_said_and_the_next_score_counts(
    whole, line, children, tmp_path, fault
):
    parts = tmp_path / "parts"
    children.run(*line("plain", parts), at=[("stepped", 5, "SIGTERM")])
    (parts / "best_score.ckpt").write_bytes(b"PK")
    done = children.run(*line("plain", parts))
    assert_ended(done)
    assert "best_score.ckpt is missing or damaged" in done.out
    assert load(parts, "best_score.ckpt")["best_score"] == load(parts)["best_score"]
    fault("best_score.ckpt damaged", "said; the next score counts")


# ---------------------------------------------------------------- the disk is full


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
    """Fill a disk but for so many bytes -> the file that does."""
    path, free = disk / "fill", shutil.disk_usage(disk).free
    path.write_bytes(bytes(max(free - left, 0)))
    return path


def test_a_full_disk_during_any_save_leaves_the_last_good_files(
    whole, line, children, tmp_path, fault
):
    folder, *_ = whole()
    size, parts = (folder / "last.ckpt").stat().st_size, tmp_path / "parts"
    assert_ended(children.run(*line("plain", parts), at=[("stepped", 4, "SIGTERM")]), 143)
    room = [0, 5000, size // 2, size - 9000, size + 9000, 2 * size + 9000]
    with small_disk(tmp_path / "disk", "8m") as disk:
        for left in room:
            run = shutil.copytree(parts, disk / "run")
            filler = fill(disk, left)
            done = children.run(*line("plain", run))
            assert_ended(done, 1)
            assert "cannot be written" in done.err
            assert nothing_unfinished(run)
            if left < size:
                assert_same_files(run, parts)
            assert [ckpt.load(path) for path in run.glob("*.ckpt")]
            filler.unlink()
            assert_ended(children.run(*line("plain", run)))
            assert_same_files(folder, run)
            shutil.rmtree(run)
    fault("a full disk (tmpfs) during a save", "exit 1, older files whole; carried on", len(room))


def test_a_file_size_limit_during_a_save_leaves_the_last_good_files(
    whole, line, children, tmp_path, fault
):
    folder, *_ = whole()
    parts, size = tmp_path / "parts", (folder / "last.ckpt").stat().st_size
    assert_ended(children.run(*line("plain", parts), at=[("stepped", 4, "SIGTERM")]), 143)
    kept = contents(parts)
    limits = [3000, 20_000, size // 2, size - 20_000]
    for limit in limits:
        done = children.run(*line("plain", parts), limit=limit)
        assert_ended(done, 1)
        assert "cannot be written" in done.err
        assert contents(parts) == kept
    assert_ended(children.run(*line("plain", parts)))
    assert_same_files(folder, parts)
    fault("a size limit on files during a save", "exit 1, older files whole", len(limits))


@pytest.mark.parametrize("any_space", [False, True])
def test_a_disk_too_small_for_the_cache_is_said_and_no_signal_kills(
    line, children, tmp_path, fault, any_space
):
    """Also where the space is taken by others after it was asked for: `any_space`."""
    with small_disk(tmp_path / "disk", "64k") as disk:
        size = "--frame_H", 48, "--frame_W", 64
        flags = line("plain", tmp_path / "run", "--cache_dir", disk, *size)
        done = children.run(*flags, any_space=any_space)
        assert_ended(done, 1)
        assert "--cache_dir" in done.err
        assert not list(disk.glob("*.npy")) and nothing_unfinished(disk)
    assert tree(tmp_path / "run") == []
    fault("a disk too small for the cache", "exit 1, --cache_dir named, nothing left")


# ---------------------------------------------------------------- steps that are not finite


@pytest.fixture
def one_trainer(data, tmp_path):
    """one_trainer(lab, flags) -> a Trainer before its first step."""

    def make(lab, *more):
        tiny = POSE if lab == "pose" else ROBOT
        flags = ["--DR", data[lab], "--save_root", tmp_path / "run", *tiny, *more]
        args, _ = parse("Trainer", [str(flag) for flag in flags])
        lab = Trainer.LABS[lab](args)
        return Trainer.Trainer(args, torch.device("cpu"), lab.open_train(), lab.open_val())

    return make


def learned(trainer):
    state = trainer.state()
    kept = ("state_dict", "trained_weights")
    return {name: state[name] for name in kept} | {"moments": state["optimizer"]["state"]}


def without_moments_of_zero(moments):
    """A step that is skipped may set moments up, as zeros."""
    return {i: m for i, m in moments.items() if any(v.any() for v in m.values() if v.dim())}


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("optim", OPTIMIZERS)
@pytest.mark.parametrize("lab", ["pose", "robot"])
def test_a_poisoned_batch_leaves_every_tensor_as_it_was(one_trainer, fault, lab, optim, first):
    trainer = one_trainer(lab, "--ema", 0.5, "--optim", optim, "--tfr", 0, "--lr", 1e-3)
    trainer.model.train()
    frames, conditions = next(trainer.clips.fetch(trainer.clips.batches(0)))
    if not first:
        trainer.training_one_step(frames, conditions, False)
    before = copy.deepcopy(learned(trainer))
    for value in (float("nan"), float("inf")):
        poisoned = frames.clone()
        poisoned[0, 1, 0, 0, 0] = value
        assert trainer.training_one_step(poisoned, conditions, False).tolist() == [0, 0, 0, 0]
    after = learned(trainer)
    for state in (before, after) if first else ():
        state["moments"] = without_moments_of_zero(state["moments"])
    assert differences(before, after) == []
    for _ in range(2):
        trainer.training_one_step(frames, conditions, False)
    weights = torch.cat([w.flatten() for w in trainer.model.parameters()])
    assert weights.isfinite().all() and weights.abs().max() < 10
    assert differences(before, learned(trainer)) != []
    fault("a batch of NaN or infinity, every optimizer", "no tensor changed", 2)


@pytest.mark.parametrize("stop", [False, True])
def test_a_run_gives_up_after_max_skipped_with_its_last_good_checkpoint(
    whole, line, children, tmp_path, fault, stop
):
    """Also if it was stopped between its bad steps."""
    folder, *_ = whole()
    flags = line("plain", tmp_path / "run", "--max_skipped", 3)
    if stop:
        done = children.run(*flags, poison=[4], at=[("stepped", 4, "SIGTERM")])
        assert_ended(done, 143)
        done = children.run(*flags, poison=[1, 2, 3])
    else:
        done = children.run(*flags, poison=[4, 5, 6])
    assert_ended(done, 1)
    assert "3 steps in a row" in done.err
    good, kept = load(folder, "epoch=0.ckpt"), load(tmp_path / "run")
    assert (kept["last_epoch"], kept["steps_done"]) == (1, stop)
    for part in ("state_dict", "optimizer", "history"):
        assert differences(good[part], kept[part]) == []
    fault("every step from the fourth on is NaN", "stops after --max_skipped, checkpoint good")


def test_a_run_that_never_had_a_good_step_points_to_no_checkpoint(line, children, tmp_path):
    done = children.run(*line("plain", tmp_path / "run", "--max_skipped", 3), poison=[1, 2, 3])
    assert_ended(done, 1)
    assert "3 steps in a row" in done.err and "ckpt" not in done.err


def test_a_few_poisoned_batches_are_skipped_and_counted(line, children, tmp_path, fault):
    run = tmp_path / "run"
    done = children.run(*line("plain", run, "--max_skipped", 3), poison=[2, 4, 5])
    assert_ended(done)
    state = load(run)
    assert [row["train/skipped"] for row in state["history"]] == [1, 2, 0]
    assert all(w.isfinite().all() for w in state["state_dict"].values())
    fault("three batches of NaN in nine", "skipped, counted, training goes on")


def test_weights_that_predict_nan_never_become_the_best(line, children, tmp_path, one_trainer):
    trainer = one_trainer("pose")
    with torch.no_grad():
        next(trainer.model.Generator.parameters()).fill_(float("nan"))
    scores = trainer.validate()
    Path(tmp_path / "run").mkdir()
    trainer.save_checkpoints(scores)
    assert trainer.best_score is None
    assert not (tmp_path / "run/best_score.ckpt").exists()


HOSTILE = {
    "beta 0 at the start, tfr 0, lr 1e-3": "--kl_anneal_type Cyclical --kl_anneal_cycle 2 --tfr 0",
    "no KL at all": "--kl_anneal_type None --kl_anneal_stop 0 --tfr 0 --grad_clip 0",
    "lr 1": "--lr 1 --tfr 0.5 --tfr_coin batch --optim SGD",
}


@pytest.mark.parametrize("setting", HOSTILE)
def test_settings_that_went_nan_elsewhere_train_through(call, data, tmp_path, fault, setting):
    flags = [*SHORT, "--num_epoch", 6, "--batch_size", 1, *HOSTILE[setting].split()]
    done = call("Trainer", "--DR", data["pose"], "--save_root", tmp_path / "run", *flags)
    assert_ended(done)
    state = load(tmp_path / "run")
    assert all(w.isfinite().all() for w in state["state_dict"].values())
    if setting != "lr 1":
        assert sum(row["train/skipped"] for row in state["history"]) == 0
        losses = [row["train/mse"] for row in state["history"]]
        assert losses[-1] < losses[0]
    fault(f"settings that went NaN elsewhere: {setting}", "trains through, weights finite")


# ---------------------------------------------------------------- two runs, one folder


def test_a_second_run_in_the_same_folder_is_refused(whole, line, children, tmp_path, fault):
    folder, *_ = whole()
    parts = tmp_path / "parts"
    first = children.start(*line("plain", parts), at=[("half", 5, "SIGSTOP")])
    assert first.wait().code is None  # it waits in the middle of a save
    kept = contents(parts)
    assert any(path.suffix == ".partial" for path in kept)
    second = children.run(*line("plain", parts))
    assert_ended(second, 1)
    assert f"another run is training in --save_root {parts}" in second.err
    assert contents(parts) == kept
    first.kill(signal.SIGCONT)
    assert_ended(first.wait())
    assert_same_files(folder, parts)
    fault("a second Trainer in the same --save_root", "refused, the first one undisturbed")


def test_what_a_killed_run_left_unfinished_is_cleared_and_nothing_else(
    whole, line, children, tmp_path
):
    folder, *_ = whole()
    parts = shutil.copytree(folder, tmp_path / "parts")
    own = [".last.ckpt.ab.partial", ".metrics.csv.x.partial", "plots/.mse.png.y.partial"]
    others = ["other/.last.ckpt.ab.partial", ".submission.csv.ab.partial", "my.partial"]
    for name in own + others:
        (parts / name).parent.mkdir(exist_ok=True)
        (parts / name).touch()
    assert_ended(children.run(*line("plain", parts)))
    assert [name for name in own + others if (parts / name).exists()] == others


# ---------------------------------------------------------------- what to carry on with


@pytest.fixture
def half(line, children, tmp_path, no_plots):
    """A run that was stopped in its second epoch."""
    assert_ended(
        children.run(*line("plain", tmp_path / "half"), at=[("stepped", 5, "SIGTERM")]), 143
    )
    return tmp_path / "half"


@pytest.mark.parametrize("name", ["", "last.ckpt", "epoch=0.ckpt"])
def test_resume_takes_a_folder_or_a_file_from_elsewhere(whole, line, call, half, tmp_path, name):
    folder, *_ = whole()
    kept, parts = contents(half), tmp_path / "parts"
    parts.mkdir()
    if name == "":
        shutil.copy(half / "best_score.ckpt", parts)
    done = call(*line("plain", parts, "--resume", half / name))
    assert_ended(done)
    assert f"carrying on with {half / (name or 'last.ckpt')}" in done.out
    assert contents(half) == kept
    assert differences(content(folder / "last.ckpt")["state_dict"], load(parts)["state_dict"]) == []


def test_resume_of_what_is_no_run_is_refused(line, call, half, tmp_path, fault):
    (tmp_path / "empty").mkdir()
    torch.save({"state_dict": load(half)["state_dict"], "lr": 0.1}, tmp_path / "template.ckpt")
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    for name in ("missing", "empty", "template.ckpt", "text.ckpt", "missing/last.ckpt"):
        done = call(*line("plain", tmp_path / "run", "--resume", tmp_path / name))
        assert_ended(done, 1)
        assert str(tmp_path / name) in done.err
        assert tree(tmp_path / "run") == []
    fault("--resume of no run: missing, empty, template, text", "exit 1, named", 5)


def test_resume_never_reads_all_before_it_moves_the_run_aside(line, call, half, tmp_path):
    for name in ("scores.json", "strip0.png", "pred_seq0.gif"):  # as Tester leaves them
        (half / name).write_bytes(b"of the first run")
    kept = contents(half)
    done = call(*line("plain", half, "--resume", "never", "--ckpt_path", half / "nothing.ckpt"))
    assert_ended(done, 1)
    assert contents(half) == kept
    weights = load(half)["state_dict"]
    start = "--resume", "never", "--ckpt_path", half / "last.ckpt", "--lr", 1e-9
    assert_ended(call(*line("plain", half, *start)))
    assert contents(half / "before-1") == kept
    near = load(half)["state_dict"]
    name = "frame_transformation.0.conv1.weight"
    assert torch.allclose(weights[name], near[name], atol=1e-6)


def test_what_may_change_is_said_and_only_that(line, call, half):
    done = call(*line("plain", half, "--num_epoch", 4, "--keep", 2, "--val_every", 3))
    assert_ended(done)
    changed = [text for text in done.out.splitlines() if "changed:" in text]
    assert changed == [
        "  changed: --num_epoch 3 -> 4", "  changed: --keep 0 -> 2", "  changed: --val_every 1 -> 3"
    ]  # fmt: skip


@pytest.mark.parametrize(("keep", "kept"), [(0, [0, 1, 2]), (1, [2]), (2, [1, 2]), (9, [0, 1, 2])])
def test_keep_leaves_the_newest(line, call, tmp_path, no_plots, keep, kept):
    run = tmp_path / "run"
    run.mkdir()
    (run / "epoch=best.ckpt").write_text("of the user")
    assert_ended(call(*line("plain", run, "--keep", keep)))
    assert sorted(p.name for p in run.glob("epoch=[0-9]*")) == [f"epoch={e}.ckpt" for e in kept]
    assert (run / "epoch=best.ckpt").exists()


# ---------------------------------------------------------------- deterministic, bad frames


@pytest.mark.parametrize("setting", ["every random draw and EMA", "the robot lab"])
def test_deterministic_gives_the_same_bits_twice(line, children, tmp_path, setting):
    for name in ("a", "b"):
        assert_ended(children.run(*line(setting, tmp_path / name, "--deterministic")))
    assert_same_files(tmp_path / "a", tmp_path / "b")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("setting", ["every random draw and EMA", "the robot lab"])
def test_deterministic_gives_the_same_bits_twice_on_a_gpu(line, tmp_path, setting):
    """In processes of their own: what is asked of cuBLAS must be asked before its first use."""
    for name in ("a", "b"):
        script, *flags = line(setting, tmp_path / name, "--deterministic", "--device", "cuda")
        command = [sys.executable, ROOT / f"{script}.py", *flags]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert_same_files(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize("lab", ["pose", "robot"])
def test_bad_frames_are_an_error_or_leave_their_clips_out(
    children, line, tmp_path, fault, data, lab
):
    setting = "plain" if lab == "pose" else "the robot lab"
    copy_of = shutil.copytree(data[lab], tmp_path / "data")
    bad = sorted((copy_of / "train").rglob("*.png"))[5]
    bad.write_bytes(bad.read_bytes()[:50])
    flags = line(setting, tmp_path / "run", "--DR", copy_of)
    for _ in range(2):
        done = children.run(*flags)
        assert_ended(done, 1)
        assert str(bad) in done.err and "--skip_bad_frames" in done.err
        done = children.run(*flags, "--skip_bad_frames", "--resume", "never")
        assert_ended(done)
        assert "1 pictures cannot be read; 1 of" in done.out
    bad.write_bytes(sorted((copy_of / "train").rglob("*.png"))[4].read_bytes())
    done = children.run(*flags, "--resume", "never")
    assert_ended(done)
    assert "cannot be read" not in done.out
    fault("a training picture cut off", "named; with --skip_bad_frames its clip is left out")
