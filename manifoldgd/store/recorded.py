"""Configurations in the words that results have always been recorded in.

A result is found by the configuration that made it. Where today's configuration says the same in other words, it is put
into those words before it is hashed, noted or compared: what was made before is found, and what is made now bears the
same name.
"""

from __future__ import annotations

from typing import Any

PARTS = ("method", "first", "then")  # of guidances that hold others
SPACES = "manifoldgd.prototypes."
POOL = 2  # what stood beside every clustering space, and acts in the pooled one only


def as_recorded(config: Any) -> Any:
    """``config`` in the recorded words; plain containers, not modified.

    * The strength of a guidance that holds others is that of its parts, and stands with them.
    * A generator of noise clouds is named where it is not torch's.
    * The latents in which classes are clustered are a word, and the side of the pooling window stands beside it.
    """
    if not isinstance(config, dict):
        return config
    held = {name: as_recorded(each) for name, each in config.items() if (name, each) != ("generator", None)}
    return _space_beside_pool(_scale_inside(held))


def _scale_inside(node: dict[str, Any]) -> dict[str, Any]:
    if "scale" not in node or not any(isinstance(node.get(part), dict) for part in PARTS):
        return node
    scale = node["scale"]
    kept = {name: each for name, each in node.items() if name != "scale"}
    return (
        kept
        if scale is None
        else {name: _scaled(each, scale) if name in PARTS else each for name, each in kept.items()}
    )


def _scaled(part: Any, scale: float) -> Any:
    if not isinstance(part, dict):
        return part
    found = {name: _scaled(each, scale) if name in PARTS else each for name, each in part.items()}
    return found | ({"scale": scale} if "scale" in found else {})


def _space_beside_pool(node: dict[str, Any]) -> dict[str, Any]:
    space = node.get("space")
    if "representative" not in node or not isinstance(space, dict):
        return node
    if space.get("_target_") == f"{SPACES}RawLatents":
        return node | {"space": "raw", "pool": POOL}
    if space.get("_target_") == f"{SPACES}PooledLatents":
        return node | {"space": "pooled", "pool": space["pool"]}
    return node | {"pool": POOL}
