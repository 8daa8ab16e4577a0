"""What a run reports to, and the tracker that takes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

Columns = Mapping[str, Sequence[Any]]  # a table, column by column
Points = Sequence[Mapping[str, float]]  # of curves: each a horizontal position (epoch or guidance/step) and values


LONGEST_TAG = 64  # characters, W&B's limit


def run_tags(facts: Mapping[str, Any]) -> list[str]:
    """What a run is, as tags such as ``ipc: 10``; facts that are ``None`` have none."""
    return [f"{name}: {value}"[:LONGEST_TAG] for name, value in facts.items() if value is not None]


class Tracker(Protocol):
    """What a run reports to. No method raises because of the tracker's own trouble."""

    url: str | None  # where the open run can be looked at; None offline and outside a run

    def start(
        self,
        *,
        name: str,
        group: str,
        job_type: str,
        config: Mapping[str, Any],
        run_id: str,
        tags: Sequence[str] = (),
    ) -> None:
        """Open one run, or continue the one that has this ``run_id``."""
        ...

    def student_logger(self, seed: int) -> Any:
        """A Lightning logger for the student of ``seed``, or ``False``."""
        ...

    def finish(
        self,
        *,
        summary: Mapping[str, Any],
        tables: Mapping[str, Columns],
        images: Mapping[str, Image.Image],
        points: Points = (),
        set_folder: Path | None = None,
    ) -> None:
        """Record the result."""
        ...

    def close(self, exit_code: int) -> None:
        """End the run, also after an error."""
        ...


class NoTracker:
    """Results on disk only."""

    url = None

    def start(self, **facts: Any) -> None:
        """Do nothing."""

    def student_logger(self, seed: int) -> Any:
        """No logger."""
        return False

    def finish(self, **result: Any) -> None:
        """Do nothing."""

    def close(self, exit_code: int) -> None:
        """Do nothing."""
