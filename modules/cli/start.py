"""What a script does before its slow imports: it takes its process as it finds it."""

import errno
import logging
import os
import signal
import sys
import warnings
from typing import Any, TextIO

from ..text import without_escapes

GONE = (errno.EPIPE, errno.EIO)  # the reader of a pipe has ended, the terminal was closed


def start() -> None:
    """Call it before torch is imported, in a process that is the script's own."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C within an import: no traceback
    os.environ["MPLBACKEND"] = "Agg"  # a notebook sets one that need not be installed here
    if not (sys.warnoptions or debugged()):
        warnings.simplefilter("ignore")  # of libraries
        logging.getLogger("matplotlib").setLevel(logging.ERROR)
    if os.environ.get("RANK", "0") != "0" and "TORCHELASTIC_RUN_ID" in os.environ:
        os.environ["TQDM_DISABLE"] = "1"  # the first process of torchrun shows the progress
    open_closed_streams()
    sys.stdout = Steady(sys.stdout, escapes=False)
    sys.stderr = Steady(sys.stderr, escapes=True)  # progress bars move the cursor


def debugged() -> bool:
    return any(word.startswith("--deb") for word in sys.argv)  # a prefix counts


def open_closed_streams() -> None:
    """Streams that the caller closed, as 2>&- does, lead nowhere."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # the lowest free number: its own


class Steady:
    """A stream that ends no script: what cannot be encoded is escaped, and a reader may leave."""

    def __init__(self, stream: TextIO, escapes: bool):
        self.stream, self.escapes = stream, escapes
        stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        self.attempt(self.stream.write, text if self.escapes else without_escapes(text))
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
