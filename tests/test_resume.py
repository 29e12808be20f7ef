"""Exact resume in every setting that changes the state; --resume; what is moved aside and kept."""

import shutil
import subprocess
import sys

import pytest
import torch
from conftest import SETTINGS
from helpers import (
    ROOT,
    SHORT,
    assert_ended,
    assert_same_files,
    assert_same_run,
    contents,
    differences,
    load,
    stop,
    tree,
)


@pytest.mark.parametrize("setting", SETTINGS)
def test_an_interrupted_run_equals_the_uninterrupted_one(
    command, call, tmp_path, monkeypatch, no_plots, setting
):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert_ended(call(*command(setting, whole)))
    with monkeypatch.context() as patch:
        stop(patch, epoch=1, step=0)
        assert_ended(call(*command(setting, parts)), 143)
    assert [load(parts)[name] for name in ("last_epoch", "steps_done")] == [1, 1]
    done = call(*command(setting, parts))
    assert_ended(done)
    assert "resuming" in done.out
    assert_same_run(whole, parts)


# ---------------------------------------------------------------- what to resume from


@pytest.fixture
def half(command, children, tmp_path, no_plots):
    """A run that was stopped in its second epoch."""
    half = tmp_path / "half"
    done = children.run(*command("plain", half), at=[("stepped", 5, "SIGTERM")])
    assert_ended(done, 143)
    assert f"{half / 'last.ckpt'}: epoch 1, after 2 steps" in done.out + done.err
    return half


@pytest.mark.parametrize("name", ["", "last.ckpt", "epoch=0.ckpt"])
def test_resume_takes_a_folder_or_a_file_from_elsewhere(whole, command, call, half, tmp_path, name):
    folder = whole()
    kept, parts = contents(half), tmp_path / "parts"
    parts.mkdir()
    if name == "":
        shutil.copy(half / "best_score.ckpt", parts)
    done = call(*command("plain", parts, "--resume", half / name))
    assert_ended(done)
    assert f"resuming {half / (name or 'last.ckpt')}" in done.out
    assert ("epoch 1, after 2 of its steps" in done.out) == (name != "epoch=0.ckpt")
    assert contents(half) == kept
    assert differences(load(folder)["state_dict"], load(parts)["state_dict"]) == []


def test_resume_from_a_path_without_a_run_is_refused(command, call, half, tmp_path):
    (tmp_path / "empty").mkdir()
    torch.save({"state_dict": load(half)["state_dict"], "lr": 0.1}, tmp_path / "template.ckpt")
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    for name in ("missing", "empty", "template.ckpt", "text.ckpt", "missing/last.ckpt"):
        done = call(*command("plain", tmp_path / "run", "--resume", tmp_path / name))
        assert_ended(done, 1)
        assert str(tmp_path / name) in done.err
        assert tree(tmp_path / "run") == []


def test_resume_never_reads_its_inputs_before_it_moves_the_run_aside(command, call, half, tmp_path):
    for name in ("scores.json", "strip0.png", "pred_seq0.gif"):  # as Tester writes them
        (half / name).write_bytes(b"of the first run")
    kept = contents(half)
    done = call(*command("plain", half, "--resume", "never", "--ckpt_path", half / "nothing.ckpt"))
    assert_ended(done, 1)
    assert contents(half) == kept
    weights = load(half)["state_dict"]
    start = "--resume", "never", "--ckpt_path", half / "last.ckpt", "--lr", 1e-9
    assert_ended(call(*command("plain", half, *start)))
    assert contents(half / "before-1") == kept
    near = load(half)["state_dict"]
    name = "frame_transformation.0.conv1.weight"
    assert torch.allclose(weights[name], near[name], atol=1e-6)


def test_changed_settings_are_printed_and_only_those(command, call, half):
    done = call(*command("plain", half, "--num_epoch", 4, "--keep", 2, "--val_every", 3))
    assert_ended(done)
    changed = [text for text in done.out.splitlines() if "changed:" in text]
    assert changed == [
        "  changed: --num_epoch 3 -> 4", "  changed: --keep 0 -> 2", "  changed: --val_every 1 -> 3"
    ]  # fmt: skip


def test_a_resumed_run_keeps_its_keep_and_deletes_only_its_own_files(call, dataset, tmp_path):
    run = tmp_path / "run"
    flags = ["--DR", dataset, "--save_root", run, *SHORT, "--no-plots", "--per_save", 2]
    flags += ["--kl_anneal_type", "None"]
    assert_ended(call("Trainer", *flags, "--num_epoch", 3, "--keep", 0))
    (run / "epoch=1.ckpt").write_text("not of this run: it saves every second epoch")
    (run / "epoch=99.ckpt").write_text("not of this run: it has not come so far")
    others = {"epoch=1.ckpt", "epoch=99.ckpt"}

    def kept(epochs, *more):
        done = call("Trainer", *flags, "--num_epoch", epochs, *more)
        assert_ended(done)
        return {path.name for path in run.glob("epoch=*.ckpt")} - others

    assert kept(5) == {"epoch=0.ckpt", "epoch=2.ckpt", "epoch=4.ckpt"}
    assert kept(6, "--keep", 1) == {"epoch=4.ckpt"}
    assert all((run / name).exists() for name in others)


# ---------------------------------------------------------------- deterministic, unreadable frames


def test_deterministic_gives_the_same_bits_twice(command, children, tmp_path):
    for name in ("a", "b"):
        assert_ended(children.run(*command("the robot lab", tmp_path / name, "--deterministic")))
    assert_same_files(tmp_path / "a", tmp_path / "b")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("setting", ["every source of randomness and EMA", "the robot lab"])
def test_deterministic_gives_the_same_bits_twice_on_a_gpu(command, tmp_path, setting):
    """In child processes: cuBLAS reads its settings at its first use."""
    for name in ("a", "b"):
        script, *flags = command(setting, tmp_path / name, "--deterministic", "--device", "cuda")
        command = [sys.executable, ROOT / f"{script}.py", *flags]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert_same_files(tmp_path / "a", tmp_path / "b")
