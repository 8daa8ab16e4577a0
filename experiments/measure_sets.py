"""Make sets and measure them, without students: ``python experiments/measure_sets.py STUDY``.

``STUDY`` is a folder here that holds a ``sets.yaml``, or the ``table.yaml`` of a table. Every set is made by
``manifoldgd distill`` with the overrides of its method; sets, and what was measured of each, lie under ``--output`` and
are not made again. ``results.csv`` (a row for each set and embedding) and ``table.md`` are written anew after every set
into the study's folder, of a table into its folder ``measures``, or ``--record``.

The real side is 2,000 images held out of the training split, 200 a class. Nothing is chosen from them and no method
sees them; the bundled prior was trained on them, and so was the classifier, as on the images that sets are made from.
Set size decides much of every measure, so the rows to compare with are ``random``, real images that sets may be made
from, and ``unseen``, held-out ones that are not among the 2,000.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from manifoldgd.cli.commands import distill
from manifoldgd.cli.compose import compose
from manifoldgd.cli.setup import Setup
from manifoldgd.cli.used import USED_KEYS
from manifoldgd.data import fashion_mnist
from manifoldgd.dataset import ImageDataset
from manifoldgd.estimates import Estimate, estimate
from manifoldgd.files import atomic_path, atomic_write_json, atomic_write_text
from manifoldgd.finite import NotFinite
from manifoldgd.library import build
from manifoldgd.machine import Machine
from manifoldgd.metrics import functional
from manifoldgd.pipeline.classifiers import embedding_network
from manifoldgd.prototypes import DRAW_NOTHING
from manifoldgd.randomness import generator
from manifoldgd.stopping import Stopped, listening
from manifoldgd.store.sets import has_set, load_set
from manifoldgd.study.definition import override, read_definition
from manifoldgd.study.statistics import paired_difference

HOME = Path(__file__).parent
REAL_PER_CLASS = 200
NEIGHBOURS = 5  # of precision, recall, density and coverage (Naeem et al. 2020)
PIXEL_COMPONENTS = 64
MEASURED = "measures.json"
LOST = {"diverged": 1.0}
FEWEST = 3  # sets that a verdict takes
RUNAWAY = 0.999  # quantile of unseen real images' distances to the training images
# Measure -> (heading, digits, whether more is better; None: neither).
MEASURES: dict[str, tuple[str, int, bool | None]] = {
    "frechet_distance": ("Fréchet", 2, False),
    "kid": ("KID", 4, False),
    "class_mmd2": ("MMD² of classes", 4, False),
    "mean_l2": ("l2 of means", 3, False),
    "mean_cosine": ("cosine of means", 4, False),
    "representativeness": ("representativeness", 3, True),
    "diversity": ("diversity", 4, True),
    "precision": ("precision", 3, True),
    "recall": ("recall", 3, True),
    "density": ("density", 3, True),
    "coverage": ("coverage", 3, True),
    "nearest_mean": ("distance to nearest training image", 3, None),
    "nearest_smallest": ("smallest", 3, None),
    "diverged": ("diverged", 3, False),
}


@dataclass(frozen=True)
class Embedding:
    """A way to see images, and the real images seen that way."""

    name: str
    embed: Callable[[Tensor], Tensor]  # uint8 [n, C, H, W] -> [n, E]
    real: Tensor  # [N, E] held out
    real_labels: Tensor  # [N]
    train: Tensor  # [M, E] that sets are made from
    runaway: float  # distance to the nearest training image beyond which an image left the data

    def measure(self, images: Tensor, labels: Tensor) -> dict[str, float]:
        """Every measure of a set; ``nan`` where it holds too few images."""
        found = self.embed(images)
        pair = found, self.real
        nearest = functional.nearest_distances(found, self.train)
        fidelity = functional.precision_recall_density_coverage(*pair, NEIGHBOURS)
        values = {
            "frechet_distance": functional.frechet_distance(*pair),
            "kid": functional.kid(*pair),
            "class_mmd2": functional.class_mmd2(found, labels, self.real, self.real_labels),
            "mean_l2": functional.mean_l2(*pair),
            "mean_cosine": functional.mean_cosine(*pair),
            "representativeness": functional.representativeness(*pair),
            "diversity": functional.diversity(found),
            **fidelity._asdict(),
            "nearest_mean": nearest.mean(),
            "nearest_smallest": nearest.min(),
            "diverged": (nearest > self.runaway).double().mean(),
        }
        return {name: float(value) for name, value in values.items()}


def pixel_components(train: Tensor) -> Callable[[Tensor], Tensor]:
    """Coordinates of pixels in [0, 1] along the leading principal directions of the training images.

    The second embedding: no network, no labels, the same bits everywhere, and sensitive to what a classifier learns to
    ignore, such as brightness, blur and texture. The mean is not subtracted, so that cosines are those of images.
    """
    flat = train.flatten(1).double() / 255
    directions = torch.linalg.eigh(torch.cov(flat.T)).eigenvectors[:, -PIXEL_COMPONENTS:]
    return lambda images: images.flatten(1).double() / 255 @ directions


def held_out_rows(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of the held-out images that sets are compared with, and the others."""
    real = []
    for label in labels.unique().tolist():
        rows = torch.nonzero(labels == label).flatten()
        real.append(rows[torch.randperm(len(rows), generator=generator("measure_sets", label))[:REAL_PER_CLASS]])
    others = torch.ones(len(labels), dtype=torch.bool)
    others[torch.cat(real)] = False
    return torch.cat(real), torch.nonzero(others).flatten()


