"""How a script starts and ends: one line and an exit code for what the user can fix."""

import errno
import signal
import sys
from collections.abc import Callable

from ..errors import UserError
from ..text import one_line
from .signals import Stopped, listener
from .start import debugged

# Errors of a disk, of permissions or of a closed pipe; any other OSError is a bug: a traceback.
KNOWN_NAMES = "ENOSPC EDQUOT EFBIG EACCES EPERM EROFS EIO EMFILE ENAMETOOLONG ESTALE EPIPE"
KNOWN = {getattr(errno, name) for name in KNOWN_NAMES.split() if hasattr(errno, name)}


def run(main: Callable[[], None]) -> None:
    """Call main(). --debug shows the traceback of any error."""
    debug = debugged()
    try:
        with listener:
            main()
    except UserError as error:
        fail("\n".join(map(one_line, error.lines)), debug)
    except OSError as error:
        if error.errno not in KNOWN:
            raise
        place = f"{error.filename}: " if error.filename else ""
        fail(one_line(f"{place}{error.strerror or error}"), debug)
    except (RuntimeError, MemoryError) as error:
        if "can't start new thread" in str(error):
            fail(
                "no further thread can be started: reduce --num_workers, or raise ulimit -u", debug
            )
        if not ran_out_of_memory(error):
            raise
        reason = str(error).partition("\n")[0][:200]
        fail(
            "not enough memory: reduce --batch_size, the clip length, the frame size or the nets, "
            f"or add --recompute. {reason}",
            debug,
        )
    except (Stopped, KeyboardInterrupt) as stop:
        number = getattr(stop, "number", signal.SIGINT)
        print(f"stopped by {signal.Signals(number).name}", file=sys.stderr)
        sys.exit(128 + number)


def fail(message: str, debug: bool) -> None:
    """Exit with code 1 and one line; with --debug the error itself goes on."""
    if debug:
        raise
    sys.exit(f"error: {message}")


def ran_out_of_memory(error: BaseException) -> bool:
    """A GPU, a CPU and numpy each report it in their own way."""
    return "MemoryError" in type(error).__name__ or "DefaultCPUAllocator" in str(error)
