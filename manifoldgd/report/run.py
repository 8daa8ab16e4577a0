"""The page of one run: what was made, from what, how, and how well a student learns from it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
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
from manifoldgd.report.figures import bars, guidance_plot, line_plot
from manifoldgd.report.grids import image_grid, scale_for
from manifoldgd.report.html import html
from manifoldgd.report.latent_map import Cloud, latent_map, latent_map_by_class
from manifoldgd.report.measures import COUNTS, by_embedding, check_format, measure
from manifoldgd.report.numbers import ACCURACY, finite, number_format, number_text, plus_minus, seconds_text
from manifoldgd.report.palette import DARK, LIGHT
from manifoldgd.store.results import PAGE

KeyFigure = tuple[str, str, str]  # label, value, note
Records = Sequence[Mapping[str, Any]]

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
        prototypes_images: ``[m, C, H, W]`` uint8 decoded prototypes of the ``m`` images :func:`on_page`; ``None``
            without.
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
    records, names = step_records or [], readable(distilled.class_names)
    references = {"chance": 1 / len(names)}
    references |= {} if full_data is None else {"all real images": full_data}
    guided = any(finite(record.get("ratio_mean")) for record in records)
    pictures = [_set_figure(distilled, prototypes_images is None)]
    pictures += [] if prototypes_images is None else [_pairs_figure(distilled, prototypes_images)]
    sections = [
        Section("The distilled set", pictures),
        Section("Students", list(_students(result["students"], names, references) if result.get("students") else ())),
        Section("Guidance, step by step", [_guidance_figure(records)] if guided else []),
        Section("Where the images lie among the real ones", [] if latents is None else _maps(latents, names)),
        Section("Measures of the set", list(_measures(result.get("set_metrics") or {}, result.get("embedding")))),
    ]
    guidance = result.get("guidance") or {}
    runaway, at_once = guidance.get("runaway", 0), guidance.get("runaway_at_once", 0)  # older ones hold neither
    page = Page(
        title=f"{result['dataset']}: {result['method']}, {_images(result['ipc'])} a class",
        subtitle=_subtitle(result),
        notices=[f"{runaway_sentence(runaway, at_once, result['num_images'])}."] if runaway else [],
        key_figures=list(_key_figures(result, records, references)),
        sections=[section for section in sections if section.blocks],
        config=config_text,
    )
    for figure in page.figures():
        atomic_write_bytes(Path(folder) / f"{figure.name}.png", figure.png())
    atomic_write_text(Path(folder) / PAGE, html(page))
    return Path(folder) / PAGE


def runaway_sentence(images: int, at_once: int, of: int) -> str:
    """What to make of images whose guidance was beyond :data:`RUNAWAY` times the noise at some step.

    Args:
        images: how many.
        at_once: how many of them at the first pull.
        of: images in all.
    """
    remedy = "lower guidance.scale"
    if at_once:
        cause = f"{at_once} at the first pull, so far from the images is what the prior predicts"
        remedy = f"{cause}: train it longer, or {remedy}"
    return (
        f"{images} of {of} images ran away: at some step guidance moved them by more than {RUNAWAY:g} times the noise; "
        f"{remedy}"
    )


# The head


def _subtitle(result: Mapping[str, Any]) -> str:
    made = f"{_images(result['num_images'])} from source “{result['source']}”"
    made += "" if result["distillation_seed"] is None else f", distillation seed {result['distillation_seed']}"
    made += "".join(f"; {remark}" for remark in result.get("remarks", []))
    if not result.get("accuracy"):
        return made + "; not judged by a student yet."
    judged = f"{made}; judged by {result['student']} trained from scratch, label protocol “{result['label_protocol']}”"
    if teacher := result.get("teacher"):
        quality = number_text(100 * teacher["test_accuracy"], ACCURACY)
        judged += f" with the outputs of a {teacher['name']} ({quality} % on real test images) as labels"
    if leaked := result.get("test_images_in_train"):
        judged += f". Of the {result['test_images']:,} {judging_split(result['dataset'])} images {leaked:,} show, pixel"
        judged += " for pixel, what a training image shows: the accuracy is too high for them"
    return f"{judged}."


def _key_figures(result: Mapping[str, Any], records: Records, references: Mapping[str, float]) -> Iterator[KeyFigure]:
    """The last epoch as the headline; the best epoch apart, since it was chosen on the images that judge."""
    if result.get("accuracy"):
        split = judging_split(result["dataset"])
        values = (result["accuracy"][epoch]["values"] for epoch in ("last", "best"))
        last, best = (estimate(each, of="students").times(100) for each in values)
        note = "one student, so no interval" if last.count == 1 else f"{last.count} students; {plus_minus([last])}"
        levels = {"chance": "chance", "all real images": f"{result['student']} on all real images"}
        note += "".join(f"; {levels[name]}: {100 * level:{ACCURACY}} %" for name, level in references.items())
        yield f"{split.capitalize()} accuracy, last epoch", _percent_text(last), note
        apart = f"mean of each student's best epoch on the {split} images: optimistic, never ranked by"
        yield "Best epoch", _percent_text(best), apart
    classes = result["num_images"] // result["ipc"] if result["ipc"] else 0
    yield "Images", str(result["num_images"]), f"{result['ipc']} a class, {classes} classes"
    # A guidance that does nothing must be visible at a glance.
    ratios, kept = ([r[key] for r in records if finite(r.get(key))] for key in ("ratio_mean", "kept_mean"))
    if ratios:
        note = f"ratio of norms, mean over {len(ratios)} guided steps"
        yield "Guidance / noise", number_text(fmean(ratios), ".2g"), note
    if kept:
        note = f"share of its energy after projection, mean over {len(kept)} steps"
        yield "Guidance vector kept", _percent_text(100 * fmean(kept)), note
    seconds = {stage: value for stage, value in (result.get("seconds") or {}).items() if finite(value)}
    if seconds:
        stages = ", ".join(f"{stage} {seconds_text(value)}" for stage, value in seconds.items())
        yield "Time", seconds_text(sum(seconds.values())), stages


def _images(count: int) -> str:
    return f"{count} image" if count == 1 else f"{count} images"


def _percent_text(number: float | Estimate) -> str:
    """With its unit, and in one piece: a value that breaks over two lines is misread."""
    return f"{number_text(number, ACCURACY)} %".replace(" ", "\u00a0")


# The body


def _set_figure(distilled: DistilledSet, without_prototypes: bool) -> Figure:
    caption = "One row a class, ordered by rank." + _left_out(distilled)
    if without_prototypes and any("prototype" in row for row in distilled.manifest.get("images", [])):
        caption += " Its prototypes are drawn by `manifoldgd run` with measures=true."
    alt = "Grid of {} images of the distilled set in {} rows, one a class"
    return _grid_figure(distilled, caption, alt, "grid", target=64)


def _pairs_figure(distilled: DistilledSet, prototypes: Tensor) -> Figure:
    """``prototypes`` as :func:`write_run_report` takes them."""
    caption = "The prototypes and what they became: above in each pair, the prototype as the autoencoder decodes it; "
    caption += "below, the image sampled for it." + _left_out(distilled)
    alt = "{} pairs of prototype and sampled image in {} rows, one a class"
    return _grid_figure(distilled, caption, alt, "pairs", target=48, above=prototypes)


def on_page(distilled: DistilledSet) -> Tensor:
    """Which images of a set a page shows, ``[n]`` bool."""
    return (distilled.labels < SHOWN_CLASSES) & (distilled.ranks < SHOWN_RANKS)


def _grid_figure(
    distilled: DistilledSet, caption: str, alt: str, name: str, *, target: int, above: Tensor | None = None
) -> Figure:
    """The images that fit on a page: small ones at about ``target`` pixels, photographs larger, but never enlarged."""
    shown = on_page(distilled)
    names, width = readable(distilled.class_names)[:SHOWN_CLASSES], distilled.images.shape[-1]
    draw: Callable[..., Image.Image] = partial(
        image_grid,
        distilled.images[shown],
        distilled.labels[shown],
        names,
        scale=scale_for(width, target if width <= target else max(64, target + target // 2)),
        ranks=distilled.ranks[shown],
        above=above,
    )
    light = draw(scheme=LIGHT)
    return Figure(
        light,
        caption,
        alt.format(int(shown.sum()), len(names)),
        dark=draw(scheme=DARK) if light.width * light.height <= DARK_TWIN_PIXELS else None,
        min_width=460,
        shape="wide" if light.width > WIDE_PIXELS else "",
        name=name,
    )


def _left_out(distilled: DistilledSet) -> str:
    classes, ranks = len(distilled.class_names), int(distilled.ranks.max()) + 1
    limits = [f"the first {SHOWN_RANKS} of {ranks} a class"] if ranks > SHOWN_RANKS else []
    limits += [f"the first {SHOWN_CLASSES} of {classes} classes"] if classes > SHOWN_CLASSES else []
    return f" Shown: {' and '.join(limits)}." if limits else ""


def _students(
    students: Sequence[Mapping[str, Any]], class_names: Sequence[str], references: Mapping[str, float]
) -> Iterator[Block]:
    """Curves, accuracy by class, and a row for each student."""
    curves = {f"seed {one['seed']}": [(epoch, _percentage(top1)) for epoch, top1 in one.get("curve") or ()]
              for one in students}  # fmt: skip
    if any(curves.values()):
        levels = {name: Estimate(100 * level, None, 1) for name, level in references.items()}
        plot = line_plot(
            curves, title="accuracy, %", x_title="epoch", references=levels, named=len(curves) <= NAMED_CURVES
        )
        caption = (
            "Accuracy while training on the distilled set, whenever it was judged; the last epoch counts. Dotted: "
        )
        caption += ", ".join(f"{name} ({100 * level:{ACCURACY}} %)" for name, level in references.items()) + "."
        yield Figure(plot, caption, "Accuracy of each student by epoch", name="students")
    per_class = [student["per_class"] for student in students if student.get("per_class")]
    if per_class:
        yield _class_figure(per_class, class_names)
    columns = [
        Column("seed", "student seed", "setting"),
        Column("last_top1", "last epoch, %", percent=True),
        Column("last_epoch", "last epoch"),
        Column("best_top1", "best epoch, % (not the result)", percent=True),
        Column("best_epoch", "best epoch"),
        Column("train_accuracy", "on the set itself, %", percent=True),
        Column("seconds", "seconds"),
    ]  # no best mark: choosing among seeds would be choosing on the test set
    yield Table(columns, [[student.get(column.key) for column in columns] for student in students])


def _percentage(top1: float | None) -> Estimate | None:
    return Estimate(100 * top1, None, 1) if finite(top1) else None


def _class_figure(per_class: Sequence[Sequence[float | None]], class_names: Sequence[str]) -> Figure:
    """Accuracy of each class under each student, ``[students][classes]``; of many classes the lowest, lowest first.

    The students themselves, and no interval: it would be over two or three values that share one set and one test
    split, and reach beyond 0 and 100.
    """
    values = [[100 * value for value in of_class if finite(value)] for of_class in zip(*per_class, strict=True)]
    order = list(range(len(values)))
    caption = "Last-epoch accuracy by class."
    if len(per_class) > 1:
        caption += f" Bars: means over {len(per_class)} students; dots: each of them."
    if len(order) > SHOWN_BARS:
        order = sorted(order, key=lambda label: fmean(values[label]) if values[label] else 101.0)[:SHOWN_BARS]
        caption += f" The {SHOWN_BARS} lowest of {len(values)} classes."
    names, chosen = [class_names[label] for label in order], [values[label] for label in order]
    plot = bars(names, chosen, title="accuracy by class, %")
    return Figure(plot, caption, "Bars of last-epoch accuracy, one a class", name="per_class")


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
    if latents["prototypes"] is not None and latents["prototype_labels"] is not None:
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


def _measures(measures: Mapping[str, Any], embedding: Mapping[str, Any] | None) -> Iterator[Block]:
    """Distances between the set and the real images, and spread within it, in each embedding."""
    for name, values in by_embedding(measures).items():
        yield from _measures_in(values, (embedding or {}).get(name) if name else embedding)


def _measures_in(measures: Mapping[str, Any], embedding: Mapping[str, Any] | None) -> Iterator[Block]:
    if embedding:
        quality = embedding.get("test_accuracy")
        note = f" (test accuracy {number_text(100 * quality, ACCURACY)} %)" if finite(quality) else ""
        yield f"Computed on the embeddings of {embedding.get('name')}{note}, against the real training images."
    columns = [Column(name, name, "setting") for name in ("measure", "value", "better", "meaning")]
    ends = {"high": "higher", "low": "lower", None: ""}
    rows = []
    for key, value in measures.items():
        if key not in COUNTS:
            known = measure(key)
            rows.append([known.title, number_text(value, number_format([value])), ends[known.better], known.meaning])
    synthetic, real = (measures.get(key) for key in COUNTS)
    counted = ""
    if finite(synthetic) and finite(real):  # most measures are biased when one side is small
        counted = f"n = {synthetic:.0f} images of the set against {real:.0f} real ones; compare values at equal n only."
    yield Table(columns, rows, counted)
