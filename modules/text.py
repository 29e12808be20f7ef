"""How a name or another text from outside is shown: on a terminal, on a page, on a plot."""

import re

LONGEST = 2000  # characters of a message
HIDDEN = "\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff"
CONTROL = re.compile(f"[{HIDDEN}]")  # controls, line ends, changes of direction, half characters
ESCAPES = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all controls but tab and line end


def one_line(text: object) -> str:
    """The text in one line that is not too long, for a terminal."""
    return shorten(visible(str(text)))


def visible(text: str) -> str:
    """The text without anything that a terminal would obey: shown as \\n, \\x1b."""
    return CONTROL.sub(escaped, text)


def without_escapes(text: str) -> str:
    """The text with its lines, but without anything else that a terminal would obey."""
    return ESCAPES.sub(escaped, text)


def on_plot(text: object) -> str:
    """The text as matplotlib draws it unchanged: no mathematics, no label that it hides."""
    text = one_line(text).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def shorten(text: str, longest: int = LONGEST) -> str:
    return text if len(text) <= longest else f"{text[:longest]}... ({len(text)} characters)"


def escaped(match: re.Match) -> str:
    return match[0].encode("unicode_escape").decode()
