"""How a script ends: one line and an exit code for what the user can fix."""

import errno
import signal
import sys
from collections.abc import Callable
from typing import TypeVar

from ..errors import REMEDY, UserError, is_short_of_memory, one_line
from ..process.signals import Stopped, listener

# Errors of a disk or of permissions; any other OSError is a bug: a traceback.
KNOWN = {errno.ENOSPC, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ENAMETOOLONG}
KNOWN |= {getattr(errno, "EDQUOT", errno.ENOSPC)}  # not on Windows
T = TypeVar("T")


def run(main: Callable[[], T], remedy: str = REMEDY) -> T:
    """Call main(). A bug shows its traceback. `remedy`: where memory is short."""
    try:
        with listener:
            return main()
    except Exception as error:
        message = explain(error, remedy)
        if message is None:
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
    if is_short_of_memory(error):
        reason = str(error).partition("\n")[0]
        return one_line(f"not enough memory: {remedy}" + (f" ({reason})" if reason else ""))
    if isinstance(error, OSError) and error.errno in KNOWN:
        place = f"{error.filename}: " if error.filename else ""
        return one_line(f"{place}{error.strerror}")
    return None
