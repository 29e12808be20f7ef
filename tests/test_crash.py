"""Runs that are killed or stopped: resumed, they end as the run that was never interrupted.

All files are compared, every bit: see helpers.reproducible for what is left out.
"""

import shutil
import signal

import pytest
import torch
from helpers import (
    assert_ended,
    assert_same_files,
    assert_same_run,
    contents,
    differences,
    load,
    nothing_unfinished,
)

STEPWISE = ["every source of randomness and EMA", "the robot lab"]


def test_the_comparison_sees_a_bit_a_file_and_a_sign(whole, tmp_path):
    folder = whole()
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


# ---------------------------------------------------------------- SIGKILL


def kill_at(place, nth):
    return [(place, nth, "SIGKILL")]


@pytest.mark.parametrize("kind", ["save", "half"])
def test_a_run_killed_at_any_save_resumes_identically(whole, command, children, tmp_path, kind):
    """Before the first rename, before the second one of the next process, and so on until the
    run ends before that; or with checkpoints half written.
    """
    folder = whole("two epochs")
    parts, code, kills = tmp_path / "parts", -signal.SIGKILL, 0
    while code == -signal.SIGKILL:
        kills += 1
        done = children.run(
            *command("two epochs", parts, "--save_every_steps", 2), at=kill_at(kind, kills)
        )
        code = done.code
        assert (code == 0) != bool(list(parts.rglob(".*.partial")))
    assert_ended(done)
    assert kills > 4
    assert_same_files(folder, parts)


def test_a_run_ended_while_it_plots_plots_again(whole, command, children, tmp_path):
    folder = whole()
    parts = shutil.copytree(folder, tmp_path / "parts")
    for what, code in (("SIGKILL", -9), ("SIGTERM", 143)):
        at = [("save curves.png", 1, what)]
        assert children.run(*command("plain", parts), at=at, plots=True).code == code
        assert not (parts / "plots/curves.png").exists()
    assert nothing_unfinished(parts)
    assert_ended(children.run(*command("plain", parts), plots=True))
    assert {"curves.png", "traversal.png"} <= {path.name for path in (parts / "plots").iterdir()}
    assert_same_run(folder, parts)


@pytest.mark.parametrize("what", ["SIGKILL", "SIGTERM"])
def test_a_run_that_dies_while_decoding_leaves_no_incomplete_cache(
    whole, command, children, tmp_path, what
):
    folder = whole()
    cache, parts = tmp_path / "cache", tmp_path / "parts"
    flags = command("plain", parts, "--cache_dir", cache)
    code = -signal.SIGKILL if what == "SIGKILL" else 128 + signal.SIGTERM
    assert_ended(children.run(*flags, at=[("picture", 7, what)]), code)  # of 13 of an array
    assert not list(cache.glob("*.npy"))
    assert what == "SIGKILL" or nothing_unfinished(cache)
    assert_ended(children.run(*flags))
    assert_same_files(folder, parts)
    assert nothing_unfinished(cache)


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
    folder = whole()
    parts, number = tmp_path / "parts", getattr(signal, name)
    for moment in [*MOMENTS] if name == "SIGTERM" else [*MOMENTS][1::3]:
        place, nth = MOMENTS[moment]
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
    folder = whole(setting)
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


def test_a_second_signal_stops_at_once(whole, command, children, tmp_path):
    folder = whole()
    parts = tmp_path / "parts"
    assert_ended(children.run(*command("plain", parts), at=[("stepped", 4, "SIGTERM")]), 143)
    before = (parts / "last.ckpt").read_bytes()
    twice = [("stepped", 1, "SIGTERM"), ("half", 1, "SIGINT")]
    assert_ended(children.run(*command("plain", parts), at=twice), 130)
    assert (parts / "last.ckpt").read_bytes() == before
    assert nothing_unfinished(parts)
    assert_ended(children.run(*command("plain", parts)))
    assert_same_files(folder, parts)


# ---------------------------------------------------------------- two runs, one folder


def test_a_second_run_in_the_same_folder_is_refused(whole, command, children, tmp_path):
    folder = whole()
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


# ---------------------------------------------------------------- damaged files


def test_a_run_with_a_damaged_last_ckpt_resumes_identically_from_an_older_one(
    whole, command, children, tmp_path
):
    folder = whole()
    parts = tmp_path / "parts"
    children.run(*command("plain", parts), at=[("stepped", 5, "SIGTERM")])
    last = parts / "last.ckpt"
    last.write_bytes(last.read_bytes()[: last.stat().st_size // 2])
    done = children.run(*command("plain", parts))
    assert_ended(done)
    assert "epoch=0.ckpt" in done.out and str(last) in done.out
    assert_same_files(folder, parts)


def test_a_missing_best_score_is_reported_and_the_next_score_counts(command, children, tmp_path):
    parts = tmp_path / "parts"
    children.run(*command("plain", parts), at=[("stepped", 5, "SIGTERM")])
    (parts / "best_score.ckpt").unlink()
    done = children.run(*command("plain", parts))
    assert_ended(done)
    assert "best_score.ckpt is missing" in done.out
    assert load(parts, "best_score.ckpt")["best_score"] == load(parts)["best_score"]
