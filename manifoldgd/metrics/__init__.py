"""Metrics of a synthetic set against a real one, on embeddings."""

from manifoldgd.metrics.classes import (
    RBFMMD,
    Diversity,
    FrechetDistance,
    KernelDistance,
    MeanCosine,
    MeanL2,
    PrecisionRecallDensityCoverage,
    Representativeness,
    set_measures,
    set_metrics,
)
from manifoldgd.metrics.embedding import embed

__all__ = [
    "RBFMMD",
    "Diversity",
    "FrechetDistance",
    "KernelDistance",
    "MeanCosine",
    "MeanL2",
    "PrecisionRecallDensityCoverage",
    "Representativeness",
    "embed",
    "set_measures",
    "set_metrics",
]