def embeddings(dataset: ImageDataset, whole: ImageDataset, machine: Machine, cache: Path) -> list[Embedding]:
    """The bundled classifier's features, and components of the pixels."""
    train, rows, others = dataset.train.images(), *held_out_rows(dataset.test.labels)
    ways = {
        "classifier": embedding_network(whole, machine, cache).embed,
        "pixels": pixel_components(train),
    }
    found = []
    for name, embed in ways.items():
        seen = embed(train)
        natural = functional.nearest_distances(embed(dataset.test.load(others[:2000])), seen)
        real = embed(dataset.test.load(rows))
        found.append(Embedding(name, embed, real, dataset.test.labels[rows], seen, float(natural.quantile(RUNAWAY))))
    return found


def unseen_set(dataset: ImageDataset, ipc: int, seed: int) -> tuple[Tensor, Tensor]:
    """``ipc`` held-out images of each class that are not on the real side."""
    _, others = held_out_rows(dataset.test.labels)
    labels, chosen = dataset.test.labels[others], []
    for label in labels.unique().tolist():
        rows = others[labels == label]
        chosen.append(rows[torch.randperm(len(rows), generator=generator("unseen", seed, label))[:ipc]])
    rows = torch.cat(chosen)
    return dataset.test.load(rows), dataset.test.labels[rows]


def make_set(folder: Path, overrides: dict[str, Any], ipc: int, seed: int, cache: Path) -> tuple[Tensor, Tensor] | None:
    """The images and labels of a set, made now if it is not there; ``None`` if its numbers stop being finite."""
    if not has_set(folder):
        chosen = {**overrides, "ipc": ipc, "seed": seed, "output": str(folder), "cache": str(cache)}
        try:
            distill(Setup("distill", compose([override(key, value) for key, value in chosen.items()])))
        except NotFinite as error:
            print(f"{folder}: {error}", flush=True)
            return None
    made = load_set(folder)
    return made.images, made.labels


def seeds_of(overrides: dict[str, Any] | None, seeds: Sequence[int]) -> Sequence[int]:
    """One seed where a method draws nothing."""
    return seeds[:1] if (overrides or {}).get("source") in DRAW_NOTHING else seeds


def gather(study: dict[str, Any], output: Path) -> list[dict[str, Any]]:
    """A row for each measured set and embedding, in the study's order."""
    return [
        {"method": method, "ipc": ipc, "seed": seed, "embedding": name, **dict.fromkeys(MEASURES, math.nan), **values}
        for ipc in study["ipc"]
        for method in study["methods"]
        for seed in study["seeds"]
        if (file := output / f"ipc{ipc}" / f"{method}-seed{seed}" / MEASURED).is_file()
        for name, values in json.loads(file.read_text()).items()
    ]


def write_record(record: Path, study: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """``results.csv`` and ``table.md`` of the rows that there are."""
    record.mkdir(parents=True, exist_ok=True)
    with atomic_path(record / "results.csv") as part, part.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["method", "ipc", "seed", "embedding", *MEASURES], lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: f"{v:.6g}" if isinstance(v, float) else v for key, v in row.items()} for row in rows)
    atomic_write_text(record / "table.md", "\n".join(["# " + study["question"], "", *_sections(study, rows)]) + "\n")


def _sections(study: dict[str, Any], rows: list[dict[str, Any]]) -> Iterator[str]:
    yield "Mean over sets ± half the 95 % interval (Student's t over sets), then differences to each baseline on equal"
    yield "seeds. **+** and **-**: the interval of the difference, of three sets or more, lies on the better or worse"
    yield "side of 0."
    for ipc in dict.fromkeys(row["ipc"] for row in rows):
        for embedding in dict.fromkeys(row["embedding"] for row in rows):
            by_method: dict[str, dict[int, dict[str, float]]] = {}
            for row in rows:
                if (row["ipc"], row["embedding"]) == (ipc, embedding):
                    by_method.setdefault(row["method"], {})[row["seed"]] = row
            yield f"\n## {ipc} images a class, {embedding}\n"
            yield from _table(by_method, lambda values, name: estimate([row[name] for row in values.values()]), "")
            for baseline in study["baselines"]:
                if baseline in by_method:
                    yield f"\nDifference to `{baseline}`:\n"
                    others = {name: values for name, values in by_method.items() if name != baseline}
                    yield from _table(others, _difference_to(by_method[baseline]), "+")


