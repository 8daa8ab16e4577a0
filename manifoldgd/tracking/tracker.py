"""What a run reports to, and the tracker that takes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

Columns = Mapping[str, Sequence[Any]]  # a table, column by column
Points = Sequence[Mapping[str, float]]  # of curves: each a horizontal position (epoch or guidance/step) and values
EPOCH = "epoch"  # from 1: horizontal axis of what students did
GUIDANCE_STEP = "guidance/step"  # from 0, the noisiest: that of what guidance did
LONGEST_TAG = 64  # characters, W&B's limit


def run_tags(facts: Mapping[str, Any]) -> list[str]:
    """What a run is, as tags such as ``ipc: 10``; facts that are ``None`` have none."""
    return [f"{name}: {value}"[:LONGEST_TAG] for name, value in facts.items() if value is not None]


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What a run is, before it has results.

    Attributes:
        name: shown for it.
        group: of the runs that it belongs to.
        job_type: ``run``, ``cell``, ``table`` and the like.
        config: everything it was configured with.
        run_id: the same for the same result: a run that has it is continued.
        folder: where its results lie.
        tags: see :func:`run_tags`.
    """

    name: str
    group: str
    job_type: str
    config: Mapping[str, Any]
    run_id: str
    folder: Path
    tags: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What came of a run.

    Attributes:
        summary: numbers of the whole run.
        tables: by name.
        images: by name.
        points: of curves; those that a :meth:`Tracker.student_logger` was given meanwhile are passed over.
        set_folder: of the distilled set, which stays where it is and must not be changed.
    """

    summary: Mapping[str, Any]
    tables: Mapping[str, Columns]
    images: Mapping[str, Image.Image]
    points: Points = ()
    set_folder: Path | None = None


def reason(error: Exception) -> str:
    """What an error says, on one line of at most 200 characters."""
    return " ".join(str(error).split())[:200] or type(error).__name__


class Tracker:
    """What a run reports to. No method raises because of the tracker's own trouble; here none does anything."""

    @property
    def url(self) -> str | None:
        """Where the open run can be looked at; ``None`` offline and outside a run."""
        return None

    def start(self, run: RunFacts) -> None:
        """Open one run, or continue the one that has its id."""

    def student_logger(self, seed: int) -> Any:
        """A Lightning logger for the student of ``seed``, or ``False``."""
        return False

    def finish(self, result: RunResult) -> None:
        """Record the result."""

    def close(self, exit_code: int) -> None:
        """End the run, also after an error."""

    def _abandon(self) -> None:
        """Have no more to do with the open run."""

    def _try(self, failure: str, act: Callable[[], None], *, otherwise: str) -> None:
        """Record something; if that raises, whatever it raises, say so in one line and record no more."""
        try:
            act()
        except Exception as error:
            print(f"{failure} ({reason(error)}); {otherwise}")
            self._abandon()

    @contextmanager
    def tracking(self, run: RunFacts) -> Iterator[None]:
        """:meth:`start` the run for the block, and :meth:`close` it with exit code 1 if the block raises, else 0."""
        self.start(run)
        exit_code = 1
        try:
            yield
            exit_code = 0
        finally:
            self.close(exit_code)


class NoTracker(Tracker):
    """Results on disk only."""
