"""How a script starts and ends: --help at once; one line for known errors, a traceback for bugs."""

import errno
import os
import shlex
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers import ROOT
from matplotlib.figure import Figure

from modules.cli import entry
from modules.errors import UserError, on_plot, one_line

SLOW = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    imported = sys.modules.keys() & {"torch", "numpy", "matplotlib", "PIL", "tqdm"}
    print("imported:", *sorted(imported), file=sys.__stderr__)
"""


@pytest.mark.parametrize(
    ("line", "code", "text"),
    [
        ("Trainer.py --help", 0, "usage: python Trainer.py"),
        ("Tester.py --help", 0, "usage: python Tester.py"),
        ("Tester.py", 2, "--DR and --save_root are required"),
        ("Trainer.py --DR . --save_root x --nonsense", 2, "unrecognized arguments: --nonsense"),
        ("Trainer.py --DR none --save_root x", 1, "error: --DR none is not a folder"),
        ("Tester.py --DR . --save_root x --ckpt none", 1, "error: none is not a checkpoint file"),
    ],
)
def test_help_and_mistakes_need_no_slow_import(line, code, text):
    words = [sys.executable, "-c", SLOW, *shlex.split(line)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == code and text in done.stdout + done.stderr, done.stderr
    assert "imported:\n" in done.stderr


@pytest.fixture
def end(monkeypatch):
    """end(error, flag, ...) -> what the script exits with when its main raises this error."""

    def run(error, *flags):
        def main():
            raise error

        monkeypatch.setattr("sys.argv", ["Trainer.py", *flags])
        with pytest.raises(SystemExit) as stop:
            entry.run(main)
        return stop.value.code

    return run


def raised_by(action):
    try:
        action()
    except MemoryError as error:
        return error


MEMORY = "error: not enough memory: reduce --batch_size"
KNOWN = [
    (UserError("--lr is wrong"), "error: --lr is wrong"),
    (OSError(errno.ENOSPC, "No space left", "a/file"), "error: a/file: No space left"),
    (raised_by(lambda: np.empty(2**60, np.uint8)), MEMORY),
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB\nmore"), MEMORY),
]


@pytest.mark.parametrize(("error", "text"), KNOWN, ids=lambda x: type(x).__name__)
def test_a_known_error_is_one_line(end, error, text):
    message = end(error)
    assert message.startswith(text) and message.isprintable()


BUGS = [FileNotFoundError(errno.ENOENT, "No such file", "x"), OSError("of a library"), KeyError(1)]


@pytest.mark.parametrize("error", BUGS, ids=lambda error: type(error).__name__)
def test_a_bug_keeps_its_traceback(end, error):
    with pytest.raises(type(error)) as raised:
        end(error)
    assert raised.value is error


@pytest.mark.parametrize(
    ("stop", "code"), [(KeyboardInterrupt(), 130), (entry.Stopped(signal.SIGTERM), 143)]
)
def test_a_stopped_run_has_no_traceback(end, capsys, stop, code):
    assert end(stop) == code
    assert "stopped by SIG" in capsys.readouterr().err


def test_a_script_goes_on_when_the_reader_of_its_pipe_ends(tmp_path):
    code = (
        "from modules.cli.start import start; start(); import time; time.sleep(0.3)\n"
        "for i in range(20000): print(i)\n"
        f"open({str(tmp_path / 'end')!r}, 'w').close()"
    )
    done = subprocess.run(["bash", "-c", f'{sys.executable} -c "$0" | true', code], cwd=ROOT)
    assert done.returncode == 0 and (tmp_path / "end").exists()


def test_a_signal_that_the_parent_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with entry.listener:
            os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


# ---------------------------------------------------------------- names with odd characters


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[31mred", "\u202eabc", "\udcff", "x" * 10**5])
def test_a_name_is_one_printable_line(name):
    shown = one_line(name)
    assert shown.isprintable() and len(shown) < 3000 and shown.encode()
    assert one_line("a $x$ \\frac é 模型") == "a $x$ \\frac é 模型"


@pytest.mark.parametrize("name", ["$x$", "\\frac{a}", "_hidden", "a$b"])
def test_a_plot_shows_a_name_as_it_is(name):
    axes = Figure().subplots()
    axes.plot([0, 1], label=on_plot(name))
    (text,) = axes.legend().get_texts()
    plain, is_math = text._preprocess_math(text.get_text())
    assert not is_math and plain.strip() == name
