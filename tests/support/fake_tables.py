"""Tables as a runner would leave them, with made-up numbers, and readers of their files."""

import csv
from html.parser import HTMLParser

import numpy as np
from PIL import Image
from tables import judgements

from manifoldgd.study.results import Column, FailedSet, SetResult, TableResult

METHODS = ("random", "herding", "k_center", "kmeans_nearest", "unguided", "mode", "manifold", "manifold_released")
GARMENTS = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


def column(ipc=10, **changes):
    held = {
        "key": f"ipc{ipc}-convnet3",
        "dataset": "fashion_mnist",
        "ipc": ipc,
        "student": "ConvNet-3",
        "label_protocol": "hard_small",
    }
    return Column(**held | changes)


def set_result(method="mode", seed=0, last=(0.7, 0.72), best=None, per_class=None, student_seeds=None, **changes):
    best = best or [value + 0.01 for value in last]
    per_class = per_class or [(value - 0.1, value + 0.1) for value in last]
    held = {
        "method": method,
        "column": "ipc10-convnet3",
        "seed": seed,
        "key": f"{method}-{seed}",
        "students": judgements(last, best, per_class, student_seeds),
        "seconds": {"distill": 10.0, "students": 20.0},
        "code_version": "0123abc",
        "hardware": "2 cores",
    }
    return SetResult(**held | changes)


def table(sets=(), **changes):
    held = {
        "name": "fake",
        "title": "A table",
        "question": "Which is best?",
        "columns": (column(),),
        "methods": ("unguided", "mode"),
        "class_names": ("cat", "dog"),
        "seeds": (0, 1, 2),
        "student_seeds": (0, 1),
        "baseline": "unguided",
        "split": "test",
        "number_family": "dc",
        "sets": tuple(sets),
    }
    return TableResult(**held | changes)


def rich_table(folder=None):
    """8 methods x 3 columns x 5 seeds x 3 students, some missing; pictures go into ``folder`` if there is one."""
    source = np.random.default_rng(0)
    columns = tuple(column(ipc) for ipc in (1, 10, 50))
    luck = {(one.key, seed): source.normal(0, 0.008) for one in columns for seed in range(5)}
    sets, by_class = [], source.uniform(-0.2, 0.15, 10)
    for place, level in zip(columns, (0.55, 0.75, 0.81), strict=True):
        for position, method in enumerate(METHODS):
            for seed in range(5):
                if (position, seed, place.ipc) in {(6, 4, 50), (7, 3, 50), (7, 4, 50)}:
                    continue
                mean = level + 0.006 * position + luck[place.key, seed] + source.normal(0, 0.003)
                last = mean + source.normal(0, 0.004, 3)
                grid = f"sets/{method}/{place.key}/{seed}/grid.png"
                if folder is not None and seed == 0 and method != "herding":
                    draw_grid(folder / grid, position, min(10, place.ipc))
                per_class = tuple(tuple(np.clip(a + by_class + source.normal(0, 0.03, 10), 0, 1)) for a in last)
                guided = position >= 5
                sets.append(
                    set_result(
                        method,
                        seed,
                        last,
                        column=place.key,
                        per_class=per_class,
                        measures={"frechet_distance": 40 - position + source.normal(), "kid": 0.01},
                        guidance={"ratio": 0.07, "kept": 0.35 if position == 6 else None} if guided else {},
                        seconds={"distill": 12.0 * place.ipc, "students": 200.0, "metrics": 9.0},
                        grid=grid,
                        run=f"https://wandb.ai/someone/table/runs/{method}{seed}" if seed else None,
                    )
                )
    return table(
        sets,
        title="Fashion-MNIST: which way of making the set gives the best students?",
        question="Prior, number of prototypes, CFG scale, steps and student held fixed: does guidance earn its row?",
        columns=columns,
        methods=METHODS,
        class_names=GARMENTS,
        seeds=tuple(range(5)),
        student_seeds=(0, 1, 2),
        parameters={"unguided": 0.0, "mode": 0.1, "manifold": 0.2, "manifold_released": 0.1},
        notes=("Defaults were tuned on the validation split of Fashion-MNIST (10,000 images).",),
        failed=(FailedSet(method="manifold", column="ipc50-convnet3", seed=4, reason="No space left on device"),),
    )


def draw_grid(file, seed, ranks, side=64):
    """A picture like a set's own: a row a class, small tiles."""
    file.parent.mkdir(parents=True, exist_ok=True)
    tiles = np.random.default_rng(seed).integers(0, 255, (10, ranks, 8, 8), dtype=np.uint8)
    pixels = np.kron(tiles.transpose(0, 2, 1, 3).reshape(80, ranks * 8), np.ones((side // 8, side // 8), np.uint8))
    Image.fromarray(pixels).convert("RGB").save(file)


NASTY = r"""a_b & 50% #1 {x} ~^ \cmd $y$ [z] <script>alert("1")</script>"""


class Page(HTMLParser):
    """What a page would load, where it leads, and what it says."""

    def __init__(self, file):
        super().__init__()
        self.loads, self.links, self.text = [], [], ""
        self.source = file.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name == "href" and tag == "a":
                self.links.append(value)
            elif name in ("src", "srcset", "href", "data", "poster", "action"):
                self.loads.append(value)

    def handle_data(self, data):
        self.text += data


def rows_of(file):
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))
