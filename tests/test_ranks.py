"""Data-parallel training by the processes of torchrun, on the CPU."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers import ALL, ROOT, SHORT, assert_same_run, load, make_dataset, settings_of
from rank_cases import CASES, make_noise_data, record

from modules.errors import UserError
from modules.process.ranks import Ranks
from modules.process.signals import Stopped
from Trainer import train

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the processes are found in /proc")
FEW = ["pose, posterior of the previous frame", "pose, best recipe"]
# The cases by number of processes. All of them agree with four, too: NAMES = {4: [*CASES]}.
NAMES = {2: [*CASES], 4: FEW} if ALL else {2: [*CASES]}
TRAIN = "--num_epoch 9 --train_vi_len 2 --shuffle --ema 0.9 --no-plots"
MINUTE = 60


def torchrun(count, script, *words, more=()):
    """torchrun on this machine -> the process of the launcher."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc_per_node={count}", *more, ROOT / script, *words]
    env = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(list(map(str, command)), text=True, env=env, cwd=ROOT, **pipes)


def ended(process, timeout=300):
    out, err = process.communicate(timeout=timeout)
    errors = [line for line in err.splitlines() if "error: " in line and "Trainer.py" not in line]
    return SimpleNamespace(code=process.returncode, out=out, err=err, errors=errors)


# ---------------------------------------------------------------- the numbers


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    base = tmp_path_factory.mktemp("ranks")
    return {"pose": make_dataset(base / "pose", train=29), "robot": make_noise_data(base / "robot")}


@pytest.fixture(scope="module")
def alone(data):
    torch.set_num_threads(1)
    return {name: record(name, data[lab]) for name, (lab, _) in CASES.items()}


@pytest.fixture(scope="module", params=NAMES)
def together(request, data, tmp_path_factory):
    """The cases by so many processes: a list of what each one has recorded."""
    out, names = tmp_path_factory.mktemp("together"), NAMES[request.param]
    done = ended(torchrun(request.param, "tests/rank_cases.py", *data.values(), out, *names))
    assert done.code == 0, done.err
    return [torch.load(out / f"rank{i}.pt") for i in range(request.param)]


def test_ranks_train_like_one_process(alone, together):
    """Losses, gradients, weights, averaged weights and the random numbers that come next."""
    for case, parts in together[0].items():
        for part, expected in alone[case].items():
            torch.testing.assert_close(parts[part], expected, rtol=1e-9, atol=1e-9)


def test_all_ranks_hold_the_same_weights(together):
    for case in together[0]:
        for part in ("weights", "averages", "random numbers"):
            for name, value in together[0][case][part].items():
                assert all(torch.equal(value, other[case][part][name]) for other in together)


# ---------------------------------------------------------------- stopped and killed


def ranks_of(launcher):
    """{rank: pid} of a launcher's processes."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            if parent == launcher.pid:
                env = dict(
                    x.split("=", 1)
                    for x in (stat.parent / "environ").read_text().split("\0")
                    if "=" in x
                )
                found[int(env["RANK"])] = int(stat.parent.name)
        except OSError:
            continue
    return found


def wait_for_steps(run, count, process):
    """Wait until the run has saved so many further steps."""

    def step():
        return load(run)["step"] if (run / "last.ckpt").exists() else 0

    target = step() + count
    while step() < target:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


def stop_launcher(job):
    job.send_signal(signal.SIGTERM)  # torchrun passes it on


def stop_one_rank(job):
    os.kill(ranks_of(job)[1], signal.SIGUSR1)  # one rank hears it, all stop after the same step


def kill_one_rank(job):
    os.kill(ranks_of(job)[1], signal.SIGKILL)


def test_a_run_that_is_stopped_and_killed_ends_like_the_uninterrupted_one(data, tmp_path, capsys):
    flags = ["--DR", data["pose"], *SHORT, *TRAIN.split(), "--batch_size", 2]
    whole, run = tmp_path / "whole", tmp_path / "run"
    done = ended(torchrun(2, "Trainer.py", *flags, "--save_root", whole))
    assert done.code == 0, done.err

    def start(*more):
        return torchrun(2, "Trainer.py", *flags, "--save_root", run, more=more)

    for interrupt in (stop_launcher, stop_one_rank, kill_one_rank) if ALL else (stop_one_rank,):
        job = start()
        wait_for_steps(run, 2, job)
        interrupt(job)
        done = ended(job, MINUTE)
        assert done.code != 0
        if interrupt == kill_one_rank:
            assert len(done.errors) <= 1
        else:
            assert done.out.count("saved") == done.out.count("the same command resumes") == 1
            assert done.errors == []
    job = start("--max-restarts=1")
    wait_for_steps(run, 2, job)
    os.kill(ranks_of(job)[0], signal.SIGKILL)
    done = ended(job)
    assert done.code == 0, done.err
    assert "resuming" in done.out
    assert_same_run(whole, run)
    train(settings_of([*flags, "--save_root", run, "--num_epoch", 10]))  # by one process
    out = capsys.readouterr().out
    assert "processes 2 -> 1" in out


# ---------------------------------------------------------------- mistakes


def test_a_process_that_lost_a_stopped_one_ends_by_the_same_signal():
    def end(error):
        with ranks.one_of_them_says_why():
            raise error

    ranks = Ranks()
    ranks.store = torch.distributed.HashStore()
    with pytest.raises(Stopped):
        end(Stopped(signal.SIGUSR1))
    with pytest.raises(Stopped) as stop:
        end(RuntimeError("Connection closed by peer"))
    assert stop.value.number == signal.SIGUSR1
    ranks.store = torch.distributed.HashStore()
    with pytest.raises(UserError, match="nothing"):
        end(UserError("nothing"))
    with pytest.raises(SystemExit, match="1"):
        end(RuntimeError("Connection closed by peer"))


def test_a_batch_of_fewer_clips_than_processes_is_refused():
    ranks = Ranks()
    ranks.count = 4
    with pytest.raises(UserError, match="a batch has 3 clips, too few for 4 processes"):
        ranks.check_batches(3, 100)


def test_mistakes_are_one_line(data, tmp_path):
    words = ["--DR", data["pose"], *SHORT, "--save_root", tmp_path, "--train_vi_len", "20"]
    done = ended(torchrun(2, "Trainer.py", *words), MINUTE)
    assert done.code != 0
    assert (done.err + done.out).count("a batch has 1 clips, too few for 2 processes") == 1
