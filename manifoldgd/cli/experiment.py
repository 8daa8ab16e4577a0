"""One configuration, taken through the stages: what ``run``, ``distill``, ``evaluate`` and ``prior`` do."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from manifoldgd.artifacts import DistilledSet
from manifoldgd.cli.components import build
from manifoldgd.cli.sweep import FOLDER_VARIABLE
from manifoldgd.distill.module import Targets, find_targets
from manifoldgd.errors import require
from manifoldgd.files import atomic_write_text
from manifoldgd.machine import Machine
from manifoldgd.priors.prior import Prior
from manifoldgd.prototypes import SELECTIONS
from manifoldgd.stages import evaluation, latents, pages, prior, sets
from manifoldgd.store.keys import key_of, read_json
from manifoldgd.store.results import claim_result
from manifoldgd.store.sets import load_set
from manifoldgd.tracking import Tracker

DIFFUSION = "diffusion"
IN_LATENT_SPACE = ("kmeans_nearest",)  # the other real baselines compare embeddings of the classifier


class Experiment:
    """Objects built from one configuration, each on first use.

    Building checks a component's numbers, so :meth:`check` builds all that a command needs before any long work.
    """

    def __init__(self, command: str, config: DictConfig) -> None:
        self.command, self.config = command, config
        self.cache = Path(config.cache)
        self.machine: Machine = build(config, "machine")
        self.machine.prepare()

    # ------------------------------------------------------------------------------------------------- components

    @cached_property
    def dataset(self) -> Any:
        """The images."""
        return build(self.config, "dataset")

    @cached_property
    def prior(self) -> Prior:
        """The latent diffusion model, on the machine's device."""
        return build(self.config, "prior").to(self.machine.device)

    @cached_property
    def guidance(self) -> Any:
        """The guidance method."""
        return build(self.config, "guidance")

    @cached_property
    def sampler(self) -> Any:
        """The sampler."""
        return build(self.config, "sampler")

    @cached_property
    def student(self) -> Any:
        """The student."""
        return build(self.config, "student")

    @cached_property
    def tracker(self) -> Tracker:
        """Where curves go."""
        return build(self.config, "logger")

    # ----------------------------------------------------------------------------------------------- what it is

    @property
    def guided(self) -> bool:
        """Whether the set is synthesised towards prototypes."""
        return self.config.source == DIFFUSION and self._guidance_name != "none"

    @property
    def needs_prior(self) -> bool:
        """Whether making the set takes the prior."""
        return self.config.source in (DIFFUSION, *IN_LATENT_SPACE) or self.config.reconstruct

    @property
    def _guidance_name(self) -> str:
        names = {"NoGuidance": "none", "ModeGuidance": "mode", "ManifoldGuidance": "manifold"}
        target = self.config.guidance._target_.rsplit(".", 1)[1]
        return names.get(target, "manifold_released" if target == "ManifoldReleasedGuidance" else target)

    @property
    def method(self) -> str:
        """What tables call the way the set was made."""
        if self.config.source != DIFFUSION:
            return f"{self.config.source}{' (reconstructed)' if self.config.reconstruct else ''}"
        name = self._guidance_name
        return f"{name} ({self.config.guidance.estimator})" if name == "manifold" else name

    @property
    def set_config(self) -> dict[str, Any]:
        """The part of the configuration that the set depends on, and nothing else."""
        keys = ["dataset", "ipc", "source", "seed"]
        if self.config.source == DIFFUSION:
            keys += ["prior", "sampler", "guidance"] + (["clusterer"] if self.guided else [])
        else:
            keys += ["reconstruct"] + (["prior"] if self.needs_prior else [])
        whole = OmegaConf.to_container(self.config, resolve=True)
        return {key: whole[key] for key in keys}

    @property
    def evaluation_config(self) -> dict[str, Any]:
        """The part of the configuration that the judgement of a set depends on."""
        whole = OmegaConf.to_container(self.config, resolve=True)
        return {key: whole[key] for key in ("dataset", "student", "student_seeds")}

    def folder(self, *parts: dict[str, Any]) -> Path:
        """Where the result goes: ``output``, or a name made of what the result is."""
        if self.config.output is not None:
            return Path(self.config.output)
        name = self.method.replace(" (", "-").rstrip(")")
        return Path("outputs") / self.dataset.name / f"{name}-ipc{self.config.ipc}-{key_of(*parts)[:8]}"

    # ---------------------------------------------------------------------------------------------------- commands

    def check(self, *, makes_set: bool, judges: bool) -> None:
        """Build and check all that will be needed, cheap things first."""
        config = self.config
        if judges:
            require(len(config.student_seeds) >= 1, "student_seeds: expected at least one seed, got []; set [0]")
            _ = self.student, self.tracker
        if makes_set:
            sources = (DIFFUSION, *SELECTIONS)
            require(
                config.source in sources, f"source: expected one of {', '.join(sources)}, got {config.source!r}"
            )
            require(
                not (config.reconstruct and config.source == DIFFUSION),
                "reconstruct: only real sources can be reconstructed; set source=random or reconstruct=false",
            )
            _ = self.sampler, self.guidance, build(config, "clusterer")
            require(config.ipc >= 1, f"ipc: expected at least 1 image per class, got {config.ipc}; set ipc=1 or more")
            latents.check_ipc(self.dataset, config.ipc)
            if self.guided:
                latents.check_neighbourhood(self.dataset, self.guidance.neighbourhood)
            if self.needs_prior:
                self.prior.check_images(self.dataset.name, self.dataset.image_shape)
                sets.match_classes(self.dataset, self.prior)
                self.prior.schedule.respaced(self.sampler.steps, self.sampler.spacing)
        if judges and makes_set:
            self.student.check(self.dataset.image_shape, len(self.dataset.class_names), config.ipc)

    def run(self) -> dict[str, Any]:
        """Distil and evaluate; a finished result is read, a half-finished one continued."""
        self.check(makes_set=True, judges=True)
        folder = self.folder(self.set_config, self.evaluation_config)
        claim_result(folder, "evaluation", self.evaluation_config)
        distilled = self._make_set(folder)
        return self._judge(folder, distilled)

    def distill(self) -> dict[str, Any]:
        """Make the set only."""
        self.check(makes_set=True, judges=False)
        folder = self.folder(self.set_config)
        distilled = self._make_set(folder)
        print(f"set: {len(distilled.images)} images in {folder / 'set'}")
        return {"folder": str(folder)}

    def evaluate(self) -> dict[str, Any]:
        """Judge the set that lies in ``set``."""
        require(self.config.set is not None, "set: needs the folder of a distilled set; set set=outputs/...")
        self.check(makes_set=False, judges=True)
        distilled = load_set(Path(self.config.set))
        evaluation.check_set(distilled, self.dataset)
        self.student.check(self.dataset.image_shape, len(distilled.class_names), distilled.manifest["ipc"])
        name = f"evaluation-{key_of(self.evaluation_config)[:8]}"
        folder = Path(self.config.output) if self.config.output else Path(self.config.set) / name
        claim_result(folder, "evaluation", {**self.evaluation_config, "set": distilled.manifest.get("config")})
        return self._judge(folder, distilled)

    def train_prior(self) -> dict[str, Any]:
        """Train a prior on the dataset's training split and judge it."""
        recipe = build_recipe(self.config)
        folder = Path(self.config.output or f"outputs/priors/{self.dataset.name}")
        facts = prior.train_and_judge(
            folder, self.dataset, **recipe, seed=self.config.seed, machine=self.machine, cache=self.cache
        )
        judge = facts["judge"]
        print(f"prior: {folder}; {100 * judge['recognised']:.1f} % of {judge['samples']} unguided samples recognised")
        return facts

    # ------------------------------------------------------------------------------------------------------- parts

    def _make_set(self, folder: Path) -> DistilledSet:
        claim_result(folder, "set", self.set_config)
        atomic_write_text(folder / "config.yaml", OmegaConf.to_yaml(self.config, resolve=True))
        facts = {
            "method": self.method,
            "config": self.set_config,
            "inputs": {"dataset": self.dataset.fingerprint, "prior": self.prior.key if self.needs_prior else None},
        }
        if (folder / "set" / "manifest.json").is_file():
            return load_set(folder)
        if self.config.source != DIFFUSION:
            return self._choose_real(folder, facts)
        targets = self._targets() if self.guided else None
        return sets.distil(
            folder / "set",
            self.dataset,
            self.prior,
            self.sampler,
            self.guidance,
            targets,
            ipc=self.config.ipc,
            seed=self.config.seed,
            machine=self.machine,
            facts=facts,
        )

    def _targets(self) -> Targets:
        encoded, _ = latents.encode(self.dataset, self.prior, self.machine, self.cache)
        prototypes, _ = latents.cluster(
            encoded,
            build(self.config, "clusterer"),
            OmegaConf.to_container(self.config.clusterer, resolve=True),
            ipc=self.config.ipc,
            seed=self.config.seed,
            machine=self.machine,
            cache=self.cache,
        )
        return find_targets(prototypes, encoded, self.guidance.neighbourhood)

    def _choose_real(self, folder: Path, facts: dict[str, Any]) -> DistilledSet:
        if self.config.source in IN_LATENT_SPACE:
            encoded, _ = latents.encode(self.dataset, self.prior, self.machine, self.cache)
            features = encoded.latents.flatten(1)
        else:
            network = evaluation.embedding_network(self.dataset, self.machine, self.cache)
            features = network.embed(self.dataset.train.images())
        return sets.choose_real(
            folder / "set",
            self.dataset,
            features,
            method=self.config.source,
            ipc=self.config.ipc,
            seed=self.config.seed,
            reconstruct_with=self.prior if self.config.reconstruct else None,
            facts=facts,
        )

    def _judge(self, folder: Path, distilled: DistilledSet) -> dict[str, Any]:
        if (folder / "metrics.json").is_file():
            result = read_json(folder / "metrics.json")
        else:
            result = self._evaluate_tracked(folder, distilled)
        accuracy = result["accuracy"]["last"]
        spread = "" if accuracy["std"] is None else f" ± {100 * accuracy['std']:.1f}"
        print(f"{result['dataset']}, {result['method']}, ipc {result['ipc']}, {result['student']}: last-epoch "
              f"accuracy {100 * accuracy['mean']:.1f}{spread} % over {len(accuracy['values'])} students")
        print(f"result: {folder}/report.html")
        return result

    def _evaluate_tracked(self, folder: Path, distilled: DistilledSet) -> dict[str, Any]:
        facts = {
            "source": distilled.manifest["config"]["source"],
            "method": distilled.manifest["method"],
            "ipc": distilled.manifest["ipc"],
            "distillation_seed": distilled.manifest["seed"],
        }
        sweep = os.environ.get(FOLDER_VARIABLE)
        self.tracker.start(
            name=folder.name,
            group=Path(sweep).name if sweep else self.dataset.name,
            config=OmegaConf.to_container(self.config, resolve=True),
        )
        exit_code = 1
        try:
            result = evaluation.evaluate(
                folder,
                distilled,
                self.dataset,
                self.student,
                self.config.student_seeds,
                machine=self.machine,
                cache=self.cache,
                logger_of=self.tracker.student_logger,
                facts=facts,
            )
            grid = pages.write(
                folder,
                result,
                distilled,
                self.dataset,
                *self._map_parts(distilled),
                machine=self.machine,
                cache=self.cache,
                config_text=OmegaConf.to_yaml(self.config, resolve=True),
            )
            self.tracker.finish(**pages.tracked(result), grid=grid)
            exit_code = 0
        finally:
            self.tracker.close(exit_code)
        return result

    def _map_parts(self, distilled: DistilledSet) -> tuple[Prior | None, Tensor | None]:
        """The prior in whose latent space the map is drawn, and the prototypes; real images do without."""
        if self.command != "run" or self.config.source != DIFFUSION:
            return None, None
        return self.prior, self._targets().prototypes.prototypes if self.guided else None


def build_recipe(config: DictConfig) -> dict[str, Any]:
    """The numbers of a prior's training."""
    from manifoldgd.cli.components import check_node, check_type

    recipe = config.recipe
    for key, hint in {"cfg_scale": float, "judge_samples": int}.items():
        check_type(f"recipe.{key}", recipe[key], hint)
    check_node(recipe, "recipe")
    parts = {name: build(recipe, name) for name in ("autoencoder", "denoiser")}
    return {**parts, "cfg_scale": recipe.cfg_scale, "judge_samples": recipe.judge_samples}
