"""Where synthetic images lie among the real ones: exact two-dimensional principal component maps of latents.

Shape letters: ``N`` real latents, ``P`` prototypes, ``n`` synthetic latents, ``D`` the flattened latent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from sklearn.decomposition import PCA
from torch import Tensor

from manifoldgd.report.canvas import Plot, headline, literal, new_figure, shorten
from manifoldgd.report.palette import COLOURS, class_colour

NAME = 16  # characters of a class in a map
NAMED_CLASSES = 20  # beyond this many, names in the map would cover it
MAPPED_CLASSES = 12  # of which each has a map of its own, the first ones


@dataclass(frozen=True)
class Cloud:
    """Latents of one kind with their classes."""

    points: np.ndarray  # [M, D] float32
    labels: np.ndarray  # [M] int64

    @classmethod
    def of(cls, latents: Tensor, labels: Tensor) -> Cloud:
        """From ``[M, D]`` or ``[M, C, H, W]`` latents and ``[M]`` labels."""
        if len(latents) != len(labels):
            raise ValueError(f"latents, labels: expected one length, got {len(latents)} and {len(labels)}")
        return cls(latents.detach().flatten(1).float().cpu().numpy(), labels.cpu().numpy())

    def only(self, label: int) -> Cloud:
        """The points of one class."""
        chosen = self.labels == label
        return Cloud(self.points[chosen], self.labels[chosen])


def principal_plane(points: np.ndarray) -> PCA:
    """The two leading principal axes of ``points [N, D]``, exact and deterministic, signs included.

    The covariance is formed only where ``D`` is small; otherwise Lanczos iterations from a fixed start find the two
    axes without it.

    Raises:
        ValueError: fewer than two points or dimensions.
    """
    count, size = points.shape
    if min(count, size) < 2:
        raise ValueError(f"points: expected at least two points in two dimensions, got {count} in {size}")
    solver = "full" if min(count, size) < 16 else "covariance_eigh" if size <= 512 else "arpack"
    return PCA(n_components=2, svd_solver=solver, random_state=0).fit(points)


def latent_map(real: Cloud, prototypes: Cloud | None, synthetic: Cloud, class_names: Sequence[str]) -> Plot:
    """All classes in the plane of the real latents' two leading principal components.

    Real latents are light dots, prototypes crosses, synthetic latents outlined dots, coloured by class; up to twenty
    class names stand at the median of their real latents. The plane is fitted on the real latents alone.

    Args:
        real: ``N >= 2`` latents.
        prototypes: ``P`` latents, or ``None``.
        synthetic: ``n`` latents.
        class_names: index to name.
    """
    figure, panels = new_figure(height=4.9)
    panel = panels[0, 0]
    plane = _draw(panel, real, prototypes, synthetic, size=26)
    box = {"boxstyle": "round,pad=0.2", "facecolor": COLOURS.paper, "edgecolor": COLOURS.muted, "alpha": 0.85}
    for label, name in enumerate(class_names if len(class_names) <= NAMED_CLASSES else ()):
        if len(members := real.only(label).points):
            x, y = np.median(plane.transform(members), axis=0)
            text, middle = literal(shorten(name, NAME)), {"ha": "center", "va": "center"}
            panel.text(x, y, text, **middle, fontsize=9, color=COLOURS.ink, bbox=box, zorder=5)
    first, second = plane.explained_variance_ratio_
    panel.set_xlabel(f"first principal component ({first:.0%} of variance)")
    panel.set_ylabel(f"second ({second:.0%})")
    kinds: list[tuple[str, str, dict[str, Any]]] = [
        (".", "real", {"markersize": 4}),
        ("x", "prototype", {"markersize": 6}),
        ("o", "synthetic", {"markersize": 6, "markeredgecolor": COLOURS.ink}),
    ]
    handles = [
        Line2D([], [], linestyle="none", marker=marker, color=COLOURS.muted, label=kind, **style)
        for marker, kind, style in kinds
        if kind != "prototype" or prototypes is not None
    ]
    where: dict[str, Any] = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "ncols": len(handles)}
    panel.legend(handles=handles, **where, frameon=False, fontsize=9, labelcolor=COLOURS.ink)
    return Plot(figure)


def latent_map_by_class(real: Cloud, prototypes: Cloud | None, synthetic: Cloud, class_names: Sequence[str]) -> Plot:
    """One small map a class, each in the principal plane of that class's own real latents; arguments as above.

    A class with fewer than two real latents keeps an empty panel.
    """
    shown = min(MAPPED_CLASSES, len(class_names))
    columns = min(4, shown)
    rows = math.ceil(shown / columns)
    figure, panels = new_figure(rows=rows, columns=columns, height=0.35 + 1.4 * rows)
    for label, panel in enumerate(panels.flat):
        panel.set_xticks([])
        panel.set_yticks([])
        if label >= shown:
            panel.set_visible(False)
            continue
        headline(panel, shorten(class_names[label], NAME))
        if len((members := real.only(label)).points) >= 2:
            _draw(panel, members, prototypes and prototypes.only(label), synthetic.only(label), size=20)
    return Plot(figure)


def _draw(panel: Axes, real: Cloud, prototypes: Cloud | None, synthetic: Cloud, size: float) -> PCA:
    """Real latents at the back, then prototypes, synthetic latents in front; in the plane of the real ones."""
    plane = principal_plane(real.points)

    def scatter(cloud: Cloud, size: float, colour: str | None = None, **style: Any) -> None:
        flat = plane.transform(cloud.points) if len(cloud.points) else np.zeros((0, 2))
        colours = colour or [class_colour(label) for label in cloud.labels.tolist()]
        panel.scatter(flat[:, 0], flat[:, 1], s=size, c=colours, **style)

    alpha = float(np.clip(300 / max(1, len(real.points)), 0.08, 0.45))
    scatter(real, size / 4, alpha=alpha, linewidths=0, rasterized=True)
    if prototypes is not None:
        scatter(prototypes, 1.3 * size, COLOURS.paper, marker="x", linewidths=2.6)
        scatter(prototypes, size, marker="x", linewidths=1.4)
    scatter(synthetic, size, edgecolors=COLOURS.ink, linewidths=0.7)
    return plane
