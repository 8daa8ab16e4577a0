"""What a run reports to, and the tracker that takes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from PIL import Image

Columns = Mapping[str, Sequence[Any]]  # a table, column by column


class Tracker(Protocol):
    """What a run reports to. No method raises because of the tracker's own trouble."""

    url: str | None  # where the open run can be looked at; None offline and outside a run

    def start(
        self, *, name: str, group: str, job_type: str, config: Mapping[str, Any], run_id: str | None = None
    ) -> None:
        """Open one run; one with a ``run_id`` continues the run that has it."""
        ...

    def student_logger(self, seed: int) -> Any:
        """A Lightning logger for the student of ``seed``, or ``False``."""
        ...

    def finish(
        self, *, summary: Mapping[str, Any], tables: Mapping[str, Columns], images: Mapping[str, Image.Image]
    ) -> None:
        """Record the result."""
        ...

    def close(self, exit_code: int) -> None:
        """End the run, also after an error."""
        ...


class NoTracker:
    """Results on disk only."""

    url = None

    def start(
        self, *, name: str, group: str, job_type: str, config: Mapping[str, Any], run_id: str | None = None
    ) -> None:
        """Do nothing."""

    def student_logger(self, seed: int) -> Any:
        """No logger."""
        return False

    def finish(
        self, *, summary: Mapping[str, Any], tables: Mapping[str, Columns], images: Mapping[str, Image.Image]
    ) -> None:
        """Do nothing."""

    def close(self, exit_code: int) -> None:
        """Do nothing."""
