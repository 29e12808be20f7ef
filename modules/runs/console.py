"""console.txt: what a script prints is kept in its run folder too."""

import datetime
import logging
import sys
import traceback
from pathlib import Path
from typing import Any, TextIO

from ..errors import UserError
from ..process.signals import Stopped
from .folder import CONSOLE


class Console:
    """Within, standard output also goes to console.txt, from the first line on.

    The file is written once keep() has named its folder: a command that is refused before that
    changes nothing. Debug messages, such as the traceback of a lost figure, go to the file only.
    """

    logger = logging.getLogger("modules")

    def __enter__(self) -> "Console":
        self.screen, self.file = sys.stdout, None
        self.early = [f"--- {datetime.datetime.now().astimezone().isoformat(timespec='seconds')}\n"]
        sys.stdout = self
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> None:
        sys.stdout = self.screen
        if self.file:
            self.logger.removeHandler(self.handler)
            if error:
                self.file.write(reason(error))
            self.file.close()

    def keep(self, folder: Path) -> None:
        """From now on also write to this folder's console.txt."""
        path = folder / CONSOLE
        try:
            self.file: TextIO = open(path, "a", 1, "utf-8", "backslashreplace")
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror}") from None
        self.file.write("".join(self.early))
        self.handler = logging.StreamHandler(self.file)
        self.logger.addHandler(self.handler)
        self.logger.setLevel(logging.DEBUG)

    def write(self, text: str) -> int:
        if self.file:
            self.file.write(text)
        else:
            self.early.append(text)
        return self.screen.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.screen, name)


def reason(error: BaseException) -> str:
    """Why the script ended, in a line; the traceback of what is a bug."""
    if isinstance(error, UserError):
        return f"error: {error}\n"
    if isinstance(error, (Stopped, KeyboardInterrupt)):
        return "stopped by a signal\n"
    return "".join(traceback.format_exception(error))