def _difference_to(base: dict[int, dict[str, float]]) -> Callable[[dict[int, dict[str, float]], str], Estimate | None]:
    def difference(values: dict[int, dict[str, float]], name: str) -> Estimate | None:
        return paired_difference(*({(seed, 0): row[name] for seed, row in each.items()} for each in (values, base)))

    return difference


def _table(by_method: dict[str, Any], interval_of: Callable[..., Estimate | None], sign: str) -> Iterator[str]:
    yield "| set | sets | " + " | ".join(heading for heading, _, _ in MEASURES.values()) + " |"
    yield "|---" * (len(MEASURES) + 2) + "|"
    for method, values in by_method.items():
        intervals = {name: interval_of(values, name) for name in MEASURES}
        count = max((each.count for each in intervals.values() if each), default=0)
        cells = (_cell(intervals[name], digits, better, sign) for name, (_, digits, better) in MEASURES.items())
        yield f"| {method} | {count} | " + " | ".join(cells) + " |"


def _cell(interval: Estimate | None, digits: int, more_is_better: bool | None, sign: str) -> str:
    if interval is None or not math.isfinite(interval.mean):
        return "-"
    half = "" if interval.half is None else f" ± {interval.half:.{digits}f}"
    sure = interval.half and interval.count >= FEWEST  # equal differences of two sets have an interval of no width
    verdict = interval.verdict if sign and sure and more_is_better is not None else None
    mark = "" if verdict is None else " **+**" if (verdict == "better") == more_is_better else " **-**"
    return f"{interval.mean:{sign}.{digits}f}{half}{mark}"


def record_of(folder: Path) -> Path:
    """Where the record of a study goes; beside a table's own there are files of the same names."""
    return folder / "measures" if (folder / "table.yaml").is_file() else folder


def read_study(folder: Path) -> dict[str, Any]:
    """What to make: ``sets.yaml``, or the rows and columns of a table without what concerns its students."""
    if (folder / "sets.yaml").is_file():
        sets: Any = OmegaConf.to_container(OmegaConf.load(folder / "sets.yaml"))
        return sets
    table = read_definition(folder / "table.yaml")
    kept = {key: value for key, value in table.overrides.items() if key.split(".")[0] in USED_KEYS["distill"]}
    return {
        "question": table.question,
        "ipc": [column.ipc for column in table.columns],
        "seeds": list(table.seeds),
        "baselines": [table.baseline],
        "overrides": {"dataset": table.columns[0].dataset, **kept, "machine.progress": False},
        "methods": dict(table.methods),
    }


def main() -> None:
    """Make and measure what is missing, then write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", help="a folder beside this file that holds a sets.yaml or a table.yaml")
    parser.add_argument("--methods", nargs="+", help="these rows only")
    parser.add_argument("--ipc", nargs="+", type=int, help="these sizes only")
    parser.add_argument("--seeds", nargs="+", type=int, help="these distillation seeds only")
    parser.add_argument("--output", type=Path, help="where sets are kept; default outputs/sets/STUDY")
    parser.add_argument("--record", type=Path, help="where results.csv and table.md go")
    asked = parser.parse_args()
    study = read_study(HOME / asked.study)
    output = asked.output or Path("outputs/sets") / asked.study
    record = asked.record or record_of(HOME / asked.study)
    cache = output / "cache"
    validation = study["overrides"]["dataset.validation"]
    places: dict[str, Any] = {"folder": None, "download": False, "train_per_class": None}
    dataset = fashion_mnist(**places, validation=validation)
    machine = build("machine=cpu", "machine.threads=1", "machine.progress=false")
    machine.prepare()
    ways = embeddings(dataset, fashion_mnist(**places, validation=None), machine, cache)
    for ipc, seed, method in product(
        asked.ipc or study["ipc"], asked.seeds or study["seeds"], asked.methods or study["methods"]
    ):  # seed by seed, so that a study that is stopped half-way has as many sets of every method
        overrides = study["methods"][method]
        folder = output / f"ipc{ipc}" / f"{method}-seed{seed}"
        if (folder / MEASURED).is_file() or seed not in seeds_of(overrides, study["seeds"]):
            continue
        if overrides is None:
            made: tuple[Tensor, Tensor] | None = unseen_set(dataset, ipc, seed)
        else:
            made = make_set(folder, study["overrides"] | overrides, ipc, seed, cache)
        folder.mkdir(parents=True, exist_ok=True)
        # Of a set that was not made all that is known is that its images left the data.
        measured = {way.name: LOST if made is None else way.measure(*made) for way in ways}
        atomic_write_json(folder / MEASURED, measured)
        print(f"ipc {ipc}, {method}, seed {seed}: measured", flush=True)
        write_record(record, study, gather(study, output))


if __name__ == "__main__":
    try:
        with listening():
            main()
    except Stopped as stop:
        print(f"measure_sets: {stop}", flush=True)
        sys.exit(stop.exit_code)
