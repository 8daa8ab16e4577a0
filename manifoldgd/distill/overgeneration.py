"""Over-generation: several images are sampled for each prototype, and a rule keeps one of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from manifoldgd.prototypes.coresets import herding_by_group
from manifoldgd.ranges import Range, checked

Rule = Literal["herding"]
KeepRule = Callable[[Tensor, Tensor, Tensor], Tensor]  # features, prototypes, mean of the real class -> rows kept

RULES: dict[str, KeepRule] = {"herding": herding_by_group}


@checked
@dataclass(frozen=True, kw_only=True)
class Overgeneration:
    """How many images a prototype gets, and which one is kept.

    Every rule keeps exactly one image a prototype. Without that constraint a class could be left with several images of
    one prototype near the class mean and none of others, and the modes that clustering found would be lost.

    Attributes:
        replicas: images sampled for each prototype, >= 1; 1 keeps them all, so no rule is asked.
        rule: ``herding`` in the embeddings of the classifier of real training images.
    """

    replicas: Annotated[int, Range("[1, 1000]")]  # each costs as much as a set
    rule: Rule

    def choose(self, features: Tensor, real_mean: Tensor) -> Tensor:
        """The replica kept for each prototype of a class.

        Args:
            features: ``[R, ipc, E]`` embeddings of the candidates.
            real_mean: ``[E]`` mean embedding of the class's real training images.

        Returns:
            ``[ipc]`` int64 in [0, R).
        """
        replicas, ipc, _ = features.shape
        prototypes = torch.arange(ipc).repeat(replicas)
        return RULES[self.rule](features.flatten(0, 1), prototypes, real_mean) // ipc
