"""The page of one run: what was made, from what, how, and how well a student learns from it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from manifoldgd.artifacts import DistilledSet
from manifoldgd.dataset import judging_split
from manifoldgd.files import atomic_write_bytes
from manifoldgd.report.measures import accuracy, check_format, student_count
from manifoldgd.report.numbers import MISSING, finite, number_format, number_text, percent, seconds_text, spread_text
from manifoldgd.report.page import write_page
from manifoldgd.report.sections import (
    Latents,
    guidance_section,
    map_section,
    measures_section,
    pairs_section,
    runaway_sentence,
    set_section,
    students_section,
    time_sentence,
)

KeyFigure = tuple[str, str, str]
Records = Sequence[Mapping[str, float | None]]

PAGE = "report.html"  # in a result folder; written last, so a result with a page is whole


def write_run_report(
    folder: str | os.PathLike[str],
    *,
    result: Mapping[str, Any],
    distilled: DistilledSet,
    prototypes_images: Tensor | None,
    step_records: Records | None,
    latents: Latents | None,
    config_text: str,
) -> Path:
    """Write ``report.html`` and its pictures as PNG files into ``folder``.

    Files: ``grid.png`` always; ``pairs.png``, ``guidance.png``, ``latent_map.png``, ``latent_map_by_class.png``,
    ``students.png``, ``per_class.png`` where there is something to show. The page needs none of them.

    Args:
        folder: where to write; made if missing.
        result: the content of ``metrics.json``, format 1; accuracies in [0, 1], ``ci95`` half the interval's width.
        distilled: the set, ``n`` images.
        prototypes_images: ``[n, C, H, W]`` uint8 decoded prototypes, row ``i`` for image ``i``; ``None`` without.
        step_records: one mapping a guided step, as :func:`manifoldgd.report.figures.guidance_plot` takes them;
            ``None`` or empty for unguided and real-image sets.
        latents: for the map; ``None`` if not kept.
        config_text: the resolved configuration.

    Returns:
        The path of ``report.html``.

    Raises:
        UserError: ``result`` has another format.
        ValueError: shapes that do not fit together.
    """
    check_format(result)
    names = distilled.class_names
    sections = [
        set_section(distilled),
        pairs_section(distilled, prototypes_images),
        guidance_section(step_records, str(result.get("source"))),
        map_section(latents, names),
        students_section(result.get("students") or [], names),
        measures_section(result.get("set_metrics"), result.get("embedding")),
    ]
    for figure in (figure for section in sections for figure in section.figures()):
        atomic_write_bytes(Path(folder) / f"{figure.name}.png", figure.png())
    page = Path(folder) / PAGE
    write_page(
        page,
        title=f"{result['dataset']}: {result['method']}, {_images(result['ipc'])} a class",
        subtitle=_subtitle(result),
        key_figures=_key_figures(result, step_records),
        sections=sections,
        config=config_text,
        notices=_notices(result),
    )
    return page


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
        quality = number_text(100 * teacher["test_accuracy"], ".1f")
        judged += f" with the outputs of a {teacher['name']} ({quality} % on real test images) as labels"
    if leaked := result.get("test_images_in_train"):
        split = judging_split(result["dataset"])
        judged += (
            f". Of the {result['test_images']:,} {split} images {leaked:,} show, pixel for pixel, what a training "
        )
        judged += "image shows: the accuracy is too high for them"
    return f"{judged}."


def _key_figures(result: Mapping[str, Any], records: Records | None) -> list[KeyFigure]:
    figures = [] if not result.get("accuracy") else _accuracies(result)
    classes = result["num_images"] // result["ipc"] if result["ipc"] else 0
    figures.append(("Images", str(result["num_images"]), f"{result['ipc']} a class, {classes} classes"))
    figures += _guidance_figures(records or [])
    seconds = result.get("seconds") or {}
    if seconds:
        total = sum(value for value in seconds.values() if finite(value))
        figures.append(("Time", seconds_text(total), time_sentence(seconds)))
    return figures


def _accuracies(result: Mapping[str, Any]) -> list[KeyFigure]:
    """The last epoch as the headline; the best epoch apart, since it was chosen on the images that judge."""
    split = judging_split(result["dataset"])
    count = student_count(result)
    last, best = percent(accuracy(result, "last")), percent(accuracy(result, "best"))
    spec = number_format([last])
    if count > 1:
        note = f"mean ± std over {count} student seeds"
        half = result["accuracy"]["last"].get("ci95")
        note += f"; 95 % interval ± {number_text(100 * half, spec)}" if finite(half) else ""
    else:
        note = "one student seed, so no spread"
    apart = f"mean of each student's best epoch on the {split} images: optimistic, never ranked by"
    return [
        (f"{split.capitalize()} accuracy, last epoch", _percent_text(spread_text(last, spec)), note),
        ("Best epoch", _percent_text(spread_text(best, spec)), apart),
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
        text = _percent_text(number_text(100 * sum(kept) / len(kept), ".0f"))
        note = f"share of its energy after projection, mean over {len(kept)} steps"
        figures.append(("Guidance vector kept", text, note))
    return figures


def _images(count: int) -> str:
    return f"{count} image" if count == 1 else f"{count} images"


def _percent_text(text: str) -> str:
    """With its unit, and in one piece: a value that breaks over two lines is misread."""
    return text if text == MISSING else f"{text} %".replace(" ", "\u00a0")
