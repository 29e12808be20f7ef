"""How a script ends: one line for known errors, a traceback for bugs and with --debug."""

import errno
import os
import signal
import threading

import numpy as np
import pytest
import torch
from helpers import SHORT, assert_ended

from modules.cli import entry, start
from modules.errors import UserError
from modules.files import write_atomically

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


def raised_by(action):
    try:
        action()
    except MemoryError as error:
        return error


MEMORY = [
    MemoryError(),
    raised_by(lambda: np.empty(2**60, np.uint8)),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB\nmore"),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:1] . DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("MPS backend out of memory"),
    RuntimeError("std::bad_alloc"),
    RuntimeError("could not create a primitive"),
    OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
    ImportError("libx.so: failed to map segment from shared object"),
]
THREADS = [
    RuntimeError("can't start new thread"),
    BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)),
    RuntimeError("Resource temporarily unavailable"),
]


@pytest.mark.parametrize("error", MEMORY, ids=lambda error: type(error).__name__)
def test_memory_at_its_limit_is_one_line_that_says_what_to_reduce(end, error, fault):
    message = end(error)
    assert message.startswith("error: not enough memory: reduce --batch_size")
    assert message.isprintable() and len(message) < 400
    fault("memory at its limit, as a GPU, a CPU, numpy and the system report it", "one line")


@pytest.mark.parametrize("error", THREADS, ids=str)
def test_no_thread_to_be_had_is_one_line(end, error, fault):
    assert end(error).startswith("error: no further thread or process can be started: reduce ")
    fault("no thread or process to be had", "one line")


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOENT, "No such file", "out of memory.png"), ValueError("out of memory"),
     ImportError("cannot allocate memory in static TLS block")],
)  # fmt: skip
def test_what_only_sounds_like_it_is_no_shortage(end, error):
    with pytest.raises(type(error)):
        end(error)


@pytest.mark.parametrize("error", [MEMORY[5], MEMORY[8]])
def test_a_file_for_which_memory_is_short_is_not_called_unwritable(tmp_path, error):
    def write(file):
        raise error

    with pytest.raises(type(error)):
        write_atomically(tmp_path / "file", write)
    assert not [*tmp_path.iterdir()]


def test_a_shortage_within_the_imports_is_one_line(monkeypatch, capsys):
    """Where the libraries would end the process themselves, this is found out before."""

    def refuse(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError) as error:
        start.try_threads()
    start.explain_shortage(error.type, error.value, error.tb)
    assert capsys.readouterr().err.startswith("error: no further thread")
    start.explain_shortage(MemoryError, MemoryError(), None)
    assert capsys.readouterr().err.startswith("error: not enough memory")
    start.explain_shortage(KeyError, KeyError("a bug"), None)
    assert "KeyError: 'a bug'" in capsys.readouterr().err


@pytest.mark.parametrize("number", ["1", "3", "", "x", "9" * 99, "²"])
def test_threads_are_tried_and_ended(monkeypatch, number):
    monkeypatch.setenv("OMP_NUM_THREADS", number)
    before = threading.active_count()
    start.try_threads()
    assert threading.active_count() == before


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
    done = children.run("Trainer", *flags, "--debug")
    assert "Traceback" in done.err and "find_root" in done.err
    assert f"UserError: --DR {tmp_path / 'none'}" in done.err
