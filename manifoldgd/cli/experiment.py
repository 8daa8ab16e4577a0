"""One configuration, taken through the stages: what ``run``, ``distill``, ``evaluate`` and ``prior`` do."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor

from manifoldgd.artifacts import DistilledSet
from manifoldgd.cli.setup import DIFFUSION, IN_LATENT_SPACE, MANY_IN_A_FOLDER, Setup
from manifoldgd.cli.sweep import FOLDER_VARIABLE
from manifoldgd.cli.used import USED_KEYS
from manifoldgd.diffusion.protocol import EnergyOf, judges_in
from manifoldgd.distill.module import Targets, find_targets
from manifoldgd.errors import require, under
from manifoldgd.files import atomic_write_text, one_at_a_time
from manifoldgd.pipeline import classifiers, evaluation, latents, pages, prior, sets, spaces
from manifoldgd.pipeline.overgeneration import keep_one_a_prototype
from manifoldgd.pipeline.real_side import RealImages
from manifoldgd.priors.prior import Prior
from manifoldgd.report.run import PAGE
from manifoldgd.store.keys import key_of, read_json
from manifoldgd.store.results import check_claim, check_inputs, claim_result, same_where_held
from manifoldgd.store.sets import has_set, load_set
from manifoldgd.tracking.tracker import run_tags


class Experiment(Setup):
    """The commands."""

    def run(self) -> dict[str, Any]:
        """Distil and evaluate; a finished result is read, a half-finished one continued."""
        self.check(makes_set=True, judges=True)
        folder = self.folder(self.set_config, self.evaluation_config)
        check_claim(folder, "set", self.set_config)  # before the other claim: a folder refused stays as it was
        claim_result(folder, "evaluation", self.evaluation_config, free=MANY_IN_A_FOLDER)
        with _alone_in(folder):
            return self._judge(folder, self._make_set(folder))

    def distill(self) -> dict[str, Any]:
        """Make the set only."""
        self.check(makes_set=True, judges=False)
        folder = self.folder(self.set_config)
        with _alone_in(folder):
            distilled = self._make_set(folder)
        print(f"set: {len(distilled.images)} images in {folder / 'set'}")
        return {"folder": str(folder)}

    def evaluate(self) -> dict[str, Any]:
        """Judge the set that lies in ``set``."""
        require(self.config.set is not None, "set: needs the folder of a distilled set; set set=outputs/...")
        self.check(makes_set=False, judges=True)
        distilled = load_set(Path(self.config.set))
        evaluation.check_set(distilled, self.dataset)
        evaluation.check_held_out(distilled, self.dataset)
        with under("student"):
            self.student.check(self.dataset.image_shape, len(distilled.class_names), distilled.manifest["ipc"])
        name = f"evaluation-{self.key_of(self.evaluation_config)}"
        folder = Path(self.config.output) if self.config.output else _beside(distilled.folder, name)
        judged = {**self.evaluation_config, "set": distilled.manifest.get("config")}
        claim_result(folder, "evaluation", judged, free=MANY_IN_A_FOLDER)
        with _alone_in(folder):
            return self._judge(folder, distilled)

    def train_prior(self) -> dict[str, Any]:
        """Train a prior on the dataset's training split and judge it."""
        recipe = self.recipe()
        folder = Path(self.config.output or f"outputs/priors/{self.dataset.name}")
        with _alone_in(folder), under("recipe"):
            facts = prior.train_and_judge(
                folder, self.dataset, **recipe, seed=self.config.seed, machine=self.machine, cache=self.cache
            )
        judge = facts["judge"]
        print(f"prior: {folder}; {100 * judge['recognised']:.1f} % of {judge['samples']} unguided samples recognised")
        return facts

    def _make_set(self, folder: Path) -> DistilledSet:
        claim_result(folder, "set", self.set_config)
        atomic_write_text(folder / "config.yaml", OmegaConf.to_yaml(self.config, resolve=True))
        facts = {"method": self.method, "config": self.set_config, "inputs": self._inputs, **self._revisions}
        if has_set(folder):
            distilled = load_set(folder)
            check_inputs(folder, distilled.manifest["inputs"], facts["inputs"])
            return distilled
        claim_result(folder, "inputs", facts["inputs"])  # of a set that is begun: it is continued with the same ones
        if self.config.source != DIFFUSION:
            return self._choose_real(folder, facts)
        return self._synthesise(folder, facts)

    @property
    def _inputs(self) -> dict[str, Any]:
        """Hashes of what a set is made of, besides its configuration, and what the prior's card says."""
        return {
            "dataset": self.dataset.train_fingerprint,
            "prior": self.prior.key if self.needs_prior else None,
            "card": self.prior.card if self.needs_prior else None,
            "classifier": classifiers.embedding_key(self.dataset) if self.needs_classifier else None,
        }

    @property
    def _revisions(self) -> dict[str, str]:
        """The commits of the hub's repositories that the prior came from, where it did."""
        prior = self.prior if self.needs_prior else None
        found = {name: getattr(prior, name, None) for name in ("revision", "autoencoder_revision")}
        return {f"prior_{name}": commit for name, commit in found.items() if commit}

    def _synthesise(self, folder: Path, facts: dict[str, Any]) -> DistilledSet:
        targets = self._targets() if self.needs_prototypes else None
        energy_of = self._energy_of() if self.guided else None

        def sampled(place: Path, facts: dict[str, Any], replica: int) -> DistilledSet:
            return sets.distil(
                place,
                self.dataset,
                self.prior,
                self.sampler,
                self.guidance,
                targets,
                energy_of,
                ipc=self.config.ipc,
                seed=self.config.seed,
                machine=self.machine,
                facts=facts,
                replica=replica,
                start=self.start,
            )

        replicas = self.overgeneration.replicas
        if replicas == 1:
            return sampled(folder / "set", facts, 0)
        candidates = [
            sampled(folder / "replicas" / str(one), {**facts, "replica": one}, one) for one in range(replicas)
        ]
        network = classifiers.embedding_network(self.dataset, self.machine, self.cache)
        return keep_one_a_prototype(folder / "set", candidates, self.dataset, network.embed, self.overgeneration)

    def _targets(self) -> Targets:
        encoded, _ = latents.encode(self.dataset, self.prior, self.machine, self.cache)
        prototypes, _ = latents.cluster(
            encoded,
            self.clusterer,
            OmegaConf.to_container(self.config.clusterer, resolve=True),
            spaces.features_of(
                self.clusterer.space.features, self.dataset, self.prior, encoded, self.machine, self.cache
            ),
            distinct=self.dataset.train.distinct,
            ipc=self.config.ipc,
            seed=self.config.seed,
            machine=self.machine,
            cache=self.cache,
        )
        return find_targets(prototypes, encoded, self.guidance.neighbourhood)

    def _energy_of(self) -> EnergyOf | None:
        """What gives the energies of batches, for guidances that judge sets; of two that do, both follow the same."""
        real = RealImages(self.dataset, self.machine, self.cache, self.prior, self.config.seed)
        return next((judge.prepare(real) for judge in judges_in(self.guidance)), None)

    def _choose_real(self, folder: Path, facts: dict[str, Any]) -> DistilledSet:
        if self.config.source in IN_LATENT_SPACE:
            encoded, _ = latents.encode(self.dataset, self.prior, self.machine, self.cache)
            features = encoded.latents.flatten(1)
        elif self.config.source == "random":
            features = torch.zeros(len(self.dataset.train), 1)  # a draw looks at nothing
        else:
            network = classifiers.embedding_network(self.dataset, self.machine, self.cache)
            features = network.embed(self.dataset.train.images())
        return sets.choose_real(
            folder / "set",
            self.dataset,
            features,
            method=self.config.source,
            ipc=self.config.ipc,
            seed=self.config.seed,
            reconstruct_with=self.prior.to(self.machine.device) if self.config.reconstruct else None,
            facts=facts,
        )

    def _judge(self, folder: Path, distilled: DistilledSet) -> dict[str, Any]:
        result = self._held(folder / "metrics.json", distilled)
        if result is None:
            result = self._evaluate_tracked(folder, distilled)
        elif not (folder / PAGE).is_file():  # killed while it was drawn
            self._write_pages(folder, result, distilled)
        accuracy = result["accuracy"]["last"]
        spread = "" if accuracy["std"] is None else f", standard deviation {100 * accuracy['std']:.1f}"
        print(
            f"{result['dataset']}, {result['method']}, ipc {result['ipc']}, {result['student']}: last-epoch "
            f"accuracy {100 * accuracy['mean']:.1f} % ({_students(len(accuracy['values']))}{spread})"
        )
        if result.get("teacher"):
            taught_by = result["teacher"]
            print(f"teacher: {taught_by['name']}, {100 * taught_by['test_accuracy']:.1f} % on real test images")
        print(f"result: {folder / PAGE}")
        return result

    def _held(self, file: Path, distilled: DistilledSet) -> dict[str, Any] | None:
        """The result, if it is of these images, students and measures; else it is made of what is finished."""
        held = read_json(file) if file.is_file() else {}
        data = {evaluation.JUDGED_ON: self.dataset.test_fingerprint}
        if self.config.measures or self.student.teacher_recipe is not None:
            data |= {evaluation.LEARNED_FROM: self.dataset.train_fingerprint}
        same = held.get("fingerprint") == distilled.fingerprint and same_where_held(held, data)
        measured = held.get("set_metrics") or not self.config.measures
        return held if same and measured and held.get("student_seeds") == list(self.config.student_seeds) else None

    def _evaluate_tracked(self, folder: Path, distilled: DistilledSet) -> dict[str, Any]:
        self.tracker.start(**self._tracked_run(folder, distilled))
        exit_code = 1
        try:
            result = self._evaluated(folder, distilled)
            images = self._write_pages(folder, result, distilled)
            self.tracker.finish(**pages.tracked(result), images=images, set_folder=distilled.folder)
            exit_code = 0
        finally:
            self.tracker.close(exit_code)
        return result

    def _tracked_run(self, folder: Path, distilled: DistilledSet) -> dict[str, Any]:
        """The tracked run: its place among others, what it is, and an id that a run of the same result has again."""
        cell, sweep = self.config.cell, os.environ.get(FOLDER_VARIABLE)
        name, group, job_type = folder.name, Path(sweep).name if sweep else self.dataset.name, self.command
        if cell is not None:
            name, group, job_type = f"{cell.method}/{cell.column}/seed{cell.seed}", cell.table, "cell"
        made = distilled.manifest
        whole = OmegaConf.to_container(self.config, resolve=True)
        config = made["config"] | {key: whole[key] for key in USED_KEYS[self.command] if key in whole}
        facts = {
            "method": made["method"],
            "dataset": self.dataset.name,
            "student": self.student.name,
            "ipc": made["ipc"],
            "scale": guidance_scale(made["config"]),
        }
        named = {key: {**config[key], "name": facts[key]} for key in ("dataset", "student")}
        return {
            "name": name,
            "group": group,
            "job_type": job_type,
            "config": {**config, **facts, **named},
            "tags": run_tags(facts),
            "run_id": key_of(group, name, distilled.fingerprint, self.key_of(self.evaluation_config)),
        }

    def _evaluated(self, folder: Path, distilled: DistilledSet) -> dict[str, Any]:
        manifest = distilled.manifest
        return evaluation.evaluate(
            folder,
            distilled,
            self.dataset,
            self.student,
            self.config.student_seeds,
            machine=self.machine,
            cache=self.cache,
            logger_of=self.tracker.student_logger,
            measures=self.config.measures,
            facts={
                "source": manifest["config"]["source"],
                "method": manifest["method"],
                "ipc": manifest["ipc"],
                "distillation_seed": manifest["seed"],
                "run_url": self.tracker.url,
            },
        )

    def _write_pages(self, folder: Path, result: dict[str, Any], distilled: DistilledSet) -> dict[str, Image.Image]:
        return pages.write(
            folder,
            result,
            distilled,
            self.dataset,
            *self._map_parts(distilled),
            machine=self.machine,
            cache=self.cache,
            config_text=OmegaConf.to_yaml(self.config, resolve=True),
        )

    def _map_parts(self, distilled: DistilledSet) -> tuple[Prior | None, Tensor | None]:
        """The prior in whose latent space the map is drawn, and the prototypes; ``None`` where neither is wanted."""
        if self.command != "run" or self.config.source != DIFFUSION or not self.config.measures:
            return None, None
        prototypes = self._targets().prototypes.prototypes if self.needs_prototypes else None
        return self.prior.to(self.machine.device), prototypes  # Lightning leaves what it ran on the CPU


def _beside(folder: Path, name: str) -> Path:
    """Where a judgement goes: into the result folder of the set, never among its classes."""
    return folder.parent / name if folder.name == "set" else folder.with_name(f"{folder.name}-{name}")


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Hold a result folder: the same command given twice at once works once, and the second reads what it left."""
    with one_at_a_time(folder / "result", lambda: print(f"{folder}: another process is at work there; waiting for it")):
        yield


def guidance_scale(config: Mapping[str, Any]) -> float | None:
    """Strength of the guidance of a set's configuration; of one that holds another, that one's; ``None`` without."""
    guidance = config.get("guidance") or {}
    nodes = (guidance, guidance.get("first") or {}, guidance.get("method") or {})
    return next((node["scale"] for node in nodes if "scale" in node), None)


def _students(count: int) -> str:
    return f"{count} student{'' if count == 1 else 's'}"
