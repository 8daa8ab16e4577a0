"""``manifoldgd COMMAND [key=value ...]``: command word, Hydra, errors in one line.

Importing this module loads neither torch nor diffusers, so tab completion answers at once.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from manifoldgd import __version__
from manifoldgd.cli.arguments import (
    Arguments,
    check_overrides,
    first_values,
    parse,
    read_arguments,
    with_own_priors,
)
from manifoldgd.cli.compose import Config, compose, conf_dir, explain
from manifoldgd.cli.explain import explain_system
from manifoldgd.cli.help import command_help
from manifoldgd.cli.imports import import_weights
from manifoldgd.cli.sweep import begin_sweep, conclude_sweep, job_records, plan_sweep, run_job
from manifoldgd.cli.table import run_table
from manifoldgd.cli.targets import allowing
from manifoldgd.errors import RunError, UserError, required
from manifoldgd.stopping import Stopped, check_lost, listening
from manifoldgd.study.jobs import importing

COMMANDS = {
    "run": "distil a set and evaluate it: set, metrics, report",
    "distill": "make the set only",
    "evaluate": "train students on an existing set and judge it: set=FOLDER",
    "table": "measure a table of methods by columns, cell by cell: table=NAME",
    "prior": "train a small latent diffusion prior on a dataset: output=FOLDER",
    "export": "write a set as others read it: set=FOLDER format=hf output=FOLDER",
    "bench": "measure this machine: speed as ratios, a device against the processor",
    "dashboard": "publish the W&B report of a table or a sweep: table=NAME or sweep=FOLDER",
}
USAGE = f"""manifoldgd {__version__}: training-free dataset distillation with manifold-guided latent diffusion

usage: manifoldgd COMMAND [key=value ...] [--dry-run] [--multirun] [--cfg job] [--config-dir FOLDER] [--help]

commands:
{chr(10).join(f"  {name:9} {meaning}" for name, meaning in COMMANDS.items())}

