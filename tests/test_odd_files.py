"""Pipes, devices, folders and loops where a file is expected: an error or no file, never a wait."""

import os
import shutil
import signal

import pytest
from helpers import SHORT, assert_no_traceback, nothing_unfinished, train_once

from modules.data.open_world import find_file, read_events
from modules.errors import UserError
from modules.report.groups import find_runs
from modules.report.reading import write_test
from modules.runs.folder import folder_for_test, run_folder

pytestmark = [
    pytest.mark.usefixtures("no_plots"),
    pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes"),
]
SECONDS = 60  # for a script that should end in one


def pipe(path):
    os.mkfifo(path)


def device(path):
    path.symlink_to("/dev/zero")


def loop(path):
    path.symlink_to(path.name)


def folder(path):
    path.mkdir()


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return train_once(tmp_path_factory.mktemp("base"))


@pytest.fixture(autouse=True)
def no_wait():
    """A test that waits for ever fails."""

    def stop(*_):
        raise AssertionError("it waits")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def put(kind, path):
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.parent.mkdir(exist_ok=True)
    kind(path)


RUN = ["console.txt", "args.json", "metrics.csv", "best_score.ckpt", "test.json"]
DATA = [".cache/train-frames_12x16_lock", "events/val.csv"]


@pytest.mark.parametrize("kind", [pipe, folder])
@pytest.mark.parametrize("name", [*RUN, *DATA])
def test_a_run_beside_what_is_no_file_ends_or_says_so(call, base, tmp_path, kind, name, fault):
    run, data = (shutil.copytree(x, tmp_path / x.name) for x in (base.run, base.data))
    if name in DATA:
        shutil.rmtree(data / ".cache")
    put(kind, (data if name in DATA else run) / name)
    done = call("Trainer", "--DR", data, "--save_root", run, *SHORT, "--num_epoch", 2)
    assert_no_traceback(done)
    assert done.code == 0 or (done.code == 1 and len(done.err.splitlines()) == 1), done.err
    assert nothing_unfinished(run)
    fault("a pipe or a folder in the place of a file", "one line, or a run")


@pytest.mark.parametrize("kind", [pipe, folder, device, loop])
def test_no_cache_and_no_comparison_waits_for_what_is_no_file(call, base, tmp_path, kind):
    run, data = (shutil.copytree(x, tmp_path / x.name) for x in (base.run, base.data))
    (manifest,) = (data / ".cache").glob("train-frames*.json")
    put(kind, manifest)
    place = "--DR", data, "--save_root", tmp_path / "other", *SHORT, "--num_epoch", 1
    done = call("Trainer", *place, "--cache_dir", data / ".cache")
    assert_no_traceback(done)
    assert done.code == (1 if kind is folder else 0), done.err
    for name in ("scores.json", "val_frames.csv", "val_clip.json"):
        put(kind, run / name)
        assert len(find_runs([run])) == 1


@pytest.mark.parametrize("kind", [pipe, folder])
def test_events_that_are_no_file_are_an_error_before_training(dataset, kind):
    put(kind, dataset / "events/val.csv")
    assert find_file(dataset, "events/test.csv") is None
    with pytest.raises(UserError, match="is not a file"):
        read_events(dataset, "val")


def test_what_stands_in_the_way_of_a_tests_files_is_named(tmp_path):
    for name in ("strip0.png", "seq0"):
        place = tmp_path / "place"
        run_folder(place / "seq0")
        (place / "seq0/pose.gif").touch()
        (place / "strip0.png").touch()
        run = run_folder(tmp_path / f"run {name}")
        (run / name).mkdir() if name == "strip0.png" else (run / name).touch()
        with pytest.raises(UserError, match=f"{name}.* cannot be replaced"):
            write_test(run, place, {"trained": ""})


def test_the_folder_of_a_test_is_no_link_to_files_of_the_user(tmp_path):
    mine = run_folder(tmp_path / "mine")
    (mine / "note").touch()
    run = run_folder(tmp_path / "run")
    (run / ".test.partial").symlink_to(mine)
    with folder_for_test(run) as place:
        (place / "link").symlink_to(mine)
    assert (mine / "note").exists() and [*run.iterdir()] == []
