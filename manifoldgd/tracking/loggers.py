"""Loggers for Lightning, which an import of this loads: trackers do so when a student is about to train."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger

from manifoldgd.tracking.tracker import EPOCH


class CurveLogger(Logger):
    """Hands what a training records to a function, with the epoch as the horizontal axis.

    Lightning's own loggers would pass their errors, a lost server or a full disk, on to the training.
    """

    def __init__(self, log: Callable[[Mapping[str, Any]], None], *, version: int) -> None:
        super().__init__()
        self.log, self._version = log, version

    @property
    def name(self) -> str:
        return "student"

    @property
    def version(self) -> int:
        return self._version  # the student's seed

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """One point; ``step`` is the epoch, from 1."""
        self.log({**metrics, EPOCH: step})

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the run has the configuration."""


class EventLogger(TensorBoardLogger):
    """Events in the folder that is named; Lightning's own logger reads ``$HOME`` and ``~`` in it as a shell does."""

    @property
    def log_dir(self) -> str:
        return str(Path(self.root_dir) / str(self.version))
