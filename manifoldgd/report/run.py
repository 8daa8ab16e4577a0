"""The page of one run: what was made, from what, how, and how well a student learns from it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from PIL import Image
from torch import Tensor

from manifoldgd.artifacts import DistilledSet
from manifoldgd.data.imagenet import readable
from manifoldgd.dataset import judging_split
from manifoldgd.diffusion.loop import RUNAWAY
from manifoldgd.estimates import Estimate, estimate
from manifoldgd.files import atomic_write_bytes, atomic_write_text
from manifoldgd.report.content import Block, Column, Figure, Page, Section, Table
from manifoldgd.report.figures import accuracy_curve, bars, guidance_plot
from manifoldgd.report.grids import image_grid, pairs_grid, scale_for
from manifoldgd.report.html import html
from manifoldgd.report.latent_map import Cloud, latent_map, latent_map_by_class
from manifoldgd.report.measures import COUNTS, MEASURES, check_format, measure_end, measure_title
from manifoldgd.report.numbers import finite, number_format, number_text, percent, plus_minus, seconds_text
from manifoldgd.report.palette import DARK, LIGHT, Scheme

KeyFigure = tuple[str, str, str]
Records = Sequence[Mapping[str, float | None]]

PAGE = "report.html"  # in a result folder; written last, so a result with a page is whole
ACCURACY = ".1f"  # of every percentage on the page: a test split of 10,000 images supports no more
SHOWN_CLASSES = 20
SHOWN_RANKS = 10
SHOWN_BARS = 30
NAMED_CURVES = 6
WIDE_PIXELS = 800  # from which on a grid takes a row of its own
DARK_TWIN_PIXELS = 600_000  # a dark copy of a larger picture would not pay for its weight


class Latents(TypedDict):
    """Scaled latents for the map, ``[M, C, H, W]`` or ``[M, D]``, with int64 labels ``[M]``."""

    real: Tensor
    real_labels: Tensor
    prototypes: Tensor | None
    prototype_labels: Tensor | None  # None with prototypes None
    synthetic: Tensor
    synthetic_labels: Tensor


def write_run_report(
    folder: str | os.PathLike[str],
    *,
    result: Mapping[str, Any],
    distilled: DistilledSet,
    prototypes_images: Tensor | None,
    step_records: Records | None,
    latents: Latents | None,
    config_text: str,
    full_data: float | None = None,
) -> Path:
    """Write ``report.html`` and its pictures as PNG files into ``folder``.

    Files: ``grid.png`` always; ``pairs.png``, ``guidance.png``, ``latent_map.png``, ``latent_map_by_class.png``,
    ``students.png``, ``per_class.png`` where there is something to show. The page needs none of them, and has no
    section without content.

    Args:
        folder: where to write; made if missing.
        result: the content of ``metrics.json``, format 1; accuracies in [0, 1].
        distilled: the set, ``n`` images.
        prototypes_images: ``[n, C, H, W]`` uint8 decoded prototypes, row ``i`` for image ``i``; ``None`` without.
        step_records: one mapping a guided step, as :func:`manifoldgd.report.figures.guidance_plot` takes them;
            ``None`` or empty for unguided and real-image sets.
        latents: for the map; ``None`` if not kept.
        config_text: the resolved configuration.
        full_data: accuracy in [0, 1] of the same student trained on all real images, where it is known.

    Returns:
        The path of ``report.html``.

    Raises:
        UserError: ``result`` has another format.
        ValueError: shapes that do not fit together.
    """
    check_format(result)
    references = {"chance": 1 / len(distilled.class_names)}
    references |= {} if full_data is None else {"all real images": full_data}
    page = Page(
        title=f"{result['dataset']}: {result['method']}, {_images(result['ipc'])} a class",
        subtitle=_subtitle(result),
        notices=_notices(result),
        key_figures=_key_figures(result, step_records or [], references),
        sections=list(_sections(result, distilled, prototypes_images, step_records or [], latents, references)),
        config=config_text,
    )
    for figure in page.figures():
        atomic_write_bytes(Path(folder) / f"{figure.name}.png", figure.png())
    atomic_write_text(Path(folder) / PAGE, html(page))
    return Path(folder) / PAGE


def runaway_sentence(images: int, of: int) -> str:
    """What to make of images whose guidance was beyond :data:`RUNAWAY` times the noise at some step."""
    return (
        f"{images} of {of} images ran away: at some step guidance moved them by more than {RUNAWAY:g} times the noise; "
        "lower guidance.scale"
    )


# The head


def _notices(result: Mapping[str, Any]) -> list[str]:
    runaway = (result.get("guidance") or {}).get("runaway")
    return [f"{runaway_sentence(runaway, result['num_images'])}."] if runaway else []


def _subtitle(result: Mapping[str, Any]) -> str:
    made = f"{_images(result['num_images'])} from source “{result['source']}”, distillation seed "
    made += str(result["distillation_seed"])
    if not result.get("accuracy"):
        return made + "; not judged by a student yet."
    judged = f"{made}; judged by {result['student']} trained from scratch, label protocol “{result['label_protocol']}”"
    teacher = result.get("teacher")
    if teacher:
        quality = number_text(100 * teacher["test_accuracy"], ACCURACY)
        judged += f" with the outputs of a {teacher['name']} ({quality} % on real test images) as labels"
    if leaked := result.get("test_images_in_train"):
        split = judging_split(result["dataset"])
        judged += (
            f". Of the {result['test_images']:,} {split} images {leaked:,} show, pixel for pixel, what a training "
        )
        judged += "image shows: the accuracy is too high for them"
    return f"{judged}."


def _key_figures(result: Mapping[str, Any], records: Records, references: Mapping[str, float]) -> list[KeyFigure]:
    figures = _accuracies(result, references) if result.get("accuracy") else []
    classes = result["num_images"] // result["ipc"] if result["ipc"] else 0
    figures.append(("Images", str(result["num_images"]), f"{result['ipc']} a class, {classes} classes"))
    figures += _guidance_figures(records)
    seconds = {stage: value for stage, value in (result.get("seconds") or {}).items() if finite(value)}
    if seconds:
        stages = ", ".join(f"{stage} {seconds_text(value)}" for stage, value in seconds.items())
        figures.append(("Time", seconds_text(sum(seconds.values())), stages))
    return figures


def _accuracies(result: Mapping[str, Any], references: Mapping[str, float]) -> list[KeyFigure]:
    """The last epoch as the headline; the best epoch apart, since it was chosen on the images that judge."""
    split = judging_split(result["dataset"])
    values = (result["accuracy"][epoch]["values"] for epoch in ("last", "best"))
    last, best = (percent(estimate(each, of="students")) for each in values)
    note = "one student, so no interval" if last.count == 1 else f"{last.count} students; {plus_minus([last])}"
    levels = {"chance": "chance", "all real images": f"{result['student']} on all real images"}
    note += "".join(f"; {levels[name]}: {100 * level:{ACCURACY}} %" for name, level in references.items())
    apart = f"mean of each student's best epoch on the {split} images: optimistic, never ranked by"
    return [
        (f"{split.capitalize()} accuracy, last epoch", _percent_text(last), note),
        ("Best epoch", _percent_text(best), apart),
    ]


def _guidance_figures(records: Records) -> list[KeyFigure]:
    """Means over the guided steps: a guidance that does nothing must be visible at a glance."""
    figures = []
    ratios = [record["ratio_mean"] for record in records if finite(record.get("ratio_mean"))]
    kept = [record["kept_mean"] for record in records if finite(record.get("kept_mean"))]
    if ratios:
        text = number_text(sum(ratios) / len(ratios), ".2g")
        figures.append(("Guidance / noise", text, f"ratio of norms, mean over {len(ratios)} guided steps"))
    if kept:
        note = f"share of its energy after projection, mean over {len(kept)} steps"
        figures.append(("Guidance vector kept", _percent_text(100 * sum(kept) / len(kept)), note))
    return figures


def _images(count: int) -> str:
    return f"{count} image" if count == 1 else f"{count} images"


def _percent_text(number: float | Estimate) -> str:
    """With its unit, and in one piece: a value that breaks over two lines is misread."""
    return f"{number_text(number, ACCURACY)} %".replace(" ", "\u00a0")


# The body


def _sections(
    result: Mapping[str, Any],
    distilled: DistilledSet,
    prototypes: Tensor | None,
    records: Records,
    latents: Latents | None,
    references: Mapping[str, float],
) -> Iterator[Section]:
    """Those that have something to show."""
    pairs = [] if prototypes is None else [_pairs_figure(distilled, prototypes)]
    yield Section("The distilled set", [_set_figure(distilled, prototypes is None), *pairs])
    if result.get("students"):
        yield Section("Students", _students(result["students"], readable(distilled.class_names), references))
    if any(finite(record.get("ratio_mean")) for record in records):
        yield Section("Guidance, step by step", [_guidance_figure(records)])
    if latents is not None:
        yield Section("Where the images lie among the real ones", _maps(latents, readable(distilled.class_names)))
    if result.get("set_metrics"):
        yield Section("Measures of the set", _measures(result["set_metrics"], result.get("embedding")))


def _set_figure(distilled: DistilledSet, without_prototypes: bool) -> Figure:
    """The images of the set, one row a class."""
    shown = _shown(distilled)
    names = readable(distilled.class_names)[:SHOWN_CLASSES]

    def draw(scheme: Scheme) -> Image.Image:
        images, labels, ranks = distilled.images[shown], distilled.labels[shown], distilled.ranks[shown]
        return image_grid(images, labels, names, scale=_scale(images), ranks=ranks, scheme=scheme)

    caption = "One row a class, ordered by rank." + _left_out(distilled, shown)
    if without_prototypes and any("prototype" in row for row in distilled.manifest.get("images", [])):
        caption += " Its prototypes are drawn by `manifoldgd run` with measures=true."
    alt = f"Grid of {int(shown.sum())} images of the distilled set in {len(names)} rows, one a class"
    return _grid(draw, caption, alt, "grid")


def _pairs_figure(distilled: DistilledSet, prototypes: Tensor) -> Figure:
    """Each decoded prototype, ``[n, C, H, W]`` uint8, above the image that became of it."""
    shown = _shown(distilled)
    names = readable(distilled.class_names)[:SHOWN_CLASSES]

    def draw(scheme: Scheme) -> Image.Image:
        labels, ranks = distilled.labels[shown], distilled.ranks[shown]
        before, after = prototypes[shown], distilled.images[shown]
        return pairs_grid(before, after, labels, names, scale=_scale(after, 48), ranks=ranks, scheme=scheme)

    caption = "The prototypes and what they became: above in each pair, the prototype as the autoencoder decodes it; "
    caption += "below, the image sampled for it."
    alt = f"{int(shown.sum())} pairs of prototype and sampled image in {len(names)} rows, one a class"
    return _grid(draw, caption + _left_out(distilled, shown), alt, "pairs")


def _guidance_figure(records: Records) -> Figure:
    """Strength of guidance at each step, and what the projection left of it."""
    kept = any(finite(record.get("kept_mean")) for record in records)
    caption = "Mean over the images, band one standard deviation of images. Shaded: no guidance, or no noise beside it."
    if kept:
        caption += " A share near zero means that the projection undoes the guidance."
    alt = "Ratio of guidance norm to noise norm" + (" and share of its vector kept" if kept else "") + " by step"
    return Figure(guidance_plot(records), caption, alt, name="guidance")


def _maps(latents: Latents, class_names: Sequence[str]) -> list[Figure]:
    """Real latents, prototypes and synthetic latents in two dimensions, all classes together and one by one."""
    real = Cloud.of(latents["real"], latents["real_labels"])
    synthetic = Cloud.of(latents["synthetic"], latents["synthetic_labels"])
    prototypes = None
    if latents["prototypes"] is not None:
        prototypes = Cloud.of(latents["prototypes"], latents["prototype_labels"])
    clouds = (real, prototypes, synthetic, class_names)
    return [
        Figure(
            latent_map(*clouds),
            "Latents in the plane of the real latents' two leading principal components.",
            "Scatter plot of real latents, prototypes and synthetic latents coloured by class",
            name="latent_map",
        ),
        Figure(
            latent_map_by_class(*clouds),
            "The same by class, each in the principal plane of its own real latents.",
            "Small scatter plots of real latents, prototypes and synthetic latents, one a class",
            name="latent_map_by_class",
        ),
    ]


def _students(
    students: Sequence[Mapping[str, Any]], class_names: Sequence[str], references: Mapping[str, float]
) -> list[Block]:
    """Curves, accuracy by class, and a row for each student."""
    blocks: list[Block] = []
    curves = [student.get("curve") or [] for student in students]
    if any(curves):
        names = [f"seed {student['seed']}" for student in students] if len(students) <= NAMED_CURVES else []
        plot = accuracy_curve(curves, names=names, references=references)
        caption = "Accuracy while training on the distilled set; the dot is the last epoch, which counts. Dotted: "
        caption += ", ".join(f"{name} ({100 * level:{ACCURACY}} %)" for name, level in references.items()) + "."
        blocks.append(Figure(plot, caption, "Accuracy of each student by epoch", name="students"))
    return [*blocks, *_by_class(students, class_names), _student_table(students)]


def _by_class(students: Sequence[Mapping[str, Any]], class_names: Sequence[str]) -> Iterator[Figure]:
    """Accuracy of each class over the students; of many classes the lowest ones, lowest first."""
    per_class = [student["per_class"] for student in students if student.get("per_class")]
    if not per_class:
        return
    held = [[value for value in values if finite(value)] for values in zip(*per_class, strict=True)]
    found = [percent(estimate(values, of="students")) if values else None for values in held]
    order = list(range(len(found)))
    caption = "Last-epoch accuracy by class."
    if len(per_class) > 1:
        caption += f" Whiskers and {plus_minus(found)}."
    if len(order) > SHOWN_BARS:
        order = sorted(order, key=lambda label: (found[label] is None, found[label] and found[label].mean))[:SHOWN_BARS]
        caption += f" The {SHOWN_BARS} lowest of {len(found)} classes."
    names, chosen = [class_names[label] for label in order], [found[label] for label in order]
    plot = bars(names, chosen, title="accuracy by class, %")
    yield Figure(plot, caption, "Bars of last-epoch accuracy, one a class", name="per_class")


def _student_table(students: Sequence[Mapping[str, Any]]) -> Table:
    """No best mark: choosing among seeds would be choosing on the test set."""
    columns = [
        Column("seed", "student seed", "setting"),
        Column("last_top1", "last epoch, %", percent=True, digits=1),
        Column("last_epoch", "last epoch"),
        Column("best_top1", "best epoch, % (not the result)", percent=True, digits=1),
        Column("best_epoch", "best epoch"),
        Column("train_accuracy", "on the set itself, %", percent=True, digits=1),
        Column("seconds", "seconds"),
    ]
    return Table(columns, [[student.get(column.key) for column in columns] for student in students])


def _measures(measures: Mapping[str, Any], embedding: Mapping[str, Any] | None) -> list[Block]:
    """Distances between the set and the real images, and spread within it."""
    blocks: list[Block] = []
    if embedding:
        quality = embedding.get("test_accuracy")
        note = f" (test accuracy {number_text(100 * quality, ACCURACY)} %)" if finite(quality) else ""
        blocks.append(f"Computed on the embeddings of {embedding.get('name')}{note}, against the real training images.")
    columns = [
        Column("measure", "measure", "setting"),
        Column("value", "value", "setting"),
        Column("better", "better", "setting"),
        Column("meaning", "meaning", "setting"),
    ]
    ends = {"high": "higher", "low": "lower", None: ""}
    rows = [
        [
            measure_title(key),
            number_text(value, number_format([value])),
            ends[measure_end(key)],
            MEASURES[key][2] if key in MEASURES else "",
        ]
        for key, value in measures.items()
        if key not in COUNTS
    ]
    synthetic, real = (measures.get(key) for key in COUNTS)
    counted = ""
    if finite(synthetic) and finite(real):  # most measures are biased when one side is small
        counted = f"n = {synthetic:.0f} images of the set against {real:.0f} real ones; compare values at equal n only."
    return [*blocks, Table(columns, rows, counted)]


def _shown(distilled: DistilledSet) -> Tensor:
    """Which images fit on the page: ``[n]`` bool."""
    return (distilled.labels < SHOWN_CLASSES) & (distilled.ranks < SHOWN_RANKS)


def _left_out(distilled: DistilledSet, shown: Tensor) -> str:
    count, total = int(shown.sum()), len(distilled.images)
    if count == total:
        return ""
    classes = len(distilled.class_names)
    ranks = int(distilled.ranks.max()) + 1
    limits = [f"the first {SHOWN_RANKS} of {ranks} a class"] if ranks > SHOWN_RANKS else []
    limits += [f"the first {SHOWN_CLASSES} of {classes} classes"] if classes > SHOWN_CLASSES else []
    return f" Shown: {' and '.join(limits)}."


def _scale(images: Tensor, target: int = 64) -> float:
    """Small images to about ``target`` pixels; photographs larger, since they hold more, but never enlarged."""
    width = images.shape[-1]
    return scale_for(width, target if width <= target else max(64, target + target // 2))


def _grid(draw: Callable[[Scheme], Image.Image], caption: str, alt: str, name: str) -> Figure:
    light = draw(LIGHT)
    dark = draw(DARK) if light.width * light.height <= DARK_TWIN_PIXELS else None
    return Figure(light, caption, alt, dark=dark, min_width=460, wide=light.width > WIDE_PIXELS, name=name)
