"""A table of three methods by two columns under ``experiments/toy``, and the command that measures it."""

from pathlib import Path

import yaml
from command import manifoldgd

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
CONF = EXPERIMENTS.parent / "conf"
TOY = {
    "title": "Toy",
    "question": "Which?",
    "number_family": "none",
    "seeds": [0, 1],
    "student_seeds": [0],
    "baseline": "unguided",
    "methods": {"random": {"source": "random"}, "unguided": {"guidance": "none"}, "mode": {"guidance": "mode"}},
    "columns": [
        {"key": "one", "dataset": "digits", "ipc": 1, "student": "convnet3"},
        {"key": "two", "dataset": "digits", "ipc": 2, "student": "convnet3"},
    ],
    "overrides": {"logger": "none", "machine": "cpu", "student.width": 8},
}
OUTPUT = Path("outputs/tables/toy")
HOME = Path("experiments/toy")
# Columns that differ in the student only.
STUDENTS = [
    {
        "key": f"width{width}",
        "dataset": "digits",
        "ipc": 1,
        "student": "convnet3",
        "overrides": {"student.width": width},
    }
    for width in (8, 9)
]


def write(prior=None, **changes):
    table = {**TOY, **changes}
    if prior:
        table["overrides"] = {**table["overrides"], "prior.path": str(prior)}
    HOME.mkdir(parents=True, exist_ok=True)
    (HOME / "table.yaml").write_text(yaml.safe_dump(table, sort_keys=False))


def change(**changes):
    table = yaml.safe_load((HOME / "table.yaml").read_text())
    (HOME / "table.yaml").write_text(yaml.safe_dump({**table, **changes}, sort_keys=False))


def table(*arguments):
    return manifoldgd("table", "table=toy", *arguments)


def ran(output=OUTPUT):
    file = output / "order.txt"
    lines = file.read_text().split() if file.is_file() else []
    file.unlink(missing_ok=True)
    return lines


def complaint(capsys, code):
    err = capsys.readouterr().err
    assert code == 2, err
    assert err.startswith("manifoldgd: error: ")
    assert err.count("\n") == 1, err
    assert not OUTPUT.exists() or not (OUTPUT / "logs").exists()  # nothing was run
    return err.removeprefix("manifoldgd: error: ").strip()
