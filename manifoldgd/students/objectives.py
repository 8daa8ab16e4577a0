"""What a network is trained towards: class labels, or the outputs of a teacher on the very same images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Batch:
    """What a network was shown.

    Attributes:
        images: Augmented, mixed and normalised, ``[B, C, H, W]``.
        labels: int64 ``[B]``.
        partners: Labels of the images whose boxes were pasted in, int64 ``[B]``; ``None`` without CutMix.
        kept: Share of pixels that each image kept, in [0, 1].
    """

    images: Tensor
    labels: Tensor
    partners: Tensor | None = None
    kept: float = 1.0


Objective = Callable[[Tensor, Batch], Tensor]  # logits [B, num_classes] and what they answer -> scalar loss


def class_labels(logits: Tensor, batch: Batch) -> Tensor:
    """Cross-entropy with the labels, of a mixed image with both, weighted by their pixels (CutMix)."""
    if batch.partners is None:
        return F.cross_entropy(logits, batch.labels)
    own, pasted = F.cross_entropy(logits, batch.labels), F.cross_entropy(logits, batch.partners)
    return batch.kept * own + (1 - batch.kept) * pasted


def softened_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """``KL(softmax(teacher / T) || softmax(student / T))``, mean over the batch.

    Without the factor ``T^2`` of Hinton et al. (2015, arXiv 1503.02531), as RDED's code computes it. The factor would
    keep the gradient's size independent of ``T``; under Adam, whose steps do not depend on that size, it is idle.

    Args:
        student: Logits ``[B, num_classes]``.
        teacher: Logits ``[B, num_classes]``.
        temperature: ``T``, positive.
    """
    # In float32 whatever the logits are: at T = 20 classes differ in the third decimal, which bfloat16 does not have.
    wanted = F.log_softmax(teacher.float() / temperature, 1)
    found = F.log_softmax(student.float() / temperature, 1)
    return F.kl_div(found, wanted, reduction="batchmean", log_target=True)


class TeacherOutputs(nn.Module):
    """The divergence from a frozen teacher that sees the same batch; labels are not looked at.

    Args:
        teacher: Images -> logits.
        temperature: Softens both sides; positive.
    """

    def __init__(self, teacher: nn.Module, temperature: float) -> None:
        super().__init__()
        self.teacher = teacher.requires_grad_(False).eval()
        self.temperature = temperature

    def forward(self, logits: Tensor, batch: Batch) -> Tensor:
        """The loss of one batch."""
        with torch.no_grad():
            wanted = self.teacher(batch.images)
        return softened_divergence(logits, wanted, self.temperature)
