"""``--multirun``: which jobs it asks for, what they leave behind, and the table at the end.

A grid of runs is a study like a table (:mod:`manifoldgd.cli.grid`). Hydra runs what chooses its jobs by their results,
and the jobs of other commands; its launchers report the first failure only. So each job leaves a record of its own, and
the records make the table.

Numbers are chosen by accuracy on images held out of the training split alone, never on the test split.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from hydra.core.override_parser.types import Glob, Override
from omegaconf import OmegaConf

from manifoldgd.cli.arguments import Arguments, first_values, is_many, parse, plain_range
from manifoldgd.cli.compose import Config, compose
from manifoldgd.cli.explain import explain_system
from manifoldgd.cli.launcher import FOLDER_VARIABLE, Launching
from manifoldgd.cli.used import check_keys
from manifoldgd.errors import RunError, UserError, require
from manifoldgd.ranges import Range, check
from manifoldgd.stopping import check_lost
from manifoldgd.study.definition import override

JOBS = "jobs"
LAUNCHER = "hydra/launcher"
GRID = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"  # runs what it is given, whatever comes out
# Where the other sweepers say which way they go: key of `hydra.sweeper`, and the value by which they maximise.
DIRECTIONS = {"direction": "maximize", "optim.maximize": True, "ax_config.experiment.minimize": False}
TUNING = "tuning"  # experiments whose name begins so are for choosing numbers
NOT_HELD_OUT = (
    "dataset.validation: expected a number of training images to hold out, got null: numbers chosen on the test split "
    "would make it training data; set dataset.validation=N"
)


@dataclass(frozen=True)
class SweepPlan:
    """A sweep before its first job."""

    arguments: Arguments
    overrides: tuple[str, ...]  # as the sweeper is to see them
    first: Config  # the first job
    folder: Path | None  # asked for
    seeks: bool  # whether jobs are chosen by the results of others
    jobs: int | None = None  # at a time

    def words(self, folder: Path) -> list[str]:
        """What Hydra is given."""
        plain = replace(self.arguments, overrides=self.overrides)
        return plain.for_hydra(override("hydra.sweep.dir", str(folder)))

    def grid(self, command: str) -> list[Override] | None:
        """The overrides of a study's cells; ``None`` where Hydra is to run the jobs itself.

        Raises:
            UserError: a number of jobs at a time was asked for where Hydra runs them.
        """
        params = {} if self.seeks else self.first.hydra.sweeper.params or {}
        searching = replace(self.arguments, overrides=self.overrides).searching
        given = parse([*(f"{key}={value}" for key, value in params.items()), *searching])
        # What an experiment sets is not known beforehand, and a glob stands for names that Hydra finds.
        unknown = (
            isinstance(one.value(), Glob) or (is_many(one) and one.key_or_group == "experiment") for one in given
        )
        if not self.seeks and command == "run" and not any(unknown):
            return given
        require(
            self.jobs is None,
            f"{JOBS}: Hydra runs these jobs, one after the other; choose a launcher, such as hydra/launcher=joblib",
        )
        return None

    @property
    def launching(self) -> Launching:
        """How the cells of a grid are to be run: in processes here, unless a launcher was chosen."""
        name = self.first.choice(LAUNCHER)
        asked = any(each.key_or_group == LAUNCHER for each in parse(self.overrides))
        if name == "basic" and not asked:
            return Launching(self.jobs)
        held: Any = OmegaConf.to_container(self.first.hydra.launcher, resolve=False)
        settings = (override(f"hydra.launcher.{key}", value) for key, value in held.items() if key != "_target_")
        return Launching(self.jobs, name, tuple(settings))


def plan_sweep(arguments: Arguments) -> SweepPlan:
    """Compose the first job and check what all jobs share, before any runs.

    Raises:
        UserError: numbers would be chosen by test images or by the lowest accuracy, many jobs share an ``output``, or
            the first job cannot be composed.
    """
    parsed = parse(arguments.overrides)
    given = {each.key_or_group: each for each in parsed}  # the last of those given twice
    jobs: Any = given[JOBS].value() if JOBS in given else None
    check(JOBS, jobs, Annotated[int, Range("[1, 1024]")] | None)
    parsed = [each for each in parsed if each.key_or_group != JOBS]
    first = compose(replace(arguments, overrides=tuple(first_values(parsed))).searching)
    seeks = check_search(first)
    output = given.get("output")
    if output and output.value() is not None and not output.is_sweep_override() and "${" not in str(output.input_line):
        require(
            not seeks and not any(map(is_many, parsed)),
            f"{output.input_line}: one folder for many jobs; leave it out, or name it by what differs, such as "
            "'output=results/${ipc}'",
        )
    return SweepPlan(
        arguments=arguments,
        overrides=tuple(str(each.input_line) if seeks else plain_range(each) for each in parsed),
        first=first,
        folder=Path(first.hydra.sweep.dir).expanduser() if "hydra.sweep.dir" in given else None,
        seeks=seeks,
        jobs=jobs,
    )


def check_search(config: Config) -> bool:
    """Whether a sweep, of which this is the first job, chooses its jobs by their results.

    Raises:
        UserError: it would choose the lowest accuracy, or by test images.
    """
    sweeper = config.hydra.sweeper
    seeks = sweeper["_target_"] != GRID
    for key, wanted in DIRECTIONS.items() if seeks else ():
        value = OmegaConf.select(sweeper, key)
        value = getattr(value, "name", value)  # Hydra's schema of Optuna makes it a member of an enumeration
        spelled = str(wanted).lower() if isinstance(wanted, bool) else wanted
        require(
            value in (None, wanted),
            f"hydra.sweeper.{key}: expected {spelled}, got {value}: accuracy is sought, the higher the better; set "
            f"hydra.sweeper.{key}={spelled}, or take experiment=tuning_optuna",
        )
    _check_held_out(config, seeks)
    return seeks


def check_split(config: Config) -> None:
    """Raise :class:`UserError` where numbers would be chosen by the test images that judge this job."""
    _check_held_out(config, config.in_sweep and config.hydra.sweeper["_target_"] != GRID)


def _check_held_out(config: Config, seeks: bool) -> None:
    tunes = seeks or config.choice("experiment").startswith(TUNING)
    require(not tunes or OmegaConf.select(config.values, "dataset.validation") is not None, NOT_HELD_OUT)


def run_job(command: str, config: Config) -> float | None:
    """One job of a command; in a sweep its outcome is recorded and an error does not stop the other jobs.

    Returns:
        What a sweeper that chooses jobs by their results maximises (see :func:`objective`).
    """
    check_split(config)
    if not config.in_sweep:
        return objective(_checked_and_run(command, config))
    varied = {key: value for key, _, value in (override.partition("=") for override in config.overrides)}
    number, folder = config.hydra.job.num, Path(os.environ[FOLDER_VARIABLE])
    try:
        result = _checked_and_run(command, config)
    except Exception as error:
        check_lost(error)
        if not isinstance(error, UserError | RunError | OSError):
            traceback.print_exc()
        reason = explain_system(error) if isinstance(error, OSError) else f"{error}" or type(error).__name__
        record_job(folder, number, varied, None, reason)
        print(f"job {number}: error: {reason}")
        return None
    record_job(folder, number, varied, result, None)
    return objective(result)


def _checked_and_run(command: str, config: Config) -> dict[str, Any] | None:
    check_keys(command, config)
    from manifoldgd.cli.commands import run_command  # here, because it imports torch

    return run_command(command, config)


def objective(result: Mapping[str, Any] | None) -> float | None:
    """What a sweeper maximises: mean last-epoch accuracy in [0, 1]; ``None`` for a job without one."""
    accuracy = (result or {}).get("accuracy")
    return accuracy["last"]["mean"] if accuracy else None


def begin_sweep(command: str, words: Sequence[str], folder: Path | None = None) -> Path:
    """The folder of a sweep, where records of an earlier, stopped try are cleared (results are kept).

    Args:
        command: what each job does.
        words: what follows it on the command line.
        folder: where the sweep goes; ``None`` for a name made of the command line.
    """
    from manifoldgd.store.keys import key_of  # here, because it imports torch, as all below

    folder = folder or Path("outputs") / "sweeps" / f"{command}-{key_of(sorted(words))}"
    for record in (folder / JOBS).glob("[0-9][0-9][0-9][0-9].json"):
        record.unlink()
    os.environ[FOLDER_VARIABLE] = str(folder.absolute())
    return folder


def record_job(
    folder: Path, number: int, overrides: Mapping[str, str], result: Mapping[str, Any] | None, error: str | None
) -> None:
    """Write one job's record in the folder of its sweep."""
    from manifoldgd.store.keys import write_json

    write_json(folder / JOBS / f"{number:04d}.json", {"overrides": overrides, "result": result, "error": error})


