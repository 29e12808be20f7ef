"""What a script does before its slow imports: it prepares its process and reads its command."""

import contextlib
import errno
import io
import logging
import os
import signal
import sys
import time
import warnings
from typing import Any, TextIO

from .entry import run
from .parser import read_command

GONE = errno.EPIPE, errno.EIO  # the reader of a pipe has ended, the terminal was closed
PATIENCE = 5  # seconds in which the first process reports a mistake, and torchrun ends the others


def start() -> None:
    """Call it before torch is imported."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C within an import: no traceback
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # of libraries
        logging.getLogger("matplotlib").setLevel(logging.ERROR)
    sys.stdout, sys.stderr = Steady(sys.stdout), Steady(sys.stderr)
    if not is_first():  # the first process of torchrun prints
        sys.stdout = open(os.devnull, "w")
        sys.stderr.isatty = lambda: False  # no progress bars


def is_first() -> bool:
    """Whether this is the only process, or the first one of torchrun."""
    return os.environ.get("RANK", "0") == "0" or "TORCHELASTIC_RUN_ID" not in os.environ


def start_with_command(script: str) -> tuple[Any, set[str]] | None:
    """start(), and what read_command() makes of the command line."""
    start()
    if is_first():
        return run(lambda: read_command(script))
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            return run(lambda: read_command(script))
    except SystemExit as end:
        if end.code:
            time.sleep(PATIENCE)
        sys.exit(2 if end.code else 0)


class Steady:
    """A stream that ends no script when its terminal is closed or its reader has ended."""

    def __init__(self, stream: TextIO):
        self.stream = stream
        stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        self.attempt(self.stream.write, text)
        return len(text)

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
