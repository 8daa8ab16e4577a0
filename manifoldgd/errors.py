"""The exceptions a user is meant to read: one for what was given, one for what went wrong on the way."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar, cast

Value = TypeVar("Value")
_MARK = "\x1f"  # around the name of an argument in a text; no message has this character otherwise


class UserError(ValueError):
    """Bad input from outside: configuration, files, missing weights.

    The message is one line that names the key or file, what was expected, what came, and what to do.
    The command line prints it without a traceback and exits with code 2.

    Args:
        text: what was expected, what came, and what to do; other arguments are named by :func:`argument` in it.
        key: what it is about, as whoever raises it knows it: a component's own argument, ``scale``. Whoever knows
            where the component stands says so by :meth:`under`, and the message begins ``guidance.scale:``.
        path: where the component stands, as far as it is known.
    """

    def __init__(self, text: str, key: str | None = None, path: str = "") -> None:
        prefix = f"{path}." if path else ""
        parts = text.split(_MARK)
        said = "".join(f"{prefix}{part}" if place % 2 else part for place, part in enumerate(parts))
        super().__init__(said if key is None else f"{prefix}{key}: {said}")
        self.text, self.own_key, self.path = text, key, path

    def __reduce__(self) -> tuple[type[UserError], tuple[str, str | None, str]]:
        return UserError, (self.text, self.own_key, self.path)  # out of another process too

    @property
    def key(self) -> str | None:
        """What it is about, with the path as far as it is known."""
        return f"{self.path}.{self.own_key}" if self.own_key and self.path else self.own_key

    def under(self, path: str) -> UserError:
        """The same about the component at ``path``; an error that is about no key stays as it is."""
        if self.own_key is None:
            return self
        return UserError(self.text, self.own_key, f"{path}.{self.path}" if self.path else path)


class RunError(RuntimeError):
    """Work that went wrong although its input could be read: numbers that are not finite, training that diverges.

    The message is one line that names what was under way, what came of it, the likely cause, and what to do.
    The command line prints it without a traceback and exits with code 1. What is finished by then stays.
    """


def argument(name: str) -> str:
    """Another argument of the component, in the text of a :class:`UserError`: it is shown with the same path."""
    return f"{_MARK}{name}{_MARK}"


def require(condition: bool, text: str, key: str | None = None) -> None:
    """Raise :class:`UserError` with ``text`` about ``key`` unless ``condition`` holds."""
    if not condition:
        raise UserError(text, key)


def required(value: Value | None, text: str, key: str | None = None) -> Value:
    """The value; raises :class:`UserError` with ``text`` about ``key`` where it is ``None``."""
    require(value is not None, text, key)
    return cast(Value, value)


def nearest(name: str, known: Iterable[str], *, otherwise: str) -> str:
    """What to do about an unknown name: ``did you mean ...?`` where a known one is like it, else ``otherwise``."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else otherwise


@contextmanager
def under(path: str) -> Iterator[None]:
    """Errors inside the block are about the component at ``path``, an argument of the caller's or a group."""
    try:
        yield
    except UserError as error:
        raise error.under(path) from error
