"""From configuration nodes to objects: keys and types are checked against the constructors before anything is built.

The constructor's signature says which keys exist and what they hold; the YAML file holds the values. Nothing else does.
"""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf

from manifoldgd.cli.explain import suggest
from manifoldgd.errors import UserError, require

TARGET = "_target_"


def build(config: DictConfig, group: str) -> Any:
    """The object that a group describes.

    Raises:
        UserError: a key is unknown, missing or of another type, or the constructor refuses a value.
    """
    node = config[group]
    check_node(node, group)
    try:
        return instantiate(node, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, UserError):
            raise UserError(_located(str(cause), group, node, str(error))) from None
        if isinstance(cause, (ValueError, TypeError)):
            raise UserError(f"{group}: {cause}") from error
        raise


def _located(message: str, group: str, node: DictConfig, report: str) -> str:
    """``message`` with the full path of each key: a component does not know how deep in its group it stands."""
    place = re.search(r"full_key: (\S+)", report)  # Hydra's, which is the only one to know which node failed
    if place is None or not place[1].startswith(f"{group}."):
        return message
    inner = OmegaConf.select(node, place[1].removeprefix(f"{group}."), default={})
    return re.sub(
        rf"(?<![\w.]){group}\.(\w+)", lambda key: f"{place[1]}.{key[1]}" if key[1] in inner else key[0], message
    )


def check_node(node: Any, path: str) -> None:
    """Compare a node's keys and value types with the signature of its ``_target_``, and so on below."""
    if not isinstance(node, DictConfig):
        return
    if TARGET not in node:
        for key in node:
            check_node(_value(node, key, path), f"{path}.{key}")
        return
    target = get_object(node[TARGET])
    function = target.__init__ if inspect.isclass(target) else target
    hints = get_type_hints(function)
    signature = inspect.signature(target).parameters
    # Scientific numbers have no Python default; one that has is an engineering number and needs no line in the YAML.
    parameters = [name for name, one in signature.items() if name in node or one.default is one.empty]
    for key in node:
        if key != TARGET and key not in parameters:
            raise UserError(f"unknown key '{path}.{key}'{suggest(str(key), parameters)}")
    for name in parameters:
        require(name in node, f"{path}.{name}: expected a value, got none; set {path}.{name}=...")
        value = _value(node, name, path)
        if isinstance(value, DictConfig) and TARGET in value:
            check_node(value, f"{path}.{name}")
        else:
            check_type(f"{path}.{name}", value, hints.get(name, Any))


def _value(node: DictConfig, key: Any, path: str) -> Any:
    require(
        not OmegaConf.is_missing(node, key),
        f"{path}.{key}: needs a value and has none; set {path}.{key}=...",
    )
    return node[key]


def check_type(path: str, value: Any, hint: Any) -> None:
    """Raise :class:`UserError` unless ``value`` fits the type hint."""
    plain = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
    require(_fits(plain, hint), f"{path}: expected {_spelled(hint)}, got {plain!r}; correct the value")


def _fits(value: Any, hint: Any) -> bool:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, each) for each in get_args(hint))
    if origin is Literal:
        return value in get_args(hint)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (None, type(None)):
        return value is None
    if hint in (str, bool):
        return isinstance(value, hint)
    kind = origin or hint
    if inspect.isclass(kind) and issubclass(kind, Mapping):
        return isinstance(value, dict)
    if inspect.isclass(kind) and issubclass(kind, (Sequence, tuple)):
        inner = [each for each in get_args(hint) if each is not Ellipsis]
        return isinstance(value, list) and (not inner or all(_fits(each, inner[0]) for each in value))
    return True  # anything richer is built from a node of its own


def _spelled(hint: Any) -> str:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_spelled(each) for each in get_args(hint))
    if origin is Literal:
        return "one of " + ", ".join(map(str, get_args(hint)))
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(hint, str(hint).replace("collections.abc.", ""))
