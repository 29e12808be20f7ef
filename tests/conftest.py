"""Fixtures: the scripts called as a user calls them, and runs to interrupt."""

import multiprocessing
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

pytest.register_assert_rewrite("helpers")  # before its import: its assertions show values

from children import Children
from helpers import (
    ROBOT,
    ROOT,
    SHORT,
    TINY,
    in_float64,
    make_dataset,
    make_robot_data,
    settings_of,
    train_once,
)
from robot_helpers import train_robot_once

import Tester
import Trainer
from modules.cli.entry import run as run_script
from modules.cli.parser import parse

signal.signal(signal.SIGINT, signal.default_int_handler)  # `command &` in a script ignores it
# Tiny nets: a second thread costs more than it saves.
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))
os.fsync = lambda handle: None  # slow; only a power cut needs it
MAINS = {"Trainer": lambda: Trainer.main(*parse("Trainer")), "Tester": Tester.main}


def pytest_addoption(parser):
    parser.addoption("--quick", action="store_true", help="no test that starts a process or trains")


@pytest.fixture(scope="session", autouse=True)
def quick(request):
    """With --quick a test is skipped as soon as it starts a process or takes a training step."""

    def skip(*_, **__):
        pytest.skip("--quick")

    with pytest.MonkeyPatch.context() as patch:
        if request.config.getoption("quick"):
            patch.setattr(subprocess.Popen, "__init__", skip)
            patch.setattr(multiprocessing.process.BaseProcess, "start", skip)
            patch.setattr(Trainer.Trainer, "training_one_step", skip)
        yield


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A dataset and a run of one epoch; tests change only copies. Test clips: 6 and 5 frames."""
    return train_once(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="session")
def robot_trained(tmp_path_factory):
    """The same of the robot lab."""
    return train_robot_once(tmp_path_factory.mktemp("trained"))


@pytest.fixture
def no_plots():
    """With this fixture `call` passes --no-plots: drawing takes longest, and few tests need it."""


@pytest.fixture
def dataset(tmp_path):
    return make_dataset(tmp_path / "data")


@pytest.fixture
def args():
    """The template's default settings, on tiny nets."""
    return settings_of([*TINY, "--precision", "float32"])


@pytest.fixture
def run_test(call, trained, tmp_path):
    """run_test(flag, ...) -> the run folder, and what was printed, of a test that succeeded."""

    def run(*flags, ckpt=trained.best, data=trained.data, name="test"):
        folder = tmp_path / name
        places = ["--DR", data, "--save_root", folder, "--ckpt_path", ckpt]
        done = call("Tester", *places, "--precision", "float32", "--device", "cpu", *flags)
        assert done.code == 0, done.err
        return folder, done.out

    return run


@pytest.fixture
def float64():
    with in_float64():
        yield


@pytest.fixture
def in_process(monkeypatch, capsys):
    """in_process(main, name, flag, ...) -> code, out, err: a script's main, as from a shell."""

    def run(main, *words):
        monkeypatch.setattr(sys, "argv", [*map(str, words)])
        code = 0
        try:
            run_script(main)
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        if isinstance(code, str):  # sys.exit(text) prints it and ends with 1
            code, err = 1, err + code
        return SimpleNamespace(code=code or 0, out=out, err=err)

    return run


@pytest.fixture
def call(in_process, request):
    """call("Trainer", flag, ...) -> code, out, err: the script in this process, as from a shell."""

    def run(script, *flags):
        more = ["--no-plots"] if "no_plots" in request.fixturenames else []
        return in_process(MAINS[script], f"{script}.py", *more, *flags)

    return run


