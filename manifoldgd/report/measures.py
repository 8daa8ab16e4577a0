"""Reading the record of a run (``metrics.json``, format 1): accuracies, and what each measure of a set is called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from manifoldgd.errors import require

FORMAT = 1

# Title, the better end, and what it says. Measures that are not listed are shown under their own key, without an end.
MEASURES: Mapping[str, tuple[str, Literal["high", "low"] | None, str]] = {
    "frechet_distance": (
        "Fréchet distance",
        "low",
        "Gaussians fitted to the embeddings; biased upwards for few images",
    ),
    "kid": ("KID", "low", "squared MMD with a cubic kernel, unbiased: near zero it may be negative"),
    "mean_l2": ("l2 of means", "low", "between mean embeddings"),
    "mean_cosine": ("cosine distance of means", "low", "between mean embeddings"),
    "rbf_mmd": ("RBF MMD", "low", "unbiased in its square, median bandwidth; 0 where the estimate is negative"),
    "class_mmd2": ("MMD² of classes", "low", "inside classes, several widths, unbiased: near zero it may be negative"),
    "representativeness": ("representativeness", "high", "cosine similarity of the image farthest from any real one"),
    "diversity": ("diversity", "high", "cosine distance of the two most alike"),
    "precision": ("precision", "high", "share of the set on the real manifold"),
    "recall": ("recall", "high", "share of real images on the set's manifold"),
    "density": ("density", "high", "real neighbourhoods around each image of the set"),
    "coverage": ("coverage", "high", "share of real neighbourhoods that hold an image of the set"),
}

# How many embeddings each side had: without them the measures cannot be read, but they measure nothing themselves.
COUNTS = ("num_synthetic", "num_real")


def check_format(result: Mapping[str, Any]) -> None:
    """Refuse a record that another version wrote.

    Raises:
        UserError: the format is not the one this version writes.
    """
    found = result.get("format")
    require(found == FORMAT, f"metrics.json: expected format {FORMAT}, got {found}; run this configuration again")


def measure_title(key: str) -> str:
    """The name of a measure for people."""
    return MEASURES[key][0] if key in MEASURES else key.replace("_", " ")


def measure_end(key: str) -> Literal["high", "low"] | None:
    """Which end of a measure is better, if known."""
    return MEASURES[key][1] if key in MEASURES else None