examples:
  manifoldgd run dataset=digits
  manifoldgd run dataset=image_folder dataset.folder=photos ipc=10
  manifoldgd run --multirun dataset=digits ipc=1,5,10 guidance=mode,manifold guidance.scale=0.05,0.1,0.2
  manifoldgd evaluate set=bundled:fashion_mnist-ipc10 dataset=fashion_mnist
  manifoldgd table                   which tables there are
  manifoldgd COMMAND --help          what can be chosen and set
  eval "$(manifoldgd -sc install=bash)"   tab completion (also zsh, fish)"""
EXAMPLES = {
    "run": (
        "manifoldgd run dataset=digits ipc=10",
        "manifoldgd run --multirun dataset=digits ipc=1,5,10 guidance=mode,manifold guidance.scale=0.05,0.1,0.2",
    ),
    "distill": (
        "manifoldgd distill dataset=image_folder dataset.folder=photos dataset.image_size=32 prior=./my_prior ipc=10",
    ),
    "evaluate": ("manifoldgd evaluate set=outputs/digits/... dataset=digits student.width=64",),
    "export": (
        "manifoldgd export set=outputs/digits/... format=hf output=my_set push=owner/name",
        "manifoldgd export set=bundled:fashion_mnist-ipc10 format=zip output=fashion",
    ),
    "prior": (
        "manifoldgd prior dataset=image_folder dataset.folder=photos dataset.image_size=32 output=my_prior",
        "manifoldgd prior import DiT-XL-2-256x256.pt output=dit_xl_2_256",
    ),
    "dashboard": ("manifoldgd dashboard table=fashion_mnist",),
}
STOPPED = (130, 143)  # exit codes of a command that SIGINT and SIGTERM ended, by when all is put away
COMPLETION = ("-sc", "--shell-completion")


def main() -> None:
    """Entry point of the command ``manifoldgd``."""
    for stream in (sys.stdout, sys.stderr):  # a terminal that knows ASCII alone gets the rest as escapes
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = run(sys.argv[1:])
        if code in STOPPED:  # on a busy machine the interpreter takes longer to take itself apart than a stop may
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        sys.exit(code)
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def run(arguments: list[str]) -> int:
    """Run one command and say in one line what ended it.

    Returns:
        The exit code: 0; 1 for failed jobs or cells, work that went wrong and errors of the system; 2 for bad input;
        130 and 143 when stopped by SIGINT and SIGTERM.
    """
    try:
        with listening():
            try:
                return _run(arguments)
            except Exception as error:
                check_lost(error)
                raise
    except UserError as error:
        return _say(f"error: {error}", 2)
    except (HydraException, OmegaConfBaseException) as error:
        return _say(f"error: {explain(error)}", 2)
    except RunError as error:
        return _say(f"error: {error}", 1)
    except BrokenPipeError:
        raise
    except OSError as error:
        return _say(f"error: {explain_system(error)}", 1)
    except KeyboardInterrupt:  # where nobody listens, as outside the main thread
        return _say(str(Stopped(signal.SIGINT)), 130)
    except Stopped as stop:
        return _say(str(stop), stop.exit_code)


def _say(text: str, code: int) -> int:
    print(f"manifoldgd: {text}", file=sys.stderr, flush=True)
    return code


def _run(arguments: list[str]) -> int:
    if arguments and arguments[0] in COMPLETION:
        return _complete(arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(__version__)
        return 0
    command, rest = arguments[0], with_own_priors(arguments[1:], conf_dir())
    if command not in COMMANDS:
        raise UserError(f"unknown command {command!r}; choose one of {', '.join(COMMANDS)}")
    if command == "table":
        return run_table(rest)
    if command == "bench":
        from manifoldgd.cli.bench import run_bench  # here, because it imports torch

        return run_bench(rest)
    if command == "prior" and rest[:1] == ["import"]:
        return import_weights(rest[1:])
    given = read_arguments(rest)
    if given.has("--help"):
        return _help(command, given)
    check_overrides(given, conf_dir())
    if given.sweeps:
        return _run_sweep(command, rest, given)
    _compose_and_run(command, given.for_hydra(), given.allowed)
    return 0


def _help(command: str, given: Arguments) -> int:
    config = compose(replace(given, overrides=tuple(first_values(parse(given.overrides)))).searching)
    print(command_help(command, COMMANDS[command], EXAMPLES[command], config, conf_dir()))
    return 0


def _run_sweep(command: str, words: list[str], arguments: Arguments) -> int:
    plan = plan_sweep(arguments)
    grid = plan.grid(command)
    if plan.first.values.dry_run:
        known = required(grid, "dry_run: this sweep's jobs are not known beforehand; leave out --dry-run")
        from manifoldgd.cli.grid import preview_grid  # here, because it imports torch

        with allowing(arguments.allowed):
            return preview_grid(known, plan.first, plan.launching)
    folder = begin_sweep(command, words, plan.folder)
    if grid is not None:
        from manifoldgd.cli.grid import run_grid  # here, because it imports torch

        with allowing(arguments.allowed):
            run_grid(folder, grid, plan.first, plan.launching)
        return conclude_sweep(folder)
    os.environ.update(importing())  # for a launcher's processes
    try:
        _compose_and_run(command, plan.words(folder), arguments.allowed)
    except ValueError as error:
        # Optuna has no best trial where all have failed; the trials' own errors say more.
        records = [] if isinstance(error, UserError) else job_records(folder)
        if not records or any(record["error"] is None for record in records):
            raise
    return conclude_sweep(folder)


def _compose_and_run(command: str, words: list[str], allowed: tuple[str, ...]) -> None:
    # Hydra would print its own traceback-like summary and exit; with this it raises and we say it in one line.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    errors: list[Exception] = []

    def task(config: DictConfig) -> Any:
        try:
            with allowing(allowed):
                return run_job(command, Config.of_job(config))
        except Exception as error:  # carried past Hydra, which would print a line of its own about it
            errors.append(error)

    try:
        _hand_to_hydra(words, task)
    except Exception as error:  # of a sweeper that misses the results; why they are missing says more
        errors.append(error)
    if errors and isinstance(errors[0], HydraException | OmegaConfBaseException):
        raise UserError(explain(errors[0], read_arguments(words).searching)) from errors[0]
    if errors:
        raise errors[0]


def _complete(arguments: list[str]) -> int:
    """Hydra's completion, told nothing of the command word that it does not know."""
    words = os.environ.get("COMP_LINE", "").split(" ")
    if len(words) > 2 and words[1] in COMMANDS:
        removed = len(words[1]) + 1
        os.environ["COMP_LINE"] = " ".join([words[0], *words[2:]])
        os.environ["COMP_POINT"] = str(max(0, int(os.environ.get("COMP_POINT", "0")) - removed))
    elif len(words) == 2 and arguments[1:] and arguments[1].startswith("query="):
        print("\n".join(name for name in COMMANDS if name.startswith(words[1])))
        return 0
    _hand_to_hydra(arguments, lambda config: None)
    return 0


def _hand_to_hydra(words: list[str], task: Callable[[DictConfig], Any]) -> None:
    given, sys.argv = sys.argv, ["manifoldgd", *words]  # where Hydra reads them
    try:
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(task)()
    finally:
        sys.argv = given
