"""What an offline W&B run holds, read from wandb's own log of it."""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path

BLOCK = 32768
HEADER = 7  # bytes, of the file and of every piece: checksum (4), length (2), kind (1)


@dataclass
class OfflineRun:
    """Everything that `wandb sync` would upload."""

    run_id: str = ""
    name: str = ""
    group: str = ""
    job_type: str = ""
    tags: list = field(default_factory=list)
    config: dict = field(default_factory=dict)
    history: list = field(default_factory=list)  # rows without wandb's own columns
    summary: dict = field(default_factory=dict)
    steps: dict = field(default_factory=dict)  # metric or pattern: its horizontal axis
    artifacts: dict = field(default_factory=dict)  # name: paths of its files
    exit_code: int | None = None

    def curve(self, metric, axis):
        return [(row[axis], row[metric]) for row in self.history if metric in row]


def offline_runs(folder):
    """The runs under ``folder``, in the order of their folders' names, once wandb has written their ends."""
    deadline = time.monotonic() + 60
    while True:  # its service writes on for a moment after a run has been finished
        runs = [_read(file) for file in sorted(Path(folder).rglob("offline-run-*/run-*.wandb"))]
        if all(run.exit_code is not None for run in runs) or time.monotonic() > deadline:
            return runs
        time.sleep(0.05)


def _read(file):
    from wandb.proto.wandb_internal_pb2 import Record

    run = OfflineRun()
    for content in _records(file.read_bytes()):
        record = Record.FromString(content)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            told = record.run
            run.run_id, run.name, run.group, run.job_type = (
                told.run_id,
                told.display_name,
                told.run_group,
                told.job_type,
            )
            run.tags = list(told.tags)
            run.config |= _values(told.config.update)
        elif kind == "history":
            row = _values(record.history.item)
            run.history.append({key: value for key, value in row.items() if not key.startswith("_")})
        elif kind == "summary":
            run.summary |= _values(record.summary.update)
        elif kind == "metric":
            run.steps[record.metric.name or record.metric.glob_name] = record.metric.step_metric
        elif kind == "request" and record.request.WhichOneof("request_type") == "log_artifact":
            _keep(run, record.request.log_artifact.artifact)
        elif kind == "artifact":
            _keep(run, record.artifact)
        elif kind == "exit":
            run.exit_code = record.exit.exit_code
    return run


def _keep(run, artifact):
    run.artifacts[artifact.name] = sorted(entry.path for entry in artifact.manifest.contents)


def _values(items):
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}


def _records(content):
    whole, place = b"", HEADER
    while place + HEADER <= len(content):
        left = BLOCK - place % BLOCK
        if left < HEADER:  # a piece never starts where its head has no room
            place += left
            continue
        length, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        whole += content[place + HEADER : place + HEADER + length]
        place += HEADER + length
        if kind in (1, 4):  # all of a record, or its last piece
            yield whole
            whole = b""
