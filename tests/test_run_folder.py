"""The files of a run: permissions, args.json, and which of them `--resume never` moves."""

import datetime
import json
import os
import platform
import re
import subprocess

import numpy as np
import pytest
import torch
from helpers import ROOT, SHORT, assert_ended, files_below, load

from modules.config import PoseTraining
from modules.errors import UserError
from modules.runs.environment import commit
from modules.runs.folder import move_aside, occupied, page_folder

pytestmark = pytest.mark.usefixtures("no_plots")


@pytest.fixture
def train(call, dataset, tmp_path):
    """train(flag, ...) -> the run folder."""

    def run(*flags):
        place = "--DR", dataset, "--save_root", tmp_path / "run", "--num_epoch", 1
        assert_ended(call("Trainer", *place, *SHORT, *flags))
        return tmp_path / "run"

    return run


# ---------------------------------------------------------------- permissions


@pytest.fixture
def umask():
    before = os.umask(0o027)
    yield 0o027
    os.umask(before)


@pytest.mark.skipif(os.name != "posix", reason="no umask here")
def test_all_files_of_a_run_and_its_cache_follow_the_umask(train, call, dataset, tmp_path, umask):
    cache, tested = tmp_path / "cache", tmp_path / "tested"
    run = train("--cache_dir", cache, "--store_visualization")
    place = "--DR", dataset, "--save_root", tested, "--ckpt_path", run / "best_score.ckpt"
    assert_ended(call("Tester", *place, "--cache_dir", cache))
    modes = {
        name: (folder / name).stat().st_mode & 0o777
        for folder in (run, cache, tested)
        for name in files_below(folder)
    }
    kinds = {name.rpartition(".")[2] for name in modes}
    assert {"ckpt", "csv", "json", "html", "gif", "npy"} <= kinds
    assert modes == dict.fromkeys(modes, 0o666 & ~umask)


# ---------------------------------------------------------------- args.json


def test_args_json_has_every_setting_and_the_environment(train):
    run = train("--lr", 0.005)
    args = json.loads((run / "args.json").read_text())
    found = args.pop("environment")
    assert args == load(run)["args"] and args["lr"] == 0.005
    assert args.keys() == PoseTraining.names()
    started = datetime.datetime.fromisoformat(found["time"])
    assert abs(datetime.datetime.now(datetime.UTC) - started).total_seconds() < 600
    assert found["commit"] == commit(ROOT)
    assert re.fullmatch(r"([0-9a-f]{40}\+?)?", found["commit"])
    assert found["torch"] == torch.__version__ and found["numpy"] == np.__version__
    assert found["python"] == platform.python_version()
    assert platform.node() in found["machine"] and platform.machine() in found["machine"]
    assert f"{torch.get_num_threads()} threads" in found["processor"]
    assert bool(found["gpus"]) == torch.cuda.is_available()


def git(folder, *words):
    name = "-c", "user.name=t", "-c", "user.email=t@t"
    subprocess.run(["git", "-C", folder, *name, *words], check=True, capture_output=True)


def test_the_commit_is_marked_where_files_differ_from_it(tmp_path):
    assert commit(tmp_path) == ""
    git(tmp_path, "init")
    (tmp_path / "file").write_text("first")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-m", "first")
    git(tmp_path, "tag", "-a", "v1", "-m", "a name is not shown instead")
    clean = commit(tmp_path)
    assert re.fullmatch("[0-9a-f]{40}", clean)
    (tmp_path / "file").write_text("second")
    assert commit(tmp_path) == f"{clean}+"


def test_without_git_the_commit_is_empty(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit(ROOT) == ""


# ---------------------------------------------------------------- --resume never

USERS = ["val_notes.txt", "validation/list.csv", "notes.md", "strip_ideas.txt", "sequence/a.txt"]
USERS += ["metrics.xlsx", "plot.py", "epochs.txt", "before.txt"]
TRACKERS = ["events.out.tfevents.1700000000.host.1.0", "wandb/run-1/files/config.yaml"]


def test_resume_never_moves_the_run_with_its_logs_and_leaves_the_users_files(train, tmp_path):
    run = train("--store_visualization")
    written = files_below(run)
    for name in USERS + TRACKERS:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("content")
    train("--resume", "never", "--lr", 0.002)
    aside = run / "before-1"
    assert files_below(aside) == sorted(written + TRACKERS)
    kept = {name for name in files_below(run) if not name.startswith("before-1")}
    assert kept >= set(USERS) and not kept & set(TRACKERS)
    assert all((run / name).read_text() == "content" for name in USERS)
    assert json.loads((run / "args.json").read_text())["lr"] == 0.002
    assert json.loads((aside / "args.json").read_text())["lr"] == 0.001


def test_a_second_run_is_moved_beside_the_first_and_a_folder_without_a_run_is_left(tmp_path):
    for name in USERS:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("content")
    assert move_aside(tmp_path) is None
    for number in (1, 2):
        (tmp_path / "last.ckpt").write_text(str(number))
        assert move_aside(tmp_path) == tmp_path / f"before-{number}"
    expected = [*USERS, "before-1/last.ckpt", "before-2/last.ckpt"]
    assert files_below(tmp_path) == sorted(expected)


FOREIGN = ["val/val_img/frame0.png", "val.txt", "seq1/notes.txt", "seq1.txt", "plots/mine.png"]
FOREIGN += ["my.ckpt", "epoch=best.ckpt", "visualization/talk.pdf", "strip.png", "wandb/mine.txt"]
FOREIGN += ["test/test_img/0/0.png", "pred_seq1.gif.bak", "events/val.csv", "futures/0.npz"]
FOREIGN += [".last.ckpt.partial", "sequences/a"]


@pytest.mark.parametrize("name", FOREIGN)
def test_only_what_a_run_has_written_is_moved_or_removed(tmp_path, name):
    half_written = [f"{x}.0123456789abcdef.partial" for x in (".last.ckpt", "plots/.mse.png")]
    for file in (name, "last.ckpt", "plots/loss.png", "seq1/pose.gif", *half_written):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("content")
    with occupied(tmp_path):
        assert not any((tmp_path / file).exists() for file in half_written)
        aside = move_aside(tmp_path)
    assert files_below(aside) == ["last.ckpt", "plots/loss.png", "seq1/pose.gif"]
    assert (tmp_path / name).read_text() == "content"


def test_a_run_whose_checkpoints_are_gone_is_moved_aside(train):
    run = train()
    for path in run.glob("*.ckpt"):
        path.unlink()
    before = (run / "metrics.csv").read_bytes()
    train("--lr", 0.002)
    assert (run / "before-1/metrics.csv").read_bytes() == before
    assert load(run)["last_epoch"] == 1


def test_a_page_about_runs_is_not_written_into_a_run(tmp_path):
    (tmp_path / "metrics.csv").write_text("epoch\n")
    with pytest.raises(UserError, match="--out .* is a run folder"):
        page_folder(tmp_path, "--out")
    assert page_folder(tmp_path / "page", "--out").is_dir()


def test_temporary_files_of_killed_runs_are_removed_where_runs_write(tmp_path):
    for name in ("", "plots", "visualization", "other"):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / ".a.0123456789abcdef.partial").touch()
    with occupied(tmp_path):
        assert [*map(str, tmp_path.rglob("*.partial"))] == [
            str(tmp_path / "other/.a.0123456789abcdef.partial")
        ]
