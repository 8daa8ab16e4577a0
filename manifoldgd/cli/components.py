"""From configuration nodes to objects: keys, types and ranges are checked before anything is built.

The constructor's signature says which keys exist and what they hold; the YAML file holds the values. Nothing else does.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from manifoldgd.cli.compose import conf_dir
from manifoldgd.cli.explain import suggest
from manifoldgd.cli.targets import check_target
from manifoldgd.errors import UserError, require
from manifoldgd.ranges import annotations_of, check, parameters_of

TARGET = "_target_"


def build(config: DictConfig, group: str, **given: Any) -> Any:
    """The object that a group describes.

    Args:
        config: the whole configuration.
        group: dotted path of the group.
        given: what is known only now and goes beside the values, to a target that takes it.

    Raises:
        UserError: a key is unknown, missing, of another type or out of range, the target is not registered for its
            place, or the constructor refuses a value.
    """
    node = checked_node(config, group)
    taken = parameters_of(get_object(node[TARGET]))
    return _built(node, group, {name: value for name, value in given.items() if name in taken})


def checked_node(config: DictConfig, group: str) -> dict[str, Any]:
    """A group as plain containers, checked; see :func:`build` for what it raises."""
    node = plain(config, group)
    require(
        isinstance(node, dict) and TARGET in node,
        f"{group}: expected a choice of this group, got {'none' if isinstance(node, dict) else repr(node)}; set "
        f"{group}=NAME, and leave its {TARGET} in place",
    )
    _check(node, group)
    return node


def plain(config: DictConfig, group: str) -> Any:
    """A group as plain containers, interpolations resolved; ``???`` where a value is missing."""
    node = OmegaConf.select(config, group, default=None, throw_on_missing=False)
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def _built(node: Any, path: str, given: Mapping[str, Any] = MappingProxyType({})) -> Any:
    """What a checked node describes, its inner nodes first."""
    if not isinstance(node, dict) or TARGET not in node:
        return node
    values = {key: _built(value, f"{path}.{key}") for key, value in node.items() if key != TARGET}
    try:
        return get_object(node[TARGET])(**{**given, **values})
    except UserError as error:
        raise error.under(path) from None
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: {error}") from error


def _check(node: Mapping[str, Any], path: str) -> None:
    """Compare a node with the signature of its ``_target_``, and so on below: names, types, ranges, targets."""
    check_target(path, node[TARGET])
    try:
        target = get_object(node[TARGET])
    except Exception as error:  # a class of the user's own, whatever its import raises
        raise UserError(f"{path}.{TARGET}: {node[TARGET]} cannot be imported ({error}); correct the name") from error
    hints = annotations_of(target)
    # Scientific numbers have no Python default; one that has is an engineering number and needs no line in the YAML.
    signature = parameters_of(target)
    parameters = [name for name, one in signature.items() if name in node or one.default is one.empty]
    for key in node:
        if key != TARGET and key not in parameters:
            raise UserError(f"unknown key '{path}.{key}'{suggest(str(key), parameters)}")
    for name in parameters:
        place = f"{path}.{name}"
        require(name in node, f"{place}: expected a value, got none; set {place}=...")
        value, group = node[name], place.replace(".", "/")
        require(value != "???", f"{place}: needs a value and has none; set {place}=...")
        # The word of a choice is given with slashes; with dots it would stand where the member's values belong.
        require(
            not (isinstance(value, str) and (conf_dir() / group / f"{value}.yaml").is_file()),
            f"{place}: expected the values of a member of this group, got {value!r}; choose it with {group}={value}",
        )
        if isinstance(value, dict) and TARGET in value:
            _check(value, place)
        else:
            _check_builds_nothing(value, place)
            check(place, value, hints.get(name, Any))


def _check_builds_nothing(value: Any, path: str) -> None:
    """Values are values: what could be built inside a list or a mapping is not."""
    if isinstance(value, dict):
        if TARGET in value:
            check_target(path, value[TARGET])
        for key, inner in value.items():
            _check_builds_nothing(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            _check_builds_nothing(inner, f"{path}[{place}]")
