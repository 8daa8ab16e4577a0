"""Where a number may lie: stated once, in the annotation of the argument that takes it, and checked wherever it comes.

A component says ``scale: Annotated[float, Range("[0, 1000]")]`` and is marked with :func:`checked`. The command line
checks a configuration against the same annotation before anything is built, and there names the whole key. A bound that
no theory gives stands where memory, time or arithmetic end on any machine that this is meant for.
"""

from __future__ import annotations

import functools
import inspect
import re
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from fractions import Fraction
from numbers import Integral, Real
from typing import Annotated, Any, Literal, TypeVar, Union, Unpack, cast, get_args, get_origin, get_type_hints

from manifoldgd.errors import UserError

Target = TypeVar("Target", bound=Callable[..., Any])
RATIO = re.compile(r"\d{1,9}(/\d{1,9}|\.\d{1,9})?")  # a fraction as text, such as 2/3
PLAIN = (str, int, float, bool, list, tuple, dict, type(None))  # what a configuration holds where nothing is built


@dataclass(frozen=True)
class Range:
    """An interval in the usual notation; NaN and the infinities lie in none.

    >>> [Range("(0, 1]").holds(value) for value in (0, 0.5, 1, float("nan"), "2/3")]
    [False, True, True, False, True]
    """

    text: str

    @functools.cached_property
    def _bounds(self) -> tuple[float, float]:
        low, high = self.text[1:-1].split(", ")
        return float(low), float(high)

    def holds(self, value: Any) -> bool:
        """Whether a number, or a fraction as text, lies inside."""
        if isinstance(value, str):
            if RATIO.fullmatch(value) is None or re.search("/0+$", value):
                return False
            value = Fraction(value)
        low, high = self._bounds
        return (low < value or (value == low and self.text[0] == "[")) and (
            value < high or (value == high and self.text[-1] == "]")
        )

    def __str__(self) -> str:
        return self.text


Share = Annotated[float, Range("[0, 1]")]
Strength = Annotated[float, Range("[0, 1000]")]  # beyond, latents overflow whatever else is set
Length = Annotated[float, Range("[0.001, 1000]")]  # latents have standard deviation 1; inverse squares stay finite
Seed = Annotated[int, Range("[0, 4294967295]")]  # what every library takes as one
Width = Annotated[int, Range("[1, 1024]")]  # filters: a ResNet has eight times as many at its end, 2.4 GB a convolution
Batch = Annotated[int, Range("[1, 65536]")]
Million = Annotated[int, Range("[1, 1000000]")]  # of whatever takes a moment each: days
LearningRate = Annotated[float, Range("(0, 10]")]
Momentum = Annotated[float, Range("[0, 1)")]  # at 1 nothing is ever forgotten
Guided = Annotated[float, Range("[0, 100]")]  # a classifier-free guidance scale
Ratio = float | str | Fraction  # a number, or a fraction as text


def fits(value: Any, hint: Any) -> bool:
    """Whether ``value`` is what an annotation asks for, its range included."""
    origin = get_origin(hint)
    if origin is Annotated:
        inner, *limits = get_args(hint)
        return fits(value, inner) and all(limit.holds(value) for limit in limits)
    if origin in (Union, types.UnionType):
        return any(fits(value, each) for each in get_args(hint))
    if origin is Literal:
        return any(value == each and type(value) is type(each) for each in get_args(hint))
    if hint is float:
        return isinstance(value, Real) and not isinstance(value, bool | Fraction)
    if hint is int:
        return isinstance(value, Integral) and not isinstance(value, bool)
    if hint in (None, type(None)):
        return value is None
    kind, inner = origin or hint, [each for each in get_args(hint) if each is not Ellipsis]
    if kind is Any:
        return True
    if not inspect.isclass(kind) or getattr(kind, "_is_protocol", False):
        return not isinstance(value, PLAIN)
    if issubclass(kind, Mapping):
        keys, values = inner or (Any, Any)
        return isinstance(value, Mapping) and all(fits(key, keys) and fits(one, values) for key, one in value.items())
    if issubclass(kind, Sequence) and kind is not str:
        return isinstance(value, list | tuple) and (not inner or all(fits(each, inner[0]) for each in value))
    return isinstance(value, kind)


