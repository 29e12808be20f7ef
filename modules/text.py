"""How a name or another text from outside is shown: on a terminal, on a page, on a plot."""

LONGEST = 2000  # characters of a message


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
