"""What each command does: check everything, then run the stages, each in a folder that knows what it holds."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from PIL import Image

from manifoldgd import ranks
from manifoldgd.artifacts import DistilledSet
from manifoldgd.cli.components import build
from manifoldgd.cli.compose import Config, compose
from manifoldgd.cli.dashboard import publish_dashboard
from manifoldgd.cli.launcher import FOLDER_VARIABLE
from manifoldgd.cli.setup import DIFFUSION, MANY_IN_A_FOLDER, RECIPE_PARTS, Setup, recipe_of
from manifoldgd.cli.targets import allowing
from manifoldgd.cli.used import USED_KEYS
from manifoldgd.dataset import ImageDataset, judging_split
from manifoldgd.errors import require, under
from manifoldgd.export import check_repository, export_set, push
from manifoldgd.files import atomic_write_text, one_at_a_time
from manifoldgd.pipeline import distillation, evaluation, pages
from manifoldgd.pipeline.classifiers import known_full_data_accuracy
from manifoldgd.pipeline.evaluation import Judged
from manifoldgd.report.numbers import ACCURACY, number_text, plus_minus
from manifoldgd.store.keys import key_of
from manifoldgd.store.results import PAGE, check_claim, claim_result
from manifoldgd.store.set_sources import BUNDLED, read_set, told
from manifoldgd.store.sets import has_set
from manifoldgd.tracking.tracker import NoTracker, RunFacts, RunResult, run_tags

LARGE_STUDENTS = ("resnetap10",)  # that datasets of image files choose by themselves ...
LARGE_IMAGES = 128  # ... for images of as many pixels a side
FEW_RECOGNISED = 0.8  # share of what the classifier recognises of real images, below which a prior wants more training


def run_command(command: str, config: Config) -> dict[str, Any] | None:
    """Do what a command does, with keys that are checked, and say what came of it."""
    if command == "dashboard":
        publish_dashboard(config.values)
        return None
    if command == "export":
        export(config.values)
        return None
    setup = Setup(command, config)
    if setup.config.dry_run and command == "prior":
        say_cost(setup)
        return None
    if setup.config.dry_run:
        print("\n".join(preview(setup)))
        return None
    if setup.machine.launches():
        ranks.launch(setup.machine.devices, do_part, command, config)  # what they make is read below
    if command == "prior":
        facts = train_prior(setup)
        if facts is not None:  # else another rank has them
            print(*prior_told(setup.dataset, _prior_folder(setup), config, facts), sep="\n")
        return facts
    if command == "distill":
        made = distill(setup)
        assert made.folder is not None
        print(f"set: {len(made.images)} images in {made.folder}")
        return {"folder": str(made.folder.parent)}
    judged = run(setup) if command == "run" else evaluate(setup)
    if not judged.metrics:  # another rank has them
        return None
    _say(judged)
    return judged.metrics | {"folder": str(judged.folder)}


def do_part(command: str, config: Config) -> None:
    """One rank's part of a command that is shared among devices."""
    with allowing(config.allowed):
        {"run": run, "distill": distill, "evaluate": evaluate, "prior": train_prior}[command](Setup(command, config))


def _say(judged: Judged) -> None:
    result, accuracy = judged.metrics, judged.accuracy.times(100)
    students = f"{accuracy.count} student{'' if accuracy.count == 1 else 's'}"
    meaning = "; ".join(filter(None, [students, plus_minus([accuracy])]))
    print(
        f"{result['dataset']}, {result['method']}, ipc {result['ipc']}, {result['student']}: last-epoch "
        f"accuracy {number_text(accuracy, ACCURACY)} % ({meaning})"
    )
    if taught_by := result.get("teacher"):
        print(f"teacher: {taught_by['name']}, {100 * taught_by['test_accuracy']:.1f} % on real test images")
    print(f"result: {judged.folder / PAGE}")


def run(setup: Setup) -> Judged:
    """Distil and evaluate; a finished result is read, a half-finished one continued."""
    setup.check(makes_set=True, judges=True)
    setup.check_memory(setup.machine)
    folder = setup.folder(setup.set_config, setup.evaluation_config)
    check_claim(folder, "set", setup.set_config)  # before the other claim: a folder refused stays as it was
    claim_result(folder, "evaluation", setup.evaluation_config, free=MANY_IN_A_FOLDER)
    with _alone_in(folder):
        return _judge(setup, folder, _make_set(setup, folder))


def distill(setup: Setup) -> DistilledSet:
    """Make the set only."""
    setup.check(makes_set=True, judges=False)
    setup.check_memory(setup.machine)
    folder = setup.folder(setup.set_config)
    with _alone_in(folder):
        return _make_set(setup, folder)


