"""Which parts of the configuration each command uses, and what its plain keys hold.

Checked before anything is loaded that takes a moment, so a wrong key is said at once.
"""

from __future__ import annotations

import os
from typing import Any, Literal

from omegaconf import OmegaConf

from manifoldgd.cli.components import plain
from manifoldgd.cli.compose import Config
from manifoldgd.cli.explain import suggest
from manifoldgd.errors import require
from manifoldgd.ranges import Million, Seed, check

SET_KEYS = {
    *("dataset", "prior", "clusterer", "guidance", "sampler", "start", "overgeneration"),
    *("ipc", "source", "reconstruct", "seed"),
}
JUDGE_KEYS = {"dataset", "student", "student_seeds", "save_students", "measures", "embedding", "logger", "cell"}
SHARED_KEYS = {"machine", "output", "cache", "experiment", "dry_run"}
USED_KEYS = {
    "run": SET_KEYS | JUDGE_KEYS | SHARED_KEYS,
    "distill": SET_KEYS | SHARED_KEYS,
    "evaluate": JUDGE_KEYS | SHARED_KEYS | {"set", "reading"},
    "export": {"set", "reading", "format", "license", "push", "overwrite", "output"},
    "prior": {"dataset", "recipe", "seed"} | SHARED_KEYS,
    "dashboard": {"table", "sweep", "logger", "output"},
}
CELL_KEYS = {"table", "method", "column", "seed"}  # what names a table's cell
# Names alone: what they stand for is loaded where it is used.
SOURCES = ("diffusion", "random", "herding", "k_center", "kmeans_nearest")
EXPORT_FORMATS = ("hf", "parquet", "webdataset", "npz", "zip")
PLAIN_KEYS: dict[str, Any] = {
    "ipc": Million,
    "start": dict[str, Any],
    "overgeneration": dict[str, Any],
    "source": Literal[SOURCES],
    "reconstruct": bool,
    "seed": Seed,
    "student_seeds": list[Seed],
    "measures": bool,
    "save_students": bool,
    "set": str | None,
    "dry_run": bool,
    "reading": dict[str, Any],
    "cell": dict[str, Any] | None,
    "table": str | None,
    "sweep": str | None,
    "format": Literal[EXPORT_FORMATS],
    "license": str | None,
    "push": str | None,
    "overwrite": bool,
    "output": str | None,
    "cache": str,
}


def check_keys(command: str, given: Config) -> None:
    """No key may be unknown, also not one added with ``+``, and none given that the command does not use."""
    config = given.values
    known = {*PLAIN_KEYS, *(key for keys in USED_KEYS.values() for key in keys)}
    for key in config:
        require(str(key) in known, f"unknown key {str(key)!r}{suggest(str(key), sorted(known))}")
    for name in sorted(known - {"experiment"}):
        require(name in config, f"{name}: needs a value and was removed; leave out ~{name}")
    for name, hint in PLAIN_KEYS.items():
        check(name, plain(config, name), hint)
    require(len(config.student_seeds) >= 1, "student_seeds: expected at least one seed, got []; set [0]")
    require(
        config.cell is None or set(config.cell) == CELL_KEYS,
        f"cell: expected null or the keys {', '.join(sorted(CELL_KEYS))}, got {config.cell}; leave it to "
        "`manifoldgd table`",
    )
    used = USED_KEYS[command]
    if command == "distill" and "${student." in str(OmegaConf.to_container(config.guidance, resolve=False)):
        used = used | {"student"}  # a guidance may take something of it, as the augmentation
    for override in given.overrides:
        key = override.lstrip("+~").split("=", 1)[0].split("@")[0]
        top = key.replace("/", ".").split(".")[0]
        require(
            top in used or top == "hydra",
            f"`manifoldgd {command}` does not use {key!r}; it uses {', '.join(sorted(used))}",
        )
    for name in ("output", "cache", "set", "sweep"):
        if config[name] is not None:
            require(config[name].strip() != "", f"{name}: expected a folder, got {config[name]!r}; set {name}=FOLDER")
            config[name] = os.path.expanduser(config[name])
