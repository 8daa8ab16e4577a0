"""One configuration as objects: what it builds, what its results are called, and whether it can work at all."""

from __future__ import annotations

import sys
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from manifoldgd.cli.components import build, plain
from manifoldgd.cli.compose import Config
from manifoldgd.dataset import judging_split
from manifoldgd.diffusion import Start
from manifoldgd.diffusion.protocol import judges_in
from manifoldgd.distill.overgeneration import Overgeneration
from manifoldgd.errors import require, under
from manifoldgd.machine import SINGLE, Machine
from manifoldgd.pipeline import classifiers, latents, sets, spaces
from manifoldgd.priors.prior import Prior
from manifoldgd.prototypes import DRAW_NOTHING, SELECTIONS, Clusterer
from manifoldgd.prototypes.spaces import ClassifierEmbedding
from manifoldgd.provenance import code_version
from manifoldgd.ranges import Guided, Million, check
from manifoldgd.store.keys import FETCHING, essence, key_of
from manifoldgd.tracking import Tracker

DIFFUSION = "diffusion"
SOURCES = (DIFFUSION, *SELECTIONS)
IN_LATENT_SPACE = ("kmeans_nearest",)  # the other real baselines compare embeddings of the classifier

RECIPE_PARTS = ("autoencoder", "denoiser")
RECIPE_NUMBERS = {"cfg_scale": Guided, "judge_samples": Million}
# A student of another seed joins those that a folder holds; it changes nothing about them.
MANY_IN_A_FOLDER = ("student_seeds",)


