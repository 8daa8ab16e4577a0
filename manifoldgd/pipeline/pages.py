"""The pictures and the page of a result, and the same for the tracker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from manifoldgd.artifacts import DistilledSet
from manifoldgd.dataset import ImageDataset
from manifoldgd.machine import Machine
from manifoldgd.pipeline.latents import encode
from manifoldgd.pipeline.sets import decode_latents, encode_images
from manifoldgd.priors.prior import Prior

MAP_REAL = 400  # real images a class on the map: enough to see its shape, few enough to see the rest
MAP_POINTS = 40_000  # real images on the map at most; of the set an eighth as many

# Pictures a tracker gets, by the names it shows them under.
TRACKED = {"set": "grid", "prototypes": "pairs", "guidance": "guidance", "latents": "latent_map"}


def write(
    folder: Path,
    result: dict[str, Any],
    distilled: DistilledSet,
    dataset: ImageDataset,
    prior: Prior | None,
    prototypes: Tensor | None,
    *,
    machine: Machine,
    cache: Path,
    config_text: str,
    full_data: float | None = None,
) -> dict[str, Image.Image]:
    """Write ``report.html`` and its pictures into ``folder``; returns those of :data:`TRACKED` that there are.

    Args:
        folder: result folder.
        result: content of ``metrics.json``.
        distilled: the set.
        dataset: where it comes from.
        prior: draws the map in its latent space and decodes prototypes; ``None`` leaves both out.
        prototypes: ``[n, C, H, W]`` scaled latents, row ``i`` for image ``i`` of the set; ``None`` without.
        machine: where to run.
        cache: of the real latents.
        config_text: the resolved configuration.
        full_data: accuracy in [0, 1] of the same student trained on all real images, where it is known.
    """
    from manifoldgd.report.grids import picture  # here, because they import matplotlib
    from manifoldgd.report.run import Latents, on_page, write_run_report

    latents: Latents | None = None
    classes, size = len(dataset.class_names), dataset.image_shape[1:]
    if prior is not None:
        real, _ = encode(dataset, prior, machine, cache)
        each = max(1, min(MAP_REAL, MAP_POINTS // classes))
        shown = torch.cat([real.indices_of(label)[:each] for label in range(classes)])
        mapped = distilled.ranks < max(1, MAP_POINTS // 8 // classes)
        latents = {
            "real": real.of(shown),
            "real_labels": real.labels[shown],
            "prototypes": None if prototypes is None else prototypes[mapped],
            "prototype_labels": None if prototypes is None else distilled.labels[mapped],
            "synthetic": encode_images(prior, distilled.images[mapped]),
            "synthetic_labels": distilled.labels[mapped],
        }
    write_run_report(
        folder,
        result=result,
        distilled=distilled,
        prototypes_images=(
            None if prior is None or prototypes is None else decode_latents(prior, prototypes[on_page(distilled)], size)
        ),
        step_records=(result["guidance"] or {}).get("steps"),
        latents=latents,
        config_text=config_text,
        full_data=full_data,
    )
    files = {name: folder / f"{file}.png" for name, file in TRACKED.items()}
    return {name: picture(file) for name, file in files.items() if file.is_file()}


def tracked(result: dict[str, Any]) -> dict[str, Any]:
    """Summary, tables and points of curves of a result for a tracker.

    The curves are each student's test accuracy in [0, 1] by epoch, and by step what guidance did, means over images:
    ``guidance/ratio``, its norm over that of the noise, and ``guidance/kept``, the share of its vector in [0, 1] that
    the projection kept. Step 0 is the noisiest; steps that guidance left alone have no point.
    """
    accuracy = result["accuracy"]
    summary = {"last_top1": accuracy["last"]["mean"], "best_top1": accuracy["best"]["mean"]}
    summary |= {f"set/{name}": value for name, value in result["set_metrics"].items() if value is not None}
    columns = ("seed", "last_top1", "best_top1", "last_epoch", "train_accuracy", "seconds")
    points = [
        {"epoch": epoch, f"student/{student['seed']}/top1": value}
        for student in result["students"]
        for epoch, value in student["curve"]
    ]
    for step, record in enumerate((result["guidance"] or {"steps": []})["steps"]):
        means = {f"guidance/{name}": record[f"{name}_mean"] for name in ("ratio", "kept")}
        known = {name: mean for name, mean in means.items() if mean is not None}
        points += [{"guidance/step": step, **known}] if known else []
    return {
        "summary": summary,
        "tables": {"students": {name: [one[name] for one in result["students"]] for name in columns}},
        "points": points,
    }
