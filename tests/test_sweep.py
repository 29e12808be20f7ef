"""scripts/sweep.py and the lists of runs: what is skipped, resumed, listed and compared."""

import json
import os
import signal
import sys
import threading
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
from helpers import ROOT, SHORT, load, write_tested
from matplotlib.text import Text

from modules.cli.parser import parse
from modules.errors import UserError
from modules.report import charts
from modules.report.reading import Run

sys.path.insert(0, str(ROOT / "scripts"))
import jobs
import make_toy_data
import results
import sweep

REPORTS = [f"report_{letter}" for letter in "abcde"]
LISTS = [*REPORTS, "sweep_kl", "sweep_tfr", "sweep_seeds"]
RUNS = dict(zip(LISTS, (2, 7, 12, 9, 3, 4, 5, 3)))


# ---------------------------------------------------------------- the lists


@pytest.fixture
def listed(shell, monkeypatch, tmp_path):
    """listed(script, word, ..., cwd, NAME=value) -> the words that it hands to sweep.py."""

    def words(*given, cwd=tmp_path, **more):
        monkeypatch.chdir(cwd)
        ((python, *found),) = shell(*given, cwd=cwd, **more)
        assert python == str(ROOT / "scripts/sweep.py")
        return found

    return words


def jobs_listed(words):
    return sweep.jobs_of(sweep.parse_arguments(words))


@pytest.mark.parametrize("script", LISTS)
def test_every_list_holds_command_lines_of_trainer(script, listed):
    words = listed(script, DR="data")
    found, args = jobs_listed(words), sweep.parse_arguments(words)
    assert len(found) == len({job.name for job in found}) == RUNS[script]
    assert not [job.name for job in found if job.settings.contradiction()]
    settings = [job.settings.as_dict() | {"save_root": None} for job in found]
    assert all(settings.count(one) == 1 for one in settings)  # no two runs are the same
    assert args.save_root == ROOT / "runs" / script
    assert bool(args.published) == script.startswith("report")


@pytest.mark.parametrize("script", REPORTS)
def test_every_figure_and_table_of_a_report_has_columns_and_runs(script, listed):
    words = listed(script, DR="data")
    args, jobs = sweep.parse_arguments(words), {job.name: job for job in jobs_listed(words)}
    flags = set(next(iter(jobs.values())).settings.as_dict())
    figures = [(runs, [column], by) for _, column, runs, *by in args.figure]
    tables = [(runs, columns, [by]) for _, runs, by, *columns in args.table]
    for runs, columns, by in [*figures, *tables, *((runs, [], []) for runs, _ in args.published)]:
        assert results.chosen(jobs, runs), runs
        assert set(columns) <= charts.QUANTITIES.keys() and set(by) <= flags and len(by) <= 2
    pictures = {f"{name}/{x}" for name in jobs for x in ("pred_seq0.gif", "strip0.png")}
    assert {source for _, source in args.copy} <= pictures
    names = [name for name, *_ in (*args.figure, *args.table, *args.copy)]
    assert len(set(names)) == len(names) > 3


@pytest.mark.parametrize("script", LISTS)
def test_smoke_shrinks_every_list_onto_drawn_data(script, listed, monkeypatch):
    drawn = []
    monkeypatch.setattr(sweep, "draw_data", lambda folder, lab: drawn.append(lab) or f"drawn_{lab}")
    words = listed(script, DR="data", SMOKE="1")
    found = jobs_listed(words)
    assert len(found) == RUNS[script] and len(set(drawn)) == 1
    assert {job.settings.DR for job in found} == {f"drawn_{drawn[0]}"}
    assert {job.settings.num_epoch for job in found} <= {24, 30}
    assert not [job.name for job in found if job.settings.contradiction()]
    assert sweep.parse_arguments(words).save_root == ROOT / "runs" / f"{script}_smoke"
    drawing = make_toy_data.parse_arguments(
        ["out", "--lab", drawn[0], *sweep.DRAWN[drawn[0]].split()]
    )
    assert drawing.out.name == "out"


