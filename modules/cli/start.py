"""What a script does before its slow imports: it takes its process as it finds it."""

import errno
import logging
import os
import signal
import sys
import threading
import warnings
from types import TracebackType
from typing import Any, TextIO

from ..errors import shortage
from ..text import one_line, without_escapes

# The reader of a pipe has ended, the terminal was closed, the disk of a log is full.
GONE = (errno.EPIPE, errno.EIO, errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))


def start() -> None:
    """Call it before torch is imported, in a process that is the script's own."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C within an import: no traceback
    sys.excepthook = explain_shortage
    os.environ["MPLBACKEND"] = "Agg"  # a notebook sets one that need not be installed here
    if not (sys.warnoptions or debugged()):
        warnings.simplefilter("ignore")  # of libraries
        logging.getLogger("matplotlib").setLevel(logging.ERROR)
    open_closed_streams()
    first = os.environ.get("RANK", "0") == "0" or "TORCHELASTIC_RUN_ID" not in os.environ
    if not first:  # the first process of torchrun prints
        sys.stdout = open(os.devnull, "w")
    sys.stdout = Steady(sys.stdout, escapes=False)
    sys.stderr = Steady(sys.stderr, escapes=True, bars=first)  # progress bars move the cursor
    try_threads()


def explain_shortage(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """A line instead of a traceback where an import gets no memory or no thread."""
    message = None if debugged() else shortage(error, "end other programs, or raise ulimit -v")
    if message:
        print(f"error: {one_line(message)}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def try_threads() -> None:
    """Start as many threads as the libraries will: these end the process if they get none."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    number = int(wanted) if wanted.isdecimal() and len(wanted) < 4 else processors()
    end, started = threading.Event(), []
    try:
        for _ in range(number):
            thread = threading.Thread(target=end.wait)
            thread.start()
            started.append(thread)
    finally:
        end.set()
        for thread in started:
            thread.join()


def processors() -> int:
    """Those that this process may use, where the system tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def debugged() -> bool:
    return "--debug" in sys.argv


def open_closed_streams() -> None:
    """Streams that the caller closed, as 2>&- does, lead nowhere."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # the lowest free number: its own


class Steady:
    """A stream that ends no script: what cannot be encoded is escaped, and a reader may leave."""

    def __init__(self, stream: TextIO, escapes: bool, bars: bool = True):
        self.stream, self.escapes, self.bars = stream, escapes, bars
        stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        self.attempt(self.stream.write, text if self.escapes else without_escapes(text))
        return len(text)

    def isatty(self) -> bool:
        """Whether progress bars are shown."""
        return self.bars and self.stream.isatty()

    def flush(self) -> None:
        self.attempt(self.stream.flush)

    def attempt(self, action: Any, *args: str) -> None:
        try:
            action(*args)
        except OSError as error:
            if error.errno not in GONE:
                raise
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)
