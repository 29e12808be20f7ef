"""What the user can fix."""

import re

# A GPU, a CPU, numpy and the system each report it in their own way.
MEMORY = re.compile(
    "MemoryError|DefaultCPUAllocator|out of memory|ALLOC_FAILED|can(no|')t allocate memory"
    "(?! in static TLS)|bad_alloc|failed to map segment"
    "|could not (create|execute) a (memory|primitive)(?! desc)",  # of oneDNN
    re.IGNORECASE,
)
THREADS = re.compile(
    "can't start new thread|resource temporarily unavailable|thread creation failed", re.IGNORECASE
)
REMEDY = "reduce --batch_size, the clip length, the frame size or the nets, or add --recompute"


class UserError(Exception):
    """A mistake of the user's: shown as one message of one line or more, without a traceback."""

    def __init__(self, *lines: str):
        super().__init__("\n".join(lines))
        self.lines = lines


def is_short_of_memory(error: BaseException) -> bool:
    return reports(MEMORY, error)


def shortage(error: BaseException, remedy: str = REMEDY) -> str | None:
    """What to do, in a line, if memory or threads are short; None for any other error."""
    if reports(THREADS, error):
        return (
            "no further thread or process can be started: reduce --num_workers, --workers or "
            "OMP_NUM_THREADS, or raise ulimit -u"
        )
    if reports(MEMORY, error):
        reason = str(error).strip().partition("\n")[0][:200]
        return f"not enough memory: {remedy}{reason and f' ({reason})'}"
    return None


def reports(text: re.Pattern, error: BaseException) -> bool:
    kinds = (RuntimeError, MemoryError, OSError, ImportError, SystemError)
    reason = getattr(error, "strerror", None) or error  # without the name of a file
    return isinstance(error, kinds) and bool(text.search(f"{type(error).__name__}: {reason}"))
