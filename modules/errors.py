"""What the user can fix."""

from pathlib import Path

REMEDY = "reduce --batch_size, the clip length, the frame size or the nets, or add --recompute"


class UserError(Exception):
    """A mistake of the user's: shown as one message of one line or more, without a traceback."""

    def __init__(self, *lines: str):
        super().__init__("\n".join(lines))
        self.lines = lines


def is_short_of_memory(error: BaseException) -> bool:
    """Whether Python, numpy or a GPU has no more memory (torch's class is slow to import)."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def require_folder(root: str | Path) -> None:
    if not Path(root).is_dir():
        raise UserError(f"--DR {root} is not a folder; pass the one that contains train/ and test/")
