"""The scores and pictures of a run folder are those of one test, or its readers say why not."""

import json
import os
import shutil

import pytest
from helpers import SHORT, assert_ended, contents, nothing_unfinished, tree

from modules.report.groups import find_runs
from modules.report.pages import write_run_page
from modules.report.reading import files_of_test, read_run, write_test
from modules.runs.folder import folder_for_test

pytestmark = pytest.mark.usefixtures("no_plots")
SCORE = 87.25  # dB


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained.run, tmp_path / "run")


@pytest.fixture
def words(trained, run):
    """The flags of a test of the run, into its own folder."""
    return "--DR", trained.data, "--save_root", run, "--ckpt_path", run / "best_score.ckpt"


def a_test(folder, name, files):
    """A test's files, all with this content, in a folder of their own."""
    place = folder / name
    for file in files:
        (place / file).parent.mkdir(parents=True, exist_ok=True)
        (place / file).write_text(name)
    return place


def shown(folder):
    """The contents of all files that a reader takes for those of one test."""
    return {(folder / name).read_text() for name in files_of_test(folder)[0]}


OLD = ["pred_seq0.gif", "pred_seq1.gif", "seq0/pose.gif", "scores.json", "strip0.png"]
NEW = ["pred_seq0.gif", "scores.json", "strip0.png", "test_clip0.json"]


def test_a_test_replaces_the_one_before_and_no_file_of_the_user(tmp_path):
    folder = tmp_path / "run"
    a_test(tmp_path, "run", ["strip_ideas.txt", "pred_seq7.gif"])
    write_test(folder, a_test(tmp_path, "old", OLD), {"trained": ""})
    write_test(folder, a_test(tmp_path, "new", NEW), {"trained": ""})
    assert files_of_test(folder) == ({*NEW}, "")
    found = {str(path) for path in tree(folder)}
    assert found == {*NEW, "test.json", "strip_ideas.txt", "pred_seq7.gif"}


class Killed(BaseException):
    pass


@pytest.mark.parametrize("moment", range(8))
def test_a_test_that_is_killed_while_it_moves_its_files_is_never_mixed(
    tmp_path, monkeypatch, moment
):
    folder = tmp_path / "run"
    folder.mkdir()
    write_test(folder, a_test(tmp_path, "old", OLD), {"trained": ""})
    passed, replace, unlink = [], os.replace, type(folder).unlink

    def dies(action):
        def act(*given, **more):
            if len(passed) == moment:
                raise Killed
            passed.append(given)
            return action(*given, **more)

        return act

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(os, "replace", dies(replace))
        patch.setattr(type(folder), "unlink", dies(unlink))
        write_test(folder, a_test(tmp_path, "new", NEW), {"trained": ""})
    assert len(shown(folder)) <= 1
    if moment == 0:
        assert shown(folder) == {"old"}
    elif not shown(folder):
        assert "stopped while it moved" in files_of_test(folder)[1]
    write_test(folder, a_test(tmp_path, "next", NEW), {"trained": ""})
    assert shown(folder) == {"next"}
    assert not (folder / "pred_seq1.gif").exists()


# ---------------------------------------------------------------- whole scripts


def on_page(folder):
    return f"{SCORE:.3f}" in (folder / "report.html").read_text()


def mark_scores(run):
    """Give the run's test a score that is seen wherever it is shown."""
    scores = json.loads((run / "scores.json").read_text())
    scores["mean"]["psnr"] = SCORE
    (run / "scores.json").write_text(json.dumps(scores))
    write_run_page(run)
    assert on_page(run)


def test_a_finished_run_that_is_run_again_keeps_its_test(call, trained, run, words):
    assert_ended(call("Tester", *words))
    mark_scores(run)
    train = "--DR", trained.data, "--save_root", run, *SHORT, "--num_epoch"
    assert_ended(call("Trainer", *train, 1))
    assert on_page(run)
    copy = shutil.copytree(run, run.with_name("copy"))
    for path in copy.iterdir():  # a copy without its times
        os.utime(path, (10**9, 10**9) if path.name == "scores.json" else None)
    assert read_run(copy).scores["psnr"] == SCORE
    assert_ended(call("Trainer", *train, 2))
    assert not on_page(run) and "trained on after its test" in (run / "report.html").read_text()


@pytest.mark.parametrize("place", ["save submission.csv", "save test.json"])
def test_what_a_killed_tester_leaves_is_removed_by_the_next(
    children, call, run, words, capsys, place
):
    """While it writes its files, and while it moves them."""
    assert_ended(call("Tester", *words))
    before = contents(run)
    done = children.run("Tester", *words, at=[(f"{place}", 1, "SIGKILL")])
    assert done.code == -9 and not nothing_unfinished(run)
    after = {k: v for k, v in contents(run).items() if ".test.partial" not in k.parts}
    kept = [k for k in before if k.name != "console.txt"]
    assert all(after[name] == before[name] for name in kept)
    assert find_runs([run])[0].note == ""
    assert_ended(call("Tester", *words))
    assert nothing_unfinished(run)


def test_one_test_at_a_time_writes_into_a_folder(call, run, words):
    with folder_for_test(run):
        done = call("Tester", *words)
        assert_ended(done, 1)
        assert "another test is writing into" in done.err and done.err.count("\n") == 0
    assert_ended(call("Tester", *words))
