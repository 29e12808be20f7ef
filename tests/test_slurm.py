"""The job scripts, most of them on a Slurm cluster of one node that is started here."""

import os
import shutil
import subprocess
import sys
import time

import pytest
import slurm
from helpers import ALL, ROOT, SHORT, assert_same_run, long, make_dataset, read_csv

from modules.report.reading import read_json

needs_slurm = pytest.mark.skipif(bool(slurm.lacking()), reason=str(slurm.lacking()))
EPOCHS = 12  # a run must last longer than Slurm takes to preempt it
FLAGS = [*SHORT, *f"--num_epoch {EPOCHS} --no-plots --train_vi_len 2".split()]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with slurm.Cluster(tmp_path_factory.mktemp("slurm")) as cluster:
        cluster.environment |= {"OMP_NUM_THREADS": "1", "SBATCH_TIMELIMIT": "10"}
        yield cluster


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data") / "data", train=29)


def preempt(cluster):
    """A job of the partition that goes first takes the whole node for a moment."""
    cluster.ask(
        "sbatch", "--partition=high", "--cpus-per-task=8", "--output=/dev/null", "--wrap=true"
    )


def wait_until(true, seconds=240):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.2)


def wait_for_jobs(cluster):
    """Until there are none. Requeued jobs need not wait two minutes for it."""

    def none_left():
        for line in cluster.ask("squeue", "-h", "-r", "-o", "%i %r").splitlines():
            job, reason = line.split(None, 1)
            if reason == "BeginTime":
                cluster.ask("scontrol", "update", f"JobId={job}", "StartTime=now")
        return not cluster.ask("squeue", "-h")

    wait_until(none_left)


@pytest.mark.parametrize("when", ["never", "setup", "run"])
def test_a_job_is_queued_again_whenever_its_end_is_announced(tmp_path, when):
    """Slurm's commands and setup.sh are replaced here."""
    scripts, commands = tmp_path / "scripts", tmp_path / "commands"
    scripts.mkdir()
    commands.mkdir()
    shutil.copy(ROOT / "scripts/slurm.sh", scripts)
    signal = "kill -USR1 $$; sleep 0.1\n"
    (scripts / "setup.sh").write_text(signal if when == "setup" else "")
    run = f"kill -USR1 $PPID; exec {sys.executable} -c 'import time; time.sleep(60)'"
    (commands / "run").write_text(f"echo run >> log\n{run if when == 'run' else ''}\n")
    (commands / "scontrol").write_text('echo "$@" >> log\n')
    for command in commands.iterdir():
        command.write_text("#!/usr/bin/env bash\n" + command.read_text())
        command.chmod(0o755)
    job = "set -e; source scripts/slurm.sh; sleep() { true; }; resumable run"
    environment = os.environ | {"PATH": f"{commands}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    done = subprocess.run(["bash", "-c", job], cwd=tmp_path, env=environment, timeout=50)
    log = (tmp_path / "log").read_text().split("\n")[:-1]
    expected = {"never": ["run"], "setup": ["requeue 7"], "run": ["run", "requeue 7"]}
    assert log == expected[when]
    assert (done.returncode == 0) == (when == "never")


@needs_slurm
def test_an_array_of_runs_of_which_one_is_preempted(cluster, data, tmp_path):
    names = [f"run{i}" for i in range(6 if ALL else 2)]
    lines = ["# name and flags", "", *(f"{name}  --seed {name[3:]}  # a comment" for name in names)]
    (tmp_path / "settings.txt").write_text("\n".join(lines))
    runs = tmp_path / "runs"
    cluster.environment |= {"SBATCH_GPUS": "0", "SBATCH_OUTPUT": f"{tmp_path}/%x-%A_%a.out"}
    words = ["bash", "scripts/slurm_sweep.sbatch", tmp_path / "settings.txt", runs, *FLAGS]
    cluster.environment["DR"] = str(data)
    cluster.ask(*words, cwd=ROOT)
    wait_until(lambda: (runs / "run1/last.ckpt").exists())
    preempt(cluster)
    wait_for_jobs(cluster)
    logs = "".join(path.read_text() for path in tmp_path.glob("*.out"))
    assert "is queued again" in logs
    assert "resuming" in logs
    for name in names:
        assert len(read_csv(runs / name / "metrics.csv")) == EPOCHS, logs
        assert (runs / name / "scores.json").exists(), logs
        assert read_json(runs / name / "args.json")["seed"] == int(name[3:])
    assert names[-1] in (runs / "compare/report.html").read_text()


@needs_slurm
@long
def test_a_preempted_job_of_torchrun_ends_like_one_that_was_not(cluster, data, tmp_path):
    cluster.environment |= {"SBATCH_GPUS_PER_NODE": "0", "SBATCH_OUTPUT": f"{tmp_path}/%x-%j.out"}
    cluster.environment["PROCESSES"] = "2"
    whole, run = tmp_path / "whole", tmp_path / "run"
    for folder in (whole, run):
        words = ["--DR", data, *FLAGS, "--save_root", folder]
        cluster.ask("sbatch", "scripts/slurm_train.sbatch", *words, cwd=ROOT)
        if folder == run:
            wait_until(lambda: (run / "last.ckpt").exists())
            preempt(cluster)
        wait_for_jobs(cluster)
    assert_same_run(whole, run)
    logs = "".join(path.read_text() for path in tmp_path.glob("*.out"))
    assert logs.count("is queued again") == logs.count("resuming") == 1