def test_jobs_gpus_and_names_come_from_the_environment(listed):
    words = listed("report_c", "runs", DR="data", JOBS="4", GPUS="0,1", ONLY="None/tfr*")
    args = sweep.parse_arguments(words)
    assert (args.jobs, args.gpus) == (4, ["0", "1"])
    assert [job.name for job in jobs_listed(words)] == ["None/tfr1", "None/tfr0.5", "None/tfr0"]


# ---------------------------------------------------------------- sweeps


class Forked:
    """A process as jobs.start() returns it, forked by the server of children.py. If it stops at a
    place, we get Ctrl-C.
    """

    def __init__(self, child, log):
        self.child, self.log, self.code = child, log, None
        self.thread = threading.Thread(target=self.follow)
        self.thread.start()

    def follow(self):
        done = self.child.wait()
        if done.code is None:
            os.kill(os.getpid(), signal.SIGINT)
            done = self.child.wait()
        with open(self.log, "a") as file:
            file.write(done.out + done.err)
        self.code = done.code

    def poll(self):
        return self.code

    def wait(self):
        self.thread.join()

    def send_signal(self, number):
        self.child.kill(number)
        self.child.kill(signal.SIGCONT)


@pytest.fixture
def carry_out(children, monkeypatch, in_process):
    """carry_out(word, ..., stop_at) -> code, out, err, the scripts started: sweep.py, in this
    process. The nth script is stopped by Ctrl-C after its first step.
    """

    def carried_out(*words, stop_at=None):
        started = []

        def start(command, log, environment):
            started.append((command[0], log.parent))
            stop = [("stepped", 1, "SIGSTOP")] if len(started) == stop_at else []
            return Forked(
                children.start(command[0].removesuffix(".py"), *command[1:], at=stop), log
            )

        monkeypatch.setattr(jobs, "start", start)
        monkeypatch.setattr(jobs, "PAUSE", 0.01)
        done = in_process(sweep.main, "sweep.py", *words)
        return SimpleNamespace(**vars(done), started=started)

    return carried_out


def test_report_c_from_one_command_is_stopped_and_resumed(carry_out, listed, dataset, tmp_path):
    runs = tmp_path / "runs"
    small = [*SHORT, "--num_epoch", 1, "--no-plots"]
    words = listed("report_c", runs, *small, DR=str(dataset), ONLY="None/tfr*")

    first = carry_out(*words, stop_at=3)  # the second run
    assert first.code == 128 + signal.SIGINT, first.out + first.err
    stopped = runs / "None/tfr0.5"
    assert first.started[-1] == ("Trainer.py", stopped)
    assert load(stopped)["steps_done"] == 1
    assert not (stopped / "scores.json").exists()

    second = carry_out(*words)
    assert second.code == 0, second.out + second.err
    assert second.started[0] == ("Trainer.py", stopped)
    assert "resuming" in (stopped / "sweep.log").read_text()
    scripts = Counter(script for script, _ in second.started)
    assert scripts == {"Trainer.py": 2, "Tester.py": 2}
    assert len(list(runs.rglob("scores.json"))) == 3
    assert second.err.count(": PSNR ") == 2
    page = (runs / "compare/report.html").read_text()
    assert all(f"tfr{tfr}" in page for tfr in (1, 0.5, 0))
    table = (runs / "figures/published.md").read_text()
    assert table in second.out and table.count("\n") == 2 + 3
    assert "\n| None/tfr1 | 20.62 | 1 | " in table and "\n| None/tfr0 | - | 1 | " in table
    drawn = "train_loss train_mse train_kl train_tfr train_beta val_psnr PSNR_per_frame".split()
    drawn += ["kl", "psnr_per_frame", "test_clip0", "val_clip"]
    for width in results.WIDTHS:
        figures = {path.name for path in (runs / "figures" / width).iterdir()}
        assert figures == {f"{name}.{kind}" for name in drawn for kind in ("png", "pdf")}
    assert "figure train_loss_200: no run has values" in second.out  # not among ONLY

    again = carry_out(*words)
    assert (again.code, again.started, again.err) == (0, [], "")


