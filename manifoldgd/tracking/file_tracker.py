"""Curves and final metrics as files of the result's own folder, by Lightning's loggers."""

from __future__ import annotations

import csv
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from manifoldgd.errors import UserError
from manifoldgd.tracking.tracker import EPOCH, GUIDANCE_STEP, Points, RunFacts, RunResult, Tracker

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

LOGS = "logs"  # in a result's folder; below it a folder for each kind of files
RUN = "run"  # configuration and summary
SAME = 1e-6  # relative: event files hold float32


class FileTracker(Tracker):
    """Files below ``logs/<kind>/`` of the result's folder.

    ``student-<seed>`` has the curves of a student, by epoch from 1; ``guidance`` those of what guidance did, by step;
    ``run`` the configuration, the summary at step 0 and, where the kind takes them, pictures. Tables are passed over:
    they lie beside the logs already. A folder is begun anew by whoever writes it, so what a stopped training left never
    mixes with what comes after; a finished student's stays.

    Files that cannot be written are told of in one line, and the run goes on without them.
    """

    kind: str

    def __init__(self) -> None:
        self.folder: Path | None = None  # of the open run
        self.config: dict[str, Any] = {}
        self.loggers: dict[str, Logger] = {}  # of the folders written since the start

    def start(self, run: RunFacts) -> None:
        """Write into the folder from now on."""
        self.close(1)
        self.folder, self.config = run.folder / LOGS / self.kind, dict(run.config)

    def student_logger(self, seed: int) -> Any:
        """Curves of one student over its epochs, on disk after each."""
        from manifoldgd.tracking.loggers import CurveLogger

        return CurveLogger(lambda point: self._write(lambda: self._log(point)), version=seed)

    def finish(self, result: RunResult) -> None:
        """Record summary, pictures, and the curves that neither grew in this process nor lie there already."""

        def record() -> None:
            for place, curve in groupby(result.points, key=_place):
                missing = list(curve)
                if place not in self.loggers and not self._holds(place, missing):
                    for point in missing:
                        self._log(point)
            self._record(self._logger(RUN), result)

        self._write(record)

    def close(self, exit_code: int) -> None:
        """Close the files."""
        self._write(lambda: self._finalize("failed" if exit_code else "success"))
        self._abandon()

    def _finalize(self, status: str) -> None:
        for logger in self.loggers.values():
            logger.finalize(status)

    def _log(self, point: Mapping[str, float]) -> None:
        logger = self._logger(_place(point))
        logger.log_metrics({name: value for _, name, value in _entries(point)}, _step(point))
        logger.save()  # a process may be killed at any time

    def _logger(self, place: str) -> Logger:
        """The logger of a folder; its first use in a run empties the folder."""
        if place not in self.loggers:
            assert self.folder is not None
            shutil.rmtree(self.folder / place, ignore_errors=True)
            self.loggers[place] = self._new(self.folder, place)
        return self.loggers[place]

    def _holds(self, place: str, points: Points) -> bool:
        """Whether a folder has these points, and not a part of them or those of another training."""
        assert self.folder is not None
        held: dict[tuple[int, str], float] = {}
        with suppress(OSError, ValueError, KeyError):  # none, or the half of one
            held = {(step, name): value for step, name, value in self._read(self.folder / place)}
        return all(
            math.isclose(held.get((step, name), math.nan), value, rel_tol=SAME)
            for point in points
            for step, name, value in _entries(point)
        )

    def _abandon(self) -> None:
        self.folder, self.loggers = None, {}

    def _write(self, act: Callable[[], None]) -> None:
        """Write something of the open run, if there is one."""
        if self.folder is not None:
            self._try(f"logger: {self.folder} cannot be written", act, otherwise="the run goes on without it")

    def _new(self, folder: Path, place: str) -> Logger:
        """Lightning's logger that writes into ``folder/place``."""
        raise NotImplementedError

    def _read(self, folder: Path) -> Iterator[tuple[int, str, float]]:
        """Step, name and value of every entry of a folder."""
        raise NotImplementedError

    def _record(self, logger: Any, result: RunResult) -> None:
        """Write configuration, summary and pictures."""
        raise NotImplementedError


class CSVTracker(FileTracker):
    """``metrics.csv`` in each folder, a row a step, and ``hparams.yaml`` with the configuration in ``run``."""

    kind = "csv"

    def _new(self, folder: Path, place: str) -> Logger:
        from lightning.pytorch.loggers import CSVLogger

        return CSVLogger(folder, name=None, version=place)

    def _read(self, folder: Path) -> Iterator[tuple[int, str, float]]:
        with (folder / "metrics.csv").open(newline="") as file:
            for row in csv.DictReader(file):
                step = int(row.pop("step"))
                yield from ((step, name, float(value)) for name, value in row.items() if value)

    def _record(self, logger: Any, result: RunResult) -> None:
        logger.log_hyperparams(self.config)
        logger.log_metrics(dict(result.summary), step=0)
        logger.save()


class TensorBoardTracker(FileTracker):
    """An event file in each folder; curves of the students of a result share a chart, and runs compare as hparams.

    Raises:
        UserError: tensorboard cannot be imported.
    """

    kind = "tensorboard"

    def __init__(self) -> None:
        try:
            import torch.utils.tensorboard  # noqa: F401  Lightning says later, and less, what is missing
        except ImportError as error:
            raise UserError(
                f"logger: takes tensorboard, which cannot be imported ({error}); "
                "`pip install 'manifoldgd[tensorboard]'`, or choose logger=csv"
            ) from error
        super().__init__()

    def _new(self, folder: Path, place: str) -> Logger:
        from manifoldgd.tracking.loggers import EventLogger

        return EventLogger(folder.absolute(), name=None, version=place)

    def _read(self, folder: Path) -> Iterator[tuple[int, str, float]]:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(folder), size_guidance={"scalars": 0})  # all of them
        if folder.is_dir():
            events.Reload()
            for name in events.Tags()["scalars"]:
                yield from ((event.step, name, event.value) for event in events.Scalars(name))

    def _record(self, logger: Any, result: RunResult) -> None:
        logger.log_hyperparams(self.config, dict(result.summary), step=0)
        for name, image in result.images.items():
            logger.experiment.add_image(name, np.asarray(image.convert("RGB")), 0, dataformats="HWC")
        logger.save()


def _place(point: Mapping[str, float]) -> str:
    """Folder of a point's curves: ``student-0`` of ``student/0/top1``."""
    curve = next(name for name in point if name not in (EPOCH, GUIDANCE_STEP))
    return "-".join(curve.split("/")[:-1])


def _step(point: Mapping[str, float]) -> int:
    return int(point[GUIDANCE_STEP if GUIDANCE_STEP in point else EPOCH])


def _entries(point: Mapping[str, float]) -> Iterator[tuple[int, str, float]]:
    """Step, name below its folder, and value of each curve at a point."""
    for name, value in point.items():
        if name not in (EPOCH, GUIDANCE_STEP):
            yield _step(point), name.rpartition("/")[2], value
