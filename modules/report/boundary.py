"""Where a figure, a page or a tracker fails, a warning is printed and the work continues."""

import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..errors import UserError, one_line

log = logging.getLogger(__name__)  # tracebacks, for console.txt: see runs/console.py


@contextmanager
def part(name: object, raises: type | tuple = ()) -> Iterator[None]:
    """An error within leaves this part out. `name` is how the warning calls it.

    Errors that the user is to mend before anything runs, `raises`, pass.
    """
    try:
        yield
    except raises:
        raise
    except Exception as error:
        log.debug("traceback:", exc_info=True)
        cause = str(error).strip().partition("\n")[0]
        if not isinstance(error, UserError):
            cause = f"{type(error).__name__}: {cause}"
        warn(one_line(f"warning: {name} is left out: {cause}"))


@functools.cache  # a page is written again and again: each warning once
def warn(text: str) -> None:
    tqdm.write(text)


def drawing(draw: Callable) -> Callable:
    """Decorates a function that draws to a path, its first argument, as a part of its own."""

    @functools.wraps(draw)
    def guarded(path: Path, *args: Any, **named: Any) -> Any:
        with part(path):
            return draw(path, *args, **named)

    return guarded