def spelled(hint: Any) -> str:
    """An annotation in words.

    >>> spelled(Annotated[int, Range("[1, 9]")] | None)
    'a whole number in [1, 9] or null'
    """
    origin, inner = get_origin(hint), [each for each in get_args(hint) if each is not Ellipsis]
    if origin is Annotated:
        return f"{spelled(inner[0])} in {', '.join(map(str, inner[1:]))}"
    if hint == Ratio:
        return "a number or a fraction such as 2/3"
    if origin in (Union, types.UnionType):
        return " or ".join(spelled(each) for each in inner)
    if origin is Literal:
        return "one of " + ", ".join(map(str, inner))
    names = {
        int: "a whole number",
        float: "a number",
        str: "a text",
        bool: "true or false",
        type(None): "null",
        Any: "anything",
    }
    if hint in names:
        return names[hint]
    kind = origin or hint
    if inspect.isclass(kind) and issubclass(kind, Mapping):
        return f"a mapping{f' from {spelled(inner[0])} to {spelled(inner[1])}' if inner else ''}"
    if inspect.isclass(kind) and issubclass(kind, Sequence):
        return f"a list{f', each {spelled(inner[0])}' if inner else ''}"
    return f"a {getattr(kind, '__name__', kind)}, as a node with a _target_"


def check(key: str, value: Any, hint: Any) -> None:
    """Raise :class:`UserError` unless ``value`` fits the annotation."""
    if fits(value, hint):
        return
    if isinstance(value, Mapping) and (inner := _mapping_in(hint)):
        for entry, held in value.items():
            check(f"{key}.{entry}", held, inner)
    raise UserError(f"{key}: expected {spelled(hint)}, got {value!r}; correct the value")


def _mapping_in(hint: Any) -> Any:
    """What the values of a mapping are to be, where an annotation allows one."""
    if get_origin(hint) in (Union, types.UnionType):
        return next(filter(None, map(_mapping_in, get_args(hint))), None)
    kind = get_origin(hint)
    return get_args(hint)[1] if inspect.isclass(kind) and issubclass(kind, Mapping) else None


@functools.cache
def annotations_of(target: Callable[..., Any]) -> Mapping[str, Any]:
    """The annotation of each argument of a class or function."""
    # A dataclass inherits fields, whose annotations are to be read where they stand.
    of_class = inspect.isclass(target) and not is_dataclass(target)
    hints = get_type_hints(target.__init__ if of_class else target, include_extras=True)
    return {name: _shared(hints).get(name) or hints.get(name, Any) for name in parameters_of(target)}


@functools.cache
def parameters_of(target: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """The arguments of a class or function; those that it shares with others, in a typed dictionary, one by one."""
    found = dict(inspect.signature(target).parameters)
    last = next((one for one in found.values() if one.kind is one.VAR_KEYWORD), None)
    shared = _typed_dictionary(get_type_hints(target)[last.name]) if last and not inspect.isclass(target) else None
    if last is None or shared is None:
        return found
    del found[last.name]
    optional = {True: last.empty, False: None}
    for name in get_type_hints(shared):
        found[name] = inspect.Parameter(name, last.KEYWORD_ONLY, default=optional[name in shared.__required_keys__])
    return found


def _typed_dictionary(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) is Unpack else None


def _shared(hints: Mapping[str, Any]) -> Mapping[str, Any]:
    """The annotations inside a typed dictionary among ``hints``."""
    return next(
        (get_type_hints(found, include_extras=True) for found in map(_typed_dictionary, hints.values()) if found), {}
    )


def checked(target: Target) -> Target:
    """Have a class check what its constructor is given, and a function its arguments: ranges and choices of words.

    Raises:
        UserError: when it is called, for a value outside; names the class, the argument, what was expected and given.
    """
    call = target.__init__ if inspect.isclass(target) else target
    signature = inspect.signature(call)

    @functools.wraps(call)
    def checking(*args: Any, **kwargs: Any) -> Any:
        hints = annotations_of(target)
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            if name in hints and _is_limited(hints[name]):
                check(f"{target.__name__}.{name}", value, hints[name])
        return call(*args, **kwargs)

    if not inspect.isclass(target):
        return cast(Target, checking)
    target.__init__ = checking  # type: ignore[method-assign]
    return target


def _is_limited(hint: Any) -> bool:
    return get_origin(hint) in (Annotated, Literal) or any(map(_is_limited, get_args(hint)))