def test_a_table_has_mean_and_deviation_of_the_last_values_of_finished_runs():
    def run(tfr, *losses):
        rows = [{"epoch": i, "train/loss": x, "val/loss": None} for i, x in enumerate(losses)]
        settings = {"tfr": tfr, "num_epoch": 2}
        return Run(Path(f"{tfr}"), settings, rows, [], {}, [], set())

    runs = {"a": run(0.0, 9, 1), "b": run(0.0, 8, 2), "c": run(0.0, 7), "d": run(1.0, 9, 5)}
    head, rows = results.mean_table(runs, "tfr", ["train/loss", "val/loss"])
    assert head == ["runs", "n", "Loss (training)", "Loss (validation)"]
    assert rows == [["tfr 0.0", "2", "1.5 ± 0.7071", "-"], ["tfr 1.0", "1", "5", "-"]]


@pytest.fixture
def words(dataset, tmp_path):
    small = [*SHORT, "--num_epoch", "1", "--no-plots"]
    return ["--DR", dataset, "--save_root", tmp_path / "runs", "--all", *small]


@pytest.fixture
def report(words, tmp_path, monkeypatch):
    """report(word, ...): the tables and figures of one run, whose name a shell would not like."""
    name = "a|b\033[1m"

    def reported(*given):
        args = sweep.parse_arguments([str(x) for x in (*given, *words, "--run", name)])
        (job,) = sweep.jobs_of(args)
        job.folder.mkdir(parents=True)
        (job.folder / "metrics.csv").write_text("epoch,train/kl\n0,1\n1,2\n")
        results.report(args, [job])
        return tmp_path / "runs/figures"

    return reported


def test_names_stay_text_in_tables(report, capsys):
    folder = report("--published", "*", "x|y", "--figure", "f\033[1m", "train/kl", "*")
    row = (folder / "published.md").read_text().splitlines()[2]
    assert row.startswith(r"| a\|b\x1b[1m | x\|y | 2 |")
    assert "\033" not in capsys.readouterr().out


def test_a_figure_or_table_that_cannot_be_written_is_left_out(report, tmp_path, capsys):
    for place in ("column/f.png", "t.md", "c.gif"):
        (tmp_path / "runs/figures" / place).mkdir(parents=True)
    os.mkfifo(tmp_path / "runs/figures/published.md")
    (tmp_path / "runs/c.gif").touch()
    words = "--figure f train/kl * --published * x --table t * lr train/loss --copy c .."
    folder = report(*words.split(), "--figure", "g", "train/kl", "*")
    assert (folder / "page/g.pdf").is_file() and (folder / "column/kl.png").is_file()
    shown = capsys.readouterr().out
    assert (folder / "published.md").is_file()
    for name in ("figure f", "table t", "figure c"):
        assert f"warning: {name} is left out: " in shown


@pytest.mark.parametrize("panels", [1, 3])
def test_figures_are_as_wide_as_a_column_and_a_page_with_text_of_8_points(tmp_path, panels):
    lines = [charts.Series(f"run {i}", [0, 1, 2], [i, i + 1, i], style=i) for i in range(4)]
    chart = charts.Chart(
        "c", "A title", "epoch", "dB", [charts.Panel(f"p{i}", lines) for i in range(panels)]
    )
    rows = {name: np.zeros((30, 8, 16, 3), np.uint8) for name in ("truth", "run 1")}
    with matplotlib.rc_context(results.STYLE):
        for width in results.WIDTHS.values():
            for figure in (
                results.chart_figure(width, chart),
                results.strip_figure(width, rows),
            ):
                figure.draw_without_rendering()
                assert figure.get_figwidth() == width
                texts = figure.findobj(lambda x: isinstance(x, Text) and x.get_text())
                assert {x.get_fontsize() for x in texts} == {8}
                tight = figure.get_tightbbox()
                assert tight.x0 > -0.02 and tight.x1 < width + 0.02


