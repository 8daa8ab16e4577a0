"""Reading the record of a run (``metrics.json``, format 1): what each measure of a set is called, and what it says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from manifoldgd.errors import require
from manifoldgd.report.content import End

FORMAT = 1


class Measure(NamedTuple):
    """A measure of a set for people."""

    title: str
    better: End | None = None
    meaning: str = ""


MEASURES: Mapping[str, Measure] = {
    "frechet_distance": Measure(
        "Fréchet distance", "low", "Gaussians fitted to the embeddings; biased upwards for few images"
    ),
    "kid": Measure("KID", "low", "squared MMD with a cubic kernel, unbiased: near zero it may be negative"),
    "mean_l2": Measure("l2 of means", "low", "between mean embeddings"),
    "mean_cosine": Measure("cosine distance of means", "low", "between mean embeddings"),
    "rbf_mmd": Measure("RBF MMD", "low", "unbiased in its square, median bandwidth; 0 where the estimate is negative"),
    "class_mmd2": Measure(
        "MMD² of classes", "low", "inside classes, several widths, unbiased: near zero it may be negative"
    ),
    "representativeness": Measure(
        "representativeness", "high", "cosine similarity of the image farthest from any real one"
    ),
    "diversity": Measure("diversity", "high", "cosine distance of the two most alike"),
    "precision": Measure("precision", "high", "share of the set on the real manifold"),
    "recall": Measure("recall", "high", "share of real images on the set's manifold"),
    "density": Measure("density", "high", "real neighbourhoods around each image of the set"),
    "coverage": Measure("coverage", "high", "share of real neighbourhoods that hold an image of the set"),
}

# How many embeddings each side had: without them the measures cannot be read, but they measure nothing themselves.
COUNTS = ("num_synthetic", "num_real")


def measure(key: str) -> Measure:
    """What is known of a measure; one that is not listed is called by its key.

    Of a set that is measured in several embeddings the key is ``<embedding>/<measure>``, and the title names both.
    """
    embedding, _, name = key.rpartition("/")
    known = MEASURES.get(name, Measure(name.replace("_", " ")))
    return known._replace(title=f"{known.title} ({embedding})") if embedding else known


def by_embedding(measures: Mapping[str, float | None]) -> dict[str, dict[str, float | None]]:
    """Measures of each embedding, by its name; by the empty one where there is but one."""
    found: dict[str, dict[str, float | None]] = {}
    for key, value in measures.items():
        embedding, _, name = key.rpartition("/")
        found.setdefault(embedding, {})[name] = value
    return found


def check_format(result: Mapping[str, Any]) -> None:
    """Refuse a record that another version wrote.

    Raises:
        UserError: the format is not the one this version writes.
    """
    found = result.get("format")
    require(found == FORMAT, f"metrics.json: expected format {FORMAT}, got {found}; run this configuration again")
