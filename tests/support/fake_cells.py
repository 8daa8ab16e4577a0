"""Cells whose runs are a line of Python, for tests of what happens around them."""

import json
import sys

from manifoldgd import __version__
from manifoldgd.store.keys import FORMAT
from manifoldgd.study.cells import Cell
from manifoldgd.study.jobs import Job
from manifoldgd.study.results import Column, TableResult

COLUMN = Column(key="c", dataset="digits", ipc=1, student="ConvNet-3", label_protocol="hard_small")

GOOD = """
import json, os, pathlib, sys
folder, name, metrics, claim, made = pathlib.Path(sys.argv[1]), *sys.argv[2:5], pathlib.Path(sys.argv[5])
with open(folder / "order.txt", "a") as stream: stream.write(name + "\\n")
made.mkdir(parents=True, exist_ok=True)
(made / "result.json").write_text(claim)
(made / "metrics.json").write_text(metrics)
(made / "report.html").touch()
"""
KILLED = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
WRONG = "import sys; print('all well'); print('manifoldgd: error: ipc: too many', file=sys.stderr); sys.exit(2)"
NO_DISK = "import errno, os; raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), 'set/0.png')"
SILENT = "raise SystemExit(3)"
IDLE = ""
SLEEPING = "import time; time.sleep(60)"
STUBBORN = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as good as what Lightning does
print(os.getpid(), flush=True)
time.sleep(60)
"""


def cell(method="m", seed=0, column="c", *, draws=True, **changes):
    """A cell; ``changes`` go into what its set depends on, and the seed where it ``draws``."""
    config = {"dataset": {"_target_": "digits", "folder": None}, "method": method, **changes}
    config |= {"seed": seed} if draws else {}
    return Cell(
        method=method, column=column, seed=seed, overrides=(), set_config=config, judge_config={"student": {"width": 8}}
    )


def metrics_of(seeds=(0,), *, last=0.5, version=__version__):
    """Content of a ``metrics.json``."""
    students = [
        {
            "seed": seed,
            "seconds": 2.0,
            "last_top1": last + seed / 100,
            "best_top1": last + 0.1,
            "per_class": [last, last],
        }
        for seed in seeds
    ]
    return {
        "format": 1,
        "dataset": "digits",
        "label_protocol": "hard_small",
        "student": "ConvNet-3",
        "accuracy": {"last": {"mean": last, "std": None}, "best": {"mean": last + 0.1, "std": None}},
        "student_seeds": list(seeds),
        "students": students,
        "seconds": {"distill": 1.0, "students": 2.0, "metrics": 0.5},
        "set_metrics": {"frechet_distance": 3.0},
        "guidance": {
            "steps": [
                {"ratio_mean": 0.1, "kept_mean": 0.5},
                {"ratio_mean": 0.3, "kept_mean": None},
                {"ratio_mean": None, "kept_mean": None},
            ]
        },
        "code_version": version,
        "hardware": "a test",
    }


def fake_job(scripts=None, *, default=GOOD, seeds=(0,)):
    """What to run for a cell: a script by method, else ``default``."""

    def job(one, output):
        script = (scripts or {}).get(one.method, default)
        judged = {**one.judge_config, "student_seeds": list(seeds)}
        claim = {"format": FORMAT, "set": one.set_config, "evaluation": judged}
        own = {"method": one.method, "ipc": one.set_config.get("ipc", 1), "distillation_seed": one.seed}
        if one.set_config["dataset"].get("validation"):
            own["dataset"] = "digits-validation"
        texts = (json.dumps(each) for each in (metrics_of(seeds) | own, claim))
        made = one.folder(output)
        command = (sys.executable, "-S", "-c", script, str(output), one.name, *texts, str(made))
        return Job(name=one.name, command=command, log=one.log(output))

    return job


def blank(methods, *, seeds=(0,), student_seeds=(0,), **changes):
    """A table without sets."""
    facts = {
        "name": "toy",
        "title": "Toy",
        "question": "?",
        "columns": (COLUMN,),
        "methods": tuple(methods),
        "class_names": ("a", "b"),
        "seeds": seeds,
        "student_seeds": student_seeds,
        "baseline": methods[0],
        "split": "test",
        "number_family": "none",
    }
    return TableResult(**{**facts, **changes})
