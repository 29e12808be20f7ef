"""What the user can fix."""


class UserError(Exception):
    """A mistake of the user's: shown as one message of one line or more, without a traceback."""

    def __init__(self, *lines: str):
        super().__init__("\n".join(lines))
        self.lines = lines