class Setup:
    """Objects built from one configuration, each on first use, and the names of what it makes.

    Building checks a component's numbers, so :meth:`check` builds all that a command needs before any long work.
    """

    def __init__(self, command: str, config: Config) -> None:
        self.command, self.config = command, config.values
        code_version()  # kept from now on: files may change while this works with what it has loaded
        self.guidance_name = config.choice("guidance")
        self.cache = Path(self.config.cache)
        self.machine: Machine = build(self.config, "machine")
        self.machine.prepare()

    @cached_property
    def dataset(self) -> Any:
        """The images; said where some of those that judge are among those that teach."""
        dataset = build(self.config, "dataset", cache=self.cache)
        if dataset.leaked:
            print(
                f"dataset: {dataset.leaked:,} of {len(dataset.test):,} {judging_split(dataset.name)} images of "
                f"{dataset.name} show, pixel for pixel, what a training image shows; accuracies are too high for them",
                file=sys.stderr,
            )
        return dataset

    @cached_property
    def prior(self) -> Prior:
        """The latent diffusion model, on the machine's device."""
        return build(self.config, "prior").to(self.machine.device)

    @cached_property
    def guidance(self) -> Any:
        """The guidance method."""
        return build(self.config, "guidance")

    @cached_property
    def clusterer(self) -> Clusterer:
        """What finds the prototypes."""
        return build(self.config, "clusterer")

    @cached_property
    def sampler(self) -> Any:
        """The sampler."""
        return build(self.config, "sampler")

    @cached_property
    def start(self) -> Start:
        """Where sampling starts."""
        return build(self.config, "start")

    @cached_property
    def overgeneration(self) -> Overgeneration:
        """How many images a prototype gets, and which one is kept."""
        return build(self.config, "overgeneration")

    @cached_property
    def student(self) -> Any:
        """The student."""
        return build(self.config, "student")

    @cached_property
    def tracker(self) -> Tracker:
        """Where curves go."""
        return build(self.config, "logger")

    @property
    def guided(self) -> bool:
        """Whether a guidance acts on the set."""
        return self.config.source == DIFFUSION and self.guidance_name != "none"

    @property
    def needs_prototypes(self) -> bool:
        """Whether the set is synthesised from prototypes or towards them."""
        return self.guided or (self.config.source == DIFFUSION and self.start.from_prototype)

    @property
    def needs_prior(self) -> bool:
        """Whether making the set takes the prior."""
        return self.config.source in (DIFFUSION, *IN_LATENT_SPACE) or self.config.reconstruct

    @property
    def needs_classifier(self) -> bool:
        """Whether making the set takes the classifier of the real images."""
        if self.config.source != DIFFUSION:
            return self.config.source not in ("random", *IN_LATENT_SPACE)
        clusters = self.needs_prototypes and isinstance(self.clusterer.space.features, ClassifierEmbedding)
        return clusters or self.overgeneration.replicas > 1

    @property
    def method(self) -> str:
        """What tables call the way the set was made."""
        if self.config.source != DIFFUSION:
            return f"{self.config.source}{' (reconstructed)' if self.config.reconstruct else ''}"
        name, node = self.guidance_name, self.config.guidance
        node = node.method if "method" in node else node  # a guidance that acts elsewhere
        remarks = [node.estimator] if "estimator" in node else []
        if self.start.from_prototype:
            remarks.append(f"from prototypes at {self.start.strength:g}")
        if self.overgeneration.replicas > 1:
            remarks.append(f"1 of {self.overgeneration.replicas} kept")
        return f"{name} ({', '.join(remarks)})" if remarks else name

    @property
    def draws(self) -> bool:
        """Whether the set depends on the distillation seed."""
        return self.config.source not in DRAW_NOTHING

    @property
    def set_config(self) -> dict[str, Any]:
        """The part of the configuration that the set depends on, and nothing else.

        What came later and is switched off is left out, so that the names of older results stay.
        """
        keys = ["dataset", "ipc", "source"] + (["seed"] if self.draws else [])
        if self.config.source == DIFFUSION:
            keys += ["prior", "sampler", "guidance"] + (["clusterer"] if self.needs_prototypes else [])
            keys += ["start"] if self.start.from_prototype else []
            keys += ["overgeneration"] if self.overgeneration.replicas > 1 else []
        else:
            keys += ["reconstruct"] + (["prior"] if self.needs_prior else [])
        whole = OmegaConf.to_container(self.config, resolve=True)
        return {key: whole[key] for key in keys} | self._set_precisions

    @property
    def _set_precisions(self) -> dict[str, str]:
        """What the set was computed in, where that is not single precision."""
        # They run in the students' precision.
        random_networks = self.guided and any(judge.random_networks for judge in judges_in(self.guidance))
        asked = {"precision": self.needs_prior, "student_precision": random_networks}
        return {key: self.config.machine[key] for key, used in asked.items() if used and not self._single(key)}

    def _single(self, key: str) -> bool:
        return self.config.machine[key] == SINGLE

    @property
    def evaluation_config(self) -> dict[str, Any]:
        """The part of the configuration that the judgement of a set depends on.

        As in :attr:`set_config`, what came later and does nothing is left out.
        """
        whole = OmegaConf.to_container(self.config, resolve=True)
        protocol = whole["student"]["protocol"]
        if protocol["image_size"] is None:  # test images are seen as they come
            protocol.pop("test_cover", None)
        found = {key: whole[key] for key in ("dataset", "student", "student_seeds")}
        key = "student_precision"
        return found | ({} if self._single(key) else {key: whole["machine"][key]})

    def folder(self, *parts: dict[str, Any]) -> Path:
        """Where the result goes: ``output``, or a name made of what the result is."""
        if self.config.output is not None:
            return Path(self.config.output)
        name = self.method.replace(" (", "-").rstrip(")").replace(", ", "-").replace(" ", "-")
        return Path("outputs") / self.dataset.name / f"{name}-ipc{self.config.ipc}-{self.key_of(*parts)}"

    def key_of(self, *parts: dict[str, Any]) -> str:
        """What tells the folder of a result from others: equal for configurations that one folder takes."""
        return key_of(*(essence(part, apart_from=(*FETCHING, *MANY_IN_A_FOLDER)) for part in parts))[:8]

    def check(self, *, makes_set: bool, judges: bool) -> None:
        """Build and check all that will be needed, cheap things first."""
        config = self.config
        if judges:
            _ = self.student, self.tracker
        if makes_set:
            require(
                not (config.reconstruct and config.source == DIFFUSION),
                "reconstruct: only real sources can be reconstructed; set source=random or reconstruct=false",
            )
            self._check_sampled()
            _ = self.sampler, self.guidance, self.clusterer
            latents.check_ipc(self.dataset, config.ipc)
            if self.guided:
                latents.check_neighbourhood(self.dataset, self.guidance.neighbourhood)
            if self.needs_prior:
                self.prior.check_images(self.dataset.name, self.dataset.image_shape)
                if config.source == DIFFUSION:
                    sets.match_classes(self.dataset, self.prior)
                if self.needs_prototypes:
                    spaces.check_space(self.clusterer.space.features, self.dataset, self.prior)
                with under("sampler"):
                    self.prior.schedule.respaced(self.sampler.steps, self.sampler.spacing)
                with under("start"):
                    self.start.remaining(self.sampler.steps)
        if (judges and config.measures) or (makes_set and self.needs_classifier):
            classifiers.check_memory(self.dataset, self.cache)
        if judges and makes_set:
            with under("student"):
                self.student.check(self.dataset.image_shape, len(self.dataset.class_names), config.ipc)

    def _check_sampled(self) -> None:
        """Real images are not sampled, so what describes sampling has to be at its neutral value."""
        for key, value, neutral in (
            ("start.strength", self.start.strength, 1),
            ("overgeneration.replicas", self.overgeneration.replicas, 1),
        ):
            require(
                value == neutral or self.config.source == DIFFUSION,
                f"{key}: only source=diffusion samples images, got {value} with source={self.config.source}; "
                f"set {key}={neutral}",
            )

    def recipe(self) -> dict[str, Any]:
        """The numbers of a prior's training."""
        return recipe_of(self.config)


def recipe_of(config: DictConfig) -> dict[str, Any]:
    """The numbers of a prior's training, checked.

    Raises:
        UserError: one is missing, unknown or out of range.
    """
    held = plain(config, "recipe")
    require(
        isinstance(held, dict) and set(held) == {*RECIPE_PARTS, *RECIPE_NUMBERS},
        f"recipe: expected {', '.join([*RECIPE_PARTS, *RECIPE_NUMBERS])}, got "
        f"{', '.join(held) if isinstance(held, dict) else held!r}; choose one with recipe=NAME",
    )
    numbers = {name: held[name] for name in RECIPE_NUMBERS}
    for name, value in numbers.items():
        check(f"recipe.{name}", value, RECIPE_NUMBERS[name])
    return {name: build(config, f"recipe.{name}") for name in RECIPE_PARTS} | numbers
