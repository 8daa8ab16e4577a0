"""The one exception a user is meant to read."""


class UserError(ValueError):
    """Bad input from outside: configuration, files, missing weights.

    The message is one line that names the key or file, what was expected, what came, and what to do.
    The command line prints it without a traceback and exits with code 2.
    """


def require(condition: bool, message: str) -> None:
    """Raise :class:`UserError` with ``message`` unless ``condition`` holds."""
    if not condition:
        raise UserError(message)