def test_a_failed_run_is_listed_at_the_end_and_stops_no_other(carry_out, words, tmp_path):
    runs = ["--run", "bad", "--ckpt_path", "nowhere", "--run", "good"]
    done = carry_out(*words, *runs)
    assert done.code == 1
    assert (tmp_path / "runs/good/scores.json").exists()
    message = (
        "1 of 2 runs failed; the same command tries them again\n  bad: error: nowhere is not a"
    )
    assert done.err.startswith("bad failed: error: nowhere is not a")  # at once
    assert message in done.err
    assert str(tmp_path / "runs/bad/sweep.log") in done.err


@pytest.fixture
def job(dataset, tmp_path):
    """job(flag, ...): a job whose run of one epoch was trained and tested with the defaults."""

    def make(*flags):
        place = ["--DR", str(dataset), "--save_root", str(tmp_path / "run")]
        return jobs.Job("one", [*place, "--num_epoch", "1", *map(str, flags)])

    folder = make().folder
    folder.mkdir()
    (folder / "args.json").write_text(json.dumps(make().settings.as_dict()))
    (folder / "metrics.csv").write_text("epoch\n0\n")
    write_tested(folder, {"submission.csv": "", "scores.json": "{}"})
    return make


def test_tester_reads_the_flags_that_it_shares_with_the_run(job):
    flags = job("--per_save", 2, "--deterministic", "--device", "cpu", "--num_workers", 3)
    flags.folder.joinpath("scores.json").unlink()
    flags.folder.joinpath("test.json").unlink()
    _, (script, *words) = flags.commands()
    test, typed = parse(script.removesuffix(".py"), words)
    assert (test.deterministic, test.device, test.num_workers) == (True, "cpu", 3)


def test_a_complete_run_is_skipped_unless_it_has_other_settings(job):
    assert job().commands() == job("--device", "cpu").commands() == []
    with pytest.raises(UserError, match="was trained with --lr 0.001, now it is 0.5"):
        job("--lr", 0.5).commands()


def test_a_run_that_was_tested_before_its_end_is_trained_on_and_tested_again(job):
    longer = job("--num_epoch", 2, "--device", "cpu").commands()
    assert [command[0] for command in longer] == ["Trainer.py", "Tester.py"]
    assert longer[1][-2:] == ["--device", "cpu"]
    with open(job().folder / "metrics.csv", "a") as file:
        file.write("1\n")
    assert [command[0] for command in job().commands()] == ["Trainer.py", "Tester.py"]


def test_a_test_that_was_interrupted_is_repeated_and_without_true_frames_has_no_scores(
    job, dataset
):
    (job().folder / "scores.json").unlink()
    assert len(job().commands()) == 2
    (dataset / "test/test_truth").rename(dataset / "hidden")
    assert job().commands() == []


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (["--run", "../out"], "--run ../out: a new name must follow"),
        (["--run", "a", "--run", "a/"], "--run a/: a new name must follow"),
        (["--run", "a", "--lerning_rate", "1"], "unrecognized arguments: --lerning_rate 1"),
        (["--run", "a", "--more", "--save_root", "b"], "a sweep chooses the folder"),
        (["--run", "a", "--scene", "--sigmoid"], "a: --scene composites"),
        ([], "no run is called *"),
        (["--run", "a"], "--DR nowhere is not a folder"),
    ],
)
def test_a_wrong_list_is_refused_before_anything_is_trained(carry_out, words, more, text):
    if "nowhere" in text:
        words = ["--DR", "nowhere", *words[2:]]
    done = carry_out(*words, *more)
    assert done.code in (1, 2) and done.started == []
    assert text in done.err


def test_a_figure_of_no_column_is_refused(carry_out, words):
    done = carry_out("--figure", "f", "loss", "*", *words, "--run", "a")
    assert done.code == 1 and "--figure: no column loss, but train/loss, " in done.err


# ---------------------------------------------------------------- the queue


class Finished:
    """A process that has ended by the second look, with this code."""

    def __init__(self, code=0):
        self.code, self.looks = code, 0

    def poll(self):
        self.looks += 1
        return None if self.looks < 2 else self.code

    def wait(self):
        pass

    def send_signal(self, number):
        pass


