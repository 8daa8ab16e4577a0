"""The exceptions a user is meant to read: one for what was given, one for what went wrong on the way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class UserError(ValueError):
    """Bad input from outside: configuration, files, missing weights.

    The message is one line that names the key or file, what was expected, what came, and what to do.
    The command line prints it without a traceback and exits with code 2.

    Args:
        text: what was expected, what came, and what to do.
        key: what it is about, as whoever raises it knows it: a component's own argument, ``scale``. Whoever knows
            where the component stands says so by :meth:`under`, and the message begins ``guidance.scale:``.
    """

    def __init__(self, text: str, key: str | None = None) -> None:
        super().__init__(text if key is None else f"{key}: {text}")
        self.text, self.key = text, key

    def under(self, path: str) -> UserError:
        """The same about the component at ``path``; an error that is about no key stays as it is."""
        return self if self.key is None else UserError(self.text, f"{path}.{self.key}")


class RunError(RuntimeError):
    """Work that went wrong although its input could be read: numbers that are not finite, training that diverges.

    The message is one line that names what was under way, what came of it, the likely cause, and what to do.
    The command line prints it without a traceback and exits with code 1. What is finished by then stays.
    """


def require(condition: bool, text: str, key: str | None = None) -> None:
    """Raise :class:`UserError` with ``text`` about ``key`` unless ``condition`` holds."""
    if not condition:
        raise UserError(text, key)


@contextmanager
def under(path: str) -> Iterator[None]:
    """Errors inside the block are about the component at ``path``, an argument of the caller's or a group."""
    try:
        yield
    except UserError as error:
        raise error.under(path) from error
