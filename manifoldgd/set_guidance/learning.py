"""Regression guidance whose networks learn from the set while it is made.

Random features are what a network sees before it has learnt anything, and a student's change as it learns. Here the
networks of the pool are trained on the set itself, as students will be, each for a while until it is drawn anew, so
that regressions see the set with eyes of every age (Zhou, Nezhadarya & Ba, *Dataset Distillation using Neural Feature
Regression*, NeurIPS 2022, known as FRePo). No real image trains a network: real images judge, as in
:mod:`manifoldgd.set_guidance.regression`, whose energy this is. FRePo optimises pixels and labels from real images in a
far longer descent; here the latents that a sampler predicts move in its last steps, and labels stay hard.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import torch
from torch import Tensor
from torch.nn import functional

from manifoldgd.dataset import ImageDataset
from manifoldgd.diffusion.protocol import Decode, Need, SetSize
from manifoldgd.machine import half_precision
from manifoldgd.memory import AtOnce
from manifoldgd.ranges import Million, Range, checked
from manifoldgd.set_guidance.descent import SINGLE, RealSide
from manifoldgd.set_guidance.networks import (
    RandomNetworks,
    chunk_of,
    drawn_rows,
    feature_size,
    random_network,
    real_labels,
)
from manifoldgd.set_guidance.regression import AugmentedRegressionGuidance, RegressionOnSet
from manifoldgd.students.augmentation import Augmentation
from manifoldgd.students.network import ImageShape

MOMENTUM = 0.9  # of SGD, as DC's students have it
BATCH = 256  # images of a step, as DC's students see them


@checked
@dataclass(frozen=True, kw_only=True)
class LearningRegressionGuidance(AugmentedRegressionGuidance):
    """Regression guidance in the features of networks that learn from the set.

    Attributes:
        lifetime: steps that a network learns for before it is drawn anew, >= 1; one step each time its turn comes.
        learning_rate: of these steps, > 0.
        real_at_once: real images that judge a regression, others each time, >= 1; of all ``real_per_class``.
    """

    lifetime: Annotated[int, Range("[1, 100000]")]
    learning_rate: Annotated[float, Range("(0, 10]")]
    real_at_once: Million

    def _judges(self, size: SetSize) -> dict[str, Need]:
        real, width = min(self.real_at_once, sum(size.real)), feature_size(size.image_shape, self.width)
        return {f"features of {real:,} real images": Need(SINGLE * real * width, "lower the guidance's real_at_once")}

    def prepare(self, real: RealSide) -> Callable[..., RegressionOnSet]:
        """The real images; every batch begins with a pool of its own, which has learnt nothing."""
        dataset = real.dataset
        numbers: dict[str, Any] = {
            "classes": len(dataset.class_names),
            "lifetime": self.lifetime,
            "learning_rate": self.learning_rate,
        }

        def pool() -> LearningNetworks:
            return LearningNetworks(**numbers, **self.pool_numbers(real)).to(real.machine.device)

        return partial(
            LearningRegressionEnergy,
            pool=pool,
            dataset=dataset,
            real_per_class=self.real_per_class,
            real_at_once=self.real_at_once,
            ridge=self.ridge,
            temperature=self.temperature,
            copies=self.copies,
            augmentation=self.augmentation if dataset.flip else self.augmentation.without_flip(),
        )


@dataclass
class Learner:
    """How one network of a pool learns."""

    optimizer: torch.optim.SGD
    age: int = 0  # steps


class LearningNetworks(RandomNetworks):
    """A pool of ConvNets that learn, each for ``lifetime`` steps, and are drawn anew then.

    They begin at ages spread evenly over a lifetime, so that eyes of all ages see the set from the start.

    Args:
        image_shape: as for :class:`RandomNetworks`, and so are the ``numbers``.
        classes: of the dataset.
        lifetime: >= 1.
        learning_rate: > 0.
    """

    def __init__(
        self, image_shape: ImageShape, *, classes: int, lifetime: int, learning_rate: float, **numbers: Any
    ) -> None:
        super().__init__(image_shape, **numbers)
        self.lifetime, self.learning_rate = lifetime, learning_rate
        self._make = partial(random_network, image_shape, numbers["width"], classes=classes)
        self.learners: list[Learner | None] = [None] * len(self)  # None before the first turn
        self.drawn = 0  # networks, in all

    def learn(self, index: int, images: Tensor, labels: Tensor, augmentation: Augmentation) -> None:
        """One step of the network whose turn it is; of a new one at the start as many as its age asks for.

        Args:
            index: which.
            images: ``[B, C, H, W]`` in [0, 1], of the set as it is now.
            labels: ``[B]`` their classes.
            augmentation: through which it sees them.
        """
        learner, steps = self.learners[index], 1
        if learner is None:
            learner, steps = self._draw(index), 1 + index * self.lifetime // len(self)
        elif learner.age >= self.lifetime:
            learner = self._draw(index)
        network = self.networks[index].requires_grad_(True)
        for _ in range(steps):
            source = self.source("learn", index, self.drawn, learner.age)
            chosen = torch.randperm(len(images), generator=source)[:BATCH].to(images.device)
            with torch.enable_grad(), half_precision(self.precision, images.device):
                seen = self.augmented(images[chosen], augmentation, source)
                loss = functional.cross_entropy(network(seen), labels[chosen])
            learner.optimizer.zero_grad()
            loss.backward()
            learner.optimizer.step()
            learner.age += 1
        network.requires_grad_(False)

    def _draw(self, index: int) -> Learner:
        source = self.source("weights", "learner", self.drawn)
        self.networks[index] = self._make(source).to(self.mean.device)
        self.drawn += 1
        weights = self.networks[index].parameters()
        learner = Learner(torch.optim.SGD(weights, lr=self.learning_rate, momentum=MOMENTUM))
        self.learners[index] = learner
        return learner


class LearningRegressionEnergy(RegressionOnSet):
    """Of networks that learn from the set at each evaluation, judged by other real images each time.

    An evaluation changes the pool: equal sequences of evaluations give equal numbers.

    Args:
        decode: as :class:`RegressionOnSet`, and so are ``labels`` and the numbers.
        pool: makes the networks, which have learnt nothing.
        dataset: its training split is read.
        real_per_class: images of each class that may judge, a fixed draw; all of a class that has fewer.
        real_at_once: that do each time.
    """

    def __init__(
        self,
        decode: Decode,
        labels: Tensor,
        *,
        pool: Callable[[], LearningNetworks],
        dataset: ImageDataset,
        real_per_class: int,
        real_at_once: int,
        **numbers: Any,
    ) -> None:
        self.pool = pool()
        super().__init__(
            decode, labels, networks=self.pool, real_labels=real_labels(dataset, real_per_class), **numbers
        )
        self.dataset, self.real_at_once = dataset, real_at_once
        classes = range(len(dataset.class_names))
        self.rows = torch.cat([drawn_rows(self.pool, dataset, label, real_per_class) for label in classes])
        self._embedding = AtOnce(chunk_of(dataset.image_shape), "features of real images")

    def __call__(self, x0: Tensor, draw: int) -> Tensor:
        """Clean latents ``[B, C, H, W]`` -> scalar; ``draw`` chooses the network, which has learnt from them before."""
        with torch.no_grad(), half_precision(self.pool.precision, x0.device):
            pixels = torch.cat([self.decode(part).float() for part in x0.detach().split(self.pool.at_once)])
        assert self.augmentation is not None
        self.pool.learn(draw % len(self.pool), pixels.add(1).div(2), self.labels, self.augmentation)
        return super().__call__(x0, draw)

    @torch.no_grad()
    def judges(self, index: int, draw: int) -> tuple[Tensor, Tensor]:
        """``real_at_once`` of the real images."""
        chosen = torch.randperm(len(self.rows), generator=self.pool.source("judges", draw))[: self.real_at_once]
        pixels = self.dataset.train.load(self.rows[chosen]).to(self.labels.device).float().div(127.5).sub(1)
        return self._embedding(partial(self.pool.embed, index), pixels), self.real_labels[chosen.to(self.labels.device)]
