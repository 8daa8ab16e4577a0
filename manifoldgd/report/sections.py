"""The sections of a run's page. Each says in a sentence what is missing instead of leaving a hole."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

from PIL import Image
from torch import Tensor

from manifoldgd.artifacts import DistilledSet
from manifoldgd.diffusion.loop import RUNAWAY
from manifoldgd.report.figures import accuracy_curve, bars, guidance_plot
from manifoldgd.report.grids import image_grid, pairs_grid, scale_for
from manifoldgd.report.latent_map import Cloud, latent_map, latent_map_by_class
from manifoldgd.report.measures import COUNTS, MEASURES, measure_end, measure_title
from manifoldgd.report.numbers import Spread, finite, number_format, number_text, percent, seconds_text, spread_of
from manifoldgd.report.page import Block, Figure, Section
from manifoldgd.report.palette import DARK, LIGHT, Scheme
from manifoldgd.report.tables import Column, Table

SHOWN_CLASSES = 20
SHOWN_RANKS = 10
SHOWN_BARS = 30
DARK_TWIN_BYTES = 400_000  # a dark copy of a larger picture would not pay for its weight


class Latents(TypedDict):
    """Scaled latents for the map, ``[M, C, H, W]`` or ``[M, D]``, with int64 labels ``[M]``."""

    real: Tensor
    real_labels: Tensor
    prototypes: Tensor | None
    prototype_labels: Tensor | None  # None with prototypes None
    synthetic: Tensor
    synthetic_labels: Tensor


def set_section(distilled: DistilledSet) -> Section:
    """The images of the set, one row a class."""
    shown = _shown(distilled)
    names = distilled.class_names[:SHOWN_CLASSES]

    def draw(scheme: Scheme) -> Image.Image:
        images, labels, ranks = distilled.images[shown], distilled.labels[shown], distilled.ranks[shown]
        return image_grid(images, labels, names, scale=_scale(images), ranks=ranks, scheme=scheme)

    caption = "One row a class, ordered by rank." + _left_out(distilled, shown)
    alt = f"Grid of {int(shown.sum())} images of the distilled set in {len(names)} rows, one a class"
    return Section("The distilled set", [_grid(draw, caption, alt, "grid")])


def pairs_section(distilled: DistilledSet, prototypes: Tensor | None) -> Section:
    """Each decoded prototype above the image that became of it.

    Args:
        distilled: the set, ``n`` images.
        prototypes: ``[n, C, H, W]`` uint8, row ``i`` for image ``i``; ``None`` where there are none to draw.
    """
    title = "Prototypes and what they became"
    if prototypes is None:
        rows = distilled.manifest.get("images", [])
        reason = (
            "Not drawn: that takes `manifoldgd run` with measures=true."
            if any("prototype" in row for row in rows)
            else "No prototypes: the images of this set were not sampled from any."
        )
        return Section(title, [reason])
    shown = _shown(distilled)
    names = distilled.class_names[:SHOWN_CLASSES]

    def draw(scheme: Scheme) -> Image.Image:
        labels, ranks = distilled.labels[shown], distilled.ranks[shown]
        before, after = prototypes[shown], distilled.images[shown]
        return pairs_grid(before, after, labels, names, scale=_scale(after, 48), ranks=ranks, scheme=scheme)

    caption = "In each pair: above, the prototype as the autoencoder decodes it; below, the image sampled for it."
    alt = f"{int(shown.sum())} pairs of prototype and sampled image in {len(names)} rows, one a class"
    return Section(title, [_grid(draw, caption + _left_out(distilled, shown), alt, "pairs")])


def guidance_section(records: Sequence[Mapping[str, float | None]] | None, source: str) -> Section:
    """Strength of guidance at each step, and what the projection left of it."""
    title = "Guidance, step by step"
    if not any(finite(record.get("ratio_mean")) for record in records or ()):
        reason = "sampling was not guided" if source == "diffusion" else "no image of this set was sampled"
        return Section(title, [f"No guidance to plot: {reason}."])
    kept = any(finite(record.get("kept_mean")) for record in records)
    caption = "Mean over the images, band one standard deviation. Shaded: no guidance, or no noise beside it." + (
        " A share near zero means that the projection undoes the guidance."
        if kept
        else " This guidance records no share of its vector that a projection kept."
    )
    alt = "Ratio of guidance norm to noise norm" + (" and share of its vector kept" if kept else "") + " by step"
    return Section(title, [_plot(lambda scheme: guidance_plot(records, scheme=scheme), caption, alt, "guidance")])


def runaway_sentence(images: int, of: int) -> str:
    """What to make of images whose guidance was beyond :data:`RUNAWAY` times the noise at some step."""
    return (
        f"{images} of {of} images ran away: at some step guidance moved them by more than {RUNAWAY:g} times the noise; "
        "lower guidance.scale"
    )


def map_section(latents: Latents | None, class_names: Sequence[str]) -> Section:
    """Real latents, prototypes and synthetic latents in two dimensions, all classes together and one by one."""
    title = "Where the images lie among the real ones"
    if latents is None:
        return Section(title, ["No latents were kept for this set, so there is no map."])
    real = Cloud.of(latents["real"], latents["real_labels"])
    synthetic = Cloud.of(latents["synthetic"], latents["synthetic_labels"])
    prototypes = None
    if latents["prototypes"] is not None:
        prototypes = Cloud.of(latents["prototypes"], latents["prototype_labels"])
    clouds = (real, prototypes, synthetic, class_names)
    return Section(
        title,
        [
            _plot(
                lambda scheme: latent_map(*clouds, scheme=scheme),
                "Latents in the plane of the real latents' two leading principal components.",
                "Scatter plot of real latents, prototypes and synthetic latents coloured by class",
                "latent_map",
            ),
            _plot(
                lambda scheme: latent_map_by_class(*clouds, scheme=scheme),
                "The same by class, each in the principal plane of its own real latents.",
                "Small scatter plots of real latents, prototypes and synthetic latents, one a class",
                "latent_map_by_class",
            ),
        ],
    )


def students_section(students: Sequence[Mapping[str, Any]], class_names: Sequence[str]) -> Section:
    """Curves, accuracy by class, and a row for each student."""
    title = "Students"
    if not students:
        return Section(title, ["No student was trained on this set, so there is no accuracy."])
    blocks: list[Block] = []
    curves = [student.get("curve") or [] for student in students]
    if any(curves):
        names = [f"seed {student['seed']}" for student in students] if len(students) <= 6 else []
        caption = "Accuracy while training on the distilled set; the dot is the last epoch, which counts."
        blocks.append(
            _plot(
                lambda scheme: accuracy_curve(curves, names=names, scheme=scheme),
                caption,
                "Accuracy of each student by epoch",
                "students",
            )
        )
    blocks += [*_by_class(students, class_names), _student_table(students)]
    return Section(title, blocks)


def measures_section(measures: Mapping[str, Any] | None, embedding: Mapping[str, Any] | None) -> Section:
    """Distances between the set and the real images, and spread within it."""
    title = "Measures of the set"
    if not measures:
        return Section(title, ["No measures were computed for this set."])
    blocks: list[Block] = []
    if embedding:
        quality = embedding.get("test_accuracy")
        note = f" (test accuracy {number_text(100 * quality, '.1f')} %)" if finite(quality) else ""
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
            number_text(value, number_format([Spread(value)])),
            ends[measure_end(key)],
            MEASURES[key][2] if key in MEASURES else "",
        ]
        for key, value in measures.items()
        if key not in COUNTS
    ]
    return Section(title, [*blocks, Table(columns, rows, _compared(measures))])


def _compared(measures: Mapping[str, Any]) -> str:
    """How many images stand on each side; most measures are biased when one is small."""
    synthetic, real = (measures.get(key) for key in COUNTS)
    if not (finite(synthetic) and finite(real)):
        return ""
    return f"n = {synthetic:.0f} images of the set against {real:.0f} real ones; compare values at equal n only."


def time_sentence(seconds: Mapping[str, float | None]) -> str:
    """The stages with their durations in one line."""
    return ", ".join(f"{stage} {seconds_text(value)}" for stage, value in seconds.items() if finite(value))


def _by_class(students: Sequence[Mapping[str, Any]], class_names: Sequence[str]) -> list[Figure]:
    """Accuracy of each class over the students; of many classes the lowest ones, lowest first."""
    per_class = [student["per_class"] for student in students if student.get("per_class")]
    if not per_class:
        return []
    spreads = [percent(spread_of([v for v in values if finite(v)])) for values in zip(*per_class, strict=True)]
    order = list(range(len(spreads)))
    caption = "Last-epoch accuracy by class."
    if len(per_class) > 1:
        caption += " Whiskers: one standard deviation over student seeds."
    if len(order) > SHOWN_BARS:
        order = sorted(order, key=lambda label: (spreads[label].mean is None, spreads[label].mean))[:SHOWN_BARS]
        caption += f" The {SHOWN_BARS} lowest of {len(spreads)} classes."
    names, chosen = [class_names[label] for label in order], [spreads[label] for label in order]
    return [
        _plot(
            lambda scheme: bars(names, chosen, title="accuracy by class, %", scheme=scheme),
            caption,
            "Bars of last-epoch accuracy, one a class",
            "per_class",
        )
    ]


def _student_table(students: Sequence[Mapping[str, Any]]) -> Table:
    """No best mark: choosing among seeds would be choosing on the test set."""
    columns = [
        Column("seed", "student seed", "setting"),
        Column("last_top1", "last epoch, %", percent=True),
        Column("last_epoch", "last epoch"),
        Column("best_top1", "best epoch, % (not the result)", percent=True),
        Column("best_epoch", "best epoch"),
        Column("train_accuracy", "on the set itself, %", percent=True),
        Column("seconds", "seconds"),
    ]
    return Table(columns, [[student.get(column.key) for column in columns] for student in students])


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
    light = Figure(draw(LIGHT), caption, alt).png()
    dark = draw(DARK) if len(light) <= DARK_TWIN_BYTES else None
    return Figure(light, caption, alt, dark=dark, min_width=560, wide=True, name=name)


def _plot(draw: Callable[[Scheme], bytes], caption: str, alt: str, name: str) -> Figure:
    return Figure(draw(LIGHT), caption, alt, dark=draw(DARK), pixels_per_point=2.0, name=name)
