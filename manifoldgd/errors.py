"""The exceptions a user is meant to read: one for what was given, one for what went wrong on the way."""


class UserError(ValueError):
    """Bad input from outside: configuration, files, missing weights.

    The message is one line that names the key or file, what was expected, what came, and what to do.
    The command line prints it without a traceback and exits with code 2.
    """


class RunError(RuntimeError):
    """Work that went wrong although its input could be read: numbers that are not finite, training that diverges.

    The message is one line that names what was under way, what came of it, the likely cause, and what to do.
    The command line prints it without a traceback and exits with code 1. What is finished by then stays.
    """


def require(condition: bool, message: str) -> None:
    """Raise :class:`UserError` with ``message`` unless ``condition`` holds."""
    if not condition:
        raise UserError(message)
