"""What the user can fix."""


class UserError(Exception):
    """A mistake of the user's: shown as one message, without a traceback."""
