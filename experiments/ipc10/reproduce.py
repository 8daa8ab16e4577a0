"""Ten images a class: every method, three distillation seeds by two student seeds.

``python experiments/ipc10/reproduce.py`` runs each cell as one ``manifoldgd run``. Finished cells are not run again, so
it continues after a kill. It ends with ``<dataset>.csv`` and ``<dataset>.md`` beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, stdev

from manifoldgd.files import atomic_write_text

HERE = Path(__file__).parent
PAPER_TANGENT = ["guidance.tangent_dim=3", "guidance.neighbours=12"]
METHODS = {
    "random": ["source=random"],
    "kmeans_nearest": ["source=kmeans_nearest"],
    "none (unguided)": ["guidance=none"],
    "mode": ["guidance=mode"],
    "manifold, noised": ["guidance=manifold", "guidance.estimator=noised", *PAPER_TANGENT],
    "manifold, clean": ["guidance=manifold", "guidance.estimator=clean"],
    "manifold, posterior": ["guidance=manifold", "guidance.estimator=posterior"],
    "manifold_released": ["guidance=manifold_released"],
}
SEEDS = (0, 1, 2)
COMMON = [
    "ipc=10",
    "student_seeds=[0,1]",
    "student.protocol.evaluations=1",  # the last epoch is what counts; a test pass costs as much as 30 epochs
    "logger=none",
    "machine=cpu",
    "machine.threads=1",
]


def folder_of(dataset: str, method: str, seed: int) -> Path:
    """Where the result of one cell lies."""
    name = method.replace(", ", "-").replace(" ", "-").replace("(", "").replace(")", "")
    return Path("outputs") / "ipc10" / dataset / f"{name}-seed{seed}"


def run_cell(dataset: str, method: str, seed: int) -> bool:
    """Run one cell in a process of its own; returns whether it succeeded."""
    folder = folder_of(dataset, method, seed)
    overrides = [f"dataset={dataset}", f"seed={seed}", f"output={folder}", *COMMON, *METHODS[method]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", "manifoldgd", "run", *overrides], env=environment, check=False)
    return done.returncode == 0


def accuracies(dataset: str, method: str) -> list[list[float]]:
    """Last-epoch accuracy in percent: a list of student seeds for each distillation seed."""
    files = [folder_of(dataset, method, seed) / "metrics.json" for seed in SEEDS]
    results = [json.loads(file.read_text())["accuracy"]["last"]["values"] for file in files if file.is_file()]
    return [[100 * value for value in values] for values in results]


def write_tables(dataset: str) -> str:
    """Write the CSV and Markdown tables; returns the Markdown."""
    csv = ["method,sets,students,last_epoch_top1_percent,std_over_students,std_between_sets,values"]
    lines = ["| method | last-epoch top-1 % | std between the sets' means | sets | students |", "|---|---|---|---|---|"]
    for method in METHODS:
        sets = accuracies(dataset, method)
        values = [value for one in sets for value in one]
        if len(values) < 2 or len(sets) < 2:
            continue
        spread, between = stdev(values), stdev([mean(one) for one in sets])
        numbers = f"{mean(values):.2f},{spread:.2f},{between:.2f},{' '.join(f'{value:.2f}' for value in values)}"
        csv.append(f'"{method}",{len(sets)},{len(values)},{numbers}')
        counts = f"{len(sets)} | {len(values)}"
        lines.append(f"| {method} | {mean(values):.1f} ± {spread:.1f} | {between:.1f} | {counts} |")
    atomic_write_text(HERE / f"{dataset}.csv", "\n".join(csv) + "\n")
    atomic_write_text(HERE / f"{dataset}.md", "\n".join(lines) + "\n")
    return "\n".join(lines)


def main() -> int:
    """Run what is missing, then write the tables; returns 1 if a cell failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", nargs="+", default=["digits", "fashion_mnist"])
    parser.add_argument("--jobs", type=int, default=2, help="cells at once, one thread each")
    arguments = parser.parse_args()
    cells = [
        (dataset, method, seed) for dataset in arguments.datasets for seed in SEEDS for method in METHODS
    ]  # seed by seed, so that an interrupted table is balanced
    with ThreadPoolExecutor(arguments.jobs) as pool:
        succeeded = list(pool.map(lambda cell: run_cell(*cell), cells))
    for dataset in arguments.datasets:
        print(f"\n{dataset}\n{write_tables(dataset)}")
    failed = [cell for cell, good in zip(cells, succeeded, strict=True) if not good]
    for cell in failed:
        print(f"failed: {cell}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