def evaluate(setup: Setup) -> Judged:
    """Judge the set that lies in ``set``, whoever made it."""
    distilled, folder, judged = _to_judge(setup)
    claim_result(folder, "evaluation", judged, free=MANY_IN_A_FOLDER)
    with _alone_in(folder):
        return _judge(setup, folder, distilled)


def _to_judge(setup: Setup) -> tuple[DistilledSet, Path, dict[str, Any]]:
    """The set that lies in ``set``, checked, the folder of its judgement, and what that depends on."""
    config = setup.config
    require(
        config.set is not None, "set: needs a distilled set; set set=outputs/..., a folder, a file, or bundled:NAME"
    )
    setup.check(makes_set=False, judges=True)
    with under("reading"):
        distilled = read_set(config.set, setup.reading, setup.dataset)
    for line in told(distilled):
        print(line)
    evaluation.check_set(distilled, setup.dataset)
    evaluation.check_held_out(distilled, setup.dataset)
    with under("student"):
        setup.student.check(setup.dataset.image_shape, len(distilled.class_names), distilled.manifest["ipc"])
    folder = Path(config.output or _judgement_folder(setup, distilled))
    judged = {**setup.evaluation_config, "set": distilled.manifest.get("config")}
    check_claim(folder, "evaluation", judged, free=MANY_IN_A_FOLDER)
    return distilled, folder, judged


def preview(setup: Setup) -> Iterator[str]:
    """What ``run``, ``distill`` or ``evaluate`` would do, in a few lines, once everything is checked that they check.

    No result is written; images that have to be decoded are, once, as always.
    """
    config, dataset, judges = setup.config, setup.dataset, setup.command != "distill"
    if setup.command == "evaluate":
        made, folder, _ = _to_judge(setup)
        of_set = f"{made.manifest['method']}, {len(made.images):,} images, {config.set}"
    else:
        setup.check(makes_set=True, judges=judges)
        setup.check_memory(setup.machine)
        parts = [setup.set_config, *([setup.evaluation_config] if judges else [])]
        folder = setup.folder(*parts)
        check_claim(folder, "set", setup.set_config)
        if judges:
            check_claim(folder, "evaluation", setup.evaluation_config, free=MANY_IN_A_FOLDER)
        of_set = f"{setup.method}, {config.ipc} images a class, {'made' if has_set(folder) else 'to be made'}"
        of_set += f", prior {setup.prior.name}" if setup.needs_prior else ""
    counts = f"{len(dataset.train):,} training and {len(dataset.test):,} {judging_split(dataset.name)} images"
    shape = "x".join(map(str, dataset.image_shape))
    yield f"dataset: {dataset.name}, {counts} of {len(dataset.class_names)} classes, {shape}"
    yield f"set: {of_set}"
    if judges:
        yield f"students: {len(config.student_seeds)} of {setup.student.name}, {setup.student.protocol.name}"
        yield from (f"measures: not in {name}: {reason}" for name, reason in _unmeasured(setup).items())
    yield f"result: {folder}{' is there' if (folder / PAGE).is_file() else ''}"


def _unmeasured(setup: Setup) -> dict[str, str]:
    return setup.missing_embeddings if setup.config.measures else {}


def _judgement_folder(setup: Setup, distilled: DistilledSet) -> Path:
    """Beside a set of this package; for others, whose place is not ours to write to, among the dataset's results."""
    if distilled.folder is not None:
        return evaluation.beside(distilled, setup.key_of(setup.evaluation_config))
    key = setup.key_of(setup.evaluation_config, {"fingerprint": distilled.fingerprint})
    return Path("outputs") / setup.dataset.name / f"{distilled.manifest['name']}-evaluation-{key}"


def export(config: DictConfig) -> None:
    """Write the set that lies in ``set`` in a form that others read, and hand it to the Hub if that is asked for."""
    require(
        config.set is not None, "set: needs a distilled set; set set=outputs/..., a folder, a file, or bundled:NAME"
    )
    if config.push is not None:
        check_repository(config.push)
    with under("reading"):
        made = read_set(config.set, build(config, "reading"))
    for line in told(made):
        print(line)
    name = Path(config.set).name if made.folder is None else made.folder.resolve().parent.name
    folder = Path(config.output or f"outputs/exports/{name.removeprefix(BUNDLED)}-{config.format}")
    told_of = {"license": config.license, "home": config.push, "overwrite": config.overwrite}
    files = export_set(made, folder, form=config.format, **told_of)
    print(
        f"export: {len(made.images)} images in {folder}: {', '.join(str(file.relative_to(folder)) for file in files)}"
    )
    if config.push is not None:
        print(f"push: {push(folder, config.push)}")


