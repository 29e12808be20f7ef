"""Runs that are killed or stopped: resumed, they end as the run that was never interrupted.

All files are compared, every bit: see helpers.reproducible for what is left out.
"""

import contextlib
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from helpers import (
    ALL,
    assert_ended,
    assert_no_traceback,
    assert_same_files,
    contents,
    differences,
    fewer,
    load,
    nothing_unfinished,
    tree,
)

from modules.runs.folder import move_aside

STEPWISE = [
    "plain", "every source of randomness and EMA", "free running, AdamW",
    "posterior of the previous frame", "the robot lab",
]  # fmt: skip
SEED = 7


def test_the_comparison_sees_a_bit_a_file_and_a_sign(whole, tmp_path):
    folder, *_ = whole()
    other = shutil.copytree(folder, tmp_path / "run")
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


@pytest.mark.parametrize("column", ["train/loss", "val/psnr", "epoch"])
def test_the_comparison_sees_every_column_but_the_speed(whole, tmp_path, column):
    folder, *_ = whole()
    other = shutil.copytree(folder, tmp_path / "run")
    head, *rows = (other / "metrics.csv").read_text().splitlines()
    rows = [row.split(",") for row in rows]
    for name in ("train/frames_per_second", column):
        rows[1][head.split(",").index(name)] = "99"
        lines = [head, *map(",".join, rows)]
        (other / "metrics.csv").write_text("\n".join(lines) + "\n")
        if name != column:
            assert_same_files(folder, other)
    with pytest.raises(AssertionError, match="metrics.csv"):
        assert_same_files(folder, other)


# ---------------------------------------------------------------- SIGKILL


@pytest.mark.parametrize(
    ("setting", "plots", "kills"),
    [
        ("every source of randomness and EMA", True, fewer(14)),
        ("the robot lab", False, fewer(12)),
    ],
)
def test_a_run_killed_at_random_moments_resumes_identically(
    whole, command, children, tmp_path, setting, plots, kills
):
    folder, seconds, _ = whole(setting, plots)
    rng, parts, where = random.Random(SEED), tmp_path / "parts", []
    flags = command(setting, parts, "--save_every_steps", 1)
    print(f"random.Random({SEED}), {seconds:.2f} s a run")
    while len(where) < kills:
        child = children.start(*flags, plots=plots)
        time.sleep(rng.uniform(0, seconds))
        child.kill(signal.SIGKILL)
        done = child.wait()
        assert_no_traceback(done)
        if done.code == 0:  # it had finished: start again
            assert_same_files(folder, parts)
            shutil.rmtree(parts)
        else:
            assert done.code == -signal.SIGKILL
            where += done.places[-1:] or ["before the first step"]
    print("killed after", *where, sep=", ")
    assert_ended(children.run(*flags, plots=plots))
    assert_same_files(folder, parts)


def kill_at(place, nth):
    return [(place, nth, "SIGKILL")]


def occurrences(places, kind):
    return range(1, sum(place.split()[0] == kind for place in places) + 1)


@pytest.mark.parametrize("kind", ["save", "half"])
def test_a_run_killed_at_any_save_resumes_identically(whole, command, children, tmp_path, kind):
    """Before each rename, and with each checkpoint half written."""
    folder, *_ = whole("two epochs")
    flags = "--save_every_steps", 2
    counted = children.run(*command("two epochs", tmp_path / "counted", *flags)).places
    times = occurrences(counted, kind)
    assert len(times) > 7
    times = times if ALL else times[::2]
    for nth in times:
        parts = tmp_path / f"parts{nth}"
        done = children.run(*command("two epochs", parts, *flags), at=kill_at(kind, nth))
        assert done.code == -signal.SIGKILL
        assert list(parts.rglob(".*.partial"))
        assert_ended(children.run(*command("two epochs", parts, *flags)))
        assert_same_files(folder, parts)


def test_a_run_killed_during_validation_resumes_identically(whole, command, children, tmp_path):
    folder, *_ = whole()
    parts, kills = tmp_path / "parts", 0
    for nth in (1, 4, 6, 9, 12):  # of the frames that this process validates
        done = children.run(*command("plain", parts), at=kill_at("frame", nth))
        kills += done.code == -signal.SIGKILL
        assert nothing_unfinished(parts)
    assert_ended(children.run(*command("plain", parts)))
    assert_same_files(folder, parts)
    assert kills == 5


def test_a_run_killed_while_plotting_plots_again(whole, command, children, tmp_path):
    folder, _, places = whole("plain", plots=True)
    drawn = [p.split()[1] for p in places if p.startswith("save ") and p.endswith((".png", ".gif"))]
    assert len(drawn) == len(set(drawn)) > 8
    parts = shutil.copytree(folder, tmp_path / "parts")
    tried = drawn[:: 4 if ALL else 8]
    for name in tried:
        for path in [*parts.rglob("*.png"), *parts.rglob("*.gif")]:
            path.unlink()
        at = kill_at(f"save {name}", 1)
        assert children.run(*command("plain", parts), at=at, plots=True).code == -signal.SIGKILL
    assert_ended(children.run(*command("plain", parts), plots=True))
    assert_same_files(folder, parts)


