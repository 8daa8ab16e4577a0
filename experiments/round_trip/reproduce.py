"""Accuracy of students on random real images, and on the same images decoded from their latents.

``python experiments/round_trip/reproduce.py`` runs what is missing and prints the differences, seed by seed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean

COMMON = [
    "source=random",
    "student_seeds=[0]",
    "student.protocol.evaluations=1",
    "logger=none",
    "machine=cpu",
    "machine.threads=1",
]


def run_cell(dataset: str, ipc: int, reconstruct: bool, seed: int) -> float:
    """Last-epoch accuracy in percent of one student."""
    folder = Path("outputs") / "round_trip" / dataset / f"ipc{ipc}-{'decoded' if reconstruct else 'real'}-seed{seed}"
    overrides = [f"dataset={dataset}", f"ipc={ipc}", f"seed={seed}", f"reconstruct={reconstruct}", f"output={folder}"]
    command = [sys.executable, "-m", "manifoldgd", "run", *overrides, *COMMON]
    subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True)
    return 100 * json.loads((folder / "metrics.json").read_text())["accuracy"]["last"]["mean"]


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", nargs="+", default=["digits", "fashion_mnist"])
    parser.add_argument("--ipc", nargs="+", type=int, default=[10, 50])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="cells at once, one thread each")
    arguments = parser.parse_args()
    for dataset in arguments.datasets:
        for ipc in arguments.ipc:
            cells = [(dataset, ipc, decoded, seed) for seed in range(arguments.seeds) for decoded in (False, True)]
            with ThreadPoolExecutor(arguments.jobs) as pool:
                values = list(pool.map(lambda cell: run_cell(*cell), cells))
            real, decoded = values[0::2], values[1::2]
            costs = [one - two for one, two in zip(real, decoded, strict=True)]
            print(
                f"{dataset}, ipc {ipc}: real {mean(real):.2f}, decoded {mean(decoded):.2f}, "
                f"cost {mean(costs):.2f} points (seed by seed: {', '.join(f'{cost:.2f}' for cost in costs)})"
            )


if __name__ == "__main__":
    main()
