"""Over-generation: several images are sampled for each prototype, and a rule keeps one of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from manifoldgd.errors import require
from manifoldgd.prototypes.coresets import herding_by_group

Rule = Literal["herding"]
KeepRule = Callable[[Tensor, Tensor, Tensor], Tensor]  # features, prototypes, mean of the real class -> rows kept

RULES: dict[str, KeepRule] = {"herding": herding_by_group}


@dataclass(frozen=True, kw_only=True)
class Overgeneration:
    """How many images a prototype gets, and which one is kept.

    Every rule keeps exactly one image a prototype. Without that constraint a class could be left with several images of
    one prototype near the class mean and none of others, and the modes that clustering found would be lost.

    Attributes:
        replicas: images sampled for each prototype, >= 1; 1 keeps them all, so no rule is asked.
        rule: ``herding`` in the embeddings of the classifier of real training images.
    """

    replicas: int
    rule: Rule

    def __post_init__(self) -> None:
        require(
            self.replicas >= 1,
            f"overgeneration.replicas: needs to be >= 1, got {self.replicas}; 1 samples one image a prototype",
        )
        require(
            self.rule in get_args(Rule),
            f"overgeneration.rule: expected {' or '.join(get_args(Rule))}, got {self.rule!r}; choose one",
        )

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