def test_runs_are_spread_over_gpus_and_cores(monkeypatch, dataset, tmp_path):
    started, most, environments = [], [], []

    def start(command, log, environment):
        started.append(Finished())
        most.append(sum(process.looks < 2 for process in started))
        environments.append(environment)
        return started[-1]

    monkeypatch.setattr(jobs, "start", start)
    monkeypatch.setattr(jobs, "PAUSE", 0)
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    names = [str(i) for i in range(6)]
    runs = [jobs.Job(i, ["--DR", str(dataset), "--save_root", str(tmp_path / i)]) for i in names]
    queue = jobs.Queue(runs, ["0", "1", "0", "1"])
    queue.carry_out()
    assert max(most) == 4 and not queue.failed
    gpus = Counter(environment["CUDA_VISIBLE_DEVICES"] for environment in environments)
    assert len(environments) == 12 and set(gpus) == {"0", "1"}
    assert {environment["OMP_NUM_THREADS"] for environment in environments} == {"4"}


def throw_if(condition, step):
    if condition:
        raise OSError(5, f"no {step}", "place")


@pytest.mark.parametrize("step", ["commands", "Trainer.py", "Tester.py", "code", "ended"])
def test_a_step_that_fails_costs_its_run_only(step, monkeypatch, dataset, tmp_path, capsys):
    """A step of the run b raises, or its process fails: a and c are carried out."""

    def start(command, log, environment):
        throw_if(log.parent.name == "b" and step == command[0], step)
        return Finished(code=-9 if log.parent.name == "b" and step == "code" else 0)

    def commands_of(job):
        throw_if(step == "commands" and job.name == "b", step)
        return commands(job)

    def note(job, seconds):
        throw_if(step == "ended" and job.name == "b", step)
        ended.append(job.name)

    ended, commands = [], jobs.Job.commands
    monkeypatch.setattr(jobs, "start", start)
    monkeypatch.setattr(jobs, "PAUSE", 0)
    monkeypatch.setattr(jobs.Job, "commands", commands_of)
    place = ["--DR", str(dataset), "--save_root"]
    runs = [jobs.Job(name, [*place, str(tmp_path / name)]) for name in "abc"]
    queue = jobs.Queue(runs, [None, None], note)
    queue.carry_out()
    assert ended == ["a", "c"] and queue.failed.keys() == {"b"} and not queue.running
    cause = "killed by SIGKILL" if step == "code" else f"place: no {step}"
    assert cause in queue.failed["b"]
    assert f"b failed: {queue.failed['b']}" in capsys.readouterr().err
    with pytest.raises(UserError, match="1 of 3 runs failed"):
        jobs.raise_failures(queue)


def test_a_terminal_shows_the_plan_and_the_last_line_of_each_run(
    monkeypatch, dataset, tmp_path, capsys
):
    def start(command, log, environment):
        log.write_text("epoch 0\nepoch 1\n")
        return Finished()

    monkeypatch.setattr(jobs, "start", start)
    monkeypatch.setattr(jobs, "PAUSE", 0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    place = ["--DR", str(dataset), "--num_epoch", "5", "--save_root"]
    runs = [jobs.Job(name, [*place, str(tmp_path / name)]) for name in ("a\033[1m", "b", "c")]
    runs[1].folder.mkdir()
    (runs[1].folder / "metrics.csv").write_text("epoch\n0\n1\n")
    jobs.Queue(runs, [None, None]).carry_out()
    shown = capsys.readouterr().err
    assert "3 runs, 2 at once: 0 trained, 1 begun, 2 new; 13 of 15 epochs left, " in shown
    assert "b: epoch 1" in shown and "3/3 runs" in shown
    assert "a\\x1b[1m: epoch 1" in shown and "\033[1m" not in shown


def test_a_script_has_a_session_of_its_own_and_its_text_is_kept(tmp_path):
    process = jobs.start(["Trainer.py", "--help"], tmp_path / "log", dict(os.environ))
    assert os.getsid(process.pid) == process.pid
    assert process.wait() == 0
    assert "--kl_anneal_type" in (tmp_path / "log").read_text()
