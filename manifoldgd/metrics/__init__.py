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
    set_metrics,
)

__all__ = [
    "RBFMMD",
    "Diversity",
    "FrechetDistance",
    "KernelDistance",
    "MeanCosine",
    "MeanL2",
    "PrecisionRecallDensityCoverage",
    "Representativeness",
    "set_metrics",
]
