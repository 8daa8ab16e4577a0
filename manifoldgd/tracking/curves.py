"""Lightning's way to a tracker."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lightning.pytorch.loggers import Logger


class CurveLogger(Logger):
    """Hands what a training records to a function, with the epoch as the horizontal axis.

    Lightning's own W&B logger counts batches and passes wandb's errors on to the training.
    """

    def __init__(self, log: Callable[[Mapping[str, Any]], None], *, version: int) -> None:
        super().__init__()
        self.log, self._version = log, version

    @property
    def name(self) -> str:
        """As Lightning asks."""
        return "student"

    @property
    def version(self) -> int:
        """As Lightning asks: the student's seed."""
        return self._version

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """One point; ``step`` is the epoch, from 1."""
        self.log({**metrics, "epoch": step})

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the run has the configuration."""
