"""How a script starts and ends: one line and an exit code for what the user can fix."""

import errno
import signal
import sys
from collections.abc import Callable

from ..errors import REMEDY, UserError, shortage
from ..text import one_line
from .signals import Stopped, listener
from .start import debugged

# Errors of a disk, of permissions or of a closed pipe; any other OSError is a bug: a traceback.
KNOWN_NAMES = "ENOSPC EDQUOT EFBIG EACCES EPERM EROFS EIO EMFILE ENFILE ENAMETOOLONG ELOOP EPIPE"
KNOWN_NAMES += " ESTALE ENOTCONN ETIMEDOUT ENXIO"
KNOWN = {getattr(errno, name) for name in KNOWN_NAMES.split() if hasattr(errno, name)}


def run(main: Callable[[], None], remedy: str = REMEDY) -> None:
    """Call main(). --debug shows the traceback of any error. `remedy`: where memory is short."""
    try:
        with listener:
            main()
    except Exception as error:
        message = explain(error, remedy)
        if message is None or debugged():
            raise
        sys.exit(f"error: {message}")
    except (Stopped, KeyboardInterrupt) as stop:
        number = getattr(stop, "number", signal.SIGINT)
        print(f"stopped by {signal.Signals(number).name}", file=sys.stderr)
        sys.exit(128 + number)


def explain(error: Exception, remedy: str) -> str | None:
    """What the user can do about an error, in a line; None: it is a bug."""
    if isinstance(error, UserError):
        return "\n".join(map(one_line, error.lines))
    if message := shortage(error, remedy):
        return one_line(message)
    if isinstance(error, OSError) and error.errno in KNOWN:
        place = f"{error.filename}: " if error.filename else ""
        return one_line(f"{place}{error.strerror or error}")
    return None