@pytest.mark.parametrize("what", ["SIGKILL", "SIGTERM"])
def test_a_run_that_dies_while_decoding_leaves_no_incomplete_cache(
    whole, command, children, tmp_path, what
):
    folder, *_ = whole()
    cache, parts = tmp_path / "cache", tmp_path / "parts"
    flags = command("plain", parts, "--cache_dir", cache)
    code = -signal.SIGKILL if what == "SIGKILL" else 128 + signal.SIGTERM
    for nth in (1, 7, 12):  # the first array has 13 images
        assert_ended(children.run(*flags, at=[("picture", nth, what)]), code)
        assert not list(cache.glob("*.npy"))
        assert what == "SIGKILL" or nothing_unfinished(cache)
    assert_ended(children.run(*flags))
    assert_same_files(folder, parts)
    assert nothing_unfinished(cache)


def test_a_kill_while_a_run_is_moved_aside_loses_none_of_its_files(
    whole, command, children, tmp_path, monkeypatch
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
            move_aside(parts)
        found = {p.name: (parts / p).read_bytes() for p in tree(parts)}
        assert found == {Path(name).name: data for name, data in before.items()}


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


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_at_any_moment_saves_and_the_same_command_resumes(
    whole, command, children, tmp_path, name
):
    folder, *_ = whole()
    parts, number = tmp_path / "parts", getattr(signal, name)
    for moment, (place, nth) in MOMENTS.items():
        done = children.run(*command("plain", parts), at=[(place, nth, name)])
        assert_ended(done, 128 + number)
        assert f"stopped by {name}" in done.err
        assert nothing_unfinished(parts), moment
    assert_ended(children.run(*command("plain", parts)))
    assert_same_files(folder, parts)


@pytest.mark.parametrize("setting", STEPWISE)
def test_a_run_stopped_after_every_step_resumes_identically(
    whole, command, children, tmp_path, setting
):
    """One process per step, and one more that finishes."""
    folder, *_ = whole(setting)
    parts, places = tmp_path / "parts", []
    steps = load(folder)["step"]
    for _ in range(steps):
        done = children.run(*command(setting, parts), at=[("stepped", 1, "SIGTERM")])
        assert_ended(done, 143)
        assert "the same command resumes there" in done.err + done.out
        state = load(parts)
        assert state["steps_done"] > 0
        places.append((state["last_epoch"], state["step"]))
    assert places == sorted(places) and [step for _, step in places] == [*range(1, steps + 1)]
    assert {epoch for epoch, _ in places} == {0, 1, 2}
    assert_ended(children.run(*command(setting, parts)))
    assert_same_files(folder, parts)


def test_the_epoch_and_step_are_printed_when_a_run_stops_and_resumes(command, children, tmp_path):
    parts = tmp_path / "parts"
    done = children.run(*command("plain", parts), at=[("stepped", 5, "SIGUSR1")])
    assert f"{parts / 'last.ckpt'}: epoch 1, after 2 steps" in done.out + done.err
    done = children.run(*command("plain", parts), at=[("stepped", 1, "SIGUSR1")])
    assert "epoch 1, after 2 of its steps" in done.out


@pytest.mark.parametrize("at", ["half", "save last.ckpt"])
def test_a_second_signal_stops_at_once(whole, command, children, tmp_path, at):
    folder, *_ = whole()
    parts = tmp_path / "parts"
    assert_ended(children.run(*command("plain", parts), at=[("stepped", 4, "SIGTERM")]), 143)
    before = (parts / "last.ckpt").read_bytes()
    twice = [("stepped", 1, "SIGTERM"), (at, 1, "SIGINT")]
    assert_ended(children.run(*command("plain", parts), at=twice), 130)
    assert (parts / "last.ckpt").read_bytes() == before
    assert nothing_unfinished(parts)
    assert_ended(children.run(*command("plain", parts)))
    assert_same_files(folder, parts)


def test_a_signal_while_plotting_exits_cleanly_and_plots_again(whole, command, children, tmp_path):
    folder, *_ = whole("plain", plots=True)
    parts, picture = tmp_path / "parts", ("save curves.png", 1, "SIGTERM")
    assert_ended(children.run(*command("plain", parts), at=[picture], plots=True), 143)
    assert nothing_unfinished(parts)
    assert_ended(children.run(*command("plain", parts), plots=True))
    assert_same_files(folder, parts)


# ---------------------------------------------------------------- two runs, one folder


def test_a_second_run_in_the_same_folder_is_refused(whole, command, children, tmp_path):
    folder, *_ = whole()
    parts = tmp_path / "parts"
    first = children.start(*command("plain", parts), at=[("half", 5, "SIGSTOP")])
    assert first.wait().code is None  # stopped in the middle of a save
    kept = contents(parts)
    assert any(path.suffix == ".partial" for path in kept)
    second = children.run(*command("plain", parts))
    assert_ended(second, 1)
    assert f"another run is training in --save_root {parts}" in second.err
    assert contents(parts) == kept
    first.kill(signal.SIGCONT)
    assert_ended(first.wait())
    assert_same_files(folder, parts)


def test_temporary_files_of_a_killed_run_are_deleted_and_nothing_else(
    whole, command, children, tmp_path
):
    folder, *_ = whole()
    parts = shutil.copytree(folder, tmp_path / "parts")
    digits = "0123456789abcdef"
    own = [".last.ckpt", ".metrics.csv", "plots/.mse.png", "plots/.mse.pdf"]
    own = [f"{name}.{digits}.partial" for name in own]
    others = [f"other/.last.ckpt.{digits}.partial", f".submission.csv.{digits}.partial"]
    others += ["my.partial", ".last.ckpt.ab.partial"]
    for name in own + others:
        (parts / name).parent.mkdir(exist_ok=True)
        (parts / name).touch()
    assert_ended(children.run(*command("plain", parts)))
    assert [name for name in own + others if (parts / name).exists()] == others
