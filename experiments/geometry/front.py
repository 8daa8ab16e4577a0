"""The front in a picture and in differences: ``python experiments/geometry/front.py`` reads the records beside it.

``front.png`` has a line for each method, a point for each scale: how far sets are from unseen real images (Fréchet
distance, down is better) against how far from the nearest training image (right is less of a copy), and accuracy on
held-out images against the same. ``front.md`` compares every point with each of mode guidance's, on equal seeds.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Mapping
from pathlib import Path

from manifoldgd.files import atomic_path, atomic_write_text
from manifoldgd.report.canvas import Plot, headline, new_figure
from manifoldgd.report.palette import COLOURS, LINE_COLOURS
from manifoldgd.study.statistics import paired_difference

HOME = Path(__file__).parent
EMBEDDING = "classifier"
IPC = 10
LOST = 0.5  # share of diverged images from which on a set is left out of the picture
AXES = {"nearest_mean": "distance to the nearest training image", "frechet_distance": "Fréchet distance"}
FAMILIES = {  # line of the picture -> prefix of its rows
    "mode": "mode-",
    "mode on x0": "mode_x0-",
    "manifold": "manifold_posterior-",
    "Kalman": "kalman-",
    "Kalman, round": "kalman_round-",
    "Kalman, denoiser": "kalman_denoiser-",
}
Values = dict[str, dict[int, float]]  # row of the study -> seed -> value


def read_measures(file: Path) -> dict[str, Values]:
    """Measure -> row -> seed -> value, of the sets of one size in one embedding."""
    found: dict[str, Values] = {}
    with file.open(newline="") as stream:
        for row in csv.DictReader(stream):
            if row["embedding"] == EMBEDDING and int(row["ipc"]) == IPC:
                for name in ("frechet_distance", "nearest_mean", "class_mmd2", "coverage", "precision", "diverged"):
                    found.setdefault(name, {}).setdefault(row["method"], {})[int(row["seed"])] = float(row[name])
    return found


def read_accuracy(file: Path) -> Values:
    """Row -> seed -> accuracy in per cent, where students were trained; the mean over a set's students."""
    students: dict[str, dict[int, list[float]]] = {}
    if file.is_file():
        with file.open(newline="") as stream:
            for row in csv.DictReader(stream):
                if row["column"].startswith(f"ipc{IPC}-"):
                    seeds = students.setdefault(row["method"], {})
                    seeds.setdefault(int(row["seed"]), []).append(100 * float(row["last_top1"]))
    return {row: {seed: sum(some) / len(some) for seed, some in seeds.items()} for row, seeds in students.items()}


def mean(values: Mapping[int, float]) -> float:
    """Over sets."""
    return sum(values.values()) / len(values)


def draw(measures: Mapping[str, Values], accuracy: Values) -> Plot:
    """The picture."""
    panels = [("frechet_distance", measures["frechet_distance"])]
    panels += [("accuracy on held-out images, %", accuracy)] if accuracy else []
    figure, axes = new_figure(rows=len(panels), height=0.6 + 2.9 * len(panels), sharex=True)
    near = measures["nearest_mean"]
    kept = {row for row, lost in measures["diverged"].items() if mean(lost) < LOST}
    for panel, (name, values) in zip(axes[:, 0], panels, strict=True):
        headline(panel, AXES.get(name, name))
        for (family, prefix), colour in zip(FAMILIES.items(), LINE_COLOURS, strict=True):
            rows = sorted(
                (row for row in values if row.startswith(prefix) and row in kept),
                key=lambda row: float(row[len(prefix) :]),
            )
            if rows:
                places = [mean(near[row]) for row in rows], [mean(values[row]) for row in rows]
                panel.plot(*places, marker="o", markersize=3.5, linewidth=1.2, color=colour, label=family)
        if "unguided" in values:
            panel.plot(mean(near["unguided"]), mean(values["unguided"]), "x", color=COLOURS.ink, label="unguided")
    axes[-1, 0].set_xlabel(AXES["nearest_mean"])
    axes[0, 0].legend(fontsize=8, frameon=False)
    return Plot(figure)


def differences(measures: Mapping[str, Values], accuracy: Values) -> str:
    """A table a measure: every point less each of mode guidance's, on equal seeds."""
    lines = ["# Every point of the front against mode guidance", ""]
    lines += [
        f"{IPC} images a class, embedding: {EMBEDDING}. Mean over sets ± half the 95 % interval of differences on"
    ]
    lines += ["equal seeds; bold where the interval does not hold 0 (three sets or more)."]
    for name, values in {**measures, "accuracy, points": accuracy}.items():
        bases = [row for row in values if row.startswith("mode-") and mean(measures["diverged"][row]) < LOST]
        if not bases:
            continue
        lines += ["", f"## {name}", "", "| row | sets | mean | " + " | ".join(f"less {base}" for base in bases) + " |"]
        lines += ["|---" * (len(bases) + 3) + "|"]
        for row, seeds in values.items():
            found = [_difference(seeds, values[base]) if row != base else "" for base in bases]
            lines += [f"| {row} | {len(seeds)} | {mean(seeds):.4g} | " + " | ".join(found) + " |"]
    return "\n".join(lines) + "\n"


def _difference(one: Mapping[int, float], other: Mapping[int, float]) -> str:
    found = paired_difference(*({(seed, 0): value for seed, value in each.items()} for each in (one, other)))
    if found is None or found.half is None:
        return "-"
    text = f"{found.mean:+.3g} ± {found.half:.2g}"
    return f"**{text}**" if found.count >= 3 and found.verdict is not None else text


def main() -> None:
    """Read, draw, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", type=Path, default=HOME, help="folder of measures/results.csv and of results.csv")
    parser.add_argument("--output", type=Path, default=HOME, help="of front.png and front.md")
    asked = parser.parse_args()
    measures = read_measures(asked.record / "measures" / "results.csv")
    accuracy = read_accuracy(asked.record / "results.csv")
    with atomic_path(asked.output / "front.png") as part:
        part.write_bytes(draw(measures, accuracy).png())
    atomic_write_text(asked.output / "front.md", differences(measures, accuracy))


if __name__ == "__main__":
    main()
