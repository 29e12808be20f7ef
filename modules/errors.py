"""What the user can fix, and how a text from outside is shown: on a terminal, a page, a plot."""

from pathlib import Path

REMEDY = "reduce --batch_size, the clip length, the frame size or the nets, or add --recompute"
LONGEST = 2000  # characters of a message


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


def one_line(text: object) -> str:
    """The text in one line that is not too long, for a terminal."""
    return shorten(visible(str(text)))


def visible(text: str) -> str:
    """The text with what cannot be printed, such as line ends and escape codes, as \\n, \\x1b."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def on_plot(text: object) -> str:
    """The text as matplotlib draws it unchanged: no mathematics, no label that it hides."""
    text = one_line(text).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def shorten(text: str, longest: int = LONGEST) -> str:
    return text if len(text) <= longest else f"{text[:longest]}... ({len(text)} characters)"