def say_cost(setup: Setup) -> None:
    """Say what training a prior would cost."""
    from manifoldgd.pipeline import prior  # here, because it imports diffusers and Lightning

    recipe = _recipe(setup)
    del recipe["cfg_scale"]
    with under("recipe"):
        prior.say_cost(setup.dataset, **recipe, seed=setup.config.seed, machine=setup.machine)


def train_prior(setup: Setup) -> dict[str, Any] | None:
    """Train a prior on the dataset's training split and judge it.

    Returns:
        What its card says; ``None`` on all ranks but the first.
    """
    from manifoldgd.pipeline import prior  # here, because it imports diffusers and Lightning

    recipe, folder = _recipe(setup), _prior_folder(setup)
    numbers: dict[str, Any] = {"seed": setup.config.seed, "machine": setup.machine, "cache": setup.cache}
    with under("recipe"), _alone_in(folder):
        return prior.train_and_judge(folder, setup.dataset, **recipe, **numbers) or None


def _recipe(setup: Setup) -> dict[str, Any]:
    """The numbers of a prior's training, checked against the images and the machine."""
    from manifoldgd.priors.training import check_recipe  # here, because it imports diffusers and Lightning

    recipe, processes = recipe_of(setup.config), setup.machine.devices * setup.machine.nodes
    with under("recipe"):
        check_recipe(setup.dataset, recipe["autoencoder"].for_images(setup.dataset.image_shape), recipe["denoiser"])
        for part in RECIPE_PARTS:
            batch = recipe[part].batch_size
            require(
                batch >= processes,
                f"expected at least {processes}, an image for each process, got {batch}; raise it or lower "
                "machine.devices",
                key=f"{part}.batch_size",
            )
    return recipe


def _prior_folder(setup: Setup) -> Path:
    return Path(setup.config.output or f"outputs/priors/{setup.dataset.name}")


def prior_told(dataset: ImageDataset, folder: Path, given: Config, facts: dict[str, Any]) -> Iterator[str]:
    """How good a trained prior is, where to look at it, and what to do next, in a few lines.

    Args:
        dataset: it was trained on.
        folder: it lies in.
        given: the command that trained it.
        facts: its card.
    """
    from manifoldgd.priors.training import TRAINING  # here, because it imports diffusers and Lightning

    judged = facts["judge"]
    yield (
        f"prior: {folder}; {100 * judged['recognised']:.1f} % of {judged['samples']:,} unguided samples recognised, "
        f"{100 * judged['classifier_test_accuracy']:.1f} % of the real test images by the same classifier"
    )
    yield f"pictures: {folder / 'samples.png'}, a row a class; {folder / TRAINING} is kept for more steps alone"
    if judged["recognised"] < FEW_RECOGNISED * judged["classifier_test_accuracy"]:
        longer = f"the same command with recipe.denoiser.steps={2 * facts['steps']['denoiser']} goes on"
        faster = "; of a flow they are recognised after fewer steps (recipe.path=flow, in another output)"
        is_flow = facts["recipe"]["denoiser"].get("path") == "flow"
        yield f"few are recognised: {longer}{'' if is_flow else faster}"
    words = [shlex.quote(each) for each in given.overrides if each.partition(".")[0].partition("=")[0] == "dataset"]
    words += [f"prior={shlex.quote(str(folder))}", "ipc=10"]
    if given.choice("student") in LARGE_STUDENTS and max(dataset.image_shape[1:]) < LARGE_IMAGES:
        words += ["student=convnet3", "student/protocol=hard_small"]
    yield f"next: manifoldgd run {' '.join(words)}"


def _make_set(setup: Setup, folder: Path) -> DistilledSet:
    config, facts = setup.config, setup.made_of
    made = distillation.finished(folder, facts)
    atomic_write_text(folder / "config.yaml", OmegaConf.to_yaml(config, resolve=True))
    if made is not None:
        return made
    where: dict[str, Any] = {"machine": setup.machine, "cache": setup.cache}
    numbers: dict[str, Any] = {"ipc": config.ipc, "seed": config.seed, "facts": facts, **where}
    if config.source != DIFFUSION:
        prior = setup.prior if setup.needs_prior else None
        return distillation.choose(
            folder, setup.dataset, config.source, prior, reconstruct=config.reconstruct, **numbers
        )
    return distillation.synthesise(
        folder,
        setup.dataset,
        setup.prior,
        setup.prototypes,
        guidance=setup.guidance,
        sampler=setup.sampler,
        start=setup.start,
        overgeneration=setup.overgeneration,
        **numbers,
    )