@pytest.fixture
def shell(tmp_path):
    """shell(script, word, ..., cwd, NAME=value) -> the words of every call of Python that a shell
    script makes. Nothing is carried out; there is no GPU.
    """
    venv, record = tmp_path / "venv", tmp_path / "record"

    def calls(script, *words, cwd=tmp_path, **environment):
        (venv / "bin").mkdir(parents=True, exist_ok=True)
        (venv / "installed-requirements.txt").write_bytes((ROOT / "requirements.txt").read_bytes())
        run = f'[ "$1" != - ] || exec {sys.executable} "$@"\n[ "$1" != -c ] || exit 1\n'
        note = f'printf "%s\\0" "$PWD" "$@" "#" >> "{record}"'
        for name, text in (("pip", "exit 1"), ("python", run + note)):
            (venv / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
            (venv / "bin" / name).chmod(0o755)
        record.unlink(missing_ok=True)
        done = subprocess.run(
            ["bash", str(ROOT / f"scripts/{script}.sh"), *map(str, words)],
            cwd=cwd, env=dict(os.environ, VENV=str(venv), **environment),
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found = [call.split("\0") for call in record.read_text().split("\0#\0")[:-1]]
        assert {folder for folder, *_ in found} == {str(cwd)}
        return [call for _, *call in found]

    return calls


@pytest.fixture(scope="session")
def children(tmp_path_factory):
    """children.run("Trainer", flag, ...): the script in a process of its own; see children.py."""
    family = Children(tmp_path_factory.mktemp("children"))
    yield family
    family.close()


# ---------------------------------------------------------------- runs to interrupt

THREE = "--num_epoch 3 --lr_schedule constant --per_save 1 --keep 0".split()
LINES = {  # three epochs of three steps; the pose lab validates six frames
    "pose": [*SHORT, *THREE, "--batch_size", "1", "--precision", "float32"],
    "robot": [*ROBOT, *THREE],
}
DRAWS = (
    "--shuffle --jump_start 0.5 --warp 0.5 --feedback_noise 0.1 --tfr 0.5 "
    "--tfr_coin batch --ema 0.5"
)
SETTINGS = {
    "plain": ("pose", ""),
    "every source of randomness and EMA": ("pose", DRAWS),
    "free running, AdamW": ("pose", "--tfr 0 --optim AdamW --sigmoid"),
    "posterior of the previous frame": (
        "pose", "--posterior previous --tfr 0 --pretrain_epochs 2 --optim RMSprop"),
    "schedules over the whole run": (
        "pose", "--lr_schedule cosine --kl_anneal_type Monotonic --optim SGD"),
    "steps of a learned prior": ("pose", "--learned_prior --posterior_share 0.5 --tfr 0.5"),
    "the robot lab": (
        "robot", "--tfr 0.5 --learned_prior --posterior_share 0.5 --ema 0.9 --random_offset "
        "--standardise --condition previous --last_frame_skip --z_source mean"),
    "the robot lab's schedules": (
        "robot", "--kl_anneal_cyclical --kl_anneal_cycle 2 --tfr_d_step 0.3"),
    "two epochs": ("pose", "--num_epoch 2"),
}  # fmt: skip


@pytest.fixture(scope="session")
def lab_data(tmp_path_factory):
    """A data set of each lab; no test changes them."""
    base = tmp_path_factory.mktemp("data")
    return {
        "pose": make_dataset(base / "pose", train=13),
        "robot": make_robot_data(base / "robot", validate=1),
    }


@pytest.fixture(scope="session")
def command(lab_data):
    """command(setting, folder, flag, ...) -> the script and the flags of that run."""

    def words(setting, folder, *more):
        lab, text = SETTINGS[setting]
        place = "--DR", lab_data[lab], "--save_root", folder
        return "Trainer", *place, *LINES[lab], *text.split(), *more

    return words


@pytest.fixture(scope="session")
def whole(command, children, tmp_path_factory):
    """whole(setting) -> the folder of an uninterrupted run."""
    runs = {}

    def run(setting="plain"):
        if setting not in runs:
            runs[setting] = tmp_path_factory.mktemp("whole") / "run"
            done = children.run(*command(setting, runs[setting]))
            assert done.code == 0, done.err
        return runs[setting]

    return run
