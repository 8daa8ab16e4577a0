"""``--multirun``: what the jobs leave behind, and the table at the end.

Hydra's launchers report the first failure only, so each job writes a record of its own and the records make the table.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manifoldgd.files import atomic_write_json

FLAGS = ("-m", "--multirun")
FOLDER_VARIABLE = "MANIFOLDGD_SWEEP"  # reaches jobs that a launcher runs in other processes


def is_sweep(arguments: list[str]) -> bool:
    """Whether these arguments ask for several jobs."""
    return any(flag in arguments for flag in FLAGS)


@dataclass(frozen=True)
class Sweep:
    """A sweep, named by what it sweeps."""

    folder: Path

    @classmethod
    def of(cls, command: str, arguments: list[str]) -> Sweep:
        """The sweep of a command line; its records of an earlier, stopped try are cleared (results are kept)."""
        from manifoldgd.store.keys import key_of

        folder = Path("outputs") / "sweeps" / f"{command}-{key_of(sorted(arguments))}"
        for record in (folder / "jobs").glob("*.json"):
            record.unlink()
        os.environ[FOLDER_VARIABLE] = str(folder.absolute())
        return cls(folder)

    @property
    def all_failed(self) -> bool:
        """Whether there were jobs and none has a result."""
        records = self._records()
        return bool(records) and all(record["error"] is not None for record in records)

    def _records(self) -> list[dict[str, Any]]:
        return [json.loads(file.read_text(encoding="utf-8")) for file in sorted((self.folder / "jobs").glob("*.json"))]

    def conclude(self) -> int:
        """Print and write the table of all jobs; returns 1 if any failed."""
        from manifoldgd.cli.tuning import judged_by
        from manifoldgd.report.sweep import write_sweep_report

        records = self._records()
        varied = _varied([record["overrides"] for record in records])
        for record in records:
            record["overrides"] = {key: value for key, value in record["overrides"].items() if key in varied}
        finished = [(record["overrides"], record["result"] or {}) for record in records if record["error"] is None]
        jobs = [(overrides, result) for overrides, result in finished if "accuracy" in result]
        failed = [(record["overrides"], record["error"]) for record in records if record["error"] is not None]
        split = judged_by([result for _, result in jobs])
        title = f"Sweep {self.folder.name}" + (f", judged on the {split} split" if split else "")
        if jobs or not finished:
            print(write_sweep_report(self.folder, jobs=jobs, failed=failed, title=title).text)
        else:  # sets or priors that nothing has judged
            _list_made(finished, failed)
        if split == "test":
            print("sweep: judged on the TEST split: a result to report; choose numbers with experiment=tuning instead")
        print(f"sweep: {len(finished)} finished, {len(failed)} failed; {self.folder}")
        return 1 if failed else 0


def _list_made(finished: list[tuple[dict[str, str], dict[str, Any]]], failed: list[tuple[dict[str, str], str]]) -> None:
    from manifoldgd.report.sweep import job_name

    for overrides, result in finished:
        print(f"{job_name(overrides)}: finished{': ' + result['folder'] if 'folder' in result else ''}")
    for overrides, reason in failed:
        print(f"{job_name(overrides)}: failed: {reason}")


def _varied(overrides: list[dict[str, str]]) -> set[str]:
    """The keys that tell the jobs apart; all keys of a sweep of one job."""
    keys = {key for each in overrides for key in each}
    return {key for key in keys if len(overrides) == 1 or len({each.get(key) for each in overrides}) > 1}


def record_job(number: int, overrides: dict[str, str], result: dict[str, Any] | None, error: str | None) -> None:
    """Write one job's record."""
    file = Path(os.environ[FOLDER_VARIABLE]) / "jobs" / f"{number:04d}.json"
    atomic_write_json(file, {"overrides": overrides, "result": result, "error": error})
