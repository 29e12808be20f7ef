"""How a script ends: one line for known errors, a traceback for bugs and with --debug."""

import errno
import os
import signal

import pytest
import torch
from helpers import SHORT, assert_ended

from modules.cli import entry
from modules.errors import UserError

BUGS = [
    FileNotFoundError(errno.ENOENT, "No such file or directory", "x"),
    NotADirectoryError(errno.ENOTDIR, "Not a directory", "x"),
    OSError("raised by a library"),
    ValueError("a bug"),
    KeyError("a bug"),
    RuntimeError("a bug"),
]


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


@pytest.mark.parametrize("number", sorted(entry.KNOWN), ids=errno.errorcode.get)
def test_a_known_error_of_the_system_is_one_line(end, number):
    message = end(OSError(number, os.strerror(number), "some/file"))
    assert message == f"error: some/file: {os.strerror(number)}"
    assert end(OSError(number, os.strerror(number))) == f"error: {os.strerror(number)}"


@pytest.mark.parametrize("error", BUGS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("flags", [(), ("--debug",)])
def test_a_bug_keeps_its_traceback(end, error, flags):
    with pytest.raises(type(error)) as raised:
        end(error, *flags)
    assert raised.value is error


def test_a_mistake_of_the_user_is_one_line(end):
    assert end(UserError("--lr is wrong")) == "error: --lr is wrong"


@pytest.mark.parametrize(
    "error",
    [
        UserError("--lr is wrong"),
        OSError(errno.ENOSPC, "No space left on device"),
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_debug_shows_the_traceback_of_known_errors(end, error):
    with pytest.raises(type(error)) as raised:
        end(error, "--debug")
    assert raised.value is error


@pytest.mark.parametrize(
    ("stop", "code"), [(KeyboardInterrupt(), 130), (entry.Stopped(signal.SIGTERM), 143)]
)
@pytest.mark.parametrize("flags", [(), ("--debug",)])
def test_a_stopped_run_has_no_traceback(end, capsys, stop, code, flags):
    assert end(stop, *flags) == code
    assert "stopped by SIG" in capsys.readouterr().err


def test_debug_shows_the_traceback_of_a_run(children, tmp_path):
    flags = "--DR", tmp_path / "none", "--save_root", tmp_path / "run", *SHORT
    done = children.run("Trainer", *flags)
    assert_ended(done, 1)
    assert done.err.startswith("error: --DR") and done.err.count("\n") == 1
    for debug in ("--debug", "--deb"):
        done = children.run("Trainer", *flags, debug)
        assert "Traceback" in done.err and "find_root" in done.err
        assert f"UserError: --DR {tmp_path / 'none'}" in done.err
