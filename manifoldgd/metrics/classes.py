"""torchmetrics classes over the pure functions: collect embeddings, then compute once.

``n`` synthetic and ``N`` real images, ``E`` dimensions. Every class takes ``update(embeddings, real)`` in any number of
batches and order, synchronises over devices by concatenation, and is ``nan`` where its function is or where a set is
empty.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.utilities import dim_zero_cat

from manifoldgd.errors import require
from manifoldgd.metrics import functional


class EmbeddingMetric(Metric):
    """Base: holds the embeddings of both sets; a subclass says what to compute from them."""

    is_differentiable = False
    full_state_update = False
    higher_is_better: bool | None = False

    synthetic: list[Tensor]
    real: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("synthetic", default=[], dist_reduce_fx="cat")
        self.add_state("real", default=[], dist_reduce_fx="cat")

    def update(self, embeddings: Tensor, real: bool) -> None:
        """Add embeddings ``[b, E]`` to the real (``real=True``) or to the synthetic set.

        Raises:
            ValueError: The shape is not ``[b, E]``.
        """
        if embeddings.ndim != 2:
            raise ValueError(f"embeddings: expected [b, E], got {tuple(embeddings.shape)}")
        (self.real if real else self.synthetic).append(embeddings)

    def compute(self) -> Tensor | dict[str, Tensor]:
        """The metric of all that was added: a scalar, or several by name."""
        sets = [dim_zero_cat(rows) if len(rows) else None for rows in (self.synthetic, self.real)]
        width = max((rows.shape[1] for rows in sets if rows is not None), default=1)
        return self._of(*(torch.empty(0, width, device=self.device) if rows is None else rows for rows in sets))

    def _of(self, synthetic: Tensor, real: Tensor) -> Tensor | dict[str, Tensor]:
        raise NotImplementedError


class MeanL2(EmbeddingMetric):
    """:func:`functional.mean_l2`: Euclidean distance of the mean embeddings."""

    def _of(self, synthetic: Tensor, real: Tensor) -> Tensor:
        return functional.mean_l2(synthetic, real)


class MeanCosine(EmbeddingMetric):
    """:func:`functional.mean_cosine`: cosine distance of the mean embeddings."""

    def _of(self, synthetic: Tensor, real: Tensor) -> Tensor:
        return functional.mean_cosine(synthetic, real)


class RBFMMD(EmbeddingMetric):
    """:func:`functional.rbf_mmd`: maximum mean discrepancy, median heuristic, 0 where the estimate is negative."""

    def _of(self, synthetic: Tensor, real: Tensor) -> Tensor:
        return functional.rbf_mmd(synthetic, real)


class ClassMMD2(EmbeddingMetric):
    """:func:`functional.class_mmd2`: squared MMD inside classes, unbiased and signed; ``update`` takes labels too."""

    synthetic_labels: list[Tensor]
    real_labels: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("synthetic_labels", default=[], dist_reduce_fx="cat")
        self.add_state("real_labels", default=[], dist_reduce_fx="cat")

    def update(self, embeddings: Tensor, real: bool, labels: Tensor) -> None:  # type: ignore[override]
        """As :meth:`EmbeddingMetric.update`, with the classes ``[b]`` int64.

        Raises:
            ValueError: The shapes are not ``[b, E]`` and ``[b]``.
        """
        super().update(embeddings, real)
        if labels.shape != embeddings.shape[:1]:
            raise ValueError(f"labels: expected shape ({len(embeddings)},), got {tuple(labels.shape)}")
        (self.real_labels if real else self.synthetic_labels).append(labels)

    def _of(self, synthetic: Tensor, real: Tensor) -> Tensor:
        labels = [
            dim_zero_cat(held) if len(held) else torch.empty(0, dtype=torch.int64, device=self.device)
            for held in (self.synthetic_labels, self.real_labels)
        ]
        return functional.class_mmd2(synthetic, labels[0], real, labels[1])


class NearestDistance(EmbeddingMetric):
    """:func:`functional.nearest_distances`: mean and smallest of a set; the real side is the training split."""

    def _of(self, synthetic: Tensor, real: Tensor) -> dict[str, Tensor]:
        distances = functional.nearest_distances(synthetic, real)
        if not (len(synthetic) and len(real)):
            distances = distances.new_full((1,), torch.nan)
        return {"nearest_mean": distances.mean(), "nearest_smallest": distances.min()}


class KernelDistance(EmbeddingMetric):
    """:func:`functional.kid`: squared maximum mean discrepancy, cubic kernel."""

    def _of(self, synthetic: Tensor, real: Tensor) -> Tensor:
        return functional.kid(synthetic, real)


class FrechetDistance(EmbeddingMetric):
    """:func:`functional.frechet_distance` and the two set sizes, without which it cannot be read.

    Biased upwards when a set is small (below ``E`` images: badly), so compare at equal sizes only.
    """

    def _of(self, synthetic: Tensor, real: Tensor) -> dict[str, Tensor]:
        return {
            "frechet_distance": functional.frechet_distance(synthetic, real),
            "num_synthetic": torch.tensor(len(synthetic)),
            "num_real": torch.tensor(len(real)),
        }


class Representativeness(EmbeddingMetric):
    """:func:`functional.representativeness`: worst best cosine similarity to a real image."""

    higher_is_better = True

    def _of(self, synthetic: Tensor, real: Tensor) -> Tensor:
        return functional.representativeness(synthetic, real)


class Diversity(EmbeddingMetric):
    """:func:`functional.diversity`: cosine distance of the two most similar synthetic images; needs no real ones."""

    higher_is_better = True

    def _of(self, synthetic: Tensor, real: Tensor) -> Tensor:
        return functional.diversity(synthetic)


class PrecisionRecallDensityCoverage(EmbeddingMetric):
    """:func:`functional.precision_recall_density_coverage`, four values by name.

    Args:
        k: Neighbours that set the radius of a ball, 1 or more.
        **kwargs: Passed to :class:`torchmetrics.Metric`.

    Raises:
        UserError: ``k`` is not a positive integer.
    """

    higher_is_better = True

    def __init__(self, *, k: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        require(isinstance(k, int) and k >= 1, f"metrics.k: expected an integer >= 1, got {k!r}; raise k")
        self.k = k

    def _of(self, synthetic: Tensor, real: Tensor) -> dict[str, Tensor]:
        return functional.precision_recall_density_coverage(synthetic, real, self.k)._asdict()


def set_metrics(*, k: int) -> MetricCollection:
    """All metrics of a synthetic set against a real one, from one pass of embeddings.

    ``update`` takes ``embeddings``, ``real`` and ``labels``. Keys of ``compute()``: ``mean_l2``, ``mean_cosine``,
    ``rbf_mmd``, ``class_mmd2``, ``kid``, ``representativeness``, ``diversity``, ``frechet_distance``,
    ``num_synthetic``, ``num_real``, ``precision``, ``recall``, ``density``, ``coverage``.

    Args:
        k: Neighbours for precision, recall, density and coverage.
    """
    return MetricCollection(
        {
            "mean_l2": MeanL2(),
            "mean_cosine": MeanCosine(),
            "rbf_mmd": RBFMMD(),
            "class_mmd2": ClassMMD2(),
            "kid": KernelDistance(),
            "representativeness": Representativeness(),
            "diversity": Diversity(),
            "frechet": FrechetDistance(),
            "fidelity": PrecisionRecallDensityCoverage(k=k),
        }
    )
