"""One configuration as objects: what it builds, what its results are called, and whether it can work at all."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from manifoldgd import ranks
from manifoldgd.artifacts import PrototypeSet
from manifoldgd.cli.components import TARGET, build, plain
from manifoldgd.cli.compose import Config
from manifoldgd.dataset import judging_split
from manifoldgd.diffusion import Start
from manifoldgd.diffusion.protocol import judges_in
from manifoldgd.diffusion.samplers import Sampler
from manifoldgd.distill.overgeneration import Overgeneration
from manifoldgd.embeddings import PUBLISHED, Embedding, OwnClassifier
from manifoldgd.errors import require, under
from manifoldgd.machine import SINGLE, Machine, check_faiss
from manifoldgd.pipeline import classifiers, distillation, latents, spaces
from manifoldgd.pipeline.distillation import IN_LATENT_SPACE
from manifoldgd.priors.prior import Prior
from manifoldgd.prototypes import DRAW_NOTHING, Clusterer
from manifoldgd.prototypes.spaces import ClassifierEmbedding
from manifoldgd.provenance import code_version
from manifoldgd.ranges import Guided, Million, check
from manifoldgd.store.keys import FETCHING, essence, key_of
from manifoldgd.store.recorded import as_recorded
from manifoldgd.store.set_reading import Reading
from manifoldgd.students import Student
from manifoldgd.tracking import Tracker

DIFFUSION = "diffusion"

RECIPE_PARTS = ("autoencoder", "denoiser")
RECIPE_PATH = "path"  # said once, and told to the denoiser by the configuration
RECIPE_NUMBERS = {"cfg_scale": Guided, "judge_samples": Million}
# A student of another seed joins those that a folder holds; it changes nothing about them.
MANY_IN_A_FOLDER = ("student_seeds",)


def _component(group: str) -> Any:
    """What a group of the configuration describes, built when it is first asked for."""
    return cached_property(lambda setup: build(setup.config, group))


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
        if ranks.rank() > 0:
            self.machine = replace(self.machine, progress=False)

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

    guidance = _component("guidance")
    clusterer: Clusterer = _component("clusterer")
    sampler: Sampler = _component("sampler")
    start: Start = _component("start")
    overgeneration: Overgeneration = _component("overgeneration")
    student: Student = _component("student")
    tracker: Tracker = _component("logger")
    reading: Reading = _component("reading")

    @cached_property
    def embeddings(self) -> Embedding | OwnClassifier | dict[str, Embedding | OwnClassifier]:
        """In whose features sets are measured; of several under names, those whose files are there."""
        if TARGET in self.config.embedding:
            return self.built("embedding")
        missing = self.missing_embeddings
        return {name: self.built(f"embedding.{name}") for name in self.config.embedding if name not in missing}

    def built(self, group: str) -> Any:
        """What a group of the configuration describes."""
        return build(self.config, group)

    @cached_property
    def missing_embeddings(self) -> dict[str, str]:
        """Of several embeddings those whose file of weights is not there, each with where to get it."""
        found: dict[str, str] = {}
        node: Any = plain(self.config, "embedding")
        for name, each in () if TARGET in node else node.items():
            weights = each.get("weights") if isinstance(each, dict) else None
            if isinstance(weights, str) and not Path(weights).expanduser().is_file():
                where = PUBLISHED.get(each.get(TARGET), "whoever gave it")
                found[name] = f"{weights} is not there; get it from {where}, or set embedding.{name}.weights"
        return found

    @property
    def measures(self) -> bool:
        """Whether sets are measured: it is asked for, and there is something to measure them in."""
        known = self.config.embedding
        return self.config.measures and (TARGET in known or len(self.missing_embeddings) < len(known))

    @cached_property
    def prototypes(self) -> PrototypeSet | None:
        """What the set is synthesised from or towards; ``None`` where nothing is."""
        if not self.needs_prototypes:
            return None
        where: dict[str, Any] = {"machine": self.machine, "cache": self.cache}
        encoded, _ = latents.encode(self.dataset, self.prior, **where)
        space = self.clusterer.space.features
        seen = None if space is None else spaces.features_of(space, self.dataset, self.prior, encoded, **where)
        described = as_recorded(plain(self.config, "clusterer"))
        numbers = {"ipc": self.config.ipc, "seed": self.config.seed, **where}
        return ranks.by_first(lambda: latents.cluster(encoded, self.clusterer, described, seen, **numbers)[0])

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
        whole: Any = OmegaConf.to_container(self.config, resolve=True)
        return as_recorded({key: whole[key] for key in keys}) | self._set_rounding

    @property
    def _set_rounding(self) -> dict[str, Any]:
        """What the set was computed in, where that is not single precision by torch's own kernels."""
        random_networks = self.guided and any(judge.random_networks for judge in judges_in(self.guidance))
        asked = {"precision": self.needs_prior, "student_precision": random_networks}  # they run in the students'
        compiled = self.compiled if self.needs_prior else {}
        banked = self.needs_prototypes or self.config.source in IN_LATENT_SPACE
        kept = {"latents": latents.HALF} if banked and self.machine.precision != SINGLE else {}
        return self._not_single(*(name for name, used in asked.items() if used)) | compiled | kept

    def _not_single(self, *names: str) -> dict[str, str]:
        return {name: self.config.machine[name] for name in names if self.config.machine[name] != SINGLE}

    @property
    def compiled(self) -> dict[str, bool]:
        """That networks were compiled, where they were: a compiler's kernels round in another order."""
        return {"compile": True} if self.machine.compile else {}

    @property
    def made_of(self) -> dict[str, Any]:
        """What the manifest of the set says of where it comes from.

        Beside method and configuration these are hashes of the inputs, what the prior's card says, and the commits of
        the hub's repositories that the prior came from, where it did.
        """
        prior = self.prior if self.needs_prior else None
        inputs = {
            "dataset": self.dataset.train_fingerprint,
            "prior": prior.key if prior else None,
            "card": prior.card if prior else None,
            "classifier": classifiers.embedding_key(self.dataset) if self.needs_classifier else None,
        }
        commits = {name: getattr(prior, name, None) for name in ("revision", "autoencoder_revision")}
        return {
            "method": self.method,
            "config": self.set_config,
            "inputs": inputs,
            **{f"prior_{name}": commit for name, commit in commits.items() if commit},
        }

    @property
    def evaluation_config(self) -> dict[str, Any]:
        """The part of the configuration that the judgement of a set depends on.

        As in :attr:`set_config`, what came later and does nothing is left out.
        """
        whole: Any = OmegaConf.to_container(self.config, resolve=True)
        protocol = whole["student"]["protocol"]
        if protocol["image_size"] is None:  # test images are seen as they come
            protocol.pop("test_cover", None)
        keys = ["dataset", "student", "student_seeds"]
        keys += ["embedding"] if self.config.measures and not self.embeds_as_ever else []
        return {key: whole[key] for key in keys} | self._not_single("student_precision") | self.compiled

    @property
    def embeds_as_ever(self) -> bool:
        """Whether sets are measured in the classifier of the real images alone, which records do not mention."""
        return self.config.embedding.get(TARGET) == f"{OwnClassifier.__module__}.{OwnClassifier.__name__}"

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
            if config.source in IN_LATENT_SPACE:
                check_faiss(f"source: {config.source}", otherwise="choose source=herding")
            self._check_sampled()
            _ = self.sampler, self.guidance, self.clusterer
            latents.check_ipc(self.dataset, config.ipc)
            if self.needs_prior:
                self.prior.check_images(self.dataset.name, self.dataset.image_shape)
            if self.needs_prototypes:
                with under("clusterer"):
                    spaces.check_space(self.clusterer.space.features, self.dataset, self.prior)
            if config.source == DIFFUSION:
                parts = {"guidance": self.guidance, "sampler": self.sampler, "start": self.start}
                distillation.check_parts(self.dataset, self.prior, **parts)
        if judges and config.measures:
            _ = self.embeddings
        if judges and makes_set:
            with under("student"):
                self.student.check(self.dataset.image_shape, len(self.dataset.class_names), config.ipc)

    def check_memory(self, machine: Machine) -> None:
        """Check that a machine holds what making the set takes of it at once."""
        if self.config.source == DIFFUSION:
            numbers = {"guidance": self.guidance, "ipc": self.config.ipc, "machine": machine}
            distillation.check_memory(self.dataset, self.prior, **numbers)

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


def recipe_of(config: DictConfig) -> dict[str, Any]:
    """The numbers of a prior's training, checked.

    Raises:
        UserError: one is missing, unknown or out of range.
    """
    from manifoldgd.priors.training import PathKind  # here, because it imports diffusers and Lightning

    held = plain(config, "recipe")
    require(
        isinstance(held, dict) and set(held) - {RECIPE_PATH} == {*RECIPE_PARTS, *RECIPE_NUMBERS},
        f"recipe: expected {', '.join([RECIPE_PATH, *RECIPE_PARTS, *RECIPE_NUMBERS])}, got "
        f"{', '.join(held) if isinstance(held, dict) else held!r}; choose one with recipe=NAME",
    )
    if RECIPE_PATH in held:
        check(f"recipe.{RECIPE_PATH}", held[RECIPE_PATH], PathKind)
    numbers = {name: held[name] for name in RECIPE_NUMBERS}
    for name, value in numbers.items():
        check(f"recipe.{name}", value, RECIPE_NUMBERS[name])
    return {name: build(config, f"recipe.{name}") for name in RECIPE_PARTS} | numbers