def _judge(setup: Setup, folder: Path, distilled: DistilledSet) -> Judged:
    config = setup.config
    what = (folder, distilled, setup.dataset, setup.student, config.student_seeds)
    wanted = {"measures": setup.measures, "save_students": config.save_students}
    metrics = evaluation.finished(*what, **wanted)
    first = ranks.rank() == 0
    if metrics is None:
        for name, reason in _unmeasured(setup).items() if first else ():
            print(f"measures: not in {name}: {reason}", file=sys.stderr)
        tracker = setup.tracker if first else NoTracker()
        with tracker.tracking(_run_facts(setup, folder, distilled)):
            metrics = evaluation.evaluate(
                *what,
                machine=setup.machine,
                cache=setup.cache,
                **wanted,
                embedding=setup.embeddings if setup.measures else None,
                logger_of=tracker.student_logger,
                run_url=tracker.url,
            )
            if not first:
                return Judged(folder, distilled, metrics)
            images = _write_pages(setup, folder, metrics, distilled)
            tracker.finish(RunResult(**pages.tracked(metrics), images=images, set_folder=distilled.folder))
    elif first and not (folder / PAGE).is_file():  # killed while it was drawn
        _write_pages(setup, folder, metrics, distilled)
    return Judged(folder, distilled, metrics)


def _write_pages(
    setup: Setup, folder: Path, metrics: dict[str, Any], distilled: DistilledSet
) -> dict[str, Image.Image]:
    config = setup.config
    mapped = setup.command == "run" and config.source == DIFFUSION and config.measures
    return pages.write(
        folder,
        metrics,
        distilled,
        setup.dataset,
        setup.prior.to(setup.machine.device) if mapped else None,  # Lightning leaves what it ran on the CPU
        setup.prototypes.prototypes if mapped and setup.prototypes else None,
        machine=setup.machine,
        cache=setup.cache,
        config_text=OmegaConf.to_yaml(config, resolve=True),
        full_data=_known_full_data(setup),
    )


def _known_full_data(setup: Setup) -> float | None:
    """Accuracy of the student on all real images, where a table with scores, or its teaching, has measured it."""
    scores = compose(name="scores").values
    recipe = scores.full_data.get(setup.student.protocol.name)
    if recipe is None:
        return None
    return known_full_data_accuracy(setup.dataset, setup.student, build(scores, recipe), setup.cache)


def _run_facts(setup: Setup, folder: Path, distilled: DistilledSet) -> RunFacts:
    """What a tracker is told of a run: its place among others, what it is, and an id that the same result has again."""
    cell, sweep = setup.config.cell, os.environ.get(FOLDER_VARIABLE)
    name, group, job_type = folder.name, Path(sweep).name if sweep else setup.dataset.name, setup.command
    if cell is not None:
        name, group, job_type = f"{cell.method}/{cell.column}/seed{cell.seed}", cell.table, "cell"
    made = distilled.manifest
    whole: Any = OmegaConf.to_container(setup.config, resolve=True)
    config = made["config"] | {key: whole[key] for key in USED_KEYS[setup.command] if key in whole}
    facts = {
        "method": made["method"],
        "dataset": setup.dataset.name,
        "student": setup.student.name,
        "ipc": made["ipc"],
        "scale": guidance_scale(made["config"]),
    }
    named = {key: {**config[key], "name": facts[key]} for key in ("dataset", "student")}
    return RunFacts(
        name=name,
        folder=folder,
        group=group,
        job_type=job_type,
        config={**config, **facts, **named},
        tags=run_tags(facts),
        run_id=key_of(group, name, distilled.fingerprint, setup.key_of(setup.evaluation_config)),
    )


def guidance_scale(config: Mapping[str, Any]) -> float | None:
    """Strength of the guidance of a set's configuration; of one that holds another, that one's; ``None`` without."""
    guidance = config.get("guidance") or {}
    nodes = (guidance, guidance.get("first") or {}, guidance.get("method") or {})
    return next((node["scale"] for node in nodes if "scale" in node), None)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Hold a result folder: the same command given twice at once works once, and the second reads what it left.

    Of several ranks the first holds it for all.
    """
    if ranks.rank() > 0:
        ranks.barrier()
        yield
        return
    with one_at_a_time(folder / "result", lambda: print(f"{folder}: another process is at work there; waiting for it")):
        ranks.barrier()
        yield
