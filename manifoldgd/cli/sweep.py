"""``--multirun``: which jobs it asks for, what they leave behind, and the table at the end.

A grid of runs is a study like a table (:mod:`manifoldgd.cli.grid`). Hydra runs what chooses its jobs by their results,
and the jobs of other commands; its launchers report the first failure only. So each job leaves a record of its own, and
the records make the table.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from hydra.core.override_parser.types import Glob, Override
from omegaconf import OmegaConf

from manifoldgd.cli.arguments import Arguments, first_values, is_many, parse, plain_range
from manifoldgd.cli.compose import Config, compose
from manifoldgd.cli.launcher import FOLDER_VARIABLE, Launching
from manifoldgd.errors import require
from manifoldgd.ranges import Range, check
from manifoldgd.study.definition import override

JOBS = "jobs"
LAUNCHER = "hydra/launcher"


@dataclass(frozen=True)
class SweepPlan:
    """A sweep before its first job."""

    arguments: Arguments
    overrides: tuple[str, ...]  # as the sweeper is to see them
    search: tuple[str, ...]  # where a single run looks for choices beside our own
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
        given = parse([*(f"{key}={value}" for key, value in params.items()), *self.overrides, *self.search])
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
        held = OmegaConf.to_container(self.first.hydra.launcher, resolve=False)
        settings = (override(f"hydra.launcher.{key}", value) for key, value in held.items() if key != "_target_")
        return Launching(self.jobs, name, tuple(settings))


def plan_sweep(arguments: Arguments) -> SweepPlan:
    """Compose the first job and check what all jobs share, before any runs.

    Raises:
        UserError: numbers would be chosen by test images or by the lowest accuracy, many jobs share an ``output``, or
            the first job cannot be composed.
    """
    from manifoldgd.cli.tuning import check_search  # here, because it imports torch

    parsed = parse(arguments.overrides)
    jobs = [each for each in parsed if each.key_or_group == JOBS]
    parsed = [each for each in parsed if each.key_or_group != JOBS]
    for each in jobs:
        check(JOBS, each.value(), Annotated[int, Range("[1, 1024]")])
    extra = arguments.value("--config-dir")
    search = () if extra is None else (override("hydra.searchpath", [f"file://{Path(extra).absolute()}"]),)
    first = compose([*first_values(parsed), *search])
    seeks = check_search(first)
    (output,) = [each for each in parsed if each.key_or_group == "output"][-1:] or [None]
    shared = output is not None and not output.is_sweep_override() and "${" not in str(output.input_line)
    require(
        not shared or output.value() is None or not (seeks or any(map(is_many, parsed))),
        f"{output.input_line if output else ''}: one folder for many jobs; leave it out, or name it by what differs, "
        "such as 'output=results/${ipc}'",
    )
    asked = any(each.key_or_group == "hydra.sweep.dir" for each in parsed)
    return SweepPlan(
        arguments=arguments,
        overrides=tuple(str(each.input_line) if seeks else plain_range(each) for each in parsed),
        search=search,
        first=first,
        folder=Path(first.hydra.sweep.dir).expanduser() if asked else None,
        seeks=seeks,
        jobs=jobs[-1].value() if jobs else None,
    )


@dataclass(frozen=True)
class Sweep:
    """A sweep, named by what it sweeps."""

    folder: Path

    @classmethod
    def of(cls, command: str, words: list[str], folder: Path | None = None) -> Sweep:
        """The sweep of a command line; its records of an earlier, stopped try are cleared (results are kept).

        Args:
            command: what each job does.
            words: what follows it.
            folder: where the sweep goes; ``None`` for a name made of the command line.
        """
        from manifoldgd.store.keys import key_of

        folder = folder or Path("outputs") / "sweeps" / f"{command}-{key_of(sorted(words))}"
        for record in (folder / JOBS).glob("[0-9][0-9][0-9][0-9].json"):
            record.unlink()
        os.environ[FOLDER_VARIABLE] = str(folder.absolute())
        return cls(folder)

    @property
    def all_failed(self) -> bool:
        """Whether there were jobs and none has a result."""
        records = self.records()
        return bool(records) and all(record["error"] is not None for record in records)

    def records(self) -> list[dict[str, Any]]:
        """Of each job its ``overrides``, and its ``result`` or its ``error``."""
        from manifoldgd.store.keys import read_json  # here, because it imports torch

        return [read_json(file) for file in sorted((self.folder / JOBS).glob("*.json"))]

    def conclude(self) -> int:
        """Print and write the table of all jobs; returns 1 if any failed."""
        from manifoldgd.cli.tuning import judged_by
        from manifoldgd.study.rendering import write_sweep

        records = self.records()
        varied = varied_keys([record["overrides"] for record in records])
        for record in records:
            record["overrides"] = {key: value for key, value in record["overrides"].items() if key in varied}
        finished = [(record["overrides"], record["result"] or {}) for record in records if record["error"] is None]
        jobs = [(overrides, result) for overrides, result in finished if "accuracy" in result]
        failed = [(job_name(record["overrides"]), record["error"]) for record in records if record["error"] is not None]
        split = judged_by([result for _, result in jobs])
        title = f"Sweep {self.folder.name}" + (f", judged on the {split} split" if split else "")
        if jobs or not finished:
            print(write_sweep(self.folder, jobs, failed, title=title))
        else:  # sets or priors that nothing has judged
            _list_made(finished, failed)
        if split == "test":
            print("sweep: judged on the TEST split: a result to report; choose numbers with experiment=tuning instead")
        print(f"sweep: {len(finished)} finished, {len(failed)} failed; {self.folder}")
        return 1 if failed else 0


def job_name(overrides: dict[str, str]) -> str:
    """``key=value`` for each override, as one would type them."""
    return " ".join(f"{key}={value}" for key, value in overrides.items())


def _list_made(finished: list[tuple[dict[str, str], dict[str, Any]]], failed: list[tuple[str, str]]) -> None:
    for overrides, result in finished:
        print(f"{job_name(overrides)}: finished{': ' + result['folder'] if 'folder' in result else ''}")
    for name, reason in failed:
        print(f"{name}: failed: {reason}")


def varied_keys(overrides: list[dict[str, str]]) -> set[str]:
    """The keys that tell the jobs apart; all keys of a sweep of one job."""
    keys = {key for each in overrides for key in each}
    return {key for key in keys if len(overrides) == 1 or len({each.get(key) for each in overrides}) > 1}


def record_job(
    folder: Path, number: int, overrides: dict[str, str], result: dict[str, Any] | None, error: str | None
) -> None:
    """Write one job's record in the folder of its sweep."""
    from manifoldgd.store.keys import write_json

    write_json(folder / JOBS / f"{number:04d}.json", {"overrides": overrides, "result": result, "error": error})
