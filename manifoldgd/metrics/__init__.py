"""Metrics of a synthetic set against a real one, on embeddings."""

from manifoldgd.metrics.classes import (
    RBFMMD,
    ClassMMD2,
    Diversity,
    FrechetDistance,
    KernelDistance,
    MeanCosine,
    MeanL2,
    NearestDistance,
    PrecisionRecallDensityCoverage,
    Representativeness,
    set_metrics,
)

__all__ = [
    "RBFMMD",
    "ClassMMD2",
    "Diversity",
    "FrechetDistance",
    "KernelDistance",
    "MeanCosine",
    "MeanL2",
    "NearestDistance",
    "PrecisionRecallDensityCoverage",
    "Representativeness",
    "set_metrics",
]
