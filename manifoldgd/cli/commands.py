"""What each command does with its configuration: check everything, then run the stages."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from typing import Any, Literal

from omegaconf import OmegaConf

from manifoldgd.cli.components import plain
from manifoldgd.cli.compose import Config
from manifoldgd.cli.dashboard import publish_dashboard
from manifoldgd.cli.experiment import Experiment
from manifoldgd.cli.explain import explain_system, suggest
from manifoldgd.cli.setup import SOURCES
from manifoldgd.cli.sweep import record_job
from manifoldgd.cli.tuning import check_split, objective
from manifoldgd.cli.used import USED_KEYS
from manifoldgd.errors import RunError, UserError, require
from manifoldgd.ranges import Million, Seed, check
from manifoldgd.stopping import check_lost

CELL_KEYS = {"table", "method", "column", "seed"}  # what names a table's cell
PLAIN_KEYS: dict[str, Any] = {
    "ipc": Million,
    "start": dict[str, Any],
    "overgeneration": dict[str, Any],
    "source": Literal[SOURCES],
    "reconstruct": bool,
    "seed": Seed,
    "student_seeds": list[Seed],
    "measures": bool,
    "set": str | None,
    "cell": dict[str, Any] | None,
    "table": str | None,
    "sweep": str | None,
    "output": str | None,
    "cache": str,
}


def run_job(command: str, config: Config) -> float | None:
    """One job of a command; in a sweep its outcome is recorded and an error does not stop the other jobs.

    Returns:
        What a sweeper that chooses jobs by their results maximises (see :func:`manifoldgd.cli.tuning.objective`).
    """
    check_split(config)
    if not config.in_sweep:
        return objective(_run(command, config))
    varied = {key: value for key, _, value in (override.partition("=") for override in config.overrides)}
    number = config.hydra.job.num
    try:
        result = _run(command, config)
    except Exception as error:
        check_lost(error)
        if not isinstance(error, UserError | RunError | OSError):
            traceback.print_exc()
        reason = explain_system(error) if isinstance(error, OSError) else f"{error}" or type(error).__name__
        record_job(number, varied, None, reason)
        print(f"job {number}: error: {reason}")
        return None
    record_job(number, varied, result, None)
    return objective(result)


def _run(command: str, config: Config) -> dict[str, Any] | None:
    check_keys(command, config)
    if command == "dashboard":
        return publish_dashboard(config.values)
    stages: dict[str, Callable[[Experiment], dict[str, Any] | None]] = {
        "run": Experiment.run,
        "distill": Experiment.distill,
        "evaluate": Experiment.evaluate,
        "prior": Experiment.train_prior,
    }
    return stages[command](Experiment(command, config))


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