def job_records(folder: Path) -> list[dict[str, Any]]:
    """Of each job its ``overrides``, and its ``result`` or its ``error``."""
    from manifoldgd.store.keys import read_json

    return [read_json(file) for file in sorted((folder / JOBS).glob("*.json"))]


def conclude_sweep(folder: Path) -> int:
    """Print and write the table of all jobs; returns 1 if any failed."""
    from manifoldgd.study.rendering import write_sweep

    records = job_records(folder)
    varied = varied_keys([record["overrides"] for record in records])
    finished: list[tuple[Mapping[str, str], Mapping[str, Any]]] = []
    failed: list[tuple[str, str]] = []
    for record in records:
        overrides = {key: value for key, value in record["overrides"].items() if key in varied}
        if record["error"] is None:
            finished.append((overrides, record["result"] or {}))
        else:
            failed.append((" ".join(f"{key}={value}" for key, value in overrides.items()), record["error"]))
    jobs = [(overrides, result) for overrides, result in finished if "accuracy" in result]
    split = judged_by([result for _, result in jobs])
    title = f"Sweep {folder.name}" + (f", judged on the {split} split" if split else "")
    if jobs or not finished:
        print(write_sweep(folder, jobs, failed, title=title))
    else:  # sets or priors that nothing has judged
        for varying, result in finished:
            name = " ".join(f"{key}={value}" for key, value in varying.items())
            print(f"{name}: finished{': ' + result['folder'] if 'folder' in result else ''}")
        for name, reason in failed:
            print(f"{name}: failed: {reason}")
    if split == "test":
        print("sweep: judged on the TEST split: a result to report; choose numbers with experiment=tuning instead")
    print(f"sweep: {len(finished)} finished, {len(failed)} failed; {folder}")
    return 1 if failed else 0


def varied_keys(overrides: Sequence[Mapping[str, str]]) -> set[str]:
    """The keys that tell the jobs apart; all keys of a sweep of one job."""
    keys = {key for each in overrides for key in each}
    return {key for key in keys if len(overrides) == 1 or len({each.get(key) for each in overrides}) > 1}


def judged_by(results: Sequence[Mapping[str, Any]]) -> str | None:
    """``validation`` or ``test``: the split that judged, test if it judged any; ``None`` if none did."""
    from manifoldgd.dataset import judging_split

    splits = {judging_split(result["dataset"]) for result in results if result.get("accuracy")}
    return "test" if "test" in splits else next(iter(splits), None)
